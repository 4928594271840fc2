"""On which days, and at which moments, a schedule runs; pure arithmetic of calendars, which reads no clock.

A pattern gives nominal dates. Each is one occurrence with a number of its own, moved where its day is no business day,
and a moment by the rules of a time zone. Runs have strictly increasing days: what moves to the day of an earlier run,
or before it, is skipped.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)
_WEEK = 7
_YEAR_MAX = 9000
"""Far from where dates end, so that no step from here can go beyond."""


class Unit(StrEnum):
    """What a pattern repeats by."""

    ONCE = "ONCE"
    DAILY = "DAILY"
    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"


class Adjustment(StrEnum):
    """What becomes of a day that is no business day."""

    NONE = "NONE"
    SKIP = "SKIP"
    PREVIOUS = "PREVIOUS"
    NEXT = "NEXT"
    MODIFIED_FOLLOWING = "MODIFIED_FOLLOWING"


class Skip(StrEnum):
    """Why a run was skipped."""

    NON_BUSINESS_DAY = "NON_BUSINESS_DAY"
    SAME_DAY = "SAME_DAY"
    PAUSED = "PAUSED"
    TOO_LATE = "TOO_LATE"


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A pattern: every `every` days, weeks or months from a start date on."""

    unit: Unit = Unit.ONCE
    every: int = 1
    weekdays: tuple[int, ...] = ()
    """Of a weekly pattern, sorted: 1 is Monday, 7 Sunday."""
    month_day: int = 0
    """Of a monthly pattern: 1 to 31, where a shorter month's last day stands for those it lacks; 0 for the last
    business day of the month."""

    @property
    def by_last_business_day(self) -> bool:
        """Whether it means the last business day of months."""
        return self.unit is Unit.MONTHLY and self.month_day == 0


@dataclass(frozen=True, slots=True)
class BusinessDays:
    """Which days are business days: those that are neither of the weekend nor holidays."""

    weekend: frozenset[int] = frozenset({6, 7})
    """Days of the week, 1 to 7; never all of them."""
    holidays: frozenset[date] = frozenset()
    version: int = 0
    """Of the calendar that they are from; 0 where they are from none."""

    def has(self, day: date) -> bool:
        """Whether a day is one."""
        return day.isoweekday() not in self.weekend and day not in self.holidays


@dataclass(frozen=True, slots=True)
class Timing:
    """All that says when a schedule runs, beside the business days."""

    start_date: date
    local_time: time
    time_zone: str
    """By its name in the IANA database."""
    recurrence: Recurrence = Recurrence()
    adjustment: Adjustment = Adjustment.NONE
    end_date: date | None = None
    """The last nominal date there may be."""
    run_count: int | None = None
    """How many occurrences there are."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a schedule has come."""

    number: int = 0
    """Of the last occurrence."""
    nominal_date: date | None = None
    """Of the last occurrence."""
    run_date: date | None = None
    """The local day of the last occurrence that was not skipped."""


BEGINNING = Position()
"""Before the first occurrence."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One time of a schedule."""

    number: int
    nominal_date: date
    run_date: date
    """The local day of `run_time`."""
    run_time: datetime
    """When it is due, in UTC; where it is skipped since its day is no business day, when it would have been."""
    skip: Skip | None = None

    def after(self, position: Position, *, skipped: bool) -> Position:
        """Where a schedule stands once this occurrence has begun, or was skipped."""
        return Position(self.number, self.nominal_date, position.run_date if skipped else self.run_date)


def next_occurrence(timing: Timing, days: BusinessDays, position: Position) -> Occurrence | None:
    """The occurrence that follows a position; None when there is none any more."""
    if timing.run_count is not None and position.number >= timing.run_count:
        return None
    nominal = next_date(timing, position.nominal_date)
    if nominal is None:
        return None
    adjustment = Adjustment.PREVIOUS if timing.recurrence.by_last_business_day else timing.adjustment
    day = adjusted(nominal, adjustment, days)
    run_time = moment(day or nominal, timing.local_time, timing.time_zone)
    # The day as clocks show it: a zone that crosses the date line leaves a day out, whose time is of the next one.
    run_date = local_day(run_time, timing.time_zone)
    skip = None
    if day is None:
        skip = Skip.NON_BUSINESS_DAY
    elif position.run_date is not None and run_date <= position.run_date:
        skip = Skip.SAME_DAY
    return Occurrence(position.number + 1, nominal, run_date, run_time, skip)


