"""The one source of time in a process; it must not be bypassed, so that tests and a sandbox can move it."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now() -> datetime:
    """The present moment in UTC, with microseconds."""
    return datetime.now(UTC)


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
