"""Begins the runs of schedules that are due and brings each to its end, in any number of replicas.

A run is recorded in the transaction that moves its schedule on, so it begins once. It then pays as any caller would,
under a request_id that follows from the run and the attempt, so it may be taken up by anybody at any time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from prometheus_client import Counter, Gauge
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock, logs, outbox
from meshkit.database import ALL_TENANTS, Database
from meshkit.errors import DomainError, Unavailable
from meshkit.waiting import wait_at_most
from transactions import calendar_store, schedule_events, schedule_store
from transactions.model import Transfer
from transactions.orders import Declined, Orders
from transactions.recurrence import BusinessDays
from transactions.schedule import (
    Run,
    RunState,
    Schedule,
    ScheduleState,
    after_attempt,
    after_refusal,
    begin_due,
    fails,
    planned,
    taken_up,
    transfer_of,
)
from transactions.schedule_operations import decline_waiting
from transactions.settings import Settings

_SCHEDULES_AT_ONCE = 150
"""More than FEW_ITEMS_MAX: where many are due at one moment, their runs go with payments that come in bulk, and leave
single ones their lane. Not many more: what comes next of each can take milliseconds, and all are locked meanwhile."""
_OUTDATED_AT_ONCE = 200  # schedules that are told of a calendar's new version; runs that are due go on between them
_RUNS_OF_ONE_AT_ONCE = 20  # of a schedule that missed thousands: the others are not to wait for it
_RUNS_AT_ONCE = 200  # pay together; fewer than a batch may have, so that others' payments find room beside them
_PARKED = timedelta(minutes=5)
_LOOK_AGAIN_SECONDS, _LOOK_AGAIN_SECONDS_MAX = 0.5, 60.0
"""Pauses before a transfer that is under way is looked at again, doubled; a review may take days."""
_log = logs.get(__name__)

LAG_SECONDS = Gauge("florin_schedule_lag_seconds", "How long what is due in schedules for longest has been due.")
RUNS = Counter("florin_schedule_runs", "Runs of schedules, by what became of them.", ["state"])


@dataclass(frozen=True, slots=True)
class Taken:
    """A run that this replica took, and its schedule as it was then."""

    run: Run
    schedule: Schedule


Answer = Transfer | DomainError


class Scheduler:
    """The worker."""

    def __init__(self, db: Database, orders: Orders, settings: Settings) -> None:
        self._db = db
        self._orders = orders
        self._settings = settings
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Looks at once: something may be due."""
        self._changed.set()

    async def run(self) -> None:
        """Works until it is cancelled; while nothing is due it asks one question a poll."""
        while True:
            self._changed.clear()
            overdue = await self._db.run(ALL_TENANTS, schedule_store.overdue, read_only=True)
            wait_seconds = self._settings.schedule_poll_ms / 1000
            behind = overdue.total_seconds() if overdue is not None else -wait_seconds
            LAG_SECONDS.set(max(behind, 0))
            if behind >= 0 and await self.work_once():
                continue
            if -wait_seconds < behind < 0:
                wait_seconds = -behind
            await wait_at_most(self._changed, wait_seconds)

    async def work_once(self) -> bool:
        """Begins what is due, brings forward what is under way, spreads new calendars, some of each; whether there was
        any."""
        moved, begun = await self._db.run(ALL_TENANTS, self._begin)
        for run in begun:
            if run.state is RunState.SKIPPED:
                RUNS.labels(run.state).inc()
        due = await self._db.run(ALL_TENANTS, self._take)
        for one in due:
            if one.run.due_time is None:
                RUNS.labels(one.run.state).inc()
        taken = [one for one in due if one.run.state is RunState.STARTED]
        if taken:
            # Once begun it is finished, also when this worker is to end.
            await asyncio.shield(self._bring_forward(taken))
        outdated = await self._db.run(ALL_TENANTS, self._spread)
        return bool(moved or due or outdated)

    async def _begin(self, conn: AsyncConnection) -> tuple[int, list[Run]]:
        """Records the runs that are due and moves their schedules on, in one transaction; gives how many schedules
        moved, and the runs."""
        now, cipher = await schedule_store.present_time(conn), self._db.cipher
        schedules = await schedule_store.lock_due(conn, cipher, now, _SCHEDULES_AT_ONCE)
        if not schedules:
            return 0, []
        calendars = await calendar_store.present(
            conn, {(s.tenant, s.holiday_calendar) for s in schedules if s.holiday_calendar}
        )
        late = timedelta(hours=self._settings.schedule_late_hours)
        moved, begun, events = [], [], []
        for schedule in schedules:
            calendar = calendars.get((schedule.tenant, schedule.holiday_calendar))
            days = calendar.business_days if calendar is not None else BusinessDays()
            parked: tuple[Schedule, list[Run]] = replace(schedule, due_time=now + _PARKED), []
            after, runs = _apart(
                schedule.name, parked, begin_due, schedule, days, now, late=late, most=_RUNS_OF_ONE_AT_ONCE
            )
            moved.append(after)
            begun += runs
            events += [schedule_events.of_run(run, schedule) for run in runs if run.state is RunState.SKIPPED]
            if after.version != schedule.version:
                events.append(schedule_events.of(after))
            await asyncio.sleep(0)  # a hundred that each missed many days take a while: payments go on between them
        await schedule_store.insert_runs(conn, cipher, begun)
        await schedule_store.go_on(conn, moved)
        await outbox.append(conn, events)
        return len(moved), begun

    async def _spread(self, conn: AsyncConnection) -> bool:
        """Finds anew when schedules run whose calendar was set; whether there was such a calendar."""
        calendar = await calendar_store.lock_spreading(conn)
        if calendar is None:
            return False
        schedules = await schedule_store.lock_outdated(conn, self._db.cipher, calendar, _OUTDATED_AT_ONCE)
        if schedules:
            days, now = calendar.business_days, await schedule_store.present_time(conn)
            await schedule_store.go_on(conn, [_told(schedule, days, now) for schedule in schedules])
        if len(schedules) < _OUTDATED_AT_ONCE:
            await calendar_store.spread(conn, calendar)
        return True

    async def _take(self, conn: AsyncConnection) -> list[Taken]:
        """Takes runs that are due; those that are STARTED then are to be paid."""
        now, cipher = await schedule_store.present_time(conn), self._db.cipher
        lease = now + timedelta(seconds=self._settings.recovery_lease_seconds)
        due = await schedule_store.lock_due_runs(conn, cipher, now, _RUNS_AT_ONCE)
        if not due:
            return []
        schedules = await schedule_store.present(conn, cipher, [(run.tenant, run.schedule) for run in due])
        of_runs = [schedules[run.tenant, run.schedule] for run in due]
        runs = [
            _apart(run.name, replace(run, due_time=now + _PARKED), taken_up, schedule, run, now, lease)
            for run, schedule in zip(due, of_runs, strict=True)
        ]
        await schedule_store.write_runs(conn, runs)
        found = [Taken(run, schedule) for run, schedule in zip(runs, of_runs, strict=True)]
        final = [one for one in found if one.run.due_time is None]
        await outbox.append(conn, [schedule_events.of_run(one.run, one.schedule) for one in final])
        return found

    async def _bring_forward(self, taken: Sequence[Taken]) -> None:
        now = clock.now()
        answers = await self._pay([transfer_of(one.schedule, one.run, now) for one in taken])

        async def record(conn: AsyncConnection) -> list[Run]:
            return await self._record(conn, taken, answers)

        recorded = await self._db.run({one.schedule.tenant for one in taken}, record)
        for run in recorded:
            RUNS.labels(run.state).inc()

    async def _pay(self, transfers: Sequence[Transfer]) -> list[Answer]:
        """What became of each attempt, as CreateTransfer's callers are told; an answer that fits none is put off."""
        # The lease is over a moment later, and the run is looked at again: the answer may come by then.
        deadline = time.monotonic() + self._settings.recovery_lease_seconds * 0.8
        try:
            return await self._orders.create_batch(transfers, deadline)
        except DomainError as refusal:  # nothing is wrong with the transfers
            return [refusal] * len(transfers)
        except Exception as error:  # noqa: BLE001 - whatever one run breaks, the others have to go on
            if len(transfers) == 1:
                _log.error("a run cannot pay", transfer=transfers[0].name, exc_info=error)
                return [Unavailable("transactions")]
        middle = len(transfers) // 2
        return [*await self._pay(transfers[:middle]), *await self._pay(transfers[middle:])]

    async def _record(self, conn: AsyncConnection, taken: Sequence[Taken], answers: Sequence[Answer]) -> list[Run]:
        """Writes what became of the attempts where nobody was faster; gives the runs that are final now."""
        now, cipher = await schedule_store.present_time(conn), self._db.cipher
        refused = [
            one.schedule.place for one, answer in zip(taken, answers, strict=True) if isinstance(answer, DomainError)
        ]
        # As they are now, and stay until the end of the transaction: a schedule that is paused tries nothing again.
        present = await schedule_store.present(conn, cipher, refused, lock=True) if refused else {}
        runs = [
            _apart(
                one.run.name,
                replace(one.run, due_time=now + _PARKED),
                _after,
                present.get(one.schedule.place, one.schedule),
                one.run,
                answer,
                now,
            )
            for one, answer in zip(taken, answers, strict=True)
        ]
        written = await schedule_store.record_runs(conn, runs)
        schedules = {one.schedule.place: one.schedule for one in taken} | present
        final = [run for run in runs if run.place in written and run.due_time is None]
        await outbox.append(conn, [schedule_events.of_run(run, schedules[run.tenant, run.schedule]) for run in final])
        failed = [
            replace(schedule.changed(now, ScheduleState.FAILED), refusal=run.refusal, next_run_time=None, due_time=None)
            for place, run in {(run.tenant, run.schedule): run for run in final}.items()
            if (schedule := schedules[place]) and not schedule.has_ended and run.refusal and fails(run.refusal)
        ]
        if failed:
            await schedule_store.go_on(conn, failed)
            await decline_waiting(conn, cipher, failed)
            await outbox.append(conn, [schedule_events.of(schedule) for schedule in failed])
        return final


