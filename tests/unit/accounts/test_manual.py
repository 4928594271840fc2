"""Journals that the bank posts itself: who may post on what, when they count from, and all of them or none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts import app, errors, journal_errors, ledger, manual, orders, outcomes, posting
from accounts.book import Actor, Book, Leg, Outcome, Post, Posted, Refused, Stored
from accounts.model import AccountState, AccountType, JournalKind
from accounts.orders import Item
from accounts.together import apply_together
from florin.accounts.v1 import ledger_service_pb2
from meshkit.identity import Call, Principal
from tests.unit.accounts.test_ledger import (
    FUNDER,
    NOW,
    STAFF,
    TENANT,
    account,
    bank,
    book,
    one,
    post,
    refusal,
    snapshot,
)

CUSTOMERS = Actor(customer=None, may_fund=False, may_touch_customers=True)


def internal(name: str, posted: int = 0, **changes: Any) -> Any:
    """An account of the bank's own."""
    return account(name, posted, **{"type": AccountType.INTERNAL, "owners": (), **changes})


def entry(number: int, *legs: tuple[str, int], actor: Actor = STAFF, **changes: Any) -> Post:
    """A journal of the bank's own."""
    made = post(number, *legs, actor=actor, kind=JournalKind.MANUAL, origin="manual")
    return replace(made, **changes)


def own() -> Book:
    """Two accounts of the bank's own and one of a customer."""
    return book(internal("x", 100), internal("y"), account("a", 50), bank())


def test_the_banks_own_accounts_need_no_more_than_the_scope_to_post() -> None:
    """Internal, fee and suspense accounts, below zero too; a settlement account may be credited."""
    subject = book(
        internal("x"), account("f", type=AccountType.FEE), account("s", type=AccountType.SUSPENSE), bank(posted=-9)
    )
    posted = one(subject, entry(1, ("x", -3), ("f", -2), ("s", -1), ("bank", 6)))
    assert isinstance(posted, Posted)
    assert [(leg.account, leg.balance_after) for leg in posted.legs] == [("x", -3), ("f", -2), ("s", -1), ("bank", -3)]


@pytest.mark.parametrize("amount", [-5, 5])
def test_a_customers_account_needs_a_scope_of_its_own_on_either_side(amount: int) -> None:
    """Money that leaves it or comes to it past compliance; ledger:fund does not stand for that scope."""
    legs = (("a", amount), ("x", -amount))
    assert refusal(own(), entry(1, *legs)) is journal_errors.JournalCustomerAccount
    assert refusal(own(), entry(2, *legs, actor=FUNDER)) is journal_errors.JournalCustomerAccount
    assert isinstance(one(own(), entry(3, *legs, actor=CUSTOMERS)), Posted)


def test_money_enters_by_who_may_fund_alone() -> None:
    """A settlement account is debited by nobody else, whoever may touch customers' accounts."""
    assert refusal(own(), entry(1, ("bank", -5), ("x", 5), actor=CUSTOMERS)) is errors.AccountTypeWrong
    assert isinstance(one(own(), entry(2, ("bank", -5), ("x", 5), actor=FUNDER)), Posted)


def test_a_customers_account_keeps_its_rules() -> None:
    """Funds, minimum, blocks and states are those of all journals."""
    step = entry(1, ("a", -51), ("x", 51), actor=CUSTOMERS)
    assert refusal(own(), step) is errors.InsufficientFunds
    for change, wanted in (
        ({"minimum_balance": 40}, errors.InsufficientFunds),
        ({"debits_blocked": True}, errors.AccountDebitsBlocked),
        ({"state": AccountState.FROZEN}, errors.AccountFrozen),
        ({"state": AccountState.CLOSED}, errors.AccountClosed),
        ({"state": AccountState.PENDING}, errors.AccountPending),
    ):
        subject = book(internal("x"), account("a", 50, **change))
        assert refusal(subject, entry(2, ("a", -20), ("x", 20), actor=CUSTOMERS)) is wanted


def test_an_account_may_have_several_legs_of_one_side() -> None:
    """Each is an entry with its own balance; both sides in one journal are refused."""
    posted = one(own(), entry(1, ("x", -3), ("x", -4), ("y", 7)))
    assert isinstance(posted, Posted)
    assert [(leg.balance_after, leg.sequence) for leg in posted.legs] == [(97, 1), (93, 2), (7, 1)]
    assert refusal(own(), entry(2, ("x", -3), ("x", 3))) is errors.AccountsIdentical


