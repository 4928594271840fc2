"""What notifications does: one function is one use case in the transaction it is given; it must not do any HTTP."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import audit, clock, idempotency, outbox
from meshkit.cipher import Cipher
from meshkit.envelopes import Incoming
from meshkit.errors import EtagMismatch, RequestInvalid
from meshkit.identity import Call
from notifications import catalogue, delivery_store, endpoint_store, event_store, events, signing
from notifications.errors import (
    DeliveryNotFound,
    EndpointExists,
    EndpointLimitReached,
    EndpointNotFound,
    EventTypeUnknown,
)
from notifications.model import (
    Delivery,
    DeliveryState,
    DueDelivery,
    Endpoint,
    EndpointChange,
    Outcome,
    Reply,
    scopes_after_url_change,
)


class Sender(Protocol):
    """What notifications needs from whoever does HTTP."""

    async def check_url(self, url: str) -> None:
        """Raises EndpointUrlForbidden unless the URL and all that its host resolves to may be sent to."""

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """One attempt; whatever goes wrong at the receiver is part of the reply, nothing is raised."""


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """An endpoint that is asked for."""

    id: str
    """Empty where the caller did not choose one."""
    url: str
    event_types: tuple[str, ...]
    description: str


def check_event_types(patterns: Sequence[str]) -> None:
    """Refuses a filter that names no public event. Raises EventTypeUnknown."""
    unknown = catalogue.first_unknown(patterns)
    if unknown is not None:
        raise EventTypeUnknown(unknown)


async def record_events(conn: AsyncConnection, incoming: Sequence[Incoming]) -> int:
    """Keeps the public ones of the events that came in, and makes their deliveries; gives the number of those.

    A type that this release does not know is passed by: nobody could have asked for it yet.
    """
    types = catalogue.public_types()
    seen: dict[str, tuple[str, ...]] = {}
    arrived: list[event_store.NewEvent] = []
    for event in incoming:
        kind = types.get(event.type)
        if kind is None:
            continue
        seen[event.type] = kind.scopes
        # Only this is read from the data, which is otherwise kept and streamed as it came.
        customers = tuple(kind.customers(kind.message.FromString(event.data))) if kind.customers else ()
        arrived.append(
            event_store.NewEvent(
                event.tenant, event.id, event.type, event.aggregate, event.version, event.time, event.data, customers
            )
        )
    if not arrived:
        return 0
    return await event_store.record(conn, arrived, sorted(seen.items()))


async def create_webhook_endpoint(
    conn: AsyncConnection, call: Call, cipher: Cipher, new: NewEndpoint, *, endpoints_max: int
) -> tuple[Endpoint, str]:
    """A new endpoint and its secret, which is not to be had again. Raises EndpointLimitReached, EndpointExists."""
    who = call.who
    if who.customer is not None:
        owned = await endpoint_store.count_of_customer(conn, who.tenant, who.customer)
        if owned >= endpoints_max:
            raise EndpointLimitReached(endpoints_max)
    now = clock.now()
    endpoint = Endpoint(
        tenant=who.tenant,
        id=new.id or idempotency.derive_id(call),
        url=new.url,
        event_types=new.event_types,
        enabled=True,
        customer=who.customer or "",
        scopes=tuple(sorted(who.scopes)),
        description=new.description,
        create_time=now,
        update_time=now,
        etag=_new_etag(),
    )
    secret = signing.new_secret()
    sealed = cipher.encrypt(secret, signing.sealing_purpose(endpoint.tenant, endpoint.id))
    if not await endpoint_store.add(conn, endpoint, sealed):
        raise EndpointExists(endpoint.name)
    await _audit(conn, call, "webhook_endpoint.create", None, endpoint)
    return endpoint, secret


async def get_webhook_endpoint(conn: AsyncConnection, call: Call, name: str) -> Endpoint:
    """An endpoint that the caller may see. Raises EndpointNotFound."""
    return await _owned(conn, call, name, lock=False)


async def list_webhook_endpoints(conn: AsyncConnection, call: Call, *, after: str, limit: int) -> list[Endpoint]:
    """The caller's endpoints by id, after one."""
    return await endpoint_store.list_after(conn, call.tenant, customer=call.who.customer, after=after, limit=limit)


async def update_webhook_endpoint(
    conn: AsyncConnection, call: Call, name: str, change: EndpointChange, etag: str
) -> Endpoint:
    """The endpoint with the change. Raises EndpointNotFound, EtagMismatch."""
    before = await _owned(conn, call, name, lock=True)
    if etag and etag != before.etag:
        raise EtagMismatch(before.etag)
    if change.is_empty:
        return before
    scopes = before.scopes
    if change.url is not None and change.url != before.url:
        scopes = scopes_after_url_change(before.scopes, call.who.scopes)
    after = replace(
        before,
        url=before.url if change.url is None else change.url,
        event_types=before.event_types if change.event_types is None else change.event_types,
        enabled=before.enabled if change.enabled is None else change.enabled,
        description=before.description if change.description is None else change.description,
        scopes=scopes,
        update_time=clock.now(),
        etag=_new_etag(),
    )
    await endpoint_store.save(conn, after)
    await _audit(conn, call, "webhook_endpoint.update", before, after)
    return after


async def delete_webhook_endpoint(conn: AsyncConnection, call: Call, name: str) -> None:
    """Removes an endpoint and what was not delivered yet. Raises EndpointNotFound."""
    endpoint = await _owned(conn, call, name, lock=True)
    await endpoint_store.remove(conn, endpoint.tenant, endpoint.id)
    await _audit(conn, call, "webhook_endpoint.delete", endpoint, None)


