"""The decision about a payment, from what is known alone."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance import screening, traces
from compliance.model import (
    Check,
    KycProfile,
    KycState,
    Limit,
    LimitKind,
    ListedName,
    Match,
    Outcome,
    Payment,
    ReservationState,
    Rule,
    Usage,
    UsageKey,
    Watchlist,
    local_day,
    overall,
)
from compliance.screening import Knowledge, Policies
from florin.common.v1 import errors_pb2

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def profile(customer: str = "anna", state: KycState = KycState.VERIFIED, **changes: Any) -> KycProfile:
    """A profile in a state."""
    values: dict[str, Any] = {
        "tenant": "t",
        "customer": customer,
        "legal_name": f"{customer} example",
        "country_code": "AT",
        "birth_date": "",
        "state": state,
        "watchlist_matches": (),
        "submitted_by": "teller",
        "decided_by": "officer",
        "reason": "",
        "version": 2,
        "create_time": NOON,
        "update_time": NOON,
        **changes,
    }
    return KycProfile(**values)


def limit(kind: LimitKind, maximum: int, customer: str = "") -> Limit:
    """A limit in EUR."""
    return Limit("t", kind, "EUR", customer, maximum, 1, NOON, "operator")


def rule(expression: str, outcome: Outcome) -> Rule:
    """An enabled rule."""
    return Rule("t", "r", 3, expression, outcome, True, "", NOON, "operator")


def payment(amount: int = 100, **changes: Any) -> Payment:
    """A payment of anna's."""
    values: dict[str, Any] = {
        "tenant": "t",
        "key": uuid.uuid4(),
        "transfer": f"transfers/{uuid.uuid4()}",
        "requested_by": "anna",
        "principal_customer": "anna",
        "debit_account": "accounts/a",
        "credit_account": "accounts/b",
        "debit_customers": ("anna",),
        "currency": "EUR",
        "amount": amount,
        "creditor_name": "",
        "end_to_end_id": "",
        "remittance": "",
        **changes,
    }
    return Payment(**values)


def known(*profiles: KycProfile, matches: Any = None, now: datetime = NOON, **policies: Any) -> Knowledge:
    """What is known: verified anna, and the policies."""
    found = {(one.tenant, one.customer): one for one in profiles or (profile(),)}
    if "limits" in policies:
        policies["limits"] = {(one.kind, one.currency, one.customer): one for one in policies["limits"]}
    return Knowledge({"t": Policies(**policies)}, found, matches or {}, {}, {}, now)


def test_a_fresh_tenant_lets_verified_customers_pay() -> None:
    """No limits, no rules and no lists are no obstacle."""
    screened = screening.decide(payment(), known())
    assert screened.decision.outcome is Outcome.ALLOW
    assert [check.check for check in screened.decision.checks] == ["kyc"]


@pytest.mark.parametrize("state", [KycState.SUBMITTED, KycState.REJECTED, None])
def test_a_customer_who_is_not_verified_is_declined_without_a_reason(state: KycState | None) -> None:
    """The customer learns nothing in particular, the trace says it."""
    what = known(profile(state=state)) if state else known(profile("other"))
    screened = screening.decide(payment(), what)
    assert screened.decision.outcome is Outcome.DECLINE and screened.reservation is None
    assert screened.decision.refusal is not None
    assert screened.decision.refusal.reason == errors_pb2.REASON_PAYMENT_DECLINED
    assert screened.decision.refusal.metadata == {}


def test_the_banks_own_payments_need_no_customer() -> None:
    """Funding has no KYC and no limits per customer."""
    what = known(limits=[limit(LimitKind.PER_PAYMENT, 1)])
    screened = screening.decide(payment(10**12, debit_customers=(), principal_customer=""), what)
    assert screened.decision.outcome is Outcome.ALLOW and what.usage == {}


def test_payments_of_one_batch_see_each_others_reservations() -> None:
    """The third payment of 40 does not fit into 100 a day, and it is told what is left."""
    what = known(limits=[limit(LimitKind.PER_DAY, 100)])
    outcomes = [screening.decide(payment(40), what).decision for _ in range(3)]
    assert [one.outcome for one in outcomes] == [Outcome.ALLOW, Outcome.ALLOW, Outcome.DECLINE]
    assert outcomes[2].refusal is not None
    assert outcomes[2].refusal.reason == errors_pb2.REASON_LIMIT_EXCEEDED
    assert outcomes[2].refusal.metadata == {
        "limit": "limits/per-day-eur",
        "kind": "PER_DAY",
        "currency_code": "EUR",
        "maximum": "100",
        "requested": "40",
        "used": "80",
        "left": "20",
    }


