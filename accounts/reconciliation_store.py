"""SQL of reconciliations, banks' statements and items; takes a connection, gives model objects, decides nothing.

Whoever changes anything has locked the account's row of `reconciliations`.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.reconciliation_model import (
    BankStatement,
    Books,
    Head,
    Item,
    ItemState,
    Notice,
    Side,
    StatementState,
)
from meshkit.database import execute, fetch

Place = tuple[Side, int]
"""An item within its account."""

BOOKS = (
    "tenant, account, bank_opening, ledger_opening, opening_sequence, bank_closing, period_end, bank_number,"
    " statements, bank_entries, ledger_sequence, matched_statements, matched_sequence"
)
"""The columns of a reconciliation, in the order of its fields."""
_STATEMENT = (
    "tenant, statement::text, account, number, message_id, statement_id, bank_number, identifier, currency,"
    " period_start, period_end, opening, closing, content, entry_count, first_entry, duplicate_count, notices, state,"
    " imported_by, create_time, match_time"
)
_ITEM = (
    "side, number, amount, value_day, refs, state, match::text, manual, duplicate, batch_size, journal::text,"
    " statement::text, entry_reference, servicer_reference, description"
)
_ADD_ITEMS = (
    "INSERT INTO reconciliation_items (tenant, account, side, number, amount, value_day, refs, manual, duplicate,"
    " batch_size, journal, statement, entry_reference, servicer_reference, description)"
    " SELECT %s, %s, k.side, k.number, k.amount, k.value_day::date, string_to_array(k.refs, ' '), k.manual, k.manual,"
    " k.batch_size, k.journal, k.statement, k.entry_reference, k.servicer_reference, k.description"
    " FROM unnest(%s::smallint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::boolean[], %s::integer[],"
    " %s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::bytea[]) AS k(side, number, amount, value_day, refs, manual,"
    " batch_size, journal, statement, entry_reference, servicer_reference, description)"
)
_ADD_KEYS = (
    "INSERT INTO reconciliation_keys (tenant, account, reference, side, amount, number)"
    " SELECT i.tenant, i.account, r.reference, i.side, i.amount, i.number"
    " FROM unnest(%s::smallint[], %s::bigint[]) AS k(side, number)"
    " JOIN reconciliation_items AS i ON i.tenant = %s AND i.account = %s AND i.side = k.side AND i.number = k.number"
    " CROSS JOIN LATERAL unnest(i.refs) AS r(reference) WHERE i.state = 1 AND NOT i.manual"
)
_REMOVE_KEYS = (
    "DELETE FROM reconciliation_keys AS d USING (SELECT i.side, i.number, i.amount, r.reference"
    " FROM unnest(%s::smallint[], %s::bigint[]) AS k(side, number)"
    " JOIN reconciliation_items AS i ON i.tenant = %s AND i.account = %s AND i.side = k.side AND i.number = k.number"
    " CROSS JOIN LATERAL unnest(i.refs) AS r(reference)) AS g WHERE d.tenant = %s AND d.account = %s"
    " AND d.reference = g.reference AND d.side = g.side AND d.amount = g.amount AND d.number = g.number"
)
_SET_ITEMS = (
    "UPDATE reconciliation_items AS i SET state = %s, match = k.match, manual = i.manual OR %s"
    " FROM unnest(%s::smallint[], %s::bigint[], %s::uuid[]) AS k(side, number, match)"
    " WHERE i.tenant = %s AND i.account = %s AND i.side = k.side AND i.number = k.number"
)
_STATED = (
    "SELECT k.position FROM unnest(%s::text[], %s::bigint[], %s::text[]) WITH ORDINALITY"
    " AS k(reference, amount, refs, position) WHERE EXISTS (SELECT 1 FROM reconciliation_items AS i"
    " WHERE i.tenant = %s AND i.account = %s AND i.servicer_reference = k.reference AND i.servicer_reference <> ''"
    " AND i.amount = k.amount AND i.refs = string_to_array(k.refs, ' '))"
)


async def books(conn: AsyncConnection, tenant: str, account: str, *, lock: bool = False) -> Books | None:
    """The reconciliation of an account, locked if asked; None before its first statement."""
    rows = await fetch(
        conn,
        f"SELECT {BOOKS} FROM reconciliations WHERE tenant = %s AND account = %s"  # noqa: S608 - constants
        f" {'FOR NO KEY UPDATE' if lock else ''}",
        (tenant, account),
    )
    return Books(*rows[0]) if rows else None


async def add_books(conn: AsyncConnection, added: Books) -> bool:
    """Begins a reconciliation; False if there is one. Who begins the same one meanwhile is waited for."""
    rows = await fetch(
        conn,
        f"INSERT INTO reconciliations ({BOOKS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"  # noqa: S608
        " ON CONFLICT DO NOTHING RETURNING 1",
        _books_values(added),
    )
    return bool(rows)


async def save_books(conn: AsyncConnection, changed: Books) -> None:
    """Writes how far a reconciliation is that was read with a lock."""
    await execute(
        conn,
        "UPDATE reconciliations SET bank_closing = %s, period_end = %s, bank_number = %s, statements = %s,"
        " bank_entries = %s, ledger_sequence = %s, matched_statements = %s, matched_sequence = %s"
        " WHERE tenant = %s AND account = %s",
        (*_books_values(changed)[5:], changed.tenant, changed.account),
    )


async def due(conn: AsyncConnection) -> list[tuple[str, str]]:
    """(tenant, account) of the reconciliations that have a statement or entries which the rules did not go over."""
    rows = await fetch(
        conn,
        "SELECT r.tenant, r.account FROM reconciliations AS r JOIN accounts AS a USING (tenant, account)"
        " WHERE r.statements > r.matched_statements OR a.sequence > r.matched_sequence ORDER BY r.tenant, r.account",
    )
    return [(row[0], row[1]) for row in rows]


async def sequence(conn: AsyncConnection, tenant: str, account: str) -> int:
    """The sequence of an account's last entry; what is read after this has all entries up to it."""
    rows = await fetch(conn, "SELECT sequence FROM accounts WHERE tenant = %s AND account = %s", (tenant, account))
    return int(rows[0][0])


