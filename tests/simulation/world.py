"""Who runs, what is on its way, and what becomes of it: every call and every transaction stops at a gate first.

A schedule opens the gates, in any order, and says how each thing ends: as it should, lost, done with the answer lost,
done twice, or done when nobody waits for it any more. Nothing here knows what a payment is.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from tests.simulation.loop import VirtualLoop

BEGINNING = datetime(2026, 3, 2, 9, tzinfo=UTC)


class Killed(BaseException):
    """Stands for kill -9: nothing handles it, and nothing that runs after it gets through a gate."""


class Fate(StrEnum):
    """How a call or a transaction ends."""

    GO = "go"
    LOST = "lost"
    """It never arrived."""
    ANSWER_LOST = "answer lost"
    """It was done, and who asked will never know. A transaction is run again then, as the driver's retry does."""
    LATE = "late"
    """Who asked gave up; it is done later. A transaction was done, and the database does not answer any more."""
    TWICE = "twice"
    """It is done now, and a copy of it comes later."""


@dataclass(eq=False, slots=True)
class Process:
    """A replica of a service while it lives."""

    name: str
    dead: bool = False


@dataclass(eq=False, slots=True)
class Gate:
    """Something that is about to be done."""

    process: Process
    label: str
    opened: asyncio.Future[Fate]


_process: ContextVar[Process] = ContextVar("process")


@dataclass
class World:
    """One run."""

    loop: VirtualLoop = field(default_factory=VirtualLoop)
    gates: list[Gate] = field(default_factory=list)
    late: list[Callable[[], object]] = field(default_factory=list)
    """Messages whose senders gave up, and copies of messages."""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    """What the product itself called an error."""

    def now(self) -> datetime:
        """What every clock shows."""
        return BEGINNING + timedelta(seconds=self.loop.time())

    def spawn(self, process: Process, work: Coroutine[Any, Any, None]) -> None:
        """Begins something in a process."""

        # A context of its own: what it starts belongs to the same process.
        context = contextvars.copy_context()
        context.run(_process.set, process)
        task = self.loop.create_task(work, context=context)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        self.loop.run_ready()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, Killed):
            self.loop.failures.append(error)

    async def arrive(self, label: str) -> Fate:
        """Waits at a gate; gives what is to become of it. Raises Killed in a process that is dead."""
        process = _process.get()
        if process.dead:
            raise Killed
        gate = Gate(process, label, self.loop.create_future())
        self.gates.append(gate)
        try:
            return await gate.opened
        finally:
            if gate in self.gates:  # its task was cancelled
                self.gates.remove(gate)

    def open(self, pick: int, fate: Fate = Fate.GO) -> None:
        """Opens one of the gates, if there is one."""
        if self.gates:
            gate = self.gates.pop(pick % len(self.gates))
            gate.opened.set_result(fate)
            self.loop.run_ready()

    def deliver_late(self, pick: int) -> None:
        """Lets one of the messages arrive that nobody waits for."""
        if self.late:
            self.late.pop(pick % len(self.late))()

    def kill(self, process: Process) -> None:
        """Ends a process wherever it is."""
        process.dead = True
        for gate in [gate for gate in self.gates if gate.process is process]:
            self.gates.remove(gate)
            gate.opened.set_exception(Killed())
        for task in self.loop.alive():
            if task.get_context().get(_process) is process:
                task.cancel()
        self.loop.run_ready()
