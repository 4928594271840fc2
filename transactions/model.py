"""A transfer as this service knows it; pure, no I/O."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from google.rpc import status_pb2

from meshkit.idempotency import NAMESPACE
from meshkit.identity import Principal

CREATE_METHOD = "/florin.transactions.v1.TransferService/CreateTransfer"
"""The scope of a request_id: an item of a batch or stream is the same request as the single call."""


class State(StrEnum):
    """Where a transfer is in its life."""

    ACCEPTED = "ACCEPTED"
    SCREENED = "SCREENED"
    IN_REVIEW = "IN_REVIEW"
    COMPLETED = "COMPLETED"
    DECLINED = "DECLINED"
    REVERSED = "REVERSED"
    AUTHORIZED = "AUTHORIZED"
    CAPTURED = "CAPTURED"
    VOIDED = "VOIDED"
    EXPIRED = "EXPIRED"


FINAL = frozenset({State.COMPLETED, State.DECLINED, State.REVERSED, State.CAPTURED, State.VOIDED, State.EXPIRED})
RESTING = frozenset({State.IN_REVIEW, State.AUTHORIZED})
"""Not final, and nothing goes on until somebody says so or its time is over."""


class Verdict(StrEnum):
    """What became of a transfer's case, as soon as compliance told."""

    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"


class AccountType(IntEnum):
    """What an account is for; the numbers are those of the contract. One that this version does not know is OTHER."""

    OTHER = 0
    CUSTOMER = 1
    INTERNAL = 2
    SETTLEMENT = 3
    FEE = 4
    SUSPENSE = 5

    @classmethod
    def _missing_(cls, value: object) -> AccountType:  # noqa: ARG003 - the enum gives what it does not know
        return cls.OTHER


@dataclass(frozen=True, slots=True)
class Fee:
    """What a transfer's payer pays beside its amount, in minor units of the payer's currency, and what priced it."""

    amount: int
    schedule: str
    """The schedule's name, "feeSchedules/…"."""
    version: int
    account: str
    """Where it goes to: "accounts/…"."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """How a transfer's amount becomes another currency, by way of the bank's positions."""

    currency: str
    """The payee's."""
    amount: int
    """What the payee gets, in minor units of `currency`."""
    rate: int
    """As it was quoted; see exchange.py."""
    debit_position: str
    """The bank's account in the transfer's own currency, "accounts/…"."""
    credit_position: str
    """The bank's account in `currency`."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the payer's account has to be like when the money is posted, or held: as it was when it was previewed."""

    version: int
    """The sequence of its last entry."""
    available: int


@dataclass(frozen=True, slots=True)
class StateToken:
    """What the caller says was previewed; not opened yet."""

    text: str
    request: bytes
    """The fingerprint of the request that it comes with, without it."""


