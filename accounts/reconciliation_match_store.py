"""SQL of what might belong together, and of matches; takes a connection, gives model objects, decides nothing.

Whatever is asked for an item reads a few rows of an index: a pair is certain or not after the second candidate, a batch
after one more than it may have.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import date
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.reconciliation_model import Match, MatchState, Rule, Side, Window
from accounts.reconciliation_rules import BATCH_MAX, PARTS_MAX, Edge
from meshkit.database import execute, fetch

_MATCH = (
    "tenant, match::text, account, rule, state, ledger, bank, amount, proposed_by, note, create_time, update_time,"
    " decided_by, reason, undo_proposed_by, undo_decided_by, undo_note, undo_reason, version"
)
_FIRST = "ffffffff-ffff-ffff-ffff-ffffffffffff"

# Items that the rules may take, after a number: of one side, in the order in which they came.
_OPEN = (
    "SELECT number FROM reconciliation_items WHERE tenant = %s AND account = %s AND side = %s AND number > %s"
    " AND state = 1 AND NOT manual {more} ORDER BY number LIMIT %s"
)
_GIVEN = (
    " FROM unnest(%(numbers)s::bigint[]) AS k(number) JOIN reconciliation_items AS i ON i.tenant = %(tenant)s"
    " AND i.account = %(account)s AND i.side = %(side)s AND i.number = k.number AND i.state = 1 AND NOT i.manual"
)
_SAME_REFERENCE = (
    f"SELECT i.number, o.number{_GIVEN} CROSS JOIN LATERAL unnest(i.refs) AS r(reference) CROSS JOIN LATERAL"  # noqa: S608
    " (SELECT k.number FROM reconciliation_keys AS k WHERE k.tenant = i.tenant AND k.account = i.account"
    " AND k.reference = r.reference AND k.side = %(other)s AND k.amount = -i.amount ORDER BY k.number LIMIT 2) AS o"
)
# A reference of the other side is an explanation, also where the amount is another one: it is not guessed beside it.
_REFERRED_TO = (
    "EXISTS (SELECT 1 FROM unnest({i}.refs) AS r(reference) JOIN reconciliation_keys AS k ON k.tenant = {i}.tenant"
    " AND k.account = {i}.account AND k.reference = r.reference AND k.side = 3 - {i}.side)"
)
_SAME_AMOUNT = (
    f"SELECT i.number, o.number{_GIVEN} AND (i.side = 2 OR i.value_day <= %(until)s)"  # noqa: S608
    f" AND NOT {_REFERRED_TO.format(i='i')} CROSS JOIN LATERAL"
    " (SELECT o.number FROM reconciliation_items AS o WHERE o.tenant = i.tenant AND o.account = i.account"
    " AND o.side = %(other)s AND o.amount = -i.amount AND o.value_day BETWEEN i.value_day - %(days)s::integer"
    " AND i.value_day + %(days)s::integer AND o.state = 1 AND NOT o.manual"
    " AND (o.side = 2 OR o.value_day <= %(until)s)"
    f" AND NOT {_REFERRED_TO.format(i='o')} ORDER BY o.value_day, o.number LIMIT 2) AS o"
)
_REFERRED = (
    f"SELECT i.number, i.amount, i.batch_size, o.number, o.amount{_GIVEN} CROSS JOIN LATERAL"  # noqa: S608
    " (SELECT DISTINCT k.number, k.amount FROM unnest(i.refs) AS r(reference) JOIN reconciliation_keys AS k"
    " ON k.tenant = i.tenant AND k.account = i.account AND k.reference = r.reference AND k.side = 1"
    f" LIMIT {BATCH_MAX + 1}) AS o"
)
_REFERRED_ELSEWHERE = (
    "SELECT i.number FROM unnest(%s::bigint[], %s::bigint[]) AS k(number, by) JOIN reconciliation_items AS i"
    " ON i.tenant = %s AND i.account = %s AND i.side = 1 AND i.number = k.number WHERE EXISTS (SELECT 1"
    " FROM unnest(i.refs) AS r(reference) JOIN reconciliation_keys AS o ON o.tenant = i.tenant"
    " AND o.account = i.account AND o.reference = r.reference AND o.side = 2 AND o.number <> k.by)"
)
_BATCH_DAYS = (
    "SELECT DISTINCT value_day FROM reconciliation_items WHERE tenant = %s AND account = %s AND side = 2 AND state = 1"
    " AND NOT manual AND batch_size IS NOT NULL AND value_day > %s ORDER BY value_day LIMIT %s"
)
_BATCHES_OF_DAY = (
    "SELECT i.number, i.amount, i.batch_size FROM reconciliation_items AS i WHERE i.tenant = %s AND i.account = %s"  # noqa: S608
    " AND i.side = 2 AND i.state = 1 AND NOT i.manual AND i.value_day = %s AND i.batch_size IS NOT NULL"
    f" AND NOT {_REFERRED_TO.format(i='i')} ORDER BY i.number LIMIT {PARTS_MAX + 1}"
)
# What might be one of a pair, though not the only one, is not taken for a part of a batch.
_PARTS_OF_DAY = (
    "SELECT i.number, i.amount FROM reconciliation_items AS i WHERE i.tenant = %(tenant)s"  # noqa: S608
    " AND i.account = %(account)s AND i.side = 1 AND i.state = 1 AND NOT i.manual AND i.value_day = %(day)s"
    f" AND NOT {_REFERRED_TO.format(i='i')} AND NOT EXISTS (SELECT 1 FROM reconciliation_items AS o"
    " WHERE o.tenant = i.tenant AND o.account = i.account AND o.side = 2 AND o.amount = -i.amount"
    " AND o.value_day BETWEEN i.value_day - %(days)s::integer AND i.value_day + %(days)s::integer"
    f" AND o.state = 1 AND NOT o.manual) ORDER BY i.number LIMIT {2 * PARTS_MAX + 1}"
)


async def open_bank(
    conn: AsyncConnection, tenant: str, account: str, *, after: int, limit: int, referring: bool = False
) -> list[int]:
    """Numbers of the bank's items that the rules may take, above `after`; those with references alone if asked."""
    statement = _OPEN.format(more="AND cardinality(refs) > 0" if referring else "")
    return [row[0] for row in await fetch(conn, statement, (tenant, account, Side.BANK.value, after, limit))]


