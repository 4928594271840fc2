"""The clock of a sandbox, from outside: where it stands, and moving it in all replicas at once; never backwards."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from florin.common.v1 import errors_pb2
from local.state import MeshError, State, write_private
from meshkit import clock
from meshkit.course import Course, course_of

_LEAD = timedelta(milliseconds=400)
"""Between writing a course and its change: the replicas look at the file every 50 ms, and all change in one moment."""
_AHEAD_MAX = timedelta(days=36_525)
_TAKEN_SECONDS = 60.0
"""A replica that was killed is back, and goes by the new course, within it."""
_WAIT_SECONDS_MAX = 10.0
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


class ClockRefused(MeshError):
    """The clock is not moved; `reason` is one of the contract's."""

    def __init__(self, reason: errors_pb2.Reason.ValueType, sentence: str) -> None:
        self.reason = errors_pb2.Reason.Name(reason).removeprefix("REASON_")
        super().__init__(f"{self.reason}: {sentence}")


@dataclass(frozen=True, slots=True)
class Shown:
    """Where a sandbox's clock stands, and by which course each replica goes; None for one that does not answer."""

    now: datetime
    ahead: timedelta
    version: int
    replicas: dict[str, int | None]


def prepare(state: State, *, wanted: bool) -> None:
    """Makes the clock of a sandbox that is to be started, or looks whether a mesh may go without one.

    Raises ClockRefused for a folder whose clock was moved: by the machine's time, it would be before what it recorded.
    """
    if wanted:
        if not state.clock.exists():
            still = timedelta()
            write_private(state.clock, Course(1, still, still, clock.machine_now()).text())
        _read(state)
    elif state.clock.exists() and (ahead := _read(state).after):
        raise ClockRefused(
            errors_pb2.REASON_CLOCK_BACKWARDS,
            f"{state.root} is a sandbox whose time is {said(ahead)} ahead; start it with --sandbox, or give --state a "
            "new folder.",
        )


def ahead(state: State) -> timedelta:
    """How far the bank's time of a folder's mesh is ahead of the machine's; zero where it is no sandbox."""
    return _read(state).ahead(clock.machine_now()) if state.clock.exists() else timedelta()


def now(state: State) -> datetime:
    """The bank's time of a folder's mesh."""
    return clock.machine_now() + ahead(state)


def show(state: State) -> Shown:
    """Where the clock of a running sandbox stands. Raises ClockRefused for another mesh, MeshError where none runs."""
    ports = _ports(state)
    course = _read(state)
    moment = clock.machine_now()
    versions = {name: _version(port) for name, port in ports.items()}
    return Shown(moment + course.ahead(moment), course.ahead(moment), course.version, versions)


def advance(state: State, *, by: timedelta | None = None, to: datetime | None = None) -> Shown:
    """Moves the clock forward by a time, or to a moment, durably; returns when all replicas go by it.

    Raises ClockRefused, and MeshError where no mesh runs or a replica does not take it up in time: then it is moved all
    the same, and the replica goes by it once it is back.
    """
    ports = _ports(state)
    with _alone(state):
        before = _read(state)
        _wait_until(before)  # of a move whose command was interrupted
        moment = clock.machine_now()
        by = to - (moment + before.after) if to is not None else by or timedelta()
        if by <= timedelta():
            raise ClockRefused(
                errors_pb2.REASON_CLOCK_BACKWARDS,
                f"Time goes forward only, and in this sandbox it is {_text(moment + before.after)} already.",
            )
        if before.after + by > _AHEAD_MAX:
            raise ClockRefused(
                errors_pb2.REASON_CLOCK_TOO_FAR,
                f"A sandbox can be {_AHEAD_MAX.days} days ahead at most; that would be {said(before.after + by)}.",
            )
        course = Course(before.version + 1, before.after, before.after + by, moment + _LEAD)
        write_private(state.clock, course.text())
        _until_taken(ports, course)
        # So it stays moved for who starts later, should this machine's clock be set back to before the change.
        write_private(state.clock, course.settled().text())
        return show(state)


