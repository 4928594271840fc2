"""Entries carry their times, in an order that follows their sequence, so that accounts can be read as of any time.

It runs beside a service at work: each step is a transaction of its own, locks tables for a moment alone, and can be
run again when it was interrupted.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ENTRY_PARTITIONS = 8

# Of an account: the recorded time of its last entry, before which no later one is recorded, and how far the effective
# time of any of its entries is from the recorded one, which bounds where dated entries are looked for.
_COLUMNS = (
    (
        "ALTER TABLE accounts"
        " ADD COLUMN IF NOT EXISTS recorded_time timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00',"
        " ADD COLUMN IF NOT EXISTS dating_microseconds bigint NOT NULL DEFAULT 0"
    ),
    (
        "ALTER TABLE entries ADD COLUMN IF NOT EXISTS create_time timestamptz,"
        " ADD COLUMN IF NOT EXISTS effective_time timestamptz"
    ),
)

# The version before this one adds entries without times for as long as it runs. New code gives them, and pays for the
# condition alone.
_OLD_WRITERS = """
CREATE OR REPLACE FUNCTION entries_take_times() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    SELECT greatest(j.create_time, a.recorded_time), j.effective_time INTO NEW.create_time, NEW.effective_time
    FROM journals AS j JOIN accounts AS a USING (tenant)
    WHERE j.tenant = NEW.tenant AND j.journal = NEW.journal AND a.account = NEW.account;
    UPDATE accounts SET recorded_time = NEW.create_time, dating_microseconds = greatest(dating_microseconds,
        abs(extract(epoch FROM NEW.effective_time - NEW.create_time) * 1000000)::bigint)
    WHERE tenant = NEW.tenant AND account = NEW.account;
    RETURN NEW;
END
$$
"""
_OLD_WRITERS_TRIGGER = (
    "CREATE OR REPLACE TRIGGER entries_take_times BEFORE INSERT ON entries FOR EACH ROW"
    " WHEN (NEW.create_time IS NULL) EXECUTE FUNCTION entries_take_times()"
)

# Clocks were stepped and differed between replicas: an entry counts as recorded no earlier than those before it.
_FILL = """
UPDATE entries AS e SET create_time = r.create_time, effective_time = r.effective_time
FROM (
    SELECT e.tenant, e.account, e.sequence, j.effective_time,
        max(j.create_time) OVER (PARTITION BY e.tenant, e.account ORDER BY e.sequence) AS create_time
    FROM entries AS e JOIN journals AS j USING (tenant, journal)
) AS r
WHERE e.tenant = r.tenant AND e.account = r.account AND e.sequence = r.sequence AND e.create_time IS NULL
"""
# What is added up is put aside first, and written in lots: accounts are locked for as long as writing some of them
# takes, in the order in which the ledger locks them.
_ADD_UP = (
    "CREATE TEMPORARY TABLE account_times AS SELECT row_number() OVER (ORDER BY tenant, account) AS number, tenant,"
    " account, max(create_time) AS create_time,"
    " max(abs(extract(epoch FROM effective_time - create_time) * 1000000))::bigint AS dating"
    " FROM entries GROUP BY tenant, account"
)
_LOT_ACCOUNTS = 1000
_ACCOUNTS = (
    (
        "SELECT count(*) FROM (SELECT 1 FROM accounts AS a JOIN account_times AS t USING (tenant, account)"
        " WHERE t.number > {after} AND t.number <= {up_to} ORDER BY a.tenant, a.account"
        " FOR NO KEY UPDATE OF a) AS locked"
    ),
    (
        "UPDATE accounts AS a SET recorded_time = greatest(a.recorded_time, t.create_time),"
        " dating_microseconds = greatest(a.dating_microseconds, t.dating) FROM account_times AS t"
        " WHERE a.tenant = t.tenant AND a.account = t.account AND t.number > {after} AND t.number <= {up_to}"
    ),
)
# An entry that the version before added between the first step and the last one can be earlier than those before it.
_LEVEL = """
DO $$
DECLARE
    late record;
