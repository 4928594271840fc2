"""What a service answered beside what the oracle says, step by step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from florin.accounts.v1 import journal_pb2
from florin.compliance.v1 import decision_pb2
from meshkit.errors import reason_name, reason_of
from tests.simulation.oracle import Move, Oracle, Wrong
from transactions.model import Transfer


class Comparison:
    """Each step of a call beside what the oracle makes of it."""

    def __init__(
        self, oracle: Oracle, now: datetime, name_of: Callable[[str], str], record_of: Callable[[str], Transfer]
    ) -> None:
        self._oracle = oracle
        self._now = now
        self._name_of = name_of
        self._record_of = record_of
        """What stands of a transfer: when it was made, and what it belongs to."""

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
        oracle, name, (debit, credit, *_) = self._oracle, step.origin, step.legs
        of = self._name_of(step.hold_key) if step.hold_key else ""
        amount, is_reversal = -debit.amount.minor_units, step.kind == journal_pb2.JOURNAL_KIND_REVERSAL
        had_moved = name in oracle.moved
        fee = oracle.paid[name] if had_moved else self._fee(name, amount)
        move = Move(debit.account, credit.account, amount, fee, of, step.keep_hold, is_reversal, *self._got(name))
        reason = oracle.post(name, move, self._now)
        legs = [(leg.account, leg.amount.minor_units) for leg in step.legs]
        if legs != move.legs():
            raise Wrong(f"{name} has the legs {legs}, it should have {move.legs()}")
        if not reason and not had_moved and not is_reversal:
            oracle.allow(of or name)
        return reason

    def _got(self, name: str) -> tuple[int | None, bool]:
        """What a payee gets in another currency, and whether it comes back: what is undone may be undone too."""
        is_back = False
        while original := self._record_of(name).reversal_of:
            name, is_back = f"transfers/{original}", not is_back
        offer = self._oracle.offers.get(name)
        if offer is None:
            return None, False
        return (offer.amount if is_back else offer.got), is_back

    def _fee(self, name: str, amount: int) -> int:
        """What a transfer costs now, or gives back."""
        oracle, record = self._oracle, self._record_of(name)
        if record.reversal_of:
            return oracle.paid[f"transfers/{record.reversal_of}"] if name in oracle.returning else 0
        if record.capture_of:
            of = self._record_of(f"transfers/{record.capture_of}")
            return oracle.fee_of_capture(of.name, of.amount, amount, of.create_time)
        return oracle.fee("EXCHANGE" if name in oracle.offers else "PAYMENT", amount, record.create_time)

    def _PlaceHolds(self, step: Any) -> str:
        until = step.expire_time.ToDatetime(tzinfo=self._now.tzinfo) if step.HasField("expire_time") else None
        record, kept = self._record_of(step.origin), step.amount.minor_units
        exchanged = "EXCHANGE" if step.origin in self._oracle.offers else "PAYMENT"
        kind = "AUTHORIZATION" if record.is_authorization else exchanged
        expected = record.amount + self._oracle.fee(kind, record.amount, record.create_time)
        if kept != expected:
            raise Wrong(f"{step.origin} holds {kept}, it should hold {expected}")
        return self._oracle.hold(step.origin, step.account, kept, until)

    def _ReleaseHolds(self, step: Any) -> str:
        return self._oracle.release(self._name_of(step.hold_key), self._now)

    def _CancelSteps(self, step: Any) -> str:
        return self._oracle.cancel(self._name_of(step.key))

    def _ScreenTransfers(self, step: Any) -> str:
        return self._oracle.screen(step.transfer, step.debit_account, step.amount.minor_units, self._now)
