"""Screening as one durable transaction a batch, and what transfers' ends do to reservations and cases."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol

from prometheus_client import Counter, Gauge
from sqlalchemy.ext.asyncio import AsyncConnection

from compliance import case_store, events, kyc_store, policy_store, screening, screening_store
from compliance.model import (
    Case,
    CaseState,
    Decision,
    End,
    KycProfile,
    Match,
    Payment,
    Watchlist,
)
from compliance.screening import Knowledge, MatchKey, Policies, Screened
from meshkit import clock, outbox
from meshkit.cipher import Cipher
from meshkit.database import Database, until_not_raced
from meshkit.errors import Contention

SCREENED = Counter("florin_compliance_screened_total", "Payments decided, without repeats.", ["outcome"])
LAPSED = Gauge("florin_compliance_reservations_lapsed", "Reservations past their lease whose transfer did not end.")
IMBALANCED = Gauge(
    "florin_compliance_limit_imbalances", "Rows of limit_usage that break INV-8; anything but 0 is a bug."
)


AUTHORIZATION_SETTLES = timedelta(minutes=5)
"""How long it may take at most until the end of an authorization is told."""
_MATCHINGS_MAX = 5  # a list that is imported meanwhile, and again, has to be matched with once more


class Matcher(Protocol):
    """What screening needs from whoever holds the watchlists."""

    async def match(
        self, wanted: Mapping[str, Iterable[str]], lists: Mapping[str, Sequence[Watchlist]]
    ) -> dict[MatchKey, tuple[Match, ...]]:
        """The matches of each tenant's names with each of its lists."""

    def known(
        self, wanted: Mapping[str, Iterable[str]], lists: Mapping[str, Sequence[Watchlist]]
    ) -> dict[MatchKey, tuple[Match, ...]] | None:
        """As `match`, but None where that would take time."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things may take, from the settings."""

    lease: timedelta
    case_time: timedelta


@dataclass(frozen=True, slots=True)
class _Unmatched:
    """Names that have to be matched with lists before their payments can be decided."""

    names: Mapping[str, Iterable[str]]
    lists: Mapping[str, Sequence[Watchlist]]


async def screen_transfers(
    db: Database, matcher: Matcher, terms: Terms, payments: Sequence[Payment], *, validate_only: bool = False
) -> list[Decision]:
    """The decision about each payment, in their order; a key that was decided before gets that decision again.

    Names that were not seen before are matched between two transactions, since that may take milliseconds a name.
    Raises Contention when the lists change faster than that.
    """
    tenants = {payment.tenant for payment in payments}
    customers = sorted({(one.tenant, customer) for one in payments for customer in one.debit_customers})
    now = clock.now()
    matches: dict[MatchKey, tuple[Match, ...]] = {}
    fresh: list[Screened] = []

    async def work(conn: AsyncConnection) -> dict[tuple[str, uuid.UUID], Decision] | _Unmatched:
        fresh.clear()
        # What does not depend on the order of payments is read before anything is locked.
        policies = await policy_store.read_policies(conn, sorted(tenants), customers)
        profiles = await kyc_store.read_profiles(conn, db.cipher, customers)
        unmatched = _unmatched(matcher, matches, payments, policies, profiles)
        if unmatched is not None:
            return unmatched
        keys = sorted({(one.tenant, one.key) for one in payments})
        transfers = sorted({(one.tenant, one.transfer) for one in payments})
        stored, reservations = await screening_store.find_decisions(conn, keys, transfers)
        decided = dict(stored)
        known = Knowledge(policies, profiles, matches, {}, reservations, now)
        undecided = [one for one in payments if (one.tenant, one.key) not in decided]
        wanted = [key for one in undecided for key in screening.usage_keys(one, known)]
        take = screening_store.read_usage if validate_only else screening_store.lock_usage
        known.usage.update(await take(conn, wanted))
        for payment in undecided:
            if (payment.tenant, payment.key) in decided:
                continue  # the same key twice in one batch
            screened = screening.decide(payment, known)
            decided[payment.tenant, payment.key] = screened.decision
            fresh.append(screened)
        if fresh and not validate_only:
            await _store(conn, db.cipher, terms, fresh)
        return decided

    for matchings_left in reversed(range(_MATCHINGS_MAX + 1)):
        decided = await until_not_raced(screening_store.RACED, lambda: db.run(tenants, work, read_only=validate_only))
        if not isinstance(decided, _Unmatched):
            if not validate_only:
                for screened in fresh:
                    SCREENED.labels(screened.decision.outcome.name).inc()
            return [decided[one.tenant, one.key] for one in payments]
        if matchings_left:
            matches.update(await matcher.match(decided.names, decided.lists))
    raise Contention


