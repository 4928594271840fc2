"""Schedules on a real database, under a clock that is moved: whatever dies or comes twice, each run pays once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest import mock

import pytest

from florin.common.v1 import errors_pb2
from florin.transactions.v1 import schedule_service_pb2 as pb
from meshkit import clock, idempotency
from meshkit.batching import FEW_ITEMS_MAX
from meshkit.errors import RecordedRefusal, RequestIdReused, StaffOnly
from meshkit.identity import Principal
from tests.integration.transactions import deaths
from tests.integration.transactions.conftest import Replica, call_of, serving
from tests.integration.transactions.deaths import Killed
from tests.integration.transactions.test_fees import set_schedule as set_fees
from tests.integration.transactions.test_recovery import restarted
from tests.support.parts import eventually
from tests.unit.transactions.making import ANNA, TELLER, transfer
from tests.unit.transactions.scheduling import MONDAY, schedule, timing
from transactions import orders as batches
from transactions import schedule_messages, schedule_store, scheduler
from transactions import schedule_operations as operations
from transactions.model import AccountType, Transfer, Verdict
from transactions.orders import Order
from transactions.recurrence import Adjustment, Recurrence, Skip, Unit
from transactions.schedule import (
    Changes,
    HolidayCalendar,
    Retry,
    Run,
    RunState,
    Schedule,
    ScheduleState,
    transfer_id,
    transfer_of,
)
from transactions.schedule_errors import (
    HolidayCalendarNotFound,
    ScheduleEnded,
    ScheduleExists,
    ScheduleLimitReached,
    ScheduleNeverRuns,
    ScheduleNotFound,
    ScheduleStartPassed,
)
from transactions.schedule_rows import COLUMNS

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
POINTS = ("after-begin", "before-paying", "after-intent", "after-paying", "after-recording")
"""Where a worker may die: the runs are recorded; taken; their transfers recorded; paid; their outcomes recorded."""
BEN = Principal("demo", "ben", "customers/ben", frozenset({"transfers:write", "transfers:read"}))


@dataclass
class Clock:
    """The time that the process and its database believe in."""

    now: datetime = MONDAY

    async def present_time(self, _conn: object) -> datetime:
        """By both."""
        return self.now


@pytest.fixture
def time() -> Iterator[Clock]:
    """A clock that stands an hour before the first run, until a test moves it."""
    clock_ = Clock()
    both = mock.patch.object(schedule_store, "present_time", clock_.present_time)
    with mock.patch.object(clock, "now", lambda: clock_.now), both:
        yield clock_


async def create(replica: Replica, wanted: Schedule, **changes: Any) -> Schedule:
    """CreateSchedule, after its accounts were asked for."""
    admission = await operations.ask_accounts(replica.ledger, wanted)
    call = changes.pop("call", None) or call_of(wanted.principal)
    options = {"chosen_id": True, "open_max": 1000, **changes}
    return await replica.db.run(
        wanted.tenant,
        lambda conn: operations.create(conn, replica.db.cipher, call, wanted, admission, **options),
    )


async def change(
    replica: Replica,
    use_case: Callable[..., Awaitable[Schedule]],
    of: Schedule,
    who: Principal = TELLER,
    **options: Any,
) -> Schedule:
    """A change of a schedule."""
    return await replica.db.run(
        of.tenant, lambda conn: use_case(conn, replica.db.cipher, call_of(who), of.id, **options)
    )


async def present(replica: Replica, of: Schedule) -> Schedule:
    """A schedule as it stands."""
    found = await replica.db.run(
        of.tenant, lambda conn: schedule_store.get(conn, replica.db.cipher, *of.place), read_only=True
    )
    assert found is not None
    return found


async def runs(replica: Replica, of: Schedule) -> list[Run]:
    """A schedule's runs, the first one first."""
    found = await replica.db.run(
        of.tenant,
        lambda conn: schedule_store.list_runs(conn, replica.db.cipher, of.place, before=2**31 - 1, limit=1000),
        read_only=True,
    )
    return found[::-1]


async def work(replica: Replica, most: int = 60) -> None:
    """Lets the worker go on until there is nothing to do at this moment."""
    for _ in range(most):
        if not await replica.scheduler.work_once():
            return
    raise AssertionError("the worker does not come to rest")


async def told(replica: Replica, aggregate: str) -> list[str]:
    """The events of a resource and of what is below it, in their order."""
    rows = await replica.query(
        f"SELECT subject FROM outbox WHERE starts_with(aggregate || '/', '{aggregate}/') ORDER BY id"
    )
    return [row[0].removeprefix("florin.transactions.schedule_").removesuffix(".v1") for row in rows]


def states(found: Sequence[Run]) -> list[str]:
    """Their states."""
    return [run.state.value for run in found]


def made_changes(of: Schedule, *paths: str, **values: Any) -> Changes:
    """New values for the fields of a mask."""
    old = {
        "payment": of.payment,
        "currency": of.currency,
        "local_time": of.timing.local_time,
        "end_date": of.timing.end_date,
        "run_count": of.timing.run_count,
        "adjustment": of.timing.adjustment,
        "holiday_calendar": of.holiday_calendar,
        "retry": of.retry,
    }
    return Changes(frozenset(paths), **{**old, **values})


