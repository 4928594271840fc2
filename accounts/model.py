"""Customers, accounts, journals and identifiers as the ledger knows them, and their rules; no I/O.

The numbers of the enums are those of the contract, so that rows, events and messages speak of the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum

from meshkit import iban

OVERDRAFT_LIMIT_MAX = 10**15
"""The contract's bound of an overdraft limit, in minor units."""

MINIMUM_BALANCE_MAX = 10**15
"""The bound of a minimum balance, in minor units."""


Metadata = tuple[tuple[str, str], ...]
"""What its poster wrote on a journal: pairs of key and value, each key once."""


class AccountType(IntEnum):
    """What an account is for."""

    CUSTOMER = 1
    INTERNAL = 2
    SETTLEMENT = 3
    FEE = 4
    SUSPENSE = 5


class AccountState(IntEnum):
    """Where an account is in its life."""

    PENDING = 1
    ACTIVE = 2
    FROZEN = 3
    CLOSED = 4


class KycState(IntEnum):
    """Whether compliance verified a customer."""

    PENDING = 1
    VERIFIED = 2
    REJECTED = 3


class JournalKind(IntEnum):
    """What a journal was posted for."""

    TRANSFER = 1
    FUNDING = 2
    REVERSAL = 3
    MANUAL = 4


class PostingSide(IntEnum):
    """A side of an account."""

    DEBIT = 1
    CREDIT = 2


class HoldState(IntEnum):
    """Where a hold is in its life."""

    ACTIVE = 1
    CONSUMED = 2
    RELEASED = 3
    EXPIRED = 4


@dataclass(frozen=True, slots=True)
class Tenant:
    """A bank or brand on the mesh."""

    id: str
    display_name: str
    time_zone: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer; `id` is the last part of its resource name."""

    tenant: str
    id: str
    display_name: str
    kyc_state: KycState
    version: int
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Identifier:
    """What people outside call an account: kind "iban" or "local", and the text."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Balance:
    """What stands on an account at one moment, in minor units of its currency."""

    currency: str
    posted: int
    held: int
    overdraft_limit: int
    sequence: int
    minimum: int = 0
    """What has to stay, less holds; an account has this or an overdraft limit."""

    @property
    def available(self) -> int:
        """What a debit may use (INV-3)."""
        return self.posted - self.held + self.overdraft_limit - self.minimum


@dataclass(frozen=True, slots=True)
class Account:
    """An account with what stands on it. `version` counts its changes other than by postings."""

    tenant: str
    id: str
    type: AccountType
    state: AccountState
    currency: str
    display_name: str
    balance: Balance
    freeze_reason: str
    version: int
    create_time: datetime
    update_time: datetime
    owners: tuple[str, ...]
    """Ids of customers, sorted."""
    identifiers: tuple[Identifier, ...]
    debit_block_reason: str = ""
    """Why debits are blocked; empty while they are not."""
    credit_block_reason: str = ""
    """Why credits are blocked; empty while they are not."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One leg of a journal as it stands on its account; `balance_after` is None where the reader may not see it."""

    account: str
    journal: str
    currency: str
    amount: int
    balance_after: int | None
    sequence: int
    kind: JournalKind
    origin: str
    create_time: datetime
    effective_time: datetime


@dataclass(frozen=True, slots=True)
class Journal:
    """Entries that stand or fall together."""

    id: str
    kind: JournalKind
    origin: str
    create_time: datetime
    effective_time: datetime
    entries: tuple[Entry, ...]
    metadata: Metadata = ()


def without_balances(journal: Journal, own: Collection[str]) -> Journal:
    """The journal as the owner of `own` accounts may see it: others' balances left out."""
    entries = tuple(entry if entry.account in own else replace(entry, balance_after=None) for entry in journal.entries)
    return replace(journal, entries=entries)


def opening_state(owners: list[KycState]) -> AccountState:
    """An account waits for the verification of its owners; one without owners is active at once."""
    verified = all(state == KycState.VERIFIED for state in owners)
    return AccountState.ACTIVE if verified else AccountState.PENDING


_LOCAL = re.compile(r"[A-Z0-9][A-Z0-9-]{0,33}")
_ACCOUNT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def identifier_is_valid(identifier: Identifier) -> bool:
    """Whether the identifier is well-formed, its check digits included."""
    if identifier.kind == "iban":
        return iban.is_valid(identifier.value)
    return identifier.kind == "local" and _LOCAL.fullmatch(identifier.value) is not None


def account_id_in(reference: str) -> str | None:
    """The id in "accounts/{account}"; None for other references and for malformed ones."""
    prefix, _, rest = reference.partition("/")
    return rest if prefix == "accounts" and _ACCOUNT_ID.fullmatch(rest) else None


def identifier_in(reference: str) -> Identifier | None:
    """The identifier in "iban:{iban}" or "local:{number}"; None for other references and for malformed ones."""
    kind, _, value = reference.partition(":")
    identifier = Identifier(kind, value)
    return identifier if identifier_is_valid(identifier) else None
