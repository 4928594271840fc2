"""Schedules through the whole mesh: made over every protocol, paid at their time, told of by webhook and stream."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from florin.accounts.v1 import account_service_pb2
from florin.notifications.v1 import notification_service_pb2
from florin.transactions.v1 import schedule_pb2, transfer_pb2, transfer_service_pb2
from florin.transactions.v1 import schedule_service_pb2 as pb
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import PROTOCOLS, refused
from tests.support.receiver import Receiver, receiving

CREATE, GET, RUNS = (f"ScheduleService.{verb}" for verb in ("CreateSchedule", "GetSchedule", "ListScheduleRuns"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook receiver of its own."""
    with receiving() as made:
        yield made


def soon(seconds: float = 2) -> datetime:
    """A moment from now on."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


def once_ended(mesh: Mesh, name: str, **who: Any) -> list[schedule_pb2.ScheduleRun]:
    """A schedule's runs once all that there are is over."""
    final = {"COMPLETED", "DECLINED", "SKIPPED"}
    found: list[schedule_pb2.ScheduleRun] = []

    def ended() -> bool:
        found[:] = mesh.call(RUNS, pb.ListScheduleRunsRequest(schedule=name), **who).runs
        states = {schedule_pb2.ScheduleRunState.Name(run.state).rpartition("_")[2] for run in found}
        return bool(found) and states <= final

    wait_until(ended, 30)
    return found


def test_a_customers_payment_is_made_at_its_time(mesh: Mesh, receiver: Receiver) -> None:
    """From an own account to a stranger's; the run names its transfer, and the customer's endpoint hears of it all."""
    me = mesh.customer()
    debit, credit = mesh.account(me, funds=10_00), mesh.account()
    as_me = {"role": "customer", "customer": me}
    hook = notification_service_pb2.CreateWebhookEndpointRequest(
        url=receiver.url, event_types=["florin.transactions.*"]
    )
    mesh.call("NotificationService.CreateWebhookEndpoint", hook, **as_me)
    request = mesh.schedule(debit, credit, 4_00, at=soon(), end_to_end_id="RENT", remittance="secret matter")
    made = {protocol: mesh.call(CREATE, request, **as_me, protocol=protocol).schedule for protocol in PROTOCOLS}
    schedule = made["gRPC"]
    assert {one.name for one in made.values()} == {schedule.name}
    (run,) = once_ended(mesh, schedule.name, **as_me)
    assert run.state == schedule_pb2.SCHEDULE_RUN_STATE_COMPLETED
    (name,) = run.transfers
    paid = mesh.call(
        "TransferService.GetTransfer", transfer_service_pb2.GetTransferRequest(name=name), **as_me
    ).transfer
    assert (paid.state, paid.remittance) == (transfer_pb2.TRANSFER_STATE_COMPLETED, "secret matter")
    assert mesh.balance(credit).posted.minor_units == 4_00
    wanted = {"schedule_created", "schedule_ended", "schedule_run_completed", "transfer_completed"}
    kinds = {f"florin.transactions.{word}.v1" for word in wanted}
    wait_until(lambda: kinds <= {post.event["type"] for post in receiver.posts}, 20)
    (told,) = [post for post in receiver.posts if post.event["type"].endswith("run_completed.v1")]
    assert told.event["subject"] == run.name
    assert told.event["data"]["transfer"] == name
    assert b"secret matter" not in b"".join(post.body for post in receiver.posts)


def test_a_run_without_funds_tries_again_when_they_have_come(mesh: Mesh) -> None:
    """Declined at its time, paid a second later by another transfer; what is frozen is declined and stays so."""
    debit, credit = mesh.account(), mesh.account()
    retry = schedule_pb2.RetryPolicy(retries=10)
    retry.pause.seconds = 2
    request = mesh.schedule(debit, credit, 3_00, at=soon(), retry_policy=retry)
    name = mesh.call(CREATE, request).schedule.name
    waits = pb.ListScheduleRunsRequest(schedule=name)
    wait_until(
        lambda: [run.state for run in mesh.call(RUNS, waits).runs] == [schedule_pb2.SCHEDULE_RUN_STATE_WAITING], 20
    )
    mesh.fund(debit, 3_00)
    (run,) = once_ended(mesh, name)
    assert (run.state, len(run.transfers) > 1) == (schedule_pb2.SCHEDULE_RUN_STATE_COMPLETED, True)
    assert mesh.balance(credit).posted.minor_units == 3_00
    frozen = mesh.account(funds=10_00)
    mesh.call(
        "AccountService.FreezeAccount",
        account_service_pb2.FreezeAccountRequest(name=frozen, reason="lost card", request_id=secrets.token_hex(8)),
    )
    stopped = mesh.call(CREATE, mesh.schedule(frozen, credit, 1, at=soon(), retry_policy=retry)).schedule
    (declined,) = once_ended(mesh, stopped.name)
    assert declined.state == schedule_pb2.SCHEDULE_RUN_STATE_DECLINED
    assert declined.refusal.metadata["transfer"] == declined.transfers[0]
    assert "frozen" in declined.refusal.message


