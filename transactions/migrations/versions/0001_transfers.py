"""Transfers with their idempotency scope, and the kit's tables."""

from alembic import op

from meshkit.migrations import kit_tables_v1, runtime_role, tenant_table

revision = "0001"
down_revision = None

TRANSFERS = """
CREATE TABLE transfers (
    tenant text NOT NULL,
    id text NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL,
    subject text NOT NULL,
    customer text,
    scopes text NOT NULL,
    request_key uuid NOT NULL,
    request_id text NOT NULL,
    fingerprint bytea NOT NULL,
    debit_account text NOT NULL,
    credit_account text NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL,
    creditor_name bytea NOT NULL,
    end_to_end_id text NOT NULL,
    remittance bytea NOT NULL,
    verdict text,
    refusal bytea,
    journal text NOT NULL DEFAULT '',
    decision text NOT NULL DEFAULT '',
    case_name text NOT NULL DEFAULT '',
    stand_in boolean NOT NULL DEFAULT false,
    reversal_of text NOT NULL DEFAULT '',
    reversed_by text NOT NULL DEFAULT '',
    customers text[] NOT NULL DEFAULT '{}',
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    effective_time timestamptz,
    due_time timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    CONSTRAINT transfers_pk PRIMARY KEY (tenant, id),
    CONSTRAINT inv_5_one_request_one_transfer UNIQUE (tenant, request_key),
    CONSTRAINT transfers_amount_positive CHECK (amount > 0),
    CONSTRAINT transfers_version_positive CHECK (version > 0),
    CONSTRAINT transfers_state_known
        CHECK (state IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW', 'COMPLETED', 'DECLINED', 'REVERSED')),
    CONSTRAINT transfers_verdict_known CHECK (verdict IN ('APPROVED', 'REJECTED', 'EXPIRED')),
    CONSTRAINT inv_6_completed_has_a_journal CHECK ((state IN ('COMPLETED', 'REVERSED')) = (journal <> '')),
    CONSTRAINT inv_6_declined_has_a_refusal CHECK ((state = 'DECLINED') = (refusal IS NOT NULL)),
    CONSTRAINT transfers_reversed_names_its_reversal CHECK ((state = 'REVERSED') = (reversed_by <> '')),
    CONSTRAINT transfers_final_is_never_due
        CHECK (due_time IS NULL OR state NOT IN ('COMPLETED', 'DECLINED', 'REVERSED'))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)
"""


def upgrade() -> None:
    role = runtime_role()
    statements = [
        TRANSFERS,
        (
            "CREATE UNIQUE INDEX inv_6_one_live_reversal ON transfers (tenant, reversal_of)"
            " WHERE reversal_of <> '' AND state <> 'DECLINED'"
        ),
        (
            "CREATE INDEX transfers_open ON transfers (state, create_time)"
            " WHERE state IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW')"
        ),
        "CREATE INDEX transfers_due ON transfers (due_time) WHERE due_time IS NOT NULL",
        "CREATE INDEX transfers_newest ON transfers (tenant, create_time DESC, id DESC)",
        "CREATE INDEX transfers_customers ON transfers USING gin (customers)",
        "CREATE INDEX transfers_end_to_end_id ON transfers (tenant, end_to_end_id) WHERE end_to_end_id <> ''",
        *tenant_table("transfers", role),
        f'REVOKE DELETE ON transfers FROM "{role}"',
        *kit_tables_v1(role),
    ]
    for statement in statements:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
