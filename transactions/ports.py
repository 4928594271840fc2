"""What the operations need from other services, as Protocols that clients.py and the tests' fakes fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from google.rpc import status_pb2

from florin.compliance.v1 import decision_pb2
from transactions.model import AccountType, Expected, Transfer


@dataclass(frozen=True, slots=True)
class Account:
    """What does not change of an account, and its owners."""

    name: str
    currency: str
    customers: tuple[str, ...]
    type: AccountType


class Decision(StrEnum):
    """Compliance's answer."""

    ALLOW = "ALLOW"
    DECLINE = "DECLINE"
    REVIEW = "REVIEW"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step came to; the same for the same key, however often it is asked for."""

    refusal: status_pb2.Status | None = None
    is_frozen: bool = False
    """Whether it was refused since the ledger is frozen: it was not done, and may be later."""
    decision: Decision | None = None
    trace: decision_pb2.DecisionTrace | None = None
    """Why, where nothing was decided for good."""
    decision_name: str = ""
    case: str = ""
    hold: str = ""
    journal: str = ""
    accounts: tuple[str, ...] = ()
    customers: tuple[str, ...] = ()
    create_time: datetime | None = None
    effective_time: datetime | None = None
    balances_after: tuple[int, ...] = ()
    expected: Expected | None = None
    """The payer's account before it; where nothing was done."""
    limit_refusal: status_pb2.Status | None = None
    """That a limit is exceeded, whatever else was decided; where nothing was decided for good."""


class Ledger(Protocol):
    """What transactions needs from accounts. Each call raises Unavailable when the answer is unknown."""

    async def resolve(self, references: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Account]:
        """The accounts behind (tenant, reference); those that do not exist are missing."""

    async def describe(self, tenant: str, account: str) -> tuple[str, Sequence[str]]:
        """The IBAN of an account, empty where it has none, and its owners' names: what another bank is told."""

    async def post(self, transfers: Sequence[Transfer], *, validate_only: bool = False) -> list[Outcome]:
        """Posts each transfer's journal."""

    async def hold(self, transfers: Sequence[Transfer]) -> list[Outcome]:
        """Holds each transfer's amount and fee."""

    async def release(self, transfers: Sequence[Transfer]) -> list[Outcome]:
        """Gives each transfer's hold back."""

    async def cancel(self, transfers: Sequence[Transfer]) -> list[Outcome]:
        """Makes sure that each transfer is never posted, or tells that it was."""


class Screening(Protocol):
    """What transactions needs from compliance."""

    async def screen(
        self, transfers: Sequence[tuple[Transfer, Account, Account]], *, validate_only: bool = False
    ) -> list[Outcome]:
        """Decides about each transfer."""
