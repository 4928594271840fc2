"""Events wait in a table of their own, so that an outbox row is written once."""

from alembic import op

from meshkit.migrations import outbox_v2, runtime_role

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for statement in outbox_v2(runtime_role()):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
