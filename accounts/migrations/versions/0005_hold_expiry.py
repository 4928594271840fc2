"""Holds that end by themselves, and those that keep back less after a journal took part of them.

It runs beside a service at work: each step is a transaction of its own, locks the table for a moment alone, and can be
run again when it was interrupted.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE holds ADD COLUMN IF NOT EXISTS expire_time timestamptz")
        op.execute(
            "ALTER TABLE holds DROP CONSTRAINT IF EXISTS holds_state,"
            " ADD CONSTRAINT holds_state CHECK (state BETWEEN 1 AND 4) NOT VALID"
        )
        op.execute("ALTER TABLE holds VALIDATE CONSTRAINT holds_state")
        invalid = op.get_bind().execute(
            sa.text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('holds_expiry') AND NOT indisvalid")
        )
        if invalid.first() is not None:
            op.execute("DROP INDEX CONCURRENTLY holds_expiry")  # left behind by an interrupted run
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS holds_expiry ON holds (expire_time)"
            " WHERE state = 1 AND expire_time IS NOT NULL"
        )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
