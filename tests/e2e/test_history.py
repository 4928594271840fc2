"""The past of an account through the edge: by recorded time, by effective time, by sequence."""

from __future__ import annotations

import secrets
from datetime import timedelta

import pytest

from florin.accounts.v1 import account_service_pb2 as pb
from florin.transactions.v1 import transfer_service_pb2
from meshkit import clock
from tests.support.mesh import Mesh
from tests.support.protocols import PROTOCOLS, refused

BALANCE, ENTRIES = "AccountService.GetBalance", "AccountService.ListEntries"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_customer_looks_at_the_past(mesh: Mesh, protocol: str) -> None:
    """A reversal dated back counts from its day by effective time, and from now by recorded time; the same over every
    protocol."""
    me = mesh.customer()
    mine, other = mesh.account(me, funds=10_00), mesh.account()
    paid = mesh.call("TransferService.CreateTransfer", mesh.transfer(mine, other, 4_00)).transfer
    before = clock.timestamp(clock.now())
    reversal = transfer_service_pb2.ReverseTransferRequest(
        name=paid.name, reason="wrong", request_id=secrets.token_hex(8), effective_time=paid.create_time
    )
    mesh.call("TransferService.ReverseTransfer", reversal)
    as_me = {"role": "customer", "customer": me, "protocol": protocol}
    for as_of, posted, sequences in (
        ({"as_of_recorded_time": before}, 6_00, [2, 1]),
        ({"as_of_effective_time": before}, 10_00, [3, 2, 1]),
        ({"as_of_sequence": 1}, 10_00, [1]),
        ({"as_of_sequence": 0}, 0, []),
    ):
        balance = mesh.call(BALANCE, pb.GetBalanceRequest(name=mine, **as_of), **as_me).balance
        assert balance.posted.minor_units == posted, as_of
        assert not balance.HasField("available")
        listed = mesh.call(ENTRIES, pb.ListEntriesRequest(account=mine, **as_of), **as_me).entries
        assert [entry.sequence for entry in listed] == sequences, as_of
    for as_of, name, reason in (
        ({"as_of_recorded_time": before, "as_of_sequence": 1}, mine, "REQUEST_INVALID"),
        ({"as_of_sequence": 4}, mine, "AS_OF_FUTURE"),
        ({"as_of_recorded_time": clock.timestamp(clock.now() + timedelta(hours=1))}, mine, "AS_OF_FUTURE"),
        ({"as_of_sequence": 0}, other, "ACCOUNT_NOT_FOUND"),
    ):
        request = pb.GetBalanceRequest(name=name, **as_of)
        refusal = refused(lambda request=request: mesh.call(BALANCE, request, **as_me))
        assert refusal.reason == reason, as_of


def test_the_past_in_a_browsers_address_line(mesh: Mesh) -> None:
    """Query parameters: a time as RFC 3339 has it, a sequence as a number; what is neither is a problem."""
    account, token = mesh.account(funds=5_00), mesh.token()
    path = f"/v1/{account}/balance?"
    now = clock.now().isoformat().replace("+00:00", "Z")
    for query, posted in (
        (f"asOfRecordedTime={now}", "500"),
        ("asOfRecordedTime=2001-01-01T00:00:00Z", "0"),
        ("asOfEffectiveTime=2001-01-01T00:00:00%2B02:00", "0"),
        ("asOfSequence=1", "500"),
    ):
        answer = mesh.http("GET", path + query, token=token)
        assert (answer.status, answer.json["balance"]["posted"]["minorUnits"]) == (200, posted), answer.body
        assert "available" not in {key for key, value in answer.json["balance"].items() if value is not None}
    for query in (
        "asOfRecordedTime=yesterday",
        "asOfSequence=-1",
        "asOfSequence=1&asOfRecordedTime=2001-01-01T00:00:00Z",
    ):
        answer = mesh.http("GET", path + query, token=token)
        assert (answer.status, answer.json["reason"]) == (400, "REQUEST_INVALID"), query
    future = mesh.http("GET", path + "asOfSequence=2", token=token)
    assert (future.status, future.json["reason"]) == (400, "AS_OF_FUTURE")
