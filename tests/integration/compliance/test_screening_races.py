"""The same screening asked at two replicas at once, and ends of transfers that meet it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import pytest

from compliance import screening_operations
from compliance.model import Decision, Match, Watchlist
from compliance.screening import MatchKey
from compliance.screening_operations import Terms
from compliance.screening_rpc import payment_of
from florin.compliance.v1 import policy_pb2
from florin.compliance.v1 import screening_service_pb2 as screening_pb
from tests.integration.compliance.conftest import Service

TERMS = Terms(lease=timedelta(hours=1), case_time=timedelta(hours=1))


class NoLists:
    """A matcher for tenants that have no watchlists."""

    async def match(
        self, wanted: Mapping[str, Iterable[str]], lists: Mapping[str, Sequence[Watchlist]]
    ) -> dict[MatchKey, tuple[Match, ...]]:
        """No list, no match."""
        return {}


async def _screen(service: Service, step: screening_pb.ScreeningStep) -> Decision:
    payments = [payment_of(step, "step")]
    (decision,) = await screening_operations.screen_transfers(service.db, NoLists(), TERMS, payments)
    return decision


@pytest.mark.parametrize("customer", ["anna", ""])
@pytest.mark.parametrize("expression", ["payment.amount_minor_units > 50", "payment.amount_minor_units > 5000"])
async def test_replicas_that_screen_one_payment_at_once_agree(service: Service, customer: str, expression: str) -> None:
    """INV-5: one of them decides, the others read its decision; none of them fails, with a case or without."""
    await service.verified("anna")
    await service.rule(expression, policy_pb2.RULE_OUTCOME_REVIEW)
    for _ in range(10):
        step = service.step(customer=customer)
        decisions = await asyncio.gather(*(_screen(service, step) for _ in range(4)))
        assert len({(decision.outcome, decision.case) for decision in decisions}) == 1
        assert await service.events(decisions[0].name) == ["decision_made"]
    await service.check_usage()
