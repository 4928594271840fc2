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
    "INSERT INTO reconciliation_keys (tenant, account, key, side, amount, value_day, number)"
    " SELECT %s, %s, k.key, k.side, k.amount, k.value_day::date, k.number"
    " FROM unnest(%s::text[], %s::smallint[], %s::bigint[], %s::text[], %s::bigint[])"
    " AS k(key, side, amount, value_day, number)"
)
# Tenant and account come with each row: as constants they would let a plan begin with all that the account has.
_REMOVE_KEYS = (
    "DELETE FROM reconciliation_keys AS d USING unnest(%s::text[], %s::text[], %s::text[], %s::smallint[],"
    " %s::bigint[], %s::text[], %s::bigint[]) AS k(tenant, account, key, side, amount, value_day, number)"
    " WHERE d.tenant = k.tenant AND d.account = k.account AND d.key = k.key AND d.side = k.side"
    " AND d.amount = k.amount AND d.value_day = k.value_day::date AND d.number = k.number"
)
_ADD_UNMATCHED = (
    "INSERT INTO unmatched_items (tenant, account, side, number, amount, resolved)"
    " SELECT %s, %s, k.side, k.number, k.amount, %s FROM unnest(%s::smallint[], %s::bigint[], %s::bigint[])"
    " AS k(side, number, amount)"
)
_REMOVE_UNMATCHED = (
    "DELETE FROM unmatched_items AS d USING unnest(%s::text[], %s::text[], %s::smallint[], %s::bigint[])"
    " AS k(tenant, account, side, number) WHERE d.tenant = k.tenant AND d.account = k.account AND d.side = k.side"
    " AND d.number = k.number"
)
_SET_ITEMS = (
    "UPDATE reconciliation_items AS i SET state = %s, match = k.match, manual = i.manual OR %s"
    " FROM unnest(%s::text[], %s::text[], %s::smallint[], %s::bigint[], %s::uuid[])"
    " AS k(tenant, account, side, number, match)"
    " WHERE i.tenant = k.tenant AND i.account = k.account AND i.side = k.side AND i.number = k.number"
)
_ADD_STATED = (
    "INSERT INTO stated_references (tenant, account, reference, amount, number) SELECT %s, %s, k.reference, k.amount,"
    " k.number FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS k(reference, amount, number)"
)
# Of many with the same reference and amount the last ones tell.
_STATED = (
    "SELECT DISTINCT k.position FROM unnest(%(references)s::text[], %(amounts)s::bigint[], %(refs)s::text[])"
    " WITH ORDINALITY AS k(reference, amount, refs, position) CROSS JOIN LATERAL"
    " (SELECT s.number FROM stated_references AS s WHERE s.tenant = %(tenant)s AND s.account = %(account)s"
    " AND s.reference = k.reference AND s.amount = k.amount ORDER BY s.number DESC LIMIT 20) AS s CROSS JOIN LATERAL"
    " (SELECT i.refs FROM reconciliation_items AS i WHERE i.tenant = %(tenant)s AND i.account = %(account)s"
    " AND i.side = 2 AND i.number = s.number OFFSET 0) AS i WHERE i.refs = string_to_array(k.refs, ' ')"
)
_ITEMS = (
    f"SELECT {_ITEM} FROM unnest(%(sides)s::smallint[], %(numbers)s::bigint[]) AS k(s, n) CROSS JOIN LATERAL"  # noqa: S608
    " (SELECT * FROM reconciliation_items AS i WHERE i.tenant = %(tenant)s AND i.account = %(account)s"
    " AND i.side = k.s AND i.number = k.n OFFSET 0) AS i ORDER BY side, number"
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
    own = [(at, item) for at, item in enumerate(items) if item.servicer_reference]
    rows = await fetch(
        conn,
        _STATED,
        {
            "references": [item.servicer_reference for _, item in own],
            "amounts": [item.amount for _, item in own],
            "refs": [" ".join(item.references) for _, item in own],
            "tenant": tenant,
            "account": account,
        },
    )
    return {own[row[0] - 1][0] for row in rows}


async def add_items(conn: AsyncConnection, tenant: str, account: str, items: Sequence[Item]) -> None:
    """Adds open items with the keys that the rules find them by."""
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
    await _add_unmatched(conn, tenant, account, items, resolved=False)
    await _add_keys(conn, tenant, account, items)
    own = [item for item in items if item.servicer_reference]
    if own:
        columns = ([one.servicer_reference for one in own], [one.amount for one in own], [one.number for one in own])
        await execute(conn, _ADD_STATED, (tenant, account, *columns))


async def set_items(
    conn: AsyncConnection,
    tenant: str,
    account: str,
    changed: Sequence[tuple[Item, str | None]],
    state: ItemState,
    *,
    manual: bool = False,
) -> None:
    """Gives items, as they were, a state and each its match. The rules find them as long as nothing is decided: what
    they may not take, such as what is `manual`, can be what another item belongs to all the same."""
    items = [item for item, _ in changed]
    matches = [None if match is None else uuid.UUID(match) for _, match in changed]
    sides, numbers = _columns([(item.side, item.number) for item in items])
    within = ([tenant] * len(items), [account] * len(items))
    keys = _key_columns(items)
    await execute(conn, _REMOVE_KEYS, ([tenant] * len(keys[0]), [account] * len(keys[0]), *keys))
    await execute(conn, _REMOVE_UNMATCHED, (*within, sides, numbers))
    await execute(conn, _SET_ITEMS, (state.value, manual, *within, sides, numbers, matches))
    if state is not ItemState.MATCHED:
        await _add_unmatched(conn, tenant, account, items, resolved=state is ItemState.RESOLVED)
    if state in (ItemState.OPEN, ItemState.PROPOSED):
        await _add_keys(conn, tenant, account, items)


async def items(conn: AsyncConnection, tenant: str, account: str, places: Collection[Place]) -> list[Item]:
    """Those of the items that exist, by side and number."""
    sides, numbers = _columns(list(places))
    asked = {"sides": sides, "numbers": numbers, "tenant": tenant, "account": account}
    return [_to_item(row) for row in await fetch(conn, _ITEMS, asked)]


async def _add_unmatched(
    conn: AsyncConnection, tenant: str, account: str, items: Sequence[Item], *, resolved: bool
) -> None:
    sides, numbers = _columns([(item.side, item.number) for item in items])
    amounts = [item.amount for item in items]
    await execute(conn, _ADD_UNMATCHED, (tenant, account, resolved, sides, numbers, amounts))


async def _add_keys(conn: AsyncConnection, tenant: str, account: str, items: Sequence[Item]) -> None:
    """Lets the rules find the items, but for what was stated before: it is no other entry."""
    await execute(conn, _ADD_KEYS, (tenant, account, *_key_columns([item for item in items if not item.duplicate])))


def _key_columns(items: Sequence[Item]) -> tuple[list[str], list[int], list[int], list[str], list[int]]:
    keys = [(key, item) for item in items for key in item.keys]
    return (
        [key for key, _ in keys],
        [item.side.value for _, item in keys],
        [item.amount for _, item in keys],
        [item.value_day.isoformat() for _, item in keys],
        [item.number for _, item in keys],
    )


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
        where, values = f"{where} AND u.side = %s", [*values, asked.side.value]
    if asked.until is not None:
        where, values = f"{where} AND i.value_day <= %s", [*values, asked.until]
    if asked.reference:
        where, values = f"{where} AND i.refs @> ARRAY[%s]::text[]", [*values, asked.reference]
    rows = await fetch(
        conn,
        f"SELECT {_ITEM} FROM (SELECT i.* FROM unmatched_items AS u CROSS JOIN LATERAL"  # noqa: S608 - constants
        " (SELECT * FROM reconciliation_items AS i WHERE i.tenant = u.tenant AND i.account = u.account"
        " AND i.side = u.side AND i.number = u.number OFFSET 0) AS i WHERE u.tenant = %s AND u.account = %s"
        f" AND NOT u.resolved AND (u.side, u.number) > (%s, %s) {where} ORDER BY u.side, u.number LIMIT %s) AS i"
        " ORDER BY side, number",
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
