"""CancelTransfer and ReverseTransfer: races have one winner, and money goes back once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from florin.common.v1 import errors_pb2
from florin.transactions.v1 import events_pb2
from meshkit.errors import RecordedRefusal, RequestIdReused, StaffOnly, Unavailable
from tests.integration.transactions.conftest import Replica, call_of
from tests.integration.transactions.fakes import StepCancelled
from tests.unit.transactions.making import ANNA, TELLER, transfer
from transactions.errors import (
    CurrencyMismatch,
    ReversalExceeded,
    TransferFinal,
    TransferNotCompleted,
    TransferNotFound,
    TransferReversed,
)
from transactions.model import State, Transfer, Verdict, request_key
from transactions.ports import Outcome

REVERSE = "/florin.transactions.v1.TransferService/ReverseTransfer"


def _reversal(
    original: Transfer, request_id: str = "back", fingerprint: bytes = b"r" * 32, amount: int = 0, currency: str = ""
) -> Transfer:
    key = request_key(TELLER, REVERSE, request_id)
    return transfer(
        id=str(key),
        request_key=key,
        request_id=request_id,
        fingerprint=fingerprint,
        reversal_of=original.id,
        debit_account="",
        credit_account="",
        currency=currency,
        amount=amount,
        remittance="a mistake",
    )


async def test_a_pending_transfer_is_cancelled_and_never_moves(replica: Replica) -> None:
    """Once the cancel answered, recovery cannot post it any more; cancelling again gives the same."""
    replica.screening.faults.down = True
    order = transfer()
    await replica.create(order)
    cancelled = await replica.transfers.cancel(call_of(), order.id)
    assert cancelled.state is State.DECLINED
    replica.screening.faults.down = False
    await replica.hurry()
    await replica.recovery.before_ready()
    assert (await replica.transfers.cancel(call_of(), order.id)) == cancelled
    assert replica.ledger.journals == {}
    with pytest.raises(RecordedRefusal) as refused:
        await replica.create(order)
    assert refused.value.recorded_reason == errors_pb2.REASON_TRANSFER_CANCELLED


async def test_a_transfer_in_review_is_cancelled_and_its_hold_given_back(replica: Replica) -> None:
    """INV-6: no hold outlives a final transfer."""
    held = await replica.create(transfer(amount=replica.screening.REVIEW_FROM))
    assert held.state is State.IN_REVIEW
    assert replica.ledger.active_holds() == 1
    cancelled = await replica.transfers.cancel(call_of(), held.id)
    assert cancelled.state is State.DECLINED
    assert replica.ledger.active_holds() == 0


async def test_a_posted_transfer_is_recorded_and_not_cancelled(replica: Replica) -> None:
    """The journal was there first: TRANSFER_FINAL, and the transfer is COMPLETED."""
    replica.ledger.faults.lose.append("post")
    order = transfer()
    assert (await replica.create(order)).state is State.ACCEPTED
    with pytest.raises(TransferFinal):
        await replica.transfers.cancel(call_of(), order.id)
    assert (await replica.row(order)).state is State.COMPLETED
    with pytest.raises(TransferFinal):
        await replica.transfers.cancel(call_of(), order.id)


async def test_without_the_ledger_nothing_is_cancelled(replica: Replica) -> None:
    """Only accounts can promise that money will not move."""
    replica.screening.faults.down = True
    order = transfer()
    before = await replica.create(order)
    replica.ledger.faults.down = True
    with pytest.raises(Unavailable):
        await replica.transfers.cancel(call_of(), order.id)
    assert (await replica.row(order)).state is before.state


async def test_a_hold_that_is_recorded_during_the_cancel_is_cancelled_too(replica: Replica) -> None:
    """The pass wins the race for the row with IN_REVIEW; the cancel promised already, and still ends it."""
    replica.screening.faults.down = True
    order = transfer(amount=replica.screening.REVIEW_FROM)
    await replica.create(order)
    replica.screening.faults.down = False
    cancel = replica.ledger.cancel

    async def slow(transfers):  # type: ignore[no-untyped-def]
        outcomes = await cancel(transfers)
        await replica.hurry()
        await replica.recovery.before_ready()
        return outcomes

    replica.ledger.cancel = slow  # type: ignore[method-assign]
    cancelled = await replica.transfers.cancel(call_of(), order.id)
    assert cancelled.state is State.DECLINED
    assert (await replica.row(order)).state is State.DECLINED
    assert replica.ledger.active_holds() == 0
    assert replica.ledger.journals == {}


async def test_cancels_and_posts_at_once_have_one_winner_each(replica: Replica) -> None:
    """Forty transfers are finished and cancelled at the same time: each is paid or cancelled, never both."""
    replica.screening.faults.down = True
    orders = [transfer(amount=10) for _ in range(40)]
    await asyncio.gather(*(replica.create(order) for order in orders))
    replica.screening.faults.down = False
    await replica.hurry()

    async def cancel(order: Transfer) -> bool:
        try:
            return (await replica.transfers.cancel(call_of(), order.id)).state is State.DECLINED
        except TransferFinal:
            return False

    results = await asyncio.gather(replica.recovery.before_ready(), *(cancel(order) for order in orders))
    await replica.hurry()
    await replica.recovery.before_ready()
    for order, cancelled in zip(orders, results[1:], strict=True):
        row = await replica.row(order)
        assert row.state is (State.DECLINED if cancelled else State.COMPLETED)
        assert replica.ledger.journals[order.name] == (0 if cancelled else 1)


async def test_a_foreign_customer_cannot_cancel_or_see(replica: Replica) -> None:
    """Foreign is NOT_FOUND."""
    done = await replica.create(transfer())
    with pytest.raises(TransferNotFound):
        await replica.transfers.get(ANNA, done.id)
    with pytest.raises(TransferNotFound):
        await replica.transfers.cancel(call_of(ANNA), done.id)


async def test_a_customer_cannot_cancel_what_staff_moves_back(replica: Replica) -> None:
    """The payer sees the reversal of the own payment under way; only staff may reverse, so only staff may stop it, and
    the audit tells who did."""
    done = await replica.create(transfer(ANNA, debit_account="accounts/anna", amount=700))
    replica.ledger.faults.down = True
    order = _reversal(done)
    pending = await replica.transfers.reverse(done.id, order, call_of(request_id="back", method=REVERSE))
    replica.ledger.faults.down = False
    assert (await replica.transfers.get(ANNA, pending.id)).id == pending.id
    with pytest.raises(StaffOnly):
        await replica.transfers.cancel(call_of(ANNA), pending.id)
    assert (await replica.transfers.cancel(call_of(), pending.id)).state is State.DECLINED
    rows = await replica.query("SELECT action, subject, resource FROM audit ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("reverse_transfer", "teller", done.name),
        ("cancel_transfer", "teller", pending.name),
    ]


async def test_an_approved_review_consumes_its_hold(replica: Replica) -> None:
    """Approved: the journal is posted with what was held, also when nothing else is left."""
    replica.ledger.balances["accounts/a"] = replica.screening.REVIEW_FROM
    held = await replica.create(transfer(amount=replica.screening.REVIEW_FROM))
    await replica.verdict(held, Verdict.APPROVED)
    await replica.verdict(held, Verdict.REJECTED)  # the first verdict counts
    await replica.recovery.before_ready()
    assert (await replica.row(held)).state is State.COMPLETED
    assert replica.ledger.active_holds() == 0
    assert replica.ledger.balances["accounts/a"] == 0


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (Verdict.REJECTED, errors_pb2.REASON_PAYMENT_DECLINED),
        (Verdict.EXPIRED, errors_pb2.REASON_REVIEW_EXPIRED),
    ],
)
async def test_a_review_that_is_not_approved_gives_its_hold_back(
    replica: Replica, verdict: Verdict, reason: int
) -> None:
    """Rejected or expired: declined with its reason, nothing held, nothing moved."""
    held = await replica.create(transfer(amount=replica.screening.REVIEW_FROM))
    await replica.verdict(held, verdict)
    await replica.recovery.before_ready()
    row = await replica.row(held)
    assert row.state is State.DECLINED
    assert row.refusal is not None
    assert RecordedRefusal(row.refusal).recorded_reason == reason
    assert replica.ledger.active_holds() == 0
    assert replica.ledger.journals == {}


async def test_a_review_whose_posting_is_refused_gives_its_hold_back(replica: Replica) -> None:
    """Approved, but the ledger says no for good: declined with the ledger's reason and nothing held."""
    held = await replica.create(transfer(amount=replica.screening.REVIEW_FROM))
    replica.ledger.outcomes[held.step_key("post")] = Outcome(refusal=StepCancelled("no").to_status())
    await replica.verdict(held, Verdict.APPROVED)
    await replica.recovery.before_ready()
    assert (await replica.row(held)).state is State.DECLINED
    assert replica.ledger.active_holds() == 0


