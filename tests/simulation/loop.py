"""An event loop without a clock and without a network: it runs what is ready, and time passes when it is told so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any


class _NoSelector:
    """Nothing comes from outside."""

    def select(self, _timeout: float | None) -> list[Any]:
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """Deterministic: the same calls in the same order give the same run."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _NoSelector()
        self._seconds = 0.0
        self._begun: list[asyncio.Task[Any]] = []
        self.failures: list[BaseException] = []
        """What tasks died of, or callbacks, with nobody to tell."""
        self.set_exception_handler(self._note)

    def time(self) -> float:
        """Seconds since the loop was made, as `time.monotonic()` is for the code in it."""
        return self._seconds

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        """As any loop, without looking whether it is closed or debugged: a schedule comes here a thousand times."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        """As any loop, and remembers it: asyncio itself looks through the tasks of all loops there were."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, **options)
        self._begun.append(task)
        return task

    def alive(self) -> list[asyncio.Task[Any]]:
        """The tasks that have not ended, in the order in which they began."""
        self._begun = [task for task in self._begun if not task.done()]
        return self._begun

    def run_ready(self) -> None:
        """Runs until everything waits: for a gate, for another task, or for time to pass. No timer is due before."""
        ready = self._ready
        if not ready:
            return
        with self._running():
            while ready:
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()

    def pass_time(self, seconds: float) -> None:
        """Lets time pass, and everything happen that was to happen meanwhile, each at its time."""
        until = self._seconds + seconds
        self.run_ready()
        while self._scheduled and self._scheduled[0].when() <= until:
            self._seconds = max(self._seconds, self._scheduled[0].when())
            with self._running():
                self._run_once()
            self.run_ready()
        self._seconds = until

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        asyncio.events._set_running_loop(self)
        try:
            yield
        finally:
            asyncio.events._set_running_loop(None)

    def _process_events(self, _events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There are no other threads."""

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            self.failures.append(error)


def at_once[T](work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives that waits for nothing: one transaction, during which nobody else does anything."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("it waited in the middle of a transaction")
