"""Finds an authorization's captures, of which only captures pay the index."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_CAPTURES = (
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS transfers_captures ON transfers (tenant, capture_of)"
    " WHERE capture_of <> ''"
)
_INVALID = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('transfers_captures') AND NOT indisvalid"


def upgrade() -> None:
    # Beside a service at work, which the table's size does not stop; again where that was interrupted.
    with op.get_context().autocommit_block():
        if op.get_bind().execute(sa.text(_INVALID)).first() is not None:
            op.execute("DROP INDEX CONCURRENTLY transfers_captures")
        op.execute(_CAPTURES)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
