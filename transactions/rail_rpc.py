"""RailService over gRPC: message → operation → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

from datetime import UTC
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from florin.transactions.v1 import rail_service_pb2 as pb
from florin.transactions.v1 import rail_service_pb2_grpc as pb_grpc
from meshkit import idempotency, identity
from meshkit.database import Database
from transactions import listing, rail_messages, rail_resolutions, rail_store
from transactions.ports import Account, Ledger
from transactions.rail_model import RailException
from transactions.rail_operations import Rails
from transactions.rail_worker import RailWorker


class RailServicer(pb_grpc.RailServiceServicer):
    """florin.transactions.v1.RailService."""

    def __init__(self, db: Database, rails: Rails, ledger: Ledger, worker: RailWorker) -> None:
        self._db = db
        self._rails = rails
        self._ledger = ledger
        self._worker = worker

    async def CreateWithdrawal(self, request: pb.CreateWithdrawalRequest, context: Any) -> pb.CreateWithdrawalResponse:
        """See the contract."""
        call = identity.current()
        made = await self._rails.create_withdrawal(call, *rail_messages.wanted(request, call))
        return pb.CreateWithdrawalResponse(withdrawal=rail_messages.withdrawal(made, call.who))

    async def GetWithdrawal(self, request: pb.GetWithdrawalRequest, context: Any) -> pb.GetWithdrawalResponse:
        """See the contract."""
        who = identity.current().who
        found = await self._rails.get_withdrawal(who, request.name.removeprefix("withdrawals/"))
        return pb.GetWithdrawalResponse(withdrawal=rail_messages.withdrawal(found, who))

    async def ListWithdrawals(self, request: pb.ListWithdrawalsRequest, context: Any) -> pb.ListWithdrawalsResponse:
        """See the contract."""
        sent_before = request.sent_before.ToDatetime(tzinfo=UTC) if request.HasField("sent_before") else None
        who = identity.current().who
        page, token = await self._rails.list_withdrawals(
            who,
            state=rail_messages.WITHDRAWALS_IN.get(request.state),
            sent_before=sent_before,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        withdrawals = [rail_messages.withdrawal(withdrawal, who) for withdrawal in page]
        return pb.ListWithdrawalsResponse(withdrawals=withdrawals, next_page_token=token)

    async def GetDeposit(self, request: pb.GetDepositRequest, context: Any) -> pb.GetDepositResponse:
        """See the contract."""
        who = identity.current().who
        found = await self._rails.get_deposit(who, request.name.removeprefix("deposits/"))
        return pb.GetDepositResponse(deposit=rail_messages.deposit(found, who))

    async def ListDeposits(self, request: pb.ListDepositsRequest, context: Any) -> pb.ListDepositsResponse:
        """See the contract."""
        who = identity.current().who
        page, token = await self._rails.list_deposits(
            who,
            state=rail_messages.DEPOSITS_IN.get(request.state),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        deposits = [rail_messages.deposit(deposit, who) for deposit in page]
        return pb.ListDepositsResponse(deposits=deposits, next_page_token=token)

    async def GetRailException(self, request: pb.GetRailExceptionRequest, context: Any) -> pb.GetRailExceptionResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> RailException:
            return await rail_resolutions.get(conn, call, request.name)

        found = await self._db.run(call.tenant, work, read_only=True)
        return pb.GetRailExceptionResponse(rail_exception=rail_messages.rail_exception(found))

    async def ListRailExceptions(
        self, request: pb.ListRailExceptionsRequest, context: Any
    ) -> pb.ListRailExceptionsResponse:
        """See the contract."""
        tenant, state = identity.current().tenant, rail_messages.EXCEPTIONS_IN.get(request.state)

        async def read(conn: AsyncConnection, after: listing.Position | None, limit: int) -> list[RailException]:
            return await rail_store.list_exceptions(conn, tenant=tenant, state=state, after=after, limit=limit)

        page, token = await listing.paged(
            self._db,
            tenant,
            read,
            kind="rail_exceptions",
            scope=f"{tenant}\0{state or ''}",
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListRailExceptionsResponse(
            rail_exceptions=map(rail_messages.rail_exception, page), next_page_token=token
        )

    async def ProposeRailResolution(
        self, request: pb.ProposeRailResolutionRequest, context: Any
    ) -> pb.ProposeRailResolutionResponse:
        """See the contract."""
        call = identity.current()
        account: Account | None = None
        if request.account:
            place = (call.tenant, request.account)
            account = (await self._ledger.resolve([place])).get(place)

        async def work(conn: AsyncConnection) -> pb.ProposeRailResolutionResponse:
            made = await rail_resolutions.propose(
                conn,
                self._db.cipher,
                call,
                name=request.name,
                wanted=request.account,
                account=account,
                reason=request.reason,
                etag=request.etag,
            )
            return pb.ProposeRailResolutionResponse(rail_exception=rail_messages.rail_exception(made))

        return await idempotency.answer(self._db, call, pb.ProposeRailResolutionResponse, work)

    async def ApproveRailResolution(
        self, request: pb.ApproveRailResolutionRequest, context: Any
    ) -> pb.ApproveRailResolutionResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.ApproveRailResolutionResponse:
            made = await rail_resolutions.approve(conn, self._db.cipher, call, name=request.name, etag=request.etag)
            return pb.ApproveRailResolutionResponse(rail_exception=rail_messages.rail_exception(made))

        answer = await idempotency.answer(self._db, call, pb.ApproveRailResolutionResponse, work)
        self._worker.wake()
        return answer

    async def RejectRailResolution(
        self, request: pb.RejectRailResolutionRequest, context: Any
    ) -> pb.RejectRailResolutionResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.RejectRailResolutionResponse:
            made = await rail_resolutions.reject(
                conn, call, name=request.name, reason=request.reason, etag=request.etag
            )
            return pb.RejectRailResolutionResponse(rail_exception=rail_messages.rail_exception(made))

        return await idempotency.answer(self._db, call, pb.RejectRailResolutionResponse, work)
