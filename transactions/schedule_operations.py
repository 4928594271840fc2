"""What users do with schedules and calendars: one function, one use case, one database transaction.

What becomes of schedules by themselves is in scheduler.py. A calendar is locked before a schedule, a schedule before
its runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from google.rpc import status_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from florin.common.v1 import errors_pb2
from meshkit import audit, clock, idempotency, outbox
from meshkit.cipher import Cipher
from meshkit.database import Raced
from meshkit.errors import EtagMismatch, RecordedRefusal, RequestIdReused, StaffOnly, reason_of
from meshkit.identity import Call, Principal
from transactions import calendar_store, schedule_events, schedule_store
from transactions.answers import admit
from transactions.errors import CurrencyMismatch
from transactions.ports import Account, Ledger
from transactions.recurrence import BusinessDays, Unit
from transactions.schedule import Changes, HolidayCalendar, Schedule, ScheduleState, first_transfer, planned
from transactions.schedule_errors import (
    HolidayCalendarNotFound,
    ScheduleEnded,
    ScheduleExists,
    ScheduleLimitReached,
    ScheduleNeverRuns,
    ScheduleNotFound,
    ScheduleStartPassed,
)

_HOPELESS = frozenset({errors_pb2.REASON_ACCOUNT_TYPE_WRONG, errors_pb2.REASON_ACCOUNT_CLOSED})
"""What accounts would say of every run. Funds may come, and what is frozen may be thawed."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What accounts says of a schedule's accounts."""

    refusal: status_pb2.Status | None = None
    sides: tuple[Account, Account] | None = None
    """The debited and the credited account, where nothing is refused."""


class NotAdmitted(Exception):
    """A schedule is new, and accounts was not asked about it yet."""


async def ask_accounts(ledger: Ledger, schedule: Schedule) -> Admission:
    """Whether the accounts are there, the maker's, and such that runs could succeed. Raises Unavailable."""
    order = first_transfer(schedule, clock.now())
    keys = [(order.tenant, order.debit_account), (order.tenant, order.credit_account)]
    refusal, sides = admit(order, await ledger.resolve(keys))
    if refusal is not None or sides is None:
        return Admission(refusal)
    # Under an id of its own: the steps of no other transfer answer for it.
    probe = replace(order, id=str(idempotency.uuid7()), debit_account=sides[0].name, credit_account=sides[1].name)
    (posted,) = await ledger.post([probe], validate_only=True)
    if posted.refusal is not None and reason_of(posted.refusal) in _HOPELESS:
        return Admission(posted.refusal)
    return Admission(sides=sides)


async def create(
    conn: AsyncConnection,
    cipher: Cipher,
    call: Call,
    wanted: Schedule,
    admission: Admission | None,
    *,
    chosen_id: bool,
    open_max: int,
) -> Schedule:
    """Makes a schedule.

    Raises NotAdmitted while there is no `admission`, what that refuses, HolidayCalendarNotFound, ScheduleNeverRuns,
    ScheduleStartPassed, ScheduleLimitReached, ScheduleExists, RequestIdReused.
    """
    if not chosen_id and await schedule_store.get(conn, cipher, wanted.tenant, wanted.id) is not None:
        # Before anything that may have changed since: its first run may be past, the limit reached.
        return await _made_before(conn, cipher, wanted, chosen_id=False)
    schedule, _ = await prepared(conn, wanted, admission)
    customer = call.who.customer
    if customer is not None and await schedule_store.count_open(conn, call.tenant, customer) >= open_max:
        raise ScheduleLimitReached(open_max)
    if not await schedule_store.insert(conn, cipher, schedule):
        return await _made_before(conn, cipher, schedule, chosen_id=chosen_id)
    await _tell(conn, call, "create_schedule", None, schedule)
    return schedule


async def prepared(
    conn: AsyncConnection, wanted: Schedule, admission: Admission | None
) -> tuple[Schedule, BusinessDays]:
    """A schedule as it would be made now, and the days it goes by; its calendar stays as it is until the transaction
    ends.

    Raises NotAdmitted, what the admission refuses, HolidayCalendarNotFound, ScheduleNeverRuns, ScheduleStartPassed.
    """
    if admission is None:
        raise NotAdmitted
    if admission.sides is None:
        raise RecordedRefusal(admission.refusal or status_pb2.Status())
    debit, credit = admission.sides
    days = await _business_days(conn, wanted, lock="FOR SHARE")
    schedule = planned(
        replace(
            wanted,
            debit_account=debit.name,
            credit_account=credit.name,
            customers=tuple(dict.fromkeys((*wanted.customers, *debit.customers))),
        ),
        days,
    )
    if schedule.next_run_time is None:
        raise ScheduleNeverRuns(once=wanted.timing.recurrence.unit is Unit.ONCE)
    if schedule.next_run_time <= await schedule_store.present_time(conn):
        raise ScheduleStartPassed(schedule.next_run_time.isoformat())
    return schedule, days


