"""Authorizations: held, captured in parts, voided, over with their time; whatever dies on the way, money moves once."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from florin.common.v1 import errors_pb2
from meshkit import clock
from meshkit.errors import RecordedRefusal, RequestIdReused, StaffOnly, Unavailable
from tests.integration.transactions.conftest import Replica, call_of
from tests.integration.transactions.deaths import Killed
from tests.integration.transactions.test_recovery import killed_at, restarted
from tests.unit.transactions.making import ANNA, TELLER, transfer
from transactions import store
from transactions.errors import (
    AuthorizationEnded,
    CaptureExceeded,
    CaptureUnderWay,
    CurrencyMismatch,
    TransferFinal,
    TransferNotAuthorized,
    TransferNotFound,
)
from transactions.model import State, Transfer, Verdict, request_key

CAPTURE = "/florin.transactions.v1.TransferService/CaptureTransfer"
POINTS = {
    "captured": ("before-posting", "after-posting", "before-authorizing", "after-authorizing"),
    "voided": ("before-posting", "after-posting", "before-authorizing", "after-authorizing", "after-ending"),
    "expired": ("before-authorizing", "after-authorizing", "after-ending"),
}
"""Of each life, beside those that every pass has."""
VOID = "/florin.transactions.v1.TransferService/VoidTransfer"
_numbers = itertools.count()


def order(amount: int = 1000, seconds: float = 3600.0, **changes: Any) -> Transfer:
    """An authorization that is to be made."""
    return transfer(amount=amount, expire_time=clock.now() + timedelta(seconds=seconds), **changes)


def capturing(of: Transfer, amount: int = 0, *, request_id: str = "", **changes: Any) -> Transfer:
    """A capture of an authorization; of all that is left without an amount."""
    request_id = request_id or f"capture-{next(_numbers)}"
    principal = changes.pop("principal", TELLER)
    key = request_key(principal, CAPTURE, request_id)
    blank = {"debit_account": "", "credit_account": "", "currency": "", "creditor_name": "", "end_to_end_id": ""}
    return transfer(
        principal,
        id=str(key),
        request_key=key,
        request_id=request_id,
        capture_of=of.id,
        amount=amount,
        **{**blank, "remittance": "", **changes},
    )


async def capture(replica: Replica, wanted: Transfer, seconds: float = 5) -> Transfer:
    """CaptureTransfer, with so many seconds for it."""
    call = replace(call_of(wanted.principal, wanted.request_id, CAPTURE), deadline=time.monotonic() + seconds)
    return await replica.transfers.authorizations.capture(wanted, call)


async def void(replica: Replica, of: Transfer, request_id: str = "void") -> Transfer:
    """VoidTransfer."""
    return await replica.transfers.authorizations.void(call_of(TELLER, request_id, VOID), of.id)


async def told(replica: Replica, of: Transfer) -> list[str]:
    """The events of a transfer, without what they have in common."""
    rows = await replica.query(f"SELECT subject FROM outbox WHERE aggregate = '{of.name}' ORDER BY version")
    return [row[0].removeprefix("florin.transactions.transfer_").removesuffix(".v1") for row in rows]


async def test_an_authorization_holds_and_its_captures_move(replica: Replica) -> None:
    """Parts as often as something is left; what the last one leaves is given back. Each change has its event."""
    made = await replica.create(order(1000))
    assert made.state is State.AUTHORIZED
    assert (replica.ledger.available("accounts/a"), replica.ledger.balances["accounts/b"]) == (999_000, 0)
    first = await capture(replica, capturing(made, 300))
    assert (first.state, first.amount, first.final_capture) == (State.COMPLETED, 300, False)
    assert (await replica.row(made)).captured == 300
    second = await capture(replica, capturing(made, 500, final_capture=True))
    assert second.final_capture
    row = await replica.row(made)
    assert (row.state, row.captured) == (State.CAPTURED, 800)
    assert (replica.ledger.balances["accounts/a"], replica.ledger.balances["accounts/b"]) == (999_200, 800)
    assert replica.ledger.active_holds() == 0
    assert replica.ledger.journals == {first.name: 1, second.name: 1}
    assert await told(replica, made) == ["accepted", "authorized", "captured", "captured"]
    assert await told(replica, first) == ["accepted", "completed"]
    with pytest.raises(AuthorizationEnded):
        await capture(replica, capturing(made, 1))


async def test_without_an_amount_all_that_is_left_is_captured(replica: Replica) -> None:
    """And that ends the authorization, whatever `final` says."""
    made = await replica.create(order(1000))
    await capture(replica, capturing(made, 1))
    rest = await capture(replica, capturing(made))
    assert (rest.amount, rest.final_capture) == (999, True)
    assert (await replica.row(made)).state is State.CAPTURED


async def test_a_capture_is_done_once_and_its_request_id_means_one_thing(replica: Replica) -> None:
    """Fifty copies at once move one amount; another payload under the key is refused."""
    made = await replica.create(order(1000))
    wanted = capturing(made, 100, request_id="once")
    answers = await asyncio.gather(*(capture(replica, wanted) for _ in range(50)))
    assert {answer.name for answer in answers} == {wanted.name}
    assert replica.ledger.journals == {wanted.name: 1}
    with pytest.raises(RequestIdReused):
        await capture(replica, capturing(made, 200, request_id="once", fingerprint=b"x" * 32))


async def test_captures_at_once_go_one_after_the_other_and_never_take_too_much(replica: Replica) -> None:
    """Thirty of 100 from 1000: ten move, the others are told what is left, or that it has ended."""
    made = await replica.create(order(1000))
    captures = (capture(replica, capturing(made, 100), seconds=60) for _ in range(30))
    results = await asyncio.gather(*captures, return_exceptions=True)
    kinds = Counter(type(result).__name__ for result in results)
    assert kinds["Transfer"] == 10
    assert set(kinds) <= {"Transfer", "AuthorizationEnded", "CaptureExceeded"}
    assert replica.ledger.balances["accounts/b"] == 1000
    assert (await replica.row(made)).state is State.CAPTURED


@pytest.mark.parametrize(
    ("wanted", "refusal"),
    [
        ({"amount": 1001}, CaptureExceeded),
        ({"amount": 1, "currency": "USD"}, CurrencyMismatch),
        ({"amount": 1001, "currency": "USD"}, CurrencyMismatch),
    ],
)
async def test_what_cannot_be_captured_is_refused_and_leaves_nothing(
    replica: Replica, wanted: dict[str, Any], refusal: type[Exception]
) -> None:
    """In the documented order; the authorization stands as before."""
    made = await replica.create(order(1000))
    with pytest.raises(refusal):
        await capture(replica, capturing(made, **wanted))
    assert await replica.row(made) == made


async def test_only_what_is_authorized_is_captured_or_voided(replica: Replica) -> None:
    """Neither a payment, nor what is in review or was declined."""
    paid = await replica.create(transfer())
    review = await replica.create(order(replica.screening.REVIEW_FROM))
    poor = order(1000, debit_account="accounts/poor")
    with pytest.raises(RecordedRefusal):
        await replica.create(poor)
    for other in (paid, review, await replica.row(poor)):
        with pytest.raises(TransferNotAuthorized):
            await capture(replica, capturing(other, 1))
        with pytest.raises(TransferNotAuthorized):
            await void(replica, other, f"void-{other.id}")


async def test_another_customer_sees_nothing_and_the_payer_touches_nothing_of_staffs(replica: Replica) -> None:
    """What a teller authorized on a customer's account is not the customer's to spend or to end; the own one is."""
    made = await replica.create(order(1000))
    with pytest.raises(TransferNotFound):
        await capture(replica, capturing(made, 1, principal=ANNA))
    annas = await replica.create(order(1000, debit_account="accounts/anna"))
    with pytest.raises(StaffOnly):
        await capture(replica, capturing(annas, 1, principal=ANNA))
    with pytest.raises(StaffOnly):
        await replica.transfers.authorizations.void(call_of(ANNA, "v", VOID), annas.id)
    own = await replica.create(
        transfer(ANNA, debit_account="accounts/anna", expire_time=clock.now() + timedelta(hours=1))
    )
    assert (await capture(replica, capturing(own, 1, principal=ANNA))).state is State.COMPLETED
    assert (await replica.transfers.authorizations.void(call_of(ANNA, "w", VOID), own.id)).state is State.CAPTURED


async def test_a_void_gives_back_what_is_left(replica: Replica) -> None:
    """VOIDED where nothing was captured, CAPTURED with the part that was; again it changes nothing; it is audited."""
    whole, part = await replica.create(order(1000)), await replica.create(order(1000))
    await capture(replica, capturing(part, 400))
    assert (await void(replica, whole, "one")).state is State.VOIDED
    ended = await void(replica, part, "two")
    assert (ended.state, ended.captured) == (State.CAPTURED, 400)
    assert replica.ledger.active_holds() == 0
    assert await void(replica, part, "two") == ended
    assert await void(replica, part, "three") == ended
    assert await told(replica, whole) == ["accepted", "authorized", "voided"]
    audited = await replica.query("SELECT resource FROM audit WHERE action = 'void_transfer' ORDER BY 1")
    assert [row[0] for row in audited] == sorted([whole.name, part.name])
    with pytest.raises(AuthorizationEnded):
        await capture(replica, capturing(whole, 1))
    with pytest.raises(TransferFinal):
        await replica.transfers.cancel(call_of(), part.id)


async def test_an_authorization_ends_by_itself(replica: Replica) -> None:
    """When its time is over recovery gives back what is left; captures are refused from that moment on."""
    whole, part = await replica.create(order(1000, 0.6)), await replica.create(order(1000, 0.6))
    await capture(replica, capturing(part, 400))
    await asyncio.sleep(0.7)  # what is waited for is the time itself
    with pytest.raises(AuthorizationEnded):
        await capture(replica, capturing(part, 1))
    await replica.recovery.before_ready()
    assert (await replica.row(whole)).state is State.EXPIRED
    assert (await replica.row(part)).state is State.CAPTURED
    assert replica.ledger.active_holds() == 0
    assert await told(replica, whole) == ["accepted", "authorized", "expired"]


async def test_a_review_comes_before_the_authorization(replica: Replica) -> None:
    """Approved it is AUTHORIZED with the hold that it has; rejected it is declined."""
    amount = replica.screening.REVIEW_FROM
    approved, rejected = await replica.create(order(amount)), await replica.create(order(amount))
    assert approved.state is State.IN_REVIEW
    await replica.verdict(approved, Verdict.APPROVED)
    await replica.verdict(rejected, Verdict.REJECTED)
    await replica.recovery.before_ready()
    assert (await replica.row(approved)).state is State.AUTHORIZED
    assert (await replica.row(rejected)).state is State.DECLINED
    assert replica.ledger.active_holds() == 1
    assert (await capture(replica, capturing(approved))).state is State.COMPLETED


@pytest.mark.parametrize("lost", ["hold", "post", "release"])
async def test_an_answer_that_is_lost_changes_nothing(replica: Replica, lost: str) -> None:
    """The step was done; asked again it is the same: one hold, one journal, one end."""
    replica.ledger.faults.lose.append(lost)
    made = await replica.create(order(1000))
    if made.state is not State.AUTHORIZED:
        await replica.hurry()
        await replica.recovery.before_ready()
    assert (await replica.row(made)).state is State.AUTHORIZED
    wanted = capturing(made, 300)
    answer = await capture(replica, wanted)
    if answer.state is not State.COMPLETED:
        await replica.hurry()
        await replica.recovery.before_ready()
    assert (await replica.row(wanted)).state is State.COMPLETED
    try:
        ended = await void(replica, made)
    except Unavailable:
        ended = await void(replica, made)
    assert (ended.state, ended.captured) == (State.CAPTURED, 300)
    assert replica.ledger.journals == {wanted.name: 1}
    assert replica.ledger.active_holds() == 0
    assert (replica.ledger.balances["accounts/a"], replica.ledger.balances["accounts/b"]) == (999_700, 300)


async def test_a_capture_that_was_posted_counts_though_the_void_is_first_to_write(replica: Replica) -> None:
    """Its answer was lost, the void released the rest: the authorization ends as CAPTURED with it, not as VOIDED."""
    made = await replica.create(order(1000))
    replica.ledger.faults.lose.append("post")
    wanted = capturing(made, 300)
    assert (await capture(replica, wanted)).state is State.ACCEPTED
    ended = await void(replica, made)
    assert (ended.state, ended.captured) == (State.CAPTURED, 300)
    assert (await replica.row(wanted)).state is State.COMPLETED


async def test_a_capture_that_comes_after_the_release_is_declined(replica: Replica) -> None:
    """It was recorded before the void, and posts after it: AUTHORIZATION_ENDED, and nothing moved."""
    made = await replica.create(order(1000))
    replica.ledger.faults.down = True
    wanted = capturing(made, 300)
    assert (await capture(replica, wanted)).state is State.ACCEPTED
    with pytest.raises(Unavailable):
        await void(replica, made)
    replica.ledger.faults.down = False
    ended = await void(replica, made)
    assert ended.state is State.VOIDED
    row = await replica.row(wanted)
    assert row.state is State.DECLINED
    with pytest.raises(RecordedRefusal) as refused:
        await capture(replica, wanted)
    assert refused.value.recorded_reason == errors_pb2.REASON_AUTHORIZATION_ENDED
    assert replica.ledger.balances["accounts/b"] == 0


async def test_while_a_capture_hangs_the_next_one_is_told_so(replica: Replica) -> None:
    """CAPTURE_UNDER_WAY, shortly before the caller's deadline; later it is captured."""
    made = await replica.create(order(1000))
    replica.ledger.faults.down = True
    assert (await capture(replica, capturing(made, 300))).state is State.ACCEPTED
    with pytest.raises(CaptureUnderWay):
        await capture(replica, capturing(made, 200))
    replica.ledger.faults.down = False
    assert (await capture(replica, capturing(made, 200))).state is State.COMPLETED
    assert (await replica.row(made)).captured == 500


