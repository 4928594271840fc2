"""SQL of an account's past: balances and entries as of a moment; takes a connection, decides nothing.

No index is needed to find the last entry recorded by a time, and no history is read: an account's entries are recorded
in the order of their sequence, which has no gap, so the key of the sequence is searched by halves. Ten million entries
take 24 looks at it. What counts from another time than it was recorded at has an index of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import places
from accounts.archive_errors import ArchivedPeriodNotAttached, raised
from accounts.entry_store import ENTRY, to_entry
from accounts.model import Entry
from accounts.moments import AsOf, Axis, PastBalance
from accounts.places import Detached
from meshkit.database import fetch

PastKey = tuple[str, str, str | None, AsOf]
"""Tenant, account, the customer that asks (None for staff), and the moment."""

# How far from a moment entries can be that are dated across it. Where one entry is dated by a century, all dated ones
# are looked at: nothing is reckoned then that the database has no time for.
_CENTURY = 100 * 365 * 86_400_000_000
_DATING = "a.dating_microseconds * interval '1 microsecond' + interval '1 second'"
_SINCE = f"CASE WHEN a.dating_microseconds > {_CENTURY} THEN '-infinity' ELSE k.time - ({_DATING}) END"
_UNTIL = f"CASE WHEN a.dating_microseconds > {_CENTURY} THEN 'infinity' ELSE k.time + ({_DATING}) END"

_LEDGER = {"entries": "entries", "journals": "journals", "elsewhere": "archived_spans"}
_ALL = {"entries": "all_entries", "journals": "all_journals", "elsewhere": "detached_spans"}


def _both(statement: str) -> tuple[str, str]:
    """A statement over the ledger alone, and over all."""
    return statement.format(**_LEDGER), statement.format(**_ALL)


# Where all of an account's entries were recorded by then, which its row tells, there is nothing to be searched. Else
# what the archive tells of its periods bounds the search: to what comes after all of them, or to the one in which the
# moment is. A look at an entry that is not there ends it without a result.
_SEARCH = f"""
WITH RECURSIVE asked AS MATERIALIZED (
    SELECT k.position, k.axis, k.time, a.tenant, a.account, a.currency, a.sequence AS last,
        {_SINCE} AS since, {_UNTIL} AS until,
        CASE WHEN k.axis = 'sequence' THEN k.sequence WHEN a.recorded_time <= k.time THEN a.sequence
            ELSE coalesce(s.low, 0) END AS low,
        CASE WHEN k.axis = 'sequence' THEN k.sequence ELSE coalesce(s.high, a.sequence) END AS high
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::bigint[]) WITH ORDINALITY
        AS k(tenant, account, customer, axis, time, sequence, position)
    JOIN accounts AS a USING (tenant, account)
    LEFT JOIN LATERAL (
        SELECT max(last_sequence) FILTER (WHERE last_time <= k.time) AS low,
            min(first_sequence) FILTER (WHERE first_time > k.time) - 1 AS high
        FROM archived_spans WHERE k.axis <> 'sequence' AND tenant = a.tenant AND account = a.account
    ) AS s ON true
    WHERE k.customer IS NULL OR EXISTS (SELECT 1 FROM account_owners AS o
        WHERE o.tenant = a.tenant AND o.account = a.account AND o.customer = k.customer)
), search AS (
    SELECT position, tenant, account, time, low, high FROM asked
    UNION ALL
    SELECT s.position, s.tenant, s.account, s.time, CASE WHEN e.create_time <= s.time THEN s.middle ELSE s.low END,
        CASE WHEN e.create_time <= s.time THEN s.high ELSE s.middle - 1 END
    FROM (SELECT *, low + (high - low + 1) / 2 AS middle FROM search WHERE low < high) AS s
    CROSS JOIN LATERAL (SELECT create_time FROM {{entries}} WHERE tenant = s.tenant AND account = s.account
        AND sequence = s.middle LIMIT 1) AS e
), found AS MATERIALIZED (
    SELECT asked.*, search.low AS sequence FROM asked LEFT JOIN search ON search.position = asked.position
        AND search.low = search.high
)
"""  # noqa: S608 - all are constants, here and below
# What counts by a time is what was recorded by then, with what was recorded later and dated back, without what was
# recorded before and dated forward. Both are no further from the time than any entry of the account is dated. After the
# last entry of an archived period stood what its span tells.
_BALANCES, _BALANCES_OF_ALL = _both(f"""
{_SEARCH}
SELECT f.position, f.sequence, f.last, b.balance_after, d.is_lacking IS NOT NULL, f.currency, coalesce(c.correction, 0)
FROM found AS f
LEFT JOIN LATERAL (
    SELECT balance_after FROM {{entries}} WHERE tenant = f.tenant AND account = f.account AND sequence = f.sequence
    UNION ALL
    SELECT closing FROM archived_spans WHERE tenant = f.tenant AND account = f.account AND last_sequence = f.sequence
    LIMIT 1
) AS b ON true
LEFT JOIN LATERAL (
    SELECT sum(CASE WHEN e.create_time > f.time THEN e.amount ELSE -e.amount END) AS correction FROM {{entries}} AS e
    WHERE f.axis = 'effective' AND e.tenant = f.tenant AND e.account = f.account
        AND e.effective_time <> e.create_time AND e.effective_time > f.since AND e.effective_time <= f.until
        AND (e.effective_time <= f.time) <> (e.create_time <= f.time)
) AS c ON true
LEFT JOIN LATERAL (
    SELECT true AS is_lacking FROM {{elsewhere}} AS s WHERE f.axis = 'effective' AND s.tenant = f.tenant
        AND s.account = f.account AND s.is_dated AND s.last_time > f.since AND s.first_time <= f.until LIMIT 1
) AS d ON true
""")  # noqa: S608
_SEQUENCES, _SEQUENCES_OF_ALL = _both(f"{_SEARCH} SELECT position, sequence, last, 0, false FROM found")  # noqa: S608

# Those dated are found before they are put in order: an index in the order asked for would have all entries read.
_DATED_BACK, _DATED_BACK_OF_ALL = _both(f"""
WITH dated AS MATERIALIZED (
    SELECT e.* FROM (
        SELECT a.tenant, a.account, k.time, {_SINCE} AS since
        FROM accounts AS a, (SELECT %s::timestamptz AS time) AS k WHERE a.tenant = %s AND a.account = %s OFFSET 0
    ) AS q CROSS JOIN LATERAL (
        SELECT * FROM {{entries}} AS e WHERE e.tenant = q.tenant AND e.account = q.account
            AND e.effective_time <> e.create_time AND e.effective_time > q.since AND e.effective_time <= q.time
            AND e.create_time > q.time OFFSET 0
    ) AS e
)
SELECT {ENTRY} FROM (SELECT * FROM dated WHERE sequence < %s ORDER BY sequence DESC LIMIT %s) AS e
JOIN {{journals}} AS j USING (tenant, journal) ORDER BY e.sequence DESC
""")  # noqa: S608
# A page of the account's key is taken before its journals are: else the planner may take all entries, and sort them.
_RECORDED_BY_THEN, _RECORDED_BY_THEN_OF_ALL = _both(f"""
SELECT {ENTRY} FROM (
    SELECT * FROM {{entries}} WHERE tenant = %s AND account = %s AND sequence < %s AND effective_time <= %s
    ORDER BY sequence DESC LIMIT %s
) AS e JOIN {{journals}} AS j USING (tenant, journal) ORDER BY e.sequence DESC
""")  # noqa: S608


async def balances(conn: AsyncConnection, wanted: Sequence[PastKey]) -> list[PastBalance | None]:
    """Balances as of moments, in their order; None for accounts that are absent or foreign.

    A sequence beyond the account's last has no balance: the caller compares it with `last_sequence`.
    Raises ArchivedPeriodNotAttached.
    """
    return [raised(answer) for answer in await each_balance(conn, wanted)]


async def each_balance(
    conn: AsyncConnection, wanted: Sequence[PastKey]
) -> list[PastBalance | ArchivedPeriodNotAttached | None]:
    """As `balances`, for questions of different callers: each has its own refusal."""
    found: list[PastBalance | ArchivedPeriodNotAttached | None] = [None] * len(wanted)
    for place, row in (await _asked(conn, _BALANCES, _BALANCES_OF_ALL, wanted)).items():
        if isinstance(row, ArchivedPeriodNotAttached):
            found[place] = row
            continue
        sequence, last, balance_after, _, currency, correction = row
        is_effective = wanted[place][3].axis is Axis.EFFECTIVE
        posted = (balance_after or 0) + int(correction)
        found[place] = PastBalance(currency, posted, last if is_effective else sequence, last)
    return found


async def sequence_at(conn: AsyncConnection, key: PastKey) -> tuple[int, int] | None:
    """The sequence of the last entry recorded by the moment, and the account's last; None for no such account.
    Raises ArchivedPeriodNotAttached."""
    row = raised((await _asked(conn, _SEQUENCES, _SEQUENCES_OF_ALL, [key])).get(0))
    return None if row is None else (row[0], row[1])


async def entries_effective_by(
    conn: AsyncConnection, tenant: str, account: str, as_of: AsOf, *, recorded: int, before: int, limit: int
) -> list[Entry]:
    """Entries that count by a time, the newest first, with sequences below `before`; `recorded` is the sequence of the
    last one recorded by it. Raises ArchivedPeriodNotAttached."""

    async def read(dated_back: str, recorded_by_then: str) -> list[Entry]:
        # Those recorded since come first; where they fill the page, the others are not asked for.
        rows = await fetch(conn, dated_back, (as_of.time, tenant, account, before, limit))
        if len(rows) < limit:
            asked = (tenant, account, min(before, recorded + 1), as_of.time, limit - len(rows))
            rows += await fetch(conn, recorded_by_then, asked)
        return [to_entry(row) for row in rows]

    found = await read(_DATED_BACK, _RECORDED_BY_THEN)
    if len(found) == limit or not await places.reach(conn, tenant, account):
        return found
    (detached,) = await places.detached_of(conn, [(tenant, account)])
    found = await read(_DATED_BACK_OF_ALL, _RECORDED_BY_THEN_OF_ALL)
    lowest = found[-1].sequence if len(found) == limit else 1
    for one in reversed(detached):
        may_count = one.is_dated or one.first_time <= as_of.time
        if may_count and one.first_sequence < before and one.last_sequence >= lowest:
            raise ArchivedPeriodNotAttached(one.period, f"accounts/{account} up to entry {one.last_sequence}")
    return found


Row = tuple[Any, ...]


async def _asked(
    conn: AsyncConnection, statement: str, statement_of_all: str, wanted: Sequence[PastKey]
) -> dict[int, Row | ArchivedPeriodNotAttached]:
    """The answers about accounts that are there, each without its position, by their places; what the ledger cannot
    answer alone is asked of all."""
    found: dict[int, Row | ArchivedPeriodNotAttached] = {}
    lacking: list[int] = []
    for position, *answer in await fetch(conn, statement, _columns(wanted)):
        found[position - 1] = tuple(answer)
        if _is_lacking(answer):
            lacking.append(position - 1)
    if not lacking:
        return found
    again = [wanted[place] for place in lacking]
    detached = await places.detached_of(conn, [(tenant, account) for tenant, account, _, _ in again])
    for position, *answer in await fetch(conn, statement_of_all, _columns(again)):
        place, key = lacking[position - 1], again[position - 1]
        found[place] = tuple(answer)
        if _is_lacking(answer):
            cut = _needed(detached[position - 1], key[3])
            if cut is not None:
                found[place] = ArchivedPeriodNotAttached(cut.period, f"accounts/{key[1]} as of {key[3]}")
            elif answer[0] is None:
                del found[place]  # somebody took entries away, and there is no answer
    return found


def _is_lacking(answer: Sequence[Any]) -> bool:
    """Whether something that an answer is made of was not there: an entry that the search looked at, that of its
    result, or one that is dated across the moment."""
    sequence, last, balance_after, is_cut, *_ = answer
    return sequence is None or (balance_after is None and 0 < sequence <= last) or bool(is_cut)


def _needed(detached: Sequence[Detached], as_of: AsOf) -> Detached | None:
    """The period that is not attached for whose lack there is no answer: the one in which the moment is, or else one
    with entries that are dated."""
    if as_of.axis is Axis.SEQUENCE:
        return next((one for one in detached if one.first_sequence <= as_of.sequence <= one.last_sequence), None)
    within = (one for one in detached if one.first_time <= as_of.time < one.last_time)
    return next(within, None) or next((one for one in detached if one.is_dated), None)


def _columns(wanted: Sequence[PastKey]) -> tuple[object, ...]:
    return (
        [tenant for tenant, _, _, _ in wanted],
        [account for _, account, _, _ in wanted],
        [customer for _, _, customer, _ in wanted],
        [as_of.axis.value for _, _, _, as_of in wanted],
        [as_of.time for _, _, _, as_of in wanted],
        [as_of.sequence for _, _, _, as_of in wanted],
    )
