"""All SQL about deposits: set-based, rows locked before they are changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import outbox
from meshkit.cipher import Cipher
from meshkit.database import execute, fetch
from meshkit.filters import Condition
from transactions import columns, listing, rail_events
from transactions.rail_model import Deposit, DepositState
from transactions.withdrawal_store import sealed, unsealed

_PARTIES = "deposits.parties"
_COLUMNS = (
    "tenant, id, version, state, message_id, entry, number, fingerprint, currency, amount, parties, end_to_end_id,"
    " concern, withdrawal, step, target, credit_account, credit_transfer, suspense_transfer, refusal, customers,"
    " create_time, update_time, attempts"
)
_DONE = frozenset({DepositState.CREDITED, DepositState.SUSPENDED})


async def insert(conn: AsyncConnection, cipher: Cipher, deposits: Sequence[Deposit]) -> None:
    """Records new deposits, due at once, with their events."""
    await execute(
        conn,
        "INSERT INTO deposits (tenant, id, version, state, message_id, entry, number, fingerprint, currency, amount,"
        " parties, end_to_end_id, concern, withdrawal, create_time, update_time, due_time)"
        " SELECT n.*, now() FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[],"
        " %s::integer[], %s::bytea[], %s::text[], %s::bigint[], %s::bytea[], %s::text[], %s::text[], %s::text[],"
        " %s::timestamptz[], %s::timestamptz[]) AS n",
        (
            [d.tenant for d in deposits],
            [d.id for d in deposits],
            [d.version for d in deposits],
            [d.state.value for d in deposits],
            [d.message_id for d in deposits],
            [d.entry for d in deposits],
            [d.number for d in deposits],
            [d.fingerprint for d in deposits],
            [d.currency for d in deposits],
            [d.amount for d in deposits],
            [sealed(cipher, d.parties, _PARTIES) for d in deposits],
            [d.end_to_end_id for d in deposits],
            [d.concern for d in deposits],
            [d.withdrawal for d in deposits],
            [d.create_time for d in deposits],
            [d.update_time for d in deposits],
        ),
    )
    await outbox.append(conn, [rail_events.of_deposit(deposit) for deposit in deposits])


async def lock_message(conn: AsyncConnection, tenant: str, message_id: str) -> None:
    """Has whoever takes deposits of the same message wait until this transaction ends."""
    await execute(conn, "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{tenant}/deposits/{message_id}",))


async def known_entries(
    conn: AsyncConnection, tenant: str, message_id: str, entries: Sequence[str]
) -> dict[str, bytes]:
    """Those of a message's entries that were taken before, with their fingerprints."""
    rows = await fetch(
        conn,
        "SELECT DISTINCT entry, fingerprint FROM deposits WHERE tenant = %s AND message_id = %s"
        " AND entry = ANY(%s::text[])",
        (tenant, message_id, list(entries)),
    )
    return {row[0]: bytes(row[1]) for row in rows}


async def get(conn: AsyncConnection, cipher: Cipher, tenant: str, id_: str, *, lock: bool = False) -> Deposit | None:
    """One deposit, locked if asked for; None when there is none."""
    rows = await fetch(
        conn,
        f"SELECT {_COLUMNS} FROM deposits WHERE tenant = %s AND id = %s{' FOR UPDATE' if lock else ''}",  # noqa: S608
        (tenant, id_),
    )
    return _deposit(rows[0], cipher) if rows else None


async def take_due(conn: AsyncConnection, cipher: Cipher, *, limit: int, lease_seconds: float) -> list[Deposit]:
    """Takes deposits that are due for this replica, until the lease is over."""
    rows = await fetch(
        conn,
        "WITH due AS (SELECT tenant, id FROM deposits WHERE due_time <= now() ORDER BY due_time LIMIT %s"  # noqa: S608
        " FOR UPDATE SKIP LOCKED) UPDATE deposits AS d SET due_time = now() + make_interval(secs => %s)"
        " FROM due WHERE d.tenant = due.tenant AND d.id = due.id RETURNING " + columns.of("d", _COLUMNS),
        (limit, lease_seconds),
    )
    return [_deposit(row, cipher) for row in rows]


async def save(conn: AsyncConnection, deposit: Deposit) -> None:
    """Writes a locked deposit in its new state, with its event; due at once while something is to be done."""
    await _write(conn, deposit, 0.0)
    await outbox.append(conn, [rail_events.of_deposit(deposit)])


async def postpone(conn: AsyncConnection, deposit: Deposit, seconds: float) -> None:
    """Writes what a locked deposit's step came to without changing its state, and when to look at it again."""
    await _write(conn, deposit, seconds)


async def _write(conn: AsyncConnection, deposit: Deposit, seconds: float) -> None:
    await execute(
        conn,
        "UPDATE deposits SET version = %s, state = %s, step = %s, target = %s, credit_account = %s,"
        " credit_transfer = %s, suspense_transfer = %s, refusal = %s, customers = %s, update_time = %s, attempts = %s,"
        " due_time = CASE WHEN %s THEN NULL ELSE now() + make_interval(secs => %s) END WHERE tenant = %s AND id = %s",
        (
            deposit.version,
            deposit.state.value,
            deposit.step,
            deposit.target,
            deposit.credit_account,
            deposit.credit_transfer,
            deposit.suspense_transfer,
            columns.status_bytes(deposit.refusal),
            list(deposit.customers),
            deposit.update_time,
            deposit.attempts,
            deposit.state in _DONE,
            seconds,
            deposit.tenant,
            deposit.id,
        ),
    )


async def list_page(
    conn: AsyncConnection,
    cipher: Cipher,
    *,
    tenant: str,
    customer: str | None,
    state: DepositState | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Deposit]:
    """A page of deposits, the newest first."""
    conditions = [Condition("state", "=", state.value)] if state is not None else []
    rows = await listing.page(
        conn,
        table="deposits",
        columns=_COLUMNS,
        fields={"state": "state"},
        tenant=tenant,
        customer=customer,
        conditions=conditions,
        after=after,
        limit=limit,
    )
    return [_deposit(row, cipher) for row in rows]


def _deposit(row: Sequence[Any], cipher: Cipher) -> Deposit:
    (
        tenant, id_, version, state, message_id, entry, number, fingerprint, currency, amount, parties, end_to_end_id,
        concern, withdrawal, step, target, credit_account, credit_transfer, suspense_transfer, refusal, customers,
        create_time, update_time, attempts,
    ) = row  # fmt: skip
    return Deposit(
        tenant=tenant,
        id=id_,
        message_id=message_id,
        entry=entry,
        number=number,
        fingerprint=bytes(fingerprint),
        currency=currency,
        amount=amount,
        parties=unsealed(cipher, parties, _PARTIES),
        end_to_end_id=end_to_end_id,
        create_time=create_time,
        update_time=update_time,
        concern=concern,
        withdrawal=withdrawal,
        state=DepositState(state),
        version=version,
        step=step,
        target=target,
        credit_account=credit_account,
        credit_transfer=credit_transfer,
        suspense_transfer=suspense_transfer,
        refusal=columns.status_from(refusal),
        customers=tuple(customers),
        attempts=attempts,
    )
