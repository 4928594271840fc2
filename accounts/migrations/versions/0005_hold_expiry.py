"""Holds that end by themselves, and those that keep back less after a journal took part of them."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for statement in (
        "ALTER TABLE holds ADD COLUMN expire_time timestamptz",
        "ALTER TABLE holds DROP CONSTRAINT holds_state",
        "ALTER TABLE holds ADD CONSTRAINT holds_state CHECK (state BETWEEN 1 AND 4)",
        "CREATE INDEX holds_expiry ON holds (expire_time) WHERE state = 1 AND expire_time IS NOT NULL",
    ):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
