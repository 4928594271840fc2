"""What a settlement bank says beside what the ledger says, as the service knows it: statements, items, matches; no I/O.

The numbers of the enums are those of the contract, so that rows, events and messages speak of the same. Amounts are in
minor units, each as its own side has it: what the bank owes us is positive there and negative in the ledger.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import IntEnum

_NOT_COMPARED = re.compile(r"[^a-z0-9]")
_NOT_GIVEN = frozenset({"", "notprovided", "nonref", "none"})
"""What banks write where they have no reference."""
REFERENCES_MAX = 2000
"""Of one item: more than a batch may have that the rules match."""


class StatementState(IntEnum):
    """Where a bank's statement is in its life."""

    IMPORTED = 1
    MATCHED = 2


class Notice(IntEnum):
    """What is unusual about a statement that was taken."""

    NUMBER_GAP = 1
    DAYS_GAP = 2
    DAYS_OVERLAP = 3
    DUPLICATES = 4


class Side(IntEnum):
    """Whose item it is."""

    LEDGER = 1
    BANK = 2

    @property
    def other(self) -> Side:
        """The side that its counterpart is on."""
        return Side.BANK if self is Side.LEDGER else Side.LEDGER


class ItemState(IntEnum):
    """Where an item is in its life."""

    OPEN = 1
    PROPOSED = 2
    MATCHED = 3
    RESOLVED = 4


class Rule(IntEnum):
    """Why items belong together."""

    REFERENCE = 1
    AMOUNT_AND_DATE = 2
    BATCH_BY_REFERENCE = 3
    BATCH_BY_DATE = 4
    BY_HAND = 5
    RESOLVED = 6


class MatchState(IntEnum):
    """Where a match is in its life."""

    PROPOSED = 1
    ACTIVE = 2
    REJECTED = 3
    UNDO_PROPOSED = 4
    UNDONE = 5


@dataclass(frozen=True, slots=True)
class Head:
    """What a file says of its statement, beside the entries."""

    message_id: str
    statement_id: str
    bank_number: int
    """The bank's number of it; 0 for none."""
    identifier: str
    """The account at the bank, "iban:…" or "local:…"."""
    currency: str
    first: date
    last: date
    opening: int
    closing: int


@dataclass(frozen=True, slots=True)
class BankEntry:
    """A booked entry of a bank's statement; `amount` is positive for a credit."""

    line: int
    amount: int
    value_day: date
    entry_reference: str
    servicer_reference: str
    references: tuple[str, ...]
    """As they are compared, sorted."""
    batch_size: int | None
    """How many payments it says it stands for; 0 for a batch that does not say, None for no batch."""
    description: str


@dataclass(frozen=True, slots=True)
class BankStatement:
    """A statement that was imported."""

    tenant: str
    id: str
    account: str
    number: int
    head: Head
    content: bytes
    """SHA-256 of what it says, whatever the bytes that said it."""
    entry_count: int
    first_entry: int
    """The number of its first item; those of its entries follow each other."""
    duplicate_count: int
    notices: tuple[Notice, ...]
    state: StatementState
    imported_by: str
    create_time: datetime
    match_time: datetime | None

    @property
    def name(self) -> str:
        """The resource name."""
        return f"bankStatements/{self.id}"


@dataclass(frozen=True, slots=True)
class Books:
    """The reconciliation of one settlement account: where it began, and how far it is."""

    tenant: str
    account: str
    bank_opening: int
    ledger_opening: int
    opening_sequence: int
    bank_closing: int
    period_end: date
    bank_number: int
    statements: int
    bank_entries: int
    ledger_sequence: int
    """Entries of ours up to here are items."""
    matched_statements: int
    """The rules went over this many statements."""
    matched_sequence: int
    """The rules went over entries of ours up to here."""


@dataclass(frozen=True, slots=True)
class Item:
    """An entry of one side; `number` is its sequence in the ledger, or counts the account's entries by the bank."""

    side: Side
    number: int
    amount: int
    value_day: date
    references: tuple[str, ...]
    state: ItemState
    match: str | None
    manual: bool
    """Whether the rules pass it over."""
    duplicate: bool = False
    batch_size: int | None = None
    journal: str | None = None
    statement: str | None = None
    entry_reference: str = ""
    servicer_reference: str = ""
    description: bytes = b""
    """Sealed."""

    @property
    def keys(self) -> tuple[str, ...]:
        """What the rules find it by while nothing is decided: its amount alone, its references, its day as a batch."""
        day = (batch_key(self.value_day),) if self.batch_size is not None else ()
        return ("", *self.references, *day)


@dataclass(frozen=True, slots=True)
class Match:
    """Items that belong together, or one that was resolved. Its items never change."""

    tenant: str
    id: str
    account: str
    rule: Rule
    state: MatchState
    ledger: tuple[int, ...]
    bank: tuple[int, ...]
    amount: int
    proposed_by: str
    """Empty for the rules."""
    note: str
    create_time: datetime
    update_time: datetime
    decided_by: str = ""
    reason: str = ""
    undo_proposed_by: str = ""
    undo_decided_by: str = ""
    undo_note: str = ""
    undo_reason: str = ""
    version: int = 1

    @property
    def name(self) -> str:
        """The resource name."""
        return f"itemMatches/{self.id}"

    @property
    def item_state(self) -> ItemState:
        """What its items are while it holds."""
        return ItemState.RESOLVED if self.rule is Rule.RESOLVED else ItemState.MATCHED


@dataclass(frozen=True, slots=True)
class Window:
    """How many days the value days of a pair may be apart, and the last day of ours that the bank has told of."""

    days: int
    until: date


def batch_key(day: date) -> str:
    """What a batch of the bank's of a day is found by; no reference is like it."""
    return f"#{day.isoformat()}"


def compared(reference: str) -> str:
    """A reference as it is compared: letters and digits alone, so that a UUID is the same with and without its dashes,
    which ISO 20022 has no room for; empty for none."""
    found = _NOT_COMPARED.sub("", reference.casefold())
    return "" if found in _NOT_GIVEN else found


def ledger_references(journal: str, origin: str) -> tuple[str, ...]:
    """What an entry of ours can be found by: its journal, and the last part of what it was posted for."""
    return references([journal, origin.partition("/")[2]])


def references(given: Sequence[str]) -> tuple[str, ...]:
    """References as they are kept: compared, once each, sorted."""
    return tuple(sorted({compared(one) for one in given} - {""})[:REFERENCES_MAX])


def notices(books: Books | None, head: Head, duplicates: int) -> tuple[Notice, ...]:
    """What is unusual about a statement that begins with what the one before it ended with."""
    found = []
    if books is not None:
        if head.bank_number and books.bank_number and head.bank_number != books.bank_number + 1:
            found.append(Notice.NUMBER_GAP)
        between = (head.first - books.period_end).days
        if between > 1:
            found.append(Notice.DAYS_GAP)
        elif between < 1:
            found.append(Notice.DAYS_OVERLAP)
    return (*found, Notice.DUPLICATES) if duplicates else tuple(found)


def item_name(account: str, side: Side, number: int) -> str:
    """The resource name of an item."""
    return f"accounts/{account}/items/{side.name.lower()}-{number}"


def item_in(name: str) -> tuple[str, Side, int]:
    """The account, the side and the number in an item's name, whose form the contract has checked."""
    _, account, _, item = name.split("/")
    side, _, number = item.partition("-")
    return account, Side[side.upper()], int(number)
