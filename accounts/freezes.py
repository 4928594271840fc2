"""Freezes of a tenant's ledger and the findings that they are for: what they are, without I/O."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from meshkit.idempotency import NAMESPACE

ALL_CURRENCIES = ""
"""Stands for the currency where a whole ledger is frozen."""
FINDINGS_MAX = 1000
"""Of one freeze: who changed a million rows is not to fill the database a second time."""


class FreezeState(IntEnum):
    """Where a freeze is in its life."""

    ACTIVE = 1
    ENDED = 2


@dataclass(frozen=True, slots=True)
class Freeze:
    """Keeps journals and new holds out of a ledger. `version` counts its changes: findings added, the end."""

    tenant: str
    id: str
    currency: str
    state: FreezeState
    reason: str
    finding_count: int
    version: int
    create_time: datetime
    update_time: datetime
    ended_by: str = ""
    note: str = ""
    findings_accepted: bool = False
    end_time: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return f"ledgerFreezes/{self.id}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What the checker found: an invariant, what it is about, and a sentence. `currency` is what is frozen for it."""

    tenant: str
    currency: str
    invariant: str
    object: str
    sentence: str
    found_time: datetime

    @property
    def id(self) -> str:
        """The same for the same words: seen again it is no other finding, with other numbers it is."""
        words = "\0".join([self.tenant, self.currency, self.invariant, self.object, self.sentence])
        return str(uuid.uuid5(NAMESPACE, f"ledgerFindings/{words}"))

    @property
    def reason(self) -> str:
        """Why a ledger is frozen that it is the first finding of."""
        return f"{self.invariant} does not hold for {self.object}: {self.sentence}"


Frozen = Collection[tuple[str, str]]
"""Pairs of tenant and currency, ALL_CURRENCIES for all of a tenant's."""


def frozen_currency(frozen: Frozen, tenant: str, currencies: Iterable[str]) -> str | None:
    """The first of some currencies that nothing may be posted in; None where all may."""
    if (tenant, ALL_CURRENCIES) in frozen:
        return next(iter(currencies))
    return next((currency for currency in currencies if (tenant, currency) in frozen), None)


def lock_key(tenant: str) -> int:
    """The number that stands for a tenant in advisory locks. Two tenants that share one wait for each other now and
    then, and nothing else comes of it."""
    return zlib.crc32(tenant.encode()) - 2**31