async def test_a_verdict_that_comes_before_the_hold_is_recorded_is_kept(replica: Replica) -> None:
    """Events may be faster than the pass: the verdict waits with the transfer and is carried out."""
    replica.ledger.faults.lose.append("hold")
    order = transfer(amount=replica.screening.REVIEW_FROM)
    assert (await replica.create(order)).state is State.ACCEPTED
    await replica.verdict(order, Verdict.APPROVED)
    for _ in range(2):
        await replica.hurry()
        await replica.recovery.before_ready()
    assert (await replica.row(order)).state is State.COMPLETED
    assert replica.ledger.journals == {order.name: 1}


async def test_a_completed_transfer_is_reversed_once(replica: Replica) -> None:
    """The money is back, both name each other, the same request gives the same answer, another one is refused."""
    done = await replica.create(transfer(amount=700))
    back = await replica.transfers.reverse(done.id, _reversal(done), call_of(request_id="back", method=REVERSE))
    assert (back.state, back.debit_account, back.credit_account) == (State.COMPLETED, "accounts/b", "accounts/a")
    original = await replica.row(done)
    assert (original.state, original.reversed_by, original.version) == (State.REVERSED, back.id, 3)
    again = await replica.transfers.reverse(done.id, _reversal(done), call_of(request_id="back", method=REVERSE))
    assert again == back
    with pytest.raises(RequestIdReused):
        await replica.transfers.reverse(done.id, _reversal(done, fingerprint=b"x" * 32), call_of(request_id="back"))
    with pytest.raises(TransferReversed):
        await replica.transfers.reverse(done.id, _reversal(done, "other"), call_of(request_id="other"))
    assert replica.ledger.balances["accounts/a"] == 1_000_000
    events = await replica.query(f"SELECT subject FROM outbox WHERE aggregate = '{done.name}' ORDER BY version")
    assert events[-1][0] == "florin.transactions.transfer_reversed.v1"
    assert [tuple(row) for row in await replica.query("SELECT action, why FROM audit")] == [
        ("reverse_transfer", "a mistake")
    ]


