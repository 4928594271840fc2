"""One request_id, one effect, one answer: the record stands in the same transaction as the effect.

Refusals that would be the same again are part of the answer. It must not be used for what moves money in batches:
those paths keep their own record per step.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.rpc import status_pb2
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import telemetry
from meshkit.database import Database
from meshkit.errors import DomainError, RecordedRefusal, RequestIdReused
from meshkit.identity import Call

M = TypeVar("M", bound=Message)

NAMESPACE = uuid.UUID("5f6c0c1e-8f0f-5b1e-9c53-0d6f2b0a7a11")
"""Namespace of every derived id; changing it would make two of everything."""

_CLAIM = text(
    "INSERT INTO requests (tenant, subject, method, request_id, fingerprint)"
    " VALUES (:tenant, :subject, :method, :request_id, :fingerprint) ON CONFLICT DO NOTHING RETURNING 1"
)
_READ = text(
    "SELECT fingerprint, name, response, refusal FROM requests"
    " WHERE tenant = :tenant AND subject = :subject AND method = :method AND request_id = :request_id"
)
_STORE = text(
    "UPDATE requests SET name = :name, response = :response, refusal = :refusal"
    " WHERE tenant = :tenant AND subject = :subject AND method = :method AND request_id = :request_id"
)


def derive_id(call: Call, *parts: str) -> str:
    """The id of what a call makes: UUIDv5 of tenant, subject, method and request_id; UUIDv7 without a request_id."""
    if not call.request_id:
        return str(uuid7())
    scope = "\0".join([call.tenant, call.who.subject, call.method, call.request_id, *parts])
    return str(uuid.uuid5(NAMESPACE, scope))


def uuid7() -> uuid.UUID:
    """A new UUID of version 7 (RFC 9562): 48 bits of milliseconds, then random."""
    millis = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = (millis & (2**48 - 1)) << 80 | 0x7 << 76 | (random_bits >> 68 & 0xFFF) << 64 | 0b10 << 62
    return uuid.UUID(int=value | (random_bits & (2**62 - 1)))


async def answer[M: Message](
    db: Database, call: Call, response: type[M], work: Callable[[AsyncConnection], Awaitable[M]]
) -> M:
    """The answer to a call that changes something: made now, or the one that was made for the same request_id.

    `work` gives the response and is run in the transaction that also records it. Raises what `work` raises, or
    RequestIdReused.
    """
    if not call.request_id:
        # A key that nobody else has: if the answer to the COMMIT is lost, what was done is read back, not done again.
        call = replace(call, request_id=f"none/{uuid7()}")

    async def once(conn: AsyncConnection) -> M | status_pb2.Status:
        return await _once(conn, db, call, response, work)

    outcome = await db.run(call.tenant, once)
    if isinstance(outcome, status_pb2.Status):
        raise RecordedRefusal(outcome)
    return outcome


async def claim(db: Database, call: Call, name: str) -> None:
    """Binds a request_id to its payload, for methods whose effect is the same however often it is done.

    Raises RequestIdReused when it is bound to another payload.
    """
    if not call.request_id:
        return
    key = {
        "tenant": call.tenant,
        "subject": call.who.subject,
        "method": call.method,
        "request_id": call.request_id,
    }

    async def work(conn: AsyncConnection) -> None:
        claimed = (await conn.execute(_CLAIM, {**key, "fingerprint": call.fingerprint})).first()
        if claimed is not None:
            await conn.execute(_STORE, {**key, "name": name, "response": None, "refusal": None})
            return
        fingerprint, bound, _, _ = (await conn.execute(_READ, key)).one()
        if bytes(fingerprint) != call.fingerprint:
            raise RequestIdReused(bound)

    await db.run(call.tenant, work)


async def _once[M: Message](
    conn: AsyncConnection,
    db: Database,
    call: Call,
    response: type[M],
    work: Callable[[AsyncConnection], Awaitable[M]],
) -> M | status_pb2.Status:
    key = {
        "tenant": call.tenant,
        "subject": call.who.subject,
        "method": call.method,
        "request_id": call.request_id,
    }
    # A copy that runs at the same time waits here until the first one's transaction ends.
    claimed = (await conn.execute(_CLAIM, {**key, "fingerprint": call.fingerprint})).first()
    if claimed is None:
        return _recorded((await conn.execute(_READ, key)).one(), db, call, response)
    try:
        async with conn.begin_nested():
            made = await work(conn)
    except DomainError as refusal:
        if not refusal.definitive:
            raise
        status = refusal.to_status()
        await conn.execute(_STORE, {**key, "name": "", "response": None, "refusal": status.SerializeToString()})
        return status
    # Sealed, since an answer can hold personal data.
    sealed = db.cipher.encrypt(made.SerializeToString().hex(), "requests.response")
    await conn.execute(_STORE, {**key, "name": _name_in(made), "response": sealed, "refusal": None})
    return made


def _recorded[M: Message](row: Sequence[Any], db: Database, call: Call, response: type[M]) -> M | status_pb2.Status:
    fingerprint, name, stored, refusal = row
    if bytes(fingerprint) != call.fingerprint:
        raise RequestIdReused(name)
    telemetry.REPLAYS.inc()
    if refusal is not None:
        return status_pb2.Status.FromString(bytes(refusal))
    opened = db.cipher.decrypt(bytes(stored or b""), "requests.response")
    return response.FromString(bytes.fromhex(opened))


def _name_in(message: Message) -> str:
    """The resource name in a response: of its first field that has one."""
    for field, value in message.ListFields():
        if field.message_type is not None and not field.is_repeated and "name" in field.message_type.fields_by_name:
            return str(value.name)
    return ""