def test_each_currency_sums_to_zero_by_itself() -> None:
    """Several in one journal; what one lacks the other does not make up for."""
    subject = book(internal("x"), internal("y"), internal("u", currency="USD"), internal("v", currency="USD"))
    legs = [
        Leg(f"accounts/{name}", currency, amount)
        for name, currency, amount in (("x", "EUR", -5), ("y", "EUR", 5), ("u", "USD", 7), ("v", "USD", -7))
    ]
    assert isinstance(one(subject, entry(1, legs=tuple(legs))), Posted)
    for position, amount in ((0, -6), (2, 8)):
        wrong = [*legs]
        wrong[position] = replace(legs[position], amount=amount)
        assert refusal(subject, entry(2 + position, legs=tuple(wrong))) is errors.JournalUnbalanced
    assert refusal(subject, entry(9, legs=(replace(legs[0], currency="USD"), legs[2]))) is errors.CurrencyMismatch


def test_a_journal_counts_from_a_time_within_its_limits() -> None:
    """To the microsecond, and the refusal names both ends."""
    tick = timedelta(microseconds=1)
    legs = (("x", -1), ("y", 1))
    earliest, latest = NOW - manual.BACK_DATING_MAX, NOW + manual.FORWARD_DATING_MAX
    for number, moment in enumerate((earliest, NOW, latest)):
        posted = one(own(), entry(number, *legs, effective_time=moment))
        assert isinstance(posted, Posted)
        assert (posted.effective_time, posted.create_time) == (moment, NOW)
    for moment in (earliest - tick, latest + tick):
        outcome = one(own(), entry(9, *legs, effective_time=moment))
        assert isinstance(outcome, Refused)
        assert isinstance(outcome.refusal, journal_errors.EffectiveTimeOutOfRange)
        assert outcome.refusal.metadata["earliest"] == earliest.isoformat()
        assert outcome.refusal.metadata["latest"] == latest.isoformat()
    payment = post(10, ("x", -1), ("y", 1), actor=FUNDER)
    assert isinstance(one(own(), replace(payment, effective_time=latest + tick)), Posted)


def test_an_expected_version_is_that_of_the_account_before_the_journal() -> None:
    """Whoever read an account posts on what was read, or is told what there is now; other legs may expect nothing."""
    subject = own()
    first = entry(1, ("x", -1), ("x", -1), ("y", 2), expected_versions=(0, None, None))
    assert isinstance(one(subject, first), Posted)
    outcome = one(subject, entry(2, ("x", -1), ("x", -1), ("y", 2), expected_versions=(2, 3, None)))
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.refusal, journal_errors.AccountVersionMismatch)
    assert outcome.refusal.metadata == {"account": "accounts/x", "expected_version": "3", "actual_version": "2"}
    assert isinstance(one(subject, entry(3, ("x", -1), ("y", 1), expected_versions=(2, 1))), Posted)


