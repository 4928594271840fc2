"""The same screening asked at two replicas at once, and ends of transfers that meet it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import pytest

from compliance import screening_operations
from compliance.model import Decision, Match, Watchlist
from compliance.screening import MatchKey, match_keys
from compliance.screening_operations import Terms
from compliance.screening_rpc import payment_of
from florin.compliance.v1 import policy_pb2
from florin.compliance.v1 import screening_service_pb2 as screening_pb
from meshkit.errors import Contention
from tests.integration.compliance.conftest import Service
from tests.integration.compliance.test_screen_transfers import SDN

TERMS = Terms(lease=timedelta(hours=1), case_time=timedelta(hours=1))


class NoLists:
    """A matcher for tenants that have no watchlists."""

    async def match(
        self, wanted: Mapping[str, Iterable[str]], lists: Mapping[str, Sequence[Watchlist]]
    ) -> dict[MatchKey, tuple[Match, ...]]:
        """No list, no match."""
        return {}

    def known(
        self, wanted: Mapping[str, Iterable[str]], lists: Mapping[str, Sequence[Watchlist]]
    ) -> dict[MatchKey, tuple[Match, ...]]:
        """Nothing that would have to be matched."""
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


class Forgetful:
    """A matcher that remembers nothing, and imports a new list after each of the first `imports` matchings."""

    def __init__(self, service: Service, imports: int) -> None:
        self._service = service
        self._imports = imports
        self.matchings = 0

    async def match(
        self, wanted: Mapping[str, Iterable[str]], lists: Mapping[str, Sequence[Watchlist]]
    ) -> dict[MatchKey, tuple[Match, ...]]:
        """No name is on a list."""
        self.matchings += 1
        if self.matchings <= self._imports:
            await self._service.watchlist(SDN.replace("Viktor", f"Viktor {self.matchings}"))
        return {key: () for _, key in match_keys(wanted, lists)}

    def known(
        self, wanted: Mapping[str, Iterable[str]], lists: Mapping[str, Sequence[Watchlist]]
    ) -> dict[MatchKey, tuple[Match, ...]] | None:
        """Everything takes time."""
        return None if any(True for _ in match_keys(wanted, lists)) else {}


@pytest.mark.parametrize(("imports", "matchings"), [(0, 1), (2, 3)])
async def test_names_are_matched_with_the_versions_that_the_decision_names(
    service: Service, imports: int, matchings: int
) -> None:
    """A list that is imported between the matching and the decision is matched with, too."""
    await service.verified("anna")
    await service.watchlist(SDN)
    matcher = Forgetful(service, imports)
    payments = [payment_of(service.step(creditor_name="Viktor Marchenkov"), "step")]
    (decision,) = await screening_operations.screen_transfers(service.db, matcher, TERMS, payments)
    versions = {check.version for check in decision.checks if check.check == "watchlist:watchlists/sdn"}
    assert (matcher.matchings, versions) == (matchings, {imports + 1})


async def test_lists_that_never_stand_still_refuse_for_now(service: Service) -> None:
    """And nothing is decided or reserved."""
    await service.verified("anna")
    await service.watchlist(SDN)
    payments = [payment_of(service.step(creditor_name="Viktor Marchenkov"), "step")]
    with pytest.raises(Contention):
        await screening_operations.screen_transfers(service.db, Forgetful(service, 99), TERMS, payments)
    assert await service.rows("SELECT 1 FROM decisions") == await service.rows("SELECT 1 FROM reservations") == []