def occurrences(timing: Timing, days: BusinessDays, position: Position) -> Iterator[Occurrence]:
    """Those that follow a position, in their order, skipped ones too; without an end where the pattern has none."""
    while (occurrence := next_occurrence(timing, days, position)) is not None:
        yield occurrence
        position = occurrence.after(position, skipped=occurrence.skip is not None)


def next_date(timing: Timing, after: date | None) -> date | None:
    """The first nominal date after another one, or the first of all; None when there is none any more."""
    start, recurrence = timing.start_date, timing.recurrence
    floor = start if after is None else max(start, after + _DAY)
    match recurrence.unit:
        case Unit.ONCE:
            found = start if floor == start else None
        case Unit.DAILY:
            found = start + _up((floor - start).days, recurrence.every) * _DAY
        case Unit.WEEKLY:
            found = _weekly(recurrence, start, floor)
        case Unit.MONTHLY:
            found = _monthly(recurrence, start, floor)
    if found is None or found.year > _YEAR_MAX or (timing.end_date is not None and found > timing.end_date):
        return None
    return found


def adjusted(day: date, adjustment: Adjustment, days: BusinessDays) -> date | None:
    """The day on which what is due on `day` runs; None where it is skipped."""
    if adjustment is Adjustment.NONE or days.has(day):
        return day
    match adjustment:
        case Adjustment.SKIP:
            return None
        case Adjustment.PREVIOUS:
            return _business_day(day, days, -_DAY)
        case Adjustment.NEXT:
            return _business_day(day, days, _DAY)
        case Adjustment.MODIFIED_FOLLOWING:
            later = _business_day(day, days, _DAY)
            return later if later.month == day.month else _business_day(day, days, -_DAY)


def moment(day: date, local_time: time, time_zone: str) -> datetime:
    """When a time of day is, in UTC, as RFC 5545 has it: what clocks leave out counts by the offset before they were
    moved, of what they show twice it is the first."""
    return datetime.combine(day, local_time.replace(fold=0), tzinfo=ZoneInfo(time_zone)).astimezone(UTC)


def local_day(run_time: datetime, time_zone: str) -> date:
    """The day that clocks show at a moment."""
    return run_time.astimezone(ZoneInfo(time_zone)).date()


def end_of_day(run_time: datetime, time_zone: str) -> datetime:
    """The first moment after the local day of a moment, in UTC."""
    return moment(local_day(run_time, time_zone) + _DAY, time.min, time_zone)


def _weekly(recurrence: Recurrence, start: date, floor: date) -> date:
    weekdays = recurrence.weekdays or (start.isoweekday(),)
    monday = start - (start.isoweekday() - 1) * _DAY
    week = (floor - monday).days // _WEEK
    if week % recurrence.every == 0:
        for weekday in weekdays:
            if weekday >= floor.isoweekday():
                return monday + (week * _WEEK + weekday - 1) * _DAY
        week += 1
    return monday + (_up(week, recurrence.every) * _WEEK + weekdays[0] - 1) * _DAY


def _monthly(recurrence: Recurrence, start: date, floor: date) -> date:
    first = _month(start)
    month = first + _up(_month(floor) - first, recurrence.every)
    found = _day_of(month, recurrence.month_day or 31)
    return found if found >= floor else _day_of(month + recurrence.every, recurrence.month_day or 31)


def _up(number: int, step: int) -> int:
    """The least multiple of `step` that is not below `number`."""
    return -(-number // step) * step


def _month(day: date) -> int:
    return day.year * 12 + day.month - 1


def _day_of(month: int, day: int) -> date:
    """A day of a month that is counted as `_month` does; the month's last where it has no such day."""
    year, zero_based = divmod(month, 12)
    return date(year, zero_based + 1, min(day, calendar.monthrange(year, zero_based + 1)[1]))


def _business_day(day: date, days: BusinessDays, step: timedelta) -> date:
    while not days.has(day):
        day += step
    return day
