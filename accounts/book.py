"""What the ledger's rules work on: steps that are asked for, the book of locked accounts, and what steps come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from accounts.freezes import Frozen
from accounts.model import AccountState, AccountType, HoldState, JournalKind, Metadata
from meshkit.errors import DomainError

FUND_SCOPE = "ledger:fund"
"""Who may let money enter: debit an account that has no balance rule."""
CUSTOMERS_SCOPE = "journals:customers"
"""Who may touch a customer's account by a journal that is no payment's, and so passes compliance by."""


@dataclass(frozen=True, slots=True)
class Actor:
    """On whose behalf a step is done: a customer's id, or staff, who may hold the scopes above."""

    customer: str | None
    may_fund: bool
    may_touch_customers: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What whoever asks for a step saw of its account, and wants it to be."""

    version: int
    """The sequence of the last entry."""
    available: int | None = None
    """None where only the sequence matters."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A leg as it was asked for; positive is a credit, negative a debit, in minor units."""

    reference: str
    currency: str
    amount: int
    position: bool = False
    """Whether it is on the bank's own position, an internal account that is debited on anybody's behalf."""


@dataclass(frozen=True, slots=True)
class Post:
    """Post a journal, and consume the hold of `hold_key` if it is not empty."""

    tenant: str
    key: str
    actor: Actor
    kind: JournalKind
    origin: str
    legs: tuple[Leg, ...]
    hold_key: str = ""
    effective_time: datetime | None = None
    keep_hold: bool = False
    """What the journal does not take of its hold stays held; else it is given back."""
    expected_versions: tuple[int | None, ...] = ()
    """Where the poster expects accounts to be: for each leg the sequence of its account's last entry, None for any;
    empty where nothing is expected."""
    seen: Seen | None = None
    """What a preview told of the first leg's account."""
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Keep an amount of an account back."""

    tenant: str
    key: str
    actor: Actor
    origin: str
    reference: str
    currency: str
    amount: int
    expire_time: datetime | None = None
    seen: Seen | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Give back the hold of the key; if it was never placed, it never will be."""

    tenant: str
    key: str


@dataclass(frozen=True, slots=True)
class Expire:
    """Give back the hold of the key if its time is over."""

    tenant: str
    key: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Make sure that the key's step, if it was not done yet, never will be."""

    tenant: str
    key: str


Step = Post | Place | Release | Expire | Cancel


NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""The recorded time of an account without entries; the schema's default too."""


@dataclass(slots=True)
class BookAccount:
    """A locked account row while steps are applied to it."""

    tenant: str
    id: str
    type: AccountType
    state: AccountState
    currency: str
    posted: int
    held: int
    overdraft_limit: int
    sequence: int
    owners: tuple[str, ...]
    recorded_time: datetime = NEVER
    """No entry to come is recorded before it: that of the last entry, or the end of the last statement's period."""
    dating_microseconds: int = 0
    """How far an entry's effective time is from its recorded one, at most."""
    minimum_balance: int = 0
    debits_blocked: bool = False
    credits_blocked: bool = False
    changed: bool = False

    @property
    def available(self) -> int:
        """What a debit may use (INV-3), in minor units."""
        return self.posted - self.held + self.overdraft_limit - self.minimum_balance


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold; its id is the key of the step that placed it. `version` counts its changes, from 1 when it was placed."""

    tenant: str
    key: str
    account: str
    currency: str
    amount: int
    """What it keeps back, less than at first where a journal took part of it; when it has ended, what it kept last."""
    state: HoldState
    origin: str
    version: int
    create_time: datetime
    update_time: datetime
    expire_time: datetime | None = None

    def stands(self, now: datetime) -> bool:
        """Whether it can be consumed. One whose time is over cannot, also before anybody ended it."""
        return self.state is HoldState.ACTIVE and (self.expire_time is None or now < self.expire_time)


@dataclass(frozen=True, slots=True)
class PostedLeg:
    """An entry that was added to an account."""

    account: str
    currency: str
    amount: int
    balance_after: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Posted:
    """The journal stands."""

    tenant: str
    key: str
    journal: str
    kind: JournalKind
    origin: str
    legs: tuple[PostedLeg, ...]
    owners: tuple[str, ...]
    """Of all accounts that it touches, sorted."""
    debit_owners: tuple[str, ...]
    create_time: datetime
    effective_time: datetime
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class Held:
    """The hold as it is after the step."""

    hold: Hold
    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The step was refused, for good."""

    tenant: str
    key: str
    refusal: DomainError


@dataclass(frozen=True, slots=True)
class Stored:
    """What an earlier batch stored under the key; `hold` is the key's hold as it is now, if it is one."""

    tenant: str
    key: str
    data: bytes
    hold: Hold | None = None


Outcome = Posted | Held | Refused | Stored


@dataclass(slots=True)
class Book:
    """What a batch works on. Keys of all maps begin with the tenant."""

    accounts: dict[tuple[str, str], BookAccount] = field(default_factory=dict)
    references: dict[tuple[str, str], str] = field(default_factory=dict)
    """What each reference stands for: the account's id. A reference that is not here stands for none."""
    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    """What stands under each key, stored before or come to in this batch."""
    holds: dict[tuple[str, str], Hold] = field(default_factory=dict)
    fresh: list[Posted | Held | Refused] = field(default_factory=list)
    """Outcomes of this batch that are to be stored, one a key."""
    placed: set[tuple[str, str]] = field(default_factory=set)
    """Holds that this batch placed."""
    hold_changes: list[Hold] = field(default_factory=list)
    """Holds as they were after each change that this batch made, in its order."""

    frozen: Frozen = frozenset()
    """What nothing may be posted or held in, of the tenants whose accounts were read."""

    database_time: datetime = NEVER
    """What the database's clock showed before the accounts were locked."""

    def account(self, tenant: str, reference: str) -> BookAccount | None:
        """The account that a reference stands for."""
        account = self.references.get((tenant, reference))
        return None if account is None else self.accounts.get((tenant, account))