async def set_calendar(replica: Replica, *holidays: date, id_: str = "bank") -> None:
    """SetHolidayCalendar."""
    wanted = HolidayCalendar("demo", id_, "", (), tuple((day, "") for day in holidays), 1, clock.now(), clock.now())
    await replica.db.run("demo", lambda conn: operations.set_calendar(conn, call_of(TELLER), wanted))


async def copy(replica: Replica, made: Schedule, count: int) -> None:
    """Adds copies of a schedule."""
    columns = [column.strip() for column in COLUMNS.split(",")]
    copied = ", ".join("'copy-' || number" if column == "id" else column for column in columns)
    await replica.query(
        f"INSERT INTO schedules ({', '.join(columns)}) SELECT {copied}"
        f" FROM schedules, generate_series(1, {count}) AS number WHERE id = '{made.id}' RETURNING 1"
    )


async def test_a_standing_order_pays_each_day_and_ends(replica: Replica, time: Clock) -> None:
    """Each run is a transfer of its own, told of once; the schedule ends with the last one."""
    made = await create(replica, schedule(when=timing(run_count=3)))
    await work(replica)
    assert await runs(replica, made) == []
    for _ in range(5):
        time.now += DAY
        await work(replica)
    found = await runs(replica, made)
    assert states(found) == ["COMPLETED"] * 3
    assert (await present(replica, made)).state is ScheduleState.COMPLETED
    assert replica.ledger.journals == {f"transfers/{run.transfer_ids[0]}": 1 for run in found}
    assert await told(replica, made.name) == ["created", "run_completed", "run_completed", "ended", "run_completed"]


async def test_a_run_costs_what_is_in_force_when_it_pays(replica: Replica, time: Clock) -> None:
    """Not when the schedule was made: its payments go the way of all transfers."""
    replica.ledger.open("fees", type_=AccountType.FEE)
    made = await create(replica, schedule(when=timing(run_count=2)))
    time.now += DAY
    await work(replica)
    await set_fees(replica, fixed=7, millionths=0)
    time.now += DAY
    await work(replica)
    assert states(await runs(replica, made)) == ["COMPLETED"] * 2
    rows = await replica.query("SELECT fee FROM transfers ORDER BY create_time")
    assert [row[0] for row in rows] == [None, 7]
    assert replica.ledger.balances["accounts/fees"] == 7


_STEPS = {
    # Nothing of a taking is there before its commit: what was begun is what there is.
    "after-begin": ("_take", False),
    "before-paying": ("_bring_forward", False),
    "after-paying": ("_pay", True),
    "after-recording": ("_bring_forward", True),
}
"""Points → the worker's method, and whether it dies after it."""


@contextmanager
def killed_at(point: str) -> Iterator[list[str]]:
    """Ends a worker at one of its points; gives those that were hit."""
    if point == "after-intent":
        with _killed_after_the_intent() as hit:
            yield hit
    else:
        name, after = _STEPS[point]
        with deaths.dying(scheduler.Scheduler, name, point, after=after) as hit:
            yield hit


@contextmanager
def _killed_after_the_intent() -> Iterator[list[str]]:
    hit: list[str] = []

    async def recorded_only(orders: batches.Orders, transfers: Sequence[Transfer], _deadline: float) -> Any:
        with mock.patch.object(orders, "hand_on"):
            await orders._record_orders([Order(transfer) for transfer in transfers])
        hit.append("after-intent")
        raise Killed

    with mock.patch.object(batches.Orders, "create_batch", recorded_only):
        yield hit


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_at_any_step_loses_and_doubles_nothing(replica: Replica, time: Clock, point: str) -> None:
    """A run that pays, one that lacks funds and one that is skipped: each ends where it would have ended."""
    paying, poor = await create(replica, schedule()), await create(replica, schedule(debit_account="accounts/poor"))
    sunday = timing(start_date=date(2026, 3, 1), adjustment=Adjustment.SKIP, time_zone="Pacific/Kiritimati")
    time.now = MONDAY - 2 * DAY
    skipping = await create(replica, schedule(when=sunday))
    time.now = MONDAY + HOUR
    with killed_at(point) as hit, pytest.raises(Killed):
        await work(replica)
    assert hit == [point]
    time.now += HOUR
    async with serving(restarted(replica)) as after:
        await after.hurry()
        await after.recovery.before_ready()
        await work(after)
        assert states(await runs(after, paying)) == ["COMPLETED"]
        assert states(await runs(after, poor)) == ["DECLINED"]
        assert states(await runs(after, skipping))[0] == "SKIPPED"
        (run,) = await runs(after, paying)
    assert replica.ledger.journals[f"transfers/{run.transfer_ids[0]}"] == 1
    assert set(replica.ledger.journals.values()) == {1}
    assert await told(replica, paying.name) == ["created", "run_completed"]
    assert await told(replica, poor.name) == ["created", "run_failed"]
    assert await told(replica, f"{skipping.name}/runs/1") == ["run_skipped"]


