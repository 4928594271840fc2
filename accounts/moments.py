"""Moments of an account's past: the three ways to name one, and what a question for one may ask; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from google.protobuf.timestamp_pb2 import Timestamp

from accounts import errors
from meshkit.errors import RequestInvalid
from meshkit.money import INT64_MAX, INT64_MIN

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AHEAD_MAX = timedelta(seconds=5)
"""How far a replica's clock may be ahead of the database's: NTP keeps them within milliseconds."""


class Axis(StrEnum):
    """What a moment of the past is counted by."""

    RECORDED = "recorded"
    EFFECTIVE = "effective"
    SEQUENCE = "sequence"


@dataclass(frozen=True, slots=True)
class AsOf:
    """A moment of an account's past: a time, inclusive, or the sequence of the last entry that counts."""

    axis: Axis
    time: datetime = _EPOCH
    sequence: int = 0

    def __str__(self) -> str:
        """The same text for the same moment, for page tokens."""
        return f"{self.axis}={self.sequence if self.axis is Axis.SEQUENCE else self.time.isoformat()}"


@dataclass(frozen=True, slots=True)
class PastBalance:
    """What stood on an account as of a moment, in minor units.

    `sequence` is that of the last entry that could be in it: by recorded time and by sequence the last one that is;
    by effective time the account's last one, since an entry recorded today may count from any day.
    """

    currency: str
    posted: int
    sequence: int
    last_sequence: int
    """The account's present sequence."""


def moment(timestamp: Timestamp, field: str) -> datetime:
    """A timestamp of a request, cut to the microseconds in which times are kept. Raises RequestInvalid."""
    try:
        if not 0 <= timestamp.nanos < 1_000_000_000:
            raise ValueError(timestamp.nanos)
        return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)
    except (ValueError, OverflowError):
        raise RequestInvalid([(field, "must be a time between the years 1 and 9999")]) from None


def check_clock(now: datetime, database_time: datetime) -> None:
    """What is to be recorded `now`, looked at before `database_time` was. Raises ClockAhead.

    Accounts keep the latest time that they saw (ADR 0017), so one clock that shows next year would make it next year
    for all that they ever pay. A clock that is behind does no harm.
    """
    if now - database_time > _AHEAD_MAX:
        raise errors.ClockAhead


def check(as_of: AsOf, account: str, *, last_sequence: int, now: datetime) -> None:
    """What has not come yet cannot be told. Raises AsOfFuture."""
    if as_of.axis is Axis.SEQUENCE:
        if as_of.sequence > last_sequence:
            raise errors.AsOfFuture(account, "sequence", str(as_of.sequence), str(last_sequence))
    elif as_of.time > now:
        raise errors.AsOfFuture(account, "time", as_of.time.isoformat(), now.isoformat())


def check_range(account: str, posted: int) -> int:
    """The sum of some of an account's entries may exceed what that of all of them does not. Raises AmountOverflow."""
    if not INT64_MIN <= posted <= INT64_MAX:
        raise errors.AmountOverflow(account)
    return posted
