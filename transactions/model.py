"""A transfer as this service knows it; pure, no I/O."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

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


FINAL = frozenset({State.COMPLETED, State.DECLINED, State.REVERSED})


class Verdict(StrEnum):
    """What became of a transfer's case, as soon as compliance told."""

    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class Transfer:
    """An order to move money, and what became of it. Amounts are minor units of `currency`."""

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
    traceparent: str = field(default="", compare=False)
    """The trace of the call that made it, for what is told of it; not kept, so what recovery does has none."""

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

    def step_key(self, step: str) -> str:
        """The key of a step, the same whoever does it and however often."""
        return str(uuid.uuid5(NAMESPACE, f"{self.tenant}/{self.name}/{step}"))

    def visible_to(self, principal: Principal) -> bool:
        """Whether a caller may see it."""
        return principal.tenant == self.tenant and (principal.is_staff or (principal.customer or "") in self.customers)


def request_key(principal: Principal, method: str, request_id: str) -> uuid.UUID:
    """The scope of a request_id as one key: tenant, subject, method, request_id."""
    return uuid.uuid5(NAMESPACE, "\0".join([principal.tenant, principal.subject, method, request_id]))
