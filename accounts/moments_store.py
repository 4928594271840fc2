"""SQL of an account's past: balances and entries as of a moment; takes a connection, decides nothing.

No index is needed to find the last entry recorded by a time, and no history is read: an account's entries are recorded
in the order of their sequence, which has no gap, so the key of the sequence is searched by halves. Ten million entries
take 24 looks at it. What counts from another time than it was recorded at has an index of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.model import Entry
from accounts.moments import AsOf, Axis, PastBalance
from accounts.store import ENTRY, to_entry
from meshkit.database import fetch

PastKey = tuple[str, str, str | None, AsOf]
"""Tenant, account, the customer that asks (None for staff), and the moment."""

# How far from a moment entries can be that are dated across it. Where one entry is dated by a century, all dated ones
# are looked at: nothing is reckoned then that the database has no time for.
_CENTURY = 100 * 365 * 86_400_000_000
_DATING = "a.dating_microseconds * interval '1 microsecond' + interval '1 second'"
_SINCE = f"CASE WHEN a.dating_microseconds > {_CENTURY} THEN '-infinity' ELSE k.time - ({_DATING}) END"
_UNTIL = f"CASE WHEN a.dating_microseconds > {_CENTURY} THEN 'infinity' ELSE k.time + ({_DATING}) END"

# Where all of an account's entries were recorded by then, which its row tells, there is nothing to be searched.
_SEARCH = f"""
WITH RECURSIVE asked AS MATERIALIZED (
    SELECT k.position, k.axis, k.time, a.tenant, a.account, a.currency, a.sequence AS last,
        {_SINCE} AS since, {_UNTIL} AS until,
        CASE WHEN k.axis = 'sequence' THEN k.sequence WHEN a.recorded_time <= k.time THEN a.sequence ELSE 0 END AS low,
        CASE WHEN k.axis = 'sequence' THEN k.sequence ELSE a.sequence END AS high
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::bigint[]) WITH ORDINALITY
        AS k(tenant, account, customer, axis, time, sequence, position)
    JOIN accounts AS a USING (tenant, account)
    WHERE k.customer IS NULL OR EXISTS (SELECT 1 FROM account_owners AS o
        WHERE o.tenant = a.tenant AND o.account = a.account AND o.customer = k.customer)
), search AS (
    SELECT position, tenant, account, time, low, high FROM asked
    UNION ALL
    SELECT s.position, s.tenant, s.account, s.time, CASE WHEN e.create_time <= s.time THEN s.middle ELSE s.low END,
        CASE WHEN e.create_time <= s.time THEN s.high ELSE s.middle - 1 END
    FROM (SELECT *, low + (high - low + 1) / 2 AS middle FROM search WHERE low < high) AS s
    CROSS JOIN LATERAL (SELECT create_time FROM entries WHERE tenant = s.tenant AND account = s.account
        AND sequence = s.middle LIMIT 1) AS e
), found AS MATERIALIZED (
    SELECT asked.*, search.low AS sequence FROM asked JOIN search USING (position) WHERE search.low = search.high
)
"""  # noqa: S608 - all are constants, here and below
# What counts by a time is what was recorded by then, with what was recorded later and dated back, without what was
# recorded before and dated forward. Both are no further from the time than any entry of the account is dated.
_BALANCES = f"""
{_SEARCH}
SELECT f.position, f.currency, f.sequence, f.last, coalesce(b.balance_after, 0), coalesce(d.correction, 0)
FROM found AS f
LEFT JOIN LATERAL (SELECT balance_after FROM entries WHERE tenant = f.tenant AND account = f.account
    AND sequence = f.sequence LIMIT 1) AS b ON true
