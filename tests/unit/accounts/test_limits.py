"""Blocked sides and minimum balances in the pure ledger, and who may raise an overdraft limit alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts import errors, ledger
from accounts.book import Book, Held, Post, Posted, Refused, Release
from accounts.model import HoldState, JournalKind
from accounts.overdrafts import ChangeState, OverdraftChange, needs_second_person
from tests.unit.accounts.test_ledger import FUNDER, NOW, TENANT, account, bank, book, key, one, place, post, refusal


def blocked(debits: bool = False, credits_: bool = False) -> Book:
    """An account "a" with 100, of which 60 are held under the key 1, whose sides are blocked afterwards."""
    subject = book(account("a", 100), account("b", 100), bank())
    assert isinstance(one(subject, place(1, "a", 60)), Held)
    mine = subject.accounts[TENANT, "a"]
    mine.debits_blocked, mine.credits_blocked = debits, credits_
    return subject


def test_blocked_debits_stop_journals_and_holds_and_leave_credits() -> None:
    """Nothing takes from the account any more; money still comes, also from the bank."""
    subject = blocked(debits=True)
    assert refusal(subject, post(2, ("a", -1), ("b", 1))) is errors.AccountDebitsBlocked
    assert refusal(subject, place(3, "a", 1)) is errors.AccountDebitsBlocked
    assert refusal(subject, post(4, ("a", -1), ("b", 1), kind=JournalKind.REVERSAL)) is errors.AccountDebitsBlocked
    assert isinstance(one(subject, post(5, ("b", -1), ("a", 1))), Posted)
    assert isinstance(one(subject, post(6, ("bank", -1), ("a", 1), actor=FUNDER, kind=JournalKind.FUNDING)), Posted)


def test_blocked_credits_stop_funding_and_reversals_and_leave_debits() -> None:
    """Nothing comes to the account any more; what stands there can go, and be held."""
    subject = blocked(credits_=True)
    funding = post(2, ("bank", -1), ("a", 1), actor=FUNDER, kind=JournalKind.FUNDING)
    assert refusal(subject, funding) is errors.AccountCreditsBlocked
    assert refusal(subject, post(3, ("b", -1), ("a", 1))) is errors.AccountCreditsBlocked
    assert refusal(subject, post(4, ("b", -1), ("a", 1), kind=JournalKind.REVERSAL)) is errors.AccountCreditsBlocked
    assert isinstance(one(subject, post(5, ("a", -1), ("b", 1))), Posted)
    assert isinstance(one(subject, place(6, "a", 1)), Held)


def capture(number: int, *legs: tuple[str, int], **values: Any) -> Post:
    """A journal that takes from the hold of an authorization, and so has an origin of its own."""
    return post(number, *legs, hold=1, origin="transfers/capture", **values)


@pytest.mark.parametrize("keep_hold", [True, False])
def test_what_was_held_before_debits_were_blocked_is_captured_and_no_more(keep_hold: bool) -> None:
    """A hold of an authorization was a promise: what it keeps back goes, in parts or whole, and nothing beside it."""
    subject = blocked(debits=True)
    more = capture(2, ("a", -61), ("b", 61), keep_hold=keep_hold)
    assert refusal(subject, more) is (errors.HoldExceeded if keep_hold else errors.AccountDebitsBlocked)
    twice = capture(3, ("a", -40), ("a", -40), ("b", 80))
    assert refusal(subject, twice) is errors.AccountDebitsBlocked
    assert isinstance(one(subject, capture(4, ("a", -25), ("b", 25), keep_hold=True)), Posted)
    beyond = capture(5, ("a", -36), ("b", 36))
    assert refusal(subject, beyond) is errors.AccountDebitsBlocked
    assert isinstance(one(subject, capture(6, ("a", -35), ("b", 35), keep_hold=keep_hold)), Posted)
    assert (subject.accounts[TENANT, "a"].posted, subject.accounts[TENANT, "a"].held) == (40, 0)


def test_what_was_held_for_a_review_is_not_paid_once_debits_are_blocked() -> None:
    """The payment's own hold promised nothing to anybody; it is given back."""
    subject = blocked(debits=True)
    assert refusal(subject, post(2, ("a", -60), ("b", 60), hold=1)) is errors.AccountDebitsBlocked
    assert isinstance(one(subject, Release(TENANT, key(1))), Held)
    assert (subject.accounts[TENANT, "a"].posted, subject.accounts[TENANT, "a"].held) == (100, 0)


def test_a_hold_on_one_account_promises_nothing_of_another() -> None:
    """A journal may debit several accounts, and consumes a hold of one."""
    subject = blocked(debits=True)
    subject.accounts[TENANT, "b"].debits_blocked = True
    both = capture(2, ("a", -10), ("b", -10), ("bank", 20))
    outcome = one(subject, both)
    assert isinstance(outcome, Refused)
    assert "accounts/b" in str(outcome.refusal)