async def currency(conn: AsyncConnection, tenant: str, account: str) -> str:
    """An account's currency."""
    rows = await fetch(conn, "SELECT currency FROM accounts WHERE tenant = %s AND account = %s", (tenant, account))
    return str(rows[0][0])


async def add_statement(conn: AsyncConnection, added: BankStatement) -> None:
    """Adds a statement."""
    head = added.head
    await execute(
        conn,
        "INSERT INTO bank_statements (tenant, statement, account, number, message_id, statement_id, bank_number,"
        " identifier, currency, period_start, period_end, opening, closing, content, entry_count, first_entry,"
        " duplicate_count, notices, state, imported_by, create_time) VALUES"
        " (%s, %s::uuid, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::bigint[], %s, %s, %s)",
        (
            *(added.tenant, added.id, added.account, added.number, head.message_id, head.statement_id),
            *(head.bank_number, head.identifier, head.currency, head.first, head.last, head.opening, head.closing),
            *(added.content, added.entry_count, added.first_entry, added.duplicate_count),
            *([one.value for one in added.notices], added.state.value, added.imported_by, added.create_time),
        ),
    )


async def statement(
    conn: AsyncConnection, tenant: str, *, key: str = "", account: str = "", statement_id: str = ""
) -> BankStatement | None:
    """A statement by its id `key`, or by the account and how the bank calls it."""
    where = "statement = %s::uuid" if key else "account = %s AND statement_id = %s"
    rows = await fetch(
        conn,
        f"SELECT {_STATEMENT} FROM bank_statements WHERE tenant = %s AND {where}",  # noqa: S608 - constants
        (tenant, key) if key else (tenant, account, statement_id),
    )
    return _to_statement(rows[0]) if rows else None


async def list_statements(
    conn: AsyncConnection, tenant: str, account: str, *, before: int, limit: int
) -> list[BankStatement]:
    """An account's statements, the newest first, with numbers below `before`."""
    rows = await fetch(
        conn,
        f"SELECT {_STATEMENT} FROM bank_statements WHERE tenant = %s AND account = %s AND number < %s"  # noqa: S608
        " ORDER BY number DESC LIMIT %s",
        (tenant, account, before, limit),
    )
    return [_to_statement(row) for row in rows]


async def end_statements(
    conn: AsyncConnection, tenant: str, account: str, *, after: int, up_to: int, now: datetime
) -> list[BankStatement]:
    """Notes that the rules went over the statements with numbers above `after`, up to `up_to`; gives them."""
    rows = await fetch(
        conn,
        "UPDATE bank_statements SET state = 2, match_time = %s WHERE tenant = %s AND account = %s AND number > %s"  # noqa: S608
        f" AND number <= %s AND state = 1 RETURNING {_STATEMENT}",
        (now, tenant, account, after, up_to),
    )
    return sorted((_to_statement(row) for row in rows), key=lambda one: one.number)


async def stated(conn: AsyncConnection, tenant: str, account: str, items: Sequence[Item]) -> set[int]:
    """The places of those items that look like entries of the bank which are there."""
    rows = await fetch(
        conn,
        _STATED,
        (
            [item.servicer_reference for item in items],
            [item.amount for item in items],
            [" ".join(item.references) for item in items],
            *(tenant, account),
        ),
    )
    return {row[0] - 1 for row in rows}


