"""ScheduleService over gRPC with real identities: bad input, previews, masks, pages, visibility, calendars."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from florin.common.v1 import money_pb2
from florin.transactions.v1 import schedule_pb2, transfer_pb2, transfer_service_pb2
from florin.transactions.v1 import schedule_service_pb2 as pb
from tests.integration.transactions.conftest import Service
from tests.support.parts import eventually

AS_ANNA = {"role": "customer", "customer": "customers/anna"}
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).date()


def euros(minor_units: int) -> money_pb2.Money:
    """An amount."""
    return money_pb2.Money(currency_code="EUR", minor_units=minor_units)


def request(**changes: Any) -> pb.CreateScheduleRequest:
    """A request for 10.00 EUR at noon of each day from tomorrow on, in Berlin."""
    beside = {name: changes.pop(name) for name in ("validate_only", "schedule_id", "request_id") if name in changes}
    values = {
        "debit_account": "accounts/a",
        "credit_account": "accounts/b",
        "amount": euros(1000),
        "start_date": TOMORROW.isoformat(),
        "local_time": "12:00",
        "time_zone": "Europe/Berlin",
        "recurrence": schedule_pb2.Recurrence(daily=schedule_pb2.Recurrence.Daily()),
        **changes,
    }
    return pb.CreateScheduleRequest(
        schedule=schedule_pb2.Schedule(**values), **{"request_id": uuid.uuid4().hex, **beside}
    )


async def create(service: Service, who: dict[str, str] | None = None, **changes: Any) -> schedule_pb2.Schedule:
    """A schedule."""
    return (await service.call("CreateSchedule", request(**changes), **(who or {}))).schedule


async def test_a_schedule_is_made_read_and_listed(service: Service) -> None:
    """What was created is what is read, with every field as it was given."""
    recurrence = schedule_pb2.Recurrence(
        weekly=schedule_pb2.Recurrence.Weekly(days=[schedule_pb2.WEEKDAY_FRIDAY, schedule_pb2.WEEKDAY_MONDAY]), every=2
    )
    given = {
        "creditor_name": "Nord",
        "remittance": "Rent",
        "end_to_end_id": uuid.uuid4().hex,
        "recurrence": recurrence,
        "local_time": "23:59:30",
        "end_date": "2998-12-31",
        "run_count": 24,
        "day_adjustment": schedule_pb2.DAY_ADJUSTMENT_MODIFIED_FOLLOWING,
        "retry_policy": schedule_pb2.RetryPolicy(retries=2),
    }
    asked = request(**given)
    made = (await service.call("CreateSchedule", asked)).schedule
    assert made.state == schedule_pb2.SCHEDULE_STATE_ACTIVE
    assert made.next_run_time.ToDatetime(UTC) > datetime.now(UTC)
    assert made.recurrence.weekly.days == [schedule_pb2.WEEKDAY_MONDAY, schedule_pb2.WEEKDAY_FRIDAY]
    assert made.retry_policy.pause.seconds == 3600
    for name in ("creditor_name", "remittance", "end_to_end_id", "local_time", "end_date", "run_count", "start_date"):
        assert getattr(made, name) == getattr(asked.schedule, name)
    assert (await service.call("GetSchedule", pb.GetScheduleRequest(name=made.name))).schedule == made
    listing = pb.ListSchedulesRequest(filter=f'end_to_end_id = "{made.end_to_end_id}" AND state = ACTIVE')
    assert list((await service.call("ListSchedules", listing)).schedules) == [made]
    assert (await service.call("CreateSchedule", asked)).schedule == made


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"amount": money_pb2.Money(currency_code="XXX", minor_units=1)}, "INVALID_ARGUMENT", "CURRENCY_UNKNOWN"),
        ({"amount": euros(0)}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"amount": None}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"debit_account": ""}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"debit_account": "iban:DE89370400440532013001"}, "INVALID_ARGUMENT", "IDENTIFIER_INVALID"),
        ({"debit_account": "accounts/b"}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"start_date": "2027-02-30"}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"start_date": "tomorrow"}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"end_date": "2000-01-01"}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"local_time": "24:00"}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"time_zone": "Mars/Olympus"}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"time_zone": "../../etc/passwd"}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"recurrence": schedule_pb2.Recurrence(every=2)}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        (
            {"recurrence": schedule_pb2.Recurrence(monthly=schedule_pb2.Recurrence.Monthly(day=32))},
            "INVALID_ARGUMENT",
            "REQUEST_INVALID",
        ),
        ({"day_adjustment": 99}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"start_date": "2020-01-01"}, "INVALID_ARGUMENT", "SCHEDULE_START_PASSED"),
        ({"holiday_calendar": "holidayCalendars/none"}, "NOT_FOUND", "HOLIDAY_CALENDAR_NOT_FOUND"),
        ({"credit_account": "accounts/nobody"}, "NOT_FOUND", "ACCOUNT_NOT_FOUND"),
    ],
)
async def test_bad_input_has_its_reason(service: Service, changes: dict[str, Any], code: str, reason: str) -> None:
    """Every field's limits, and nothing is made; a preview says the same."""
    asked = request(end_to_end_id="bad-input")
    for name, value in changes.items():
        asked.schedule.ClearField(name)
        if isinstance(value, money_pb2.Money | schedule_pb2.Recurrence):
            getattr(asked.schedule, name).CopyFrom(value)
        elif value is not None:
            setattr(asked.schedule, name, value)
    assert await service.refused("CreateSchedule", asked) == (code, reason)
    asked.validate_only = True
    assert await service.refused("CreateSchedule", asked) == (code, reason)
    listing = pb.ListSchedulesRequest(filter='end_to_end_id = "bad-input"')
    assert list((await service.call("ListSchedules", listing)).schedules) == []