async def test_two_workers_at_once_pay_each_run_once(replica: Replica, time: Clock) -> None:
    """Two hundred and fifty schedules fall due at one moment; three replicas begin and pay them side by side."""
    made = [await create(replica, schedule(amount=10)) for _ in range(250)]
    time.now = MONDAY + HOUR
    async with serving(restarted(replica)) as one, serving(restarted(replica)) as two:
        await asyncio.gather(work(replica), work(one), work(two))
    rows = await replica.query("SELECT state, attempts, count(*) FROM schedule_runs GROUP BY 1, 2")
    assert [tuple(row) for row in rows] == [("COMPLETED", 1, 250)]
    assert len(replica.ledger.journals) == len(made)
    assert set(replica.ledger.journals.values()) == {1}
    assert (await replica.query("SELECT count(*) FROM outbox WHERE subject ~ 'run_completed'"))[0][0] == 250


async def test_many_runs_of_one_moment_leave_single_payments_their_lane(replica: Replica, time: Clock) -> None:
    """What comes by more than a few goes in bulk, beside those who pay once; not all of it at once."""
    await copy(replica, await create(replica, schedule(amount=1)), 299)
    time.now = MONDAY + HOUR
    create_batch, sizes = replica.transfers.orders.create_batch, []

    async def counted(transfers: Sequence[Any], deadline: float) -> Any:
        sizes.append(len(transfers))
        return await create_batch(transfers, deadline)

    with mock.patch.object(replica.transfers.orders, "create_batch", counted):
        await work(replica)
    assert sum(sizes) == len(replica.ledger.journals) == 300
    assert min(sizes) > FEW_ITEMS_MAX
    assert max(sizes) < replica.settings.batch_max / 2


async def test_a_run_that_two_workers_have_is_recorded_once(replica: Replica, time: Clock) -> None:
    """A lease was over while the first one still worked: both pay the one transfer, one of them records it."""
    made = await create(replica, schedule())
    time.now = MONDAY + HOUR
    other = restarted(replica)
    await replica.db.run("*", replica.scheduler._begin)
    first = await replica.db.run("*", replica.scheduler._take)
    time.now += HOUR
    async with serving(other):
        second = await other.db.run("*", other.scheduler._take)
        assert [taken.run.place for taken in first] == [taken.run.place for taken in second]
        await asyncio.gather(replica.scheduler._bring_forward(first), other.scheduler._bring_forward(second))
    assert states(await runs(replica, made)) == ["COMPLETED"]
    assert set(replica.ledger.journals.values()) == {1}
    assert await told(replica, made.name) == ["created", "run_completed"]


async def test_days_of_silence_are_made_up_for_once_and_older_ones_are_skipped(replica: Replica, time: Clock) -> None:
    """A month without a worker: a week of it is paid, the rest is skipped; a clock that goes back adds nothing."""
    made = await create(replica, schedule(amount=10))
    time.now = MONDAY + HOUR + 30 * DAY
    await work(replica)
    found = await runs(replica, made)
    assert states(found) == ["SKIPPED"] * 23 + ["COMPLETED"] * 8
    assert {run.skip for run in found[:23]} == {Skip.TOO_LATE}
    for moved in (-20 * DAY, 19 * DAY, DAY):
        time.now += moved
        await work(replica)
    assert len(await runs(replica, made)) == 31
    assert sum(replica.ledger.journals.values()) == 8
    assert await told(replica, made.name) == ["created", *["run_skipped"] * 23, *["run_completed"] * 8]


async def test_many_missed_runs_of_one_do_not_hold_up_another(replica: Replica, time: Clock) -> None:
    """A schedule that missed three years is worked off in lots, and all of it is recorded."""
    old = await create(replica, schedule())
    time.now = MONDAY + HOUR + 1000 * DAY - DAY
    other = await create(replica, schedule(when=timing(start_date=(time.now + DAY).date()), amount=10))
    time.now += DAY
    await replica.scheduler.work_once()
    assert states(await runs(replica, other)) == ["COMPLETED"]
    await work(replica)
    numbers = [run.number for run in await runs(replica, old)]
    assert numbers == list(range(2, 1002))  # a page; the first one is beyond it
    assert (await present(replica, old)).position.number == 1001


async def test_a_run_without_funds_tries_again_and_pays_by_another_transfer(replica: Replica, time: Clock) -> None:
    """Declined at six and at seven; there is money at eight. Nothing is tried early, and one transfer paid."""
    made = await create(replica, schedule(debit_account="accounts/poor", retry=Retry(3, HOUR)))
    time.now = MONDAY + HOUR
    await work(replica)
    (run,) = await runs(replica, made)
    assert (run.state, run.attempts, run.due_time) == (RunState.WAITING, 1, MONDAY + 2 * HOUR)
    time.now += HOUR / 2
    await work(replica)
    assert (await runs(replica, made))[0].attempts == 1
    time.now = MONDAY + 2 * HOUR
    await work(replica)
    assert (await runs(replica, made))[0].attempts == 2
    replica.ledger.balances["accounts/poor"] = 1000
    time.now = MONDAY + 3 * HOUR
    await work(replica)
    (run,) = await runs(replica, made)
    assert (run.state, run.attempts, run.refusal) == (RunState.COMPLETED, 3, None)
    assert replica.ledger.journals == {f"transfers/{run.transfer_ids[2]}": 1}
    assert await told(replica, made.name) == ["created", "run_completed"]
    kept = await replica.query("SELECT id, state FROM transfers ORDER BY request_id")
    assert [tuple(row) for row in kept] == list(
        zip(run.transfer_ids, ["DECLINED", "DECLINED", "COMPLETED"], strict=True)
    )