def _apart[**P, T](name: str, parked: T, step: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """What a step makes of one schedule or run; where it breaks, that one is parked, and the others go on."""
    try:
        return step(*args, **options)
    except Exception as error:  # noqa: BLE001 - it is logged, and tried again
        _log.error("a schedule cannot be moved on", schedule=name, exc_info=error)
        return parked


def _told(schedule: Schedule, days: BusinessDays, now: datetime) -> Schedule:
    """The schedule, now that it goes by another version of its calendar."""
    parked = replace(schedule, calendar_version=days.version, due_time=now + _PARKED)
    plan = _apart(schedule.name, parked, planned, schedule, days)
    # Where nothing comes any more, the worker finds that, and ends it.
    return plan if plan.due_time is not None else replace(plan, due_time=now)


def _after(schedule: Schedule, run: Run, answer: Answer, now: datetime) -> Run:
    """The run, now that its attempt was answered; one that is under way is looked at again, later every time."""
    if isinstance(answer, Declined):
        run_after = after_attempt(schedule, run, answer.transfer, now)
    elif isinstance(answer, Transfer):
        run_after = after_attempt(schedule, run, answer, now)
    elif answer.definitive:
        run_after = after_refusal(schedule, run, answer.to_status(), now)
    else:
        run_after = run
    if run_after is not run:
        return run_after
    pause = min(_LOOK_AGAIN_SECONDS * 2 ** min(run.takings, 10), _LOOK_AGAIN_SECONDS_MAX)
    return replace(run, due_time=now + timedelta(seconds=pause))
