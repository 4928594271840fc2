"""What transactions needs of a way to other banks, as a Protocol that an adapter fills; it knows no format, no folder.

All of it blocks, and is called in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OutgoingPayment:
    """One payment to an account elsewhere. The amount is in minor units."""

    id: str
    """By which the rail answers: 35 letters at most."""
    end_to_end_id: str
    currency: str
    amount: int
    debtor_name: str
    debtor_iban: str
    """Empty where the account has none."""
    debtor_account: str
    """What it is called here, for those that have no IBAN."""
    creditor_name: str
    creditor_iban: str
    remittance: str


class Verdict(StrEnum):
    """What an answer means for a payment."""

    SETTLED = "SETTLED"
    """It was paid, for good."""
    REJECTED = "REJECTED"
    """It was not paid, for good."""
    DUPLICATE = "DUPLICATE"
    """It was rejected as the copy of another, which may be its own and paid: nobody knows from this alone."""
    PENDING = "PENDING"
    """Nothing final is said."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the rail says of a payment, or of all payments of a message that it says nothing else of."""

    message_id: str
    """Of the message that was sent; empty where the answer does not name it."""
    payment_id: str
    """Empty for the message as a whole."""
    verdict: Verdict
    status: str
    """As the rail has it, for example "ACSC"."""
    reason: str
    amount: tuple[str, int] | None = None
    """Currency and minor units of the payment that it answers; None where it does not repeat them."""


@dataclass(frozen=True, slots=True)
class Credit:
    """Money that came in. The amount is in minor units."""

    currency: str
    amount: int
    creditor_iban: str
    """Whom it is for; empty where the rail does not say."""
    debtor_name: str
    debtor_iban: str
    end_to_end_id: str
    remittance: str
    concern: str = ""
    """Why it must not be credited without a person; empty for nothing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What was booked in one sum elsewhere: the credits of which it consists."""

    reference: str
    """Its identity within its message."""
    credits: tuple[Credit, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """What only a person can deal with."""

    reference: str
    detail: str


@dataclass(frozen=True, slots=True)
class Content:
    """What stands in something that came in."""

    kind: str
    message_id: str
    answers: Sequence[Answer] = ()
    entries: Sequence[Entry] = ()
    notices: Sequence[Notice] = ()


@dataclass(frozen=True, slots=True)
class Incoming:
    """Something that came in and was not dealt with yet."""

    tenant: str
    name: str
    """As people call it; printable, 200 letters at most."""
    digest: str
    """SHA-256 of its bytes, in hexadecimal; of its name where it has none that may be read."""
    place: str
    """Where the adapter finds it; nobody else reads this."""
    content: Content | None
    refusal: str
    """Why it is refused, where it has no content: a sentence without its point and without personal data."""


class Rail(Protocol):
    """A way to other banks."""

    def compose(self, message_id: str, moment: datetime, payments: Sequence[OutgoingPayment]) -> bytes:
        """A message with payments of one currency: the same bytes for the same arguments."""

    def send(self, tenant: str, message_id: str, data: bytes) -> None:
        """Hands a message over, durably once this returns. A message that is sent again is the same message: the
        rail takes it once. Raises OSError."""

    def incoming(self, skip: frozenset[str]) -> Iterator[Incoming]:
        """What came in, one after the other, read when it is its turn; but for places that are to be skipped.
        Raises OSError."""

    def file_away(self, incoming: Incoming) -> None:
        """Takes it out of what came in: its effects, or its refusal, are recorded. Raises OSError."""
