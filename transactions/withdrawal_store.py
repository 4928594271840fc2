"""All SQL about withdrawals and the messages that they are sent in: set-based, rows locked in order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from google.rpc import status_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock, outbox
from meshkit.cipher import Cipher
from meshkit.database import execute, fetch
from meshkit.filters import Condition
from meshkit.identity import Principal
from transactions import columns, listing, rail_events
from transactions.model import State
from transactions.rail_model import Message, Parties, Withdrawal, WithdrawalState

_PARTIES, _DATA = "withdrawals.parties", "rail_messages.data"
_COLUMNS = (
    "tenant, id, version, state, subject, customer, scopes, request_key, fingerprint, debit_account, currency, amount,"
    " parties, end_to_end_id, message, rail_status, rail_reason, reversal, deposit, refusal, customers, create_time,"
    " update_time, send_time"
)
_OF_W = columns.of("w", _COLUMNS)
_MESSAGE_COLUMNS = "tenant, id, currency, payments, data, create_time, attempts"


async def insert(conn: AsyncConnection, cipher: Cipher, withdrawal: Withdrawal) -> None:
    """Records a new withdrawal with its event."""
    await execute(
        conn,
        "INSERT INTO withdrawals (tenant, id, version, state, subject, customer, scopes, request_key, fingerprint,"
        " debit_account, currency, amount, parties, end_to_end_id, customers, create_time, update_time)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            withdrawal.tenant,
            withdrawal.id,
            withdrawal.version,
            withdrawal.state.value,
            withdrawal.principal.subject,
            withdrawal.principal.customer,
            " ".join(sorted(withdrawal.principal.scopes)),
            withdrawal.request_key,
            withdrawal.fingerprint,
            withdrawal.debit_account,
            withdrawal.currency,
            withdrawal.amount,
            sealed(cipher, withdrawal.parties, _PARTIES),
            withdrawal.end_to_end_id,
            list(withdrawal.customers),
            withdrawal.create_time,
            withdrawal.update_time,
        ),
    )
    await outbox.append(conn, [rail_events.of_withdrawal(withdrawal)])


async def get(conn: AsyncConnection, cipher: Cipher, tenant: str, id_: str) -> Withdrawal | None:
    """One withdrawal; None when there is none."""
    rows = await fetch(conn, f"SELECT {_COLUMNS} FROM withdrawals WHERE tenant = %s AND id = %s", (tenant, id_))  # noqa: S608
    return _withdrawal(rows[0], cipher) if rows else None


async def find(conn: AsyncConnection, cipher: Cipher, tenant: str, request_key: object) -> Withdrawal | None:
    """The withdrawal that stands under a request_key."""
    rows = await fetch(
        conn,
        f"SELECT {_COLUMNS} FROM withdrawals WHERE tenant = %s AND request_key = %s",  # noqa: S608
        (tenant, request_key),
    )
    return _withdrawal(rows[0], cipher) if rows else None


async def locked(conn: AsyncConnection, cipher: Cipher, tenant: str, ids: Sequence[str]) -> dict[str, Withdrawal]:
    """Those of the withdrawals that exist, locked."""
    rows = await fetch(
        conn,
        f"SELECT {_COLUMNS} FROM withdrawals WHERE tenant = %s AND id = ANY(%s::text[]) ORDER BY id FOR UPDATE",  # noqa: S608
        (tenant, sorted(ids)),
    )
    return {row[1]: _withdrawal(row, cipher) for row in rows}


async def ids_of_message(conn: AsyncConnection, tenant: str, message: str) -> list[str]:
    """The withdrawals of a message."""
    rows = await fetch(
        conn, "SELECT id FROM withdrawals WHERE tenant = %s AND message = %s ORDER BY id", (tenant, message)
    )
    return [row[0] for row in rows]


async def may_lie_there_twice(conn: AsyncConnection, tenant: str, message: str) -> bool:
    """Whether a message was perhaps handed over more than once."""
    rows = await fetch(
        conn, "SELECT 1 FROM rail_messages WHERE tenant = %s AND id = %s AND attempts > 1", (tenant, message)
    )
    return bool(rows)


async def followable(
    conn: AsyncConnection, cipher: Cipher, *, state: WithdrawalState, limit: int, id_: str | None = None
) -> list[tuple[Withdrawal, State, status_pb2.Status | None, tuple[str, ...], str]]:
    """Withdrawals in a state, locked, whose transfer has ended: ACCEPTED ones' own, REJECTED ones' reversal. With that
    transfer's state, refusal, customers and debit account. Those that another replica has are left out."""
    other = "w.id" if state is WithdrawalState.ACCEPTED else "w.reversal"
    only = " AND w.id = %s" if id_ is not None else ""
    rows = await fetch(
        conn,
        f"SELECT {_OF_W}, t.state, t.refusal, t.customers, t.debit_account FROM withdrawals AS w"  # noqa: S608
        f" JOIN transfers AS t ON t.tenant = w.tenant AND t.id = {other}"
        f" WHERE w.state = '{state.value}'{only} AND t.state IN ('COMPLETED', 'DECLINED', 'REVERSED')"
        " ORDER BY w.tenant, w.id LIMIT %s FOR UPDATE OF w SKIP LOCKED",
        (*((id_,) if id_ is not None else ()), limit),
    )
    return [
        (_withdrawal(row[:-4], cipher), State(row[-4]), columns.status_from(row[-3]), tuple(row[-2]), row[-1])
        for row in rows
    ]


