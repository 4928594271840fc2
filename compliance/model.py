"""What compliance knows, as frozen values and rules over them; it must not do any I/O."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass, field
from datetime import date, datetime
from zoneinfo import ZoneInfo


class KycState(enum.IntEnum):
    """Where a verification stands; the numbers are the contract's and the table's."""

    SUBMITTED = 1
    VERIFIED = 2
    REJECTED = 3


class Outcome(enum.IntEnum):
    """The answer of a check or of a whole screening; the numbers are the contract's."""

    ALLOW = 1
    DECLINE = 2
    REVIEW = 3


class LimitKind(enum.IntEnum):
    """What a limit counts; the numbers are the contract's."""

    PER_PAYMENT = 1
    PER_DAY = 2


class CaseState(enum.IntEnum):
    """Where a case is in its life; the numbers are the contract's."""

    OPEN = 1
    APPROVED = 2
    REJECTED = 3
    EXPIRED = 4
    MOOT = 5


class ReservationState(enum.IntEnum):
    """What became of the share of a limit that a payment took."""

    LIVE = 1
    CAPTURED = 2
    RELEASED = 3


@dataclass(frozen=True, slots=True)
class KycProfile:
    """A customer's identity as it was handed in. `legal_name` and `birth_date` are personal data."""

    tenant: str
    customer: str
    """The customer's id, without "customers/"."""
    legal_name: str
    country_code: str
    birth_date: str
    state: KycState
    watchlist_matches: tuple[str, ...]
    """"watchlists/{list}/{entry} {score} {name}" as they were when the profile was handed in last."""
    submitted_by: str
    decided_by: str
    reason: str
    version: int
    create_time: datetime
    update_time: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"kycProfiles/{self.customer}"

    @property
    def etag(self) -> str:
        """Changes with each change."""
        return str(self.version)

    @property
    def cleared(self) -> frozenset[str]:
        """Entries ("watchlists/{list}/{entry}") that the verifying officer saw and decided to be somebody else."""
        if self.state is not KycState.VERIFIED:
            return frozenset()
        return frozenset(match.split(" ", 1)[0] for match in self.watchlist_matches)


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that may be paid in one currency, in minor units."""

    tenant: str
    kind: LimitKind
    currency: str
    customer: str
    """The customer's id; empty for the tenant's default."""
    maximum: int
    version: int
    update_time: datetime
    updated_by: str

    @property
    def name(self) -> str:
        """The canonical resource name: one for each kind, currency and customer."""
        return f"limits/{limit_id(self.kind, self.currency, self.customer)}"


def limit_id(kind: LimitKind, currency: str, customer: str) -> str:
    """The id of a limit, for example "per-day-eur" or "per-day-eur-acme"."""
    start = {LimitKind.PER_PAYMENT: "per-payment", LimitKind.PER_DAY: "per-day"}[kind]
    return "-".join(part for part in (start, currency.lower(), customer) if part)


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition in CEL in one of its versions."""

    tenant: str
    id: str
    version: int
    expression: str
    outcome: Outcome
    enabled: bool
    description: str
    update_time: datetime
    updated_by: str

    @property
    def name(self) -> str:
        """The resource name."""
        return f"rules/{self.id}"


@dataclass(frozen=True, slots=True)
class Watchlist:
    """A list of names in its present version."""

    tenant: str
    id: str
    version: int
    entry_count: int
    name_count: int
    sha256: str
    import_time: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"watchlists/{self.id}"


@dataclass(frozen=True, slots=True)
class ListedName:
    """One name of a watchlist entry: its own or an alias."""

    entry: str
    name: str
    alias: bool
    country: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """A listed name that resembles a given one."""

    listed: ListedName
    score: float
    """From 0 to 1; 1 is the same name."""


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as it is handed in for screening. Names and remittance are personal data."""

    tenant: str
    key: uuid.UUID
    transfer: str
    requested_by: str
    principal_customer: str
    """The id of the customer who asked; empty for staff."""
    debit_account: str
    credit_account: str
    debit_customers: tuple[str, ...]
    """Ids of the owners of the debit account; empty for the bank's own."""
    currency: str
    amount: int
    creditor_name: str
    end_to_end_id: str
    remittance: str


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a decision's trace. Facts never name persons other than list entries."""

    check: str
    outcome: Outcome
    version: int = 0
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LimitExcess:
    """A limit that a payment would exceed, in minor units."""

    limit: Limit
    customer: str
    used: int
    requested: int

    @property
    def left(self) -> int:
        """What could still be paid."""
        return max(self.limit.maximum - self.used, 0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the customer may know of a decline."""

    reason: int
    """A value of florin.common.v1.Reason."""
    message: str
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a screening; once stored it is never changed."""

    tenant: str
    key: uuid.UUID
    transfer: str
    outcome: Outcome
    checks: tuple[Check, ...]
    refusal: Refusal | None
    has_case: bool
    create_time: datetime
    limit_refusal: Refusal | None = field(default=None, compare=False)
    """That a limit is exceeded, whatever else is wrong; not kept."""

    @property
    def name(self) -> str:
        """The resource name; a decision's id is its step's key."""
        return f"decisions/{self.key}"

    @property
    def case(self) -> str:
        """The resource name of the case; empty when there is none."""
        return f"cases/{self.key}" if self.has_case else ""


@dataclass(frozen=True, slots=True)
class Case:
    """A payment that a person has to decide. `creditor_name` is personal data."""

    tenant: str
    id: uuid.UUID
    """The key of the decision that opened it."""
    transfer: str
    debit_account: str
    customer: str
    currency: str
    amount: int
    creditor_name: str
    state: CaseState
    requested_by: str
    resolved_by: str
    reason: str
    version: int
    create_time: datetime
    expire_time: datetime
    resolve_time: datetime | None

    @property
    def name(self) -> str:
        """The resource name."""
        return f"cases/{self.id}"


@dataclass(frozen=True, slots=True)
class Reservation:
    """The share of its customers' limits that a payment took; one for each payment that may go on."""

    tenant: str
    transfer: str
    key: uuid.UUID
    customers: tuple[str, ...]
    currency: str
    day: date
    amount: int


@dataclass(frozen=True, slots=True)
class End:
    """What became of a payment, for its reservation; `amount` where less was moved than it reserved."""

    state: ReservationState
    amount: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class UsageKey:
    """What use is counted by: all payments of a customer in one currency on one day of the tenant's time zone."""

    tenant: str
    customer: str
    currency: str
    day: date


@dataclass(slots=True)
class Usage:
    """What was used under a key; INV-8: the sum of the live and captured reservations."""

    used: int = 0
    payments: int = 0


def overall(checks: tuple[Check, ...] | list[Check]) -> Outcome:
    """DECLINE goes before REVIEW, and REVIEW before ALLOW."""
    outcomes = {check.outcome for check in checks}
    for outcome in (Outcome.DECLINE, Outcome.REVIEW):
        if outcome in outcomes:
            return outcome
    return Outcome.ALLOW


def local_time(moment: datetime, time_zone: str) -> datetime:
    """A moment as the clock of a time zone shows it. Raises ZoneInfoNotFoundError for an unknown zone."""
    return moment.astimezone(ZoneInfo(time_zone))


def local_day(moment: datetime, time_zone: str) -> date:
    """The calendar day in a time zone; days have 23 or 25 hours where clocks change."""
    return local_time(moment, time_zone).date()
