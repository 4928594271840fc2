"""Limits of accounts through the whole mesh: blocked sides, minimums, overdrafts of two people; sums and streams."""

from __future__ import annotations

import json
import secrets
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from florin.accounts.v1 import account_pb2, balance_service_pb2, overdraft_service_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from florin.accounts.v1.balance_service_pb2_grpc import BalanceServiceStub
from florin.common.v1 import errors_pb2, money_pb2
from florin.notifications.v1 import notification_service_pb2
from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as transfers
from tests.e2e.test_authorizations import authorize, capture
from tests.support.mesh import Mesh
from tests.support.protocols import of, refused

CREATE = "TransferService.CreateTransfer"
DEBIT, CREDIT = account_pb2.POSTING_SIDE_DEBIT, account_pb2.POSTING_SIDE_CREDIT


def block(mesh: Mesh, account: str, side: Any) -> account_pb2.Account:
    """Blocks a side of an account."""
    request = pb.BlockAccountRequest(name=account, side=side, reason="a dispute", request_id=secrets.token_hex(8))
    blocked: account_pb2.Account = mesh.call("AccountService.BlockAccount", request).account
    return blocked


def pay(mesh: Mesh, debit: str, credit: str, minor_units: int) -> transfer_pb2.Transfer:
    """A payment by a teller. Raises Refused."""
    paid: transfer_pb2.Transfer = mesh.call(CREATE, mesh.transfer(debit, credit, minor_units)).transfer
    return paid


def reverse(mesh: Mesh, name: str) -> Any:
    """Moves a payment back. Raises Refused."""
    request = transfers.ReverseTransferRequest(name=name, reason="a mistake", request_id=secrets.token_hex(8))
    return mesh.call("TransferService.ReverseTransfer", request)


def test_blocked_debits_stop_payments_and_reversals_but_no_capture(mesh: Mesh) -> None:
    """Everybody sees the same reason, nobody why; what was authorized before is captured; credits come."""
    customer = mesh.customer()
    mine, other = mesh.account(customer, funds=100_00), mesh.account(funds=100_00)
    received, held = pay(mesh, other, mine, 10_00), authorize(mesh, mine, other, 30_00)
    assert block(mesh, mine, DEBIT).debits_blocked
    for attempt in (
        lambda: pay(mesh, mine, other, 1_00),
        lambda: authorize(mesh, mine, other, 1_00),
        lambda: mesh.call(CREATE, mesh.transfer(mine, other, 1_00), "customer", customer=customer),
        lambda: reverse(mesh, received.name),
    ):
        refusal = refused(attempt)
        assert refusal.is_for("FAILED_PRECONDITION", "ACCOUNT_DEBITS_BLOCKED")
        assert "dispute" not in refusal.message + str(refusal.metadata)
    assert capture(mesh, held.name, 20_00).state == transfer_pb2.TRANSFER_STATE_COMPLETED
    assert pay(mesh, other, mine, 1_00).state == transfer_pb2.TRANSFER_STATE_COMPLETED
    assert mesh.balance(mine).posted.minor_units == 91_00


def test_blocked_credits_stop_what_comes_from_wherever(mesh: Mesh) -> None:
    """Payments, funding, and reversals of what the account paid; what it has can go."""
    mine, other = mesh.account(funds=100_00), mesh.account(funds=100_00)
    paid = pay(mesh, mine, other, 10_00)
    block(mesh, mine, CREDIT)
    assert refused(lambda: pay(mesh, other, mine, 1)).is_for("FAILED_PRECONDITION", "ACCOUNT_CREDITS_BLOCKED")
    assert refused(lambda: mesh.fund(mine, 1)).reason == "ACCOUNT_CREDITS_BLOCKED"
    assert refused(lambda: reverse(mesh, paid.name)).reason == "ACCOUNT_CREDITS_BLOCKED"
    assert pay(mesh, mine, other, 1_00).state == transfer_pb2.TRANSFER_STATE_COMPLETED
    free = pb.UnblockAccountRequest(name=mine, side=CREDIT, reason="settled")
    mesh.call("AccountService.UnblockAccount", free, protocol="REST")
    reverse(mesh, paid.name)
    assert mesh.balance(mine).posted.minor_units == 99_00


@pytest.mark.parametrize("protocol", ["gRPC", "REST"])
def test_a_minimum_balance_is_left_by_every_payment(mesh: Mesh, protocol: str) -> None:
    """The refusal says what is available and what was asked for."""
    mine, other = mesh.account(funds=100_00), mesh.account()
    minimum = money_pb2.Money(currency_code="EUR", minor_units=40_00)
    change = pb.UpdateAccountRequest(
        account=account_pb2.Account(name=mine, minimum_balance=minimum),
        update_mask=FieldMask(paths=["minimum_balance"]),
    )
    changed = mesh.call("AccountService.UpdateAccount", change, protocol=protocol).account
    assert (changed.minimum_balance, changed.balance.available.minor_units) == (minimum, 60_00)
    refusal = refused(lambda: pay(mesh, mine, other, 60_01))
    assert refusal.is_for("FAILED_PRECONDITION", "INSUFFICIENT_FUNDS")
    figures = errors_pb2.InsufficientFunds()
    assert any(detail.Unpack(figures) for detail in refusal.details)
    assert (figures.available.minor_units, figures.requested.minor_units) == (60_00, 60_01)
    pay(mesh, mine, other, 60_00)
    assert mesh.balance(mine).available.minor_units == 0


