"""How schedules and runs go on: what begins and what is skipped, what tries again, what ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import grpc
import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError
from tests.unit.transactions.making import ANNA
from tests.unit.transactions.scheduling import DAILY, MONDAY, schedule, timing
from transactions import errors
from transactions.model import State, Transfer
from transactions.recurrence import BusinessDays, Skip
from transactions.schedule import (
    Changes,
    Retry,
    Run,
    RunState,
    Schedule,
    ScheduleState,
    after_attempt,
    begin_due,
    fails,
    planned,
    transfer_of,
)

DAYS = BusinessDays()
HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)


class InsufficientFunds(DomainError):
    """Accounts' refusal."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_INSUFFICIENT_FUNDS


FUNDS = InsufficientFunds("not enough").to_status()


def begun(of: Schedule, now: datetime, *, most: int = 50) -> tuple[Schedule, list[Run]]:
    """What is due by now, with a week to make up for what was missed."""
    return begin_due(of, DAYS, now, late=WEEK, most=most)


def skips(runs: list[Run]) -> list[Skip | None]:
    """Why each was skipped."""
    return [run.skip for run in runs]


def answered(of: Schedule, run: Run, state: State, refusal: status_pb2.Status | None = None) -> Transfer:
    """The transfer of a run's attempt."""
    return replace(transfer_of(of, run, MONDAY), state=state, refusal=refusal)


def test_nothing_begins_before_its_time() -> None:
    """And looking early changes nothing."""
    of = schedule()
    assert begun(of, MONDAY) == (of, [])
    assert of.due_time == MONDAY + HOUR


def test_each_day_begins_once_and_the_last_one_ends_the_schedule() -> None:
    """Whoever looks again finds nothing to do; the count ends it with the run that uses it up."""
    of = schedule(when=timing(run_count=2))
    after, (first,) = begun(of, MONDAY + HOUR)
    assert (first.number, first.run_time, first.state) == (1, MONDAY + HOUR, RunState.STARTED)
    assert begun(after, MONDAY + HOUR) == (after, [])
    ended, (second,) = begun(after, MONDAY + HOUR + DAY)
    assert second.number == 2
    assert (ended.state, ended.version, ended.due_time, ended.next_run_time) == (ScheduleState.COMPLETED, 2, None, None)


def test_what_was_missed_is_made_up_for_within_a_week_and_skipped_before() -> None:
    """Ten days of silence: three are too late, the rest pay, once, in their order."""
    after, runs = begun(schedule(), MONDAY + HOUR + 10 * DAY)
    assert skips(runs) == [Skip.TOO_LATE] * 3 + [None] * 8
    assert [run.number for run in runs] == list(range(1, 12))
    assert after.due_time == MONDAY + HOUR + 11 * DAY


def test_of_thousands_that_were_missed_some_are_looked_at_at_a_time() -> None:
    """The schedule stays due, and goes on from where it was."""
    late = MONDAY + HOUR + 120 * DAY
    after, runs = begun(schedule(), late, most=50)
    assert len(runs) == 50
    assert after.due_time is not None
    assert after.due_time <= late
    rest, more = begun(after, late, most=100)
    assert [run.number for run in (*runs, *more)] == list(range(1, 122))
    assert rest.due_time is not None
    assert rest.due_time > late


def test_a_clock_that_goes_back_begins_nothing_twice() -> None:
    """What has begun is behind the schedule, whatever a clock says afterwards."""
    after, _ = begun(schedule(), MONDAY + HOUR + 2 * DAY)
    for now in (MONDAY + HOUR + DAY, MONDAY, MONDAY - 30 * DAY):
        assert begun(after, now) == (after, [])


@given(st.lists(st.integers(-40, 60), min_size=1, max_size=12), st.integers(1, 6))
def test_however_the_clock_jumps_every_run_begins_once_and_in_order(jumps: list[int], most: int) -> None:
    """Numbers leave nothing out and no nominal date comes twice."""
    of, runs = schedule(), []
    now = MONDAY
    for jump in jumps:
        now += jump * timedelta(hours=7)
        of, more = begun(of, now, most=most)
        runs += more
    assert [run.number for run in runs] == list(range(1, len(runs) + 1))
    assert len({run.nominal_date for run in runs}) == len(runs)
    assert of.position.number == len(runs)


def test_what_was_due_while_it_was_paused_is_skipped() -> None:
    """Resumed on Thursday noon: Monday to Thursday are skipped, Friday runs; the next time that is told is Friday's."""
    resumed = planned(replace(schedule(), skip_before=MONDAY + 3 * DAY + 8 * HOUR), DAYS)
    assert resumed.next_run_time == MONDAY + HOUR + 4 * DAY
    _, runs = begun(resumed, MONDAY + HOUR + 4 * DAY)
    assert skips(runs) == [Skip.PAUSED] * 4 + [None]