@dataclass(frozen=True)
class Transfer:
    """An order to move money, and what became of it. Amounts are minor units of `currency`. Without slots, for
    `changed`."""

    id: str
    principal: Principal
    """Who made it; steps are done on their behalf, also after a crash."""
    request_key: uuid.UUID
    request_id: str
    fingerprint: bytes
    debit_account: str
    """As given, then as resolved: "accounts/…"."""
    credit_account: str
    currency: str
    amount: int
    creditor_name: str
    end_to_end_id: str
    remittance: str
    create_time: datetime
    update_time: datetime
    state: State = State.ACCEPTED
    version: int = 1
    verdict: Verdict | None = None
    refusal: status_pb2.Status | None = None
    journal: str = ""
    decision: str = ""
    case: str = ""
    stand_in: bool = False
    reversal_of: str = ""
    """The id of the transfer that this one reverses."""
    reversed_by: str = ""
    customers: tuple[str, ...] = ()
    """Who may see it: the maker, if a customer, and the owners of the debit account."""
    effective_time: datetime | None = None
    expire_time: datetime | None = None
    """When an authorization ends by itself; None where the transfer is none."""
    reversed: int = 0
    """How much of it was moved back."""
    captured: int = 0
    """How much of an authorization its captures moved."""
    voided: bool = False
    """Whether somebody wants an authorization to end."""
    capture_of: str = ""
    """The id of the authorization that this transfer captures."""
    final_capture: bool = False
    """Whether what this capture leaves is given back."""
    fee: Fee | None = None
    """An authorization's is held for its captures; a reversal's is given back. None where no schedule prices it."""
    quote: str = ""
    """The id of the quote that it uses."""
    exchange: Exchange | None = None
    """What the quote makes of it; of a reversal, what undoes that. None where both accounts are in one currency."""
    expected: Expected | None = None
    """Of the payer's account; None where it may have changed meanwhile, as that of most may."""
    state_token: StateToken | None = field(default=None, compare=False)
    """Looked at when it is recorded, and not kept: what it expects is."""
    traceparent: str = field(default="", compare=False)
    """The trace of the call that made it, for what is told of it; not kept, so what recovery does has none."""

    def changed(self, **fields: Any) -> Transfer:
        """As dataclasses.replace, which asks for each of the many fields by its name, for what every payment does."""
        other = object.__new__(Transfer)
        object.__setattr__(other, "__dict__", {**self.__dict__, **fields})
        return other

    @property
    def name(self) -> str:
        """The resource name."""
        return f"transfers/{self.id}"

    @property
    def tenant(self) -> str:
        """The tenant it belongs to."""
        return self.principal.tenant

    @property
    def place(self) -> tuple[str, str]:
        """Tenant and id: what it is told from others by."""
        return self.principal.tenant, self.id

    @property
    def is_final(self) -> bool:
        """Whether its state can no longer change by the saga."""
        return self.state in FINAL

    @property
    def is_authorization(self) -> bool:
        """Whether its amount is held for captures, instead of moved."""
        return self.expire_time is not None

    @property
    def left(self) -> int:
        """How much of an authorization can still be captured."""
        return self.amount - self.captured

    @property
    def fee_amount(self) -> int:
        """The fee, in minor units."""
        return self.fee.amount if self.fee is not None else 0

    @property
    def fee_currency(self) -> str:
        """The currency of who pays the fee, or is given it back."""
        return self.credit_currency if self.reversal_of else self.currency

    @property
    def credit_currency(self) -> str:
        """The payee's currency."""
        return self.exchange.currency if self.exchange is not None else self.currency

    def step_key(self, step: str) -> str:
        """The key of a step, the same whoever does it and however often."""
        return _step_key(self.tenant, self.name, step)

    @property
    def hold_key(self) -> str:
        """The key of the step that placed the hold which its journal takes from; empty where there is none."""
        if self.capture_of:
            return _step_key(self.tenant, f"transfers/{self.capture_of}", "hold")
        return self.step_key("hold") if self.case else ""

    def visible_to(self, principal: Principal) -> bool:
        """Whether a caller may see it."""
        return principal.tenant == self.tenant and (principal.is_staff or (principal.customer or "") in self.customers)


def follower(
    *,
    id_: str,
    principal: Principal,
    request_key: uuid.UUID,
    request_id: str,
    fingerprint: bytes,
    moment: datetime,
    **more: Any,
) -> Transfer:
    """A transfer that takes the rest from the one it belongs to; `more` are fields of its own."""
    return Transfer(
        id=id_,
        principal=principal,
        request_key=request_key,
        request_id=request_id,
        fingerprint=fingerprint,
        debit_account="",
        credit_account="",
        currency="",
        amount=0,
        creditor_name="",
        end_to_end_id="",
        remittance="",
        create_time=moment,
        update_time=moment,
        **more,
    )


def _step_key(tenant: str, transfer: str, step: str) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{tenant}/{transfer}/{step}"))


def request_key(principal: Principal, method: str, request_id: str) -> uuid.UUID:
    """The scope of a request_id as one key: tenant, subject, method, request_id."""
    return uuid.uuid5(NAMESPACE, "\0".join([principal.tenant, principal.subject, method, request_id]))