def test_a_customers_own_limit_goes_before_the_default() -> None:
    """In both directions: it may be higher or lower."""
    limits = [limit(LimitKind.PER_PAYMENT, 10), limit(LimitKind.PER_PAYMENT, 1000, "anna")]
    assert screening.decide(payment(500), known(limits=limits)).decision.outcome is Outcome.ALLOW


def test_a_co_owners_use_is_not_told() -> None:
    """What bob used elsewhere stays his business when anna pays from their joint account."""
    what = known(profile(), profile("bob"), limits=[limit(LimitKind.PER_DAY, 100)])
    what.usage[UsageKey("t", "bob", "EUR", date(2026, 3, 2))] = Usage(90, 1)
    refusal = screening.decide(payment(40, debit_customers=("anna", "bob")), what).decision.refusal
    assert refusal is not None and refusal.reason == errors_pb2.REASON_LIMIT_EXCEEDED
    assert not {"used", "left", "limit"} & set(refusal.metadata)


def test_the_generic_answer_goes_before_the_limit() -> None:
    """Who is declined for two reasons is not told that the limit was one of them."""
    what = known(limits=[limit(LimitKind.PER_DAY, 1)], rules=[rule("true", Outcome.DECLINE)])
    decision = screening.decide(payment(), what).decision
    assert decision.refusal is not None and decision.refusal.reason == errors_pb2.REASON_PAYMENT_DECLINED
    assert [check.outcome for check in decision.checks] == [Outcome.ALLOW, Outcome.DECLINE, Outcome.DECLINE]


@pytest.mark.parametrize("other", list(Outcome))
def test_that_a_limit_is_exceeded_is_known_whatever_else_is_decided(other: Outcome) -> None:
    """A preview tells of limits and of nothing else, so it must not look as if the payment could be made."""
    limits, rules = [limit(LimitKind.PER_DAY, 99)], [rule("true", other)]
    told = screening.decide(payment(100), known(limits=limits, rules=rules)).decision.limit_refusal
    assert told is not None and (told.reason, told.metadata["left"]) == (errors_pb2.REASON_LIMIT_EXCEEDED, "99")
    assert screening.decide(payment(99), known(limits=limits, rules=rules)).decision.limit_refusal is None


def test_a_rule_that_cannot_be_evaluated_asks_a_person() -> None:
    """It may have meant this very payment."""
    what = known(rules=[rule("1 / (payment.hour - 12) > 3", Outcome.DECLINE)])
    decision = screening.decide(payment(), what).decision
    assert decision.outcome is Outcome.REVIEW and decision.has_case
    assert decision.checks[-1].facts == {"error": "ZeroDivisionError"} and decision.checks[-1].version == 3


def test_a_rule_sees_the_hour_of_the_tenants_clock() -> None:
    """Noon in UTC is nine in the evening in Tokyo."""
    what = known(rules=[rule("payment.hour == 21", Outcome.REVIEW)], time_zone="Asia/Tokyo")
    assert screening.decide(payment(), what).decision.outcome is Outcome.REVIEW


def test_a_listed_creditor_is_reviewed_and_the_score_recorded() -> None:
    """The trace names list, version, entry and score; the amount is reserved meanwhile."""
    sdn = Watchlist("t", "sdn", 4, 1, 1, "", NOON)
    hit = Match(ListedName("7", "MARCHENKOV, Viktor", alias=False), 0.93)
    what = known(
        watchlists=[sdn],
        matches={("t", "sdn", 4, "Viktor M"): (hit,), ("t", "sdn", 4, "anna example"): ()},
    )
    screened = screening.decide(payment(creditor_name="Viktor M"), what)
    assert screened.decision.outcome is Outcome.REVIEW and screened.reservation is not None
    check = screened.decision.checks[1]
    assert (check.check, check.version, check.facts["entry"], check.facts["score"]) == (
        "watchlist:watchlists/sdn",
        4,
        "7",
        "0.9300",
    )


