"""All SQL about files of payments: set-based, in lots; a file's row is locked before its items are changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock
from meshkit.cipher import Cipher
from meshkit.database import execute, fetch
from meshkit.filters import Condition
from meshkit.identity import Principal
from transactions import columns, listing
from transactions.file_model import FileFormat, FileState, Item, ItemState, PaymentFile

PARTY, REQUEST = "payment_files.initiating_party", "payment_file_items.request"

_COLUMNS = (
    "tenant, id, version, state, format, subject, customer, scopes, message_id, message_key, initiating_party, sha256,"
    " size_bytes, items, waiting, under_way, completed, declined, refused, cancelled, create_time, update_time,"
    " finish_time, attempts"
)
_ITEM_COLUMNS = (
    "number, line, state, information_id, instruction_id, end_to_end_id, amount, currency, request, transfer, status"
)
_INSERT_ITEMS = (
    "INSERT INTO payment_file_items (tenant, file, number, line, state, information_id, instruction_id, end_to_end_id,"
    " amount, currency, request, status) SELECT %s, %s, n.* FROM unnest(%s::integer[], %s::integer[], %s::text[],"
    " %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[], %s::bytea[]) AS n"
)
_END_ITEMS = (
    "UPDATE payment_file_items AS i SET state = n.state, transfer = n.transfer, status = n.status, request = NULL"
    " FROM unnest(%s::integer[], %s::text[], %s::text[], %s::bytea[]) AS n(number, state, transfer, status)"
    " WHERE i.tenant = %s AND i.file = %s AND i.number = n.number AND i.state = 'UNDER_WAY' RETURNING n.state"
)


async def insert(conn: AsyncConnection, cipher: Cipher, file: PaymentFile) -> bool:
    """Records a file; whether neither it nor its identification was there."""
    rows = await fetch(
        conn,
        "INSERT INTO payment_files (tenant, id, version, state, format, subject, customer, scopes, message_id,"
        " message_key, initiating_party, sha256, size_bytes, items, waiting, refused, create_time, update_time,"
        " due_time) VALUES (%s, %s, 1, 'PROCESSING', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, now())"
        " ON CONFLICT DO NOTHING RETURNING 1",
        (
            file.tenant,
            file.id,
            file.format.value,
            file.principal.subject,
            file.principal.customer,
            " ".join(sorted(file.principal.scopes)),
            file.message_id,
            file.message_key,
            cipher.encrypt(file.initiating_party, PARTY),
            file.sha256,
            file.size_bytes,
            file.items,
            file.counts[ItemState.WAITING],
            file.counts[ItemState.REFUSED],
            file.create_time,
            file.update_time,
        ),
    )
    return bool(rows)


async def insert_items(conn: AsyncConnection, file: PaymentFile, items: Sequence[Item]) -> None:
    """Records items; their requests are sealed already."""
    await execute(
        conn,
        _INSERT_ITEMS,
        (
            file.tenant,
            file.id,
            [item.number for item in items],
            [item.line for item in items],
            [item.state.value for item in items],
            [item.information_id for item in items],
            [item.instruction_id for item in items],
            [item.end_to_end_id for item in items],
            [item.amount for item in items],
            [item.currency for item in items],
            [item.request or None for item in items],
            [columns.status_bytes(item.status) for item in items],
        ),
    )


async def get(
    conn: AsyncConnection, cipher: Cipher, tenant: str, id_: str, *, lock: bool = False
) -> PaymentFile | None:
    """One file, locked if asked for; None when there is none."""
    statement = f"SELECT {_COLUMNS} FROM payment_files WHERE tenant = :tenant AND id = :id"  # noqa: S608
    row = (await conn.execute(text(statement + (" FOR UPDATE" if lock else "")), {"tenant": tenant, "id": id_})).first()
    return _file(row, cipher) if row is not None else None


async def find_by_message(conn: AsyncConnection, tenant: str, message_key: object) -> str:
    """The id of the file that was taken under an identification."""
    rows = await conn.execute(
        text("SELECT id FROM payment_files WHERE tenant = :tenant AND message_key = :key"),
        {"tenant": tenant, "key": message_key},
    )
    return str(rows.scalar_one())


async def list_page(
    conn: AsyncConnection,
    cipher: Cipher,
    *,
    tenant: str,
    customer: str | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[PaymentFile]:
    """A page of files, the newest first."""
    conditions = [Condition("customer", "=", customer)] if customer is not None else []
    rows = await listing.page(
        conn,
        table="payment_files",
        columns=_COLUMNS,
        fields={"customer": "customer"},
        tenant=tenant,
        customer=None,
        conditions=conditions,
        after=after,
        limit=limit,
    )
    return [_file(row, cipher) for row in rows]


async def items(
    conn: AsyncConnection,
    cipher: Cipher,
    file: PaymentFile,
    *,
    after: int = 0,
    limit: int,
    states: Sequence[ItemState] = (),
    to_ask: bool | None = None,
    requests: bool = True,
) -> list[Item]:
    """Items in their order, of some states if asked for; `to_ask`: only those whose request is still to be asked for,
    or only those that have their transfer. Who only tells of them leaves the requests, which are sealed, out."""
    where = ""
    if to_ask is not None:
        where = " AND transfer = ''" if to_ask else " AND transfer <> ''"
    if states:
        where += f" AND state IN ({', '.join(f"'{state.value}'" for state in states)})"
    columns = _ITEM_COLUMNS if requests else _ITEM_COLUMNS.replace(" request,", " NULL,")
    rows = await fetch(
        conn,
        f"SELECT {columns} FROM payment_file_items WHERE tenant = %s AND file = %s AND number > %s{where}"  # noqa: S608
        " ORDER BY number LIMIT %s",
        (file.tenant, file.id, after, limit),
    )
    return [_item(row, cipher) for row in rows]


async def take_due(conn: AsyncConnection, cipher: Cipher, *, lease_seconds: float) -> PaymentFile | None:
    """Takes the file that is due for longest for this replica, until the lease is over; None when none is due."""
    rows = await fetch(
        conn,
        "WITH due AS (SELECT tenant, id FROM payment_files WHERE due_time <= now() ORDER BY due_time LIMIT 1"  # noqa: S608
        " FOR UPDATE SKIP LOCKED) UPDATE payment_files AS f SET due_time = now() + make_interval(secs => %s)"
        " FROM due WHERE f.tenant = due.tenant AND f.id = due.id RETURNING " + columns.of("f", _COLUMNS),
        (lease_seconds,),
    )
    return _file(rows[0], cipher) if rows else None


async def begin(conn: AsyncConnection, file: PaymentFile, items: Sequence[Item]) -> None:
    """Notes, before anything of them is done, that items begin: what has begun is not cancelled any more."""
    begun = await fetch(
        conn,
        "UPDATE payment_file_items SET state = 'UNDER_WAY' WHERE tenant = %s AND file = %s"
        " AND number = ANY(%s::integer[]) AND state = 'WAITING' RETURNING 1",
        (file.tenant, file.id, [item.number for item in items]),
    )
    await _count(conn, file, Counter({ItemState.WAITING: -len(begun), ItemState.UNDER_WAY: len(begun)}))


async def cancel_waiting(conn: AsyncConnection, file: PaymentFile, limit: int) -> int:
    """Ends items that have not begun; gives how many."""
    ended = await fetch(
        conn,
        "UPDATE payment_file_items SET state = 'CANCELLED', request = NULL WHERE tenant = %s AND file = %s"
        " AND number IN (SELECT number FROM payment_file_items WHERE tenant = %s AND file = %s AND state = 'WAITING'"
        " ORDER BY number LIMIT %s) RETURNING 1",
        (file.tenant, file.id, file.tenant, file.id, limit),
    )
    await _count(conn, file, Counter({ItemState.WAITING: -len(ended), ItemState.CANCELLED: len(ended)}))
    return len(ended)


async def record(conn: AsyncConnection, file: PaymentFile, items: Sequence[Item]) -> None:
    """Writes what became of items that are under way; those that others wrote meanwhile are left as they are."""
    if not items:
        return
    written = await fetch(
        conn,
        _END_ITEMS,
        (
            [item.number for item in items],
            [item.state.value for item in items],
            [item.transfer for item in items],
            [columns.status_bytes(item.status) for item in items],
            file.tenant,
            file.id,
        ),
    )
    moved = Counter(ItemState(row[0]) for row in written)
    moved[ItemState.UNDER_WAY] -= len(written)
    await _count(conn, file, moved)


async def postpone(conn: AsyncConnection, file: PaymentFile, seconds: float, *, progressed: bool) -> None:
    """Makes a file due again after some time; where it got no further, later each time it is looked at."""
    await execute(
        conn,
        "UPDATE payment_files SET due_time = now() + make_interval(secs => %s),"
        " attempts = CASE WHEN %s THEN 0 ELSE least(attempts + 1, 20) END"
        " WHERE tenant = %s AND id = %s AND state <> 'FINISHED'",
        (seconds, progressed, file.tenant, file.id),
    )


async def change_state(conn: AsyncConnection, file: PaymentFile) -> None:
    """Writes a file's new state and version; its row is locked, and at the version before."""
    await execute(
        conn,
        "UPDATE payment_files SET state = %s, version = %s, update_time = %s, finish_time = %s, attempts = 0,"
        " due_time = CASE WHEN %s::timestamptz IS NULL THEN now() END WHERE tenant = %s AND id = %s AND version = %s",
        (
            file.state.value,
            file.version,
            file.update_time,
            file.finish_time,
            file.finish_time,
            file.tenant,
            file.id,
            file.version - 1,
        ),
    )