async def same_reference(
    conn: AsyncConnection, tenant: str, account: str, side: Side, numbers: Sequence[int]
) -> list[tuple[int, int]]:
    """(item, item of the other side) with a common reference and opposite amounts; whether none, one or another."""
    return [(row[0], row[1]) for row in await fetch(conn, _SAME_REFERENCE, _given(tenant, account, side, numbers))]


async def same_amount(
    conn: AsyncConnection, tenant: str, account: str, side: Side, numbers: Sequence[int], *, window: Window
) -> list[tuple[int, int]]:
    """(item, item of the other side) with opposite amounts and value days within a window, as above; none that
    the other side refers to."""
    asked = {**_given(tenant, account, side, numbers), "days": window.days, "until": window.until}
    return [(row[0], row[1]) for row in await fetch(conn, _SAME_AMOUNT, asked)]


async def referred(
    conn: AsyncConnection, tenant: str, account: str, numbers: Sequence[int]
) -> dict[int, tuple[int, int | None, dict[int, int]]]:
    """Of each of the bank's items its amount, its size as a batch, and those of ours that it refers to."""
    found: dict[int, tuple[int, int | None, dict[int, int]]] = {}
    for bank, amount, size, ledger, ours in await fetch(conn, _REFERRED, _given(tenant, account, Side.BANK, numbers)):
        found.setdefault(bank, (amount, size, {}))[2][ledger] = ours
    return found


async def referred_elsewhere(conn: AsyncConnection, tenant: str, account: str, edges: Sequence[Edge]) -> set[int]:
    """Those of ours that another of the bank's items than the one in the edge refers to as well."""
    values = ([ledger for _, ledger in edges], [bank for bank, _ in edges], tenant, account)
    return {row[0] for row in await fetch(conn, _REFERRED_ELSEWHERE, values)}


