"""A schedule and its runs as this service knows them, and how they go on; pure, no I/O."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from itertools import islice

from google.rpc import status_pb2

from florin.common.v1 import errors_pb2
from meshkit import clock
from meshkit.errors import reason_of
from meshkit.idempotency import NAMESPACE
from meshkit.identity import Principal
from transactions import recurrence
from transactions.model import State, Transfer, request_key
from transactions.recurrence import BEGINNING, Adjustment, BusinessDays, Occurrence, Position, Skip, Timing

RUN_METHOD = "/florin.transactions.v1.ScheduleService/Run"
"""The scope of the request_ids of runs: no method has the name, so no caller's request_id can be one of them."""
CARRIED_SCOPES = frozenset({"transfers:write"})
"""What a run may do of what its schedule's maker might: pay. Money is not brought in by schedules."""
_LOOKED_AHEAD = 400
"""Occurrences that are looked at for one that is not skipped: more than a year of daily ones."""


class ScheduleState(StrEnum):
    """Where a schedule is in its life."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


class RunState(StrEnum):
    """Where a run is in its life."""

    STARTED = "STARTED"
    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    DECLINED = "DECLINED"
    SKIPPED = "SKIPPED"


ENDED = frozenset({ScheduleState.COMPLETED, ScheduleState.CANCELLED, ScheduleState.FAILED})

_HOPELESS = frozenset(
    {
        errors_pb2.REASON_ACCOUNT_NOT_FOUND,
        errors_pb2.REASON_ACCOUNT_CLOSED,
        errors_pb2.REASON_ACCOUNT_TYPE_WRONG,
        errors_pb2.REASON_CURRENCY_MISMATCH,
        errors_pb2.REASON_ACCOUNTS_IDENTICAL,
    }
)
"""Refusals that every later run would meet too: the account is gone, or it is no longer the maker's."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a run tries again that lacks funds."""

    retries: int = 0
    pause: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Payment:
    """What may change from run to run. The amount is in minor units of the schedule's currency."""

    amount: int
    creditor_name: str = ""
    end_to_end_id: str = ""
    remittance: str = ""


@dataclass(frozen=True, slots=True)
class Schedule:
    """An order to pay later, once or again and again."""

    id: str
    principal: Principal
    """Who made it; every run pays on their behalf."""
    fingerprint: bytes
    """Of the request that made it."""
    debit_account: str
    credit_account: str
    currency: str
    payment: Payment
    timing: Timing
    create_time: datetime
    update_time: datetime
    holiday_calendar: str = ""
    """The id of the calendar; empty for weekends alone."""
    calendar_version: int = 0
    """Which version of the calendar says what comes next."""
    retry: Retry = Retry()
    customers: tuple[str, ...] = ()
    """Who may see it: the maker, if a customer, and the owners of the debit account."""
    state: ScheduleState = ScheduleState.ACTIVE
    version: int = 1
    refusal: status_pb2.Status | None = None
    position: Position = BEGINNING
    skip_before: datetime | None = None
    """What was due before this is skipped: the schedule was paused then."""
    next_run_time: datetime | None = None
    """When the next run begins that is not skipped, as far as it is known."""
    due_time: datetime | None = None
    """When the worker looks at it; None while nothing is to be done."""

    @property
    def name(self) -> str:
        """The resource name."""
        return f"schedules/{self.id}"

    @property
    def tenant(self) -> str:
        """The tenant it belongs to."""
        return self.principal.tenant

    @property
    def place(self) -> tuple[str, str]:
        """Tenant and id: what it is told from others by."""
        return self.tenant, self.id

    @property
    def has_ended(self) -> bool:
        """Whether no run will begin any more."""
        return self.state in ENDED

    def visible_to(self, principal: Principal) -> bool:
        """Whether a caller may see it."""
        return principal.tenant == self.tenant and (principal.is_staff or (principal.customer or "") in self.customers)

    def changed(self, now: datetime, state: ScheduleState) -> Schedule:
        """The next version of it, in a state."""
        return replace(self, state=state, version=self.version + 1, update_time=now)