async def test_a_run_gives_up_with_its_day(replica: Replica, time: Clock) -> None:
    """A pause of ten hours leaves one more attempt before midnight; the schedule goes on the next day."""
    made = await create(replica, schedule(debit_account="accounts/poor", retry=Retry(10, 10 * HOUR)))
    for _ in range(24):
        time.now += HOUR
        await work(replica)
    (run,) = await runs(replica, made)
    assert (run.state, run.attempts) == (RunState.DECLINED, 2)
    time.now += HOUR
    await work(replica)
    assert states(await runs(replica, made)) == ["DECLINED", "WAITING"]


async def test_a_run_that_nobody_looked_at_before_its_day_was_over_tries_nothing(replica: Replica, time: Clock) -> None:
    """It was to try again at seven; the workers are back the next morning, and so is the money: it is declined as it
    stood, and told of; the new day's run pays."""
    made = await create(replica, schedule(debit_account="accounts/poor", retry=Retry(3, HOUR)))
    time.now = MONDAY + HOUR
    await work(replica)
    replica.ledger.balances["accounts/poor"] = 100_000
    time.now += DAY
    await work(replica)
    first, second = await runs(replica, made)
    assert (first.state, first.attempts, first.update_time) == (RunState.DECLINED, 1, time.now)
    assert first.refusal is not None
    assert second.state is RunState.COMPLETED
    assert await told(replica, f"{made.name}/runs/1") == ["run_failed"]


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_in_a_second_attempt_makes_no_third(replica: Replica, time: Clock, point: str) -> None:
    """The attempt that was begun is the one that is finished."""
    made = await create(replica, schedule(debit_account="accounts/poor", retry=Retry(1, HOUR)))
    time.now = MONDAY + HOUR
    await work(replica)
    replica.ledger.balances["accounts/poor"] = 5000
    time.now = MONDAY + 2 * HOUR
    with killed_at(point), pytest.raises(Killed):
        await work(replica)
    time.now += HOUR
    async with serving(restarted(replica)) as after:
        await after.hurry()
        await after.recovery.before_ready()
        await work(after)
    (run,) = await runs(replica, made)
    assert (run.state, run.attempts) == (RunState.COMPLETED, 2)
    assert replica.ledger.journals == {f"transfers/{run.transfer_ids[1]}": 1}


async def test_while_accounts_is_away_a_run_waits_and_pays_once(replica: Replica, time: Clock) -> None:
    """Its transfer is accepted; the run is looked at again, later every time, and completed when accounts is back."""
    made = await create(replica, schedule())
    replica.ledger.faults.down = True
    time.now = MONDAY + HOUR
    await work(replica)
    (run,) = await runs(replica, made)
    assert (run.state, run.takings) == (RunState.STARTED, 1)
    time.now += timedelta(seconds=2)
    await work(replica)
    replica.ledger.faults.down = False
    time.now += HOUR
    await work(replica)
    assert states(await runs(replica, made)) == ["COMPLETED"]
    assert set(replica.ledger.journals.values()) == {1}


async def test_a_run_in_review_does_not_hold_up_the_next_one(replica: Replica, time: Clock) -> None:
    """A person decides days later; the days between pay as they should."""
    made = await create(replica, schedule(amount=replica.screening.REVIEW_FROM))
    time.now = MONDAY + HOUR
    await work(replica)
    await change(
        replica,
        operations.update,
        made,
        etag="1",
        changes=made_changes(made, "amount", payment=replace(made.payment, amount=10)),
    )
    time.now += DAY
    await work(replica)
    first, second = await runs(replica, made)
    assert (first.state, second.state) == (RunState.STARTED, RunState.COMPLETED)
    assert (first.payment.amount, second.payment.amount) == (replica.screening.REVIEW_FROM, 10)
    await replica.verdict(transfer_of(made, first, MONDAY), Verdict.APPROVED)
    await replica.recovery.before_ready()
    time.now += HOUR
    await work(replica)
    assert states(await runs(replica, made)) == ["COMPLETED", "COMPLETED"]