async def save(conn: AsyncConnection, changed: Sequence[Withdrawal]) -> None:
    """Writes locked withdrawals in their new states, with their events."""
    await note(conn, changed)
    await outbox.append(conn, [rail_events.of_withdrawal(withdrawal) for withdrawal in changed])


async def note(conn: AsyncConnection, changed: Sequence[Withdrawal]) -> None:
    """Writes what was learned of locked withdrawals."""
    await execute(
        conn,
        "UPDATE withdrawals AS w SET version = n.version, state = n.state, debit_account = n.debit_account,"
        " message = n.message, rail_status = n.rail_status, rail_reason = n.rail_reason, reversal = n.reversal,"
        " deposit = n.deposit, refusal = n.refusal, customers = string_to_array(n.customers, ','),"
        " update_time = n.update_time, send_time = n.send_time"
        " FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],"
        " %s::text[], %s::text[], %s::bytea[], %s::text[], %s::timestamptz[], %s::timestamptz[])"
        " AS n(tenant, id, version, state, debit_account, message, rail_status, rail_reason, reversal, deposit,"
        " refusal, customers, update_time, send_time) WHERE w.tenant = n.tenant AND w.id = n.id",
        (
            [w.tenant for w in changed],
            [w.id for w in changed],
            [w.version for w in changed],
            [w.state.value for w in changed],
            [w.debit_account for w in changed],
            [w.message for w in changed],
            [w.rail_status for w in changed],
            [w.rail_reason for w in changed],
            [w.reversal for w in changed],
            [w.deposit for w in changed],
            [columns.status_bytes(w.refusal) for w in changed],
            [",".join(w.customers) for w in changed],
            [w.update_time for w in changed],
            [w.send_time for w in changed],
        ),
    )


async def list_page(
    conn: AsyncConnection,
    cipher: Cipher,
    *,
    tenant: str,
    customer: str | None,
    state: WithdrawalState | None,
    sent_before: datetime | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Withdrawal]:
    """A page of withdrawals, the newest first."""
    conditions = [Condition("state", "=", state.value)] if state is not None else []
    if sent_before is not None:
        conditions.append(Condition("send_time", "<", sent_before))
    rows = await listing.page(
        conn,
        table="withdrawals",
        columns=_COLUMNS,
        fields={"state": "state", "send_time": "send_time"},
        tenant=tenant,
        customer=customer,
        conditions=conditions,
        after=after,
        limit=limit,
    )
    return [_withdrawal(row, cipher) for row in rows]


async def waiting_currencies(conn: AsyncConnection) -> list[tuple[str, str]]:
    """Tenants and currencies of which something waits for a message."""
    rows = await fetch(
        conn, "SELECT DISTINCT tenant, currency FROM withdrawals WHERE state = 'BOOKED' AND message = '' ORDER BY 1, 2"
    )
    return [(row[0], row[1]) for row in rows]


async def take_waiting(
    conn: AsyncConnection, cipher: Cipher, tenant: str, currency: str, limit: int
) -> list[Withdrawal]:
    """Booked withdrawals that are in no message, the oldest first, locked; without those that another replica has."""
    rows = await fetch(
        conn,
        f"SELECT {_COLUMNS} FROM withdrawals WHERE tenant = %s AND currency = %s AND state = 'BOOKED'"  # noqa: S608
        " AND message = '' ORDER BY create_time, id LIMIT %s FOR UPDATE SKIP LOCKED",
        (tenant, currency, limit),
    )
    return [_withdrawal(row, cipher) for row in rows]