async def get(conn: AsyncConnection, cipher: Cipher, who: Principal, id_: str, *, lock: bool = False) -> Schedule:
    """A schedule that the caller may see, locked if asked for. Raises ScheduleNotFound."""
    schedule = await schedule_store.get(conn, cipher, who.tenant, id_, lock=lock)
    if schedule is None or not schedule.visible_to(who):
        raise ScheduleNotFound(f"schedules/{id_}")
    return schedule


async def update(
    conn: AsyncConnection, cipher: Cipher, call: Call, id_: str, *, etag: str, changes: Changes
) -> Schedule:
    """Changes a schedule for the runs that have not begun.

    Raises HolidayCalendarNotFound, ScheduleNotFound, StaffOnly, EtagMismatch, ScheduleEnded, CurrencyMismatch.
    """
    if "holiday_calendar" in changes.paths and changes.holiday_calendar:
        await _calendar(conn, call.tenant, changes.holiday_calendar, lock="FOR SHARE")
    schedule = _owned(await get(conn, cipher, call.who, id_, lock=True), call)
    if etag and etag != str(schedule.version):
        raise EtagMismatch(str(schedule.version))
    if schedule.has_ended:
        raise ScheduleEnded(schedule.name, schedule.state)
    if "amount" in changes.paths and changes.currency != schedule.currency:
        raise CurrencyMismatch(schedule.debit_account, schedule.currency, changes.currency)
    changed = changes.applied(schedule).changed(clock.now(), schedule.state)
    if changed.state is ScheduleState.ACTIVE:
        # Its calendar need not be locked: where that is set meanwhile, an active schedule of an older version is found.
        changed = _or_completed(planned(changed, await _business_days(conn, changed)))
    await schedule_store.save(conn, cipher, changed)
    await _tell(conn, call, "update_schedule", schedule, changed, {"fields": sorted(changes.paths)})
    return changed


async def pause(conn: AsyncConnection, cipher: Cipher, call: Call, id_: str) -> Schedule:
    """Lets nothing begin until it is resumed; a paused one stays so.

    Raises ScheduleNotFound, StaffOnly, ScheduleEnded.
    """
    schedule = _owned(await get(conn, cipher, call.who, id_, lock=True), call)
    if schedule.has_ended:
        raise ScheduleEnded(schedule.name, schedule.state)
    if schedule.state is ScheduleState.PAUSED:
        return schedule
    return await _stop(conn, cipher, call, schedule, ScheduleState.PAUSED, "pause_schedule")


async def resume(conn: AsyncConnection, cipher: Cipher, call: Call, id_: str) -> Schedule:
    """Lets begin what is due from now on; an active one stays so.

    Raises ScheduleNotFound, StaffOnly, ScheduleEnded, Raced when another calendar was chosen for it at the same time.
    """
    seen = await get(conn, cipher, call.who, id_)
    # Locked, and first: who sets it meanwhile would not find a paused schedule to tell.
    days = await _business_days(conn, seen, lock="FOR SHARE")
    schedule = _owned(await get(conn, cipher, call.who, id_, lock=True), call)
    if schedule.holiday_calendar != seen.holiday_calendar:
        raise Raced
    if schedule.has_ended:
        raise ScheduleEnded(schedule.name, schedule.state)
    if schedule.state is ScheduleState.ACTIVE:
        return schedule
    now = await schedule_store.present_time(conn)
    resumed = _or_completed(planned(replace(schedule.changed(now, ScheduleState.ACTIVE), skip_before=now), days))
    await schedule_store.go_on(conn, [resumed])
    await _tell(conn, call, "resume_schedule", schedule, resumed)
    return resumed


async def cancel(conn: AsyncConnection, cipher: Cipher, call: Call, id_: str) -> Schedule:
    """Ends a schedule; a cancelled one stays so. Raises ScheduleNotFound, StaffOnly, ScheduleEnded.

    One that is COMPLETED may have a run that is to try again: that one is declined, and the schedule stays as it is.
    """
    schedule = _owned(await get(conn, cipher, call.who, id_, lock=True), call)
    if schedule.state is ScheduleState.CANCELLED:
        return schedule
    if not schedule.has_ended:
        return await _stop(conn, cipher, call, schedule, ScheduleState.CANCELLED, "cancel_schedule")
    if not await decline_waiting(conn, cipher, [schedule]):
        raise ScheduleEnded(schedule.name, schedule.state)
    await _audit(conn, call, "cancel_schedule", schedule, schedule)
    return schedule


async def decline_waiting(conn: AsyncConnection, cipher: Cipher, schedules: Sequence[Schedule]) -> int:
    """Ends the runs of locked schedules that were to try again, and tells of them; gives their number."""
    by_place = {schedule.place: schedule for schedule in schedules}
    declined = await schedule_store.decline_waiting(conn, cipher, list(by_place), clock.now())
    await outbox.append(conn, [schedule_events.of_run(run, by_place[run.tenant, run.schedule]) for run in declined])
    return len(declined)


