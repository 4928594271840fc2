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

from accounts.reconciliation_model import Match, MatchState, Rule, Side, Window, batch_key
from accounts.reconciliation_rules import BATCH_MAX, PARTS_MAX, Edge
from meshkit.database import execute, fetch

_MATCH = (
    "tenant, match::text, account, rule, state, ledger, bank, amount, proposed_by, note, create_time, update_time,"
    " decided_by, reason, undo_proposed_by, undo_decided_by, undo_note, undo_reason, version"
)
_FIRST = "ffffffff-ffff-ffff-ffff-ffffffffffff"

# The order in which things are looked up stands in each statement (LATERAL, with OFFSET or LIMIT): a plan that was made
# while the tables were empty may think that reading all of an account comes first as cheaply.
_OPEN = (
    "SELECT u.number FROM unmatched_items AS u CROSS JOIN LATERAL (SELECT i.state, i.manual, i.refs"
    " FROM reconciliation_items AS i WHERE i.tenant = u.tenant AND i.account = u.account AND i.side = u.side"
    " AND i.number = u.number OFFSET 0) AS i WHERE u.tenant = %s AND u.account = %s AND u.side = %s AND u.number > %s"
    " AND i.state = 1 AND NOT i.manual {more} ORDER BY u.number LIMIT %s"
)
_GIVEN = (
    " FROM unnest(%(numbers)s::bigint[]) AS n(number) CROSS JOIN LATERAL (SELECT i.* FROM reconciliation_items AS i"
    " WHERE i.tenant = %(tenant)s AND i.account = %(account)s AND i.side = %(side)s AND i.number = n.number OFFSET 0)"
    " AS i"
)
_MAY_BE_TAKEN = " WHERE i.state = 1 AND NOT i.manual"
_KEYS = "FROM reconciliation_keys AS k WHERE k.tenant = %(tenant)s AND k.account = %(account)s"
_SAME_REFERENCE = (
    f"SELECT i.number, o.number{_GIVEN} CROSS JOIN LATERAL unnest(i.refs) AS r(reference) CROSS JOIN LATERAL"
    f" (SELECT k.number {_KEYS} AND k.key = r.reference AND k.side = %(other)s AND k.amount = -i.amount"
    f" ORDER BY k.value_day, k.number LIMIT 2) AS o{_MAY_BE_TAKEN}"
)
# A reference of the other side is an explanation, also where the amount is another one: it is not guessed beside it.
_REFERRED_TO = (
    "EXISTS (SELECT 1 FROM (SELECT x.refs FROM reconciliation_items AS x WHERE x.tenant = %(tenant)s"  # noqa: S608
    " AND x.account = %(account)s AND x.side = {side} AND x.number = {number} OFFSET 0) AS x"
    " CROSS JOIN LATERAL unnest(x.refs) AS r(reference) CROSS JOIN LATERAL"
    f" (SELECT 1 {_KEYS} AND k.key = r.reference AND k.side = 3 - {{side}} LIMIT 1) AS k)"
)
_SAME_AMOUNT = (
    f"SELECT i.number, o.number{_GIVEN} CROSS JOIN LATERAL (SELECT k.number {_KEYS} AND k.key = ''"
    " AND k.side = %(other)s AND k.amount = -i.amount"
    " AND k.value_day BETWEEN i.value_day - %(days)s::integer AND i.value_day + %(days)s::integer"
    f" AND NOT {_REFERRED_TO.format(side='k.side', number='k.number')} ORDER BY k.value_day, k.number LIMIT 2) AS o"
    f"{_MAY_BE_TAKEN} AND (i.side = 2 OR i.value_day <= %(until)s)"
    f" AND NOT {_REFERRED_TO.format(side='i.side', number='i.number')}"
)
_REFERRED = (
    f"SELECT i.number, i.amount, i.batch_size, o.number, o.amount{_GIVEN} CROSS JOIN LATERAL"  # noqa: S608
    " (SELECT DISTINCT k.number, k.amount FROM unnest(i.refs) AS r(reference) CROSS JOIN LATERAL"
    f" (SELECT k.number, k.amount {_KEYS} AND k.key = r.reference AND k.side = 1 LIMIT {BATCH_MAX + 1}) AS k"
    f" LIMIT {BATCH_MAX + 1}) AS o{_MAY_BE_TAKEN}"
)
_REFERRED_ELSEWHERE = (
    "SELECT DISTINCT n.number FROM unnest(%(numbers)s::bigint[], %(by)s::bigint[]) AS n(number, by)"  # noqa: S608
    " CROSS JOIN LATERAL (SELECT i.refs FROM reconciliation_items AS i WHERE i.tenant = %(tenant)s"
    " AND i.account = %(account)s AND i.side = 1 AND i.number = n.number OFFSET 0) AS i"
    " CROSS JOIN LATERAL unnest(i.refs) AS r(reference) CROSS JOIN LATERAL"
    f" (SELECT 1 {_KEYS} AND k.key = r.reference AND k.side = 2 AND k.number <> n.by LIMIT 1) AS o"
)
_BATCH_DAY = f"SELECT k.value_day {_KEYS} AND k.key > %(after)s AND k.key < '$' ORDER BY k.key LIMIT 1"
_BATCHES_OF_DAY = (
    "SELECT b.number, i.amount, i.batch_size,"  # noqa: S608
    f" EXISTS (SELECT 1 {_KEYS} AND k.key = '' AND k.side = 1 AND k.amount = -i.amount"
    " AND k.value_day BETWEEN %(day)s::date - %(days)s::integer AND %(day)s::date + %(days)s::integer"
    f" AND NOT {_REFERRED_TO.format(side='k.side', number='k.number')})"
    f" FROM (SELECT k.*, count(*) OVER () AS found FROM (SELECT k.number, k.side {_KEYS} AND k.key = %(key)s"
    f" AND k.side = 2 LIMIT {10 * PARTS_MAX + 1}) AS k) AS b CROSS JOIN LATERAL (SELECT i.amount, i.batch_size"
    " FROM reconciliation_items AS i WHERE i.tenant = %(tenant)s AND i.account = %(account)s AND i.side = 2"
    " AND i.number = b.number OFFSET 0) AS i"
    f" WHERE b.found <= {10 * PARTS_MAX} AND NOT {_REFERRED_TO.format(side='b.side', number='b.number')}"
    f" ORDER BY b.number LIMIT {PARTS_MAX + 1}"
)
# What might be one of a pair, though not the only one, is not taken for a part of a batch.
_PARTS_OF_DAY = (
    f"SELECT p.number, p.amount FROM (SELECT k.* {_KEYS} AND k.key = '' AND k.side = 1"  # noqa: S608
    " AND k.value_day = %(day)s OFFSET 0) AS p"
    f" WHERE NOT {_REFERRED_TO.format(side='p.side', number='p.number')}"
    f" AND NOT EXISTS (SELECT 1 {_KEYS} AND k.key = '' AND k.side = 2 AND k.amount = -p.amount"
    " AND k.value_day BETWEEN p.value_day - %(days)s::integer AND p.value_day + %(days)s::integer)"
    f" ORDER BY p.number LIMIT {2 * PARTS_MAX + 1}"
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
    """(item, item of the other side) with opposite amounts and value days within a window's days, as above; none that
    the other side refers to. Also those of ours after the window's end: they may be what one of the bank's is."""
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
    asked = {
        "numbers": [ledger for _, ledger in edges],
        "by": [bank for bank, _ in edges],
        "tenant": tenant,
        "account": account,
    }
    return {row[0] for row in await fetch(conn, _REFERRED_ELSEWHERE, asked)}


async def batch_day(conn: AsyncConnection, tenant: str, account: str, *, after: date) -> date | None:
    """The next day, after one, on which the bank has batches that the rules may take; None for none."""
    asked = {"tenant": tenant, "account": account, "after": batch_key(after)}
    rows = await fetch(conn, _BATCH_DAY, asked)
    return rows[0][0] if rows else None


async def batches_of_day(
    conn: AsyncConnection, tenant: str, account: str, day: date, *, days: int
) -> tuple[dict[int, tuple[int, int]], dict[int, int], set[int]]:
    """The bank's batches of a day, with amount and size, and those of ours that may be in one, with their amounts; one
    more than the rules go by at most. And which of the batches one of ours comes to alone. None of a day that has so
    many that one which is not looked at might be the same sum."""
    asked = {"tenant": tenant, "account": account, "key": batch_key(day), "day": day, "days": days}
    batches = await fetch(conn, _BATCHES_OF_DAY, asked)
    parts = await fetch(conn, _PARTS_OF_DAY, asked) if batches else []
    return (
        {number: (amount, size) for number, amount, size, _ in batches},
        dict(parts),
        {number for number, *_, alike in batches if alike},
    )


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
