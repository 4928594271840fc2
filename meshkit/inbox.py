"""Consumes events at most once each, in order per aggregate: the record stands in the transaction of the effect.

The inbox keeps the last version of each aggregate: what is not newer was seen. Where the handler needs every event,
what leaves a gap waits for the gap to fill. A stream may have lost an event for good, so the waiting ends: after
`event_gap_seconds`, but not while the stream holds anything earlier that no replica has finished, since that may be the
missing event, however late.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js import errors as js_errors
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import identity, logs, telemetry
from meshkit.batching import event_gather_seconds
from meshkit.bus import DEAD_LETTERS, Bus
from meshkit.database import ALL_TENANTS, Database, execute, fetch
from meshkit.dead_letters import FAILURE, ORIGINAL_SUBJECT
from meshkit.envelopes import MESSAGE_ID, Incoming, Undecodable, unpack

Key = tuple[str, str, str]
"""Tenant, source and aggregate."""
Handler = Callable[[AsyncConnection, Sequence[Incoming]], Awaitable[None]]

_FETCH = 64  # messages, of up to a hundred events each
_EVENTS_AT_ONCE = 500
"""In one transaction, or as many as one message has."""
_IDLE_SECONDS = 2.0
_GAP_SECONDS = 0.25  # until a message is looked at again some of whose events wait for others
_PATIENCE_FACTOR = 20
"""An event waits so many `event_gap_seconds` at most, should the broker's account of what is finished be no help."""
_PURGE_ROWS = 10_000  # in one transaction
_DELIVERIES_MAX = 12  # with the delays below some five minutes, then a person has to look
_log = logs.get(__name__)

_CLAIM = (
    "INSERT INTO inbox (tenant, source, aggregate, version)"
    " SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[]) ON CONFLICT DO NOTHING"
    " RETURNING tenant, source, aggregate"
)
_LOCK = (
    "SELECT i.tenant, i.source, i.aggregate, i.version FROM inbox AS i"
    " JOIN unnest(%s::text[], %s::text[], %s::text[]) AS k(tenant, source, aggregate)"
    " USING (tenant, source, aggregate) ORDER BY 1, 2, 3 FOR UPDATE OF i"
)
_ADVANCE = (
    "UPDATE inbox SET version = seen.version, update_time = now()"
    " FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[]) AS seen(tenant, source, aggregate, version)"
    " WHERE (inbox.tenant, inbox.source, inbox.aggregate) = (seen.tenant, seen.source, seen.aggregate)"
)


@dataclass(slots=True)
class Sorted:
    """What a batch of events comes to, given the inbox."""

    fresh: list[Incoming]
    waiting: set[int]
    """Positions in the batch whose predecessors did not come yet."""
    versions: dict[Key, int]
    """The last version of each aggregate that moved on."""


def _key(event: Incoming) -> Key:
    return event.tenant, event.source, event.aggregate


def _columns(versions: Mapping[Key, int]) -> tuple[list[str], list[str], list[str], list[int]]:
    """Sorted, so that two batches with the same aggregates meet in one order."""
    rows = sorted(versions.items())
    return [key[0] for key, _ in rows], [key[1] for key, _ in rows], [key[2] for key, _ in rows], [n for _, n in rows]


def sort(events: Sequence[Incoming], versions: dict[Key, int], patient: Callable[[Incoming], bool]) -> Sorted:
    """Decides for each event: seen before, fresh, or waiting for a gap. Pure.

    `versions` are the aggregates' last versions (0: none seen); `patient` says whether an event may still wait.
    """
    result = Sorted(fresh=[], waiting=set(), versions={})
    present = dict(versions)
    for position, event in enumerate(events):
        key = _key(event)
        last = present.get(key, 0)
        if event.again:
            result.fresh.append(event)
        elif event.version <= last:
            continue
        elif event.version > last + 1 and patient(event):
            result.waiting.add(position)
            continue
        else:
            result.fresh.append(event)
        if event.version > last:
            present[key] = result.versions[key] = event.version
    return result


