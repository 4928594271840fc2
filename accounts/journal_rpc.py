"""JournalService over gRPC: message → step or question → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import journal_store, manual, messages, moments, orders, posting
from accounts.account_changes import last_part
from accounts.archive_errors import ArchivedPeriodNotAttached, raised
from accounts.book import Leg
from accounts.model import Journal
from accounts.orders import Item
from florin.accounts.v1 import journal_service_pb2 as pb
from florin.accounts.v1 import journal_service_pb2_grpc as pb_grpc
from florin.accounts.v1 import ledger_service_pb2
from meshkit import clock, filters, identity, interceptors, pages
from meshkit.batching import Batcher
from meshkit.database import Database
from meshkit.errors import DomainError, PageTokenInvalid, RequestInvalid
from meshkit.identity import Call

Outcome = ledger_service_pb2.StepOutcome | BaseException


class JournalService(pb_grpc.JournalServiceServicer):
    """The public methods on journals that the bank posts itself.

    They go through the batcher of all steps, one at a time or many; those that stand or fall together go through one of
    their own, which makes a transaction of each group.
    """

    def __init__(
        self,
        db: Database,
        ledger: Batcher[Item, ledger_service_pb2.StepOutcome],
        together: Batcher[Sequence[Item], Sequence[Outcome]],
    ) -> None:
        self._db = db
        self._ledger = ledger
        self._together = together

    async def PostJournal(self, request: pb.PostJournalRequest, context: Any) -> pb.PostJournalResponse:
        """Posts a journal."""
        call = identity.current()
        outcome = await self._ledger.submit(_item(call, request), deadline=call.deadline)
        name = posting.journal_in(outcome)
        found = await self._journals(call.tenant, [name])
        return pb.PostJournalResponse(journal=messages.journal(raised(found[name])))

    async def BatchPostJournals(
        self, request: pb.BatchPostJournalsRequest, context: Any
    ) -> pb.BatchPostJournalsResponse:
        """Posts many journals, each for itself or all together."""
        call = identity.current()
        legs = sum(len(one.legs) for one in request.requests)
        if legs > manual.LEGS_MAX:
            raise RequestInvalid([("requests", f"have {legs} legs in all; {manual.LEGS_MAX} is the most")])
        items = [_item(call, one, f"requests[{number}].") for number, one in enumerate(request.requests)]
        outcomes: Sequence[Outcome]
        if request.atomic:
            outcomes = await self._together.submit(items, deadline=call.deadline)
        else:
            outcomes = await self._ledger.submit_all(items, deadline=call.deadline)
        results = [_result(outcome) for outcome in outcomes]
        found = await self._journals(call.tenant, [result for result in results if isinstance(result, str)])
        shown = [found[result] if isinstance(result, str) else result for result in results]
        return pb.BatchPostJournalsResponse(
            results=[
                pb.BatchPostJournalsResponse.Result(journal=messages.journal(one))
                if isinstance(one, Journal)
                else pb.BatchPostJournalsResponse.Result(status=one.to_status())
                for one in shown
            ]
        )

    async def ListJournals(self, request: pb.ListJournalsRequest, context: Any) -> pb.ListJournalsResponse:
        """Lists journals of the bank's own, the newest first."""
        call = identity.current()
        conditions = filters.parse(request.filter, journal_store.FIELDS)
        size = pages.size(request.page_size)
        filter_text = f"{call.tenant}\0{request.filter}"
        before = _position(pages.decode("journals", filter_text, request.page_token, [int, str]))

        async def work(conn: AsyncConnection) -> tuple[list[Journal], bool]:
            return await journal_store.list_journals(conn, call.tenant, conditions, before=before, limit=size)

        page, more = await self._db.run(call.tenant, work, read_only=True)
        token = ""
        if more:
            token = pages.encode("journals", filter_text, [clock.microseconds(page[-1].create_time), page[-1].id])
        return pb.ListJournalsResponse(journals=[messages.journal(one) for one in page], next_page_token=token)

    async def _journals(self, tenant: str, names: Sequence[str]) -> dict[str, Journal | ArchivedPeriodNotAttached]:
        """Journals by name. They never change, so an answer is made of them whenever it is asked for; in years it may
        be the refusal, of what was posted long ago."""
        if not names:
            return {}
        ids = [last_part(name) for name in names]

        async def work(conn: AsyncConnection) -> dict[str, Journal | ArchivedPeriodNotAttached]:
            return await journal_store.journals(conn, tenant, ids)

        found = await self._db.run(tenant, work, read_only=True)
        return {f"journals/{id_}": journal for id_, journal in found.items()}


def _item(call: Call, request: pb.PostJournalRequest, path: str = "") -> Item:
    """A journal as a step of the ledger. Raises RequestInvalid, with the field's path below `path`."""
    if not request.request_id:
        raise RequestInvalid([(f"{path}request_id", "value is required")])
    asked = replace(call, request_id=request.request_id, fingerprint=interceptors.fingerprint(request))
    effective_time = None
    if request.HasField("effective_time"):
        effective_time = moments.moment(request.effective_time, f"{path}effective_time")
    step = orders.manual_step(
        asked,
        [Leg(leg.account, leg.amount.currency_code, leg.amount.minor_units) for leg in request.legs],
        expected_versions=[leg.expected_version if leg.HasField("expected_version") else None for leg in request.legs],
        effective_time=effective_time,
        reference=request.reference,
        metadata=tuple(sorted(request.metadata.items())),
    )
    return Item(step, asked, request.reason)


def _result(outcome: Outcome) -> str | DomainError:
    """The name of the journal that an item came to, or its refusal. Raises what is neither."""
    try:
        if isinstance(outcome, BaseException):
            raise outcome
        return posting.journal_in(outcome)
    except DomainError as refusal:
        return refusal


def _position(key: list[str | int] | None) -> tuple[datetime, str] | None:
    """Where a page begins; None at the beginning. Raises PageTokenInvalid when a made-up token names no such place."""
    if key is None:
        return None
    try:
        return clock.from_microseconds(int(key[0])), str(uuid.UUID(str(key[1])))
    except (OverflowError, ValueError):
        raise PageTokenInvalid from None