NAMES = ("x", "y", "a", "b", "bank")
ITEMS = st.lists(
    st.builds(
        lambda number, debit, credit, amount, actor: entry(number, (debit, -amount), (credit, amount), actor=actor),
        st.integers(1, 12),
        st.sampled_from(NAMES),
        st.sampled_from(NAMES),
        st.integers(1, 60),
        st.sampled_from([STAFF, CUSTOMERS, CUSTOMERS, CUSTOMERS]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(ITEMS, ITEMS)
def test_all_are_posted_or_none(before: list[Post], steps: list[Post]) -> None:
    """Whatever stood before: a book that a refusal was in is as it was but for the refusals; asked again, all of it is
    answered as the first time, and changes nothing."""
    subject = book(internal("x"), internal("y"), account("a", 50), account("b", 50), bank())
    ledger.apply(subject, before, NOW)
    alone = book(internal("x"), internal("y"), account("a", 50), account("b", 50), bank())
    ledger.apply(alone, before, NOW)
    subject.fresh.clear()
    accounts, standing = snapshot(subject), dict(subject.outcomes)
    results = apply_together(subject, steps, NOW, outcomes.refusal_reason)
    one_by_one = ledger.apply(alone, steps, NOW)
    if any(isinstance(outcome, Refused) for outcome in one_by_one):
        assert snapshot(subject) == accounts
        assert [outcome for outcome in subject.fresh if isinstance(outcome, Posted)] == []
        fresh = {step.key for step in steps} - {key for _, key in standing}
        assert {outcome.key for outcome in subject.fresh if isinstance(outcome, Refused)} == fresh
        assert len(subject.fresh) == len(fresh)
        for result, by_itself in zip(results, one_by_one, strict=True):
            if isinstance(by_itself, Refused):
                assert isinstance(result, Refused)
                assert type(result.refusal) is type(by_itself.refusal)
    else:
        assert results == one_by_one
        assert snapshot(subject) == snapshot(alone)
    after = snapshot(subject)
    subject.fresh.clear()
    assert apply_together(subject, steps, NOW, outcomes.refusal_reason) == results
    assert (snapshot(subject), subject.fresh) == (after, [])


def test_an_aborted_batch_says_which_item_and_why() -> None:
    """The refused one keeps its own reason; those beside it name it; one that stands already stays."""
    subject = own()
    good, bad = entry(1, ("x", -1), ("y", 1)), entry(2, ("x", -1), ("a", 1))
    standing = one(subject, entry(3, ("x", -1), ("y", 1)))
    results = apply_together(subject, [good, entry(3, ("x", -1), ("y", 1)), bad], NOW, outcomes.refusal_reason)
    assert results[1] is standing
    refusals = [outcome.refusal for outcome in results if isinstance(outcome, Refused)]
    assert [type(one) for one in refusals] == [
        journal_errors.JournalBatchAborted,
        journal_errors.JournalCustomerAccount,
    ]
    assert refusals[0].metadata == {"position": "2", "reason": "JOURNAL_CUSTOMER_ACCOUNT"}


def test_a_stored_refusal_aborts_what_comes_with_it() -> None:
    """Its bytes are all that is known of it."""
    subject = own()
    told = outcomes.to_message(Refused(TENANT, entry(1).key, errors.AccountNotFound("accounts/z")))
    subject.outcomes[TENANT, entry(1).key] = Stored(TENANT, entry(1).key, told.SerializeToString())
    results = apply_together(
        subject, [entry(1, ("x", -1), ("y", 1)), entry(2, ("x", -1), ("y", 1))], NOW, outcomes.refusal_reason
    )
    assert isinstance(results[0], Stored)
    assert isinstance(results[1], Refused)
    assert results[1].refusal.metadata == {"position": "0", "reason": "ACCOUNT_NOT_FOUND"}
    assert outcomes.refusal_reason(Stored(TENANT, "k", outcomes.to_message(posted()).SerializeToString())) == ""


def posted() -> Outcome:
    """A journal that stands."""
    return one(own(), entry(1, ("x", -1), ("y", 1)))


def test_a_group_is_recorded_in_one_moment() -> None:
    """That of the account that is furthest ahead, though its journal comes last: no moment has a part of it."""
    ahead = NOW + timedelta(seconds=2)
    subject = book(internal("x"), internal("y"), internal("z", recorded_time=ahead))
    results = apply_together(
        subject, [entry(1, ("x", -1), ("y", 1)), entry(2, ("y", -1), ("z", 1))], NOW, outcomes.refusal_reason
    )
    assert [outcome.create_time for outcome in results if isinstance(outcome, Posted)] == [ahead, ahead]


def test_a_request_is_the_same_step_alone_and_in_a_batch() -> None:
    """INV-5: by tenant, subject and request_id, whichever method it came by; scopes of the token become rights."""

    def made(method: str, request_id: str = "r", **who: Any) -> Post:
        principal = Principal(**{"tenant": "t", "subject": "s", "customer": None, "scopes": frozenset(), **who})
        call = Call(method, "edge", principal, request_id, b"", 0.0)
        return orders.manual_step(call, [], expected_versions=[None], effective_time=None, reference="", metadata=())

    first = made("JournalService/PostJournal")
    assert made("JournalService/BatchPostJournals") == first
    others = [made("x", "q"), made("x", tenant="u"), made("x", subject="u")]
    assert len({first.key, *(other.key for other in others)}) == 4
    assert first.actor == STAFF
    assert made("x", scopes=frozenset({"journals:customers", "ledger:fund"})).actor == Actor(None, True, True)


async def test_large_journals_of_many_callers_share_no_transaction_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten thousand legs in each, whoever asks for them; a batch of payments never comes to as many."""
    sizes: list[int] = []

    async def apply_steps(_db: object, items: Sequence[Item]) -> list[ledger_service_pb2.StepOutcome]:
        sizes.append(sum(len(item.step.legs) for item in items if isinstance(item.step, Post)))
        return [ledger_service_pb2.StepOutcome()] * len(items)

    monkeypatch.setattr(posting, "apply_steps", apply_steps)
    limits: Any = SimpleNamespace(ledger_batch_max=1000, ledger_queue_max=20_000)
    nobody: Any = SimpleNamespace(any=False)
    batcher = app._ledger(limits, nobody, nobody)
    wide, payment = entry(1, *[("x", -1)] * 50, *[("y", 1)] * 50), entry(2, *[("x", -1), ("y", 1)] * 3)
    worker = asyncio.create_task(batcher.run())
    try:
        await asyncio.gather(*(batcher.submit_all([Item(wide)] * 50) for _ in range(5)))
        await batcher.submit_all([Item(payment)] * 1000)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    assert sizes == [10_000, 10_000, 5_000, 6_000]
