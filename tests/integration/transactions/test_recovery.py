"""A process that dies between any two steps, and what finishes its transfers: each one once."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from unittest import mock

import pytest

from meshkit.errors import RecordedRefusal
from tests.integration.transactions import deaths
from tests.integration.transactions.conftest import Replica, serving
from tests.integration.transactions.deaths import Killed
from tests.integration.transactions.fakes import FakeLedger
from tests.unit.transactions.making import transfer
from transactions import orders as batches
from transactions import passes
from transactions.model import State, Transfer, Verdict

POINTS = (
    "after-intent",
    "before-screening",
    "after-screening",
    "before-posting",
    "after-posting",
    "before-outcome",
    "after-outcome",
)


_STEPS: dict[str, tuple[type, str]] = {
    "intent": (batches.Orders, "_record_intents"),
    "screening": (passes.Passes, "_decide"),
    "authorizing": (passes.Passes, "_authorize"),
    "ending": (FakeLedger, "release"),
    "outcome": (passes.Passes, "_record"),
}


def _step(point: str) -> tuple[type, str]:
    """The function that a point is before or after. A pass begins to post earlier than accounts is asked."""
    if point == "before-posting":
        return passes.Passes, "_post"
    return (FakeLedger, "post") if point == "after-posting" else _STEPS[point.partition("-")[2]]


@contextmanager
def killed_at(point: str) -> Iterator[list[str]]:
    """Ends whatever reaches a crash point; gives the points that were hit."""
    owner, name = _step(point)
    with deaths.dying(owner, name, point, after=point.startswith("after-")) as hit:
        yield hit


def restarted(replica: Replica) -> Replica:
    """The process that comes after: it knows what is in the database, and nothing else."""
    return Replica(replica.db, replica.settings, replica.ledger, replica.screening)


async def dies(replica: Replica, point: str, orders: list[Transfer]) -> None:
    """Has a process die at a point of the way of new transfers."""
    # The pass is made here, where its end can be seen, and not by the batches of a process that lives on.
    by_hand = mock.patch.object(replica.transfers.orders, "hand_on")
    with killed_at(point) as hit, by_hand, pytest.raises(Killed):
        recorded = await replica.transfers.orders._record_orders([batches.Order(order) for order in orders])
        await replica.transfers.orders._pass_on([result for result in recorded if isinstance(result, Transfer)])
    assert hit == [point]


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_at_any_step_ends_in_one_effect(replica: Replica, point: str) -> None:
    """An allowed, a declined, a poor and a reviewed payment: after recovery each is where it would have been."""
    allowed, declined = transfer(), transfer(amount=replica.screening.DECLINE_FROM)
    poor, reviewed = transfer(debit_account="accounts/poor"), transfer(amount=replica.screening.REVIEW_FROM)
    await dies(replica, point, [allowed, declined, poor, reviewed])
    after = restarted(replica)
    await after.recovery.before_ready()
    rows = [await after.row(order) for order in (allowed, declined, poor, reviewed)]
    assert [row.state for row in rows] == [State.COMPLETED, State.DECLINED, State.DECLINED, State.IN_REVIEW]
    assert replica.ledger.journals == {allowed.name: 1}
    assert replica.ledger.active_holds() == 1
    assert await _gaps(after) == []


@pytest.mark.parametrize("verdict", [Verdict.APPROVED, Verdict.REJECTED, Verdict.EXPIRED])
@pytest.mark.parametrize("point", ["before-posting", "after-posting", "before-outcome", "after-outcome"])
async def test_a_crash_while_a_verdict_is_carried_out_ends_in_one_effect(
    replica: Replica, verdict: Verdict, point: str
) -> None:
    """The hold is consumed or given back, once, whoever finishes it."""
    order = transfer(amount=replica.screening.REVIEW_FROM)
    held = await replica.create(order)
    await replica.verdict(held, verdict)
    with killed_at(point), suppress(Killed):
        await replica.recovery.before_ready()
    after = restarted(replica)
    await after.hurry()
    await after.recovery.before_ready()
    row = await after.row(order)
    assert row.state is (State.COMPLETED if verdict is Verdict.APPROVED else State.DECLINED)
    assert sum(replica.ledger.journals.values()) == (1 if verdict is Verdict.APPROVED else 0)
    assert replica.ledger.active_holds() == 0
    assert await _gaps(after) == []


async def test_a_stand_in_payment_that_was_posted_before_the_crash_stays_paid(replica: Replica) -> None:
    """Compliance is back after the crash and would say no; what a stand-in let pass and posted is COMPLETED (INV-6)."""
    replica.passes._settings = replica.settings.model_copy(
        update={"screening_posture": "stand-in", "stand_in_maximum": {"EUR": 9_000_000}}
    )
    replica.ledger.balances["accounts/a"] = 9_000_000
    replica.screening.faults.down = True
    order = transfer(amount=replica.screening.DECLINE_FROM)
    await dies(replica, "after-posting", [order])
    replica.screening.faults.down = False
    after = restarted(replica)
    await after.hurry()
    await after.recovery.before_ready()
    row = await after.row(order)
    assert replica.ledger.journals == {order.name: 1}
    assert (row.state, row.stand_in) == (State.COMPLETED, True)


@pytest.mark.parametrize("unheard", [(), ("post",)], ids=["at-once", "accounts-not-heard-first"])
async def test_a_completion_is_told_in_the_same_words_after_a_crash(replica: Replica, unheard: tuple[str, ...]) -> None:
    """INV-7: the outcome was lost with the crash; the event of recovery is byte for byte the one it had been, which may
    have been published; also where accounts does not answer the first time."""
    order = transfer()
    await replica.create(order)
    statement = "SELECT event_id, version, time, data FROM outbox WHERE version > 1"
    before = [tuple(row) for row in await replica.query(statement)]
    # What synchronous_commit = off may lose: the last write, whole.
    await replica.query("DELETE FROM outbox WHERE version = 2 RETURNING 1")
    await replica.query(
        "UPDATE transfers SET state = 'ACCEPTED', version = 1, journal = '', due_time = now(), effective_time = NULL,"
        " decision = '' RETURNING 1"
    )
    replica.ledger.faults.lose.extend(unheard)
    for _ in range(2):
        await replica.hurry()
        await restarted(replica).recovery.before_ready()
    assert [tuple(row) for row in await replica.query(statement)] == before


async def test_two_workers_at_once_do_each_transfer_once(replica: Replica) -> None:
    """A hundred transfers that a crash left: two replicas take them, nothing is told twice."""
    orders = [transfer(amount=10) for _ in range(100)]
    await dies(replica, "after-intent", orders)
    one, two = restarted(replica), restarted(replica)
    await replica.hurry()
    await asyncio.gather(one.recovery.before_ready(), two.recovery.before_ready())
    rows = await replica.query("SELECT state, version, count(*) FROM transfers GROUP BY 1, 2")
    assert [tuple(row) for row in rows] == [("COMPLETED", 2, 100)]
    assert set(replica.ledger.journals.values()) == {1}
    assert await _gaps(replica) == []


async def test_a_down_dependency_does_not_hold_up_the_start(replica: Replica) -> None:
    """Readiness does not wait for accounts, and the worker tries again with growing pauses."""
    order = transfer()
    await dies(replica, "after-intent", [order])
    replica.ledger.faults.down = True
    async with asyncio.timeout(3):
        await restarted(replica).recovery.before_ready()
    row = await replica.row(order)
    assert row.state is State.ACCEPTED
    worker = asyncio.create_task(restarted(replica).recovery.run())
    try:
        replica.ledger.faults.down = False
        done = await replica.transfers.wait(order.principal, order.id, 8)
        assert done.state is State.COMPLETED
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def test_a_storm_of_lost_answers_ends_with_every_payment_final_once(replica: Replica) -> None:
    """Random refusals to answer, three workers and callers that repeat themselves: the books agree in the end."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    names = ["resolve", "post", "hold", "release"]
    replica.ledger.faults.lose = deque(rng.choice(names) for _ in range(25))
    replica.screening.faults.lose = deque(["screen"] * 5)
    amounts = [1, 10, 100, replica.screening.REVIEW_FROM, replica.screening.DECLINE_FROM]
    orders = [transfer(amount=rng.choice(amounts), request_id=f"storm-{number}") for number in range(60)]

    async def pay(order: Transfer) -> None:
        for _ in range(2):
            try:
                await replica.create(order)
            except RecordedRefusal:
                return

    await asyncio.gather(*(pay(order) for order in orders))
    for _ in range(40):
        await replica.hurry()
        for held in await replica.query("SELECT id FROM transfers WHERE state = 'IN_REVIEW' AND verdict IS NULL"):
            order = next(order for order in orders if order.id == held[0])
            await replica.verdict(order, rng.choice([Verdict.APPROVED, Verdict.REJECTED]))
        await asyncio.gather(*(restarted(replica).recovery.before_ready() for _ in range(3)))
        rows = await replica.query("SELECT 1 FROM transfers WHERE state NOT IN ('COMPLETED', 'DECLINED')")
        if not rows:
            break
    else:
        raise AssertionError(f"not all final, seed {seed}")
    completed = {f"transfers/{row[0]}" for row in await replica.query("SELECT id FROM transfers WHERE journal <> ''")}
    assert {name: count for name, count in replica.ledger.journals.items() if count} == dict.fromkeys(completed, 1), (
        seed
    )
    assert replica.ledger.active_holds() == 0, seed
    assert sum(replica.ledger.balances[f"accounts/{name}"] for name in ("a", "b")) == 1_000_000, seed
    assert await _gaps(replica) == [], seed


async def test_a_request_after_the_crash_finds_its_transfer(replica: Replica) -> None:
    """Whoever asks again with the same request_id gets the one transfer, finished by this very call."""
    order = transfer(request_id="again")
    await dies(replica, "after-posting", [order])
    async with serving(restarted(replica)) as after:
        assert (await after.create(order)).state is State.COMPLETED
    assert replica.ledger.journals == {order.name: 1}


async def _gaps(replica: Replica) -> list[tuple[object, ...]]:
    """Transfers whose events are not exactly one a version (INV-7)."""
    rows = await replica.query(
        "SELECT t.id, t.version, array_agg(o.version ORDER BY o.version) FROM transfers t"
        " JOIN outbox o ON o.tenant = t.tenant AND o.aggregate = 'transfers/' || t.id GROUP BY t.id, t.version"
        " HAVING array_agg(o.version ORDER BY o.version)"
        " <> (SELECT array_agg(v) FROM generate_series(1, t.version) AS v)"
    )
    return [tuple(row) for row in rows]