async def insert_message(conn: AsyncConnection, cipher: Cipher, message: Message, ids: Sequence[str]) -> None:
    """Records a message, to be sent at once, and that locked withdrawals are in it."""
    await execute(
        conn,
        "INSERT INTO rail_messages (tenant, id, currency, payments, data, create_time, due_time)"
        " VALUES (%s, %s, %s, %s, %s, %s, now())",
        (
            message.tenant,
            message.id,
            message.currency,
            message.payments,
            cipher.encrypt(message.data.decode(), _DATA),
            message.create_time,
        ),
    )
    await execute(
        conn,
        "UPDATE withdrawals SET message = %s WHERE tenant = %s AND id = ANY(%s::text[])",
        (message.id, message.tenant, list(ids)),
    )


async def take_message(conn: AsyncConnection, cipher: Cipher, *, lease_seconds: float) -> Message | None:
    """Takes the message that is due for longest for this replica, until the lease is over, later each time; None when
    none is due."""
    rows = await fetch(
        conn,
        "WITH due AS (SELECT tenant, id FROM rail_messages WHERE due_time <= now() ORDER BY due_time LIMIT 1"  # noqa: S608
        " FOR UPDATE SKIP LOCKED) UPDATE rail_messages AS m SET attempts = least(attempts + 1, 10),"
        " due_time = now() + make_interval(secs => %s * (1 + least(attempts, 10))) FROM due"
        " WHERE m.tenant = due.tenant AND m.id = due.id RETURNING " + columns.of("m", _MESSAGE_COLUMNS),
        (lease_seconds,),
    )
    if not rows:
        return None
    tenant, id_, currency, payments, data, create_time, attempts = rows[0]
    opened = cipher.decrypt(data, _DATA).encode()
    return Message(tenant, id_, currency, payments, opened, create_time, attempts)


async def end_message(conn: AsyncConnection, tenant: str, message: str, moment: datetime) -> None:
    """Notes that a message was sent, unless that is noted."""
    await execute(
        conn,
        "UPDATE rail_messages SET send_time = %s, due_time = NULL WHERE tenant = %s AND id = %s AND send_time IS NULL",
        (moment, tenant, message),
    )


async def ages(conn: AsyncConnection) -> dict[str, tuple[int, float]]:
    """State → (count, age of the oldest in seconds) of withdrawals that are under way."""
    rows = await fetch(
        conn,
        "SELECT s.state, count(w.id),"
        " coalesce(extract(epoch FROM %s - min(coalesce(w.send_time, w.create_time))), 0)"
        " FROM (VALUES ('ACCEPTED'), ('BOOKED'), ('SENT'), ('REJECTED')) AS s(state) LEFT JOIN withdrawals AS w"
        " ON w.state = s.state AND w.state IN ('ACCEPTED', 'BOOKED', 'SENT', 'REJECTED') GROUP BY s.state",
        (clock.now(),),
    )
    return {row[0]: (row[1], float(row[2])) for row in rows}


def sealed(cipher: Cipher, parties: Parties, purpose: str) -> bytes:
    """Names and accounts as they stand in a row."""
    return cipher.encrypt(json.dumps(asdict(parties)), purpose)


def unsealed(cipher: Cipher, data: bytes, purpose: str) -> Parties:
    """The other way."""
    return Parties(**json.loads(cipher.decrypt(data, purpose)))


def _withdrawal(row: Sequence[Any], cipher: Cipher) -> Withdrawal:
    (
        tenant, id_, version, state, subject, customer, scopes, request_key, fingerprint, debit_account, currency,
        amount, parties, end_to_end_id, message, rail_status, rail_reason, reversal, deposit, refusal, customers,
        create_time, update_time, send_time,
    ) = row  # fmt: skip
    return Withdrawal(
        id=id_,
        principal=Principal(tenant, subject, customer, frozenset(scopes.split())),
        request_key=request_key,
        fingerprint=bytes(fingerprint),
        debit_account=debit_account,
        currency=currency,
        amount=amount,
        parties=unsealed(cipher, parties, _PARTIES),
        end_to_end_id=end_to_end_id,
        customers=tuple(customers),
        create_time=create_time,
        update_time=update_time,
        state=WithdrawalState(state),
        version=version,
        message=message,
        rail_status=rail_status,
        rail_reason=rail_reason,
        reversal=reversal,
        deposit=deposit,
        refusal=columns.status_from(refusal),
        send_time=send_time,
    )