def _unmatched(
    matcher: Matcher,
    matches: dict[MatchKey, tuple[Match, ...]],
    payments: Sequence[Payment],
    policies: Mapping[str, Policies],
    profiles: Mapping[tuple[str, str], KycProfile],
) -> _Unmatched | None:
    """Fills `matches` with all that the payments need; what has to be matched first where it cannot, else None."""
    names: dict[str, list[str]] = {}
    for payment in payments:
        names.setdefault(payment.tenant, []).extend(screening.names_to_match(payment, profiles))
    lists = {tenant: policy.watchlists for tenant, policy in policies.items()}
    known = matcher.known(names, lists)
    # After a matching all are in `matches`, should there be more of them than the matcher remembers.
    if known is None and any(key not in matches for _, key in screening.match_keys(names, lists)):
        return _Unmatched(names, lists)
    matches.update(known or {})
    return None


async def _store(conn: AsyncConnection, cipher: Cipher, terms: Terms, fresh: Sequence[Screened]) -> None:
    decisions = [one.decision for one in fresh]
    reservations = [one.reservation for one in fresh if one.reservation is not None]
    cases = [_case(one, terms) for one in fresh if one.decision.has_case]
    sealed = [
        (case, case_store.seal_name(cipher, case.tenant, case.id, case.creditor_name))
        for case in sorted(cases, key=lambda case: (case.tenant, case.id))
    ]
    told = [*map(events.decision_made, decisions), *map(events.case_opened, cases)]
    await screening_store.store(conn, decisions, reservations, sealed, told, lease=terms.lease)


def _case(screened: Screened, terms: Terms) -> Case:
    payment, decision = screened.payment, screened.decision
    return Case(
        tenant=payment.tenant,
        id=decision.key,
        transfer=payment.transfer,
        debit_account=payment.debit_account,
        customer=payment.debit_customers[0] if payment.debit_customers else "",
        currency=payment.currency,
        amount=payment.amount,
        creditor_name=payment.creditor_name,
        state=CaseState.OPEN,
        requested_by=payment.requested_by,
        resolved_by="",
        reason="",
        version=1,
        create_time=decision.create_time,
        expire_time=decision.create_time + terms.case_time,
        resolve_time=None,
    )


async def end_transfers(conn: AsyncConnection, cipher: Cipher, ends: Mapping[tuple[str, str], End]) -> None:
    """Confirms or gives back the reservations of transfers that became final, and ends cases nobody needs now."""
    now = clock.now()
    await screening_store.end_transfers(conn, ends, now)
    # After the reservations: a screening that committed meanwhile has its case visible now.
    moot = await case_store.make_moot(conn, cipher, list(ends), now)
    await outbox.append(conn, [events.case_resolved(case) for case in moot])


async def prolong_leases(conn: AsyncConnection, leases: Mapping[tuple[str, str], datetime]) -> None:
    """Authorizations stand until these times: their reservations have not lapsed before."""
    await screening_store.prolong_leases(conn, {key: time + AUTHORIZATION_SETTLES for key, time in leases.items()})


async def watch(conn: AsyncConnection, now: datetime) -> tuple[int, int]:
    """Counts lapsed reservations, and rows of the last days that break INV-8, for the metrics."""
    # Two days back covers every time zone's today and yesterday.
    since: date = (now - timedelta(days=2)).date()
    lapsed, imbalanced = await screening_store.watch(conn, now, since)
    LAPSED.set(lapsed)
    IMBALANCED.set(imbalanced)
    return lapsed, imbalanced
