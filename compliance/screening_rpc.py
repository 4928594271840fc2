"""ScreeningService in: steps to payments, their decisions back; it must not hold SQL or decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence

from compliance import messages, screening_operations
from compliance.model import Decision, Payment
from compliance.screening_operations import Matcher, Terms
from florin.compliance.v1 import screening_service_pb2 as pb
from florin.compliance.v1 import screening_service_pb2_grpc as pb_grpc
from meshkit import identity
from meshkit.batching import Batcher
from meshkit.database import Database
from meshkit.errors import RequestInvalid

_CUSTOMER = re.compile(r"customers/([a-z0-9][a-z0-9-]{0,62})")
_BATCHES_AT_ONCE = 2
"""A batch with names that were never seen is matched while the next is decided."""


class ScreeningService(pb_grpc.ScreeningServiceServicer):
    """florin.compliance.v1.ScreeningService."""

    def __init__(self, db: Database, matcher: Matcher, terms: Terms, *, batch_max: int) -> None:
        self._db = db
        self._matcher = matcher
        self._terms = terms
        self.batcher: Batcher[Payment, Decision] = Batcher(
            "screen", self._screen, batch_max=batch_max, concurrency=_BATCHES_AT_ONCE
        )

    async def ScreenTransfers(self, request: pb.ScreenTransfersRequest, context: object) -> pb.ScreenTransfersResponse:
        """See the contract."""
        payments = [payment_of(step, f"steps[{at}]") for at, step in enumerate(request.steps)]
        if request.validate_only:
            decisions: Sequence[Decision | BaseException] = await screening_operations.screen_transfers(
                self._db, self._matcher, self._terms, payments, validate_only=True
            )
        else:
            decisions = await self.batcher.submit_all(payments, deadline=identity.current().deadline)
        outcomes = []
        for decision in decisions:
            if isinstance(decision, BaseException):
                # The answer has no place for one step's failure; what was decided is given again when it is repeated.
                raise decision
            outcomes.append(messages.outcome(decision, traced=request.validate_only))
        return pb.ScreenTransfersResponse(outcomes=outcomes)

    async def _screen(self, payments: Sequence[Payment]) -> Sequence[Decision | BaseException]:
        return await screening_operations.screen_transfers(self._db, self._matcher, self._terms, payments)


def payment_of(step: pb.ScreeningStep, path: str) -> Payment:
    """A step as a payment. Raises RequestInvalid for what the contract's rules do not catch."""
    violations = []
    if step.amount.minor_units <= 0:
        violations.append((f"{path}.amount.minor_units", "it must be positive"))
    debit = [_CUSTOMER.fullmatch(name) for name in step.debit_customers]
    if any(found is None for found in debit):
        violations.append((f"{path}.debit_customers", 'each is "customers/{customer}"'))
    if any("\0" in text for text in (step.transfer, step.debit_account, step.principal.subject)):
        violations.append((path, "no text may hold a NUL character"))
    if violations:
        raise RequestInvalid(violations)
    return Payment(
        tenant=step.principal.tenant,
        key=uuid.UUID(step.key),
        transfer=step.transfer,
        requested_by=step.principal.subject,
        principal_customer=step.principal.customer.removeprefix("customers/"),
        debit_account=step.debit_account,
        credit_account=step.credit_account,
        # Each once: a customer named twice would be counted twice.
        debit_customers=tuple(dict.fromkeys(found[1] for found in debit if found is not None)),
        currency=step.amount.currency_code,
        amount=step.amount.minor_units,
        creditor_name=step.creditor_name,
        end_to_end_id=step.end_to_end_id,
        remittance=step.remittance,
    )
