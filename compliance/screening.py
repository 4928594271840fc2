"""Decides about payments from what is known; pure, so that the whole trace can be tested without a database.

Every check is made and recorded, also after a DECLINE: an officer sees all that was wrong, and a customer who mends
one thing is not surprised by the next. DECLINE goes before REVIEW, REVIEW before ALLOW.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from compliance import rules
from compliance.model import (
    Check,
    Decision,
    KycProfile,
    KycState,
    Limit,
    LimitExcess,
    LimitKind,
    Match,
    Outcome,
    Payment,
    Refusal,
    Reservation,
    ReservationState,
    Rule,
    Usage,
    UsageKey,
    Watchlist,
    local_day,
    local_time,
    overall,
)
from florin.common.v1 import errors_pb2
from meshkit import money

UNKNOWN_TENANT_ZONE = "UTC"
"""Days of a tenant whose event did not arrive yet; only the bank's own payments can come before it."""

MatchKey = tuple[str, str, int, str]
"""(tenant, watchlist id, version, name)."""


@dataclass(frozen=True, slots=True)
class Policies:
    """What one tenant's payments are held against. A fresh tenant has none of it."""

    time_zone: str = UNKNOWN_TENANT_ZONE
    limits: Mapping[tuple[LimitKind, str, str], Limit] = field(default_factory=dict)
    """By kind, currency and customer id (empty: the default)."""
    rules: Sequence[Rule] = ()
    watchlists: Sequence[Watchlist] = ()


@dataclass(frozen=True, slots=True)
class Knowledge:
    """All that a batch of payments is decided from. `usage` and `reservations` grow while the batch is decided."""

    policies: Mapping[str, Policies]
    profiles: Mapping[tuple[str, str], KycProfile]
    matches: Mapping[MatchKey, tuple[Match, ...]]
    usage: dict[UsageKey, Usage]
    reservations: dict[tuple[str, str], ReservationState]
    """What is known of transfers already: those that ended before, or were screened under another key."""
    now: datetime

    def of(self, tenant: str) -> Policies:
        """A tenant's policies."""
        return self.policies.get(tenant, Policies())


@dataclass(frozen=True, slots=True)
class Screened:
    """A decision and what it reserves."""

    payment: Payment
    decision: Decision
    reservation: Reservation | None


def decide(payment: Payment, known: Knowledge) -> Screened:
    """Decides about one payment and counts its reservation in `known.usage`, for the payments after it."""
    excesses: list[LimitExcess] = []
    checks = [
        *_check_end(payment, known),
        *_check_kyc(payment, known),
        *_check_limits(payment, known, excesses),
        *_check_rules(payment, known),
        *_check_watchlists(payment, known),
    ]
    outcome = overall(checks)
    reservation = None
    if outcome is not Outcome.DECLINE:
        day = local_day(known.now, known.of(payment.tenant).time_zone)
        reservation = Reservation(
            payment.tenant,
            payment.transfer,
            payment.key,
            payment.debit_customers,
            payment.currency,
            day,
            payment.amount,
        )
        for key in usage_keys(payment, known):
            usage = known.usage.setdefault(key, Usage())
            usage.used += payment.amount
            usage.payments += 1
    decision = Decision(
        tenant=payment.tenant,
        key=payment.key,
        transfer=payment.transfer,
        outcome=outcome,
        checks=tuple(checks),
        refusal=_refusal(payment, checks, excesses) if outcome is Outcome.DECLINE else None,
        has_case=outcome is Outcome.REVIEW,
        create_time=known.now,
        limit_refusal=_limit_refusal(payment, excesses[0]) if excesses else None,
    )
    return Screened(payment, decision, reservation)


def usage_keys(payment: Payment, known: Knowledge) -> list[UsageKey]:
    """What a payment counts under: each owner of the paying account, on the tenant's day."""
    day = local_day(known.now, known.of(payment.tenant).time_zone)
    return [UsageKey(payment.tenant, customer, payment.currency, day) for customer in payment.debit_customers]


