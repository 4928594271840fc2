"""Identifiers, references and the agreement of the model's numbers with the contract's."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from accounts import model
from accounts.model import Identifier, account_id_in, identifier_in
from florin.accounts.v1 import account_pb2, customer_pb2, journal_pb2


@pytest.mark.parametrize(
    ("enum", "contract", "prefix"),
    [
        (model.AccountType, account_pb2.AccountType, "ACCOUNT_TYPE_"),
        (model.AccountState, account_pb2.AccountState, "ACCOUNT_STATE_"),
        (model.KycState, customer_pb2.Customer.KycState, "KYC_STATE_"),
        (model.JournalKind, journal_pb2.JournalKind, "JOURNAL_KIND_"),
        (model.HoldState, journal_pb2.HoldState, "HOLD_STATE_"),
    ],
)
def test_numbers_are_those_of_the_contract(enum: type[IntEnum], contract: Any, prefix: str) -> None:
    """Rows and messages mean the same by a number."""
    ours = {f"{prefix}{member.name}": member.value for member in enum}
    assert {name: number for name, number in contract.items() if number} == ours


def test_references_are_read_strictly() -> None:
    """What is neither a name nor an identifier stands for nothing."""
    assert account_id_in("accounts/main") == "main"
    assert account_id_in("accounts/") is None
    assert account_id_in("customers/main") is None
    assert account_id_in("accounts/a/b") is None
    assert identifier_in("iban:AT483200000012345864") == Identifier("iban", "AT483200000012345864")
    assert identifier_in("iban:AT493200000012345864") is None
    assert identifier_in("local:0001") == Identifier("local", "0001")
    assert identifier_in("swift:X") is None