async def rotate_webhook_secret(
    conn: AsyncConnection, call: Call, cipher: Cipher, name: str, *, overlap: timedelta
) -> tuple[str, datetime]:
    """A new secret, and until when the one before signs as well. Raises EndpointNotFound."""
    before = await _owned(conn, call, name, lock=True)
    now = clock.now()
    after = replace(before, update_time=now, etag=_new_etag())
    secret = signing.new_secret()
    sealed = cipher.encrypt(secret, signing.sealing_purpose(after.tenant, after.id))
    await endpoint_store.rotate_secret(conn, after, sealed, now + overlap)
    await _audit(conn, call, "webhook_endpoint.rotate_secret", before, after)
    return secret, now + overlap


async def list_deliveries(
    conn: AsyncConnection, endpoint: Endpoint, *, state: int, before: tuple[datetime, int], limit: int
) -> list[Delivery]:
    """An endpoint's deliveries, the newest first, before one; `state` 0 gives all."""
    return await delivery_store.list_before(conn, endpoint.tenant, endpoint.id, state=state, before=before, limit=limit)


async def replay_delivery(conn: AsyncConnection, call: Call, endpoint_name: str, delivery_name: str) -> int:
    """Sends one delivery again; gives 1. Raises EndpointNotFound, DeliveryNotFound."""
    endpoint = await _owned(conn, call, endpoint_name, lock=False)
    delivery = _delivery_id(delivery_name)
    if delivery is None or not await delivery_store.replay_one(conn, endpoint.tenant, endpoint.id, delivery):
        raise DeliveryNotFound(delivery_name)
    await _audit_replay(conn, call, endpoint, {"delivery": delivery_name})
    return 1


async def replay_time_range(
    conn: AsyncConnection, call: Call, endpoint_name: str, start: datetime, end: datetime, *, at_most: int
) -> int:
    """Sends all deliveries of events that came in during a time range again; gives their number.

    Raises EndpointNotFound, or RequestInvalid when they are too many for one transaction.
    """
    endpoint = await _owned(conn, call, endpoint_name, lock=False)
    found = await delivery_store.count_range(conn, endpoint.tenant, endpoint.id, start, end, at_most=at_most + 1)
    if found > at_most:
        raise RequestInvalid([("end_time", f"the range has more than {at_most} deliveries; split it")])
    count = await delivery_store.replay_range(conn, endpoint.tenant, endpoint.id, start, end)
    await _audit_replay(conn, call, endpoint, {"start_time": start, "end_time": end, "count": count})
    return count


async def take_deliveries(
    conn: AsyncConnection,
    *,
    limit: int,
    per_endpoint: int,
    busy: Mapping[tuple[str, str], int],
    lease_seconds: float,
) -> list[DueDelivery]:
    """Due deliveries of all tenants, held for `lease_seconds`: after that another worker may take them."""
    return await delivery_store.take(
        conn, limit=limit, per_endpoint=per_endpoint, busy=busy, lease_seconds=lease_seconds
    )


async def settle_deliveries(conn: AsyncConnection, outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Records what came of attempts, tells of deliveries that are given up, and disables endpoints that are gone.

    Gives the endpoints that were disabled, as (tenant, id). Recording the same attempt again changes nothing.
    """
    answered_gone = [outcome.delivery for outcome in outcomes if outcome.disables_endpoint]
    gone = [(delivery.tenant, delivery.endpoint, delivery.url) for delivery in answered_gone]
    disabled = await delivery_store.disable(conn, gone)
    due = {(outcome.delivery.tenant, outcome.delivery.id): outcome.delivery for outcome in outcomes}
    settled = await delivery_store.settle(conn, outcomes)
    failed = [one for one in settled if one.state is DeliveryState.FAILED]
    await outbox.append(conn, [events.delivery_failed(one, due[one.tenant, one.delivery]) for one in failed])
    return disabled


async def purge_events(conn: AsyncConnection, *, keep_seconds: float, at_most: int) -> int:
    """Removes events past their retention, with their deliveries; gives how many went."""
    return await event_store.purge(conn, keep_seconds=keep_seconds, at_most=at_most)


async def _owned(conn: AsyncConnection, call: Call, name: str, *, lock: bool) -> Endpoint:
    endpoint_id = name.removeprefix("webhookEndpoints/")
    found = await endpoint_store.read(conn, call.tenant, endpoint_id, customer=call.who.customer, lock=lock)
    if found is None:
        raise EndpointNotFound(name)
    return found


def _delivery_id(name: str) -> uuid.UUID | None:
    kind, _, text = name.partition("/")
    try:
        return uuid.UUID(text) if kind == "deliveries" else None
    except ValueError:
        return None


def _new_etag() -> str:
    return secrets.token_hex(16)


async def _audit(
    conn: AsyncConnection, call: Call, action: str, before: Endpoint | None, after: Endpoint | None
) -> None:
    resource = (after or before).name  # type: ignore[union-attr]  # one of them is always there
    await audit.record(
        conn,
        call,
        action=action,
        resource=resource,
        before=None if before is None else asdict(before),
        after=None if after is None else asdict(after),
    )


async def _audit_replay(conn: AsyncConnection, call: Call, endpoint: Endpoint, what: Mapping[str, object]) -> None:
    await audit.record(conn, call, action="webhook_endpoint.replay", resource=endpoint.name, before=None, after=what)