def names_to_match(payment: Payment, known_profiles: Mapping[tuple[str, str], KycProfile]) -> Iterator[str]:
    """The names that a payment is matched by: the creditor's, as the payer writes it, and its debtors' legal ones."""
    if payment.creditor_name:
        yield payment.creditor_name
    for customer in payment.debit_customers:
        profile = known_profiles.get((payment.tenant, customer))
        if profile is not None:
            yield profile.legal_name


def match_keys(
    wanted: Mapping[str, Iterable[str]], lists: Mapping[str, Sequence[Watchlist]]
) -> Iterator[tuple[Watchlist, MatchKey]]:
    """What has to be matched: each of a tenant's names with each of its lists, once."""
    for tenant, names in wanted.items():
        distinct = sorted(set(names))
        for watchlist in lists.get(tenant, ()):
            for name in distinct:
                yield watchlist, (tenant, watchlist.id, watchlist.version, name)


def _check_end(payment: Payment, known: Knowledge) -> Iterator[Check]:
    """A transfer that ended before its screening, for example because it was cancelled, may not go on.

    Nor one that holds a reservation under another key: a transfer has one screening, so something is wrong.
    """
    state = known.reservations.get((payment.tenant, payment.transfer))
    if state is not None:
        why = "screened under another key" if state is ReservationState.LIVE else "ended before it was screened"
        yield Check("transfer", Outcome.DECLINE, facts={"state": why})


def _check_kyc(payment: Payment, known: Knowledge) -> Iterator[Check]:
    if not payment.debit_customers:
        yield Check("kyc", Outcome.ALLOW, facts={"debtor": "the bank's own account"})
    for customer in payment.debit_customers:
        profile = known.profiles.get((payment.tenant, customer))
        verified = profile is not None and profile.state is KycState.VERIFIED
        yield Check(
            "kyc",
            Outcome.ALLOW if verified else Outcome.DECLINE,
            version=profile.version if profile else 0,
            facts={"customer": f"customers/{customer}", "state": profile.state.name if profile else "UNKNOWN"},
        )


def _check_limits(payment: Payment, known: Knowledge, excesses: list[LimitExcess]) -> Iterator[Check]:
    policies = known.of(payment.tenant)
    for key in usage_keys(payment, known):
        usage = known.usage.get(key, Usage())
        if usage.used + payment.amount > money.INT64_MAX:
            yield Check("limit:capacity", Outcome.DECLINE, facts={"customer": f"customers/{key.customer}"})
        for kind in LimitKind:
            limit = policies.limits.get((kind, payment.currency, key.customer)) or policies.limits.get(
                (kind, payment.currency, "")
            )
            if limit is None:
                continue
            used = 0 if kind is LimitKind.PER_PAYMENT else usage.used
            exceeded = used + payment.amount > limit.maximum
            if exceeded:
                excesses.append(LimitExcess(limit, key.customer, used, payment.amount))
            yield Check(
                f"limit:{limit.name}",
                Outcome.DECLINE if exceeded else Outcome.ALLOW,
                version=limit.version,
                facts={
                    "customer": f"customers/{key.customer}",
                    "currency_code": limit.currency,
                    "maximum": str(limit.maximum),
                    "used": str(used),
                    "requested": str(payment.amount),
                    "day": key.day.isoformat(),
                },
            )


def rule_facts(payment: Payment, known: Knowledge) -> rules.Facts:
    """What a rule's expression may speak of; the contract's comment on Rule lists it."""
    hour = local_time(known.now, known.of(payment.tenant).time_zone).hour
    keys = usage_keys(payment, known)
    # The first owner of a joint account speaks for it; the limits count for each of them.
    first = keys[0].customer if keys else ""
    profile = known.profiles.get((payment.tenant, first))
    usage = known.usage.get(keys[0], Usage()) if keys else Usage()
    return {
        "payment": {
            "amount_minor_units": payment.amount,
            "currency_code": payment.currency,
            "creditor_name": payment.creditor_name,
            "end_to_end_id": payment.end_to_end_id,
            "remittance": payment.remittance,
            "debit_account": payment.debit_account,
            "credit_account": payment.credit_account,
            "hour": hour,
        },
        "debtor": {
            "customer": f"customers/{first}" if first else "",
            "country_code": profile.country_code if profile else "",
            "kyc_state": profile.state.name if profile else "",
            "payments_today": usage.payments,
            "used_today_minor_units": usage.used,
        },
    }


