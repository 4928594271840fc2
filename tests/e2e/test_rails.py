"""Withdrawals and deposits through the edge, with another bank at the rail's folder, as `florin bank` plays it."""

from __future__ import annotations

import secrets
from typing import Any

from florin.transactions.v1 import rail_pb2
from florin.transactions.v1 import rail_service_pb2 as pb
from local import counterparty
from tests.support import rails
from tests.support.mesh import Mesh
from tests.support.protocols import refused


def test_money_leaves_and_comes_in_through_another_bank(mesh: Mesh) -> None:
    """A payment is settled, one given back, one unanswered; a credit arrives, another one is assigned by two people."""
    tenant = mesh.tenant()
    me, number = mesh.customer(tenant=tenant), rails.new_iban()
    account = mesh.account(me, funds=100_00, tenant=tenant, iban=number)
    mine: dict[str, Any] = {"customer": me, "tenant": tenant}
    ask = rails.withdrawal(account, 20_00)
    missing = refused(lambda: mesh.call("RailService.CreateWithdrawal", ask, "customer", **mine))
    assert missing.is_for("FAILED_PRECONDITION", "RAIL_ACCOUNT_MISSING")
    rails.open_accounts(mesh, tenant)

    asked = {"paid": 20_00, "rejected": 5_13, "unanswered": 1_17}
    made = {
        name: mesh.call(
            "RailService.CreateWithdrawal", rails.withdrawal(account, amount), "customer", protocol="REST", **mine
        ).withdrawal
        for name, amount in asked.items()
    }
    assert {one.state for one in made.values()} == {rail_pb2.WITHDRAWAL_STATE_BOOKED}
    assert mesh.balance(account, tenant=tenant).posted.minor_units == 100_00 - sum(asked.values())

    def states() -> set[tuple[str, int]]:
        counterparty.answers(rails.folder(mesh, tenant))
        return {
            (name, mesh.call("RailService.GetWithdrawal", request, "customer", **mine).withdrawal.state)
            for name, one in made.items()
            if (request := pb.GetWithdrawalRequest(name=one.name))
        }

    ends = {
        ("paid", rail_pb2.WITHDRAWAL_STATE_SETTLED),
        ("rejected", rail_pb2.WITHDRAWAL_STATE_RETURNED),
        ("unanswered", rail_pb2.WITHDRAWAL_STATE_SENT),
    }
    rails.once(lambda: states() == ends)
    assert mesh.balance(account, tenant=tenant).posted.minor_units == 100_00 - 20_00 - 1_17
    unanswered = pb.ListWithdrawalsRequest(state=rail_pb2.WITHDRAWAL_STATE_SENT)
    (late,) = mesh.call("RailService.ListWithdrawals", unanswered, protocol="REST", tenant=tenant).withdrawals
    assert (late.name, late.creditor_name) == (made["unanswered"].name, "Grace Beispiel")

    credited = rails.deposited(mesh, tenant, number)
    assert (credited.state, credited.credit_account) == (rail_pb2.DEPOSIT_STATE_CREDITED, account)
    seen = mesh.call("RailService.GetDeposit", pb.GetDepositRequest(name=credited.name), "customer", **mine).deposit
    assert (seen.debtor_name, seen.transfer) == ("Otto Beispiel", "")
    lost = rails.deposited(mesh, tenant, rails.new_iban(), "3.00")
    assert lost.state == rail_pb2.DEPOSIT_STATE_SUSPENDED
    exception = rails.exception_of(mesh, tenant, lost.name)
    propose = pb.ProposeRailResolutionRequest(name=exception.name, account=account, reason="a wrong digit")
    mesh.call("RailService.ProposeRailResolution", propose, "operator", tenant=tenant)
    approve = pb.ApproveRailResolutionRequest(name=exception.name, request_id=secrets.token_hex(8))
    alone = refused(lambda: mesh.call("RailService.ApproveRailResolution", approve, "operator", tenant=tenant))
    assert alone.is_for("PERMISSION_DENIED", "FOUR_EYES")
    approve.request_id = secrets.token_hex(8)
    mesh.call("RailService.ApproveRailResolution", approve, "compliance", protocol="REST", tenant=tenant)
    get = pb.GetDepositRequest(name=lost.name)
    done = rail_pb2.DEPOSIT_STATE_CREDITED
    rails.once(lambda: mesh.call("RailService.GetDeposit", get, tenant=tenant).deposit.state == done)
    assert mesh.balance(account, tenant=tenant).posted.minor_units == 100_00 - 20_00 - 1_17 + 12_50 + 3_00


def test_the_florin_command_plays_the_other_bank(mesh: Mesh) -> None:
    """It answers what is there, sends money, and says in a sentence what it cannot send."""
    tenant, number = mesh.tenant(), rails.new_iban()
    rails.open_accounts(mesh, tenant)
    account = mesh.account(tenant=tenant, iban=number)
    options = ("--tenant", tenant)
    sent = mesh.florin("bank", "pay", number, "1.00", *options)
    assert sent.returncode == 0
    assert "sent under the reference" in sent.stdout
    rails.once(lambda: mesh.balance(account, tenant=tenant).posted.minor_units == 1_00)
    bad = mesh.florin("bank", "pay", number[:-1] + ("1" if number[-1] == "0" else "0"), "1.00", *options)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "the IBAN valid" in bad.stderr
    assert "0 messages answered" in mesh.florin("bank", "run", "--once", *options).stdout
