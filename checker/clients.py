"""gRPC out: accounts, which freezes ledgers; no decisions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import grpc

from checker.findings import Violation
from florin.accounts.v1 import ledger_service_pb2 as pb
from florin.accounts.v1 import ledger_service_pb2_grpc as pb_grpc
from meshkit import channels, clock

_FINDINGS_MAX = 100  # of one call, by contract
_OBJECT_MAX, _SENTENCE_MAX = 200, 500
_TIMEOUT_SECONDS = 5.0


class AccountsClient:
    """accounts.LedgerService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: pb_grpc.LedgerServiceAsyncStub = pb_grpc.LedgerServiceStub(channel)

    async def freeze(
        self, tenant: str, currency: str, violations: Sequence[Violation], found_time: datetime, ended_freezes: int
    ) -> tuple[str, int]:
        """Freezes a ledger; gives the freeze's name, empty for none, and how many of the findings were new.

        Raises DomainError: Unavailable, or what accounts refuses.
        """
        name, fresh = "", 0
        for start in range(0, len(violations), _FINDINGS_MAX):
            request = _request(tenant, currency, violations[start : start + _FINDINGS_MAX], found_time, ended_freezes)
            call = channels.call(self._stub.FreezeLedger, request, service="accounts", timeout_s=_TIMEOUT_SECONDS)
            answer: pb.FreezeLedgerResponse = await call
            name, fresh = answer.ledger_freeze or name, fresh + answer.new_findings
        return name, fresh


def _request(
    tenant: str, currency: str, violations: Sequence[Violation], found_time: datetime, ended_freezes: int
) -> pb.FreezeLedgerRequest:
    findings = [
        pb.FreezeLedgerRequest.Finding(
            invariant=violation.invariant,
            object=violation.object[:_OBJECT_MAX],
            sentence=violation.sentence.removeprefix(":").strip()[:_SENTENCE_MAX],
            found_time=clock.timestamp(found_time),
        )
        for violation in violations
    ]
    return pb.FreezeLedgerRequest(tenant=tenant, currency_code=currency, findings=findings, ended_freezes=ended_freezes)