def _check_rules(payment: Payment, known: Knowledge) -> Iterator[Check]:
    policies = known.of(payment.tenant)
    facts = rule_facts(payment, known) if policies.rules else {}
    for rule in policies.rules:
        verdict = rules.evaluate(rule.expression, facts)
        if verdict.error:
            # A rule that cannot be evaluated may have meant this very payment: a person looks at it.
            yield Check(f"rule:{rule.name}", Outcome.REVIEW, rule.version, {"error": verdict.error})
        else:
            outcome = rule.outcome if verdict.holds else Outcome.ALLOW
            yield Check(f"rule:{rule.name}", outcome, rule.version, {"holds": str(verdict.holds).lower()})


def _check_watchlists(payment: Payment, known: Knowledge) -> Iterator[Check]:
    for watchlist in known.of(payment.tenant).watchlists:
        if payment.creditor_name:
            yield _watchlist_check(payment, known, watchlist, "creditor", payment.creditor_name, frozenset())
        for customer in payment.debit_customers:
            profile = known.profiles.get((payment.tenant, customer))
            if profile is not None:
                party = f"customers/{customer}"
                yield _watchlist_check(payment, known, watchlist, party, profile.legal_name, profile.cleared)


def _watchlist_check(
    payment: Payment, known: Knowledge, watchlist: Watchlist, party: str, name: str, cleared: frozenset[str]
) -> Check:
    """One name against one list. Entries that an officer saw when verifying the customer do not count again."""
    check = f"watchlist:{watchlist.name}"
    found = known.matches[payment.tenant, watchlist.id, watchlist.version, name]
    counted = [match for match in found if f"{watchlist.name}/{match.listed.entry}" not in cleared]
    if not counted:
        facts = {"party": party, "matches": "0"}
        if found:
            facts["cleared"] = " ".join(match.listed.entry for match in found)
        return Check(check, Outcome.ALLOW, watchlist.version, facts)
    best = counted[0]
    facts = {
        "party": party,
        "matches": str(len(counted)),
        "entry": best.listed.entry,
        "name": best.listed.name,
        "alias": str(best.listed.alias).lower(),
        "score": f"{best.score:.4f}",
    }
    return Check(check, Outcome.REVIEW, watchlist.version, facts)


def _refusal(payment: Payment, checks: Sequence[Check], excesses: Sequence[LimitExcess]) -> Refusal:
    """What the customer may know: a limit with its figures if that is all that was wrong, else nothing in particular.

    The generic answer goes first: who learns that only the limit was in the way also learns that nothing else was.
    """
    declined = sum(check.outcome is Outcome.DECLINE for check in checks)
    if not excesses or declined > len(excesses):
        return Refusal(errors_pb2.REASON_PAYMENT_DECLINED, "The payment was declined.", {})
    return _limit_refusal(payment, excesses[0])


def _limit_refusal(payment: Payment, excess: LimitExcess) -> Refusal:
    limit = excess.limit
    metadata = {
        "limit": limit.name,
        "kind": limit.kind.name,
        "currency_code": limit.currency,
        "maximum": str(limit.maximum),
        "requested": str(excess.requested),
    }
    maximum = f"{money.format_minor(limit.maximum, limit.currency)} {limit.currency}"
    # What another owner of a joint account used elsewhere is that person's business.
    if payment.principal_customer and payment.principal_customer != excess.customer:
        del metadata["limit"]
        return Refusal(errors_pb2.REASON_LIMIT_EXCEEDED, f"A limit of {maximum} would be exceeded.", metadata)
    metadata |= {"used": str(excess.used), "left": str(excess.left)}
    left = f"{money.format_minor(excess.left, limit.currency)} {limit.currency}"
    period = "per day" if limit.kind is LimitKind.PER_DAY else "per payment"
    return Refusal(
        errors_pb2.REASON_LIMIT_EXCEEDED, f"The limit {period} is {maximum}; {left} of it are left.", metadata
    )