@pytest.mark.parametrize("state", [State.COMPLETED, State.REVERSED])
def test_a_run_whose_transfer_moved_money_is_completed(state: State) -> None:
    """Also where the money was moved back since."""
    _, (run,) = begun(schedule(), MONDAY + HOUR)
    after = after_attempt(schedule(), run, answered(schedule(), run, state), MONDAY + 2 * HOUR)
    assert (after.state, after.due_time) == (RunState.COMPLETED, None)


@pytest.mark.parametrize("state", [State.ACCEPTED, State.SCREENED, State.IN_REVIEW])
def test_a_run_whose_transfer_is_under_way_stays_as_it_is(state: State) -> None:
    """It is looked at again."""
    _, (run,) = begun(schedule(), MONDAY + HOUR)
    assert after_attempt(schedule(), run, answered(schedule(), run, state), MONDAY + 2 * HOUR) is run


def test_a_run_without_funds_tries_again_as_often_as_its_policy_says_and_while_its_day_lasts() -> None:
    """Twice more, and not at all when the pause would end after midnight in Berlin."""
    of = schedule(retry=Retry(2, HOUR))
    _, (run,) = begun(of, MONDAY + HOUR)
    refused = answered(of, run, State.DECLINED, FUNDS)
    waiting = after_attempt(of, run, refused, MONDAY + HOUR)
    assert (waiting.state, waiting.due_time) == (RunState.WAITING, MONDAY + 2 * HOUR)
    assert after_attempt(of, replace(run, attempts=2), refused, MONDAY + HOUR).state is RunState.WAITING
    assert after_attempt(of, replace(run, attempts=3), refused, MONDAY + HOUR).state is RunState.DECLINED
    before_midnight = datetime(2026, 3, 2, 22, tzinfo=UTC)
    assert after_attempt(of, run, refused, before_midnight - timedelta(seconds=1)).state is RunState.WAITING
    late = after_attempt(of, run, refused, before_midnight)
    assert (late.state, late.refusal) == (RunState.DECLINED, FUNDS)


def test_a_run_that_was_declined_for_anything_else_tries_nothing_again() -> None:
    """Nor one of a schedule that is paused or was ended meanwhile; the last run of a completed one may."""
    of = schedule(retry=Retry(3, HOUR))
    _, (run,) = begun(of, MONDAY + HOUR)
    frozen = answered(of, run, State.DECLINED, errors.PaymentDeclined().to_status())
    assert after_attempt(of, run, frozen, MONDAY + HOUR).state is RunState.DECLINED
    refused = answered(of, run, State.DECLINED, FUNDS)
    for state in (ScheduleState.PAUSED, ScheduleState.CANCELLED, ScheduleState.FAILED):
        assert after_attempt(replace(of, state=state), run, refused, MONDAY + HOUR).state is RunState.DECLINED
    completed = replace(of, state=ScheduleState.COMPLETED)
    assert after_attempt(completed, run, refused, MONDAY + HOUR).state is RunState.WAITING


def test_an_account_that_is_gone_fails_the_schedule_and_a_lack_of_funds_does_not() -> None:
    """What no later run can change."""
    assert fails(errors.AccountNotFound("accounts/a").to_status())
    assert not fails(FUNDS)
    assert not fails(errors.PaymentDeclined().to_status())


def test_the_transfer_of_an_attempt_is_one_request_whoever_makes_it() -> None:
    """The same id, key and fingerprint at any time; another attempt or run is another; it may pay and nothing else."""
    of = schedule(ANNA)
    after, (run,) = begun(of, MONDAY + HOUR)
    one, again = transfer_of(of, run, MONDAY), transfer_of(of, run, MONDAY + DAY)
    assert (one.id, one.request_key, one.fingerprint) == (again.id, again.request_key, again.fingerprint)
    assert one.request_id == f"{of.name}/runs/1/attempt-1"
    assert one.principal.scopes == {"transfers:write"}
    assert one.customers == ("customers/anna",)
    _, (second,) = begun(after, MONDAY + HOUR + DAY)
    ids = {transfer_of(of, other, MONDAY).id for other in (run, replace(run, attempts=2), second)}
    assert len(ids) == 3
    assert replace(run, attempts=2).transfer_ids[0] == one.id


def test_changes_touch_what_their_mask_names_and_nothing_else() -> None:
    """A value beside the mask is not read; an end that is named and empty is taken away."""
    of = schedule(when=timing(DAILY, end_date=date(2026, 4, 1)))
    new = Changes(
        paths=frozenset({"amount", "end_date"}),
        payment=replace(of.payment, amount=5, remittance="ignored"),
        currency="EUR",
        local_time=of.timing.local_time.replace(hour=9),
        end_date=None,
        run_count=7,
        adjustment=of.timing.adjustment,
        holiday_calendar="ignored",
        retry=Retry(9),
    )
    assert new.applied(of) == replace(
        of, payment=replace(of.payment, amount=5), timing=replace(of.timing, end_date=None)
    )
