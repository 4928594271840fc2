"""What a service answered beside what the oracle says, step by step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from florin.accounts.v1 import journal_pb2
from florin.compliance.v1 import decision_pb2
from meshkit.errors import reason_name, reason_of
from tests.simulation.oracle import Oracle, Wrong


class Comparison:
    """Each step of a call beside what the oracle makes of it."""

    def __init__(self, oracle: Oracle, now: datetime, name_of: Callable[[str], str]) -> None:
        self._oracle = oracle
        self._now = now
        self._name_of = name_of

    def compare(self, name: str, request: Any, response: Any) -> None:
        """Raises Wrong where they differ."""
        if name == "ResolveAccounts":
            return
        check = getattr(self, f"_{name}")
        for step, outcome in zip(request.steps, response.outcomes, strict=True):
            expected = check(step)
            if name == "ScreenTransfers":
                found = decision_pb2.DecisionOutcome.Name(outcome.outcome).removeprefix("DECISION_OUTCOME_")
            else:
                refused = outcome.HasField("refusal")
                found = reason_name(reason_of(outcome.refusal)) if refused else ""
            if found != expected:
                raise Wrong(f"{name} came to {found or 'yes'}, it should be {expected or 'yes'}: {step}")

    def _PostJournals(self, step: Any) -> str:
        debit, credit = step.legs
        of = self._name_of(step.hold_key) if step.hold_key else ""
        had_moved = step.origin in self._oracle.moved
        amount = credit.amount.minor_units
        reason = self._oracle.post(
            step.origin, debit.account, credit.account, amount, self._now, of=of, keep=step.keep_hold
        )
        if not reason and not had_moved and step.kind != journal_pb2.JOURNAL_KIND_REVERSAL:
            self._oracle.allow(of or step.origin)
        return reason

    def _PlaceHolds(self, step: Any) -> str:
        until = step.expire_time.ToDatetime(tzinfo=self._now.tzinfo) if step.HasField("expire_time") else None
        return self._oracle.hold(step.origin, step.account, step.amount.minor_units, until)

    def _ReleaseHolds(self, step: Any) -> str:
        return self._oracle.release(self._name_of(step.hold_key), self._now)

    def _CancelSteps(self, step: Any) -> str:
        return self._oracle.cancel(self._name_of(step.key))

    def _ScreenTransfers(self, step: Any) -> str:
        return self._oracle.screen(step.transfer, step.debit_account, step.amount.minor_units, self._now)