async def add_items(conn: AsyncConnection, tenant: str, account: str, items: Sequence[Item]) -> None:
    """Adds open items, and keys of those that the rules may take."""
    await execute(
        conn,
        _ADD_ITEMS,
        (
            *(tenant, account),
            [item.side.value for item in items],
            [item.number for item in items],
            [item.amount for item in items],
            [item.value_day.isoformat() for item in items],
            [" ".join(item.references) for item in items],
            [item.manual for item in items],
            [item.batch_size for item in items],
            [None if item.journal is None else uuid.UUID(item.journal) for item in items],
            [None if item.statement is None else uuid.UUID(item.statement) for item in items],
            [item.entry_reference for item in items],
            [item.servicer_reference for item in items],
            [item.description for item in items],
        ),
    )
    await add_keys(conn, tenant, account, [(item.side, item.number) for item in items if not item.manual])


async def add_keys(conn: AsyncConnection, tenant: str, account: str, places: Sequence[Place]) -> None:
    """Lets the rules find those of the items that are open and that they may take."""
    await execute(conn, _ADD_KEYS, (*_columns(places), tenant, account))


async def set_items(
    conn: AsyncConnection,
    tenant: str,
    account: str,
    places: Sequence[tuple[Side, int, str | None]],
    state: ItemState,
    *,
    manual: bool = False,
) -> None:
    """Gives items, each with its match, a state. The rules find those that are open again, unless they are `manual`."""
    plain = [(side, number) for side, number, _ in places]
    matches = [None if match is None else uuid.UUID(match) for _, _, match in places]
    await execute(conn, _REMOVE_KEYS, (*_columns(plain), tenant, account, tenant, account))
    await execute(conn, _SET_ITEMS, (state.value, manual, *_columns(plain), matches, tenant, account))
    if state is ItemState.OPEN:
        await add_keys(conn, tenant, account, plain)


async def items(conn: AsyncConnection, tenant: str, account: str, places: Collection[Place]) -> list[Item]:
    """Those of the items that exist, by side and number."""
    rows = await fetch(
        conn,
        f"SELECT {_ITEM} FROM unnest(%s::smallint[], %s::bigint[]) AS k(side, number)"  # noqa: S608 - constants
        " JOIN reconciliation_items AS i USING (side, number) WHERE i.tenant = %s AND i.account = %s"
        " ORDER BY side, number",
        (*_columns(list(places)), tenant, account),
    )
    return [_to_item(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which open items are asked for."""

    side: Side | None = None
    until: date | None = None
    """The last value day."""
    reference: str = ""
    """As it is compared; empty for any."""


async def open_items(
    conn: AsyncConnection, tenant: str, account: str, asked: Filter, *, after: tuple[int, int], limit: int
) -> list[Item]:
    """Open and proposed items by side and number, from behind `after` on."""
    where, values = "", list[object]()
    if asked.side is not None:
        where, values = f"{where} AND side = %s", [*values, asked.side.value]
    if asked.until is not None:
        where, values = f"{where} AND value_day <= %s", [*values, asked.until]
    if asked.reference:
        where, values = f"{where} AND refs @> ARRAY[%s]::text[]", [*values, asked.reference]
    rows = await fetch(
        conn,
        f"SELECT {_ITEM} FROM reconciliation_items WHERE tenant = %s AND account = %s AND state IN (1, 2)"  # noqa: S608
        f" AND (side, number) > (%s, %s) {where} ORDER BY side, number LIMIT %s",
        (tenant, account, *after, *values, limit),
    )
    return [_to_item(row) for row in rows]


def _columns(places: Sequence[Place]) -> tuple[list[int], list[int]]:
    return [side.value for side, _ in places], [number for _, number in places]


def _books_values(one: Books) -> tuple[object, ...]:
    return (
        *(one.tenant, one.account, one.bank_opening, one.ledger_opening, one.opening_sequence, one.bank_closing),
        *(one.period_end, one.bank_number, one.statements, one.bank_entries, one.ledger_sequence),
        *(one.matched_statements, one.matched_sequence),
    )


def _to_statement(row: Sequence[Any]) -> BankStatement:
    tenant, id_, account, number, message, statement_id, bank_number, identifier, currency, *rest = row
    first, last, opening, closing, content, entries, first_entry, duplicates, told, state, *rest = rest
    head = Head(message, statement_id, bank_number, identifier, currency, first, last, opening, closing)
    return BankStatement(
        *(tenant, id_, account, number, head, bytes(content), entries, first_entry, duplicates),
        tuple(Notice(one) for one in told),
        StatementState(state),
        *rest,
    )


def _to_item(row: Sequence[Any]) -> Item:
    side, number, amount, value_day, refs, state, match, manual, duplicate, batch_size, *rest = row
    journal, statement_id, entry_reference, servicer_reference, description = rest
    return Item(
        side=Side(side),
        number=number,
        amount=amount,
        value_day=value_day,
        references=tuple(refs),
        state=ItemState(state),
        match=match,
        manual=manual,
        duplicate=duplicate,
        batch_size=batch_size,
        journal=journal,
        statement=statement_id,
        entry_reference=entry_reference,
        servicer_reference=servicer_reference,
        description=bytes(description),
    )
