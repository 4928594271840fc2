"""The clock of a sandbox: where it is told of one, a process goes by it; it changes over in one moment, never back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import clock
from meshkit.course import Course, course_of
from meshkit.sandbox import SandboxClock, clock_of
from tests.support.sandbox import STILL, sandbox_in, write

MONTH = timedelta(days=31)
AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_without_a_file_the_clock_is_the_machines_own() -> None:
    """Nothing is put in its place, so nothing can move it and no call pays for it."""
    with clock_of(None) as found:
        assert found is None
        assert clock.now is clock.machine_now
        assert clock.ahead() == timedelta()
        assert clock.of_machine(AT) == AT


def test_a_course_changes_over_at_its_moment() -> None:
    """Before it the one time, from it on the other; and it is the same after a file."""
    course = Course(7, STILL, MONTH, AT)
    assert course.ahead(AT - timedelta(microseconds=1)) == STILL
    assert course.ahead(AT) == MONTH
    assert course_of(course.text()) == course


@given(
    before=st.timedeltas(STILL, timedelta(days=36_525)),
    more=st.timedeltas(STILL, timedelta(days=36_525)),
    steps=st.lists(st.timedeltas(timedelta(days=-3), timedelta(days=3)), min_size=2),
)
def test_time_goes_forward_whatever_the_course(before: timedelta, more: timedelta, steps: list[timedelta]) -> None:
    """Of two moments of the machine's, the later one is the later one of the bank's."""
    course = Course(1, before, before + more, AT)
    moments = sorted(AT + step for step in steps)
    told = [moment + course.ahead(moment) for moment in moments]
    assert told == sorted(told)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 1, "before_us": 5, "after_us": 4, "at_us": 0}',
        '{"version": 1, "before_us": -5, "after_us": 4, "at_us": 0}',
        '{"version": 1, "before_us": 0, "after_us": 99999999999999999999999, "at_us": 0}',
    ],
)
def test_what_is_no_course_is_refused(text: str) -> None:
    """Damaged, or backwards: no process starts by it."""
    with pytest.raises(ValueError, match=r"."):
        course_of(text)


def test_a_process_takes_up_what_the_file_says(tmp_path: Path) -> None:
    """All three ways to ask tell the new time, and afterwards the machine's again."""
    with sandbox_in(tmp_path) as sandbox:
        sandbox.advance(MONTH)
        sandbox.advance(MONTH)
        assert clock.ahead() == 2 * MONTH
        assert timedelta() <= clock.now() - (clock.machine_now() + 2 * MONTH) + timedelta(seconds=1)
        assert clock.of_machine(clock.machine_now()) - clock.machine_now() > 2 * MONTH - timedelta(seconds=1)
        told = sandbox.clock.told()
        assert told["version"] == 3
    assert clock.now is clock.machine_now


def test_a_file_that_would_turn_time_back_changes_nothing(tmp_path: Path) -> None:
    """A backup of the file put in its place: said, and gone on as before."""
    with sandbox_in(tmp_path) as sandbox:
        sandbox.advance(MONTH)
        for version, after in ((9, MONTH / 2), (1, 2 * MONTH)):
            write(sandbox.file, version, STILL, after)
            with pytest.raises(ValueError, match="turn time back"):
                sandbox.clock.look()
        sandbox.file.write_text("nonsense")
        with pytest.raises(ValueError, match=r"."):
            sandbox.clock.look()
        assert clock.ahead() == MONTH


async def test_who_waits_for_a_moment_is_woken_once_time_has_moved(tmp_path: Path) -> None:
    """Not when the course is read, which is a little earlier: then nothing is due yet."""
    with sandbox_in(tmp_path) as sandbox:
        woken: asyncio.Queue[datetime] = asyncio.Queue()
        worker = asyncio.create_task(sandbox.clock.run([lambda: woken.put_nowait(clock.now())]))
        try:
            before = clock.now()
            write(sandbox.file, 2, STILL, MONTH, delay=timedelta(seconds=0.2))
            assert await asyncio.wait_for(woken.get(), 10) >= before + MONTH
            assert woken.empty()
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)


def test_time_stays_moved_when_the_machines_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A correction by a second, right after the change: it must not bring the month before back."""
    with sandbox_in(tmp_path) as sandbox:
        course = write(sandbox.file, 2, STILL, MONTH)
        sandbox.clock.look()
        assert [sandbox.clock.settle(), sandbox.clock.settle()] == [True, False]
        monkeypatch.setattr(clock, "machine_now", lambda: course.at - timedelta(seconds=1))
        assert clock.ahead() == MONTH
        sandbox.clock.look()
        assert clock.now() == course.at - timedelta(seconds=1) + MONTH


def test_a_restarted_process_goes_by_the_same_time(tmp_path: Path) -> None:
    """How far it is moved stands in the file."""
    with sandbox_in(tmp_path) as sandbox:
        sandbox.advance(MONTH)
    assert SandboxClock(sandbox.file).ahead() == MONTH
