"""ScreenTransfers against PostgreSQL: limits under concurrency, replays, reservations and their ends."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compliance import operations
from florin.accounts.v1 import events_pb2 as accounts_events
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2 as pb
from florin.compliance.v1 import policy_pb2
from florin.transactions.v1 import events_pb2 as transactions_events
from meshkit import clock
from tests.integration.compliance.conftest import ALLOW, DECLINE, REVIEW, Service, refused

PER_DAY = policy_pb2.LIMIT_KIND_PER_DAY
PER_PAYMENT = policy_pb2.LIMIT_KIND_PER_PAYMENT
NULLS = ",-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- "
SDN = f'1,"MARCHENKOV, Viktor","individual","T"{NULLS}\n'


async def test_a_verified_customer_of_a_fresh_tenant_may_pay(service: Service) -> None:
    """And one who is not verified, or not known, may not; the answer says nothing in particular."""
    await service.verified("anna")
    await service.know("bob")
    outcomes = await service.screen(service.step(), service.step(customer="bob"), service.step(customer="carl"))
    assert [one.outcome for one in outcomes] == [ALLOW, DECLINE, DECLINE]
    assert {(one.refusal.message, *one.refusal.metadata) for one in outcomes[1:]} == {("The payment was declined.",)}


async def test_a_key_gets_its_decision_again(service: Service) -> None:
    """Whatever the step says the second time, and in one batch as in two; nothing is reserved twice."""
    await service.verified("anna")
    step = service.step(70)
    first, twin = await service.screen(step, step)
    step.amount.minor_units = 5000
    step.creditor_name = "Somebody Else"
    (again,) = await service.screen(step)
    assert first == twin == again
    assert await service.used() == 70
    assert await service.events(first.decision) == ["decision_made"]
    await service.check_usage()


async def test_a_hundred_screenings_at_once_never_exceed_a_limit(service: Service) -> None:
    """100 payments of 30 into 1,000 a day: 33 fit."""
    await service.verified("anna")
    await service.limit(PER_DAY, 1000)
    outcomes = await asyncio.gather(*(service.screen(service.step(30)) for _ in range(100)))
    passed = [one for (one,) in outcomes if one.outcome == ALLOW]
    refusals = [one.refusal.metadata for (one,) in outcomes if one.outcome == DECLINE]
    assert len(passed) == 33 and await service.used() == 990
    assert {(one["limit"], one["left"]) for one in refusals} == {("limits/per-day-eur", "10")}
    await service.check_usage()


async def test_a_declined_transfer_gives_its_share_back_once(service: Service) -> None:
    """The event may come twice; a completed one keeps its share."""
    await service.verified("anna")
    await service.limit(PER_DAY, 100)
    steps = [service.step(60), service.step(40)]
    assert [one.outcome for one in await service.screen(*steps)] == [ALLOW, ALLOW]
    await service.end(steps[1].transfer, completed=True)
    for _ in range(2):
        await service.end(steps[0].transfer, completed=False)
    assert await service.used() == 40
    outcomes = await service.screen(service.step(61), service.step(60))
    assert [one.outcome for one in outcomes] == [DECLINE, ALLOW]
    await service.check_usage()


async def test_an_authorization_uses_its_amount_until_it_ends_and_then_what_was_captured(
    service: Service,
) -> None:
    """INV-8: part captures change nothing, the end gives back what was not moved, once; a void gives back all of it."""
    await service.verified("anna")
    captured, voided, expired = service.step(100), service.step(30), service.step(7)
    await service.screen(captured, voided, expired)

    def part(minor_units: int, *, ended: bool) -> transactions_events.TransferCaptured:
        amount = money_pb2.Money(currency_code="EUR", minor_units=minor_units)
        return transactions_events.TransferCaptured(transfer=captured.transfer, captured_amount=amount, ended=ended)

    until = clock.now() + timedelta(days=30)
    authorized = transactions_events.TransferAuthorized(transfer=captured.transfer)
    authorized.expire_time.FromDatetime(until)
    await service.consume(authorized, part(40, ended=False))
    assert await service.used() == 137
    ((lease,),) = await service.rows("SELECT lease_time FROM reservations WHERE transfer = %s", (captured.transfer,))
    assert lease >= until  # what stands for a month has not lapsed before
    for _ in range(2):
        await service.consume(part(60, ended=True))
        await service.consume(transactions_events.TransferVoided(transfer=voided.transfer))
        await service.consume(transactions_events.TransferExpired(transfer=expired.transfer))
        assert await service.used() == 60
        await service.check_usage()
    ((payments,),) = await service.rows("SELECT sum(payments) FROM limit_usage WHERE customer = 'anna'")
    assert payments == 1


async def test_a_transfer_that_was_cancelled_before_its_screening_reserves_nothing(service: Service) -> None:
    """Its end came first: the late screening finds it."""
    await service.verified("anna")
    step = service.step()
    await service.end(step.transfer, completed=False)
    (outcome,) = await service.screen(step)
    assert outcome.outcome == DECLINE and await service.used() == 0
    await service.check_usage()


async def test_validate_only_stores_nothing(service: Service) -> None:
    """The same answer, no rows, no events; and every check, since there is no decision to read them from."""
    await service.verified("anna")
    await service.limit(PER_PAYMENT, 50)
    outcomes = await service.screen(service.step(50), service.step(51), validate_only=True)
    assert [one.outcome for one in outcomes] == [ALLOW, DECLINE]
    assert await service.rows("SELECT 1 FROM decisions UNION ALL SELECT 1 FROM reservations") == []
    assert await service.events(outcomes[0].decision) == []
    checks = [(check.check.partition(":")[0], check.outcome) for check in outcomes[1].trace.checks]
    assert checks == [("kyc", ALLOW), ("limit", DECLINE)]
    assert [one.limit_refusal.metadata["requested"] for one in outcomes if one.HasField("limit_refusal")] == ["51"]
    for step in (service.step(50), service.step(51)):
        (decided,) = await service.screen(step)
        assert not decided.HasField("trace") and not decided.HasField("limit_refusal")


async def test_use_is_counted_by_the_tenants_day_and_currency(service: Service) -> None:
    """A tenant at the date line has its own date, and yen do not use up euros."""
    created = accounts_events.TenantCreated(tenant=f"tenants/{service.tenant}", time_zone="Pacific/Kiritimati")
    await service.consume(created)
    await service.verified("anna")
    await service.limit(PER_DAY, 100)
    outcomes = await service.screen(service.step(100), service.step(100, currency="JPY"), service.step(1))
    assert [one.outcome for one in outcomes] == [ALLOW, ALLOW, DECLINE]
    days = await service.rows("SELECT DISTINCT day FROM limit_usage")
    assert days == [((clock.now() + timedelta(hours=14)).date(),)]


async def test_a_listed_creditor_opens_a_case_and_the_trace_names_entry_and_version(service: Service) -> None:
    """The officer sees what matched; the answer to transactions carries no more than the case."""
    await service.verified("anna")
    await service.watchlist(SDN)
    step = service.step(creditor_name="Victor Marchenkov")
    (outcome,) = await service.screen(step)
    assert outcome.outcome == REVIEW and not outcome.HasField("refusal")
    request = pb.GetDecisionRequest(name=outcome.decision)
    decision = (await service.call("GetDecision", request, "compliance")).decision
    hits = [check for check in decision.trace.checks if check.outcome == REVIEW]
    assert [(hit.check, hit.version, hit.facts["entry"]) for hit in hits] == [("watchlist:watchlists/sdn", 1, "1")]
    assert await service.events(outcome.case) == ["case_opened"]
    assert await service.used() == 100
    case = (await service.call("GetCase", pb.GetCaseRequest(name=outcome.case), "compliance")).case
    assert case.creditor_name == "Victor Marchenkov" and case.requested_by == "payer"
    stored = await service.rows("SELECT creditor_name FROM cases")
    assert b"Marchenkov" not in bytes(stored[0][0])


async def test_a_new_version_of_a_list_counts_from_the_next_payment(service: Service) -> None:
    """Also when the one before was remembered for the same name."""
    await service.verified("anna")
    await service.watchlist(SDN)
    assert (await service.screen(service.step(creditor_name="Viktor Marchenkov")))[0].outcome == REVIEW
    changed = await service.watchlist(SDN.replace("MARCHENKOV", "TARASENKO"))
    assert changed.version == 2
    outcomes = await service.screen(
        service.step(creditor_name="Viktor Marchenkov"), service.step(creditor_name="Viktor Tarasenko")
    )
    assert [one.outcome for one in outcomes] == [ALLOW, REVIEW]


async def test_rules_apply_from_the_next_payment_with_their_version(service: Service) -> None:
    """A rule can decline; a changed one is another version."""
    await service.verified("anna")
    await service.rule("payment.amount_minor_units > 50", policy_pb2.RULE_OUTCOME_DECLINE)
    assert (await service.screen(service.step(51)))[0].outcome == DECLINE
    changed = await service.rule("payment.amount_minor_units > 500", policy_pb2.RULE_OUTCOME_DECLINE)
    assert changed.version == 2
    assert (await service.screen(service.step(51)))[0].outcome == ALLOW


@pytest.mark.parametrize("amount", [0, -5])
async def test_an_amount_that_is_not_positive_is_refused(service: Service, amount: int) -> None:
    """A negative amount would give a limit back."""
    async with refused("REQUEST_INVALID"):
        await service.screen(service.step(amount))


async def test_a_case_nobody_resolves_expires_once(service: Service) -> None:
    """The payment's share stays until the transfer's own event."""
    await service.rule("true", policy_pb2.RULE_OUTCOME_REVIEW)
    await service.verified("anna")
    (outcome,) = await service.screen(service.step())
    later = clock.now() + timedelta(hours=73)
    for _ in range(2):
        await service.db.run(
            service.tenant, lambda conn: operations.expire_cases(conn, service.db.cipher, later, limit=10)
        )
    assert await service.events(outcome.case) == ["case_opened", "case_resolved"]
    assert await service.used() == 100


_MOVES = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["screen", "complete", "decline", "replay"])), min_size=1, max_size=14
)


@pytest.fixture(scope="session")
async def payer(backend: Service) -> Service:
    """A tenant with a verified customer and a daily limit, for many examples."""
    made = Service(backend.parts, backend.db, backend.public, backend.internal)
    await made.verified("anna")
    return made


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(moves=_MOVES)
async def test_use_is_the_sum_of_live_and_captured_reservations_after_any_history(
    payer: Service, moves: list[tuple[int, str]]
) -> None:
    """INV-8 after screenings and ends in any order, with repeats, against the real database."""
    await _play(payer, moves)


async def _play(service: Service, moves: list[tuple[int, str]]) -> None:
    run = uuid.uuid4()
    steps: list[Any] = [
        service.step(10 * (at + 1), transfer=f"transfers/{run}-{at}", key=str(uuid.uuid5(run, str(at))))
        for at in range(6)
    ]
    answers: dict[str, Any] = {}
    for at, move in moves:
        step = steps[at]
        if move in ("screen", "replay"):
            batch = [step, steps[(at + 1) % 6]] if move == "replay" else [step]
            for outcome in await service.screen(*batch):
                assert answers.setdefault(outcome.key, outcome) == outcome
        else:
            await service.end(step.transfer, completed=move == "complete")
        await service.check_usage()
