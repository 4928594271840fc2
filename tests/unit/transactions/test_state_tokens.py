"""Tokens of previews: whom and what each is for, and what becomes of those that are made up, too old or overtaken."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from meshkit.cipher import Cipher
from meshkit.errors import DomainError
from meshkit.identity import Principal
from tests.unit.transactions.making import ANNA, NOW, TELLER, transfer
from transactions import errors, state_tokens
from transactions.model import Expected, Fee, StateToken, Transfer
from transactions.state_tokens import StateTokens

KEY = os.urandom(32)
TOKENS = StateTokens(Cipher(KEY), 120)
REQUEST = b"r" * 32
EXPECTED = Expected(7, 50_000)
FEE = Fee(35, "feeSchedules/payment-eur", 3, "accounts/fees")


def with_token(text: str, request: bytes = REQUEST, **changes: Any) -> Transfer:
    """A transfer whose request has a token."""
    return transfer(state_token=StateToken(text, request), **{"principal": ANNA, **changes})


def token(**changes: Any) -> str:
    """What Anna was given for the request."""
    return TOKENS.seal(transfer(**{"principal": ANNA, **changes}), REQUEST, EXPECTED)[0]


GIVEN = token()


def refusal_of(order: Transfer, tokens: StateTokens = TOKENS) -> DomainError:
    """Why a token cannot be used."""
    with pytest.raises(DomainError) as caught:
        tokens.held_to(order)
    return caught.value


@pytest.mark.parametrize("fee", [None, FEE])
@pytest.mark.parametrize("expected", [EXPECTED, Expected(0, -(2**63)), Expected(2**62, 2**63 - 1)])
def test_a_token_brings_back_what_was_seen(fee: Fee | None, expected: Expected) -> None:
    """The payer's account as it was, until the time that was told; nothing of it can be read."""
    text, until = TOKENS.seal(transfer(principal=ANNA, fee=fee), REQUEST, expected)
    assert until == NOW + timedelta(seconds=120)
    made = TOKENS.held_to(with_token(text, fee=fee, create_time=until - timedelta(microseconds=1)))
    assert made.expected == expected
    assert len(text) <= 1024
    late = refusal_of(with_token(text, fee=fee, create_time=until))
    assert isinstance(late, errors.StateTokenExpired) and late.metadata["expire_time"] == until.isoformat()


def test_a_transfer_without_a_token_expects_nothing() -> None:
    """It stays what it is."""
    order = transfer()
    assert TOKENS.held_to(order) is order


@pytest.mark.parametrize(
    "principal",
    [
        Principal("other", ANNA.subject, ANNA.customer, ANNA.scopes),
        Principal(ANNA.tenant, "someone", ANNA.customer, ANNA.scopes),
        Principal(ANNA.tenant, ANNA.subject, "customers/carl", ANNA.scopes),
        Principal(ANNA.tenant, ANNA.subject, None, ANNA.scopes),
        TELLER,
    ],
)
def test_a_token_is_for_its_caller_alone(principal: Principal) -> None:
    """Tenant, subject and customer are all of it."""
    assert refusal_of(with_token(token(), principal=principal)).metadata["why"] == "CALLER"


def test_a_token_is_for_its_request_alone() -> None:
    """Whatever is different in it."""
    assert refusal_of(with_token(token(), request=b"s" * 32)).metadata["why"] == "REQUEST"


@given(st.data())
def test_a_token_that_was_changed_is_forged(data: st.DataObject) -> None:
    """Any letter of it, or its length."""
    at = data.draw(st.integers(0, len(GIVEN) - 2))  # some bits of the last letter stand for nothing
    letter = data.draw(st.sampled_from("AZaz09-_.é\0 ").filter(lambda one: one != GIVEN[at]))
    for changed in (GIVEN[:at] + letter + GIVEN[at + 1 :], GIVEN[:at], GIVEN + letter):
        refusal = refusal_of(with_token(changed))
        assert isinstance(refusal, errors.StateTokenInvalid) and refusal.metadata["why"] == "FORGED"


@pytest.mark.parametrize("text", ["x", "=", "====", "a" * 1024, "null", "W10", "é", "A" * 16, "A" * 24])
def test_what_was_made_up_is_forged(text: str) -> None:
    """No text is an internal error."""
    assert refusal_of(with_token(text)).metadata["why"] == "FORGED"


def test_a_token_outlives_its_key_as_sealed_names_do_and_is_none_of_another_services() -> None:
    """The older key still opens; what was sealed for something else, or by somebody else, is no token."""
    rotated = StateTokens(Cipher(os.urandom(32), KEY), 120)
    assert rotated.held_to(with_token(token())).expected == EXPECTED
    stranger = StateTokens(Cipher(os.urandom(32)), 120)
    assert refusal_of(with_token(token()), stranger).metadata["why"] == "FORGED"


@pytest.mark.parametrize(
    ("before", "now"),
    [(None, FEE), (FEE, None), (FEE, replace(FEE, amount=36)), (FEE, replace(FEE, version=4))],
)
def test_another_fee_is_a_change(before: Fee | None, now: Fee | None) -> None:
    """Also another version of the schedule that comes to the same."""
    refusal = refusal_of(with_token(token(fee=before), fee=now))
    assert isinstance(refusal, errors.FeeChanged) and refusal.metadata["changed"] == "FEE"
    assert refusal.metadata["previewed_minor_units"] == str(before.amount if before else 0)
    assert refusal.metadata["present_version"] == str(now.version if now else 0)


def test_a_request_and_its_preview_have_the_same_fingerprint_and_no_other_has() -> None:
    """validate_only, the token and request_id are not part of what is asked for; all else is."""
    asked = pb.CreateTransferRequest(
        debit_account="accounts/a",
        credit_account="accounts/b",
        amount=money_pb2.Money(currency_code="EUR", minor_units=1000),
    )
    same = pb.CreateTransferRequest(request_id="r", validate_only=True, state_token="t")
    same.MergeFrom(asked)
    assert state_tokens.fingerprint(same) == state_tokens.fingerprint(asked)
    others: list[dict[str, Any]] = [
        {"debit_account": "accounts/c"},
        {"credit_account": "accounts/c"},
        {"amount": money_pb2.Money(minor_units=1001)},
        {"creditor_name": "Nord"},
        {"end_to_end_id": "E"},
        {"remittance": "R"},
        {"transfer_id": "t"},
        {"authorize_only": True},
        {"quote": "quotes/q"},
    ]
    assert len(others) + 4 == len(asked.DESCRIPTOR.fields)  # and valid_for, which needs authorize_only
    for changes in others:
        other = pb.CreateTransferRequest()
        other.CopyFrom(asked)
        other.MergeFrom(pb.CreateTransferRequest(**changes))
        assert state_tokens.fingerprint(other) != state_tokens.fingerprint(asked), changes