def test_an_overdraft_limit_is_raised_by_two_people(mesh: Mesh) -> None:
    """One asks, another with the scope applies it; the account pays by it from then on; staff hear of it as events."""
    tenant = mesh.tenant()
    mine, other = mesh.account(tenant=tenant), mesh.account(tenant=tenant)
    name = mesh.overdraft_change(mine, tenant=tenant)
    approve = overdraft_service_pb2.ApproveOverdraftChangeRequest(name=name)
    verb = "OverdraftService.ApproveOverdraftChange"
    assert refused(lambda: mesh.call(verb, approve, "operator", tenant=tenant)).reason == "SCOPE_MISSING"
    alone = refused(lambda: mesh.call(verb, approve, "compliance", tenant=tenant, subject="teller"))
    assert alone.is_for("PERMISSION_DENIED", "FOUR_EYES")
    payment = mesh.transfer(mine, other, 200_00)
    assert refused(lambda: mesh.call(CREATE, payment, tenant=tenant)).reason == "INSUFFICIENT_FUNDS"
    events = mesh.stubs().notifications.StreamEvents(
        notification_service_pb2.StreamEventsRequest(event_types=["florin.accounts.overdraft_change_ended.v1"]),
        metadata=mesh.metadata(tenant=tenant),
        timeout=60,
    )
    events.initial_metadata()
    applied = mesh.call(verb, approve, "compliance", tenant=tenant, protocol="REST")
    assert applied.account.overdraft_limit_minor_units == 500_00
    paid = mesh.call(CREATE, mesh.transfer(mine, other, 200_00), tenant=tenant).transfer
    assert paid.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    event = next(iter(events)).event
    assert (event.subject, event.sequence) == (name, 2)
    events.cancel()


def test_balances_are_added_up_over_rest(mesh: Mesh) -> None:
    """What a customer has in all, as the customer and as staff see it."""
    customer = mesh.customer()
    for amount in (10_00, 20_00):
        mesh.account(customer, funds=amount)
    path = "/v1/balances:rollUp?key=ROLL_UP_KEY_CUSTOMER"
    own = mesh.http("GET", path, token=mesh.token("customer", customer=customer)).json
    staff = mesh.http("GET", f"{path}&customer={customer}", token=mesh.token("auditor")).json
    assert own["sums"] == staff["sums"]
    (total,) = own["sums"]
    assert (total["customer"], total["accountCount"], total["posted"]["minorUnits"]) == (customer, "2", "3000")


def next_change(stream: Any) -> balance_service_pb2.WatchAccountResponse:
    """The next message of a stream."""
    message: balance_service_pb2.WatchAccountResponse = next(iter(stream))
    return message


def test_an_account_is_followed_through_the_edge(mesh: Mesh) -> None:
    """Its owner sees each entry as it comes, goes on after a break without loss or doubles, and hears of holds."""
    customer = mesh.customer()
    mine, other = mesh.account(customer, funds=100_00), mesh.account(funds=100_00)
    stub, metadata = BalanceServiceStub(mesh.channel), mesh.metadata("customer", customer=customer)
    stream = stub.WatchAccount(balance_service_pb2.WatchAccountRequest(name=mine), metadata=metadata)
    first = next_change(stream)
    assert (first.balance.posted.minor_units, list(first.entries)) == (100_00, [])
    paid = pay(mesh, mine, other, 1_00)
    seen = next_change(stream)
    assert [(entry.origin, entry.amount.minor_units) for entry in seen.entries] == [(paid.name, -1_00)]
    authorize(mesh, mine, other, 5_00)
    assert next_change(stream).balance.held.minor_units == 5_00
    stream.cancel()
    missed = [pay(mesh, other, mine, number).name for number in (1, 2, 3)]
    again = balance_service_pb2.WatchAccountRequest(name=mine, after_sequence=seen.sequence)
    stream = stub.WatchAccount(again, metadata=metadata)
    found: list[str] = []
    while len(found) < 3:
        found += [entry.origin for entry in next_change(stream).entries]
    assert found == missed
    stream.cancel()


def test_a_strangers_account_cannot_be_followed(mesh: Mesh) -> None:
    """Refused before anything is sent, as if there were no such account."""
    theirs, me = mesh.account(), mesh.customer()
    request = balance_service_pb2.WatchAccountRequest(name=theirs)
    stub = BalanceServiceStub(mesh.channel)
    stream = stub.WatchAccount(request, metadata=mesh.metadata("customer", customer=me), timeout=10)
    with pytest.raises(grpc.RpcError) as caught:
        next_change(stream)
    assert of(caught.value).is_for("NOT_FOUND", "ACCOUNT_NOT_FOUND")


def test_a_followed_account_is_a_line_for_each_change_over_rest(mesh: Mesh) -> None:
    """The first line comes at once, the next ones as they happen, until the client hangs up."""
    mine, other = mesh.account(funds=100_00), mesh.account(funds=1_00)
    lines = mesh.lines(f"/v1/{mine}:watch", token=mesh.token("auditor"))
    try:
        assert json.loads(next(lines))["balance"]["posted"]["minorUnits"] == "10000"
        paid = pay(mesh, other, mine, 1_00)
        (entry,) = json.loads(next(lines))["entries"]
        assert (entry["origin"], entry["amount"]["minorUnits"]) == (paid.name, "100")
    finally:
        lines.close()
