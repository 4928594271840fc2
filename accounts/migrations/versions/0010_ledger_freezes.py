"""Freezes of ledgers, and the findings that they are for.

The version before it, which may go on meanwhile, knows no freezes: the checker is started once all replicas are new.
"""

from __future__ import annotations

from alembic import op

from meshkit.migrations import runtime_role, tenant_table

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_FREEZES = """
CREATE TABLE ledger_freezes (
    tenant text NOT NULL,
    freeze_id uuid NOT NULL,
    currency text NOT NULL,
    state smallint NOT NULL,
    reason text NOT NULL,
    finding_count integer NOT NULL,
    version bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    ended_by text NOT NULL DEFAULT '',
    note text NOT NULL DEFAULT '',
    findings_accepted boolean NOT NULL DEFAULT false,
    end_time timestamptz,
    CONSTRAINT ledger_freezes_pk PRIMARY KEY (tenant, freeze_id),
    CONSTRAINT ledger_freezes_tenant_fk FOREIGN KEY (tenant) REFERENCES tenants (tenant),
    CONSTRAINT ledger_freezes_currency CHECK (currency ~ '^([A-Z]{3})?$'),
    CONSTRAINT ledger_freezes_state CHECK (state BETWEEN 1 AND 2),
    CONSTRAINT ledger_freezes_for_a_reason CHECK (reason <> '' AND finding_count > 0),
    CONSTRAINT ledger_freezes_version CHECK (version > 0),
    CONSTRAINT ledger_freezes_ended CHECK ((state = 2) = (end_time IS NOT NULL)),
    CONSTRAINT ledger_freezes_ended_by_somebody CHECK ((state = 2) = (ended_by <> '') AND (state = 2) = (note <> ''))
)
"""
_FINDINGS = """
CREATE TABLE ledger_findings (
    tenant text NOT NULL,
    finding uuid NOT NULL,
    freeze_id uuid NOT NULL,
    invariant text NOT NULL,
    object text NOT NULL,
    sentence text NOT NULL,
    found_time timestamptz NOT NULL,
    CONSTRAINT ledger_findings_pk PRIMARY KEY (tenant, finding, freeze_id),
    CONSTRAINT ledger_findings_freeze_fk FOREIGN KEY (tenant, freeze_id) REFERENCES ledger_freezes (tenant, freeze_id)
)
"""
_INDEXES = (
    # Every batch of steps looks here, and finds next to nothing.
    "CREATE UNIQUE INDEX ledger_freezes_one_standing ON ledger_freezes (tenant, currency) WHERE state = 1",
    "CREATE INDEX ledger_findings_of_freeze ON ledger_findings (tenant, freeze_id, finding)",
)


def upgrade() -> None:
    role = runtime_role()
    for statement in (_FREEZES, _FINDINGS, *_INDEXES):
        op.execute(statement)
    for statement in tenant_table("ledger_freezes", role):
        op.execute(statement)
    op.execute(f'REVOKE DELETE ON ledger_freezes FROM "{role}"')
    for statement in tenant_table("ledger_findings", role, append_only=True):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
