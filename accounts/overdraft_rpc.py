"""OverdraftService over gRPC: message → operation → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import account_changes, messages, overdraft_operations, overdraft_store
from florin.accounts.v1 import overdraft_service_pb2 as pb
from florin.accounts.v1 import overdraft_service_pb2_grpc as pb_grpc
from meshkit import idempotency, identity, money, pages
from meshkit.database import Database


class OverdraftService(pb_grpc.OverdraftServiceServicer):
    """Thresholds and changes that wait, for staff."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def SetOverdraftThreshold(
        self, request: pb.SetOverdraftThresholdRequest, context: Any
    ) -> pb.SetOverdraftThresholdResponse:
        """Sets the highest limit in a currency that one person may set."""
        call = identity.current()
        money.exponent(request.threshold.currency_code)

        async def work(conn: AsyncConnection) -> pb.SetOverdraftThresholdResponse:
            threshold = await overdraft_operations.set_overdraft_threshold(
                conn,
                call,
                currency=request.threshold.currency_code,
                amount=request.threshold.minor_units,
                etag=request.etag,
            )
            return pb.SetOverdraftThresholdResponse(overdraft_threshold=messages.overdraft_threshold(threshold))

        return await idempotency.answer(self._db, call, pb.SetOverdraftThresholdResponse, work)

    async def GetOverdraftThreshold(
        self, request: pb.GetOverdraftThresholdRequest, context: Any
    ) -> pb.GetOverdraftThresholdResponse:
        """Shows the threshold of a currency."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.GetOverdraftThresholdResponse:
            threshold = await overdraft_operations.get_overdraft_threshold(conn, call, request.name)
            return pb.GetOverdraftThresholdResponse(overdraft_threshold=messages.overdraft_threshold(threshold))

        return await self._db.run(call.tenant, work, read_only=True)

    async def ListOverdraftThresholds(
        self, request: pb.ListOverdraftThresholdsRequest, context: Any
    ) -> pb.ListOverdraftThresholdsResponse:
        """Lists thresholds by currency."""
        call, size = identity.current(), pages.size(request.page_size)
        key = pages.decode("overdraftThresholds", call.tenant, request.page_token, [str])

        async def work(conn: AsyncConnection) -> pb.ListOverdraftThresholdsResponse:
            after = str(key[0]) if key else ""
            found = await overdraft_store.list_thresholds(conn, call.tenant, after=after, limit=size + 1)
            more = len(found) > size
            token = pages.encode("overdraftThresholds", call.tenant, [found[size - 1].currency]) if more else ""
            return pb.ListOverdraftThresholdsResponse(
                overdraft_thresholds=[messages.overdraft_threshold(one) for one in found[:size]], next_page_token=token
            )

        return await self._db.run(call.tenant, work, read_only=True)

    async def GetOverdraftChange(
        self, request: pb.GetOverdraftChangeRequest, context: Any
    ) -> pb.GetOverdraftChangeResponse:
        """Shows a raise of an overdraft limit."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.GetOverdraftChangeResponse:
            change = await overdraft_operations.get_overdraft_change(conn, call, request.name)
            return pb.GetOverdraftChangeResponse(overdraft_change=messages.overdraft_change(change))

        return await self._db.run(call.tenant, work, read_only=True)

    async def ListOverdraftChanges(
        self, request: pb.ListOverdraftChangesRequest, context: Any
    ) -> pb.ListOverdraftChangesResponse:
        """Lists raises, the newest first."""
        call, size = identity.current(), pages.size(request.page_size)
        filter_text = f"{call.tenant}\0{request.account}\0{int(request.state)}"
        before = pages.id_in(pages.decode("overdraftChanges", filter_text, request.page_token, [str]))

        async def work(conn: AsyncConnection) -> pb.ListOverdraftChangesResponse:
            found = await overdraft_store.list_changes(
                conn,
                call.tenant,
                account=account_changes.last_part(request.account),
                state=int(request.state),
                before=before,
                limit=size + 1,
            )
            token = pages.encode("overdraftChanges", filter_text, [found[size - 1].id]) if len(found) > size else ""
            return pb.ListOverdraftChangesResponse(
                overdraft_changes=[messages.overdraft_change(one) for one in found[:size]], next_page_token=token
            )

        return await self._db.run(call.tenant, work, read_only=True)

    async def ApproveOverdraftChange(
        self, request: pb.ApproveOverdraftChangeRequest, context: Any
    ) -> pb.ApproveOverdraftChangeResponse:
        """Applies a raise that waits."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.ApproveOverdraftChangeResponse:
            change, account = await overdraft_operations.approve_overdraft_change(
                conn, call, name=request.name, etag=request.etag
            )
            return pb.ApproveOverdraftChangeResponse(
                overdraft_change=messages.overdraft_change(change), account=messages.account(account, call.who)
            )

        return await idempotency.answer(self._db, call, pb.ApproveOverdraftChangeResponse, work)

    async def RejectOverdraftChange(
        self, request: pb.RejectOverdraftChangeRequest, context: Any
    ) -> pb.RejectOverdraftChangeResponse:
        """Ends a raise that waits without applying it."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.RejectOverdraftChangeResponse:
            change = await overdraft_operations.reject_overdraft_change(
                conn, call, name=request.name, etag=request.etag, why=request.reason
            )
            return pb.RejectOverdraftChangeResponse(overdraft_change=messages.overdraft_change(change))

        return await idempotency.answer(self._db, call, pb.RejectOverdraftChangeResponse, work)
