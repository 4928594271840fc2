"""Open streams of transfers: each reads what it can carry, hands it to the batches that all payments share, and answers
in whatever order things end. It must not cost an item a task, nor keep more than a bounded number in flight."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import Gauge

from meshkit import logs, telemetry
from meshkit.batching import FEW_ITEMS_MAX
from meshkit.errors import (
    DeadlineExceeded,
    DomainError,
    Overloaded,
    RecordedRefusal,
    TokenInvalid,
    internal_status,
)
from meshkit.identity import Call, Principal
from transactions.errors import StreamEnded, StreamLimitReached
from transactions.model import RESTING, Transfer
from transactions.operations import Transfers
from transactions.orders import Order, present
from transactions.settings import Settings

_DRAIN_SECONDS = 4.0
"""What was read before a stop is answered with its present state after this long, well within the grace of a stop."""
_TOKEN_SECONDS = 5.0
"""How often a stream asks whether its token still stands: the issuer may have withdrawn the key that signed it."""
_TAKEN_SECONDS = 35.0
"""A stream that ends is given up after this long: an item's longest time, and some for a client to take the answers."""
_LOOK_SECONDS = 0.5
"""How often a stream looks what became of the transfers that a service which is down left open."""
_BEFORE_DEADLINE_SECONDS = 0.1
"""A stream with a deadline of its caller's ends this long before it, so that its status arrives."""
_log = logs.get(__name__)

OPEN = Gauge("florin_transfer_streams_open", "Streams of transfers that clients have open.")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a message of a stream asks for."""

    request_id: str
    order: Transfer | DomainError
    """The transfer to make, or why none can be made of it."""
    timeout_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said about a message of a stream."""

    position: int
    """Its number in the stream, from 1."""
    request_id: str
    result: Transfer | DomainError


class Streams:
    """The open streams of this replica."""

    def __init__(self, transfers: Transfers, settings: Settings) -> None:
        self._transfers = transfers
        self._settings = settings
        self._places: Counter[tuple[str, str]] = Counter()
        self._tenants: Counter[str] = Counter()
        self._streams: set[_Stream] = set()
        self._draining = False

    async def drain(self) -> None:
        """Ends every stream once what it read is answered, so that clients go on at another replica."""
        self._draining = True
        for stream in list(self._streams):
            stream.end(StreamEnded(_STOPPING), within_seconds=_DRAIN_SECONDS)

    @contextmanager
    def place(self, who: Principal) -> Iterator[None]:
        """A place among those of this replica, the tenant and the caller. Raises StreamLimitReached, Overloaded,
        StreamEnded."""
        mine = who.tenant, who.subject
        if self._places[mine] >= self._settings.streams_per_subject_max:
            raise StreamLimitReached(self._settings.streams_per_subject_max)
        if self._places.total() >= self._settings.streams_max:
            raise Overloaded
        if self._tenants[who.tenant] >= self._settings.streams_per_tenant_max:
            raise Overloaded
        if self._draining:
            raise StreamEnded(_STOPPING)
        self._places[mine] += 1
        self._tenants[who.tenant] += 1
        OPEN.set(self._places.total())
        try:
            yield
        finally:
            self._places[mine] -= 1
            self._tenants[who.tenant] -= 1
            # Who has none is not kept.
            self._places, self._tenants = +self._places, +self._tenants
            OPEN.set(self._places.total())

    async def carry(
        self, call: Call, requests: AsyncIterator[Any], read: Callable[[Any], Asked]
    ) -> AsyncIterator[Answer]:
        """Answers every message of a stream once, until its client closed its side.

        Raises, once all that was read is answered: TokenInvalid when the token ends, StreamEnded at a drain and when
        nothing happens, DeadlineExceeded at the caller's own deadline. Its task is cancelled where the client does not
        take the answers in time then.
        """
        stream = _Stream(self._transfers, call, requests, read, self._settings)
        self._streams.add(stream)
        try:
            async for answer in stream.answers():
                yield answer
        finally:
            self._streams.discard(stream)
            stream.close()


_STOPPING, _IDLE = "this replica stops", "nothing was sent or taken for a while"