class Consumer:
    """A durable pull consumer of one service's stream. Any number of replicas may run one.

    With `gap_seconds` the handler gets every event of an aggregate, a missing one is waited for; without (None) the
    latest event tells it all, and one that comes after a newer one is passed over.
    """

    def __init__(
        self,
        bus: Bus,
        db: Database,
        *,
        stream: str,
        durable: str,
        handle: Handler,
        gap_seconds: float | None,
        after_commit: Callable[[], None] | None = None,
    ) -> None:
        self._bus = bus
        self._db = db
        self._stream = stream
        self._durable = durable
        self._handle = handle
        self._gap_seconds = gap_seconds
        self._after_commit = after_commit
        self._gaps: dict[tuple[str, str, str, int], float] = {}
        self._floor = 0
        """Everything in the stream up to here is finished by some replica; as the broker told last."""
        self._waiting = False

    async def run(self) -> None:
        """Consumes until it is cancelled; binds again whenever the broker was away."""
        while True:
            bound = self._bus.connections
            try:
                await self._bus.check()
                subscription = await self._bus.jetstream.pull_subscribe_bind(durable=self._durable, stream=self._stream)
                await self._consume(subscription, bound)
            except (nats.errors.Error, js_errors.Error, OSError) as error:
                _log.warning("the consumer binds again", stream=self._stream, cause=repr(error))
                await asyncio.sleep(0.5)
            except Exception as error:
                if not _is_unavailable(error):
                    raise
                await asyncio.sleep(0.5)

    async def _consume(self, subscription: JetStreamContext.PullSubscription, bound: int) -> None:
        observe_again, came = 0.0, 0
        try:
            while bound == self._bus.connections:
                messages = await _fetch(subscription, event_gather_seconds(came))
                came = await _finished(self._process(messages)) if messages else 0
                if self._waiting or time.monotonic() >= observe_again:
                    await self._observe(subscription)
                    observe_again = time.monotonic() + 5
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _observe(self, subscription: JetStreamContext.PullSubscription) -> None:
        info = await subscription.consumer_info()
        telemetry.CONSUMER_LAG.labels(self._stream).set((info.num_pending or 0) + (info.num_ack_pending or 0))
        self._floor = info.ack_floor.stream_seq if info.ack_floor is not None else 0
        self._waiting = False

    async def _process(self, messages: Sequence[Msg]) -> int:
        """Handles messages, many in one transaction; if that fails, each in one of its own. The number of events."""
        read: list[_Delivery] = []
        for message in messages:
            try:
                read.append(_Delivery(message, self._read(message)))
            except Undecodable as error:
                await self._bury(message, message.headers or {}, message.data, str(error))
                await message.term()
        left = deque(_parts(read))
        try:
            while left:
                await self._apply_part(left[0])
                left.popleft()
        finally:
            for delivery in itertools.chain.from_iterable(left):
                if not delivery.ended:
                    await delivery.message.nak(delay=1)
        return sum(len(delivery.events) for delivery in read)

    def _read(self, message: Msg) -> list[Incoming]:
        return unpack(
            message.subject,
            message.headers,
            message.data,
            consumer=self._durable,
            find_sequence=lambda: message.metadata.sequence.stream,
        )

    async def _apply_part(self, part: Sequence[_Delivery]) -> None:
        """Handles some messages in one transaction; if that fails, each alone."""
        try:
            waiting = await self._apply([event for delivery in part for event in delivery.events])
        except Exception as error:
            if _is_unavailable(error):
                raise
            _log.warning("a batch of events is taken apart", stream=self._stream, cause=repr(error))
            for delivery in part:
                if len(part) > 1:
                    await self._apply_part([delivery])
                else:
                    await self._apply_apart(delivery)
            return
        places = itertools.count()
        for delivery in part:
            gaps = sum(next(places) in waiting for _ in delivery.events)
            await (delivery.nak(_GAP_SECONDS) if gaps else delivery.ack())

    async def _apply_apart(self, delivery: _Delivery) -> None:
        """Handles each event of a message in a transaction of its own: one that cannot be handled holds up no other."""
        failed: list[tuple[Incoming, Exception]] = []
        gaps = False
        for event in delivery.events:
            try:
                gaps |= bool(await self._apply([event]))
            except Exception as error:
                if _is_unavailable(error):
                    raise
                failed.append((event, error))
        deliveries = delivery.message.metadata.num_delivered or 1
        for event, failure in failed:
            telemetry.EVENTS_CONSUMED.labels(self._stream, "failed").inc()
            _log.error("an event could not be handled", event_id=str(event.id), deliveries=deliveries, exc_info=failure)
            if deliveries >= _DELIVERIES_MAX:
                await self._bury(delivery.message, event.headers(), event.data, type(failure).__name__)
        if gaps:
            await delivery.nak(_GAP_SECONDS)
        elif failed and deliveries < _DELIVERIES_MAX:
            await delivery.nak(min(60.0, 0.25 * 2**deliveries))
        else:
            await delivery.ack()

    async def _apply(self, events: Sequence[Incoming]) -> set[int]:
        """Handles events in one transaction; the places of those that wait for their predecessors."""
        identity.adopt_trace(event.traceparent for event in events)

        async def work(conn: AsyncConnection) -> Sorted:
            # An aggregate that is new here is written once, with the version that it will have.
            planned = sort(events, {}, self._would_wait).versions
            begun = {_key(event): planned.get(_key(event), 0) for event in events}
            claimed = await fetch(conn, _CLAIM, _columns(begun))
            made = {(row[0], row[1], row[2]) for row in claimed}
            known = {key: 0 for key in begun if key not in made}
            rows = await fetch(conn, _LOCK, _columns(known)[:3]) if known else []
            outcome = sort(events, {(row[0], row[1], row[2]): row[3] for row in rows}, self._patient)
            if outcome.fresh:
                await self._handle(conn, outcome.fresh)
            written = {key: begun[key] for key in made}
            moved = {key: version for key, version in outcome.versions.items() if written.get(key) != version}
            if moved:
                await execute(conn, _ADVANCE, _columns(moved))
            return outcome

        outcome = await self._db.run({event.tenant for event in events}, work)
        if self._after_commit is not None and outcome.fresh:
            self._after_commit()
        telemetry.EVENTS_CONSUMED.labels(self._stream, "processed").inc(len(outcome.fresh))
        return outcome.waiting

    def _would_wait(self, _event: Incoming) -> bool:
        return self._gap_seconds is not None

    def _patient(self, event: Incoming) -> bool:
        """Whether an event that leaves a gap may wait on; remembers when it was seen first."""
        if self._gap_seconds is None:
            return False
        now = time.monotonic()
        if len(self._gaps) > 10_000:
            oldest = now - self._gap_seconds * _PATIENCE_FACTOR
            self._gaps = {key: since for key, since in self._gaps.items() if since > oldest}
        key = (*_key(event), event.version)
        waited = now - self._gaps.setdefault(key, now)
        may_come = self._floor < event.stream_sequence - 1 and waited < self._gap_seconds * _PATIENCE_FACTOR
        if may_come or waited < self._gap_seconds:
            self._waiting = True
            return True
        _log.warning("an event never came; going on without it", aggregate=event.aggregate, version=event.version)
        self._gaps.pop(key, None)
        return False

    async def _bury(self, message: Msg, headers: Mapping[str, str], data: bytes, why: str) -> None:
        """Keeps what cannot be handled where it can be looked at and sent again."""
        kept = {
            **{key: value for key, value in headers.items() if key != MESSAGE_ID},
            ORIGINAL_SUBJECT: message.subject,
            FAILURE: why,
        }
        await self._bus.jetstream.publish(f"florin.{DEAD_LETTERS}.{self._durable}.{self._stream}", data, headers=kept)
        telemetry.DEAD_LETTERS.labels(self._stream).inc()
        _log.error("an event went to the dead letters", stream=self._stream, subject=message.subject, why=why)


