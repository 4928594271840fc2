"""The books of the mesh that the tests before this one used."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from florin.accounts.v1 import account_service_pb2
from florin.transactions.v1 import schedule_service_pb2
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import refused


def test_every_invariant_holds_on_a_used_mesh(mesh: Mesh) -> None:
    """`florin verify` looks at what was paid, declined, reviewed and reversed here, and finds nothing."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    mesh.call("TransferService.CreateTransfer", mesh.transfer(debit, credit, 1_00))
    refused(lambda: mesh.call("TransferService.CreateTransfer", mesh.transfer(debit, credit, 100_00)))
    soon = datetime.now(UTC) + timedelta(seconds=2)
    made = mesh.call("ScheduleService.CreateSchedule", mesh.schedule(debit, credit, 1_00, at=soon)).schedule
    runs = schedule_service_pb2.ListScheduleRunsRequest(schedule=made.name)
    wait_until(lambda: mesh.call("ScheduleService.ListScheduleRuns", runs).runs, 20)
    verdict = mesh.florin("verify", "--json")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    found = json.loads(verdict.stdout)
    assert found["holds"] is True
    assert {one["name"] for one in found["invariants"]} >= {f"INV-{number}" for number in range(1, 10)}
    assert [one["name"] for one in found["invariants"] if one["violations"]] == []
    checked = {one["name"]: one["checked"] for one in found["invariants"]}
    assert min(checked[name] for name in ("INV-1", "INV-2", "INV-3", "INV-4", "INV-5", "INV-7", "INV-8")) > 0


def test_no_call_failed_inside_a_service(mesh: Mesh) -> None:
    """Whatever the tests before this one asked: no service has logged a call that it could not answer."""
    mesh.call("AccountService.ListAccounts", account_service_pb2.ListAccountsRequest())
    assert mesh.failures() == []
