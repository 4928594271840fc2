"""Journals that the bank posts itself: their kind, what is written on them, and what they are found by.

It runs beside a service at work: each step is a transaction of its own, locks tables for a moment alone, and can be run
again when it was interrupted. The version before it does not know the kind: post none while it runs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from meshkit.migrations import runtime_role, tenant_table

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KIND = (
    "ALTER TABLE journals DROP CONSTRAINT IF EXISTS journals_kind,"
    " ADD CONSTRAINT journals_kind CHECK (kind BETWEEN 1 AND 4) NOT VALID"
)
_VALIDATE = "ALTER TABLE journals VALIDATE CONSTRAINT journals_kind"
# Of journals of this kind alone: those of payments pay for the condition.
_INDEXES = {
    "journals_manual": "(tenant, create_time, journal) WHERE kind = 4",
    "journals_manual_effective": "(tenant, effective_time) WHERE kind = 4",
}
# The time stands in each row so that one index has both what is asked for and the order of the list.
_TABLES = (
    """
    CREATE TABLE journal_metadata (
        tenant text NOT NULL,
        journal uuid NOT NULL,
        key text NOT NULL,
        value text NOT NULL,
        create_time timestamptz NOT NULL,
        CONSTRAINT journal_metadata_pk PRIMARY KEY (tenant, journal, key),
        CONSTRAINT journal_metadata_journal_fk FOREIGN KEY (tenant, journal) REFERENCES journals (tenant, journal)
    )
    """,
    "CREATE INDEX journal_metadata_found ON journal_metadata (tenant, key, value, create_time, journal)",
    """
    CREATE TABLE journal_accounts (
        tenant text NOT NULL,
        account text NOT NULL,
        create_time timestamptz NOT NULL,
        journal uuid NOT NULL,
        CONSTRAINT journal_accounts_pk PRIMARY KEY (tenant, account, create_time, journal),
        CONSTRAINT journal_accounts_journal_fk FOREIGN KEY (tenant, journal) REFERENCES journals (tenant, journal)
    )
    """,
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_KIND)
        op.execute(_VALIDATE)
        for name, definition in _INDEXES.items():
            _index(name, definition)
    role = runtime_role()
    for statement in _TABLES:
        op.execute(statement)
    for table in ("journal_metadata", "journal_accounts"):
        for statement in tenant_table(table, role, append_only=True):
            op.execute(statement)


def _index(name: str, definition: str) -> None:
    """Builds an index of journals while they are written."""
    invalid = op.get_bind().execute(
        sa.text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"), {"name": name}
    )
    if invalid.first() is not None:
        op.execute(f"DROP INDEX CONCURRENTLY {name}")  # left behind by an interrupted run
    op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON journals {definition}")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