@dataclass(slots=True)
class _Delivery:
    """A message and the events in it. It is acknowledged when all of them are done."""

    message: Msg
    events: list[Incoming]
    ended: bool = False

    async def ack(self) -> None:
        self.ended = True
        await self.message.ack()

    async def nak(self, seconds: float) -> None:
        """Lets it come again; what of it was handled is then skipped."""
        self.ended = True
        await self.message.nak(delay=seconds)


def _parts(deliveries: Sequence[_Delivery]) -> Iterator[list[_Delivery]]:
    """What goes into a transaction each, in order."""
    part: list[_Delivery] = []
    count = 0
    for delivery in deliveries:
        if part and count + len(delivery.events) > _EVENTS_AT_ONCE:
            yield part
            part, count = [], 0
        part.append(delivery)
        count += len(delivery.events)
    if part:
        yield part


async def _fetch(subscription: JetStreamContext.PullSubscription, gather_seconds: float) -> list[Msg]:
    """The next events, as soon as there is one: a fetch of many would wait for the many until its time is over."""
    try:
        messages: list[Msg] = await subscription.fetch(1, timeout=_IDLE_SECONDS)
    except (TimeoutError, nats.errors.TimeoutError):
        return []
    with contextlib.suppress(TimeoutError, nats.errors.TimeoutError):
        messages += await subscription.fetch(_FETCH - 1, timeout=gather_seconds)
    return messages


async def _finished[R](work: Coroutine[Any, Any, R]) -> R:
    """Awaits work that is finished even if we are cancelled: half done, it would be redelivered seconds later."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def purge(db: Database, *, inbox_hours: float, requests_hours: float) -> None:
    """Removes inbox rows and answers to request_ids that are older than what the settings keep, all of them."""
    for table, key, time_column, hours in (
        ("inbox", "tenant, source, aggregate", "update_time", inbox_hours),
        ("requests", "tenant, subject, method, request_id", "create_time", requests_hours),
    ):
        # What another replica purges at this moment is left to it.
        statement = (
            f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table}"  # noqa: S608 - constants
            f" WHERE {time_column} < now() - make_interval(secs => %s) LIMIT %s FOR UPDATE SKIP LOCKED)"
        )

        async def work(conn: AsyncConnection, statement: str = statement, hours: float = hours) -> int:
            return (await conn.exec_driver_sql(statement, (hours * 3600, _PURGE_ROWS))).rowcount

        while await db.run(ALL_TENANTS, work, long=True) == _PURGE_ROWS:
            pass


def _is_unavailable(error: BaseException) -> bool:
    from meshkit.errors import Contention, Overloaded, Unavailable

    return isinstance(error, Unavailable | Overloaded | Contention)