async def set_calendar(conn: AsyncConnection, call: Call, wanted: HolidayCalendar) -> HolidayCalendar:
    """Makes a calendar or puts another in its place. Raises Raced when another one was made at the same time."""
    before = await calendar_store.get(conn, call.tenant, wanted.id, lock="FOR UPDATE")
    calendar = wanted
    if before is not None:
        calendar = replace(wanted, version=before.version + 1, create_time=before.create_time)
    if not await calendar_store.save(conn, calendar):
        raise Raced
    await audit.record(
        conn,
        call,
        action="set_holiday_calendar",
        resource=calendar.name,
        before=_audited_calendar(before) if before is not None else None,
        after=_audited_calendar(calendar),
    )
    await outbox.append(conn, [schedule_events.of_calendar(calendar)])
    return calendar


async def get_calendar(conn: AsyncConnection, tenant: str, id_: str) -> HolidayCalendar:
    """A calendar. Raises HolidayCalendarNotFound."""
    return await _calendar(conn, tenant, id_)


async def _calendar(conn: AsyncConnection, tenant: str, id_: str, *, lock: str = "") -> HolidayCalendar:
    found = await calendar_store.get(conn, tenant, id_, lock=lock)
    if found is None:
        raise HolidayCalendarNotFound(f"holidayCalendars/{id_}")
    return found


async def _business_days(conn: AsyncConnection, schedule: Schedule, *, lock: str = "") -> BusinessDays:
    if not schedule.holiday_calendar:
        return BusinessDays()
    return (await _calendar(conn, schedule.tenant, schedule.holiday_calendar, lock=lock)).business_days


def _or_completed(plan: Schedule) -> Schedule:
    """An active schedule; COMPLETED where nothing comes any more."""
    return plan if plan.due_time is not None else replace(plan, state=ScheduleState.COMPLETED)


async def _stop(
    conn: AsyncConnection, cipher: Cipher, call: Call, schedule: Schedule, state: ScheduleState, action: str
) -> Schedule:
    """Puts a locked schedule into a state in which nothing begins and nothing tries again."""
    stopped = replace(schedule.changed(clock.now(), state), next_run_time=None, due_time=None)
    await schedule_store.go_on(conn, [stopped])
    await _tell(conn, call, action, schedule, stopped)
    await decline_waiting(conn, cipher, [stopped])
    return stopped


def _owned(schedule: Schedule, call: Call) -> Schedule:
    """A schedule that the caller may change. Raises StaffOnly."""
    if not call.who.is_staff and schedule.principal.customer != call.who.customer:
        raise StaffOnly  # what staff arranged, or another owner, pays in their name: not this customer's to change
    return schedule


async def _made_before(conn: AsyncConnection, cipher: Cipher, again: Schedule, *, chosen_id: bool) -> Schedule:
    """The schedule that the same request_id made, though its record was purged.

    Raises ScheduleExists, RequestIdReused.
    """
    made = await schedule_store.get(conn, cipher, again.tenant, again.id)
    if made is None or chosen_id:
        raise ScheduleExists(again.name)
    if made.fingerprint != again.fingerprint:
        raise RequestIdReused(again.name)
    return made


async def _tell(
    conn: AsyncConnection,
    call: Call,
    action: str,
    before: Schedule | None,
    after: Schedule,
    more: dict[str, object] | None = None,
) -> None:
    """The audit row of a change by staff, and its event."""
    await _audit(conn, call, action, before, after, more)
    await outbox.append(conn, [schedule_events.of(after)])


async def _audit(
    conn: AsyncConnection,
    call: Call,
    action: str,
    before: Schedule | None,
    after: Schedule,
    more: dict[str, object] | None = None,
) -> None:
    if call.who.is_staff:
        await audit.record(
            conn,
            call,
            action=action,
            resource=after.name,
            before=_audited(before) if before is not None else None,
            after={**_audited(after), **(more or {})},
        )


def _audited(schedule: Schedule) -> dict[str, object]:
    timing = schedule.timing
    return {
        "state": schedule.state,
        "debit_account": schedule.debit_account,
        "credit_account": schedule.credit_account,
        "amount_minor_units": schedule.payment.amount,
        "currency": schedule.currency,
        "local_time": timing.local_time.isoformat(),
        "end_date": timing.end_date.isoformat() if timing.end_date is not None else None,
        "run_count": timing.run_count,
        "day_adjustment": timing.adjustment,
        "holiday_calendar": schedule.holiday_calendar,
    }


def _audited_calendar(calendar: HolidayCalendar) -> dict[str, object]:
    return {
        "version": calendar.version,
        "weekend_days": list(calendar.weekend_days),
        "holidays": [day.isoformat() for day, _ in calendar.holidays],
    }