async def test_captures_and_voids_at_once_agree(replica: Replica) -> None:
    """Twenty authorizations, each captured and voided at the same moment: what the ledger moved is what is told."""
    made = [await replica.create(order(100)) for _ in range(20)]
    wanted = [capturing(one, 40) for one in made]
    results = await asyncio.gather(
        *(capture(replica, one) for one in wanted),
        *(void(replica, one, f"void-{one.id}") for one in made),
        return_exceptions=True,
    )
    assert all(isinstance(result, Transfer | AuthorizationEnded | RecordedRefusal) for result in results)
    await replica.hurry()
    await replica.recovery.before_ready()
    for one, taken in zip(made, wanted, strict=True):
        row = await replica.row(one)
        moved = 40 * replica.ledger.journals[taken.name]
        assert (row.captured, row.state) == (moved, State.CAPTURED if moved else State.VOIDED)
    assert replica.ledger.active_holds() == 0


async def test_a_cancel_that_meets_a_hold_under_way_ends_it(replica: Replica) -> None:
    """Cancelled while it was to be authorized: nothing stays held, whoever was first."""
    replica.screening.faults.down = True
    wanted = order(1000)
    await replica.create(wanted)
    replica.screening.faults.down = False
    cancel = replica.ledger.cancel

    async def slow(transfers: Any) -> Any:
        outcomes = await cancel(transfers)
        await replica.hurry()
        await replica.recovery.before_ready()
        return outcomes

    replica.ledger.cancel = slow  # type: ignore[method-assign]
    with pytest.raises(TransferFinal):
        await replica.transfers.cancel(call_of(), wanted.id)
    assert (await replica.row(wanted)).state is State.VOIDED
    assert replica.ledger.active_holds() == 0


