"""CreateTransfer on a real database: one request is one transfer, refusals are kept, deadlines are met."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from florin.common.v1 import errors_pb2
from meshkit.errors import RecordedRefusal, RequestIdReused
from tests.integration.transactions.conftest import Replica, serving
from tests.unit.transactions.making import ANNA, transfer
from transactions.errors import TransferExists
from transactions.model import State


async def test_a_payment_completes_with_one_event_a_change(replica: Replica) -> None:
    """ACCEPTED and COMPLETED are told, in versions 1 and 2, and the journal is named."""
    done = await replica.create(transfer())
    assert done.state is State.COMPLETED
    assert done.journal.startswith("journals/")
    assert await replica.row(done) == done
    events = await replica.query("SELECT subject, version FROM outbox ORDER BY id")
    assert [tuple(event) for event in events] == [
        ("florin.transactions.transfer_accepted.v1", 1),
        ("florin.transactions.transfer_completed.v1", 2),
    ]


async def test_names_and_remittance_are_sealed(replica: Replica) -> None:
    """Who reads the table learns no name; who may read the transfer does."""
    done = await replica.create(transfer(creditor_name="Erika Muster", remittance="rent"))
    ((name, remittance),) = await replica.query("SELECT creditor_name, remittance FROM transfers")
    assert b"Erika" not in bytes(name)
    assert b"rent" not in bytes(remittance)
    assert (await replica.row(done)).creditor_name == "Erika Muster"


async def test_fifty_copies_of_a_request_are_one_transfer(replica: Replica) -> None:
    """INV-5: copies that arrive at once all get the one transfer, and the money moves once."""
    orders = [transfer(request_id="same") for _ in range(50)]
    answers = await asyncio.gather(*(replica.create(order) for order in orders))
    assert {(answer.id, answer.state) for answer in answers} == {(orders[0].id, State.COMPLETED)}
    assert replica.ledger.journals == {answers[0].name: 1}
    assert [tuple(row) for row in await replica.query("SELECT count(*) FROM outbox")] == [(2,)]


async def test_a_refusal_is_replayed_as_it_was(replica: Replica) -> None:
    """A declined payment stays declined, also when there is money by now, and says the same words."""
    order = transfer(request_id="poor", debit_account="accounts/poor")
    with pytest.raises(RecordedRefusal) as first:
        await replica.create(order)
    replica.ledger.balances["accounts/poor"] = 1_000_000
    with pytest.raises(RecordedRefusal) as again:
        await replica.create(order)
    assert first.value.recorded_reason == errors_pb2.REASON_INSUFFICIENT_FUNDS
    assert first.value.metadata["transfer"] == order.name
    assert again.value.to_status() == first.value.to_status()
    assert (await replica.row(order)).state is State.DECLINED
    assert replica.ledger.journals == {}


async def test_another_payload_under_the_same_request_id_is_refused(replica: Replica) -> None:
    """REQUEST_ID_REUSED names what the request_id stands for, and nothing is done."""
    first = await replica.create(transfer(request_id="r"))
    with pytest.raises(RequestIdReused) as refused:
        await replica.create(transfer(request_id="r", fingerprint=b"other" * 6, amount=2))
    assert refused.value.metadata["name"] == first.name
    assert replica.ledger.journals == {first.name: 1}


async def test_a_chosen_id_that_is_taken_is_refused(replica: Replica) -> None:
    """TRANSFER_EXISTS, also when both come in one batch."""
    orders = [transfer(id="mine"), transfer(id="mine")]
    results = await replica.transfers.orders.create_batch(orders, time.monotonic() + 5)
    assert sorted(type(result).__name__ for result in results) == ["Transfer", "TransferExists"]
    with pytest.raises(TransferExists):
        await replica.create(transfer(id="mine"))


async def test_one_item_of_a_batch_does_not_touch_the_others(replica: Replica) -> None:
    """A thousand items with refusals among them: each has its own result, in order."""
    orders = [
        transfer(amount=1, credit_account="accounts/nobody" if number % 10 == 0 else "accounts/b")
        for number in range(1000)
    ]
    results = await replica.transfers.orders.create_batch(orders, time.monotonic() + 20)
    refused = [number for number, result in enumerate(results) if isinstance(result, RecordedRefusal)]
    assert refused == list(range(0, 1000, 10))
    assert replica.ledger.balances["accounts/b"] == 900


async def test_a_customer_cannot_debit_a_foreign_account(replica: Replica) -> None:
    """A foreign account is refused in the words of one that does not exist."""
    with pytest.raises(RecordedRefusal) as foreign:
        await replica.create(transfer(ANNA, debit_account="accounts/a"))
    with pytest.raises(RecordedRefusal) as absent:
        await replica.create(transfer(ANNA, debit_account="accounts/z"))
    assert foreign.value.recorded_reason == errors_pb2.REASON_ACCOUNT_NOT_FOUND
    assert foreign.value.message.replace("accounts/a", "") == absent.value.message.replace("accounts/z", "")


async def test_a_currency_that_the_account_does_not_have_is_refused(replica: Replica) -> None:
    """CURRENCY_MISMATCH is a refusal of the transfer, and kept with it."""
    order = transfer(debit_account="accounts/yen")
    with pytest.raises(RecordedRefusal) as refused:
        await replica.create(order)
    assert refused.value.recorded_reason == errors_pb2.REASON_CURRENCY_MISMATCH
    assert (await replica.row(order)).state is State.DECLINED


@pytest.mark.parametrize("part", ["accounts", "compliance"])
async def test_a_part_that_is_down_gives_a_pending_transfer_at_once(replica: Replica, part: str) -> None:
    """The intent stands, the answer is ACCEPTED, and it does not take the whole deadline; it completes afterwards."""
    faults = replica.ledger.faults if part == "accounts" else replica.screening.faults
    faults.down = True
    started = time.monotonic()
    order = transfer()
    answer = await replica.create(order, seconds=30)
    assert answer.state is State.ACCEPTED
    assert time.monotonic() - started < 5
    faults.down = False
    await replica.hurry()
    await replica.recovery.before_ready()
    assert (await replica.row(order)).state is State.COMPLETED


async def test_the_present_state_is_answered_before_the_deadline(replica: Replica) -> None:
    """A slow ledger: the caller gets ACCEPTED in time, and the pass goes on without it."""
    gate = asyncio.Event()
    post = replica.ledger.post

    async def slow(transfers, *, validate_only=False):  # type: ignore[no-untyped-def]
        await gate.wait()
        return await post(transfers, validate_only=validate_only)

    replica.ledger.post = slow  # type: ignore[method-assign]
    order = transfer()
    answer = await replica.create(order, seconds=0.5)
    assert answer.state is State.ACCEPTED
    waiting = asyncio.create_task(replica.transfers.wait(order.principal, order.id, 5))
    gate.set()
    assert (await waiting).state is State.COMPLETED


async def test_at_its_deadline_a_batch_tells_what_has_ended(replica: Replica) -> None:
    """One item's pass hangs, the other's is over: ACCEPTED and COMPLETED, not ACCEPTED for both."""
    gate = asyncio.Event()
    hanging, quick = transfer(), transfer()
    screen = replica.screening.screen

    async def hangs(transfers, *, validate_only=False):  # type: ignore[no-untyped-def]
        if transfers[0][0].id == hanging.id:
            await gate.wait()
        return await screen(transfers, validate_only=validate_only)

    replica.screening.screen = hangs  # type: ignore[method-assign]
    alone = Replica(replica.db, replica.settings.model_copy(update={"batch_max": 1}), replica.ledger, replica.screening)
    async with serving(alone):
        results = await alone.transfers.orders.create_batch([hanging, quick], time.monotonic() + 2)
        gate.set()
    assert [getattr(one, "state", None) for one in results] == [State.ACCEPTED, State.COMPLETED]


async def test_callers_that_go_away_stop_nothing(replica: Replica) -> None:
    """One whose pass is under way and one who waits for it: both passes are made though nobody waits, and not first by
    recovery."""
    screened, gate = asyncio.Event(), asyncio.Event()
    screen = replica.screening.screen

    async def slow(transfers, *, validate_only=False):  # type: ignore[no-untyped-def]
        screened.set()
        await gate.wait()
        return await screen(transfers, validate_only=validate_only)

    replica.screening.screen = slow  # type: ignore[method-assign]
    first, second = transfer(), transfer()
    callers = [asyncio.create_task(replica.create(first))]
    await screened.wait()
    callers.append(asyncio.create_task(replica.create(second)))
    async with asyncio.timeout(5):
        while not await replica.query(f"SELECT 1 FROM transfers WHERE id = '{second.id}'"):
            await asyncio.sleep(0.01)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    gate.set()
    for order in (first, second):
        assert (await replica.transfers.wait(order.principal, order.id, 5)).state is State.COMPLETED


async def test_a_part_that_hangs_holds_up_no_intent(replica: Replica) -> None:
    """More payments than passes may be in flight, one after the other: all are ACCEPTED within their deadlines."""
    gate = asyncio.Event()
    screen = replica.screening.screen

    async def hangs(transfers, *, validate_only=False):  # type: ignore[no-untyped-def]
        await gate.wait()
        return await screen(transfers, validate_only=validate_only)

    replica.screening.screen = hangs  # type: ignore[method-assign]
    orders = [transfer() for _ in range(2 * replica.settings.passes_in_flight + 1)]
    answers = [await replica.create(order, seconds=0.4) for order in orders]
    assert {answer.state for answer in answers} == {State.ACCEPTED}
    gate.set()
    for order in orders:
        done = await replica.transfers.wait(order.principal, order.id, 5)
        assert done.state is State.COMPLETED


async def test_a_declined_replay_near_its_deadline_is_still_a_refusal(replica: Replica) -> None:
    """A stored refusal is never answered as OK, whatever else its batch waits for."""
    poor = transfer(debit_account="accounts/poor")
    with pytest.raises(RecordedRefusal):
        await replica.create(poor)
    gate = asyncio.Event()

    async def never(transfers, *, validate_only=False):  # type: ignore[no-untyped-def]
        await gate.wait()
        return []

    replica.ledger.post = never  # type: ignore[method-assign]
    results = await replica.transfers.orders.create_batch([poor, transfer()], time.monotonic() + 0.5)
    gate.set()
    assert isinstance(results[0], RecordedRefusal)
    assert getattr(results[1], "state", None) is State.ACCEPTED


async def test_a_lost_answer_of_the_ledger_is_asked_for_again(replica: Replica) -> None:
    """The journal was posted and the answer was lost: recovery finds it, and posts nothing twice."""
    replica.ledger.faults.lose.append("post")
    order = transfer()
    answer = await replica.create(order)
    assert answer.state is State.ACCEPTED
    await replica.hurry()
    await replica.recovery.before_ready()
    done = await replica.row(order)
    assert done.state is State.COMPLETED
    assert done.version == 2
    assert replica.ledger.journals == {order.name: 1}


async def test_small_payments_pass_while_compliance_is_down_where_that_is_wanted(replica: Replica) -> None:
    """Stand-in: up to the maximum of the currency, marked as such; larger ones wait."""
    replica.passes._settings = replica.settings.model_copy(
        update={"screening_posture": "stand-in", "stand_in_maximum": {"EUR": 5000}}
    )
    replica.screening.faults.down = True
    small, large = transfer(amount=5000), transfer(amount=5001)
    first, second = await asyncio.gather(replica.create(small), replica.create(large))
    assert (first.state, first.stand_in) == (State.COMPLETED, True)
    assert (second.state, second.stand_in) == (State.ACCEPTED, False)
    ((wrong,),) = await replica.query("SELECT count(*) FROM transfers WHERE state = 'ACCEPTED' AND due_time IS NULL")
    assert wrong == 0


async def test_a_stand_in_decision_is_durable_before_money_moves(replica: Replica) -> None:
    """Compliance comes back and would decline what a stand-in let pass and posted: the journal decides (INV-6)."""
    replica.passes._settings = replica.settings.model_copy(
        update={"screening_posture": "stand-in", "stand_in_maximum": {"EUR": 9_000_000}}
    )
    replica.ledger.balances["accounts/a"] = 9_000_000
    replica.screening.faults.down = True
    replica.ledger.faults.lose.append("post")
    order = transfer(amount=replica.screening.DECLINE_FROM)
    await replica.create(order)
    replica.screening.faults.down = False
    await replica.hurry()
    await replica.recovery.before_ready()
    done = await replica.row(order)
    assert replica.ledger.journals == {order.name: 1}
    assert (done.state, done.stand_in) == (State.COMPLETED, True)


@pytest.mark.parametrize(("posture", "durable"), [("closed", False), ("stand-in", True)])
async def test_only_what_is_derived_again_to_the_same_events_does_not_wait_for_the_disk(
    replica: Replica, posture: str, durable: bool
) -> None:
    """A completion is, from its journal; but not where a stand-in decision could take another way after a crash."""
    replica.passes._settings = replica.settings.model_copy(update={"screening_posture": posture})
    run, flags = replica.db.run, []

    async def noted(*arguments: Any, **options: Any) -> Any:
        flags.append(options.get("durable", True))
        return await run(*arguments, **options)

    with mock.patch.object(replica.db, "run", noted):
        assert (await replica.create(transfer())).state is State.COMPLETED
    assert flags == [True, durable]


async def test_orders_of_two_tenants_share_a_batch_and_stay_apart(replica: Replica) -> None:
    """The same subject and request_id in two tenants are two transfers."""
    other = replace(ANNA, tenant="other", customer=None)
    here = replace(ANNA, customer=None)
    orders = [transfer(here, "same"), transfer(other, "same")]
    answers = await asyncio.gather(*(replica.create(order) for order in orders))
    assert len({answer.id for answer in answers}) == 2
    assert {answer.state for answer in answers} == {State.COMPLETED}
