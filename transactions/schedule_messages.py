"""Between the contract's messages of schedules and the model; no decisions."""

from __future__ import annotations

import zoneinfo
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, time, timedelta

from florin.common.v1 import money_pb2
from florin.transactions.v1 import schedule_pb2, schedule_service_pb2
from meshkit import clock, idempotency
from meshkit.errors import RequestInvalid
from meshkit.identity import Call
from transactions.messages import refusal
from transactions.recurrence import Adjustment, Occurrence, Recurrence, Timing, Unit
from transactions.schedule import (
    CARRIED_SCOPES,
    Changes,
    HolidayCalendar,
    Payment,
    Retry,
    Run,
    RunState,
    Schedule,
)

_CALENDARS = "holidayCalendars/"


def wanted(request: schedule_service_pb2.CreateScheduleRequest, call: Call) -> Schedule:
    """The schedule that a request asks for, with the id that every copy of the request gives it.

    Raises RequestInvalid.
    """
    asked, now = request.schedule, clock.now()
    principal = replace(call.who, scopes=call.who.scopes & CARRIED_SCOPES)
    start = _day(asked.start_date, "schedule.start_date")
    return Schedule(
        id=request.schedule_id or idempotency.derive_id(call),
        principal=principal,
        fingerprint=call.fingerprint,
        debit_account=asked.debit_account,
        credit_account=asked.credit_account,
        currency=asked.amount.currency_code,
        payment=_payment(asked),
        timing=Timing(
            start_date=start,
            local_time=time.fromisoformat(asked.local_time),
            time_zone=_time_zone(asked.time_zone),
            recurrence=_recurrence(asked.recurrence, start) if asked.HasField("recurrence") else Recurrence(),
            adjustment=_adjustment(asked),
            end_date=_day(asked.end_date, "schedule.end_date") if asked.end_date else None,
            run_count=asked.run_count or None,
        ),
        create_time=now,
        update_time=now,
        holiday_calendar=asked.holiday_calendar.removeprefix(_CALENDARS),
        retry=_retry(asked),
        customers=(principal.customer,) if principal.customer is not None else (),
    )


def changes(asked: schedule_pb2.Schedule, paths: Sequence[str]) -> Changes:
    """The values that a request gives to the fields of its mask. Raises RequestInvalid."""
    if "amount" in paths and not asked.HasField("amount"):
        raise RequestInvalid([("schedule.amount", "is named by the mask and needs a value")])
    if "local_time" in paths and not asked.local_time:
        raise RequestInvalid([("schedule.local_time", "is named by the mask and needs a value")])
    return Changes(
        paths=frozenset(paths),
        payment=_payment(asked),
        currency=asked.amount.currency_code,
        local_time=time.fromisoformat(asked.local_time) if "local_time" in paths else time.min,
        end_date=_day(asked.end_date, "schedule.end_date") if "end_date" in paths and asked.end_date else None,
        run_count=asked.run_count or None,
        adjustment=_adjustment(asked),
        holiday_calendar=asked.holiday_calendar.removeprefix(_CALENDARS),
        retry=_retry(asked),
    )


def schedule(model: Schedule) -> schedule_pb2.Schedule:
    """The schedule as callers see it."""
    timing = model.timing
    message = schedule_pb2.Schedule(
        name=model.name,
        debit_account=model.debit_account,
        credit_account=model.credit_account,
        amount=_money(model.payment.amount, model.currency),
        creditor_name=model.payment.creditor_name,
        end_to_end_id=model.payment.end_to_end_id,
        remittance=model.payment.remittance,
        start_date=timing.start_date.isoformat(),
        local_time=timing.local_time.isoformat("auto" if timing.local_time.second else "minutes"),
        time_zone=timing.time_zone,
        recurrence=_pattern(timing.recurrence),
        end_date=timing.end_date.isoformat() if timing.end_date is not None else "",
        run_count=timing.run_count or 0,
        day_adjustment=schedule_pb2.DayAdjustment.Value(f"DAY_ADJUSTMENT_{timing.adjustment.value}"),
        holiday_calendar=f"{_CALENDARS}{model.holiday_calendar}" if model.holiday_calendar else "",
        state=schedule_pb2.ScheduleState.Value(f"SCHEDULE_STATE_{model.state.value}"),
        next_run_time=clock.timestamp(model.next_run_time) if model.next_run_time is not None else None,
        runs_begun=model.position.number,
        create_time=clock.timestamp(model.create_time),
        update_time=clock.timestamp(model.update_time),
        etag=str(model.version),
    )
    if model.retry.retries:
        message.retry_policy.retries = model.retry.retries
        message.retry_policy.pause.FromTimedelta(model.retry.pause)
    if model.refusal is not None:
        message.refusal.CopyFrom(refusal(model.refusal))
    return message


def previewed(model: Schedule) -> schedule_pb2.Schedule:
    """The schedule that was not made: without what only one that is recorded has."""
    message = schedule(model)
    for field in ("name", "etag", "create_time", "update_time"):
        message.ClearField(field)
    return message