async def test_a_cancel_that_gets_half_way_still_ends_the_authorization(replica: Replica) -> None:
    """A pass authorizes it meanwhile, and accounts is away after the first release: it is noted that it is to end."""
    replica.screening.faults.down = True
    wanted = order(1000)
    await replica.create(wanted)
    replica.screening.faults.down = False
    release, calls = replica.ledger.release, Counter[str]()

    async def once(transfers: Any) -> Any:
        calls["release"] += 1
        if calls["release"] > 1:
            raise Unavailable("accounts")
        await replica.passes.advance(transfers)  # the pass that is faster
        return await release(transfers)

    replica.ledger.release = once  # type: ignore[method-assign]
    with suppress(Unavailable, TransferFinal):
        await replica.transfers.cancel(call_of(), wanted.id)
    replica.ledger.release = release  # type: ignore[method-assign]
    await _recovered(replica)
    assert (await replica.row(wanted)).state is State.VOIDED
    assert replica.ledger.active_holds() == 0


@pytest.mark.parametrize(
    ("verdict", "state"),
    [(Verdict.APPROVED, State.AUTHORIZED), (Verdict.REJECTED, State.VOIDED), (Verdict.EXPIRED, State.VOIDED)],
)
async def test_a_verdict_that_comes_after_a_stand_in_authorization_counts(
    replica: Replica, verdict: Verdict, state: State
) -> None:
    """Compliance wanted a review, its answer was lost, a stand-in decision let it stand: the officer's no ends it."""
    made = await replica.create(order(1000))
    await replica.verdict(made, verdict)
    await replica.recovery.before_ready()
    assert (await replica.row(made)).state is state
    assert replica.ledger.active_holds() == (1 if state is State.AUTHORIZED else 0)