async def test_a_paused_schedule_begins_and_tries_nothing_until_it_is_resumed(replica: Replica, time: Clock) -> None:
    """The run that waited is declined; what was due meanwhile is skipped; doing it twice changes nothing."""
    made = await create(replica, schedule(debit_account="accounts/poor", retry=Retry(5, HOUR)))
    time.now = MONDAY + HOUR
    await work(replica)
    paused = await change(replica, operations.pause, made)
    assert (paused.state, paused.next_run_time) == (ScheduleState.PAUSED, None)
    assert await change(replica, operations.pause, made) == paused
    replica.ledger.balances["accounts/poor"] = 50_000
    time.now += 2 * DAY + HOUR
    await work(replica)
    assert states(await runs(replica, made)) == ["DECLINED"]
    resumed = await change(replica, operations.resume, made)
    assert (resumed.state, resumed.version) == (ScheduleState.ACTIVE, 3)
    assert await change(replica, operations.resume, made) == resumed
    time.now += DAY
    await work(replica)
    found = await runs(replica, made)
    assert states(found) == ["DECLINED", "SKIPPED", "SKIPPED", "COMPLETED"]
    assert {run.skip for run in found[1:3]} == {Skip.PAUSED}
    assert await told(replica, made.name) == [
        *("created", "updated", "run_failed", "updated", "run_skipped", "run_skipped", "run_completed")
    ]


async def test_after_a_cancel_nothing_begins(replica: Replica, time: Clock) -> None:
    """Cancels meet the worker at the moment when runs are due: what had begun by the answer pays, nothing else does."""
    made = [await create(replica, schedule(amount=1)) for _ in range(60)]
    time.now = MONDAY + HOUR
    begun: dict[str, int] = {}

    async def cancel(one: Schedule) -> None:
        assert (await change(replica, operations.cancel, one)).state is ScheduleState.CANCELLED
        begun[one.id] = len(await runs(replica, one))

    await asyncio.gather(work(replica), *(cancel(one) for one in made))
    time.now += 3 * DAY
    await work(replica)
    for one in made:
        found = await runs(replica, one)
        assert len(found) == begun[one.id]
        assert set(states(found)) <= {"COMPLETED"}
    assert sum(replica.ledger.journals.values()) == sum(begun.values())
    assert await change(replica, operations.cancel, made[0]) == await present(replica, made[0])
    with pytest.raises(ScheduleEnded):
        await change(replica, operations.pause, made[0])


async def test_the_last_run_of_a_completed_schedule_can_be_given_up(replica: Replica, time: Clock) -> None:
    """It is over as a schedule; its one run is not, and a cancel ends that."""
    once = timing(Recurrence())
    made = await create(replica, schedule(debit_account="accounts/poor", when=once, retry=Retry(3, HOUR)))
    time.now = MONDAY + HOUR
    await work(replica)
    assert states(await runs(replica, made)) == ["WAITING"]
    assert (await change(replica, operations.cancel, made)).state is ScheduleState.COMPLETED
    assert states(await runs(replica, made)) == ["DECLINED"]
    with pytest.raises(ScheduleEnded):
        await change(replica, operations.cancel, made)


async def test_a_cancel_that_came_too_early_is_tried_again_under_its_request_id(replica: Replica, time: Clock) -> None:
    """While the last run is under way there is nothing to cancel; then it waits, and the same request ends it."""
    once = timing(Recurrence())
    made = await create(replica, schedule(debit_account="accounts/poor", when=once, retry=Retry(3, HOUR)))
    time.now = MONDAY + HOUR
    with killed_at("after-begin"), pytest.raises(Killed):
        await work(replica)
    call = call_of(TELLER, "cancel-rent")

    async def cancel(conn: Any) -> pb.CancelScheduleResponse:
        return pb.CancelScheduleResponse(
            schedule=schedule_messages.schedule(await operations.cancel(conn, replica.db.cipher, call, made.id))
        )

    for _ in range(2):
        with pytest.raises(ScheduleEnded):
            await idempotency.answer(replica.db, call, pb.CancelScheduleResponse, cancel)
    await work(replica)
    assert states(await runs(replica, made)) == ["WAITING"]
    answer = await idempotency.answer(replica.db, call, pb.CancelScheduleResponse, cancel)
    assert states(await runs(replica, made)) == ["DECLINED"]
    assert await idempotency.answer(replica.db, call, pb.CancelScheduleResponse, cancel) == answer


async def test_a_run_that_has_begun_pays_what_was_to_be_paid_then(replica: Replica, time: Clock) -> None:
    """The amount is changed between a crash and the recovery: the run keeps its own, the next one has the new."""
    made = await create(replica, schedule(amount=700))
    time.now = MONDAY + HOUR
    with killed_at("after-begin"), pytest.raises(Killed):
        await work(replica)
    to_nine = made.timing.local_time.replace(hour=9)
    changes = made_changes(made, "amount", "local_time", payment=replace(made.payment, amount=900), local_time=to_nine)
    changed = await change(replica, operations.update, made, etag="", changes=changes)
    assert changed.next_run_time == MONDAY + 4 * HOUR + DAY
    await work(replica)
    time.now += DAY
    await work(replica)
    assert [run.payment.amount for run in await runs(replica, made)] == [700]
    time.now += 3 * HOUR
    await work(replica)
    assert replica.ledger.balances["accounts/b"] == 1600


