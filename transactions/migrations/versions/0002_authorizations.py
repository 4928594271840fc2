"""Authorizations, which hold an amount for captures, and the captures of them; reversals of a part."""

from alembic import op

revision = "0002"
down_revision = "0001"

_COLUMNS = """
ALTER TABLE transfers
    ADD COLUMN expire_time timestamptz,
    ADD COLUMN captured bigint NOT NULL DEFAULT 0,
    ADD COLUMN voided boolean NOT NULL DEFAULT false,
    ADD COLUMN capture_of text NOT NULL DEFAULT '',
    ADD COLUMN final_capture boolean NOT NULL DEFAULT false,
    ADD COLUMN reversed bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT transfers_state_known,
    DROP CONSTRAINT transfers_final_is_never_due
"""
# What was reversed so far was reversed whole.
_REVERSED = "UPDATE transfers SET reversed = amount WHERE state = 'REVERSED'"
_CONSTRAINTS = """
ALTER TABLE transfers
    ADD CONSTRAINT transfers_state_known CHECK (state IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW', 'COMPLETED', 'DECLINED',
        'REVERSED', 'AUTHORIZED', 'CAPTURED', 'VOIDED', 'EXPIRED')),
    ADD CONSTRAINT transfers_final_is_never_due CHECK (due_time IS NULL
        OR state NOT IN ('COMPLETED', 'DECLINED', 'REVERSED', 'CAPTURED', 'VOIDED', 'EXPIRED')),
    ADD CONSTRAINT inv_6_reversed_within_the_amount CHECK (reversed BETWEEN 0 AND amount),
    ADD CONSTRAINT inv_6_captured_within_the_amount CHECK (captured BETWEEN 0 AND amount),
    ADD CONSTRAINT inv_6_captured_where_it_ended_so CHECK (state <> 'CAPTURED' OR captured > 0),
    ADD CONSTRAINT inv_6_nothing_captured_where_given_back CHECK (state NOT IN ('VOIDED', 'EXPIRED') OR captured = 0),
    ADD CONSTRAINT transfers_authorization_has_an_end CHECK (expire_time IS NOT NULL
        OR state NOT IN ('AUTHORIZED', 'CAPTURED', 'VOIDED', 'EXPIRED')),
    ADD CONSTRAINT inv_6_an_authorization_has_no_journal CHECK (expire_time IS NULL OR journal = ''),
    ADD CONSTRAINT transfers_capture_is_no_authorization CHECK (capture_of = '' OR expire_time IS NULL)
"""
# One capture after the other: what one leaves is known before the next is asked for.
_ONE_LIVE_CAPTURE = """
CREATE UNIQUE INDEX inv_6_one_live_capture ON transfers (tenant, capture_of)
    WHERE capture_of <> '' AND state IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW')
"""


def upgrade() -> None:
    for statement in (_COLUMNS, _REVERSED, _CONSTRAINTS, _ONE_LIVE_CAPTURE):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