async def test_a_preview_tells_the_first_runs_and_makes_nothing(service: Service) -> None:
    """Each with its moment, and why it will be skipped."""
    count = len((await service.call("ListSchedules", pb.ListSchedulesRequest())).schedules)
    asked = request(validate_only=True, day_adjustment=schedule_pb2.DAY_ADJUSTMENT_SKIP, run_count=9)
    shown = await service.call("CreateSchedule", asked)
    assert (shown.schedule.name, shown.schedule.etag) == ("", "")
    assert [run.number for run in shown.planned_runs] == list(range(1, 10))
    skipped = [
        run.nominal_date for run in shown.planned_runs if run.skip_reason == schedule_pb2.SKIP_REASON_NON_BUSINESS_DAY
    ]
    weekend = [TOMORROW + timedelta(days=n) for n in range(9)]
    assert skipped == [day.isoformat() for day in weekend if day.isoweekday() > 5]
    assert len((await service.call("ListSchedules", pb.ListSchedulesRequest())).schedules) == count


async def test_a_refused_request_is_refused_again_for_the_same_reason(service: Service) -> None:
    """The answer stands under its request_id, although the account exists by then."""
    asked = request(credit_account="accounts/later")
    assert (await service.refused("CreateSchedule", asked))[1] == "ACCOUNT_NOT_FOUND"
    service.ledger.open("later")
    assert (await service.refused("CreateSchedule", asked))[1] == "ACCOUNT_NOT_FOUND"
    asked.request_id = uuid.uuid4().hex
    assert (await service.call("CreateSchedule", asked)).schedule.credit_account == "accounts/later"


async def test_while_accounts_is_away_a_known_request_is_answered_and_a_new_one_is_not(service: Service) -> None:
    """Nothing is made of the new one, so that it can be asked again."""
    asked, new = request(), request()
    made = (await service.call("CreateSchedule", asked)).schedule
    service.ledger.faults.down = True
    assert (await service.call("CreateSchedule", asked)).schedule == made
    assert (await service.refused("CreateSchedule", new))[1] == "UNAVAILABLE"
    service.ledger.faults.down = False
    assert (await service.call("CreateSchedule", new)).schedule.name


async def test_a_key_means_one_payload_and_an_id_one_schedule(service: Service) -> None:
    """Another payload under the key, another request for the id."""
    made = await create(service, request_id="key-of-one", schedule_id="chosen")
    assert made.name == "schedules/chosen"
    assert await service.refused("CreateSchedule", request(request_id="key-of-one")) == (
        "ALREADY_EXISTS",
        "REQUEST_ID_REUSED",
    )
    assert await service.refused("CreateSchedule", request(schedule_id="chosen")) == (
        "ALREADY_EXISTS",
        "SCHEDULE_EXISTS",
    )