async def test_a_change_that_leaves_no_run_ends_the_schedule(replica: Replica, time: Clock) -> None:
    """Told of as its end, under one version."""
    made = await create(replica, schedule())
    changes = made_changes(made, "end_date", end_date=date(2026, 3, 1))
    ended = await change(replica, operations.update, made, etag="1", changes=changes)
    assert (ended.state, ended.version) == (ScheduleState.COMPLETED, 2)
    assert await told(replica, made.name) == ["created", "ended"]


async def test_who_no_longer_owns_the_account_no_longer_pays_from_it(replica: Replica, time: Clock) -> None:
    """Anna's account became Ben's: her run is declined as if there were no such account, and the schedule fails."""
    made = await create(replica, schedule(ANNA, debit_account="accounts/anna", amount=10, retry=Retry(3, HOUR)))
    time.now = MONDAY + HOUR
    await work(replica)
    replica.ledger.open("anna", 50_000, customers=("customers/ben",))
    time.now += DAY
    await work(replica)
    first, second = await runs(replica, made)
    assert (first.state, second.state) == (RunState.COMPLETED, RunState.DECLINED)
    failed = await present(replica, made)
    assert failed.state is ScheduleState.FAILED
    assert failed.refusal is not None
    assert await told(replica, made.name) == ["created", "run_completed", "run_failed", "ended"]
    time.now += 5 * DAY
    await work(replica)
    assert len(await runs(replica, made)) == 2


async def test_a_holiday_that_is_set_later_moves_the_run(replica: Replica, time: Clock) -> None:
    """Tuesday becomes a holiday: the run waits for Wednesday, whose own is skipped; it is a workday again in time."""
    await set_calendar(replica)
    when = timing(adjustment=Adjustment.NEXT)
    made = await create(replica, schedule(when=when, holiday_calendar="bank"))
    time.now = MONDAY + HOUR
    await work(replica)
    await set_calendar(replica, date(2026, 3, 3))
    await work(replica)
    assert (await present(replica, made)).next_run_time == MONDAY + HOUR + 2 * DAY
    time.now += DAY
    await work(replica)
    assert len(await runs(replica, made)) == 1
    time.now += DAY
    await work(replica)
    found = await runs(replica, made)
    assert [(run.nominal_date.day, run.state.value, run.skip) for run in found] == [
        (2, "COMPLETED", None),
        (3, "COMPLETED", None),
        (4, "SKIPPED", Skip.SAME_DAY),
    ]
    assert await told(replica, "holidayCalendars/bank") == ["florin.transactions.holiday_calendar_set"] * 2


async def test_a_calendar_and_the_schedules_that_go_by_it_never_disagree(replica: Replica, time: Clock) -> None:
    """Calendars are set while schedules are made, paused and resumed and moved on: at rest all go by the last one."""
    await set_calendar(replica)
    holidays = [date(2026, 3, 2) + n * DAY for n in range(4)]
    when = timing(adjustment=Adjustment.NEXT)
    made = [schedule(when=when, holiday_calendar="bank", amount=1) for _ in range(40)]
    paused = [await create(replica, one) for one in made[:20]]
    for one in paused:
        await change(replica, operations.pause, one)

    async def calendars() -> None:
        for count in (1, 3, 2, 4):
            await set_calendar(replica, *holidays[:count])

    resumes = [change(replica, operations.resume, one) for one in paused]
    await asyncio.gather(calendars(), work(replica), *(create(replica, one) for one in made[20:]), *resumes)
    await work(replica)
    for one in made:
        assert (await present(replica, one)).next_run_time == MONDAY + HOUR + 4 * DAY


async def test_a_calendar_spreads_in_lots_beside_what_is_due(replica: Replica, time: Clock) -> None:
    """Four hundred and fifty schedules are told of it, two hundred at a time; a payment that is due does not wait."""
    await set_calendar(replica)
    await work(replica)
    made = await create(replica, schedule(when=timing(start_date=date(2026, 3, 3)), holiday_calendar="bank"))
    await copy(replica, made, 449)
    due = await create(replica, schedule())
    time.now = MONDAY + HOUR
    await set_calendar(replica, date(2026, 3, 3))
    await replica.scheduler.work_once()
    assert states(await runs(replica, due)) == ["COMPLETED"]
    outdated = "SELECT count(*) FROM schedules WHERE holiday_calendar = 'bank' AND calendar_version < 2"
    assert (await replica.query(outdated))[0][0] == 250
    await work(replica)
    assert (await replica.query(outdated))[0][0] == 0
    assert await replica.query("SELECT id FROM holiday_calendars WHERE spreading") == []


async def test_fifty_copies_of_a_request_make_one_schedule(replica: Replica, time: Clock) -> None:
    """Also when the request's record was purged; another payload is refused, and so is a chosen id that is taken."""
    wanted = schedule(ANNA, debit_account="accounts/anna")
    made = await asyncio.gather(*(create(replica, wanted, chosen_id=False) for _ in range(50)))
    assert {one.name for one in made} == {wanted.name}
    assert await told(replica, wanted.name) == ["created"]
    with pytest.raises(RequestIdReused):
        await create(replica, replace(wanted, fingerprint=b"x" * 32), chosen_id=False)
    with pytest.raises(ScheduleExists):
        await create(replica, wanted)