async def test_a_part_is_moved_back_once_and_never_more_than_was_moved(replica: Replica) -> None:
    """The transfer is REVERSED with the part, and told so; nothing is left to reverse, and too much never moves."""
    done = await replica.create(transfer(amount=700))
    call = call_of(request_id="back", method=REVERSE)
    for wanted, refusal in (
        (_reversal(done, amount=701), ReversalExceeded),
        (_reversal(done, amount=701, currency="USD"), CurrencyMismatch),
    ):
        with pytest.raises(refusal):
            await replica.transfers.reverse(done.id, wanted, call)
    back = await replica.transfers.reverse(done.id, _reversal(done, amount=200, currency="EUR"), call)
    assert (back.state, back.amount) == (State.COMPLETED, 200)
    original = await replica.row(done)
    assert (original.state, original.reversed) == (State.REVERSED, 200)
    with pytest.raises(TransferReversed):
        await replica.transfers.reverse(done.id, _reversal(done, "rest", amount=500), call_of(request_id="rest"))
    assert replica.ledger.balances["accounts/a"] == 1_000_000 - 500
    ((data,),) = await replica.query(
        f"SELECT data FROM outbox WHERE aggregate = '{done.name}' ORDER BY version DESC LIMIT 1"
    )
    assert events_pb2.TransferReversed.FromString(bytes(data)).amount.minor_units == 200


