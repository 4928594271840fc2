"""Withdrawals, deposits and exceptions of the rail as this service knows them, and how they go on; pure, no I/O."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from google.rpc import status_pb2

from meshkit.idempotency import NAMESPACE
from meshkit.identity import Principal
from transactions.model import Transfer, request_key
from transactions.rails.port import Answer, Entry, Verdict

WITHDRAWAL_METHOD = "/florin.transactions.v1.RailService/CreateWithdrawal"
_BANK_METHOD = "/florin.transactions.v1.RailService/-"
"""The scope of what the bank itself asks for: no call of a client has it."""
_BANK_SUBJECT, _SUSPENSE = "florin/rail", "/suspense/"


def bank(tenant: str) -> Principal:
    """On whose authority money is taken from the settlement account: the bank's own, for what the rail said."""
    return Principal(tenant, _BANK_SUBJECT, None, frozenset({"ledger:fund", "transfers:write"}))


def bank_key(tenant: str, request_id: str) -> uuid.UUID:
    """The request_key of a transfer that the bank makes, and its id."""
    return request_key(bank(tenant), _BANK_METHOD, request_id)


def is_banks(transfer: Transfer) -> bool:
    """Whether a transfer was made by the bank itself. A token may name the bank; the keys of its requests do not."""
    return transfer.principal.subject == _BANK_SUBJECT and (
        transfer.request_key == bank_key(transfer.tenant, transfer.request_id)
    )


def is_kept(transfer: Transfer) -> bool:
    """Whether a transfer books to the suspense account what cannot be credited: nobody is paid by it, and no rule about
    payments may keep money out of the books that is in the bank."""
    return transfer.principal.subject == _BANK_SUBJECT and _SUSPENSE in transfer.request_id and is_banks(transfer)


class WithdrawalState(StrEnum):
    """Where a withdrawal is in its life."""

    ACCEPTED = "ACCEPTED"
    DECLINED = "DECLINED"
    BOOKED = "BOOKED"
    SENT = "SENT"
    SETTLED = "SETTLED"
    REJECTED = "REJECTED"
    RETURNED = "RETURNED"
    SUSPENDED = "SUSPENDED"


class DepositState(StrEnum):
    """Where money from outside is."""

    RECEIVED = "RECEIVED"
    CREDITED = "CREDITED"
    SUSPENDING = "SUSPENDING"
    SUSPENDED = "SUSPENDED"
    ASSIGNING = "ASSIGNING"


class ExceptionKind(StrEnum):
    """What a person has to look at."""

    DEPOSIT_SUSPENDED = "DEPOSIT_SUSPENDED"
    DEPOSIT_CHANGED = "DEPOSIT_CHANGED"
    CREDIT_REVERSED = "CREDIT_REVERSED"
    ANSWER_UNKNOWN = "ANSWER_UNKNOWN"
    ANSWER_CONTRADICTS = "ANSWER_CONTRADICTS"
    ANSWER_AMBIGUOUS = "ANSWER_AMBIGUOUS"
    FILE_REJECTED = "FILE_REJECTED"


class ExceptionState(StrEnum):
    """How far people are with it."""

    OPEN = "OPEN"
    PROPOSED = "PROPOSED"
    RESOLVING = "RESOLVING"
    RESOLVED = "RESOLVED"


