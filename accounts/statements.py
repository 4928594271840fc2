"""Statements as the service knows them: periods of whole days, and what was issued; no I/O."""

from __future__ import annotations

import zoneinfo
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from meshkit.errors import RequestInvalid

LAYOUT = 1
"""How documents look. A statement keeps the layout that it was issued with: another one gets a number of its own, and
the code of this one stays, since documents are the same bytes always."""


@dataclass(frozen=True, slots=True)
class Period:
    """Whole days of a time zone; `end_time` is the first moment after the last one. A day that the zone left out has no
    moment: `end_time` is then `start_time`."""

    first: date
    last: date
    time_zone: str
    start_time: datetime
    end_time: datetime


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that was issued. Amounts are in minor units; its entries have sequences above `opening_sequence`, up
    to `closing_sequence`."""

    tenant: str
    id: str
    account: str
    number: int
    period: Period
    currency: str
    opening: int
    closing: int
    opening_sequence: int
    closing_sequence: int
    identifier: str
    """What people outside called the account when it was issued, "iban:…" or "local:…"; empty for none."""
    issuer: str
    """What people call the tenant."""
    layout: int
    create_time: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"statements/{self.id}"

    @property
    def entry_count(self) -> int:
        """How many entries it has: sequences have no gap."""
        return self.closing_sequence - self.opening_sequence


@dataclass(frozen=True, slots=True)
class Totals:
    """The number and the sum, in minor units, of a statement's credits and debits; sums are not negative."""

    credit_count: int
    credit_sum: int
    debit_count: int
    debit_sum: int


def day(text: str, field: str) -> date:
    """A day of a request. Raises RequestInvalid."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise RequestInvalid([(field, f'"{text}" is not a day of the calendar')]) from None
    # Moments beside the first and the last day there are cannot be reckoned with in every time zone.
    if not date.min.year < found.year < date.max.year:
        raise RequestInvalid([(field, "must be in the years 2 to 9998")])
    return found


def period(first: date, last: date, time_zone: str) -> Period:
    """The days in a time zone as moments."""
    start_time, end_time = _midnight(first, time_zone), _midnight(last + timedelta(days=1), time_zone)
    return Period(first, last, time_zone, start_time, end_time)


def local_day(moment: datetime, time_zone: str) -> date:
    """The day that a moment belongs to in a time zone."""
    try:
        return moment.astimezone(zoneinfo.ZoneInfo(time_zone)).date()
    except OverflowError:
        return moment.date()  # the first or the last day there is


def booking_day(moment: datetime, of: Period) -> date:
    """The day of a period that what was recorded in it is booked on: the local one. Where clocks are turned about
    midnight, some of the day beside can be in the period."""
    return min(max(local_day(moment, of.time_zone), of.first), of.last)


def _midnight(of: date, time_zone: str) -> datetime:
    # Where clocks are put forward at midnight there is none: it is then the moment at which they are.
    return datetime.combine(of, time(), zoneinfo.ZoneInfo(time_zone)).astimezone(UTC)