LEFT JOIN LATERAL (
    SELECT sum(CASE WHEN e.create_time > f.time THEN e.amount ELSE -e.amount END) AS correction FROM entries AS e
    WHERE f.axis = 'effective' AND e.tenant = f.tenant AND e.account = f.account
        AND e.effective_time <> e.create_time AND e.effective_time > f.since AND e.effective_time <= f.until
        AND (e.effective_time <= f.time) <> (e.create_time <= f.time)
) AS d ON true
"""  # noqa: S608
_SEQUENCES = f"{_SEARCH} SELECT position, sequence, last FROM found"  # noqa: S608

# Those dated are found before they are put in order: an index in the order asked for would have all entries read.
_DATED_BACK = f"""
WITH dated AS MATERIALIZED (
    SELECT e.* FROM (
        SELECT a.tenant, a.account, k.time, {_SINCE} AS since
        FROM accounts AS a, (SELECT %s::timestamptz AS time) AS k WHERE a.tenant = %s AND a.account = %s OFFSET 0
    ) AS q CROSS JOIN LATERAL (
        SELECT * FROM entries AS e WHERE e.tenant = q.tenant AND e.account = q.account
            AND e.effective_time <> e.create_time AND e.effective_time > q.since AND e.effective_time <= q.time
            AND e.create_time > q.time OFFSET 0
    ) AS e
)
SELECT {ENTRY} FROM (SELECT * FROM dated WHERE sequence < %s ORDER BY sequence DESC LIMIT %s) AS e
JOIN journals AS j USING (tenant, journal) ORDER BY e.sequence DESC
"""  # noqa: S608
# A page of the account's key is taken before its journals are: else the planner may take all entries, and sort them.
_RECORDED_BY_THEN = f"""
SELECT {ENTRY} FROM (
    SELECT * FROM entries WHERE tenant = %s AND account = %s AND sequence < %s AND effective_time <= %s
    ORDER BY sequence DESC LIMIT %s
) AS e JOIN journals AS j USING (tenant, journal) ORDER BY e.sequence DESC
"""  # noqa: S608


async def balances(conn: AsyncConnection, wanted: Sequence[PastKey]) -> list[PastBalance | None]:
    """Balances as of moments, in their order; None for accounts that are absent or foreign.

    A sequence beyond the account's last has no balance: the caller compares it with `last_sequence`.
    """
    found: list[PastBalance | None] = [None] * len(wanted)
    for position, currency, sequence, last, balance_after, correction in await fetch(conn, _BALANCES, _columns(wanted)):
        is_effective = wanted[position - 1][3].axis is Axis.EFFECTIVE
        posted = balance_after + int(correction)
        found[position - 1] = PastBalance(currency, posted, last if is_effective else sequence, last)
    return found


async def sequence_at(conn: AsyncConnection, key: PastKey) -> tuple[int, int] | None:
    """The sequence of the last entry recorded by the moment, and the account's last; None for no such account."""
    rows = await fetch(conn, _SEQUENCES, _columns([key]))
    return (rows[0][1], rows[0][2]) if rows else None


async def entries_effective_by(
    conn: AsyncConnection, tenant: str, account: str, as_of: AsOf, *, recorded: int, before: int, limit: int
) -> list[Entry]:
    """Entries that count by a time, the newest first, with sequences below `before`; `recorded` is the sequence of the
    last one recorded by it."""
    # Those recorded since come first; where they fill the page, the others are not asked for.
    rows = await fetch(conn, _DATED_BACK, (as_of.time, tenant, account, before, limit))
    if len(rows) < limit:
        asked = (tenant, account, min(before, recorded + 1), as_of.time, limit - len(rows))
        rows += await fetch(conn, _RECORDED_BY_THEN, asked)
    return [to_entry(row) for row in rows]


def _columns(wanted: Sequence[PastKey]) -> tuple[object, ...]:
    return (
        [tenant for tenant, _, _, _ in wanted],
        [account for _, account, _, _ in wanted],
        [customer for _, _, customer, _ in wanted],
        [as_of.axis.value for _, _, _, as_of in wanted],
        [as_of.time for _, _, _, as_of in wanted],
        [as_of.sequence for _, _, _, as_of in wanted],
    )
