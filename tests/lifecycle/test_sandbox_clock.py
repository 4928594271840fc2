"""A sandbox: two days pass at once for holds, schedules, limits and statements, in all replicas."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from florin.accounts.v1 import statement_service_pb2
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2, policy_pb2
from florin.transactions.v1 import schedule_pb2, schedule_service_pb2, transfer_pb2, transfer_service_pb2
from tests.support.mesh import Mesh, running
from tests.support.parts import wait_until
from tests.support.protocols import refused

CREATE = "TransferService.CreateTransfer"
TWO_DAYS = timedelta(days=2)


def clock(mesh: Mesh, *arguments: str) -> dict[str, Any]:
    """What `florin clock` answers."""
    done = mesh.florin("clock", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def limit_of_a_day(mesh: Mesh, customer: str, minor_units: int) -> None:
    """What a customer may pay in a day, in EUR."""
    amount = money_pb2.Money(currency_code="EUR", minor_units=minor_units)
    limit = policy_pb2.Limit(kind=policy_pb2.LIMIT_KIND_PER_DAY, customer=customer, maximum=amount)
    mesh.call("ComplianceService.SetLimit", compliance_service_pb2.SetLimitRequest(limit=limit), "operator")


def state_of(mesh: Mesh, transfer: str) -> int:
    """A transfer's state."""
    request = transfer_service_pb2.GetTransferRequest(name=transfer)
    state: int = mesh.call("TransferService.GetTransfer", request).transfer.state
    return state


def runs_of(mesh: Mesh, schedule: str) -> list[int]:
    """The states of a schedule's runs."""
    request = schedule_service_pb2.ListScheduleRunsRequest(schedule=schedule)
    return [run.state for run in mesh.call("ScheduleService.ListScheduleRuns", request).runs]


@pytest.mark.timeout(180)
def test_time_is_moved_for_all_replicas_at_once_and_stays_moved() -> None:
    """A hold ends, a schedule's missed day is paid once, a day's limit begins anew, a day's statement can be issued;
    tokens, and a service that was killed, are none the worse for it; and the books hold."""
    with running("--sandbox", "--scale", "transactions=2") as mesh:
        assert clock(mesh, "show")["ahead_seconds"] == 0
        customer = mesh.customer()
        limited, payer, payee = mesh.account(customer, funds=20_00), mesh.account(funds=20_00), mesh.account()
        limit_of_a_day(mesh, customer, 10_00)
        assert mesh.call(CREATE, mesh.transfer(limited, payee, 10_00)).transfer.journal
        over = refused(lambda: mesh.call(CREATE, mesh.transfer(limited, payee, 1)))
        assert over.is_for("FAILED_PRECONDITION", "LIMIT_EXCEEDED")
        hold = mesh.transfer(payer, payee, 5_00, authorize_only=True, valid_for=Duration(seconds=86_400))
        held = mesh.call(CREATE, hold).transfer
        due = mesh.schedule(payer, payee, 3_00)
        once = mesh.call("ScheduleService.CreateSchedule", due).schedule
        today = datetime.now(UTC).date()

        moved = clock(mesh, "advance", "2d")
        assert list(moved["replicas"].values()) == [True] * 5
        assert datetime.fromisoformat(moved["now"]) - datetime.now(UTC) > TWO_DAYS - timedelta(minutes=1)

        wait_until(lambda: state_of(mesh, held.name) == transfer_pb2.TRANSFER_STATE_EXPIRED)
        wait_until(lambda: runs_of(mesh, once.name) == [schedule_pb2.SCHEDULE_RUN_STATE_COMPLETED])
        assert mesh.balance(payer).available.minor_units == 17_00
        paid = mesh.call(CREATE, mesh.transfer(limited, payee, 10_00)).transfer
        assert paid.create_time.ToDatetime(tzinfo=UTC).date() >= today + TWO_DAYS
        period = {"period_start": today.isoformat(), "period_end": (today + TWO_DAYS / 2).isoformat()}
        issue = statement_service_pb2.CreateStatementRequest(account=limited, request_id=secrets.token_hex(8), **period)
        issued = mesh.call("StatementService.CreateStatement", issue).statement
        assert issued.closing_balance.minor_units == 10_00  # the second payment is of a later day

        mesh.kill("accounts")
        wait_until(lambda: mesh.description["restarts"]["accounts"] == 1)
        mesh.wait_all_ready()
        shown = clock(mesh, "show")
        assert shown["ahead_seconds"] == TWO_DAYS.total_seconds()
        assert all(shown["replicas"].values())
        back = mesh.florin("clock", "advance", "--to", f"{today}T00:00Z")
        assert (back.returncode, back.stderr.partition(":")[0]) == (1, "CLOCK_BACKWARDS")
        assert mesh.florin("verify").returncode == 0
        assert mesh.failures() == []