async def test_a_reversal_goes_on_without_its_caller(replica: Replica) -> None:
    """The caller goes away while it is being recorded: its pass is made, and not first by recovery."""
    original = await replica.create(transfer())
    back = _reversal(original)
    caller = asyncio.create_task(replica.transfers.reverse(original.id, back, call_of()))
    for _ in range(3):  # turns of the loop: the transaction is begun, and cannot have ended
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    completed = f"SELECT 1 FROM transfers WHERE id = '{back.id}' AND state = 'COMPLETED'"
    async with asyncio.timeout(5):
        while not await replica.query(completed):
            await asyncio.sleep(0.01)


async def test_reversals_at_once_have_one_winner(replica: Replica) -> None:
    """Eight people reverse the same transfer: one reversal, seven refusals; copies of the winner's request agree."""
    done = await replica.create(transfer(amount=700))

    async def reverse(number: int) -> str:
        request_id = f"back-{number % 4}"
        try:
            made = await replica.transfers.reverse(done.id, _reversal(done, request_id), call_of(request_id=request_id))
        except TransferReversed:
            return ""
        return made.id

    made = [name for name in await asyncio.gather(*(reverse(number) for number in range(8))) if name]
    assert len(set(made)) == 1
    assert len(made) == 2
    assert replica.ledger.balances["accounts/a"] == 1_000_000


async def test_a_reversal_without_funds_is_refused_and_can_be_made_later(replica: Replica) -> None:
    """The payee spent it: the reversal is declined, the original stays COMPLETED, a new request may succeed."""
    done = await replica.create(transfer(amount=700))
    replica.ledger.balances["accounts/b"] = 0
    with pytest.raises(RecordedRefusal) as refused:
        await replica.transfers.reverse(done.id, _reversal(done), call_of())
    assert refused.value.recorded_reason == errors_pb2.REASON_INSUFFICIENT_FUNDS
    assert (await replica.row(done)).state is State.COMPLETED
    replica.ledger.balances["accounts/b"] = 700
    later = await replica.transfers.reverse(done.id, _reversal(done, "later"), call_of())
    assert later.state is State.COMPLETED


async def test_only_what_was_paid_can_be_reversed(replica: Replica) -> None:
    """Pending and declined transfers have nothing to move back, unknown ones are not found."""
    replica.screening.faults.down = True
    pending = await replica.create(transfer())
    with pytest.raises(TransferNotCompleted):
        await replica.transfers.reverse(pending.id, _reversal(pending), call_of())
    with pytest.raises(TransferNotFound):
        await replica.transfers.reverse("gone", replace(_reversal(pending, "gone"), reversal_of="gone"), call_of())


async def test_a_reversal_keeps_its_day_over_a_crash(replica: Replica) -> None:
    """The effective day is part of the intent: recovery posts with it."""
    done = await replica.create(transfer(amount=700))
    day = datetime(2026, 2, 1, tzinfo=UTC)
    replica.ledger.faults.down = True
    pending = await replica.transfers.reverse(done.id, replace(_reversal(done), effective_time=day), call_of())
    assert not pending.is_final
    replica.ledger.faults.down = False
    await replica.hurry()
    await replica.recovery.before_ready()
    row = await replica.row(pending)
    assert (row.state, row.effective_time) == (State.COMPLETED, day)
    assert (await replica.row(done)).state is State.REVERSED
