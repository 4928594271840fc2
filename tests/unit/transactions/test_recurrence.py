"""When schedules run: as an oracle has it that looks at every day, strictly increasing, through all that clocks do."""

from __future__ import annotations

import calendar
import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transactions.recurrence import (
    BEGINNING,
    Adjustment,
    BusinessDays,
    Occurrence,
    Recurrence,
    Skip,
    Timing,
    Unit,
    adjusted,
    end_of_day,
    moment,
    next_date,
    next_occurrence,
    occurrences,
)

DAY = timedelta(days=1)
WEEKENDS = BusinessDays()
ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Kathmandu", "Australia/Lord_Howe"),
    *("Pacific/Apia", "Pacific/Kwajalein", "Africa/Casablanca", "America/Havana", "Asia/Beirut", "Antarctica/Troll"),
)
"""With half hours of summer time, a day left out, clocks moved at midnight, winter time in Ramadan."""

days = st.dates(date(1990, 1, 1), date(2090, 12, 31))
recurrences = st.one_of(
    st.builds(Recurrence, st.just(Unit.ONCE)),
    st.builds(Recurrence, st.just(Unit.DAILY), st.integers(1, 366)),
    st.builds(
        Recurrence,
        st.just(Unit.WEEKLY),
        st.integers(1, 60),
        st.sets(st.integers(1, 7), min_size=1).map(lambda found: tuple(sorted(found))),
    ),
    st.builds(Recurrence, st.just(Unit.MONTHLY), st.integers(1, 48), month_day=st.integers(0, 31)),
)
calendars = st.builds(
    BusinessDays,
    st.frozensets(st.integers(1, 7), max_size=6),
    st.frozensets(st.dates(date(1990, 1, 1), date(1991, 12, 31)), max_size=40),
)
timings = st.builds(
    Timing,
    start_date=st.dates(date(1990, 1, 1), date(1991, 12, 31)),
    local_time=st.times().map(lambda found: found.replace(microsecond=0)),
    time_zone=st.sampled_from(ZONES),
    recurrence=recurrences,
    adjustment=st.sampled_from(Adjustment),
    end_date=st.one_of(st.none(), st.dates(date(1990, 1, 1), date(1995, 12, 31))),
    run_count=st.one_of(st.none(), st.integers(1, 40)),
)


ONCE = Recurrence()


def timing(start: str, recurrence: Recurrence = ONCE, **changes: Any) -> Timing:
    """A timing at 06:00 in Berlin."""
    values: dict[str, Any] = {"local_time": time(6), "time_zone": "Europe/Berlin", **changes}
    return Timing(date.fromisoformat(start), recurrence=recurrence, **values)


def nominal(of: Timing, count: int) -> list[str]:
    """The first nominal dates."""
    found: list[date] = []
    while len(found) < count and (day := next_date(of, found[-1] if found else None)) is not None:
        found.append(day)
    return [day.isoformat() for day in found]


def first(of: Timing, count: int, by: BusinessDays = WEEKENDS) -> list[Occurrence]:
    """The first occurrences."""
    return list(itertools.islice(occurrences(of, by, BEGINNING), count))


def oracle(of: Timing, until: date) -> Iterator[date]:
    """Every nominal date up to a day: each day is asked whether it is one."""
    recurrence, start = of.recurrence, of.start_date
    day = start
    while day <= until and (of.end_date is None or day <= of.end_date):
        last = calendar.monthrange(day.year, day.month)[1]
        months = (day.year - start.year) * 12 + day.month - start.month
        monday, first_monday = (one - (one.isoweekday() - 1) * DAY for one in (day, start))
        if {
            Unit.ONCE: day == start,
            Unit.DAILY: (day - start).days % recurrence.every == 0,
            Unit.WEEKLY: (monday - first_monday).days // 7 % recurrence.every == 0
            and day.isoweekday() in recurrence.weekdays,
            Unit.MONTHLY: months % recurrence.every == 0 and day.day == min(recurrence.month_day or 31, last),
        }[recurrence.unit]:
            yield day
        day += DAY


@given(timings)
def test_dates_are_those_that_a_walk_over_all_days_finds(of: Timing) -> None:
    """The arithmetic jumps; a walk of four years, day by day, comes to the same."""
    until = of.start_date + 4 * 365 * DAY
    wanted = list(oracle(of, until))
    found: list[date] = []
    while (day := next_date(of, found[-1] if found else None)) is not None and day <= until:
        found.append(day)
    assert found == wanted


@given(timings, st.dates(date(1985, 1, 1), date(1994, 12, 31)))
def test_the_next_date_is_the_first_after_any_day(of: Timing, after: date) -> None:
    """Also from a day that is none of the pattern, and from one before the start."""
    until = max(after, of.start_date) + 5 * 366 * DAY  # the rarest pattern comes every fourth year
    wanted = next((day for day in oracle(of, until) if day > after), None)
    assert next_date(of, after) == wanted