class _Stream:
    """One stream: a task that reads, and callbacks that bring what becomes of each item to whoever iterates."""

    def __init__(
        self,
        transfers: Transfers,
        call: Call,
        requests: AsyncIterator[Any],
        read: Callable[[Any], Asked],
        settings: Settings,
    ) -> None:
        self.transfers = transfers
        self.call = call
        self._requests = requests
        self._read = read
        self._in_flight_max = settings.stream_in_flight_max
        self._idle_seconds = settings.stream_idle_seconds
        self._loop = asyncio.get_running_loop()
        self._taking = asyncio.current_task()
        """Takes the answers to the client, and is stuck where that takes none."""
        self._received = 0
        self._in_flight = 0
        """Read and not yet taken by the client: one that does not take its answers is not read any more."""
        self._open: dict[int, _Item] = {}
        self._answers: deque[Answer] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._active = time.monotonic()
        self._reason: DomainError | None = None
        self._waiting: dict[int, _Item] = {}
        """Those of the open whose pass did not end them."""
        self._looker: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._reader = self._loop.create_task(self._read_all(), name="transfer-stream")
        self._reader.add_done_callback(self._read_to_its_end)
        self._guard = self._loop.create_task(self._ask_for_the_token(), name="transfer-stream-token")

    async def answers(self) -> AsyncIterator[Answer]:
        """The answers as they come, until nothing is to be read or answered any more. Raises why the stream ended."""
        self._watch()
        while True:
            while self._answers:
                yield self._answers.popleft()
                self._in_flight -= 1
                self._active = time.monotonic()
                self._room.set()
            if self._reader.done() and not self._in_flight:
                break
            self._changed.clear()
            await self._changed.wait()
        if self._reason is not None:
            raise _told(self._reason, self._received)
        if not self._reader.cancelled():
            self._reader.result()  # what went wrong with the stream itself

    def end(self, reason: DomainError, *, within_seconds: float | None = None) -> None:
        """Reads no further; the first reason counts. What is open after `within_seconds` is answered as it stands. A
        client that does not take its answers is given up: its place is needed."""
        if self._reason is None:
            self._reason = reason
            self._reader.cancel()
            self._changed.set()
            if self._taking is not None:
                self._timers["taken"] = self._loop.call_later(_TAKEN_SECONDS, self._taking.cancel)
        if within_seconds is not None:
            self._timers["drain"] = self._loop.call_later(within_seconds, self._answer_all)

    def close(self) -> None:
        """Nobody listens any more: what was not begun is not begun, what was goes on without us."""
        self._reader.cancel()
        self._guard.cancel()
        for timer in self._timers.values():
            timer.cancel()
        if self._looker is not None:
            self._looker.cancel()
        for item in list(self._open.values()):
            item.leave()

    def answer(self, position: int, request_id: str, result: Transfer | DomainError) -> None:
        """Puts an answer among those that the client is sent next."""
        self._open.pop(position, None)
        self._waiting.pop(position, None)
        self._active = time.monotonic()
        self._answers.append(Answer(position, request_id, result))
        self._changed.set()

    def wait_for(self, position: int, item: _Item) -> None:
        """Waits for a transfer whose pass did not end it, until its time is over. Where a service is down that is all
        of them, so one look is for all: they must not take the database from those who pay."""
        self._waiting[position] = item
        if self._looker is None or self._looker.done():
            self._looker = self._loop.create_task(self._look(), name="transfer-stream-look")
            self._looker.add_done_callback(_looked)

    async def _look(self) -> None:
        while self._waiting:
            await asyncio.sleep(_LOOK_SECONDS)
            items = list(self._waiting.values())
            try:
                settled = await self.transfers.settled(self.call.tenant, {item.transfer_id for item in items})
            except DomainError as error:  # the next look may find them; otherwise their time answers them
                _log.warning("transfers of a stream cannot be looked at", cause=error.message, count=len(items))
                continue
            for item in items:
                if item.transfer_id in settled:
                    item.settle(settled[item.transfer_id])

    def _read_to_its_end(self, reader: asyncio.Task[None]) -> None:
        if not reader.cancelled():
            reader.exception()  # read here for a stream whose client is gone; `answers` raises it
        self._changed.set()

    async def _read_all(self) -> None:
        async for message in self._requests:
            self._active = time.monotonic()
            self._received += 1
            self._in_flight += 1
            self._begin(self._received, self._read(message))
            while self._in_flight >= self._in_flight_max:
                self._room.clear()
                await self._room.wait()

    def _begin(self, position: int, asked: Asked) -> None:
        if isinstance(asked.order, DomainError):
            self.answer(position, asked.request_id, asked.order)
            return
        # Many at a time wait in the lane of the bulk, beside that of single payments.
        order = Order(asked.order, bulk=self._in_flight > FEW_ITEMS_MAX)
        item = self._open[position] = _Item(self, position, asked.request_id, order)
        item.begin(min(asked.timeout_seconds, max(self.call.remaining_s() - _BEFORE_DEADLINE_SECONDS, 0.0)))

    def _answer_all(self) -> None:
        for item in list(self._open.values()):
            item.expire()

    def _watch(self) -> None:
        """Ends the stream with its token, before its caller's deadline, and when it is idle."""
        for name, seconds, reason in (
            ("token", self.call.token_expires - time.time(), TokenInvalid()),
            ("deadline", self.call.remaining_s() - _BEFORE_DEADLINE_SECONDS, DeadlineExceeded()),
        ):
            if seconds != float("inf"):
                self._timers[name] = self._loop.call_later(max(seconds, 0.0), self.end, reason)
        self._check_idle()

    async def _ask_for_the_token(self) -> None:
        while True:
            await asyncio.sleep(_TOKEN_SECONDS)
            try:
                await self.call.token_stands()
            except DomainError as refusal:
                self.end(refusal)
                return

    def _check_idle(self) -> None:
        """Idle is where nothing is sent, under way or taken: also where the client does not take what is answered."""
        left = self._idle_seconds - (time.monotonic() - self._active)
        if self._open:
            left = self._idle_seconds
        if left <= 0:
            self.end(StreamEnded(_IDLE))
        else:
            self._timers["idle"] = self._loop.call_later(left, self._check_idle)


