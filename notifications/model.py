"""Endpoints, events and deliveries and the rules between them; pure, it must not do any I/O."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

HTTP_GONE = 410


class DeliveryState(IntEnum):
    """Where a delivery is; the numbers are those of the contract's Delivery.DeliveryState."""

    PENDING = 1
    DELIVERED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL that events are sent to. Its secrets are not part of it: they leave the store only to sign."""

    tenant: str
    id: str
    url: str
    event_types: tuple[str, ...]
    enabled: bool
    customer: str
    """The customer whose events are sent, "customers/…"; empty for the whole tenant."""
    scopes: tuple[str, ...]
    """What those who set the URL were allowed to see; nothing else is sent."""
    description: str
    create_time: datetime
    update_time: datetime
    etag: str

    @property
    def name(self) -> str:
        """The resource name."""
        return f"webhookEndpoints/{self.id}"


@dataclass(frozen=True, slots=True)
class EndpointChange:
    """What an update sets; None leaves a field as it is."""

    url: str | None = None
    event_types: tuple[str, ...] | None = None
    enabled: bool | None = None
    description: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is set."""
        return self == EndpointChange()


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it is kept and streamed."""

    position: int
    """Its place in the tenant's order of arrival; grows, with gaps."""
    id: uuid.UUID
    type: str
    subject: str
    sequence: int
    time: datetime
    data: bytes


@dataclass(frozen=True, slots=True)
class EventPage:
    """What one look for events gave."""

    events: tuple[StoredEvent, ...]
    scanned_to: int
    """Every event up to this position was looked at: go on after it."""
    caught_up: bool
    """Whether nothing was left to look at."""
    purged_to: int
    """Events up to this position may be gone."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try, as it is shown."""

    create_time: datetime
    http_status: int
    error: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to an endpoint, as it is shown."""

    id: uuid.UUID
    endpoint: str
    position: int
    event_id: uuid.UUID
    event_type: str
    state: DeliveryState
    due_time: datetime | None
    create_time: datetime
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A delivery that a worker holds under a lease, with what it needs to send it."""

    tenant: str
    id: uuid.UUID
    lease: uuid.UUID
    """Names this attempt; recording it a second time changes nothing."""
    endpoint: str
    attempt_count: int
    """Attempts before this one, since it was made or replayed."""
    url: str
    scopes: tuple[str, ...]
    """What the endpoint may be sent now; it may have been more when the delivery was made."""
    secret: bytes
    previous_secrets: tuple[bytes, ...]
    """Sealed, like `secret`; those whose overlap is not over."""
    event: StoredEvent


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of sending: an HTTP status, or 0 and what went wrong."""

    start_time: datetime
    http_status: int
    error: str
    duration_ms: int
    retry_after_s: float = 0.0
    is_final: bool = False
    """Whether nothing would change with another attempt."""

    @property
    def is_accepted(self) -> bool:
        """Whether the receiver acknowledged with a 2xx."""
        return 200 <= self.http_status <= 299 and not self.error


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt makes of a delivery."""

    delivery: DueDelivery
    reply: Reply
    state: DeliveryState
    wait_s: float
    """Until the next attempt; 0 when there is none."""
    disables_endpoint: bool


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: a wait is uniform between 0 and base · 2ⁿ, or the most allowed."""

    base_s: float
    max_s: float
    attempts_max: int

    def ceiling_s(self, attempts_made: int) -> float:
        """The longest wait after that many attempts (at least 1)."""
        # The exponent is bounded so that a float cannot overflow; 2^40 of any base is beyond every maximum.
        return float(min(self.max_s, self.base_s * 2 ** min(attempts_made - 1, 40)))

    def longest_span_s(self) -> float:
        """The longest time between the first and the last attempt, without the attempts themselves: a receiver may ask
        for the longest wait each time."""
        return self.max_s * (self.attempts_max - 1)

    def judge(self, delivery: DueDelivery, reply: Reply, chance: random.Random) -> Outcome:
        """Delivered on a 2xx, failed on 410, on what stays as it is, or after the last attempt; else tried again."""
        made = delivery.attempt_count + 1
        gone = reply.http_status == HTTP_GONE
        if reply.is_accepted:
            state = DeliveryState.DELIVERED
        elif gone or reply.is_final or made >= self.attempts_max:
            state = DeliveryState.FAILED
        else:
            state = DeliveryState.PENDING
        wait = 0.0
        if state is DeliveryState.PENDING:
            # A receiver may ask for more time (Retry-After), never for more than the longest wait.
            asked = min(reply.retry_after_s, self.max_s)
            wait = max(chance.uniform(0, self.ceiling_s(made)), asked)
        return Outcome(delivery, reply, state, wait, disables_endpoint=gone)


def scopes_after_url_change(held: Sequence[str], changer: frozenset[str]) -> tuple[str, ...]:
    """What an endpoint may be sent once someone points it elsewhere: only what both they and its maker may see.

    Otherwise a caller with few scopes could redirect the events of one with many to a URL of their own.
    """
    return tuple(sorted(changer.intersection(held)))
