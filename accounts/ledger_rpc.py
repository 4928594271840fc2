"""LedgerService over gRPC, for other services alone: steps in, outcomes out; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import freeze_operations, outcomes, posting
from accounts.book import FUND_SCOPE, Actor, Cancel, Leg, Place, Post, Release, Seen, Step
from accounts.freezes import Finding, Freeze
from accounts.model import JournalKind
from accounts.orders import Item
from florin.accounts.v1 import ledger_service_pb2 as pb
from florin.accounts.v1 import ledger_service_pb2_grpc as pb_grpc
from florin.common.v1 import principal_pb2
from meshkit import identity
from meshkit.batching import Batcher
from meshkit.database import Database
from meshkit.errors import RequestInvalid


class LedgerService(pb_grpc.LedgerServiceServicer):
    """The internal methods. All steps go through one batcher, so that one transaction takes all kinds of them."""

    def __init__(self, db: Database, ledger: Batcher[Item, pb.StepOutcome]) -> None:
        self._db = db
        self._ledger = ledger

    async def ResolveAccounts(self, request: pb.ResolveAccountsRequest, context: Any) -> pb.ResolveAccountsResponse:
        """Answers what references stand for."""
        pairs = [(one.tenant, one.reference) for one in request.references]
        found = await posting.resolve_accounts(self._db, pairs)
        response = pb.ResolveAccountsResponse()
        for (_, reference), facts in zip(pairs, found, strict=True):
            answer = response.accounts.add(reference=reference)
            if facts is not None:
                answer.account = f"accounts/{facts.account}"
                answer.currency_code = facts.currency
                answer.type = facts.type.value  # type: ignore[assignment]
                answer.customers.extend(outcomes.customers(facts.owners))
        return response

    async def DescribeAccount(self, request: pb.DescribeAccountRequest, context: Any) -> pb.DescribeAccountResponse:
        """Answers what another bank is told of an account that pays."""
        iban, names = await posting.describe_account(self._db, request.tenant, request.account)
        return pb.DescribeAccountResponse(iban=iban, owner_names=names)

    async def PostJournals(self, request: pb.PostJournalsRequest, context: Any) -> pb.PostJournalsResponse:
        """Posts journals, or says what posting them would come to."""
        steps = [_post(position, step) for position, step in enumerate(request.steps)]
        if request.validate_only:
            return pb.PostJournalsResponse(outcomes=await posting.preview_steps(self._db, steps))
        return pb.PostJournalsResponse(outcomes=await self._outcomes(steps))

    async def PlaceHolds(self, request: pb.PlaceHoldsRequest, context: Any) -> pb.PlaceHoldsResponse:
        """Places holds."""
        steps = [_place(position, step) for position, step in enumerate(request.steps)]
        return pb.PlaceHoldsResponse(outcomes=await self._outcomes(steps))

    async def ReleaseHolds(self, request: pb.ReleaseHoldsRequest, context: Any) -> pb.ReleaseHoldsResponse:
        """Gives holds back."""
        steps = [Release(step.tenant, step.hold_key.lower()) for step in request.steps]
        return pb.ReleaseHoldsResponse(outcomes=await self._outcomes(steps))

    async def CancelSteps(self, request: pb.CancelStepsRequest, context: Any) -> pb.CancelStepsResponse:
        """Makes sure that steps that were not done never will be."""
        steps = [Cancel(step.tenant, step.key.lower()) for step in request.steps]
        return pb.CancelStepsResponse(outcomes=await self._outcomes(steps))

    async def FreezeLedger(self, request: pb.FreezeLedgerRequest, context: Any) -> pb.FreezeLedgerResponse:
        """Keeps journals and holds out of a ledger."""
        call = identity.current()
        findings = [
            Finding(
                tenant=request.tenant,
                currency=request.currency_code,
                invariant=finding.invariant,
                object=finding.object,
                sentence=finding.sentence,
                found_time=_moment(finding.found_time, f"findings[{position}].found_time"),
            )
            for position, finding in enumerate(request.findings)
        ]

        async def work(conn: AsyncConnection) -> tuple[Freeze | None, int]:
            return await freeze_operations.freeze_ledger(
                conn, call, request.tenant, request.currency_code, findings, request.ended_freezes
            )

        freeze, fresh = await self._db.run(request.tenant, work)
        return pb.FreezeLedgerResponse(ledger_freeze="" if freeze is None else freeze.name, new_findings=fresh)

    async def _outcomes(self, steps: Sequence[Step]) -> list[pb.StepOutcome]:
        """Every step's outcome. If one could not be had, the call fails: asked again, the others answer as before."""
        items = [Item(step) for step in steps]
        answers = await self._ledger.submit_all(items, deadline=identity.current().deadline)
        done: list[pb.StepOutcome] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            done.append(answer)
        return done


def _post(position: int, step: pb.JournalStep) -> Post:
    return Post(
        tenant=step.principal.tenant,
        key=step.key.lower(),
        actor=_actor(step.principal),
        kind=JournalKind(step.kind),
        origin=step.origin,
        legs=tuple(
            Leg(leg.account, leg.amount.currency_code, leg.amount.minor_units, leg.position) for leg in step.legs
        ),
        hold_key=_uuid(step.hold_key, f"steps[{position}].hold_key"),
        effective_time=_moment(step.effective_time, f"steps[{position}].effective_time")
        if step.HasField("effective_time")
        else None,
        keep_hold=step.keep_hold,
        seen=_seen(step) if step.HasField("expected_version") else None,
    )


def _place(position: int, step: pb.HoldStep) -> Place:
    return Place(
        tenant=step.principal.tenant,
        key=step.key.lower(),
        actor=_actor(step.principal),
        origin=step.origin,
        reference=step.account,
        currency=step.amount.currency_code,
        amount=step.amount.minor_units,
        expire_time=_moment(step.expire_time, f"steps[{position}].expire_time")
        if step.HasField("expire_time")
        else None,
        seen=_seen(step) if step.HasField("expected_version") else None,
    )


def _seen(step: pb.JournalStep | pb.HoldStep) -> Seen:
    has_available = step.HasField("expected_available_minor_units")
    return Seen(step.expected_version, step.expected_available_minor_units if has_available else None)


def _actor(principal: principal_pb2.Principal) -> Actor:
    customer = principal.customer.rpartition("/")[2]
    return Actor(customer=customer or None, may_fund=FUND_SCOPE in principal.scopes)


def _uuid(text: str, field: str) -> str:
    # The contract bounds its length only, since it may be empty.
    if text:
        try:
            return str(uuid.UUID(text))
        except ValueError:
            raise RequestInvalid([(field, "must be a UUID or empty")]) from None
    return ""


def _moment(moment: Timestamp, field: str) -> datetime:
    try:
        return moment.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise RequestInvalid([(field, "is not a time")]) from None
