"""What a transfer that was previewed expects of its payer's account; it runs beside a service at work."""

from alembic import op

revision = "0008"
down_revision = "0007"

# Empty where nothing is expected: the intents of such transfers do not name these columns. Not validated: rows of
# before have none of them, and need not be read while the table is locked.
_COLUMNS = """
ALTER TABLE transfers
    ADD COLUMN expected_version bigint,
    ADD COLUMN expected_available bigint,
    ADD CONSTRAINT transfers_expected_is_whole CHECK (num_nulls(expected_version, expected_available) IN (0, 2))
        NOT VALID
"""


def upgrade() -> None:
    op.execute(_COLUMNS)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
