"""Compliance's store in memory: what screening, the ends of transfers and cases need of its *_store.py modules."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from compliance import screening_store
from compliance.model import (
    Case,
    CaseState,
    Decision,
    End,
    KycProfile,
    KycState,
    Limit,
    LimitKind,
    Reservation,
    ReservationState,
    Rule,
    Usage,
    UsageKey,
)
from compliance.screening import Policies
from compliance.screening_store import added_usage
from meshkit.outbox import Event

Place = tuple[str, str]
RACED = screening_store.RACED


@dataclass
class Reserved:
    """A row of reservations; `of` is None for a transfer that ended unscreened."""

    state: ReservationState
    of: Reservation | None


@dataclass
class Compliance:
    """compliance's database. Each call is one durable transaction."""

    profiles: dict[Place, KycProfile] = field(default_factory=dict)
    limits: dict[tuple[LimitKind, str, str], Limit] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    decisions: dict[tuple[str, uuid.UUID], Decision] = field(default_factory=dict)
    reservations: dict[Place, Reserved] = field(default_factory=dict)
    usage: dict[UsageKey, Usage] = field(default_factory=dict)
    cases: dict[tuple[str, uuid.UUID], Case] = field(default_factory=dict)
    seen: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """The inbox: the last version of each aggregate."""
    told: list[Event] = field(default_factory=list)
    """Events that were written, in their order."""

    def verify(self, customer: str, now: datetime) -> None:
        """A customer whose identity is verified."""
        self.profiles["demo", customer] = KycProfile(
            tenant="demo",
            customer=customer,
            legal_name=customer,
            country_code="DE",
            birth_date="",
            state=KycState.VERIFIED,
            watchlist_matches=(),
            submitted_by="teller",
            decided_by="officer",
            reason="",
            version=2,
            create_time=now,
            update_time=now,
        )


def _add(conn: Compliance, key: UsageKey, used: int, payments: int) -> None:
    usage = conn.usage.setdefault(key, Usage())
    usage.used += used
    usage.payments += payments
    assert usage.used >= 0 and usage.payments >= 0, f"limit_usage of {key} is {usage}"


async def read_policies(conn: Compliance, tenants: Sequence[str], customers: Sequence[Place]) -> dict[str, Policies]:
    """See compliance's stores, here and below."""
    return {tenant: Policies(limits=dict(conn.limits), rules=list(conn.rules)) for tenant in tenants}


async def read_profiles(conn: Compliance, cipher: Any, customers: Sequence[Place]) -> dict[Place, KycProfile]:
    return {place: conn.profiles[place] for place in customers if place in conn.profiles}


async def find_decisions(
    conn: Compliance, keys: Sequence[tuple[str, uuid.UUID]], transfers: Sequence[Place]
) -> tuple[dict[tuple[str, uuid.UUID], Decision], dict[Place, ReservationState]]:
    return (
        {key: conn.decisions[key] for key in keys if key in conn.decisions},
        {place: conn.reservations[place].state for place in transfers if place in conn.reservations},
    )


async def lock_usage(conn: Compliance, keys: Iterable[UsageKey]) -> dict[UsageKey, Usage]:
    return {key: replace(conn.usage.setdefault(key, Usage())) for key in keys}


async def store(
    conn: Compliance,
    decisions: Sequence[Decision],
    reservations: Sequence[Reservation],
    cases: Sequence[tuple[Case, bytes]],
    events: Sequence[Event],
    *,
    lease: timedelta,
) -> None:
    for key, usage in added_usage(reservations).items():
        _add(conn, key, usage.used, usage.payments)
    for decision in decisions:
        assert (decision.tenant, decision.key) not in conn.decisions, "inv_5_one_decision_per_key"
        conn.decisions[decision.tenant, decision.key] = decision
    for one in reservations:
        assert (one.tenant, one.transfer) not in conn.reservations, "inv_c1_one_reservation_per_transfer"
        conn.reservations[one.tenant, one.transfer] = Reserved(ReservationState.LIVE, one)
    conn.cases.update({(case.tenant, case.id): case for case, _ in cases})
    conn.told += events


async def end_transfers(conn: Compliance, ends: Mapping[Place, End], now: datetime) -> list[Reservation]:
    ended = []
    for place, end in ends.items():
        row = conn.reservations.setdefault(place, Reserved(end.state, None))
        if row.state is not ReservationState.LIVE or row.of is None:
            continue
        before, kept = row.of.amount, row.of.amount if end.amount is None else end.amount
        conn.reservations[place] = Reserved(end.state, replace(row.of, amount=kept))
        released = end.state is ReservationState.RELEASED
        for key in added_usage([row.of]):
            _add(conn, key, -before if released else kept - before, -1 if released else 0)
        ended.append(row.of)
    return ended


async def prolong_leases(conn: Compliance, leases: Mapping[Place, datetime]) -> None:
    """Leases decide nothing: what lapsed is counted for a person."""


def seal_name(cipher: Any, tenant: str, case_id: uuid.UUID, name: str) -> bytes:
    return name.encode()


async def read(conn: Compliance, cipher: Any, tenant: str, case_id: uuid.UUID, *, lock: bool = False) -> Case | None:
    return conn.cases.get((tenant, case_id))


async def save_resolution(conn: Compliance, case: Case) -> None:
    conn.cases[case.tenant, case.id] = case


async def expire(conn: Compliance, cipher: Any, now: datetime, *, limit: int) -> list[Case]:
    due = [case for case in conn.cases.values() if case.state is CaseState.OPEN and case.expire_time <= now]
    return [_end_case(conn, case, CaseState.EXPIRED, now) for case in due[:limit]]


async def make_moot(conn: Compliance, cipher: Any, transfers: Sequence[Place], now: datetime) -> list[Case]:
    wanted = set(transfers)
    due = [c for c in conn.cases.values() if c.state is CaseState.OPEN and (c.tenant, c.transfer) in wanted]
    return [_end_case(conn, case, CaseState.MOOT, now) for case in due]


def _end_case(conn: Compliance, case: Case, state: CaseState, now: datetime) -> Case:
    ended = replace(case, state=state, version=case.version + 1, resolve_time=now)
    conn.cases[case.tenant, case.id] = ended
    return ended


async def append(conn: Compliance, events: Sequence[Event]) -> None:
    """See meshkit/outbox.py."""
    conn.told += events
