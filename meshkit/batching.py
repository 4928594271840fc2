"""Group commit: items that arrive while a batch is being processed form the next batch; one alone never waits.

It must not lose or double an item: one item's failure fails its own caller, and what may have happened is never
refused here (the processing is idempotent by the items' keys and is run again).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from meshkit import identity, logs, telemetry
from meshkit.errors import DeadlineTooShort, DomainError, Overloaded, Unavailable

I = TypeVar("I")  # noqa: E741 - an item in, an outcome out
O = TypeVar("O")  # noqa: E741

_log = logs.get(__name__)

FEW_ITEMS_MAX = 100
"""A call with more items is bulk: from here on, batches hardly get faster with more."""
_HELD_SECONDS_MAX = 0.5
"""A batch that takes longer than any should holds up those behind it for so long at most."""
_PACE_SECONDS = 0.02
"""Between the beginnings of two batches, where the first was shared; it costs a caller less than it saves."""
_GATHER_SECONDS = 0.01  # for each event
_GATHER_EVENTS_MAX = 40
_FAILURES_MAX = 32
"""A batch fails so often at most: three items at fault among a thousand are found with fewer; a failure that is
everybody's must not cost a transaction an item."""


@dataclass(slots=True)
class _Waiting[I, O]:
    item: I
    answer: asyncio.Future[O]
    deadline: float | None
    traceparent: str


