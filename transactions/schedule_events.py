"""Changes of schedules, runs and calendars as event messages for the outbox; ids only, no names.

A run is told of once, when it is final: its event is the first and only version of it.
"""

from __future__ import annotations

from google.protobuf.message import Message

from florin.common.v1 import money_pb2
from florin.transactions.v1 import events_pb2, schedule_pb2
from meshkit import clock
from meshkit.errors import reason_of
from meshkit.outbox import Event
from transactions.schedule import HolidayCalendar, Run, RunState, Schedule, ScheduleState


def of(schedule: Schedule) -> Event:
    """The event of the change that brought the schedule into its present version."""
    return Event(
        tenant=schedule.tenant,
        aggregate=schedule.name,
        version=schedule.version,
        message=_message(schedule),
        time=schedule.update_time,
    )


def of_run(run: Run, schedule: Schedule) -> Event:
    """The event of a run that is final."""
    return Event(
        tenant=run.tenant, aggregate=run.name, version=1, message=_run_message(run, schedule), time=run.update_time
    )


def of_calendar(calendar: HolidayCalendar) -> Event:
    """The event of a calendar that was set."""
    message = events_pb2.HolidayCalendarSet(
        calendar=calendar.name, version=calendar.version, update_time=clock.timestamp(calendar.update_time)
    )
    return Event(calendar.tenant, calendar.name, calendar.version, message, calendar.update_time)


def _message(schedule: Schedule) -> Message:
    customers, updated = list(schedule.customers), clock.timestamp(schedule.update_time)
    state = schedule_pb2.ScheduleState.Value(f"SCHEDULE_STATE_{schedule.state.value}")
    if schedule.has_ended:
        return events_pb2.ScheduleEnded(
            schedule=schedule.name,
            customers=customers,
            state=state,
            reason=reason_of(schedule.refusal) if schedule.refusal is not None else 0,  # type: ignore[arg-type]
            end_to_end_id=schedule.payment.end_to_end_id,
            update_time=updated,
        )
    amount = money_pb2.Money(currency_code=schedule.currency, minor_units=schedule.payment.amount)
    next_run_time = clock.timestamp(schedule.next_run_time) if schedule.next_run_time is not None else None
    if schedule.version == 1:
        return events_pb2.ScheduleCreated(
            schedule=schedule.name,
            customers=customers,
            amount=amount,
            end_to_end_id=schedule.payment.end_to_end_id,
            next_run_time=next_run_time,
            create_time=updated,
        )
    return events_pb2.ScheduleUpdated(
        schedule=schedule.name,
        customers=customers,
        state=state,
        amount=amount,
        end_to_end_id=schedule.payment.end_to_end_id,
        next_run_time=next_run_time if schedule.state is ScheduleState.ACTIVE else None,
        update_time=updated,
    )


def _run_message(run: Run, schedule: Schedule) -> Message:
    customers = list(schedule.customers)
    amount = money_pb2.Money(currency_code=schedule.currency, minor_units=run.payment.amount)
    run_time, updated = clock.timestamp(run.run_time), clock.timestamp(run.update_time)
    match run.state:
        case RunState.COMPLETED:
            return events_pb2.ScheduleRunCompleted(
                run=run.name,
                customers=customers,
                amount=amount,
                transfer=f"transfers/{run.transfer_ids[-1]}",
                attempts=run.attempts,
                end_to_end_id=run.payment.end_to_end_id,
                run_time=run_time,
                update_time=updated,
            )
        case RunState.DECLINED:
            return events_pb2.ScheduleRunFailed(
                run=run.name,
                customers=customers,
                amount=amount,
                reason=reason_of(run.refusal) if run.refusal is not None else 0,  # type: ignore[arg-type]
                transfer=f"transfers/{run.transfer_ids[-1]}",
                attempts=run.attempts,
                end_to_end_id=run.payment.end_to_end_id,
                run_time=run_time,
                update_time=updated,
            )
        case RunState.SKIPPED if run.skip is not None:
            return events_pb2.ScheduleRunSkipped(
                run=run.name,
                customers=customers,
                amount=amount,
                skip_reason=schedule_pb2.SkipReason.Value(f"SKIP_REASON_{run.skip.value}"),
                end_to_end_id=run.payment.end_to_end_id,
                run_time=run_time,
                update_time=updated,
            )
    raise ValueError(f"{run.name} is {run.state} and not to be told of")
