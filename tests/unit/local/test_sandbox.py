"""Moving a sandbox's clock from outside: what may be asked for, and what is refused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from local import sandbox
from local.sandbox import ClockRefused
from local.state import MeshError, State, open_state, write_private
from meshkit import clock
from meshkit.course import Course

DAY = timedelta(days=1)


@pytest.fixture
def state() -> Iterator[State]:
    """A folder in which a sandbox was started; it has no replicas, so that nobody has to take up its time."""
    with tempfile.TemporaryDirectory(prefix="florin-sandbox-") as folder:
        Path(folder).chmod(0o755)
        made = open_state(Path(folder) / "state")
        sandbox.prepare(made, wanted=True)
        with described(sandbox=True):
            yield made


def described(**values: Any) -> Any:
    """What the mesh says that runs there."""
    return mock.patch.object(State, "read_description", lambda _self: {"services": {}, **values})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("90m", DAY / 16), ("12h", DAY / 2), ("31d", 31 * DAY), ("1d12h", DAY * 1.5), ("2w", 14 * DAY), ("0s", 0 * DAY)],
)
def test_a_time_is_written_as_people_do(text: str, wanted: timedelta) -> None:
    """In weeks, days, hours, minutes and seconds."""
    assert sandbox.duration(text) == wanted


@pytest.mark.parametrize("text", ["", "31", "d", "-1d", "1.5d", "1d 2h", "1y", "999999999w"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """With an example of what is."""
    with pytest.raises(MeshError):
        sandbox.duration(text)


@pytest.mark.parametrize("text", ["tomorrow", "2027-01-31", "2027-01-31T09:00", "0001-01-01T00:00+14:00"])
def test_a_moment_needs_its_time_zone(text: str) -> None:
    """Nobody is to guess whose nine o'clock it is."""
    with pytest.raises(MeshError):
        sandbox.moment_of(text)
    assert sandbox.moment_of("2027-01-31T10:00+01:00") == datetime(2027, 1, 31, 9, tzinfo=UTC)


def test_the_clock_is_moved_by_a_time_and_to_a_moment(state: State) -> None:
    """Each adds to what it was, and stays."""
    assert sandbox.advance(state, by=31 * DAY).ahead == 31 * DAY
    target = clock.machine_now() + 40 * DAY
    shown = sandbox.advance(state, to=target)
    assert target <= shown.now < target + timedelta(seconds=5)
    assert sandbox.ahead(state) == sandbox.show(state).ahead == shown.ahead
    assert sandbox.show(state).version == 3


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"by": timedelta()}, "CLOCK_BACKWARDS"),
        ({"to": datetime(2020, 1, 1, tzinfo=UTC)}, "CLOCK_BACKWARDS"),
        ({"by": timedelta(days=36_526)}, "CLOCK_TOO_FAR"),
        ({"to": datetime(9999, 12, 31, tzinfo=UTC)}, "CLOCK_TOO_FAR"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(state: State, how: dict[str, Any], reason: str) -> None:
    """Backwards, standing still, or beyond any use."""
    before = state.clock.read_text()
    with pytest.raises(ClockRefused, match=reason):
        sandbox.advance(state, **how)
    assert state.clock.read_text() == before


def test_a_move_that_was_interrupted_is_waited_for(state: State) -> None:
    """The command died before the change: the next one adds to it. Where it would wait for long, it says why."""
    soon = clock.machine_now() + timedelta(seconds=0.2)
    write_private(state.clock, Course(2, 0 * DAY, DAY, soon).text())
    assert sandbox.advance(state, by=DAY).ahead == 2 * DAY
    write_private(state.clock, Course(9, 2 * DAY, 3 * DAY, clock.machine_now() + DAY).text())
    with pytest.raises(MeshError, match="set back"):
        sandbox.advance(state, by=DAY)


def test_another_mesh_is_not_moved(state: State) -> None:
    """It goes by the real time, and the refusal says how to get one that does not."""
    with described(sandbox=False), pytest.raises(ClockRefused, match=r"CLOCK_FIXED: .*florin up --sandbox --state"):
        sandbox.advance(state, by=DAY)


def test_a_sandbox_that_was_moved_is_not_started_without_its_clock(state: State) -> None:
    """By the real time it would be before what it recorded; one that was not moved may become an ordinary mesh."""
    sandbox.prepare(state, wanted=False)
    sandbox.advance(state, by=DAY)
    sandbox.prepare(state, wanted=True)
    assert sandbox.ahead(state) == DAY
    with pytest.raises(ClockRefused, match="CLOCK_BACKWARDS"):
        sandbox.prepare(state, wanted=False)


@pytest.mark.parametrize("content", [None, "nonsense", '{"version": 1, "before_us": 1, "after_us": 0, "at_us": 0}'])
def test_a_clock_that_is_lost_is_not_guessed(state: State, content: str | None) -> None:
    """Gone or damaged: said by name, for its owner to restore."""
    if content is None:
        state.clock.unlink()
    else:
        state.clock.write_text(content)
    with pytest.raises(MeshError, match=r"clock\.json"):
        sandbox.advance(state, by=DAY)