def test_a_blocked_account_gives_holds_back() -> None:
    """Releasing and expiring move nothing: no block stops them."""
    subject = blocked(debits=True, credits_=True)
    outcome = one(subject, Release(TENANT, key(1)))
    assert isinstance(outcome, Held)
    assert (outcome.hold.state, subject.accounts[TENANT, "a"].held) == (HoldState.RELEASED, 0)


@pytest.mark.parametrize(("amount", "expected"), [(70, Posted), (71, Refused)])
def test_a_debit_leaves_the_minimum(amount: int, expected: type) -> None:
    """INV-3: what is available ends at the minimum, and the refusal says what is available and what was asked for."""
    subject = book(account("a", 100, minimum_balance=30), account("b"))
    outcome = one(subject, post(1, ("a", -amount), ("b", amount)))
    assert isinstance(outcome, expected)
    if isinstance(outcome, Refused):
        assert isinstance(outcome.refusal, errors.InsufficientFunds)
        assert outcome.refusal.metadata["available_minor_units"] == "70"
        assert outcome.refusal.metadata["requested_minor_units"] == "71"


def test_holds_and_their_captures_leave_the_minimum() -> None:
    """A hold counts at once, and a capture takes what it kept back, to the last cent above the minimum."""
    subject = book(account("a", 100, minimum_balance=30), account("b"))
    assert refusal(subject, place(1, "a", 71)) is errors.InsufficientFunds
    assert isinstance(one(subject, place(2, "a", 70)), Held)
    assert refusal(subject, post(3, ("a", -1), ("b", 1))) is errors.InsufficientFunds
    assert refusal(subject, post(4, ("a", -71), ("b", 71), hold=2)) is errors.InsufficientFunds
    assert isinstance(one(subject, post(5, ("a", -70), ("b", 70), hold=2)), Posted)
    assert subject.accounts[TENANT, "a"].available == 0


def test_the_refusal_of_a_block_does_not_say_why() -> None:
    """What staff wrote stays with staff: the ledger does not even read it."""
    outcome = one(blocked(debits=True), post(2, ("a", -1), ("b", 1)))
    assert isinstance(outcome, Refused)
    assert outcome.refusal.metadata == {"account": "accounts/a"}


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 80), st.booleans()), max_size=20),
    st.booleans(),
    st.booleans(),
)
def test_a_blocked_side_never_moves(moves: list[tuple[str, int, bool]], debits: bool, credits_: bool) -> None:
    """Under any journals and holds: blocked debits never lower posted less held, blocked credits never raise posted."""
    subject = book(account("a", 100, debits_blocked=debits, credits_blocked=credits_), account("b", 100))
    for number, (payer, amount, hold) in enumerate(moves):
        mine = subject.accounts[TENANT, "a"]
        before = (mine.posted, mine.posted - mine.held)
        payee = "b" if payer == "a" else "a"
        step: Post | object = place(number, payer, amount) if hold else post(number, (payer, -amount), (payee, amount))
        ledger.apply(subject, [step], NOW)  # type: ignore[list-item]
        assert not debits or mine.posted - mine.held >= before[1]
        assert not credits_ or mine.posted <= before[0]


@pytest.mark.parametrize(
    ("present", "wanted", "threshold", "expected"),
    [
        (0, 100, None, False),
        (0, 100, 100, False),
        (0, 101, 100, True),
        (500, 400, 100, False),
        (500, 500, 100, False),
        (500, 501, 100, True),
        (0, 1, 0, True),
    ],
)
def test_a_raise_above_the_threshold_needs_a_second_person(
    present: int, wanted: int, threshold: int | None, expected: bool
) -> None:
    """Lowering does not, nor does what stays at the threshold, nor anything where there is none."""
    assert needs_second_person(present, wanted, threshold) is expected


def test_a_change_is_over_at_its_time_whoever_looks() -> None:
    """From that moment on it has expired, also before the worker wrote it down; one that ended stays as it ended."""
    change = OverdraftChange(
        tenant=TENANT,
        id="c",
        account="a",
        state=ChangeState.PENDING,
        currency="EUR",
        previous_limit=0,
        new_limit=1,
        requested_by="teller",
        decided_by="",
        reason="",
        version=1,
        create_time=NOW,
        expire_time=NOW + timedelta(hours=1),
        end_time=None,
    )
    assert change.state_at(NOW + timedelta(minutes=59)) is ChangeState.PENDING
    assert change.state_at(NOW + timedelta(hours=1)) is ChangeState.EXPIRED
    applied = replace(change, state=ChangeState.APPLIED)
    assert applied.state_at(NOW + timedelta(hours=2)) is ChangeState.APPLIED
