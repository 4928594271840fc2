"""FreezeService over gRPC: message → operation → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import freeze_operations, freeze_store, messages
from florin.accounts.v1 import freeze_service_pb2 as pb
from florin.accounts.v1 import freeze_service_pb2_grpc as pb_grpc
from meshkit import idempotency, identity, pages
from meshkit.database import Database


class FreezeService(pb_grpc.FreezeServiceServicer):
    """Freezes and findings, for staff."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def GetLedgerState(self, request: pb.GetLedgerStateRequest, context: Any) -> pb.GetLedgerStateResponse:
        """Says what is frozen."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.GetLedgerStateResponse:
            found = await freeze_store.all_standing(conn, call.tenant)
            return pb.GetLedgerStateResponse(
                frozen=bool(found), ledger_freezes=[messages.ledger_freeze(one) for one in found]
            )

        return await self._db.run(call.tenant, work, read_only=True)

    async def GetLedgerFreeze(self, request: pb.GetLedgerFreezeRequest, context: Any) -> pb.GetLedgerFreezeResponse:
        """Shows a freeze."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.GetLedgerFreezeResponse:
            found = await freeze_operations.get_ledger_freeze(conn, call, request.name)
            return pb.GetLedgerFreezeResponse(ledger_freeze=messages.ledger_freeze(found))

        return await self._db.run(call.tenant, work, read_only=True)

    async def ListLedgerFreezes(
        self, request: pb.ListLedgerFreezesRequest, context: Any
    ) -> pb.ListLedgerFreezesResponse:
        """Lists freezes, the newest first."""
        call, size = identity.current(), pages.size(request.page_size)
        filter_text = f"{call.tenant}\0{int(request.state)}"
        before = pages.id_in(pages.decode("ledgerFreezes", filter_text, request.page_token, [str]))

        async def work(conn: AsyncConnection) -> pb.ListLedgerFreezesResponse:
            found = await freeze_store.list_freezes(
                conn, call.tenant, state=int(request.state), before=before, limit=size + 1
            )
            token = pages.encode("ledgerFreezes", filter_text, [found[size - 1].id]) if len(found) > size else ""
            return pb.ListLedgerFreezesResponse(
                ledger_freezes=[messages.ledger_freeze(one) for one in found[:size]], next_page_token=token
            )

        return await self._db.run(call.tenant, work, read_only=True)

    async def ListLedgerFindings(
        self, request: pb.ListLedgerFindingsRequest, context: Any
    ) -> pb.ListLedgerFindingsResponse:
        """Lists what a freeze is for."""
        call, size = identity.current(), pages.size(request.page_size)
        filter_text = f"{call.tenant}\0{request.parent}"
        after = pages.id_in(pages.decode("ledgerFindings", filter_text, request.page_token, [str]))

        async def work(conn: AsyncConnection) -> pb.ListLedgerFindingsResponse:
            freeze = await freeze_operations.get_ledger_freeze(conn, call, request.parent)
            found = await freeze_store.list_findings(conn, call.tenant, freeze.id, after=after, limit=size + 1)
            token = pages.encode("ledgerFindings", filter_text, [found[size - 1].id]) if len(found) > size else ""
            return pb.ListLedgerFindingsResponse(
                ledger_findings=[messages.ledger_finding(freeze, one) for one in found[:size]], next_page_token=token
            )

        return await self._db.run(call.tenant, work, read_only=True)

    async def UnfreezeLedger(self, request: pb.UnfreezeLedgerRequest, context: Any) -> pb.UnfreezeLedgerResponse:
        """Ends a freeze."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.UnfreezeLedgerResponse:
            ended = await freeze_operations.unfreeze_ledger(
                conn,
                call,
                name=request.name,
                note=request.note,
                accept_findings=request.accept_findings,
                etag=request.etag,
            )
            return pb.UnfreezeLedgerResponse(ledger_freeze=messages.ledger_freeze(ended))

        return await idempotency.answer(self._db, call, pb.UnfreezeLedgerResponse, work)