class _Item:
    """A transfer of a stream on its way: recorded, passed on, answered once."""

    __slots__ = ("_answered", "_intent", "_order", "_position", "_request_id", "_stream", "_timer")

    def __init__(self, stream: _Stream, position: int, request_id: str, order: Order) -> None:
        self._stream = stream
        self._position = position
        self._request_id = request_id
        self._order = order
        self._answered = False
        self._intent: asyncio.Future[Transfer] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, seconds: float) -> None:
        """Hands it to the batches; it is answered within `seconds`."""
        try:
            self._intent = self._stream.transfers.orders.begin(self._order, time.monotonic() + seconds)
        except DomainError as refusal:
            self._answer(refusal)
            return
        self._timer = asyncio.get_running_loop().call_later(seconds, self.expire)
        self._intent.add_done_callback(self._recorded)

    def expire(self) -> None:
        """Its time is over: it is answered as it stands, and what is begun goes on."""
        if self._intent is not None:
            self._intent.cancel()
        self._answer(present(self._order))

    def leave(self) -> None:
        """Nobody wants its answer any more."""
        self._answered = True
        if self._timer is not None:
            self._timer.cancel()
        if self._intent is not None:
            self._intent.cancel()

    @property
    def transfer_id(self) -> str:
        """The recorded transfer's: that of the first request, where this one is a copy."""
        return (self._order.recorded or self._order.transfer).id

    def settle(self, transfer: Transfer) -> None:
        """It came to its end after its pass, here or at another replica."""
        self._order.recorded, self._order.passed = transfer, None
        self._answer(present(self._order))

    def _recorded(self, intent: asyncio.Future[Transfer]) -> None:
        if intent.cancelled() or self._answered:
            return
        error = intent.exception()
        if error is not None:
            self._answer(error if isinstance(error, DomainError) else _failure(error))
        elif self._order.passed is None:
            self._passed_on(None)
        else:
            self._order.passed.add_done_callback(self._passed_on)

    def _passed_on(self, _passed: asyncio.Future[Transfer] | None) -> None:
        """After the pass: the end, or what the transfer waits for is waited for as long as its time allows."""
        if self._answered:
            return
        result = present(self._order)
        if isinstance(result, Transfer) and not result.is_final and result.state not in RESTING:
            self._stream.wait_for(self._position, self)
        else:
            self._answer(result)

    def _answer(self, result: Transfer | DomainError) -> None:
        if self._answered:
            return
        self._answered = True
        if self._timer is not None:
            self._timer.cancel()
        self._stream.answer(self._position, self._request_id, result)


def _told(reason: DomainError, received: int) -> DomainError:
    """The end of a stream with how far it came."""
    return StreamEnded(reason.metadata["why"], received) if isinstance(reason, StreamEnded) else reason


def _looked(looker: asyncio.Task[None]) -> None:
    error = None if looker.cancelled() else looker.exception()
    if error is not None:  # their time answers the items
        _log.error("transfers of a stream cannot be waited for", exc_info=error)


def _failure(error: BaseException) -> DomainError:
    """What one item is told of a bug or a broken database; the stream goes on."""
    error_id = uuid.uuid4().hex
    _log.error("a call failed", error_id=error_id, call="StreamTransfers", exc_info=error)
    telemetry.REFUSALS.labels("StreamTransfers", "INTERNAL").inc()
    return RecordedRefusal(internal_status(error_id))