async def test_a_review_that_takes_longer_than_the_authorization_may_stand_declines_it(replica: Replica) -> None:
    """Its hold ended with its time; it does not wait for a verdict that could do nothing."""
    held = await replica.create(order(replica.screening.REVIEW_FROM, 0.4))
    assert held.state is State.IN_REVIEW
    await asyncio.sleep(0.5)  # what is waited for is the time itself
    await replica.recovery.before_ready()
    row = await replica.row(held)
    assert row.state is State.DECLINED
    assert row.refusal is not None
    assert RecordedRefusal(row.refusal).recorded_reason == errors_pb2.REASON_AUTHORIZATION_ENDED
    assert replica.ledger.active_holds() == 0


async def test_a_customer_cannot_stop_what_staff_captures(replica: Replica) -> None:
    """It is on the own account, and under way; who asked for it may stop it, or staff."""
    made = await replica.create(order(1000, debit_account="accounts/anna"))
    replica.ledger.faults.down = True
    taken = capturing(made, 300)
    await capture(replica, taken)
    replica.ledger.faults.down = False
    with pytest.raises(StaffOnly):
        await replica.transfers.cancel(call_of(ANNA), taken.id)
    assert (await replica.transfers.cancel(call_of(), taken.id)).state is State.DECLINED


async def test_a_hold_that_captures_used_up_against_their_word_ends_the_authorization(replica: Replica) -> None:
    """Accounts says consumed where something should be left: it is logged, and does not stay open for ever."""
    made = await replica.create(order(1000))
    await capture(replica, capturing(made, 300))
    account, _, _ = replica.ledger.holds[made.step_key("hold")]
    replica.ledger.holds[made.step_key("hold")] = (account, 700, "consumed")
    assert (await void(replica, made)).state is State.CAPTURED


