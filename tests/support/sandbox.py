"""The clock of a sandbox for services in this process, moved by its file as `florin clock` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from local.state import write_private
from meshkit import clock
from meshkit.course import Course
from meshkit.sandbox import SandboxClock, clock_of

STILL = timedelta()


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A clock that this process goes by."""

    file: Path
    clock: SandboxClock

    def advance(self, by: timedelta) -> None:
        """Moves it, at once."""
        write(self.file, self.clock.course.version + 1, self.clock.course.after, self.clock.course.after + by)
        self.clock.look()
        self.clock.settle()


def write(file: Path, version: int, before: timedelta, after: timedelta, *, delay: timedelta = STILL) -> Course:
    """Writes the course of a clock that changes over after `delay`."""
    course = Course(version, before, after, clock.machine_now() + delay)
    write_private(file, course.text())
    return course


@contextmanager
def sandbox_in(folder: Path) -> Iterator[Sandbox]:
    """This process is a sandbox while the block runs."""
    file = folder / "clock.json"
    write(file, 1, STILL, STILL)
    with clock_of(file) as found:
        assert found is not None
        yield Sandbox(file, found)