@dataclass(frozen=True, slots=True)
class Changes:
    """New values of a schedule's fields; those that `paths` does not name are not read."""

    paths: frozenset[str]
    """As the contract names the fields."""
    payment: Payment
    currency: str
    local_time: time
    end_date: date | None
    run_count: int | None
    adjustment: Adjustment
    holiday_calendar: str
    retry: Retry

    def applied(self, schedule: Schedule) -> Schedule:
        """The schedule with them."""
        old, new = schedule, self

        def chosen[T](path: str, before: T, after: T) -> T:
            return after if path in self.paths else before

        return replace(
            schedule,
            payment=Payment(
                chosen("amount", old.payment.amount, new.payment.amount),
                chosen("creditor_name", old.payment.creditor_name, new.payment.creditor_name),
                chosen("end_to_end_id", old.payment.end_to_end_id, new.payment.end_to_end_id),
                chosen("remittance", old.payment.remittance, new.payment.remittance),
            ),
            timing=replace(
                old.timing,
                local_time=chosen("local_time", old.timing.local_time, new.local_time),
                end_date=chosen("end_date", old.timing.end_date, new.end_date),
                run_count=chosen("run_count", old.timing.run_count, new.run_count),
                adjustment=chosen("day_adjustment", old.timing.adjustment, new.adjustment),
            ),
            holiday_calendar=chosen("holiday_calendar", old.holiday_calendar, new.holiday_calendar),
            retry=chosen("retry_policy", old.retry, new.retry),
        )


@dataclass(frozen=True, slots=True)
class Run:
    """One time of a schedule, with what it pays as it was when the run began."""

    tenant: str
    schedule: str
    """The schedule's id."""
    number: int
    nominal_date: date
    run_time: datetime
    payment: Payment
    create_time: datetime
    update_time: datetime
    state: RunState = RunState.STARTED
    attempts: int = 1
    """How many there were, with one that is under way; 0 where it was skipped."""
    skip: Skip | None = None
    refusal: status_pb2.Status | None = None
    """Of the last attempt, where that was declined."""
    due_time: datetime | None = None
    """When the worker takes it; None where it is final."""
    takings: int = 0
    """How often the worker took the present attempt."""

    @property
    def name(self) -> str:
        """The resource name."""
        return f"schedules/{self.schedule}/runs/{self.number}"

    @property
    def place(self) -> tuple[str, str, int]:
        """Tenant, schedule and number: what it is told from others by."""
        return self.tenant, self.schedule, self.number

    @property
    def transfer_ids(self) -> list[str]:
        """The transfers of its attempts, in their order."""
        begun = f"{self.tenant}/{self.name}/{clock.microseconds(self.create_time)}"
        return [transfer_id(begun, attempt) for attempt in range(1, self.attempts + 1)]


@dataclass(frozen=True, slots=True)
class HolidayCalendar:
    """Which days are no business days, with what people call them."""

    tenant: str
    id: str
    display_name: str
    weekend_days: tuple[int, ...]
    """1 is Monday; sorted. Empty: Saturday and Sunday."""
    holidays: tuple[tuple[date, str], ...]
    """Sorted by date."""
    version: int
    create_time: datetime
    update_time: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"holidayCalendars/{self.id}"

    @property
    def business_days(self) -> BusinessDays:
        """What runs go by."""
        weekend = frozenset(self.weekend_days) or BusinessDays().weekend
        return BusinessDays(weekend, frozenset(day for day, _ in self.holidays), self.version)


def transfer_id(begun: str, attempt: int) -> str:
    """The id of the transfer of a run's attempt, the same whoever makes it and however often.

    `begun` tells the run by its name and the moment at which it began, which nobody knows before: who could tell the id
    from the name would choose it for a transfer of their own, and the run could not pay.
    """
    return str(uuid.uuid5(NAMESPACE, f"{begun}/attempt-{attempt}"))


def transfer_of(schedule: Schedule, run: Run, now: datetime) -> Transfer:
    """The transfer of a run's present attempt; one request, whoever makes it and however often."""
    request_id = f"{run.name}/attempt-{run.attempts}"
    principal = schedule.principal
    return Transfer(
        id=run.transfer_ids[-1],
        principal=principal,
        request_key=request_key(principal, RUN_METHOD, request_id),
        request_id=request_id,
        # What an attempt pays was set down when its run began, so the request is told by its id alone.
        fingerprint=request_id.encode(),
        debit_account=schedule.debit_account,
        credit_account=schedule.credit_account,
        currency=schedule.currency,
        amount=run.payment.amount,
        creditor_name=run.payment.creditor_name,
        end_to_end_id=run.payment.end_to_end_id,
        remittance=run.payment.remittance,
        create_time=now,
        update_time=now,
        customers=(principal.customer,) if principal.customer is not None else (),
    )


def first_transfer(schedule: Schedule, now: datetime) -> Transfer:
    """What a schedule's first run would pay by, for checks that come before there is one."""
    run = Run(schedule.tenant, schedule.id, 1, schedule.timing.start_date, now, schedule.payment, now, now)
    return transfer_of(schedule, run, now)