@given(timings, calendars)
def test_runs_increase_and_no_day_has_two(of: Timing, by: BusinessDays) -> None:
    """Moments and local days of what is not skipped increase strictly; numbers and nominal dates leave nothing out."""
    found = first(of, 60, by)
    running = [one for one in found if one.skip is None]
    for earlier, later in itertools.pairwise(running):
        assert earlier.run_time < later.run_time
        assert earlier.run_date < later.run_date
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    assert [one.nominal_date.isoformat() for one in found] == nominal(of, len(found))
    assert of.run_count is None or len(found) <= of.run_count


@given(timings, calendars)
def test_a_run_is_on_a_business_day_where_that_is_asked_for(of: Timing, by: BusinessDays) -> None:
    """Whatever the pattern; the local day that clocks show is the adjusted one, unless the zone left that day out."""
    for one in first(of, 30, by):
        rule = Adjustment.PREVIOUS if of.recurrence.by_last_business_day else of.adjustment
        day = adjusted(one.nominal_date, rule, by)
        assert (day is None) == (one.skip is Skip.NON_BUSINESS_DAY)
        if day is not None and rule is not Adjustment.NONE:
            assert by.has(day)
        if day is not None:
            assert one.run_time == moment(day, of.local_time, of.time_zone)
            assert one.run_date - day in (timedelta(0), DAY)


@given(timings, calendars, st.integers(0, 25))
def test_occurrences_go_on_from_any_position(of: Timing, by: BusinessDays, count: int) -> None:
    """What is kept between two runs is all that is needed: the rest is the same as in one go."""
    position = BEGINNING
    for one in first(of, count, by):
        position = one.after(position, skipped=one.skip is not None)
    rest = list(itertools.islice(occurrences(of, by, position), 10))
    assert rest == first(of, count + 10, by)[count:]


@given(days, st.sampled_from(Adjustment), calendars)
def test_an_adjusted_day_is_the_nearest_business_day_on_its_side(
    day: date, adjustment: Adjustment, by: BusinessDays
) -> None:
    """A walk from the day finds the same."""
    found = adjusted(day, adjustment, by)
    if by.has(day) or adjustment is Adjustment.NONE:
        assert found == day
        return
    before = next(one for n in itertools.count(1) if by.has(one := day - n * DAY))
    after = next(one for n in itertools.count(1) if by.has(one := day + n * DAY))
    assert (
        found
        == {
            Adjustment.SKIP: None,
            Adjustment.PREVIOUS: before,
            Adjustment.NEXT: after,
            Adjustment.MODIFIED_FOLLOWING: after if after.month == day.month else before,
        }[adjustment]
    )


@given(days, st.times(), st.sampled_from(ZONES))
def test_a_moment_is_what_the_clock_shows_or_the_gap_later(day: date, at: time, zone: str) -> None:
    """On the clock again it is the same time; or the clock left it out, and it is as much later as was left out."""
    found = moment(day, at, zone)
    shown = found.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    left_out = shown - datetime.combine(day, at)
    assert timedelta(0) <= left_out <= timedelta(days=1)
    if left_out:
        before = (found - timedelta(days=1, hours=1)).astimezone(ZoneInfo(zone)).utcoffset()
        after = found.astimezone(ZoneInfo(zone)).utcoffset()
        assert after is not None
        assert before is not None
        assert after - before == left_out


def test_the_thirty_first_is_the_last_day_of_shorter_months() -> None:
    """And comes back where there is one; leap years have their 29th."""
    of = timing("2027-12-31", Recurrence(Unit.MONTHLY, month_day=31))
    assert nominal(of, 5) == ["2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30"]


def test_a_month_begins_with_the_first_such_day_from_the_start_on() -> None:
    """A day that has passed in the start's month is next month's; months are counted from the start's all the same."""
    assert nominal(timing("2026-03-15", Recurrence(Unit.MONTHLY, month_day=10)), 2) == ["2026-04-10", "2026-05-10"]
    every_third = Recurrence(Unit.MONTHLY, 3, month_day=10)
    assert nominal(timing("2026-03-15", every_third), 2) == ["2026-06-10", "2026-09-10"]


def test_the_last_business_day_is_before_a_weekend_and_before_a_holiday() -> None:
    """May 2026 ends on a Sunday; Good Friday 2024 and the Saturday and Sunday after it end March."""
    last = Recurrence(Unit.MONTHLY)
    holidays = BusinessDays(holidays=frozenset({date(2024, 3, 29)}))
    assert [one.run_date.isoformat() for one in first(timing("2026-05-01", last), 2)] == ["2026-05-29", "2026-06-30"]
    assert [one.run_date.isoformat() for one in first(timing("2024-03-01", last), 1, holidays)] == ["2024-03-28"]