async def test_a_late_copy_of_a_request_is_answered_with_what_it_made(replica: Replica, time: Clock) -> None:
    """The request's record was purged, its first run is past, the limit is reached: it is no new one."""
    wanted = schedule(ANNA, debit_account="accounts/anna")
    made = await create(replica, wanted, chosen_id=False, open_max=1)
    time.now += DAY
    assert await create(replica, wanted, chosen_id=False, open_max=1) == made
    with pytest.raises(RequestIdReused):
        await create(replica, replace(wanted, fingerprint=b"x" * 32), chosen_id=False)


async def test_a_customer_has_a_limited_number_of_open_schedules(replica: Replica, time: Clock) -> None:
    """Ten at once, of whom three may: not one more; an ended one makes room."""
    wanted = [schedule(ANNA, debit_account="accounts/anna") for _ in range(10)]
    results = await asyncio.gather(*(create(replica, one, open_max=3) for one in wanted), return_exceptions=True)
    made = [result for result in results if isinstance(result, Schedule)]
    assert len(made) == 3
    assert all(isinstance(result, Schedule | ScheduleLimitReached) for result in results)
    await change(replica, operations.cancel, made[0], ANNA)
    await create(replica, schedule(ANNA, debit_account="accounts/anna"), open_max=3)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"debit_account": "accounts/nobody"}, errors_pb2.REASON_ACCOUNT_NOT_FOUND),
        ({"credit_account": "accounts/yen"}, errors_pb2.REASON_CURRENCY_MISMATCH),
        ({"holiday_calendar": "none"}, HolidayCalendarNotFound),
        ({"when": timing(start_date=date(2026, 3, 1))}, ScheduleStartPassed),
        (
            {"when": timing(start_date=date(2026, 3, 7), end_date=date(2026, 3, 8), adjustment=Adjustment.SKIP)},
            ScheduleNeverRuns,
        ),
    ],
)
async def test_what_cannot_run_is_refused(replica: Replica, time: Clock, changes: dict[str, Any], refusal: Any) -> None:
    """Each for its reason, and nothing is left of it."""
    expected = refusal if isinstance(refusal, type) else RecordedRefusal
    with pytest.raises(expected) as caught:
        await create(replica, schedule(**changes))
    if isinstance(caught.value, RecordedRefusal):
        assert caught.value.recorded_reason == refusal
    assert await replica.query("SELECT id FROM schedules") == []
    assert await replica.query("SELECT id FROM outbox") == []


@pytest.mark.parametrize(
    ("recurrence", "field"),
    [(Recurrence(), "schedule.start_date"), (Recurrence(unit=Unit.DAILY), "schedule.end_date")],
)
async def test_what_never_runs_names_a_field_that_it_has(
    replica: Replica, time: Clock, recurrence: Recurrence, field: str
) -> None:
    """A schedule that runs once has no end to choose later."""
    saturday = date(2026, 3, 7)
    when = timing(start_date=saturday, end_date=saturday, recurrence=recurrence, adjustment=Adjustment.SKIP)
    with pytest.raises(ScheduleNeverRuns) as caught:
        await create(replica, schedule(when=when))
    assert caught.value.metadata["field"] == field


async def test_only_who_made_it_and_staff_change_a_schedule(replica: Replica, time: Clock) -> None:
    """A stranger sees none of it; a co-owner of the account sees it, and no more; staff's changes are audited."""
    replica.ledger.open("anna", 50_000, customers=("customers/anna", "customers/ben"))
    made = await create(replica, schedule(ANNA, debit_account="accounts/anna"))
    with pytest.raises(StaffOnly):
        await change(replica, operations.cancel, made, BEN)
    stranger = replace(BEN, customer="customers/cleo")
    with pytest.raises(ScheduleNotFound):
        await change(replica, operations.cancel, made, stranger)
    with pytest.raises(ScheduleNotFound):
        await change(replica, operations.cancel, made, replace(TELLER, tenant="other"))
    await change(replica, operations.pause, made, ANNA)
    assert await replica.query("SELECT action FROM audit") == []
    await change(replica, operations.cancel, made)
    rows = await replica.query("SELECT subject, action, resource, before ->> 'state', after ->> 'state' FROM audit")
    assert [tuple(row) for row in rows] == [("teller", "cancel_schedule", made.name, "PAUSED", "CANCELLED")]


async def test_a_schedule_that_cannot_be_moved_on_holds_up_no_other(replica: Replica, time: Clock) -> None:
    """A zone that is known no longer: it is put off, the others run, and it runs once the zone is back."""
    broken, sound = await create(replica, schedule()), await create(replica, schedule())
    await replica.query(f"UPDATE schedules SET time_zone = 'Gone/Away' WHERE id = '{broken.id}' RETURNING 1")
    time.now = MONDAY + HOUR
    await work(replica)
    assert states(await runs(replica, sound)) == ["COMPLETED"]
    assert await runs(replica, broken) == []
    await replica.query(f"UPDATE schedules SET time_zone = 'Europe/Berlin' WHERE id = '{broken.id}' RETURNING 1")
    time.now += HOUR
    await work(replica)
    assert states(await runs(replica, broken)) == ["COMPLETED"]


