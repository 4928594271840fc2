"""A transfer as this service knows it; pure, no I/O."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from google.rpc import status_pb2

from meshkit.idempotency import NAMESPACE
from meshkit.identity import Principal

CREATE_METHOD = "/florin.transactions.v1.TransferService/CreateTransfer"
"""The scope of a request_id: an item of a batch is the same request as the single call."""


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


def _step_key(tenant: str, transfer: str, step: str) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{tenant}/{transfer}/{step}"))


def request_key(principal: Principal, method: str, request_id: str) -> uuid.UUID:
    """The scope of a request_id as one key: tenant, subject, method, request_id."""
    return uuid.uuid5(NAMESPACE, "\0".join([principal.tenant, principal.subject, method, request_id]))