def duration(text: str) -> timedelta:
    """A time like 90m, 12h, 31d or 1d12h. Raises MeshError."""
    parts = re.findall(r"(\d{1,9})([wdhms])", text)
    if not parts or "".join(count + unit for count, unit in parts) != text:
        raise MeshError(f"{text}: write a time like 90m, 12h, 31d or 1d12h.")
    try:
        return sum((timedelta(**{_UNITS[unit]: int(count)}) for count, unit in parts), timedelta())
    except OverflowError:
        raise MeshError(f"{text}: that is longer than any calendar.") from None


def moment_of(text: str) -> datetime:
    """A moment with its time zone. Raises MeshError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise MeshError(f"--to {text}: write a moment with its time zone, like 2027-01-31T09:00Z.")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise MeshError(f"--to {text}: no calendar has that moment.") from None


def said(time_: timedelta) -> str:
    """A time in words."""
    hours, minutes = divmod(time_.seconds // 60, 60)
    parts = ((time_.days, "d"), (hours, "h"), (minutes, "m"), (time_.seconds % 60, "s"))
    return " ".join(f"{count}{unit}" for count, unit in parts if count) or "0s"


def as_json(shown: Shown) -> dict[str, Any]:
    """For programs."""
    return {
        "now": _text(shown.now),
        "ahead_seconds": shown.ahead.total_seconds(),
        "replicas": {name: version == shown.version for name, version in shown.replicas.items()},
    }


def as_text(shown: Shown) -> str:
    """For people."""
    late = [name for name, version in shown.replicas.items() if version != shown.version]
    goes = f"all {len(shown.replicas)} replicas go by it" if not late else f"NOT yet: {', '.join(late)}"
    return f"{_text(shown.now)}, {said(shown.ahead)} ahead of this machine; {goes}"


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _ports(state: State) -> dict[str, int]:
    """The health port of each replica. Raises ClockRefused where the mesh is no sandbox."""
    description = state.read_description()
    if not description.get("sandbox"):
        raise ClockRefused(
            errors_pb2.REASON_CLOCK_FIXED,
            f"The mesh in {state.root} goes by this machine's time, which nobody moves. A mesh whose time can be moved "
            "is a sandbox: florin up --sandbox --state NEW_FOLDER",
        )
    return {name: int(service["health"]) for name, service in description["services"].items()}


def _read(state: State) -> Course:
    try:
        return course_of(state.clock.read_text())
    except FileNotFoundError:
        raise MeshError(f"{state.clock} is gone, and with it how far this sandbox's time was moved.") from None
    except ValueError as error:
        raise MeshError(f"{state.clock} is damaged ({error}); restore it.") from None


@contextlib.contextmanager
def _alone(state: State) -> Iterator[None]:
    """One moves the clock at a time; the next one waits."""
    with state.clock.with_suffix(".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _until_taken(ports: dict[str, int], course: Course) -> None:
    deadline = time.monotonic() + _TAKEN_SECONDS
    late = dict(ports)
    while late:
        late = {name: port for name, port in late.items() if _version(port) != course.version}
        if late and time.monotonic() > deadline:
            raise MeshError(
                f"The clock is moved, but {', '.join(late)} did not take it up within {_TAKEN_SECONDS:.0f} s; "
                "`florin clock show` says when it has."
            )
        time.sleep(0.02)
    _wait_until(course)


def _wait_until(course: Course) -> None:
    """Waits for the change of a course. Raises MeshError where that would be long."""
    if course.is_settled:
        return
    seconds = (course.at - clock.machine_now()).total_seconds()
    if seconds > _WAIT_SECONDS_MAX:
        raise MeshError(f"This machine's clock was set back: the sandbox's time changes over in {seconds:.0f} s only.")
    time.sleep(max(seconds, 0))


def _version(port: int) -> int | None:
    """Which course a replica goes by; None when it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/clock")
        answer = connection.getresponse()
        return int(json.loads(answer.read())["version"]) if answer.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None
    finally:
        connection.close()