async def _count(conn: AsyncConnection, file: PaymentFile, moved: Counter[ItemState]) -> None:
    if not any(moved.values()):
        return
    await execute(
        conn,
        "UPDATE payment_files SET waiting = waiting + %s, under_way = under_way + %s, completed = completed + %s,"
        " declined = declined + %s, refused = refused + %s, cancelled = cancelled + %s,"
        " update_time = now() + %s::interval WHERE tenant = %s AND id = %s",
        (*(moved[state] for state in ItemState), clock.ahead(), file.tenant, file.id),
    )


def _file(row: Sequence[Any], cipher: Cipher) -> PaymentFile:
    (
        tenant, id_, version, state, format_, subject, customer, scopes, message_id, message_key, party, sha256,
        size_bytes, items_, *counts, create_time, update_time, finish_time, attempts,
    ) = row  # fmt: skip
    return PaymentFile(
        id=id_,
        principal=Principal(tenant, subject, customer, frozenset(scopes.split())),
        format=FileFormat(format_),
        message_id=message_id,
        message_key=message_key,
        initiating_party=cipher.decrypt(party, PARTY),
        sha256=sha256,
        size_bytes=size_bytes,
        items=items_,
        counts=dict(zip(ItemState, counts, strict=True)),
        create_time=create_time,
        update_time=update_time,
        state=FileState(state),
        version=version,
        finish_time=finish_time,
        attempts=attempts,
    )


def _item(row: Sequence[Any], cipher: Cipher) -> Item:
    (
        number, line, state, information_id, instruction_id, end_to_end_id, amount, currency, request, transfer, status,
    ) = row  # fmt: skip
    return Item(
        number=number,
        line=line,
        information_id=information_id,
        instruction_id=instruction_id,
        end_to_end_id=end_to_end_id,
        amount=amount,
        currency=currency,
        state=ItemState(state),
        request=unsealed(cipher, request) if request is not None else b"",
        transfer=transfer,
        status=columns.status_from(status),
    )


def sealed(cipher: Cipher, request: bytes) -> bytes:
    """A request as it stands in an item's row: it names people."""
    return cipher.encrypt(request.hex(), REQUEST)


def unsealed(cipher: Cipher, data: bytes) -> bytes:
    """The request in an item's row."""
    return bytes.fromhex(cipher.decrypt(bytes(data), REQUEST))