async def test_no_more_than_one_capture_of_an_authorization_can_be_under_way(replica: Replica) -> None:
    """Also the database would refuse a second one."""
    made = await replica.create(order(1000))
    replica.ledger.faults.down = True
    await capture(replica, capturing(made, 300))
    second = capturing(made, 200, debit_account="accounts/a", credit_account="accounts/b", currency="EUR")
    inserted = await replica.db.run(
        made.tenant, lambda conn: store.insert_intents(conn, replica.db.cipher, [second], 60)
    )
    assert inserted == set()


@pytest.mark.parametrize(
    ("life", "point"),
    [(life, point) for life, points in POINTS.items() for point in (*points, "before-outcome", "after-outcome")],
)
async def test_a_crash_at_any_step_of_an_authorization_ends_in_one_effect(
    replica: Replica, life: str, point: str
) -> None:
    """Killed while it is authorized, captured or ended: after recovery it is where it would have been, told once."""
    wanted = order(1000, 0.2 if life == "expired" else 3600)
    hits: list[str] = []
    with killed_at(point) as hit, suppress(Killed):
        (recorded,) = await replica.transfers.orders._record_intents([wanted])
        await replica.passes.advance([recorded])  # type: ignore[list-item]
    hits += hit
    await _recovered(replica)
    taken = capturing(wanted, 300)
    if life != "expired":
        with killed_at(point) as hit, suppress(Killed):
            recorded = await replica.db.run(
                wanted.tenant, lambda conn: replica.transfers.authorizations._record(conn, taken)
            )
            await replica.passes.advance([recorded])
        hits += hit
        await _recovered(replica)
        assert (await replica.row(taken)).state is State.COMPLETED
    if life == "voided":
        with killed_at(point) as hit, suppress(Killed):
            await void(replica, wanted)
        hits += hit
        await _recovered(replica)
    elif life == "expired":
        await asyncio.sleep(0.25)  # what is waited for is the time itself
        with killed_at(point) as hit, suppress(Killed):
            await replica.recovery.before_ready()
        hits += hit
        await _recovered(replica)
    assert hits, "nobody was killed"
    row = await replica.row(wanted)
    moved = 300 if life != "expired" else 0
    expected = {"captured": State.AUTHORIZED, "voided": State.CAPTURED, "expired": State.EXPIRED}[life]
    assert (row.state, row.captured) == (expected, moved)
    assert replica.ledger.balances["accounts/b"] == moved
    assert replica.ledger.active_holds() == (1 if life == "captured" else 0)
    versions = await replica.query("SELECT aggregate, count(*), max(version) FROM outbox GROUP BY 1")
    assert all(count == newest for _, count, newest in versions)


async def _recovered(replica: Replica) -> None:
    """The process that comes after a crash has finished what it found."""
    await replica.hurry()
    await restarted(replica).recovery.before_ready()