def test_a_schedule_is_planned_changed_paused_and_ended_over_rest(mesh: Mesh) -> None:
    """The paths of the contract, with JSON."""
    token, operator = mesh.token(), mesh.token("operator")
    debit, credit = mesh.account(), mesh.account()
    calendar = {
        "calendarId": f"c-{secrets.token_hex(4)}",
        "calendar": {"holidays": [{"date": "2035-01-01", "displayName": "New Year's Day"}]},
    }
    answer = mesh.http("POST", "/v1/holidayCalendars", body=calendar, token=operator)
    assert answer.status == 200, answer
    asked = {
        "schedule": {
            "debitAccount": debit,
            "creditAccount": credit,
            "amount": {"currencyCode": "EUR", "minorUnits": "500"},
            "startDate": "2035-01-01",
            "localTime": "06:00",
            "timeZone": "Europe/Berlin",
            "recurrence": {"monthly": {"day": 1}},
            "runCount": 3,
            "dayAdjustment": "DAY_ADJUSTMENT_NEXT",
            "holidayCalendar": f"holidayCalendars/{calendar['calendarId']}",
        }
    }
    preview = mesh.http("POST", "/v1/schedules", body={**asked, "validateOnly": True}, token=token).json
    assert [run["runTime"] for run in preview["plannedRuns"]] == [
        "2035-01-02T05:00:00Z",
        "2035-02-01T05:00:00Z",
        "2035-03-01T05:00:00Z",
    ]
    made = mesh.http("POST", "/v1/schedules", body=asked, token=token).json["schedule"]
    changed = mesh.http(
        "PATCH",
        f"/v1/{made['name']}?update_mask=amount",
        body={"amount": {"currencyCode": "EUR", "minorUnits": "7"}},
        token=token,
    ).json["schedule"]
    assert (changed["amount"]["minorUnits"], changed["runCount"]) == ("7", 3)
    for verb, state in (("pause", "PAUSED"), ("resume", "ACTIVE"), ("cancel", "CANCELLED")):
        answer = mesh.http("POST", f"/v1/{made['name']}:{verb}", body={}, token=token)
        assert answer.json["schedule"]["state"] == f"SCHEDULE_STATE_{state}"
    late = mesh.http("POST", f"/v1/{made['name']}:pause", body={}, token=token)
    assert (late.status, late.json["reason"]) == (400, "SCHEDULE_ENDED")


def test_a_foreign_schedule_does_not_exist(mesh: Mesh) -> None:
    """Neither itself nor its runs nor a payment from the account; auditors read it and change nothing."""
    me, stranger = mesh.customer(), mesh.customer()
    debit, credit = mesh.account(me), mesh.account()
    request = mesh.schedule(debit, credit, 1)
    name = mesh.call(CREATE, request, "customer", customer=me).schedule.name
    as_stranger = {"role": "customer", "customer": stranger}
    foreign = refused(lambda: mesh.call(CREATE, mesh.schedule(debit, credit, 1), **as_stranger))
    assert foreign.is_for("NOT_FOUND", "ACCOUNT_NOT_FOUND")
    for method, asked in (
        (GET, pb.GetScheduleRequest(name=name)),
        (RUNS, pb.ListScheduleRunsRequest(schedule=name)),
        ("ScheduleService.CancelSchedule", pb.CancelScheduleRequest(name=name)),
    ):
        hidden = refused(lambda method=method, asked=asked: mesh.call(method, asked, **as_stranger))
        assert hidden.is_for("NOT_FOUND", "SCHEDULE_NOT_FOUND")
    assert mesh.call(GET, pb.GetScheduleRequest(name=name), "auditor").schedule.name == name
    cancel = pb.CancelScheduleRequest(name=name)
    audit = refused(lambda: mesh.call("ScheduleService.CancelSchedule", cancel, "auditor"))
    assert audit.is_for("PERMISSION_DENIED", "SCOPE_MISSING")
