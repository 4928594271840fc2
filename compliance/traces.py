"""Decisions as bytes and back, in the contract's own messages; it must not interpret them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from compliance.model import Check, Decision, Outcome, Refusal
from florin.common.v1 import errors_pb2
from florin.compliance.v1 import decision_pb2


def to_message(checks: Sequence[Check]) -> decision_pb2.DecisionTrace:
    """A trace as the contract has it."""
    return decision_pb2.DecisionTrace(
        checks=[
            decision_pb2.DecisionTrace.Check(
                check=check.check,
                outcome=decision_pb2.DecisionOutcome.ValueType(check.outcome.value),
                version=check.version,
                facts=check.facts,
            )
            for check in checks
        ]
    )


def refusal_to_message(refusal: Refusal) -> errors_pb2.Refusal:
    """A refusal as the contract has it."""
    return errors_pb2.Refusal(
        reason=errors_pb2.Reason.ValueType(refusal.reason), message=refusal.message, metadata=refusal.metadata
    )


def seal(checks: Sequence[Check]) -> bytes:
    """A trace for its row."""
    return to_message(checks).SerializeToString(deterministic=True)


def seal_refusal(refusal: Refusal | None) -> bytes:
    """A refusal for its row; empty for none."""
    return b"" if refusal is None else refusal_to_message(refusal).SerializeToString(deterministic=True)


def decision(
    tenant: str,
    key: uuid.UUID,
    transfer: str,
    outcome: int,
    trace: bytes,
    refusal: bytes,
    has_case: bool,
    create_time: datetime,
) -> Decision:
    """A decision from its row."""
    checks = decision_pb2.DecisionTrace.FromString(bytes(trace)).checks
    kept = errors_pb2.Refusal.FromString(bytes(refusal)) if refusal else None
    return Decision(
        tenant=tenant,
        key=key,
        transfer=transfer,
        outcome=Outcome(outcome),
        checks=tuple(Check(check.check, Outcome(check.outcome), check.version, dict(check.facts)) for check in checks),
        refusal=None if kept is None else Refusal(kept.reason, kept.message, dict(kept.metadata)),
        has_case=has_case,
        create_time=create_time,
    )
