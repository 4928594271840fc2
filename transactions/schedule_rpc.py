"""ScheduleService over gRPC: message → operation → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncConnection

from florin.transactions.v1 import schedule_service_pb2 as pb
from florin.transactions.v1 import schedule_service_pb2_grpc
from meshkit import clock, idempotency, identity, pages
from meshkit.cipher import Cipher
from meshkit.database import Database, until_not_raced
from meshkit.errors import UpdateMaskInvalid
from meshkit.filters import parse
from meshkit.identity import Call
from transactions import calendar_store, listing, schedule_messages, schedule_operations, schedule_store
from transactions import filter as filters
from transactions.operations import check
from transactions.ports import Ledger
from transactions.schedule import Schedule, first_transfer, upcoming
from transactions.schedule_operations import Admission, NotAdmitted
from transactions.settings import Settings

_PLANNED_RUNS = 12
_NUMBER_MAX = 2**31 - 1
_CHANGEABLE = (
    *("amount", "creditor_name", "end_to_end_id", "remittance", "local_time", "end_date", "run_count"),
    *("day_adjustment", "holiday_calendar", "retry_policy"),
)


class ScheduleServicer(schedule_service_pb2_grpc.ScheduleServiceServicer):
    """florin.transactions.v1.ScheduleService. `on_change` is called when something may be due earlier than before."""

    def __init__(self, db: Database, ledger: Ledger, settings: Settings, on_change: Callable[[], None]) -> None:
        self._db = db
        self._ledger = ledger
        self._settings = settings
        self._on_change = on_change

    async def CreateSchedule(self, request: pb.CreateScheduleRequest, context: Any) -> pb.CreateScheduleResponse:
        """See the contract."""
        call = identity.current()
        wanted = schedule_messages.wanted(request, call)
        check(first_transfer(wanted, clock.now()))
        if request.validate_only:
            return await self._preview(wanted)
        try:
            made = await self._create(call, wanted, None, chosen_id=bool(request.schedule_id))
        except NotAdmitted:
            # Nothing is known of the request, so it is new: accounts is asked outside of the transaction.
            admission = await schedule_operations.ask_accounts(self._ledger, wanted)
            made = await self._create(call, wanted, admission, chosen_id=bool(request.schedule_id))
        self._on_change()
        return made

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Any) -> pb.GetScheduleResponse:
        """See the contract."""
        who = identity.current().who

        async def work(conn: AsyncConnection) -> pb.GetScheduleResponse:
            found = await schedule_operations.get(conn, self._db.cipher, who, _id(request.name))
            return pb.GetScheduleResponse(schedule=schedule_messages.schedule(found))

        return await self._db.run(who.tenant, work, read_only=True)

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Any) -> pb.ListSchedulesResponse:
        """See the contract."""
        who = identity.current().who
        conditions = parse(request.filter, filters.SCHEDULES)
        scope = f"{who.tenant}\0{who.customer or ''}\0{request.filter}"

        async def read(conn: AsyncConnection, after: listing.Position | None, limit: int) -> list[Schedule]:
            return await schedule_store.list_page(
                conn,
                self._db.cipher,
                tenant=who.tenant,
                customer=who.customer,
                conditions=conditions,
                after=after,
                limit=limit,
            )

        page, token = await listing.paged(
            self._db,
            who.tenant,
            read,
            kind="schedules",
            scope=scope,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        schedules = [schedule_messages.schedule(one) for one in page]
        return pb.ListSchedulesResponse(schedules=schedules, next_page_token=token)

    async def UpdateSchedule(self, request: pb.UpdateScheduleRequest, context: Any) -> pb.UpdateScheduleResponse:
        """See the contract."""
        call = identity.current()
        _check_mask(request.update_mask)
        changes = schedule_messages.changes(request.schedule, request.update_mask.paths)

        async def update(conn: AsyncConnection, cipher: Cipher, call: Call, id_: str) -> Schedule:
            etag = request.schedule.etag
            return await schedule_operations.update(conn, cipher, call, id_, etag=etag, changes=changes)

        return await self._change(call, request.schedule.name, pb.UpdateScheduleResponse, update)

    async def PauseSchedule(self, request: pb.PauseScheduleRequest, context: Any) -> pb.PauseScheduleResponse:
        """See the contract."""
        call = identity.current()
        return await self._change(call, request.name, pb.PauseScheduleResponse, schedule_operations.pause)

    async def ResumeSchedule(self, request: pb.ResumeScheduleRequest, context: Any) -> pb.ResumeScheduleResponse:
        """See the contract."""
        call = identity.current()
        return await self._change(call, request.name, pb.ResumeScheduleResponse, schedule_operations.resume)

    async def CancelSchedule(self, request: pb.CancelScheduleRequest, context: Any) -> pb.CancelScheduleResponse:
        """See the contract."""
        call = identity.current()
        return await self._change(call, request.name, pb.CancelScheduleResponse, schedule_operations.cancel)

    async def ListScheduleRuns(self, request: pb.ListScheduleRunsRequest, context: Any) -> pb.ListScheduleRunsResponse:
        """See the contract."""
        who = identity.current().who
        size = pages.size(request.page_size)
        scope = f"{who.tenant}\0{request.schedule}"
        key = pages.decode("schedule_runs", scope, request.page_token, [int])
        before = min(int(key[0]), _NUMBER_MAX) if key else _NUMBER_MAX

        async def work(conn: AsyncConnection) -> pb.ListScheduleRunsResponse:
            cipher = self._db.cipher
            schedule = await schedule_operations.get(conn, cipher, who, _id(request.schedule))
            found = await schedule_store.list_runs(conn, cipher, schedule.place, before=before, limit=size + 1)
            token = pages.encode("schedule_runs", scope, [found[size - 1].number]) if len(found) > size else ""
            return pb.ListScheduleRunsResponse(
                runs=[schedule_messages.run(one, schedule.currency) for one in found[:size]], next_page_token=token
            )

        return await self._db.run(who.tenant, work, read_only=True)

    async def SetHolidayCalendar(
        self, request: pb.SetHolidayCalendarRequest, context: Any
    ) -> pb.SetHolidayCalendarResponse:
        """See the contract."""
        call = identity.current()
        wanted = schedule_messages.wanted_calendar(request, call.tenant)

        async def work(conn: AsyncConnection) -> pb.SetHolidayCalendarResponse:
            calendar = await schedule_operations.set_calendar(conn, call, wanted)
            return pb.SetHolidayCalendarResponse(calendar=schedule_messages.calendar(calendar))

        answer = await until_not_raced(
            (), lambda: idempotency.answer(self._db, call, pb.SetHolidayCalendarResponse, work)
        )
        self._on_change()
        return answer

    async def GetHolidayCalendar(
        self, request: pb.GetHolidayCalendarRequest, context: Any
    ) -> pb.GetHolidayCalendarResponse:
        """See the contract."""
        tenant = identity.current().tenant

        async def work(conn: AsyncConnection) -> pb.GetHolidayCalendarResponse:
            found = await schedule_operations.get_calendar(conn, tenant, _id(request.name))
            return pb.GetHolidayCalendarResponse(calendar=schedule_messages.calendar(found))

        return await self._db.run(tenant, work, read_only=True)

    async def ListHolidayCalendars(
        self, request: pb.ListHolidayCalendarsRequest, context: Any
    ) -> pb.ListHolidayCalendarsResponse:
        """See the contract."""
        tenant = identity.current().tenant
        size = pages.size(request.page_size)
        key = pages.decode("holiday_calendars", tenant, request.page_token, [str])

        async def work(conn: AsyncConnection) -> pb.ListHolidayCalendarsResponse:
            found = await calendar_store.list_page(conn, tenant, after=str(key[0]) if key else "", limit=size + 1)
            token = pages.encode("holiday_calendars", tenant, [found[size - 1].id]) if len(found) > size else ""
            return pb.ListHolidayCalendarsResponse(
                calendars=[schedule_messages.calendar(one) for one in found[:size]], next_page_token=token
            )

        return await self._db.run(tenant, work, read_only=True)

    async def _create(
        self, call: Call, wanted: Schedule, admission: Admission | None, *, chosen_id: bool
    ) -> pb.CreateScheduleResponse:
        async def work(conn: AsyncConnection) -> pb.CreateScheduleResponse:
            made = await schedule_operations.create(
                conn,
                self._db.cipher,
                call,
                wanted,
                admission,
                chosen_id=chosen_id,
                open_max=self._settings.schedules_max,
            )
            return pb.CreateScheduleResponse(schedule=schedule_messages.schedule(made))

        return await idempotency.answer(self._db, call, pb.CreateScheduleResponse, work)

    async def _preview(self, wanted: Schedule) -> pb.CreateScheduleResponse:
        admission = await schedule_operations.ask_accounts(self._ledger, wanted)

        async def work(conn: AsyncConnection) -> pb.CreateScheduleResponse:
            schedule, days = await schedule_operations.prepared(conn, wanted, admission)
            return pb.CreateScheduleResponse(
                schedule=schedule_messages.previewed(schedule),
                planned_runs=[schedule_messages.planned_run(one) for one in upcoming(schedule, days, _PLANNED_RUNS)],
            )

        return await self._db.run(wanted.tenant, work)

    async def _change[M: Message](
        self,
        call: Call,
        name: str,
        response: Callable[..., M],
        change: Callable[[AsyncConnection, Cipher, Call, str], Awaitable[Schedule]],
    ) -> M:
        """The answer with a schedule as a change leaves it."""

        async def work(conn: AsyncConnection) -> M:
            changed = await change(conn, self._db.cipher, call, _id(name))
            return response(schedule=schedule_messages.schedule(changed))

        answer = await until_not_raced(
            (),
            lambda: idempotency.answer(self._db, call, response, work),  # type: ignore[arg-type]
        )
        self._on_change()
        return answer


def _id(name: str) -> str:
    return name.partition("/")[2]


def _check_mask(mask: FieldMask) -> None:
    paths: Sequence[str] = mask.paths or [""]
    for path in paths:
        if path not in _CHANGEABLE:
            raise UpdateMaskInvalid(path, _CHANGEABLE)
