"""How schedules, runs and calendars stand in their tables: columns, sealed fields, and back; no statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshkit.cipher import Cipher
from meshkit.identity import Principal
from transactions import columns
from transactions.recurrence import Adjustment, Position, Recurrence, Skip, Timing, Unit
from transactions.schedule import HolidayCalendar, Payment, Retry, Run, RunState, Schedule, ScheduleState

CREDITOR_NAME, REMITTANCE = "schedules.creditor_name", "schedules.remittance"
"""What is sealed for; the same for a schedule and its runs."""

COLUMNS = (
    "tenant, id, version, state, subject, customer, scopes, fingerprint, customers, debit_account, credit_account,"
    " currency, amount, creditor_name, end_to_end_id, remittance, start_date, local_time, time_zone, unit, every,"
    " weekdays, month_day, day_adjustment, holiday_calendar, calendar_version, end_date, run_count, retries,"
    " retry_pause, refusal, runs_begun, last_nominal_date, last_run_date, skip_before, next_run_time, due_time,"
    " create_time, update_time"
)
RUN_COLUMNS = (
    "tenant, schedule, number, state, nominal_date, run_time, skip, amount, creditor_name, end_to_end_id, remittance,"
    " attempts, refusal, due_time, takings, create_time, update_time"
)
CALENDAR_COLUMNS = "tenant, id, version, display_name, weekend_days, holidays, holiday_names, create_time, update_time"


def schedule_from(row: Sequence[Any], cipher: Cipher) -> Schedule:
    """The schedule in a row of COLUMNS."""
    (
        tenant, id_, version, state, subject, customer, scopes, fingerprint, customers, debit_account, credit_account,
        currency, amount, creditor_name, end_to_end_id, remittance, start_date, local_time, time_zone, unit, every,
        weekdays, month_day, day_adjustment, holiday_calendar, calendar_version, end_date, run_count, retries,
        retry_pause, refusal,
        runs_begun, last_nominal_date, last_run_date, skip_before, next_run_time, due_time, create_time, update_time,
    ) = row  # fmt: skip
    return Schedule(
        id=id_,
        principal=Principal(tenant, subject, customer, frozenset(scopes.split())),
        fingerprint=bytes(fingerprint),
        debit_account=debit_account,
        credit_account=credit_account,
        currency=currency,
        payment=_payment(cipher, amount, creditor_name, end_to_end_id, remittance),
        timing=Timing(
            start_date=start_date,
            local_time=local_time,
            time_zone=time_zone,
            recurrence=Recurrence(Unit(unit), every, tuple(weekdays), month_day),
            adjustment=Adjustment(day_adjustment),
            end_date=end_date,
            run_count=run_count,
        ),
        create_time=create_time,
        update_time=update_time,
        holiday_calendar=holiday_calendar,
        calendar_version=calendar_version,
        retry=Retry(retries, retry_pause),
        customers=tuple(customers),
        state=ScheduleState(state),
        version=version,
        refusal=columns.status_from(refusal),
        position=Position(runs_begun, last_nominal_date, last_run_date),
        skip_before=skip_before,
        next_run_time=next_run_time,
        due_time=due_time,
    )


def values_of(schedule: Schedule, cipher: Cipher) -> tuple[Any, ...]:
    """A schedule's values in the order of COLUMNS."""
    timing, principal, position = schedule.timing, schedule.principal, schedule.position
    return (
        schedule.tenant,
        schedule.id,
        schedule.version,
        schedule.state.value,
        principal.subject,
        principal.customer,
        " ".join(sorted(principal.scopes)),
        schedule.fingerprint,
        list(schedule.customers),
        schedule.debit_account,
        schedule.credit_account,
        schedule.currency,
        *payment_values(schedule.payment, cipher),
        timing.start_date,
        timing.local_time,
        timing.time_zone,
        timing.recurrence.unit.value,
        timing.recurrence.every,
        list(timing.recurrence.weekdays),
        timing.recurrence.month_day,
        timing.adjustment.value,
        schedule.holiday_calendar,
        schedule.calendar_version,
        timing.end_date,
        timing.run_count,
        schedule.retry.retries,
        schedule.retry.pause,
        columns.status_bytes(schedule.refusal),
        position.number,
        position.nominal_date,
        position.run_date,
        schedule.skip_before,
        schedule.next_run_time,
        schedule.due_time,
        schedule.create_time,
        schedule.update_time,
    )


def run_from(row: Sequence[Any], cipher: Cipher) -> Run:
    """The run in a row of RUN_COLUMNS."""
    (
        tenant, schedule, number, state, nominal_date, run_time, skip, amount, creditor_name, end_to_end_id, remittance,
        attempts, refusal, due_time, takings, create_time, update_time,
    ) = row  # fmt: skip
    return Run(
        tenant=tenant,
        schedule=schedule,
        number=number,
        nominal_date=nominal_date,
        run_time=run_time,
        payment=_payment(cipher, amount, creditor_name, end_to_end_id, remittance),
        create_time=create_time,
        update_time=update_time,
        state=RunState(state),
        attempts=attempts,
        skip=Skip(skip) if skip is not None else None,
        refusal=columns.status_from(refusal),
        due_time=due_time,
        takings=takings,
    )


def run_columns(runs: Sequence[Run], cipher: Cipher) -> tuple[list[Any], ...]:
    """What new runs bring, a list a column, in the order of the insert statement."""
    sealed = [payment_values(run.payment, cipher) for run in runs]
    return (
        [run.tenant for run in runs],
        [run.schedule for run in runs],
        [run.number for run in runs],
        [run.state.value for run in runs],
        [run.nominal_date for run in runs],
        [run.run_time for run in runs],
        [run.skip.value if run.skip is not None else None for run in runs],
        [values[0] for values in sealed],
        [values[1] for values in sealed],
        [values[2] for values in sealed],
        [values[3] for values in sealed],
        [run.attempts for run in runs],
        [run.due_time for run in runs],
        [run.create_time for run in runs],
    )


def payment_values(payment: Payment, cipher: Cipher) -> tuple[int, bytes, str, bytes]:
    """Amount, creditor_name, end_to_end_id and remittance as they are kept."""
    return (
        payment.amount,
        cipher.encrypt(payment.creditor_name, CREDITOR_NAME),
        payment.end_to_end_id,
        cipher.encrypt(payment.remittance, REMITTANCE),
    )


def calendar_from(row: Sequence[Any]) -> HolidayCalendar:
    """The calendar in a row of CALENDAR_COLUMNS."""
    tenant, id_, version, display_name, weekend_days, holidays, names, create_time, update_time = row
    return HolidayCalendar(
        tenant=tenant,
        id=id_,
        display_name=display_name,
        weekend_days=tuple(weekend_days),
        holidays=tuple(zip(holidays, names, strict=True)),
        version=version,
        create_time=create_time,
        update_time=update_time,
    )


def _payment(cipher: Cipher, amount: int, creditor_name: bytes, end_to_end_id: str, remittance: bytes) -> Payment:
    return Payment(
        amount=amount,
        creditor_name=cipher.decrypt(creditor_name, CREDITOR_NAME),
        end_to_end_id=end_to_end_id,
        remittance=cipher.decrypt(remittance, REMITTANCE),
    )