def test_every_second_week_is_counted_from_the_monday_of_the_start() -> None:
    """From a Wednesday: its Friday, then Monday and Friday of the week after the next."""
    of = timing("2026-03-04", Recurrence(Unit.WEEKLY, 2, (1, 5)))
    assert nominal(of, 4) == ["2026-03-06", "2026-03-16", "2026-03-20", "2026-03-30"]


@pytest.mark.parametrize(
    ("adjustment", "runs"),
    [
        (Adjustment.NONE, ["2026-10-31", "2026-11-01"]),
        (Adjustment.SKIP, []),
        (Adjustment.PREVIOUS, ["2026-10-30"]),
        (Adjustment.NEXT, ["2026-11-02"]),
        (Adjustment.MODIFIED_FOLLOWING, ["2026-10-30", "2026-11-02"]),
    ],
)
def test_a_weekend_at_the_turn_of_a_month(adjustment: Adjustment, runs: list[str]) -> None:
    """Saturday the 31st and Sunday the 1st: where both move to one day, the second one is skipped."""
    of = timing("2026-10-31", Recurrence(Unit.DAILY), run_count=2, adjustment=adjustment)
    found = first(of, 3)
    assert [one.run_date.isoformat() for one in found if one.skip is None] == runs
    assert len(found) == 2


def test_it_ends_with_its_date_or_its_count_whatever_comes_first() -> None:
    """The last nominal date may run after the end, moved to a business day."""
    daily = Recurrence(Unit.DAILY)
    assert len(first(timing("2026-03-02", daily, run_count=3, end_date=date(2026, 3, 31)), 9)) == 3
    assert len(first(timing("2026-03-02", daily, run_count=9, end_date=date(2026, 3, 3)), 9)) == 2
    moved = timing("2026-03-07", end_date=date(2026, 3, 7), adjustment=Adjustment.NEXT)
    assert [one.run_date.isoformat() for one in first(moved, 2)] == ["2026-03-09"]


def test_a_time_that_clocks_leave_out_is_as_much_later() -> None:
    """02:30 on the day when two becomes three, in Berlin: half past three; the day after it is half past two again."""
    of = timing("2026-03-28", Recurrence(Unit.DAILY), local_time=time(2, 30))
    assert [one.run_time for one in first(of, 3)] == [
        datetime(2026, 3, 28, 1, 30, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
        datetime(2026, 3, 30, 0, 30, tzinfo=UTC),
    ]


def test_a_time_that_clocks_show_twice_runs_once_at_the_first() -> None:
    """02:30 on the day when three becomes two."""
    of = timing("2026-10-25", Recurrence(Unit.DAILY), local_time=time(2, 30))
    assert [one.run_time for one in first(of, 2)] == [
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 26, 1, 30, tzinfo=UTC),
    ]


def test_a_day_that_a_zone_left_out_does_not_run_twice() -> None:
    """Samoa had no 30 December 2011: what is due then runs on the 31st, and the 31st's own is skipped."""
    of = timing("2011-12-29", Recurrence(Unit.DAILY), time_zone="Pacific/Apia")
    found = first(of, 4)
    assert [one.run_date.isoformat() for one in found if one.skip is None] == ["2011-12-29", "2011-12-31", "2012-01-01"]
    assert found[2].skip is Skip.SAME_DAY


def test_the_end_of_a_day_is_its_local_midnight() -> None:
    """Also where midnight is what the clocks leave out: Beirut moves them at midnight."""
    assert end_of_day(datetime(2026, 3, 2, 22, 59, tzinfo=UTC), "Europe/Berlin") == datetime(2026, 3, 2, 23, tzinfo=UTC)
    assert end_of_day(datetime(2026, 3, 28, 20, tzinfo=UTC), "Asia/Beirut") == datetime(2026, 3, 28, 22, tzinfo=UTC)


def test_a_pattern_without_an_end_ends_before_the_calendar_does() -> None:
    """However large its steps, none of them leaves the years that there are."""
    for unit in (Unit.DAILY, Unit.WEEKLY, Unit.MONTHLY):
        of = timing("2999-12-31", Recurrence(unit, 366, (6,), 31))
        found = list(occurrences(of, WEEKENDS, BEGINNING))
        assert 8900 < found[-1].nominal_date.year <= 9000


def test_nothing_follows_a_single_run() -> None:
    """Once is once."""
    (only,) = first(timing("2026-03-02"), 2)
    assert next_occurrence(timing("2026-03-02"), WEEKENDS, only.after(BEGINNING, skipped=False)) is None
