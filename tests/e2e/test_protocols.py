"""The same mesh over gRPC, REST and gRPC-Web: one payment, one answer, one refusal, whichever way it is asked."""

from __future__ import annotations

import secrets

import pytest

from florin.accounts.v1 import account_service_pb2
from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from tests.support import protocols
from tests.support.mesh import Mesh
from tests.support.protocols import PROTOCOLS, refused

CREATE = "TransferService.CreateTransfer"


def test_an_idempotency_key_twice_is_one_transfer(mesh: Mesh) -> None:
    """As curl would: POST /v1/transfers with an Idempotency-Key twice gives one answer; another payload is 409."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    body = {
        "debitAccount": debit,
        "creditAccount": credit,
        "amount": {"currencyCode": "EUR", "minorUnits": "250"},
        "remittance": "Invoice 7",
    }
    headers, token = {"idempotency-key": f"order-{secrets.token_hex(8)}"}, mesh.token()
    first = mesh.http("POST", "/v1/transfers", body=body, token=token, headers=headers)
    second = mesh.http("POST", "/v1/transfers", body=body, token=token, headers=headers)
    assert (first.status, second.status) == (200, 200)
    assert first.json == second.json
    assert first.json["transfer"]["state"] == "TRANSFER_STATE_COMPLETED"
    assert mesh.balance(credit).posted.minor_units == 2_50
    changed = {**body, "amount": {"currencyCode": "EUR", "minorUnits": "251"}}
    reused = mesh.http("POST", "/v1/transfers", body=changed, token=token, headers=headers)
    assert (reused.status, reused.json["reason"]) == (409, "REQUEST_ID_REUSED")
    assert reused.headers["content-type"] == "application/problem+json"
    assert reused.json["metadata"]["name"] == first.json["transfer"]["name"]
    assert mesh.balance(credit).posted.minor_units == 2_50


def test_without_a_token_the_answer_is_401_as_a_problem(mesh: Mesh) -> None:
    """application/problem+json with the reason and how to do better."""
    answer = mesh.http("POST", "/v1/transfers", body={})
    assert answer.status == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json["reason"] == "TOKEN_INVALID"


def test_copies_of_a_request_over_three_protocols_are_one_transfer(mesh: Mesh) -> None:
    """The request_id counts, not the way it came."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    request = mesh.transfer(debit, credit, 1_00)
    names = {mesh.call(CREATE, request, protocol=protocol).transfer.name for protocol in PROTOCOLS}
    assert len(names) == 1
    assert mesh.balance(debit).posted.minor_units == 9_00


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_customers_day_over_one_protocol(mesh: Mesh, protocol: str) -> None:
    """Look at the accounts, pay, find the payment, read the entries: each protocol has all of it."""
    me = mesh.customer()
    mine, theirs = mesh.account(me, funds=10_00), mesh.account()
    as_me = {"role": "customer", "customer": me, "protocol": protocol}
    accounts = mesh.call("AccountService.ListAccounts", account_service_pb2.ListAccountsRequest(), **as_me).accounts
    assert [account.name for account in accounts] == [mine]
    request = mesh.transfer(mine, theirs, 1_23, creditor_name="Zoë Müller", remittance="Miete 💶")
    paid = mesh.call(CREATE, request, **as_me).transfer
    assert paid.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    assert (paid.creditor_name, paid.remittance) == ("Zoë Müller", "Miete 💶")
    assert mesh.call("TransferService.GetTransfer", pb.GetTransferRequest(name=paid.name), **as_me).transfer == paid
    wait = pb.WaitTransferRequest(name=paid.name)
    wait.timeout.FromMilliseconds(1500)
    assert mesh.call("TransferService.WaitTransfer", wait, **as_me).transfer == paid
    listed = pb.ListTransfersRequest(filter=f'debit_account = "{mine}"', page_size=5)
    assert [one.name for one in mesh.call("TransferService.ListTransfers", listed, **as_me).transfers] == [paid.name]
    entries = account_service_pb2.ListEntriesRequest(account=mine, page_size=1)
    newest = mesh.call("AccountService.ListEntries", entries, **as_me).entries[0]
    assert (newest.amount.minor_units, newest.journal) == (-1_23, paid.journal)
    balance = mesh.call("AccountService.GetBalance", account_service_pb2.GetBalanceRequest(name=mine), **as_me).balance
    assert balance.available.minor_units == 8_77


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_refusal_says_the_same_over_every_protocol(mesh: Mesh, protocol: str) -> None:
    """Reason, sentence, values and the typed detail reach the caller; over REST as problem+json."""
    debit, credit = mesh.account(funds=1), mesh.account()
    refusal = refused(lambda: mesh.call(CREATE, mesh.transfer(debit, credit, 2_00), protocol=protocol))
    assert refusal.is_for("FAILED_PRECONDITION", "INSUFFICIENT_FUNDS")
    assert refusal.message == f"The funds available on {debit} do not cover 2.00 EUR."
    declined = pb.GetTransferRequest(name=refusal.metadata.pop("transfer"))
    assert refusal.metadata == {"account": debit, "available_minor_units": "1", "requested_minor_units": "200"}
    assert len(refusal.details) == 1
    found = mesh.call("TransferService.GetTransfer", declined, protocol=protocol).transfer
    assert found.state == transfer_pb2.TRANSFER_STATE_DECLINED


def test_unknown_fields_are_tolerated_as_documented(mesh: Mesh) -> None:
    """A newer caller's field is not read: unknown to protobuf, dropped from JSON; in a query it is refused."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    newer = mesh.transfer(debit, credit, 1_00).SerializeToString() + b"\xfa\x3e\x03new"  # field 1007, three bytes
    stub = mesh.channel.unary_unary(protocols.path(CREATE), response_deserializer=pb.CreateTransferResponse.FromString)
    made = stub(newer, metadata=mesh.metadata(), timeout=5).transfer
    assert made.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    body = {
        "debitAccount": debit,
        "creditAccount": credit,
        "amount": {"currencyCode": "EUR", "minorUnits": "100", "colour": "red"},
        "surprise": {"deep": [1, 2]},
    }
    assert mesh.http("POST", "/v1/transfers", body=body, token=mesh.token()).status == 200
    assert mesh.balance(credit).posted.minor_units == 2_00
    query = mesh.http("GET", f"/v1/{debit}?surprise=1", token=mesh.token())
    assert (query.status, query.json["reason"]) == (400, "REQUEST_INVALID")