class Batcher[I, O]:
    """Collects items into batches for `process`, which gives one outcome an item, in their order.

    An outcome that is an exception is raised to that item's caller alone. `concurrency` batches may be processed at
    once, but one begins beside others only when it is large, or when they take too long: under load batches get larger
    before they get more, since most of a batch's cost is the same for one item as for a hundred. Large is as many as
    are being processed, but `beside_min` at least; a hundred always are. Where processing is mostly waiting for others,
    a lower `beside_min` keeps them busy.

    A batch that fails whole is split, so that the item at fault fails alone: an item's data may be what the database
    refuses or what our own code stumbles over. A refusal (DomainError) is everybody's: the items are not at fault.

    Where items differ in size, `weigh` tells an item's, and a batch of more than one has `weight_max` at most.

    Items that come with many others wait in a lane of their own, and batches are taken from both lanes by turns:
    neither holds up the other, nor fills its queue.
    """

    def __init__(
        self,
        name: str,
        process: Callable[[Sequence[I]], Awaitable[Sequence[O | BaseException]]],
        *,
        batch_max: int = 1000,
        queue_max: int = 20_000,
        concurrency: int = 1,
        beside_min: int = FEW_ITEMS_MAX,
        weigh: Callable[[I], int] | None = None,
        weight_max: int = 0,
    ) -> None:
        self._name = name
        self._process = process
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._concurrency = concurrency
        self._beside_min = beside_min
        self._weigh = weigh
        self._weight_max = weight_max
        self._lanes: tuple[deque[_Waiting[I, O]], deque[_Waiting[I, O]]] = (deque(), deque())
        """For calls with few items, and for those with many."""
        self._turn = 0
        self._wanted = [0, 0]
        """How many items of each lane have to wait before a batch of it begins beside another."""
        self._held_until = [0.0, 0.0]
        self._pause_until = 0.0
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._closed = False

    async def submit(self, item: I, *, deadline: float | None = None) -> O:
        """The outcome of one item. `deadline` is on time.monotonic(); an item that passed it unbegun is dropped.

        Raises Overloaded when too many wait, DeadlineTooShort when dropped, or the item's own exception.
        """
        return await self.enqueue([item], deadline=deadline)[0]

    async def submit_all(
        self, items: Sequence[I], *, deadline: float | None = None, bulk: bool | None = None
    ) -> list[O | BaseException]:
        """The outcomes of many items, in their order; an item's exception stands in its place. Raises Overloaded."""
        return await asyncio.gather(*self.enqueue(items, deadline=deadline, bulk=bulk), return_exceptions=True)

    def enqueue(
        self,
        items: Sequence[I],
        *,
        deadline: float | None = None,
        bulk: bool | None = None,
        traces: Sequence[str] | None = None,
    ) -> list[asyncio.Future[O]]:
        """As `submit_all`, for who goes on meanwhile: a future for each outcome. The item of one that is cancelled in
        time is not begun.

        `bulk` says whether they came with many others; by default their number does. `traces` are the items' own, by
        default the caller's. Raises Overloaded, or Unavailable when this process ends.
        """
        if not items:
            return []
        if self._closed:
            raise Unavailable("this replica")
        at = len(items) > FEW_ITEMS_MAX if bulk is None else bulk
        lane = self._lanes[at]
        if len(lane) + len(items) > self._queue_max:
            raise Overloaded
        loop = asyncio.get_running_loop()
        own = traces or [identity.traceparent()] * len(items)
        answers: list[asyncio.Future[O]] = [loop.create_future() for _ in items]
        lane.extend(
            _Waiting(item, answer, deadline, trace) for item, answer, trace in zip(items, answers, own, strict=True)
        )
        self._arrived.set()
        if len(lane) >= self._wanted[at]:
            self._enough.set()
        return answers

    async def run(self) -> None:
        """Processes until it is cancelled. Once a batch was begun, it is finished even then."""
        running: dict[asyncio.Task[None], tuple[int, int]] = {}  # the lane and the number of items
        self._closed = False  # a worker that failed is started again
        try:
            while True:
                await self._arrived.wait()
                if len(running) >= self._concurrency:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                else:
                    # One turn of the loop at least, so that callers woken by the batch before can join this one.
                    await asyncio.sleep(max(self._pause_until - time.monotonic(), 0.0))
                    lane = self._ready_lane(running)
                    if lane is None:
                        await self._change(running)
                    elif batch := self._take(self._lanes[lane]):
                        task = asyncio.create_task(self._answer(batch), name=f"batch-{self._name}")
                        running[task] = lane, len(batch)
                        now = time.monotonic()
                        self._held_until[lane] = now + _HELD_SECONDS_MAX
                        self._pause_until = now + _PACE_SECONDS if len(batch) > 1 else 0.0
                running = {task: of for task, of in running.items() if not task.done()}
        finally:
            self._closed = True
            if running:
                await asyncio.wait(running)
            for left in self._lanes:
                while left:
                    _fail(left.popleft(), Unavailable("this replica"))

    def _ready_lane(self, running: Mapping[asyncio.Task[None], tuple[int, int]]) -> int | None:
        """The lane that the next batch is taken from; None while those that wait had better wait for more."""
        self._turn = 1 - self._turn
        for lane in (self._turn, 1 - self._turn):
            processed = sum(items for of, items in running.values() if of == lane)
            self._wanted[lane] = min(max(processed, self._beside_min), FEW_ITEMS_MAX) if processed else 0
            waiting = len(self._lanes[lane])
            if waiting and (waiting >= self._wanted[lane] or time.monotonic() >= self._held_until[lane]):
                return lane
        return None

    async def _change(self, running: Collection[asyncio.Task[None]]) -> None:
        """Waits until a lane may be ready: enough came, a batch ended, or one has been held for long enough."""
        self._enough.clear()
        enough = asyncio.ensure_future(self._enough.wait())
        held = [until for lane, until in zip(self._lanes, self._held_until, strict=True) if lane]
        seconds = max(min(held, default=0.0) - time.monotonic(), 0.0)
        try:
            await asyncio.wait({enough, *running}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            enough.cancel()

    def _take(self, lane: deque[_Waiting[I, O]]) -> list[_Waiting[I, O]]:
        now = time.monotonic()
        batch: list[_Waiting[I, O]] = []
        weight = 0
        while lane and len(batch) < self._batch_max:
            waiting = lane.popleft()
            if waiting.answer.done():
                continue  # its caller went away before anything was begun
            if waiting.deadline is not None and waiting.deadline <= now:
                _fail(waiting, DeadlineTooShort())
                continue
            if self._weigh is not None:
                weight += self._weigh(waiting.item)
                if weight > self._weight_max and batch:
                    lane.appendleft(waiting)
                    break
            batch.append(waiting)
        left = sum(map(len, self._lanes))
        if not left:
            self._arrived.clear()
        telemetry.BATCH_QUEUE.labels(self._name).set(left)
        return batch

    async def _answer(self, batch: list[_Waiting[I, O]]) -> None:
        telemetry.BATCH_ITEMS.labels(self._name).observe(len(batch))
        parts, failures = deque([batch]), 0
        while parts:
            part = parts.popleft()
            identity.adopt_trace(waiting.traceparent for waiting in part)
            try:
                outcomes = await self._process([waiting.item for waiting in part])
                if len(outcomes) != len(part):
                    raise RuntimeError(f"{self._name}: {len(outcomes)} outcomes for {len(part)} items")
            except Exception as error:  # noqa: BLE001 - every caller of the batch has to be answered, whatever went wrong
                failures += 1
                if isinstance(error, DomainError) or len(part) == 1 or failures > _FAILURES_MAX:
                    for waiting in part:
                        _fail(waiting, error)
                    continue
                _log.warning("a batch is split", batch=self._name, items=len(part), cause=type(error).__name__)
                middle = len(part) // 2
                parts.extendleft((part[middle:], part[:middle]))  # in their order
                continue
            for waiting, outcome in zip(part, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    _fail(waiting, outcome)
                elif not waiting.answer.done():
                    waiting.answer.set_result(outcome)


def event_gather_seconds(count: int) -> float:
    """How long events are gathered when `count` went together the last time: the more come, the longer, since a round
    for a few costs as much as for all."""
    return _GATHER_SECONDS * min(max(count, 1), _GATHER_EVENTS_MAX)


def _fail[I, O](waiting: _Waiting[I, O], error: BaseException) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
        waiting.answer.exception()  # read, so that a caller that left is not reported as never retrieved
