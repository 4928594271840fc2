"""A standing order over a month's end: its day is a holiday, so it is due the day before; missed, it is paid once."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from florin.transactions.v1 import schedule_pb2
from florin.transactions.v1 import schedule_service_pb2 as pb
from local.treasury.opening import FEES, fee
from local.treasury.story import IMPORTER, SUPPLIER, TIME_ZONE, Story, euros, next_month, text

_RENT = 1_200_00
_AT = time(9)
_NAME = "schedules/rent"


async def order_rent(story: Story) -> None:
    """The rent, on each month's last business day; this month the bank is closed on the last weekday."""
    operator, teller = story.bank.operator, story.bank.teller
    closed = last_weekday(next_month(story.begins.date()) - timedelta(days=1))
    holiday = schedule_pb2.HolidayCalendar.Holiday(date=closed.isoformat(), display_name="The bank is closed")
    calendar = schedule_pb2.HolidayCalendar(display_name="Vienna", holidays=[holiday])
    setting = pb.SetHolidayCalendarRequest(calendar_id="vienna", calendar=calendar)
    await operator.call(operator.schedules.SetHolidayCalendar, setting)
    schedule = schedule_pb2.Schedule(
        debit_account=IMPORTER.account,
        credit_account=SUPPLIER.account,
        amount=euros(_RENT),
        creditor_name=SUPPLIER.name,
        remittance="Rent",
        start_date=story.now().date().isoformat(),
        local_time=_AT.isoformat("minutes"),
        time_zone=TIME_ZONE,
        recurrence=schedule_pb2.Recurrence(monthly=schedule_pb2.Recurrence.Monthly(last_business_day=True)),
        holiday_calendar="holidayCalendars/vienna",
    )
    request = pb.CreateScheduleRequest(
        schedule=schedule, schedule_id=_NAME.removeprefix("schedules/"), request_id=story.request_id("schedule")
    )
    made = (await teller.call(teller.schedules.CreateSchedule, request)).schedule
    story.expect(
        f"{_NAME}: {text(made.amount)} on each month's last business day; {closed:%d %B} is a holiday, so first on "
        f"{due(story):%A, %d %B}",
        made.next_run_time.ToDatetime(tzinfo=UTC),
        due(story),
    )


async def catch_up(story: Story) -> None:
    """The month ends while nobody looks: the day that was missed is made up for, once, and on no day after it."""
    story.at_months_end = story.books.copy()
    second = next_month(story.begins.date()) + timedelta(days=1)
    await story.advance(to=datetime.combine(second, time(10), UTC))

    async def is_paid() -> bool:
        runs = await _runs(story)
        return bool(runs) and runs[0].state == schedule_pb2.SCHEDULE_RUN_STATE_COMPLETED

    await story.until(is_paid, "the rent is not paid")
    story.moved(IMPORTER.account, SUPPLIER.account, _RENT)
    story.moved(IMPORTER.account, FEES, fee(_RENT))
    (run,) = await _runs(story)
    recorded, paid = run.create_time.ToDatetime(tzinfo=UTC), await story.transfer(run.transfers[0])
    story.expect(
        f"{run.name}, due on {due(story):%d %B}, is made up for on {recorded:%d %B}: {text(paid.amount)}, and "
        f"{text(paid.fee.amount)} for it",
        (run.run_time.ToDatetime(tzinfo=UTC), recorded.date(), len(run.transfers), paid.fee.amount.minor_units),
        (due(story), second, 1, fee(_RENT)),
    )
    await story.advance(by=timedelta(days=1))
    request = pb.GetScheduleRequest(name=_NAME)
    schedule = (await story.bank.teller.call(story.bank.teller.schedules.GetSchedule, request)).schedule
    coming = schedule.next_run_time.ToDatetime(tzinfo=UTC)
    story.expect(
        f"a day later it is still one run, and the next one comes on {coming:%d %B}",
        (len(await _runs(story)), coming.astimezone(ZoneInfo(TIME_ZONE)).date()),
        (1, last_weekday(next_month(second) - timedelta(days=1))),
    )


def due(story: Story) -> datetime:
    """When the first run is due: on the last weekday of the month but one."""
    last = last_weekday(next_month(story.begins.date()) - timedelta(days=1))
    day = last_weekday(last - timedelta(days=1))
    return datetime.combine(day, _AT, ZoneInfo(TIME_ZONE)).astimezone(UTC)


def last_weekday(day: date) -> date:
    """The day itself, or the Friday before it."""
    return day - timedelta(days=max(day.weekday() - 4, 0))


async def _runs(story: Story) -> list[schedule_pb2.ScheduleRun]:
    teller = story.bank.teller
    request = pb.ListScheduleRunsRequest(schedule=_NAME)
    return list((await teller.call(teller.schedules.ListScheduleRuns, request)).runs)
