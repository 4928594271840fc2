"""Finds the audit of a journal that the bank posted itself, of which only such rows pay the index."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_AUDITED = (
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_of_journals ON audit (tenant, resource)"
    " WHERE action = 'post_journal'"
)
_INVALID = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('audit_of_journals') AND NOT indisvalid"


def upgrade() -> None:
    # Beside a service at work, which the table's size does not stop; again where that was interrupted.
    with op.get_context().autocommit_block():
        if op.get_bind().execute(sa.text(_INVALID)).first() is not None:
            op.execute("DROP INDEX CONCURRENTLY audit_of_journals")
        op.execute(_AUDITED)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
