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
import uuid
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
from meshkit.database import Database, execute, fetch
from meshkit.dead_letters import FAILURE, ORIGINAL_SUBJECT
from meshkit.envelopes import MESSAGE_ID, Incoming, Undecodable, unpack

Key = tuple[str, str, str]
"""Tenant, source and aggregate."""
Handler = Callable[[AsyncConnection, Sequence[Incoming]], Awaitable[None]]

_FETCH = 64  # messages, of up to a hundred events each
_EVENTS_AT_ONCE = 500
"""In one transaction, or as many as one message has."""
_IDLE_SECONDS = 2.0
_GAP_SECONDS, _GAP_SECONDS_MAX = 0.25, 0.5  # until a message comes again whose events wait for others, doubled up to
_PATIENCE_FACTOR = 20
"""An event waits so many `event_gap_seconds` at most, should the broker's account of what is finished be no help."""
_FAILURES_MAX = 12  # with the delays below some five minutes, then a person has to look
_FAILING_MAX = 10_000
_PROCESS_SECONDS = 4.0
"""What was fetched and is not begun by then goes back: the broker takes it for lost after twice that."""
_FORGET_SECONDS = 1.0
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
        self._forget_gaps = 0.0
        self._failing: dict[uuid.UUID, tuple[int, float]] = {}
        """How often an event failed here, and when it is tried again. Not what the broker counts: a message also comes
        again for another of its events."""
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
        """Handles messages, many in one transaction, for a few seconds at most; gives how many events were new."""
        read: list[_Delivery] = []
        for message in messages:
            try:
                read.append(_Delivery(message, self._read(message)))
            except Undecodable as error:
                headers = {key: value for key, value in (message.headers or {}).items() if key != MESSAGE_ID}
                await self._bury(message, headers, message.data, str(error))
                await message.term()
        left, fresh = deque(_parts(read)), 0
        until = time.monotonic() + _PROCESS_SECONDS
        try:
            while left and time.monotonic() < until:
                fresh += await self._handle_part(left[0])
                left.popleft()
        finally:
            for delivery in itertools.chain.from_iterable(left):
                if not delivery.ended:
                    await delivery.nak(1)
        return fresh

    def _read(self, message: Msg) -> list[Incoming]:
        return unpack(
            message.subject,
            message.headers,
            message.data,
            consumer=self._durable,
            find_sequence=lambda: message.metadata.sequence.stream,
        )

    async def _handle_part(self, part: Sequence[_Delivery]) -> int:
        """Handles some messages together, and ends each: it is acknowledged, or comes again for what is left of it."""
        events = [event for delivery in part for event in delivery.events]
        fresh, waiting, failed = await self._settle([event for event in events if not self._rests(event)])
        for delivery in part:
            delays = []
            for event in delivery.events:
                if event.id in failed and await self._give_up(delivery.message, event, failed[event.id]):
                    continue
                if event.id in self._failing:
                    delays.append(max(self._failing[event.id][1] - time.monotonic(), 0.0))
                elif event.id in waiting:
                    delays.append(min(_GAP_SECONDS * 2 ** min(delivery.count, 10), _GAP_SECONDS_MAX))
            await (delivery.nak(min(delays)) if delays else delivery.ack())
        return fresh

    async def _settle(self, events: Sequence[Incoming]) -> tuple[int, set[uuid.UUID], dict[uuid.UUID, Exception]]:
        """Handles events together; where that fails, the halves of them, so that what cannot be handled holds up no
        other. Gives how many were new, the ids of those that wait for others, and of those that failed."""
        fresh, waiting, failed = 0, set[uuid.UUID](), dict[uuid.UUID, Exception]()
        groups = deque([list(events)] if events else [])
        while groups:
            group = groups.popleft()
            try:
                outcome = await self._apply(group, self._handle)
            except Exception as error:
                if _is_unavailable(error):
                    raise
                if len(group) == 1:
                    failed[group[0].id] = error
                    continue
                _log.warning("events are taken apart", stream=self._stream, count=len(group), cause=repr(error))
                middle = len(group) // 2
                groups.extendleft((group[middle:], group[:middle]))
                continue
            fresh += len(outcome.fresh)
            waiting.update(group[place].id for place in outcome.waiting)
        for event in events:
            if event.id not in failed:
                self._failing.pop(event.id, None)
        return fresh, waiting, failed

    def _rests(self, event: Incoming) -> bool:
        """Whether an event failed a moment ago, and is not tried again yet."""
        return event.id in self._failing and time.monotonic() < self._failing[event.id][1]

    async def _give_up(self, message: Msg, event: Incoming, error: Exception) -> bool:
        """Notes a failure; whether it was the last one, and the event went to the dead letters."""
        count = self._failing.pop(event.id, (0, 0.0))[0] + 1
        telemetry.EVENTS_CONSUMED.labels(self._stream, "failed").inc()
        _log.error("an event could not be handled", event_id=str(event.id), failures=count, exc_info=error)
        if count < _FAILURES_MAX:
            if len(self._failing) >= _FAILING_MAX:
                self._failing.pop(next(iter(self._failing)))
            self._failing[event.id] = count, time.monotonic() + min(60.0, 0.25 * 2**count)
            return False
        headers = {**event.headers(), MESSAGE_ID: f"{self._durable}-{message.metadata.sequence.stream}-{event.id}"}
        await self._bury(message, headers, event.data, type(error).__name__)
        # Seen from now on: a copy of it is skipped, and who comes after it does not wait for it.
        await self._apply([event], _pass_over)
        return True

    async def _apply(self, events: Sequence[Incoming], handle: Handler) -> Sorted:
        """Handles events in one transaction."""
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
                await handle(conn, outcome.fresh)
            written = {key: begun[key] for key in made}
            moved = {key: version for key, version in outcome.versions.items() if written.get(key) != version}
            if moved:
                await execute(conn, _ADVANCE, _columns(moved))
            return outcome

        outcome = await self._db.run({event.tenant for event in events}, work)
        if self._after_commit is not None and outcome.fresh:
            self._after_commit()
        telemetry.EVENTS_CONSUMED.labels(self._stream, "processed").inc(len(outcome.fresh))
        return outcome

    def _would_wait(self, _event: Incoming) -> bool:
        return self._gap_seconds is not None

    def _patient(self, event: Incoming) -> bool:
        """Whether an event that leaves a gap may wait on; remembers when it was seen first."""
        if self._gap_seconds is None:
            return False
        now = time.monotonic()
        if now >= self._forget_gaps:
            oldest = now - self._gap_seconds * _PATIENCE_FACTOR
            self._gaps = {key: since for key, since in self._gaps.items() if since > oldest}
            self._forget_gaps = now + _FORGET_SECONDS
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
        kept = {**headers, ORIGINAL_SUBJECT: message.subject, FAILURE: why}
        await self._bus.jetstream.publish(f"florin.{DEAD_LETTERS}.{self._durable}.{self._stream}", data, headers=kept)
        telemetry.DEAD_LETTERS.labels(self._stream).inc()
        _log.error("an event went to the dead letters", stream=self._stream, subject=message.subject, why=why)


@dataclass(slots=True)
class _Delivery:
    """A message and the events in it. It is acknowledged when all of them are done."""

    message: Msg
    events: list[Incoming]
    ended: bool = False

    @property
    def count(self) -> int:
        """How often it was delivered before."""
        return (self.message.metadata.num_delivered or 1) - 1

    async def ack(self) -> None:
        self.ended = True
        await self.message.ack()

    async def nak(self, seconds: float) -> None:
        """Lets it come again; what of it was handled is then skipped."""
        self.ended = True
        await self.message.nak(delay=seconds)


async def _pass_over(_conn: AsyncConnection, _events: Sequence[Incoming]) -> None:
    """Handles nothing."""


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


def _is_unavailable(error: BaseException) -> bool:
    from meshkit.errors import Contention, Overloaded, Unavailable

    return isinstance(error, Unavailable | Overloaded | Contention)