def test_an_entry_that_the_officer_cleared_does_not_stop_the_customer_again() -> None:
    """Verified with the match in sight: the next entry would still count."""
    sdn = Watchlist("t", "sdn", 4, 1, 1, "", NOON)
    hits = {number: Match(ListedName(number, "ANNA EXAMPLE", alias=False), 1.0) for number in "78"}
    cleared = profile(watchlist_matches=("watchlists/sdn/7 1.0000 ANNA EXAMPLE",))
    name = ("t", "sdn", 4, "anna example")
    one = known(cleared, watchlists=[sdn], matches={name: (hits["7"],)})
    two = known(cleared, watchlists=[sdn], matches={name: (hits["7"], hits["8"])})
    assert screening.decide(payment(), one).decision.outcome is Outcome.ALLOW
    assert screening.decide(payment(), two).decision.outcome is Outcome.REVIEW


def test_a_transfer_that_ended_before_its_screening_is_declined() -> None:
    """A cancelled transfer must not hold a share of the limit for ever."""
    what, late = known(), payment()
    what.reservations["t", late.transfer] = ReservationState.RELEASED
    screened = screening.decide(late, what)
    assert screened.decision.outcome is Outcome.DECLINE and screened.reservation is None


def test_use_that_would_not_fit_64_bits_is_declined() -> None:
    """Without any limit, the counter itself is one."""
    what = known()
    assert screening.decide(payment(2**63 - 1), what).decision.outcome is Outcome.ALLOW
    assert screening.decide(payment(1), what).decision.outcome is Outcome.DECLINE


def test_days_begin_by_the_tenants_clock_also_when_it_changes() -> None:
    """Vienna, 29 March 2026 has 23 hours, 25 October has 25; payments count for the day on the wall."""
    zone = "Europe/Vienna"
    assert local_day(datetime(2026, 3, 28, 22, 59, tzinfo=UTC), zone) == date(2026, 3, 28)
    assert local_day(datetime(2026, 3, 28, 23, 0, tzinfo=UTC), zone) == date(2026, 3, 29)
    assert local_day(datetime(2026, 3, 29, 21, 59, tzinfo=UTC), zone) == date(2026, 3, 29)
    assert local_day(datetime(2026, 3, 29, 22, 0, tzinfo=UTC), zone) == date(2026, 3, 30)
    assert local_day(datetime(2026, 10, 24, 22, 0, tzinfo=UTC), zone) == date(2026, 10, 25)
    assert local_day(datetime(2026, 10, 25, 22, 59, tzinfo=UTC), zone) == date(2026, 10, 25)
    assert local_day(datetime(2026, 10, 25, 23, 0, tzinfo=UTC), zone) == date(2026, 10, 26)


def test_an_unknown_tenant_is_screened_in_utc() -> None:
    """Its customers are unknown as well, so nothing of theirs passes."""
    screened = screening.decide(payment(tenant="nobody"), known())
    assert screened.decision.outcome is Outcome.DECLINE


@given(st.lists(st.sampled_from(Outcome), max_size=8))
def test_decline_goes_before_review_before_allow(outcomes: list[Outcome]) -> None:
    """Whatever the order of the checks."""
    expected = (
        Outcome.DECLINE
        if Outcome.DECLINE in outcomes
        else Outcome.REVIEW
        if Outcome.REVIEW in outcomes
        else Outcome.ALLOW
    )
    assert overall([Check("c", outcome) for outcome in outcomes]) is expected


@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from(["anna", "bob"])), max_size=12), st.integers(0, 150))
def test_what_is_reserved_never_exceeds_the_limit(amounts: list[tuple[int, str]], maximum: int) -> None:
    """INV-8 within a batch: usage is the sum of what was let through, and within the limit."""
    what = known(profile(), profile("bob"), limits=[limit(LimitKind.PER_DAY, maximum)])
    passed = [screening.decide(payment(amount, debit_customers=(who,)), what) for amount, who in amounts]
    for who in ("anna", "bob"):
        used = what.usage.get(UsageKey("t", who, "EUR", NOON.date()), Usage())
        reserved = [one.reservation.amount for one in passed if one.reservation and one.reservation.customers == (who,)]
        assert used.used == sum(reserved) <= maximum and used.payments == len(reserved)


def test_a_decision_is_read_back_as_it_was_stored() -> None:
    """Trace and refusal survive their rows."""
    what = known(limits=[limit(LimitKind.PER_DAY, 1)])
    one = screening.decide(payment(), what).decision
    again = traces.decision(
        one.tenant,
        one.key,
        one.transfer,
        one.outcome.value,
        traces.seal(one.checks),
        traces.seal_refusal(one.refusal),
        one.has_case,
        one.create_time,
    )
    assert again == one
