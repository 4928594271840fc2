"""The one source of time in a process; it must not be bypassed, so that tests and a sandbox can move it.

There are two times. The bank's time is what customers and books go by: whatever is recorded, told or due goes by it.
The machine's time is what machines agree on with each other: leases, deadlines, tokens, signatures. They are the same
but in a sandbox, which moves the bank's (meshkit/sandbox.py, ADR 0030).
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def machine_now() -> datetime:
    """The present moment of the machine's time in UTC, with microseconds."""
    return datetime.now(UTC)


def _moved_by_nobody(moment: datetime) -> datetime:
    return moment


def _not_ahead() -> timedelta:
    return timedelta()


# Names of what is called, not functions: a sandbox puts others in their place, and elsewhere nothing is asked per call
# whether there is one. So they are called as `clock.now()`, and never imported by their own names.

now: Callable[[], datetime] = machine_now
"""The present moment of the bank's time in UTC, with microseconds."""

of_machine: Callable[[datetime], datetime] = _moved_by_nobody
"""What the bank's time is at a moment of the machine's, which a database's clock tells too."""

ahead: Callable[[], timedelta] = _not_ahead
"""How far the bank's time is ahead of the machine's, never below zero: what SQL adds to now()."""


def timestamp(moment: datetime) -> Timestamp:
    """A moment, with its time zone, as messages have it.

    Timestamp.FromDatetime takes four times as long, by way of a calendar.
    """
    since = moment - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def microseconds(moment: datetime) -> int:
    """Since 1970, exactly: what PostgreSQL keeps."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(count: int) -> datetime:
    """The other way. Raises OverflowError for a time after the year 9999 or before 1."""
    return _EPOCH + count * _MICROSECOND


def agree_on_zones() -> None:
    """From here on the rules of time zones are those of the tzdata package, which the lock pins: not those that a
    machine has installed, by which two replicas would tell different days."""
    zoneinfo.reset_tzpath(())
    zoneinfo.ZoneInfo.clear_cache()