def run(model: Run, currency: str) -> schedule_pb2.ScheduleRun:
    """A run as callers see it."""
    message = schedule_pb2.ScheduleRun(
        name=model.name,
        number=model.number,
        state=schedule_pb2.ScheduleRunState.Value(f"SCHEDULE_RUN_STATE_{model.state.value}"),
        nominal_date=model.nominal_date.isoformat(),
        run_time=clock.timestamp(model.run_time),
        amount=_money(model.payment.amount, currency),
        transfers=[f"transfers/{id_}" for id_ in model.transfer_ids],
        create_time=clock.timestamp(model.create_time),
        update_time=clock.timestamp(model.update_time),
    )
    if model.refusal is not None:
        message.refusal.CopyFrom(refusal(model.refusal))
    if model.skip is not None:
        message.skip_reason = schedule_pb2.SkipReason.Value(f"SKIP_REASON_{model.skip.value}")
    if model.state is RunState.WAITING and model.due_time is not None:
        message.next_attempt_time.CopyFrom(clock.timestamp(model.due_time))
    return message


def planned_run(occurrence: Occurrence) -> schedule_pb2.PlannedRun:
    """A run that is to come."""
    skip = "UNSPECIFIED" if occurrence.skip is None else occurrence.skip.value
    return schedule_pb2.PlannedRun(
        number=occurrence.number,
        nominal_date=occurrence.nominal_date.isoformat(),
        run_time=clock.timestamp(occurrence.run_time),
        skip_reason=schedule_pb2.SkipReason.Value(f"SKIP_REASON_{skip}"),
    )


def wanted_calendar(request: schedule_service_pb2.SetHolidayCalendarRequest, tenant: str) -> HolidayCalendar:
    """The calendar that a request asks for, as a first version. Raises RequestInvalid."""
    asked, now = request.calendar, clock.now()
    holidays: dict[date, str] = {}
    for position, holiday in enumerate(asked.holidays):
        field = f"calendar.holidays[{position}].date"
        day = _day(holiday.date, field)
        if day in holidays:
            raise RequestInvalid([(field, f"{day} stands there twice")])
        holidays[day] = holiday.display_name
    return HolidayCalendar(
        tenant=tenant,
        id=request.calendar_id,
        display_name=asked.display_name,
        weekend_days=tuple(sorted(asked.weekend_days)),
        holidays=tuple(sorted(holidays.items())),
        version=1,
        create_time=now,
        update_time=now,
    )


def calendar(model: HolidayCalendar) -> schedule_pb2.HolidayCalendar:
    """A calendar as callers see it."""
    return schedule_pb2.HolidayCalendar(
        name=model.name,
        display_name=model.display_name,
        holidays=[
            schedule_pb2.HolidayCalendar.Holiday(date=day.isoformat(), display_name=name)
            for day, name in model.holidays
        ],
        weekend_days=[schedule_pb2.Weekday.ValueType(day) for day in model.weekend_days],
        version=model.version,
        create_time=clock.timestamp(model.create_time),
        update_time=clock.timestamp(model.update_time),
    )


def _money(amount: int, currency: str) -> money_pb2.Money:
    return money_pb2.Money(currency_code=currency, minor_units=amount)


def _payment(asked: schedule_pb2.Schedule) -> Payment:
    return Payment(asked.amount.minor_units, asked.creditor_name, asked.end_to_end_id, asked.remittance)


def _retry(asked: schedule_pb2.Schedule) -> Retry:
    policy = asked.retry_policy
    pause = policy.pause.ToTimedelta() if policy.HasField("pause") else timedelta(hours=1)
    return Retry(policy.retries, pause)


def _adjustment(asked: schedule_pb2.Schedule) -> Adjustment:
    name = schedule_pb2.DayAdjustment.Name(asked.day_adjustment).removeprefix("DAY_ADJUSTMENT_")
    return Adjustment.NONE if name == "UNSPECIFIED" else Adjustment(name)


def _recurrence(asked: schedule_pb2.Recurrence, start: date) -> Recurrence:
    every = asked.every or 1
    match asked.WhichOneof("pattern"):
        case "weekly":
            return Recurrence(Unit.WEEKLY, every, tuple(sorted(asked.weekly.days)) or (start.isoweekday(),))
        case "monthly":
            by_business_day = asked.monthly.WhichOneof("on") == "last_business_day"
            return Recurrence(Unit.MONTHLY, every, month_day=0 if by_business_day else asked.monthly.day or start.day)
        case _:
            return Recurrence(Unit.DAILY, every)


def _pattern(model: Recurrence) -> schedule_pb2.Recurrence | None:
    message = schedule_pb2.Recurrence(every=model.every)
    match model.unit:
        case Unit.ONCE:
            return None
        case Unit.DAILY:
            message.daily.SetInParent()
        case Unit.WEEKLY:
            message.weekly.days.extend(schedule_pb2.Weekday.ValueType(day) for day in model.weekdays)
        case Unit.MONTHLY if model.by_last_business_day:
            message.monthly.last_business_day = True
        case Unit.MONTHLY:
            message.monthly.day = model.month_day
    return message


def _day(text: str, field: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RequestInvalid([(field, f'"{text}" is not a day of the calendar')]) from None


def _time_zone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        message = f'"{name}" is not a time zone of the IANA database'
        raise RequestInvalid([("schedule.time_zone", message)]) from None
    return name
