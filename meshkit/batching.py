"""Group commit: items that arrive while a batch is being processed form the next batch; there is no timer.

It must not lose or double an item: one item's failure fails its own caller, and what may have happened is never
refused here (the processing is idempotent by the items' keys and is run again).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from meshkit import logs, telemetry
from meshkit.database import is_data_error
from meshkit.errors import DeadlineTooShort, Overloaded, Unavailable

I = TypeVar("I")  # noqa: E741 - an item in, an outcome out
O = TypeVar("O")  # noqa: E741

_log = logs.get(__name__)


@dataclass(slots=True)
class _Waiting[I, O]:
    item: I
    answer: asyncio.Future[O]
    deadline: float | None


class Batcher[I, O]:
    """Collects items into batches for `process`, which gives one outcome an item, in their order.

    An outcome that is an exception is raised to that item's caller alone. `concurrency` batches may be processed at
    once. A data error of a whole batch (SQLSTATE 22 or 23) splits it, so that the item at fault fails alone.
    """

    def __init__(
        self,
        name: str,
        process: Callable[[Sequence[I]], Awaitable[Sequence[O | BaseException]]],
        *,
        batch_max: int = 1000,
        queue_max: int = 20_000,
        concurrency: int = 1,
    ) -> None:
        self._name = name
        self._process = process
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._concurrency = concurrency
        self._queue: deque[_Waiting[I, O]] = deque()
        self._arrived = asyncio.Event()
        self._closed = False

    async def submit(self, item: I, *, deadline: float | None = None) -> O:
        """The outcome of one item. `deadline` is on time.monotonic(); an item that passed it unbegun is dropped.

        Raises Overloaded when too many wait, DeadlineTooShort when dropped, or the item's own exception.
        """
        return await self._enqueue([item], deadline)[0]

    async def submit_all(self, items: Sequence[I], *, deadline: float | None = None) -> list[O | BaseException]:
        """The outcomes of many items, in their order; an item's exception stands in its place. Raises Overloaded."""
        return await asyncio.gather(*self._enqueue(items, deadline), return_exceptions=True)

    async def run(self) -> None:
        """Processes until it is cancelled. Once a batch was begun, it is finished even then."""
        running: set[asyncio.Task[None]] = set()
        self._closed = False  # a worker that failed is started again
        try:
            while True:
                await self._arrived.wait()
                if len(running) >= self._concurrency:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    running = {task for task in running if not task.done()}
                    continue
                # One turn of the loop, so that callers woken by the batch before can join this one.
                await asyncio.sleep(0)
                batch = self._take()
                if batch:
                    running.add(asyncio.create_task(self._answer(batch), name=f"batch-{self._name}"))
                running = {task for task in running if not task.done()}
        finally:
            self._closed = True
            if running:
                await asyncio.wait(running)
            while self._queue:
                _fail(self._queue.popleft(), Unavailable("this replica"))

    def _enqueue(self, items: Sequence[I], deadline: float | None) -> list[asyncio.Future[O]]:
        if self._closed:
            raise Unavailable("this replica")
        if len(self._queue) + len(items) > self._queue_max:
            raise Overloaded
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[O]] = []
        for item in items:
            answer: asyncio.Future[O] = loop.create_future()
            answers.append(answer)
            self._queue.append(_Waiting(item, answer, deadline))
        self._arrived.set()
        return answers

    def _take(self) -> list[_Waiting[I, O]]:
        now = time.monotonic()
        batch: list[_Waiting[I, O]] = []
        while self._queue and len(batch) < self._batch_max:
            waiting = self._queue.popleft()
            if waiting.answer.done():
                continue  # its caller went away before anything was begun
            if waiting.deadline is not None and waiting.deadline <= now:
                _fail(waiting, DeadlineTooShort())
                continue
            batch.append(waiting)
        if not self._queue:
            self._arrived.clear()
        telemetry.BATCH_QUEUE.labels(self._name).set(len(self._queue))
        return batch

    async def _answer(self, batch: list[_Waiting[I, O]]) -> None:
        telemetry.BATCH_ITEMS.labels(self._name).observe(len(batch))
        try:
            outcomes = await self._process([waiting.item for waiting in batch])
            if len(outcomes) != len(batch):
                raise RuntimeError(f"{self._name}: {len(outcomes)} outcomes for {len(batch)} items")
        except Exception as error:  # noqa: BLE001 - every caller of the batch has to be answered, whatever went wrong
            if is_data_error(error) and len(batch) > 1:
                middle = len(batch) // 2
                _log.warning("a batch is split", batch=self._name, items=len(batch), cause=type(error).__name__)
                await self._answer(batch[:middle])
                await self._answer(batch[middle:])
                return
            for waiting in batch:
                _fail(waiting, error)
            return
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                _fail(waiting, outcome)
            elif not waiting.answer.done():
                waiting.answer.set_result(outcome)


def _fail[I, O](waiting: _Waiting[I, O], error: BaseException) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
        waiting.answer.exception()  # read, so that a caller that left is not reported as never retrieved
