"""FeeService over gRPC: message → operation → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from florin.transactions.v1 import fee_service_pb2 as pb
from florin.transactions.v1 import fee_service_pb2_grpc as pb_grpc
from meshkit import idempotency, identity, pages
from meshkit.database import Database
from transactions import fee_messages, fee_operations, fee_store
from transactions.fees import FeeSchedule
from transactions.ports import Ledger

_VERSION_MAX = 2**63 - 1


class FeeServicer(pb_grpc.FeeServiceServicer):
    """florin.transactions.v1.FeeService."""

    def __init__(self, db: Database, ledger: Ledger) -> None:
        self._db = db
        self._ledger = ledger

    async def SetFeeSchedule(self, request: pb.SetFeeScheduleRequest, context: Any) -> pb.SetFeeScheduleResponse:
        """See the contract."""
        call = identity.current()
        wanted = fee_messages.wanted(request.fee_schedule, call)
        await fee_operations.check(self._ledger, wanted)

        async def work(conn: AsyncConnection) -> pb.SetFeeScheduleResponse:
            schedule = await fee_operations.set_fee_schedule(conn, call, wanted, request.etag)
            return pb.SetFeeScheduleResponse(fee_schedule=fee_messages.schedule(schedule))

        return await idempotency.answer(self._db, call, pb.SetFeeScheduleResponse, work)

    async def GetFeeSchedule(self, request: pb.GetFeeScheduleRequest, context: Any) -> pb.GetFeeScheduleResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> FeeSchedule:
            return await fee_operations.get_fee_schedule(conn, call.tenant, request.name, request.version)

        schedule = await self._db.run(call.tenant, work, read_only=True)
        return pb.GetFeeScheduleResponse(fee_schedule=fee_messages.schedule(schedule))

    async def ListFeeSchedules(self, request: pb.ListFeeSchedulesRequest, context: Any) -> pb.ListFeeSchedulesResponse:
        """See the contract."""
        call, size = identity.current(), pages.size(request.page_size)
        key = pages.decode("fee_schedules", call.tenant, request.page_token, [str, str])
        after = (str(key[0]), str(key[1])) if key else ("", "")

        async def work(conn: AsyncConnection) -> list[FeeSchedule]:
            return await fee_store.list_newest(conn, call.tenant, after=after, limit=size + 1)

        found = await self._db.run(call.tenant, work, read_only=True)
        page, token = found[:size], ""
        if len(found) > size:
            token = pages.encode("fee_schedules", call.tenant, [page[-1].kind.value, page[-1].currency])
        return pb.ListFeeSchedulesResponse(fee_schedules=map(fee_messages.schedule, page), next_page_token=token)

    async def ListFeeScheduleVersions(
        self, request: pb.ListFeeScheduleVersionsRequest, context: Any
    ) -> pb.ListFeeScheduleVersionsResponse:
        """See the contract."""
        call, size = identity.current(), pages.size(request.page_size)
        scope = f"{call.tenant}\0{request.name}"
        key = pages.decode("fee_schedule_versions", scope, request.page_token, [int])
        before = int(key[0]) if key else _VERSION_MAX

        async def work(conn: AsyncConnection) -> list[FeeSchedule]:
            return await fee_operations.list_versions(conn, call.tenant, request.name, before=before, limit=size + 1)

        found = await self._db.run(call.tenant, work, read_only=True)
        page = found[:size]
        token = pages.encode("fee_schedule_versions", scope, [page[-1].version]) if len(found) > size else ""
        return pb.ListFeeScheduleVersionsResponse(fee_schedules=map(fee_messages.schedule, page), next_page_token=token)
