"""A ledger that somebody changed behind the services' back: it is frozen, and no other, until a person ends that."""

from __future__ import annotations

import psycopg

from florin.accounts.v1 import freeze_service_pb2
from florin.transactions.v1 import transfer_pb2, transfer_service_pb2
from local.binaries import find
from local.postgres import Postgres
from tests.support.mesh import Mesh
from tests.support.parts import wait_until

ACCEPTED, COMPLETED = transfer_pb2.TRANSFER_STATE_ACCEPTED, transfer_pb2.TRANSFER_STATE_COMPLETED


def changed_balance(mesh: Mesh, tenant: str, account: str, by: int) -> None:
    """What a superuser of the database can do."""
    with psycopg.connect(Postgres(mesh.state, find()).admin_dsn("accounts")) as root:
        done = root.execute(
            "UPDATE accounts SET posted = posted + %s WHERE tenant = %s AND account = %s",
            (by, tenant, account.removeprefix("accounts/")),
        )
        assert done.rowcount == 1


def test_a_changed_balance_freezes_its_ledger_alone_until_a_person_unfreezes_it(mesh: Mesh) -> None:
    """Found within seconds and named; payments of the tenant wait as ACCEPTED, those of others go on; once the row is
    put right and a person said so, what waited is paid."""
    tenant = mesh.tenant()
    debit, credit = mesh.account(funds=10_00, tenant=tenant), mesh.account(tenant=tenant)
    before, after = mesh.account(funds=10_00), mesh.account()
    state = freeze_service_pb2.GetLedgerStateRequest()

    def frozen() -> bool:
        return bool(mesh.call("FreezeService.GetLedgerState", state, "auditor", tenant=tenant).frozen)

    assert not frozen()
    changed_balance(mesh, tenant, credit, 5_00)
    wait_until(frozen, 20)
    (freeze,) = mesh.call("FreezeService.GetLedgerState", state, "auditor", tenant=tenant).ledger_freezes
    assert (freeze.currency_code, freeze.finding_count) == ("EUR", 1)
    assert freeze.reason == f"INV-2 does not hold for {credit}: posted 500 at 0, entries 0 at 0"

    order = mesh.transfer(debit, credit, 1_00)
    waiting = mesh.call("TransferService.CreateTransfer", order, tenant=tenant).transfer
    assert waiting.state == ACCEPTED
    paid = mesh.call("TransferService.CreateTransfer", mesh.transfer(before, after, 1_00)).transfer
    assert paid.state == COMPLETED
    assert not mesh.call("FreezeService.GetLedgerState", state, "auditor").frozen
    assert mesh.balance(debit, tenant=tenant).posted.minor_units == 10_00

    shown = mesh.florin("ledger", "status", "--tenant", tenant)
    assert (shown.returncode, f"INV-2  {credit}: posted 500 at 0" in shown.stdout) == (1, True)
    changed_balance(mesh, tenant, credit, -5_00)
    ended = mesh.florin("ledger", "unfreeze", freeze.name, "--note", "balance restored", "--tenant", tenant)
    assert ended.returncode == 0, ended.stderr
    wait = transfer_service_pb2.WaitTransferRequest(name=waiting.name)
    wait_until(lambda: mesh.call("TransferService.WaitTransfer", wait, tenant=tenant).transfer.state == COMPLETED, 20)
    assert mesh.balance(credit, tenant=tenant).posted.minor_units == 1_00
    assert mesh.florin("ledger", "status", "--tenant", tenant).returncode == 0