async def test_a_run_whose_zone_is_gone_holds_up_no_other(replica: Replica, time: Clock) -> None:
    """Nobody can tell when its day ends, neither as it is refused nor as it is to try again: it is put off."""
    of = [schedule(debit_account="accounts/poor", retry=Retry(3, HOUR)) for _ in range(2)]
    refused, waiting = [await create(replica, one) for one in of]
    time.now = MONDAY + HOUR
    with killed_at("after-begin"), pytest.raises(Killed):
        await work(replica)
    gone = "UPDATE schedules SET time_zone = 'Gone/Away' WHERE id = '{}' RETURNING 1"
    await replica.query(gone.format(refused.id))
    await work(replica)
    assert states(await runs(replica, refused) + await runs(replica, waiting)) == ["STARTED", "WAITING"]
    await replica.query(gone.format(waiting.id))
    sound = await create(replica, schedule(when=timing(start_date=date(2026, 3, 3))))
    time.now += DAY
    await work(replica)
    assert states(await runs(replica, sound)) == ["COMPLETED"]
    assert states(await runs(replica, refused) + await runs(replica, waiting)) == ["STARTED", "WAITING"]
    await replica.query("UPDATE schedules SET time_zone = 'Europe/Berlin' RETURNING 1")
    time.now += HOUR
    await work(replica)
    assert states(await runs(replica, refused))[0] == states(await runs(replica, waiting))[0] == "DECLINED"


async def test_a_run_that_breaks_the_way_to_pay_holds_up_no_other(replica: Replica, time: Clock) -> None:
    """One payment is what the code stumbles over: the others pay, and it is tried again until it pays too."""
    made = [await create(replica, schedule(amount=1)) for _ in range(7)]
    create_batch = replica.transfers.orders.create_batch
    wrong: set[str] = set()

    async def stumbles(transfers: Sequence[Any], deadline: float) -> Any:
        if any(transfer.request_id.startswith(f"{made[3].name}/") for transfer in transfers) and not wrong:
            raise ZeroDivisionError
        return await create_batch(transfers, deadline)

    time.now = MONDAY + HOUR
    with mock.patch.object(replica.transfers.orders, "create_batch", stumbles):
        await work(replica)
        assert states([run for one in made for run in await runs(replica, one)]).count("COMPLETED") == 6
        wrong.add("mended")
        time.now += HOUR
        await work(replica)
    assert {run.state for one in made for run in await runs(replica, one)} == {RunState.COMPLETED}


async def test_nobody_takes_the_id_by_which_a_run_will_pay(replica: Replica, time: Clock) -> None:
    """Who knows a schedule's name, and how ids are made, cannot choose its transfer's id before it: the name does not
    give it away, and no moment but that of the run's own beginning does."""
    made = await create(replica, schedule(id="rent"))
    names = [f"demo/{made.name}/runs/1", f"demo/{made.name}/runs/1/{clock.microseconds(MONDAY + HOUR)}"]
    for name in names:
        await replica.create(transfer(id=transfer_id(name, 1)))
    time.now = MONDAY + HOUR + timedelta(microseconds=1)
    await work(replica)
    assert states(await runs(replica, made)) == ["COMPLETED"]


async def test_a_replica_whose_clock_is_ahead_neither_begins_nor_skips_anything(replica: Replica) -> None:
    """Its clock shows next month: nothing is due for its worker, and who resumes there skips nothing to come."""
    when = timing(start_date=clock.now().date() + 2 * DAY)
    made, resumed = [await create(replica, schedule(when=when)) for _ in range(2)]
    await change(replica, operations.pause, resumed)
    with mock.patch.object(clock, "now", lambda: datetime.now(UTC) + 30 * DAY):
        await change(replica, operations.resume, resumed)
        await work(replica)
        behind = await replica.db.run("*", schedule_store.overdue)
        assert behind is not None
        assert behind < timedelta(0)
    for one in (made, resumed):
        assert await runs(replica, one) == []
        assert (await present(replica, one)).next_run_time == made.next_run_time


async def test_the_worker_waits_for_what_is_due_and_is_woken(replica: Replica) -> None:
    """By the real clock: idle it asks one question a poll; a run is begun within moments of its time."""
    replica.scheduler._settings = replica.settings.model_copy(update={"schedule_poll_ms": 30_000})
    worker = asyncio.create_task(replica.scheduler.run())
    try:
        await asyncio.sleep(0)
        at = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
        when = timing(start_date=at.date(), local_time=at.time(), time_zone="UTC")
        made = await create(replica, schedule(when=when, id=uuid.uuid4().hex))
        replica.scheduler.wake()

        async def completed() -> bool:
            return states(await runs(replica, made)) == ["COMPLETED"]

        await eventually(completed, 15)
        (run,) = await runs(replica, made)
        assert timedelta(0) <= run.create_time - at < timedelta(seconds=5)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