def planned(schedule: Schedule, days: BusinessDays) -> Schedule:
    """An active schedule with the times of what comes next; without any where nothing does."""
    first = recurrence.next_occurrence(schedule.timing, days, schedule.position)
    if first is None:
        return replace(schedule, calendar_version=days.version, next_run_time=None, due_time=None)
    ahead = islice(recurrence.occurrences(schedule.timing, days, schedule.position), _LOOKED_AHEAD)
    running = (one.run_time for one in ahead if one.skip is None and not _was_paused(schedule, one))
    return replace(schedule, calendar_version=days.version, next_run_time=next(running, None), due_time=first.run_time)


def upcoming(schedule: Schedule, days: BusinessDays, count: int) -> list[Occurrence]:
    """The next occurrences, `count` at most, skipped ones too."""
    return list(islice(recurrence.occurrences(schedule.timing, days, schedule.position), count))


def begin_due(
    schedule: Schedule, days: BusinessDays, now: datetime, *, late: timedelta, most: int
) -> tuple[Schedule, list[Run]]:
    """The runs of an active schedule that are due, `most` at most, and the schedule after them.

    What is due for longer than `late` is skipped, as is what was due while the schedule was paused. Where more is due
    than `most`, the schedule stays due.
    """
    runs: list[Run] = []
    while len(runs) < most:
        occurrence = recurrence.next_occurrence(schedule.timing, days, schedule.position)
        if occurrence is None or occurrence.run_time > now:
            break
        skip = occurrence.skip or _missed(schedule, occurrence, now - late)
        runs.append(_run(schedule, occurrence, skip, now))
        schedule = replace(schedule, position=occurrence.after(schedule.position, skipped=skip is not None))
    schedule = planned(schedule, days)
    if schedule.due_time is None:
        return schedule.changed(now, ScheduleState.COMPLETED), runs
    return schedule, runs


def _missed(schedule: Schedule, occurrence: Occurrence, earliest: datetime) -> Skip | None:
    if _was_paused(schedule, occurrence):
        return Skip.PAUSED
    return Skip.TOO_LATE if occurrence.run_time < earliest else None


def _was_paused(schedule: Schedule, occurrence: Occurrence) -> bool:
    return schedule.skip_before is not None and occurrence.run_time < schedule.skip_before


def _run(schedule: Schedule, occurrence: Occurrence, skip: Skip | None, now: datetime) -> Run:
    return Run(
        tenant=schedule.tenant,
        schedule=schedule.id,
        number=occurrence.number,
        nominal_date=occurrence.nominal_date,
        run_time=occurrence.run_time,
        payment=schedule.payment,
        create_time=now,
        update_time=now,
        state=RunState.SKIPPED if skip is not None else RunState.STARTED,
        attempts=0 if skip is not None else 1,
        skip=skip,
        due_time=None if skip is not None else now,
    )


def taken_up(schedule: Schedule, run: Run, now: datetime, lease: datetime) -> Run:
    """A run that is due, for the worker that has it until `lease`. One that waited begins its next attempt, or is
    declined where nobody looked before its day was over."""
    if run.state is RunState.WAITING:
        if now >= recurrence.end_of_day(run.run_time, schedule.timing.time_zone):
            return replace(run, state=RunState.DECLINED, due_time=None, update_time=now)
        run = replace(run, state=RunState.STARTED, refusal=None, attempts=run.attempts + 1, update_time=now)
    return replace(run, due_time=lease, takings=run.takings + 1)


def after_attempt(schedule: Schedule, run: Run, transfer: Transfer, now: datetime) -> Run:
    """The run, now that its attempt's transfer is as it is; the same while that one is under way.

    `schedule` is as it is now: one that is paused or has ended tries nothing again.
    """
    if transfer.state in (State.COMPLETED, State.REVERSED):
        return replace(run, state=RunState.COMPLETED, refusal=None, due_time=None, update_time=now)
    if transfer.state is not State.DECLINED or transfer.refusal is None:
        return run
    return after_refusal(schedule, run, transfer.refusal, now)


def after_refusal(schedule: Schedule, run: Run, refusal: status_pb2.Status, now: datetime) -> Run:
    """The run, now that its attempt was refused for good: it waits for another one, or is declined."""
    again = now + schedule.retry.pause
    may_retry = (
        schedule.state in (ScheduleState.ACTIVE, ScheduleState.COMPLETED)
        and reason_of(refusal) == errors_pb2.REASON_INSUFFICIENT_FUNDS
        and run.attempts <= schedule.retry.retries
        and again < recurrence.end_of_day(run.run_time, schedule.timing.time_zone)
    )
    state, due_time = (RunState.WAITING, again) if may_retry else (RunState.DECLINED, None)
    return replace(run, state=state, refusal=refusal, due_time=due_time, update_time=now, takings=0)


def fails(refusal: status_pb2.Status) -> bool:
    """Whether a refusal means that no later run can succeed either."""
    return reason_of(refusal) in _HOPELESS