@dataclass(frozen=True, slots=True)
class Parties:
    """Who pays and who is paid, and for what: all that is sealed in a row."""

    creditor_name: str = ""
    creditor_iban: str = ""
    debtor_name: str = ""
    debtor_iban: str = ""
    remittance: str = ""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A payment to an account outside; its id is that of the transfer that debits the payer."""

    id: str
    principal: Principal
    request_key: uuid.UUID
    fingerprint: bytes
    debit_account: str
    currency: str
    amount: int
    parties: Parties
    end_to_end_id: str
    customers: tuple[str, ...]
    create_time: datetime
    update_time: datetime
    state: WithdrawalState = WithdrawalState.ACCEPTED
    version: int = 1
    message: str = ""
    """The id of the message that it is sent in; set before it is SENT."""
    rail_status: str = ""
    rail_reason: str = ""
    reversal: str = ""
    """The id of the transfer that gives the money back."""
    deposit: str = ""
    """The id of the deposit that has what could not be given back."""
    refusal: status_pb2.Status | None = None
    send_time: datetime | None = None
    traceparent: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """The resource name."""
        return f"withdrawals/{self.id}"

    @property
    def tenant(self) -> str:
        """The tenant it belongs to."""
        return self.principal.tenant

    def visible_to(self, principal: Principal) -> bool:
        """Whether a caller may see it."""
        return principal.tenant == self.tenant and (principal.is_staff or (principal.customer or "") in self.customers)

    def into(self, state: WithdrawalState, moment: datetime, **changes: Any) -> Withdrawal:
        """In its next state."""
        return replace(self, state=state, version=self.version + 1, update_time=moment, **changes)


class Reaction(StrEnum):
    """What an answer does to a withdrawal."""

    NONE = "NONE"
    NOTE = "NOTE"
    SETTLE = "SETTLE"
    GIVE_BACK = "GIVE_BACK"
    UNKNOWN = "UNKNOWN"
    CONTRADICTS = "CONTRADICTS"
    AMBIGUOUS = "AMBIGUOUS"


_REJECTED = frozenset({WithdrawalState.REJECTED, WithdrawalState.RETURNED, WithdrawalState.SUSPENDED})
_OPEN = {
    Verdict.SETTLED: Reaction.SETTLE,
    Verdict.REJECTED: Reaction.GIVE_BACK,
    Verdict.DUPLICATE: Reaction.AMBIGUOUS,
    Verdict.PENDING: Reaction.NOTE,
}


def reaction(withdrawal: Withdrawal, answer: Answer) -> Reaction:
    """What an answer about a withdrawal does to it. The first final one counts."""
    verdict = answer.verdict
    if not withdrawal.message or answer.message_id not in ("", withdrawal.message):
        return Reaction.UNKNOWN
    if answer.amount not in (None, (withdrawal.currency, withdrawal.amount)):
        return Reaction.UNKNOWN
    if withdrawal.state in (WithdrawalState.BOOKED, WithdrawalState.SENT):
        return _OPEN[verdict]
    if verdict is Verdict.PENDING:
        return Reaction.NONE
    said = Verdict.REJECTED if withdrawal.state in _REJECTED else Verdict.SETTLED
    # A copy of the message that is called one says nothing new of a payment whose end is known.
    return Reaction.NONE if verdict in (said, Verdict.DUPLICATE) else Reaction.CONTRADICTS


@dataclass(frozen=True, slots=True)
class Message:
    """Payments that are handed over together, byte by byte as they are."""

    tenant: str
    id: str
    currency: str
    payments: int
    data: bytes
    create_time: datetime
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Deposit:
    """Money that came in; `entry` and `number` are its identity within its message."""

    tenant: str
    id: str
    message_id: str
    entry: str
    number: int
    fingerprint: bytes
    """Of the whole entry."""
    currency: str
    amount: int
    parties: Parties
    end_to_end_id: str
    create_time: datetime
    update_time: datetime
    concern: str = ""
    """Why no program may credit it."""
    withdrawal: str = ""
    """The id of the withdrawal that it came back from."""
    state: DepositState = DepositState.RECEIVED
    version: int = 1
    step: int = 0
    """Counts the transfers that were asked for; the last one alone may still move money."""
    target: str = ""
    """The account that two people said it belongs to, "accounts/…"."""
    credit_account: str = ""
    credit_transfer: str = ""
    suspense_transfer: str = ""
    refusal: status_pb2.Status | None = None
    customers: tuple[str, ...] = ()
    attempts: int = 0

    @property
    def name(self) -> str:
        """The resource name."""
        return f"deposits/{self.id}"

    @property
    def request_id(self) -> str:
        """The request_id of the transfer of its present step."""
        return f"{self.name}{_SUSPENSE if self.state is DepositState.SUSPENDING else '/'}{self.step}"

    @property
    def transfer(self) -> str:
        """The id of that transfer."""
        return str(bank_key(self.tenant, self.request_id))

    def visible_to(self, principal: Principal) -> bool:
        """Whether a caller may see it: staff all of their tenant, a customer what is on an own account."""
        return principal.tenant == self.tenant and (principal.is_staff or (principal.customer or "") in self.customers)

    def into(self, state: DepositState, moment: datetime, **changes: Any) -> Deposit:
        """In its next state."""
        return replace(self, state=state, version=self.version + 1, update_time=moment, attempts=0, **changes)


@dataclass(frozen=True, slots=True)
class RailException:
    """What no program may decide."""

    tenant: str
    id: str
    kind: ExceptionKind
    resource: str
    message_id: str
    reference: str
    detail: str
    create_time: datetime
    update_time: datetime
    state: ExceptionState = ExceptionState.OPEN
    version: int = 1
    proposed_account: str = ""
    proposed_reason: str = ""
    proposed_by: str = ""
    decided_by: str = ""

    @property
    def name(self) -> str:
        """The resource name."""
        return f"railExceptions/{self.id}"

    def into(self, state: ExceptionState, moment: datetime, **changes: Any) -> RailException:
        """In its next state."""
        return replace(self, state=state, version=self.version + 1, update_time=moment, **changes)


def exception_id(tenant: str, kind: ExceptionKind, *parts: str) -> str:
    """The id of an exception: the same cause is the same one, however often it is found."""
    return str(uuid.uuid5(NAMESPACE, "\0".join([tenant, "railException", kind, *parts])))


def entry_fingerprint(entry: Entry) -> bytes:
    """What an entry says, as a digest: whether it says the same again. Part of the data, so its form never changes."""
    said = [[getattr(credit, name) for name in _FINGERPRINTED] for credit in entry.credits]
    return hashlib.sha256(json.dumps(said).encode()).digest()


_FINGERPRINTED = (
    *("currency", "amount", "creditor_iban", "debtor_name", "debtor_iban", "end_to_end_id", "remittance", "concern"),
)


def payment_id(id_: str) -> str:
    """A withdrawal's id as the rail has it, in its 35 letters."""
    return id_.replace("-", "")


def withdrawal_id(payment: str) -> str:
    """The id behind a payment's; empty where it can be none of ours."""
    try:
        return str(uuid.UUID(payment)) if len(payment) == len(payment_id(payment)) else ""
    except ValueError:
        return ""


def transfer_of_deposit(
    deposit: Deposit, debit: str, credit: str, customers: Sequence[str], moment: datetime
) -> Transfer:
    """The transfer of a deposit's present step, the same however often it is made. It bears the name of who paid,
    outside, since that is the name to be screened."""
    key = bank_key(deposit.tenant, deposit.request_id)
    return Transfer(
        id=str(key),
        principal=bank(deposit.tenant),
        request_key=key,
        request_id=deposit.request_id,
        fingerprint=hashlib.sha256(f"{deposit.request_id}\0{debit}\0{credit}".encode()).digest(),
        debit_account=debit,
        credit_account=credit,
        currency=deposit.currency,
        amount=deposit.amount,
        creditor_name=deposit.parties.debtor_name,
        end_to_end_id=deposit.end_to_end_id,
        remittance=deposit.parties.remittance,
        create_time=moment,
        update_time=moment,
        customers=tuple(customers),
    )
