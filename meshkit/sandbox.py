"""The clock of a sandbox: moves the bank's time of this process as a file says, never backwards.

Only a process that is told of such a file runs any of this; nothing else puts another clock in the place of the real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from meshkit import clock, logs
from meshkit.course import course_of

_LOOK_SECONDS = 0.05
_log = logs.get(__name__)


class SandboxClock:
    """What a process knows of its sandbox's clock."""

    def __init__(self, file: Path) -> None:
        """Reads the file. Raises OSError and ValueError."""
        self._file = file
        self._stamp = _stamp(file)
        self.course = course_of(file.read_text())

    def now(self) -> datetime:
        """The present moment of the bank's time."""
        return self.of_machine(clock.machine_now())

    def of_machine(self, moment: datetime) -> datetime:
        """What the bank's time is at a moment of the machine's."""
        return moment + self.course.ahead(moment)

    def ahead(self) -> timedelta:
        """How far the bank's time is ahead now."""
        return self.course.ahead(clock.machine_now())

    def told(self) -> dict[str, Any]:
        """Which course this process goes by, for whoever moves the clock and waits for all."""
        return {"version": self.course.version, "now": self.now().isoformat()}

    async def run(self, wakes: Sequence[Callable[[], None]]) -> None:
        """Follows the file until it is cancelled; when time has moved, wakes those who wait for a moment of it."""
        while True:
            self.look()
            if self.settle():
                _log.warning("the sandbox's clock was moved", now=self.now().isoformat())
                for wake in wakes:
                    wake()
            await asyncio.sleep(_LOOK_SECONDS)

    def settle(self) -> bool:
        """Whether time has moved since this was asked. It stays moved then, should the machine's clock be set back to
        before the change."""
        if self.course.is_settled or clock.machine_now() < self.course.at:
            return False
        self.course = self.course.settled()
        return True

    def look(self) -> None:
        """Takes up what the file says now. Raises OSError and ValueError, and goes on as before."""
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        course = course_of(self._file.read_text())
        moment = clock.machine_now()
        if course.version < self.course.version or course.ahead(moment) < self.course.ahead(moment):
            raise ValueError(f"{self._file} would turn time back")
        self._stamp, self.course = stamp, course


def _stamp(file: Path) -> tuple[int, int]:
    """What changes whenever the file is replaced."""
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


@contextmanager
def clock_of(file: Path | None) -> Iterator[SandboxClock | None]:
    """Lets this process go by a sandbox's clock while the block runs; nothing is done, and None given, without one."""
    if file is None:
        yield None
        return
    sandbox = SandboxClock(file)
    real = clock.now, clock.of_machine, clock.ahead
    clock.now, clock.of_machine, clock.ahead = sandbox.now, sandbox.of_machine, sandbox.ahead
    _log.warning("this is a sandbox, whose clock can be moved", now=sandbox.now().isoformat())
    try:
        yield sandbox
    finally:
        clock.now, clock.of_machine, clock.ahead = real
