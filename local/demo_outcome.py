"""What a payment file has to come to, worked out without the mesh; it must not look at any answer of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from local.demo_bank import LIMITS, Party
from local.pay import Fate, Outcome
from meshkit import money
from transactions.payments.plan import PlannedPayment

WATCHED_PREFIX = "WATCHED-"
"""Payments to a name on the watchlist say so in the example's EndToEndId."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The fate of a payment, and its reason where it is refused."""

    fate: Fate
    reason: str = ""


def expected(planned: Sequence[PlannedPayment], parties: Sequence[Party]) -> dict[int, Expected]:
    """Number of a payment → what has to become of it, by limits, funds and repetition alone."""
    funds = {f"iban:{party.iban}": party.funds_minor for party in parties}
    firsts: dict[str, PlannedPayment] = {}
    found: dict[int, Expected] = {}
    for item in planned:
        found[item.number] = _one(item, firsts, funds)
    return found


def _one(item: PlannedPayment, firsts: dict[str, PlannedPayment], funds: dict[str, int]) -> Expected:
    request = item.request
    if request is None:
        return Expected(Fate.REFUSED, "REQUEST_INVALID")
    currency, amount = request.amount.currency_code, request.amount.minor_units
    if currency not in money.EXPONENTS:
        return Expected(Fate.REFUSED, "CURRENCY_UNKNOWN")
    first = firsts.setdefault(request.request_id, item)
    if first is not item:
        same = first.request == request
        return Expected(Fate.REPLAYED) if same else Expected(Fate.REFUSED, "REQUEST_ID_REUSED")
    if currency in LIMITS and amount > LIMITS[currency][0]:
        return Expected(Fate.DECLINED, "LIMIT_EXCEEDED")
    if amount > funds.get(request.debit_account, 0):
        return Expected(Fate.DECLINED, "INSUFFICIENT_FUNDS")
    funds[request.debit_account] -= amount
    watched = item.payment.end_to_end_id.startswith(WATCHED_PREFIX)
    return Expected(Fate.IN_REVIEW if watched else Fate.COMPLETED)


def event_of(step: str) -> str:
    """The type of the event of a step in a transfer's life."""
    return f"florin.transactions.transfer_{step}.v1"


def lives(outcomes: Sequence[Outcome], wanted: Mapping[int, Expected]) -> dict[str, set[str]]:
    """Type of an event → the transfers that it has to tell of."""
    found: dict[str, set[str]] = {event_of(step): set() for step in ("accepted", "held", "completed", "declined")}
    for outcome in outcomes:
        if outcome.transfer is None or outcome.fate not in (Fate.COMPLETED, Fate.DECLINED):
            continue
        name = outcome.transfer.name
        found[event_of("accepted")].add(name)
        found[event_of(outcome.fate.value)].add(name)
        if wanted[outcome.item.number].fate is Fate.IN_REVIEW:
            found[event_of("held")].add(name)
    return found


def surprises(outcomes: Sequence[Outcome], wanted: Mapping[int, Expected]) -> list[str]:
    """A sentence for every payment that did not come out as it had to."""
    found = []
    for outcome in outcomes:
        want = wanted[outcome.item.number]
        if (outcome.fate, outcome.reason) != (want.fate, want.reason):
            found.append(
                f"payment {outcome.item.number} ({outcome.end_to_end_id}) is {outcome.fate} {outcome.reason}".rstrip()
                + f", expected {want.fate} {want.reason}".rstrip()
            )
    return found


def balances(outcomes: Sequence[Outcome], parties: Sequence[Party]) -> dict[str, int]:
    """What has to stand on each party's account once the completed payments moved, in minor units."""
    by_iban = {f"iban:{party.iban}": party.account for party in parties}
    found = {party.account: party.funds_minor for party in parties}
    for outcome in outcomes:
        request = outcome.item.request
        if outcome.fate is Fate.COMPLETED and request is not None:
            found[by_iban[request.debit_account]] -= request.amount.minor_units
            found[by_iban[request.credit_account]] += request.amount.minor_units
    return found


def moved(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Currency → what the completed payments come to, in minor units."""
    sums: dict[str, int] = {}
    for outcome in outcomes:
        request = outcome.item.request
        if outcome.fate is Fate.COMPLETED and request is not None:
            currency = request.amount.currency_code
            sums[currency] = sums.get(currency, 0) + request.amount.minor_units
    return sums
