"""What an answer does to a withdrawal in each state, and what identifies what came in."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.transactions.making import NOW, TELLER, transfer
from transactions import rail_model, saga
from transactions.rail_model import Deposit, DepositState, Parties, Reaction, Withdrawal, WithdrawalState
from transactions.rails.port import Answer, Credit, Entry, Verdict
from transactions.saga import Action

WITHDRAWAL = Withdrawal(
    id=str(uuid.UUID(int=7)),
    principal=TELLER,
    request_key=uuid.UUID(int=7),
    fingerprint=b"",
    debit_account="accounts/a",
    currency="EUR",
    amount=1,
    parties=Parties(),
    end_to_end_id="",
    customers=(),
    create_time=NOW,
    update_time=NOW,
    message="m",
)
DEPOSIT = Deposit("demo", "d", "m", "e", 1, b"", "EUR", 5, Parties(debtor_name="Otto"), "", NOW, NOW)
OPEN = (WithdrawalState.BOOKED, WithdrawalState.SENT)
BACK = (WithdrawalState.REJECTED, WithdrawalState.RETURNED, WithdrawalState.SUSPENDED)


def answer(verdict: Verdict, message: str = "", amount: tuple[str, int] | None = None) -> Answer:
    return Answer(message, "p", verdict, "", "", amount)


@pytest.mark.parametrize("state", WithdrawalState)
@pytest.mark.parametrize("verdict", Verdict)
def test_only_the_first_final_answer_moves_money(state: WithdrawalState, verdict: Verdict) -> None:
    """What is open is settled or given back; what has its end is never given back or paid for again."""
    found = rail_model.reaction(replace(WITHDRAWAL, state=state), answer(verdict, "m"))
    moves = {Verdict.SETTLED: Reaction.SETTLE, Verdict.REJECTED: Reaction.GIVE_BACK}.get(verdict)
    assert (found is moves) == (state in OPEN and moves is not None)
    assert found in (Reaction.SETTLE, Reaction.GIVE_BACK) or found is not moves


@pytest.mark.parametrize(
    ("state", "verdict", "reaction"),
    [
        (WithdrawalState.SENT, Verdict.DUPLICATE, Reaction.AMBIGUOUS),
        (WithdrawalState.SENT, Verdict.PENDING, Reaction.NOTE),
        (WithdrawalState.SETTLED, Verdict.REJECTED, Reaction.CONTRADICTS),
        (WithdrawalState.SETTLED, Verdict.SETTLED, Reaction.NONE),
        (WithdrawalState.SETTLED, Verdict.DUPLICATE, Reaction.NONE),
        *((state, Verdict.SETTLED, Reaction.CONTRADICTS) for state in BACK),
        *((state, Verdict.REJECTED, Reaction.NONE) for state in BACK),
    ],
)
def test_what_is_not_final_or_comes_late_is_noted_or_told(
    state: WithdrawalState, verdict: Verdict, reaction: Reaction
) -> None:
    """A rejection as a copy gives nothing back, and what contradicts an end is for a person."""
    assert rail_model.reaction(replace(WITHDRAWAL, state=state), answer(verdict)) is reaction


def test_an_answer_about_another_message_or_nothing_that_was_sent_is_unknown() -> None:
    """The payment is ours; the message is not that which it was sent in, or the amount is another."""
    assert rail_model.reaction(WITHDRAWAL, answer(Verdict.SETTLED, "other")) is Reaction.UNKNOWN
    assert rail_model.reaction(replace(WITHDRAWAL, message=""), answer(Verdict.SETTLED)) is Reaction.UNKNOWN
    for amount in (("EUR", 2), ("USD", 1)):
        assert rail_model.reaction(WITHDRAWAL, answer(Verdict.SETTLED, "m", amount)) is Reaction.UNKNOWN
    assert rail_model.reaction(WITHDRAWAL, answer(Verdict.SETTLED, "m", ("EUR", 1))) is not Reaction.UNKNOWN


@given(st.uuids())
def test_a_payments_id_is_found_again(id_: uuid.UUID) -> None:
    """In the letters that the standard has room for, and back."""
    payment = rail_model.payment_id(str(id_))
    assert len(payment) <= 35
    assert rail_model.withdrawal_id(payment) == str(id_)


@pytest.mark.parametrize("payment", ["", "NOTPROVIDED", "x" * 32, str(uuid.UUID(int=1)), "0" * 31])
def test_what_is_none_of_our_ids_is_none(payment: str) -> None:
    """Also one with the hyphens, which we do not write."""
    assert rail_model.withdrawal_id(payment) == ""


CREDITS = st.builds(
    Credit,
    currency=st.just("EUR"),
    amount=st.integers(1, 10),
    creditor_iban=st.sampled_from(["", "A"]),
    debtor_name=st.text("ab,", max_size=3),
    debtor_iban=st.just(""),
    end_to_end_id=st.text("ab,", max_size=3),
    remittance=st.text("ab,", max_size=3),
)


@given(st.lists(CREDITS, min_size=1, max_size=3), st.lists(CREDITS, min_size=1, max_size=3))
def test_an_entry_is_the_same_when_it_says_the_same(one: list[Credit], other: list[Credit]) -> None:
    """Two entries have one fingerprint exactly when all of their credits are equal and in one order."""
    first, second = Entry("R", tuple(one)), Entry("S", tuple(other))
    same = rail_model.entry_fingerprint(first) == rail_model.entry_fingerprint(second)
    assert same == (one == other)


def test_what_is_booked_to_the_suspense_account_is_not_screened_and_what_is_credited_is() -> None:
    """And nobody becomes the bank by calling themselves so."""
    credit = rail_model.transfer_of_deposit(DEPOSIT, "accounts/s", "accounts/a", (), NOW)
    kept = replace(DEPOSIT, state=DepositState.SUSPENDING)
    suspense = rail_model.transfer_of_deposit(kept, "accounts/s", "accounts/t", (), NOW)
    assert saga.next_action(credit, NOW) is Action.SCREEN
    assert saga.next_action(suspense, NOW) is Action.POST
    assert rail_model.is_banks(credit)
    assert rail_model.is_banks(suspense)
    forged = transfer(rail_model.bank("demo"), suspense.request_id)
    assert not rail_model.is_banks(forged)
    assert saga.next_action(forged, NOW) is Action.SCREEN