async def test_an_update_changes_what_its_mask_names(service: Service) -> None:
    """An old etag is refused, as is a mask that names what stays; an end that is named and empty goes away."""
    made = await create(service, run_count=5)
    change = pb.UpdateScheduleRequest(
        schedule=schedule_pb2.Schedule(name=made.name, etag=made.etag, amount=euros(7), remittance="not named")
    )
    assert (await service.refused("UpdateSchedule", change))[1] == "UPDATE_MASK_INVALID"
    change.update_mask.paths[:] = ["amount", "debit_account"]
    assert (await service.refused("UpdateSchedule", change))[1] == "UPDATE_MASK_INVALID"
    change.update_mask.paths[:] = ["amount", "run_count"]
    changed = (await service.call("UpdateSchedule", change)).schedule
    assert (changed.amount.minor_units, changed.run_count, changed.remittance) == (7, 0, "")
    assert changed.etag != made.etag
    assert await service.refused("UpdateSchedule", change) == ("ABORTED", "ETAG_MISMATCH")
    change.schedule.etag = ""
    change.schedule.amount.currency_code = "JPY"
    assert (await service.refused("UpdateSchedule", change))[1] == "CURRENCY_MISMATCH"
    change.schedule.ClearField("amount")
    assert (await service.refused("UpdateSchedule", change))[1] == "REQUEST_INVALID"
    change.update_mask.paths[:] = ["holiday_calendar"]
    change.schedule.holiday_calendar = "holidayCalendars/none"
    assert (await service.refused("UpdateSchedule", change))[1] == "HOLIDAY_CALENDAR_NOT_FOUND"


async def test_customers_see_and_change_their_own_alone(service: Service) -> None:
    """A stranger's are not there; nobody schedules payments from an account that is another's."""
    made = await create(service, AS_ANNA, debit_account="accounts/anna", amount=euros(1))
    stranger = {"role": "customer", "customer": "customers/ben"}
    for method, asked in (
        ("GetSchedule", pb.GetScheduleRequest(name=made.name)),
        ("PauseSchedule", pb.PauseScheduleRequest(name=made.name)),
        ("ResumeSchedule", pb.ResumeScheduleRequest(name=made.name)),
        ("CancelSchedule", pb.CancelScheduleRequest(name=made.name)),
        ("ListScheduleRuns", pb.ListScheduleRunsRequest(schedule=made.name)),
    ):
        assert await service.refused(method, asked, **stranger) == ("NOT_FOUND", "SCHEDULE_NOT_FOUND")
        assert await service.refused(method, asked, tenant="elsewhere") == ("NOT_FOUND", "SCHEDULE_NOT_FOUND")
    assert list((await service.call("ListSchedules", pb.ListSchedulesRequest(), **stranger)).schedules) == []
    asked = request(debit_account="accounts/anna")
    assert await service.refused("CreateSchedule", asked, **stranger) == ("NOT_FOUND", "ACCOUNT_NOT_FOUND")
    paused = (await service.call("PauseSchedule", pb.PauseScheduleRequest(name=made.name), **AS_ANNA)).schedule
    assert paused.state == schedule_pb2.SCHEDULE_STATE_PAUSED
    resumed = (await service.call("ResumeSchedule", pb.ResumeScheduleRequest(name=made.name), **AS_ANNA)).schedule
    assert resumed.state == schedule_pb2.SCHEDULE_STATE_ACTIVE
    ended = (await service.call("CancelSchedule", pb.CancelScheduleRequest(name=made.name), **AS_ANNA)).schedule
    assert ended.state == schedule_pb2.SCHEDULE_STATE_CANCELLED
    late = pb.PauseScheduleRequest(name=made.name)
    assert await service.refused("PauseSchedule", late, **AS_ANNA) == ("FAILED_PRECONDITION", "SCHEDULE_ENDED")


