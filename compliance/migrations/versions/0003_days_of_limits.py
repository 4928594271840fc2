"""Finds what was used of limits on a day; a payment pays the index where it is its customer's first of the day."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_DAYS = "CREATE INDEX CONCURRENTLY IF NOT EXISTS limit_usage_day ON limit_usage (day)"
_INVALID = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('limit_usage_day') AND NOT indisvalid"


def upgrade() -> None:
    # Beside a service at work, which the table's size does not stop; again where that was interrupted.
    with op.get_context().autocommit_block():
        if op.get_bind().execute(sa.text(_INVALID)).first() is not None:
            op.execute("DROP INDEX CONCURRENTLY limit_usage_day")
        op.execute(_DAYS)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
