"""Limits and cases while a sandbox's clock is moved."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from florin.compliance.v1 import policy_pb2
from tests.integration.compliance.conftest import ALLOW, DECLINE, REVIEW, Service
from tests.support.parts import eventually
from tests.support.sandbox import sandbox_in

DAY = timedelta(days=1)


async def test_a_days_limit_begins_anew_on_the_next_day(service: Service, tmp_path: Path) -> None:
    """Used up today, free tomorrow; INV-8 holds on both."""
    with sandbox_in(tmp_path) as sandbox:
        await service.verified("anna")
        await service.limit(policy_pb2.LIMIT_KIND_PER_DAY, 100)
        outcomes = [(await service.screen(service.step(100)))[0].outcome, (await service.screen(service.step(1)))[0]]
        assert (outcomes[0], outcomes[1].outcome) == (ALLOW, DECLINE)
        sandbox.advance(DAY)
        (allowed,) = await service.screen(service.step(100))
        assert allowed.outcome == ALLOW
        await service.check_usage()


async def test_a_review_is_over_when_its_time_is_passed_over(service: Service, tmp_path: Path) -> None:
    """The case that nobody resolved is declined by itself, as after three days."""
    with sandbox_in(tmp_path) as sandbox:
        await service.verified("anna")
        await service.rule("payment.amount_minor_units > 10", policy_pb2.RULE_OUTCOME_REVIEW)
        (asked,) = await service.screen(service.step(70))
        assert asked.outcome == REVIEW
        sandbox.advance(4 * DAY)

        async def told() -> bool:
            return await service.events(asked.case) == ["case_opened", "case_resolved"]

        await eventually(told)