async def test_pages_of_schedules_and_runs_leave_nothing_out(service: Service) -> None:
    """Page by page it is what one page has; a token of another list or filter is refused."""
    reference = uuid.uuid4().hex
    names = [(await create(service, end_to_end_id=reference)).name for _ in range(5)]
    found: list[str] = []
    listing = pb.ListSchedulesRequest(filter=f'end_to_end_id = "{reference}"', page_size=2)
    while True:
        page = await service.call("ListSchedules", listing)
        found += [one.name for one in page.schedules]
        if not page.next_page_token:
            break
        listing.page_token = page.next_page_token
    assert found == names[::-1]
    listing.filter = "state = ACTIVE"
    assert (await service.refused("ListSchedules", listing))[1] == "PAGE_TOKEN_INVALID"
    unknown = pb.ListSchedulesRequest(filter="state = GONE")
    assert (await service.refused("ListSchedules", unknown))[1] == "FILTER_INVALID"
    runs = pb.ListScheduleRunsRequest(schedule=names[0], page_token=listing.page_token)
    assert (await service.refused("ListScheduleRuns", runs))[1] == "PAGE_TOKEN_INVALID"


async def test_a_run_pays_at_its_time_and_names_its_transfer(service: Service) -> None:
    """By the running service's own worker, a second from now: the run, its transfer, the schedule's end."""
    at = datetime.now(UTC) + timedelta(seconds=2)
    asked = request(start_date=at.date().isoformat(), local_time=at.time().isoformat("seconds"), time_zone="UTC")
    asked.schedule.ClearField("recurrence")
    made = (await service.call("CreateSchedule", asked)).schedule
    runs = pb.ListScheduleRunsRequest(schedule=made.name)

    async def paid() -> Any:
        found = (await service.call("ListScheduleRuns", runs)).runs
        return found if found and found[0].state == schedule_pb2.SCHEDULE_RUN_STATE_COMPLETED else None

    (run,) = await eventually(paid, 15)
    assert (run.name, run.number, run.amount) == (f"{made.name}/runs/1", 1, euros(1000))
    (name,) = run.transfers
    paid_by = (await service.call("GetTransfer", transfer_service_pb2.GetTransferRequest(name=name))).transfer
    assert paid_by.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    assert paid_by.request_id == f"{run.name}/attempt-1"
    ended = (await service.call("GetSchedule", pb.GetScheduleRequest(name=made.name))).schedule
    assert (ended.state, ended.runs_begun) == (schedule_pb2.SCHEDULE_STATE_COMPLETED, 1)


async def test_a_calendar_is_the_tenants_and_set_by_staff(service: Service) -> None:
    """Customers read it; each version takes the place of the one before; a date stands in it once."""
    holiday = schedule_pb2.HolidayCalendar.Holiday(date="2026-12-25", display_name="Christmas Day")
    asked = pb.SetHolidayCalendarRequest(
        calendar_id="target", calendar=schedule_pb2.HolidayCalendar(display_name="TARGET", holidays=[holiday])
    )
    assert await service.refused("SetHolidayCalendar", asked) == ("PERMISSION_DENIED", "SCOPE_MISSING")
    first = (await service.call("SetHolidayCalendar", asked, role="operator")).calendar
    asked.calendar.weekend_days.extend([schedule_pb2.WEEKDAY_SATURDAY, schedule_pb2.WEEKDAY_FRIDAY])
    second = (await service.call("SetHolidayCalendar", asked, role="operator")).calendar
    assert (first.version, second.version, second.create_time) == (1, 2, first.create_time)
    assert list(second.weekend_days) == [schedule_pb2.WEEKDAY_FRIDAY, schedule_pb2.WEEKDAY_SATURDAY]
    get = pb.GetHolidayCalendarRequest(name="holidayCalendars/target")
    assert (await service.call("GetHolidayCalendar", get, **AS_ANNA)).calendar == second
    assert await service.refused("GetHolidayCalendar", get, tenant="elsewhere") == (
        "NOT_FOUND",
        "HOLIDAY_CALENDAR_NOT_FOUND",
    )
    listed = (await service.call("ListHolidayCalendars", pb.ListHolidayCalendarsRequest())).calendars
    assert [(one.name, list(one.holidays)) for one in listed] == [("holidayCalendars/target", [])]
    asked.calendar.holidays.append(holiday)
    assert await service.refused("SetHolidayCalendar", asked, role="operator") == (
        "INVALID_ARGUMENT",
        "REQUEST_INVALID",
    )
