"""Overdraft limits that one person may not raise alone: thresholds, and changes that wait; pure rules, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum


class ChangeState(IntEnum):
    """Where a change is in its life."""

    PENDING = 1
    APPLIED = 2
    REJECTED = 3
    EXPIRED = 4
    SUPERSEDED = 5


@dataclass(frozen=True, slots=True)
class Threshold:
    """The highest limit in a currency that one person may set, in minor units. `version` counts its changes."""

    tenant: str
    currency: str
    amount: int
    set_by: str
    version: int
    update_time: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"overdraftThresholds/{self.currency}"


@dataclass(frozen=True, slots=True)
class OverdraftChange:
    """A raise of an account's limit that needs a second person; limits in minor units of the account's currency."""

    tenant: str
    id: str
    account: str
    state: ChangeState
    currency: str
    previous_limit: int
    new_limit: int
    requested_by: str
    decided_by: str
    reason: str
    version: int
    create_time: datetime
    expire_time: datetime
    end_time: datetime | None

    @property
    def name(self) -> str:
        """The resource name."""
        return f"overdraftChanges/{self.id}"

    def state_at(self, now: datetime) -> ChangeState:
        """Its state; a change whose time is over has expired, also before anybody wrote that down."""
        if self.state is ChangeState.PENDING and now >= self.expire_time:
            return ChangeState.EXPIRED
        return self.state


def needs_second_person(present: int, wanted: int, threshold: int | None) -> bool:
    """Whether a limit is raised above the threshold; None is no threshold."""
    return threshold is not None and wanted > present and wanted > threshold