async def batch_days(conn: AsyncConnection, tenant: str, account: str, *, after: date, limit: int) -> list[date]:
    """Value days of the bank's batches that the rules may take, after a day."""
    return [row[0] for row in await fetch(conn, _BATCH_DAYS, (tenant, account, after, limit))]


async def batches_of_day(
    conn: AsyncConnection, tenant: str, account: str, day: date, *, days: int
) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
    """The bank's batches of a day, with amount and size, and those of ours that may be in one, with their amounts; one
    more than the rules go by at most."""
    batches = await fetch(conn, _BATCHES_OF_DAY, (tenant, account, day))
    asked = {"tenant": tenant, "account": account, "day": day, "days": days}
    parts = await fetch(conn, _PARTS_OF_DAY, asked) if batches else []
    return {number: (amount, size) for number, amount, size in batches}, dict(parts)


async def add_matches(conn: AsyncConnection, added: Sequence[Match]) -> None:
    """Adds matches."""
    await execute(
        conn,
        "INSERT INTO item_matches (tenant, match, account, rule, state, ledger, bank, amount, proposed_by, note,"
        " version, create_time, update_time) SELECT k.tenant, k.match, k.account, k.rule, k.state,"
        " string_to_array(k.ledger, ',')::bigint[], string_to_array(k.bank, ',')::bigint[], k.amount, k.proposed_by,"
        " k.note, 1, k.create_time, k.create_time FROM unnest(%s::text[], %s::uuid[], %s::text[], %s::smallint[],"
        " %s::smallint[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::timestamptz[])"
        " AS k(tenant, match, account, rule, state, ledger, bank, amount, proposed_by, note, create_time)",
        (
            [one.tenant for one in added],
            [uuid.UUID(one.id) for one in added],
            [one.account for one in added],
            [one.rule.value for one in added],
            [one.state.value for one in added],
            [",".join(map(str, one.ledger)) for one in added],
            [",".join(map(str, one.bank)) for one in added],
            [one.amount for one in added],
            [one.proposed_by for one in added],
            [one.note for one in added],
            [one.create_time for one in added],
        ),
    )


async def match(conn: AsyncConnection, tenant: str, key: str) -> Match | None:
    """A match by its id."""
    rows = await fetch(
        conn,
        f"SELECT {_MATCH} FROM item_matches WHERE tenant = %s AND match = %s::uuid",  # noqa: S608 - a constant
        (tenant, key),
    )
    return _to_match(rows[0]) if rows else None


async def list_matches(
    conn: AsyncConnection, tenant: str, account: str, *, state: int, before: str, limit: int
) -> list[Match]:
    """An account's matches by id, the newest first, from behind `before` on; in a state if given."""
    rows = await fetch(
        conn,
        f"SELECT {_MATCH} FROM item_matches WHERE tenant = %s AND account = %s"  # noqa: S608 - constants
        f" {'AND state = %s' if state else ''} AND match < %s::uuid ORDER BY match DESC LIMIT %s",
        (tenant, account, *([state] if state else []), before or _FIRST, limit),
    )
    return [_to_match(row) for row in rows]


async def save_match(conn: AsyncConnection, changed: Match) -> None:
    """Writes what became of a match."""
    await execute(
        conn,
        "UPDATE item_matches SET state = %s, decided_by = %s, reason = %s, undo_proposed_by = %s, undo_decided_by = %s,"
        " undo_note = %s, undo_reason = %s, version = %s, update_time = %s WHERE tenant = %s AND match = %s::uuid",
        (
            *(changed.state.value, changed.decided_by, changed.reason, changed.undo_proposed_by),
            *(changed.undo_decided_by, changed.undo_note, changed.undo_reason, changed.version, changed.update_time),
            *(changed.tenant, changed.id),
        ),
    )


def _given(tenant: str, account: str, side: Side, numbers: Sequence[int]) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "account": account,
        "side": side.value,
        "other": side.other.value,
        "numbers": list(numbers),
    }


def _to_match(row: Sequence[Any]) -> Match:
    tenant, id_, account, rule, state, ledger, bank, *rest = row
    return Match(tenant, id_, account, Rule(rule), MatchState(state), tuple(ledger), tuple(bank), *rest)