BEGIN
    FOR late IN SELECT DISTINCT tenant, account FROM (
        SELECT tenant, account, create_time < lag(create_time) OVER (PARTITION BY tenant, account ORDER BY sequence)
            AS too_early FROM entries) AS e WHERE too_early ORDER BY tenant, account
    LOOP
        PERFORM 1 FROM accounts WHERE tenant = late.tenant AND account = late.account FOR NO KEY UPDATE;
        UPDATE entries AS e SET create_time = r.create_time FROM (
            SELECT sequence, max(create_time) OVER (ORDER BY sequence) AS create_time FROM entries
            WHERE tenant = late.tenant AND account = late.account) AS r
        WHERE e.tenant = late.tenant AND e.account = late.account AND e.sequence = r.sequence
            AND e.create_time < r.create_time;
        UPDATE accounts AS a SET recorded_time = greatest(a.recorded_time, t.create_time),
            dating_microseconds = greatest(a.dating_microseconds, t.dating)
        FROM (SELECT max(create_time) AS create_time,
                max(abs(extract(epoch FROM effective_time - create_time) * 1000000))::bigint AS dating
            FROM entries WHERE tenant = late.tenant AND account = late.account) AS t
        WHERE a.tenant = late.tenant AND a.account = late.account;
    END LOOP;
END
$$
"""
_TIMES_GIVEN = (
    "ALTER TABLE entries DROP CONSTRAINT IF EXISTS entries_have_times",
    (
        "ALTER TABLE entries ADD CONSTRAINT entries_have_times"
        " CHECK (create_time IS NOT NULL AND effective_time IS NOT NULL) NOT VALID"
    ),
)
_DATED = "(tenant, account, effective_time) INCLUDE (create_time, amount) WHERE effective_time <> create_time"


def upgrade() -> None:
    context = op.get_context()
    with context.autocommit_block():
        # The owner's rows are hidden from it too.
        op.execute("SELECT set_config('florin.tenants', '*', false)")
        _together(*_COLUMNS, _OLD_WRITERS, _OLD_WRITERS_TRIGGER)
        op.execute(_FILL)
        _fill_accounts()
        _together(_LEVEL)
        _together(*_TIMES_GIVEN)
        op.execute("ALTER TABLE entries VALIDATE CONSTRAINT entries_have_times")
        _index_dated_entries()
        op.execute("SELECT set_config('florin.tenants', '', false)")


def _fill_accounts() -> None:
    op.execute("DROP TABLE IF EXISTS pg_temp.account_times")
    op.execute(_ADD_UP)
    last = op.get_bind().execute(sa.text("SELECT count(*) FROM account_times")).scalar_one()
    for after in range(0, last, _LOT_ACCOUNTS):
        _together(*(statement.format(after=after, up_to=after + _LOT_ACCOUNTS) for statement in _ACCOUNTS))
    op.execute("DROP TABLE account_times")


def _together(*statements: str) -> None:
    """Runs statements in one transaction; a failure ends it and the migration."""
    op.execute("BEGIN")
    for statement in statements:
        op.execute(statement)
    op.execute("COMMIT")


def _index_dated_entries() -> None:
    """The only index that time needs: of entries that count from another time than their recorded one."""
    op.execute(f"CREATE INDEX IF NOT EXISTS entries_dated ON ONLY entries {_DATED}")
    for number in range(ENTRY_PARTITIONS):
        name = f"entries_{number}_dated"
        invalid = op.get_bind().execute(
            sa.text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"), {"name": name}
        )
        if invalid.first() is not None:
            op.execute(f"DROP INDEX CONCURRENTLY {name}")  # left behind by an interrupted run
        op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON entries_{number} {_DATED}")
        op.execute(f"ALTER INDEX entries_dated ATTACH PARTITION {name}")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
