"""Blocked debits and credits, minimum balances, and overdraft limits that wait for a second person.

It runs beside a service at work: each step is a transaction of its own, locks tables for a moment alone, and can be run
again when it was interrupted. The version before it knows no blocks, minimum balances and thresholds: set none while it
runs.
"""

from __future__ import annotations

from alembic import op

from meshkit.migrations import runtime_role, tenant_table

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Constants as defaults: no row is written.
_COLUMNS = (
    "ALTER TABLE accounts"
    " ADD COLUMN IF NOT EXISTS minimum_balance bigint NOT NULL DEFAULT 0,"
    " ADD COLUMN IF NOT EXISTS debit_block_reason text NOT NULL DEFAULT '',"
    " ADD COLUMN IF NOT EXISTS credit_block_reason text NOT NULL DEFAULT ''"
)
# The old check goes and the new one comes at once: at no moment is an account without its rule.
_RULES = (
    "ALTER TABLE accounts"
    " DROP CONSTRAINT IF EXISTS inv_3_available_not_negative,"
    " DROP CONSTRAINT IF EXISTS accounts_minimum_balance,"
    " ADD CONSTRAINT inv_3_available_not_negative"
    " CHECK (type <> 1 OR posted - held + overdraft_limit - minimum_balance >= 0) NOT VALID,"
    " ADD CONSTRAINT accounts_minimum_balance CHECK (minimum_balance BETWEEN 0 AND 1000000000000000"
    " AND (minimum_balance = 0 OR (type = 1 AND overdraft_limit = 0))) NOT VALID"
)
_VALIDATE = (
    "ALTER TABLE accounts VALIDATE CONSTRAINT inv_3_available_not_negative",
    "ALTER TABLE accounts VALIDATE CONSTRAINT accounts_minimum_balance",
)
_THRESHOLDS = """
CREATE TABLE overdraft_thresholds (
    tenant text NOT NULL,
    currency text NOT NULL,
    threshold bigint NOT NULL,
    set_by text NOT NULL,
    version bigint NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT overdraft_thresholds_pk PRIMARY KEY (tenant, currency),
    CONSTRAINT overdraft_thresholds_tenant_fk FOREIGN KEY (tenant) REFERENCES tenants (tenant),
    CONSTRAINT overdraft_thresholds_range CHECK (threshold BETWEEN 0 AND 1000000000000000),
    CONSTRAINT overdraft_thresholds_version CHECK (version > 0)
)
"""
_CHANGES = """
CREATE TABLE overdraft_changes (
    tenant text NOT NULL,
    change uuid NOT NULL,
    account text NOT NULL,
    state smallint NOT NULL,
    currency text NOT NULL,
    previous_limit bigint NOT NULL,
    new_limit bigint NOT NULL,
    requested_by text NOT NULL,
    decided_by text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    version bigint NOT NULL,
    create_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    end_time timestamptz,
    CONSTRAINT overdraft_changes_pk PRIMARY KEY (tenant, change),
    CONSTRAINT overdraft_changes_account_fk FOREIGN KEY (tenant, account) REFERENCES accounts (tenant, account),
    CONSTRAINT overdraft_changes_state CHECK (state BETWEEN 1 AND 5),
    CONSTRAINT overdraft_changes_is_a_raise CHECK (new_limit > previous_limit AND previous_limit >= 0
        AND new_limit <= 1000000000000000),
    CONSTRAINT overdraft_changes_version CHECK (version > 0),
    CONSTRAINT overdraft_changes_ended CHECK ((state = 1) = (end_time IS NULL)),
    CONSTRAINT overdraft_changes_decided CHECK ((state IN (2, 3)) = (decided_by <> '')),
    CONSTRAINT overdraft_changes_four_eyes CHECK (state <> 2 OR decided_by <> requested_by)
)
"""
_INDEXES = (
    "CREATE UNIQUE INDEX overdraft_changes_one_pending ON overdraft_changes (tenant, account) WHERE state = 1",
    "CREATE INDEX overdraft_changes_of_account ON overdraft_changes (tenant, account, change)",
    "CREATE INDEX overdraft_changes_by_state ON overdraft_changes (tenant, state, change)",
    "CREATE INDEX overdraft_changes_expiry ON overdraft_changes (expire_time) WHERE state = 1",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in (_COLUMNS, _RULES, *_VALIDATE):
            op.execute(statement)
    role = runtime_role()
    for statement in (_THRESHOLDS, _CHANGES, *_INDEXES):
        op.execute(statement)
    for table in ("overdraft_thresholds", "overdraft_changes"):
        for statement in tenant_table(table, role):
            op.execute(statement)
        op.execute(f'REVOKE DELETE ON {table} FROM "{role}"')


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
