"""Statements of accounts: what was issued, and never changes."""

from __future__ import annotations

from alembic import op

from meshkit.migrations import runtime_role, tenant_table

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Everything that a statement's documents show and that is not an entry stands here, so that they are the same bytes
# whenever they are made. Entries are those with sequences above `opening_sequence`, up to `closing_sequence`.
_STATEMENTS = """
CREATE TABLE statements (
    tenant text NOT NULL,
    statement uuid NOT NULL,
    account text NOT NULL,
    number bigint NOT NULL,
    period_start date NOT NULL,
    period_end date NOT NULL,
    time_zone text NOT NULL,
    start_time timestamptz NOT NULL,
    end_time timestamptz NOT NULL,
    currency text NOT NULL,
    opening bigint NOT NULL,
    closing bigint NOT NULL,
    opening_sequence bigint NOT NULL,
    closing_sequence bigint NOT NULL,
    identifier text NOT NULL,
    issuer text NOT NULL,
    layout smallint NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT statements_pk PRIMARY KEY (tenant, statement),
    CONSTRAINT statements_one_a_number UNIQUE (tenant, account, number),
    CONSTRAINT statements_account_fk FOREIGN KEY (tenant, account) REFERENCES accounts (tenant, account),
    CONSTRAINT statements_number CHECK (number > 0),
    CONSTRAINT statements_period CHECK (period_start <= period_end AND start_time <= end_time),
    CONSTRAINT statements_entries CHECK (opening_sequence BETWEEN 0 AND closing_sequence)
)
"""


def upgrade() -> None:
    op.execute(_STATEMENTS)
    for statement in tenant_table("statements", runtime_role(), append_only=True):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
