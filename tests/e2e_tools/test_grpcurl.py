"""What a person with grpcurl finds: the contracts by reflection, payments, events, and a reason for every refusal."""

from __future__ import annotations

import json
import secrets
import subprocess
from typing import Any

import grpc
import pytest

from tests.support.mesh import Mesh
from tests.support.terminal import ALL, Terminal
from tests.support.tokens import WRONG

TRANSFER = "transactions.v1.TransferService/CreateTransfer"
PUBLIC_SERVICES = {
    "florin.accounts.v1.AccountService",
    "florin.accounts.v1.AuditService",
    "florin.accounts.v1.BalanceService",
    "florin.accounts.v1.FreezeService",
    "florin.accounts.v1.JournalService",
    "florin.accounts.v1.OverdraftService",
    "florin.accounts.v1.ReconciliationService",
    "florin.accounts.v1.StatementService",
    "florin.compliance.v1.ComplianceService",
    "florin.notifications.v1.NotificationService",
    "florin.transactions.v1.ScheduleService",
    "florin.transactions.v1.ExchangeService",
    "florin.transactions.v1.FeeService",
    "florin.transactions.v1.PaymentFileService",
    "florin.transactions.v1.RailService",
    "florin.transactions.v1.TransferService",
}


def code(name: str) -> int:
    """A status code's number by its name."""
    number: int = grpc.StatusCode[name].value[0]
    return number


def transfer(debit: str, credit: str, minor_units: int, **changes: Any) -> dict[str, Any]:
    """A transfer's request as JSON, with a request_id of its own."""
    amount = {"currency_code": "EUR", "minor_units": str(minor_units)}
    made = {"debit_account": debit, "credit_account": credit, "amount": amount, "request_id": secrets.token_hex(8)}
    return {**made, **changes}


def test_list_shows_the_public_services_and_no_internal_one(terminal: Terminal) -> None:
    """Reflection knows the public services and itself."""
    listed = set(terminal.grpcurl("list").out.split())
    assert {name for name in listed if name.startswith("florin.")} == PUBLIC_SERVICES
    assert {name for name in listed if not name.startswith("florin.")} <= {
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("service", sorted(PUBLIC_SERVICES))
def test_describe_shows_every_method_of_a_service_and_every_message_of_a_method(
    terminal: Terminal, service: str
) -> None:
    """Whatever `list SERVICE` names can be described by its name, down to the fields of its request."""
    methods = terminal.grpcurl(f"list {service}").out.split()
    assert len(methods) >= 2
    whole = terminal.grpcurl(f"describe {service}").out
    for method in methods:
        assert f"rpc {method.rsplit('.', 1)[1]} (" in whole
    described = terminal.grpcurl(f"describe {methods[0]}").out
    request = described.split("( .", 1)[1].split(" ", 1)[0]
    assert f"{request} is a message:" in terminal.grpcurl(f"describe {request}").out


def test_describe_shows_the_rest_mapping_and_no_policy(terminal: Terminal) -> None:
    """The published contract says where REST callers find a method; scopes and owners stay inside."""
    described = terminal.grpcurl("describe florin.transactions.v1.TransferService.CreateTransfer")
    assert described.code == 0, described.err
    assert 'post: "/v1/transfers"' in described.out
    assert "policy" not in described.out


def test_a_transfer_moves_its_amount_once_however_often_it_is_sent(terminal: Terminal, mesh: Mesh) -> None:
    """By reflection and with the token that `florin token` prints; the second time it is the same transfer."""
    debit, credit = mesh.account(funds=100_00), mesh.account()
    request = json.dumps(transfer(debit, credit, 30_00))
    words = ("-d", request, "florin.transactions.v1.TransferService/CreateTransfer")
    made = terminal.grpcurl(*words).json["transfer"]
    assert made["state"] == "TRANSFER_STATE_COMPLETED"
    again = terminal.grpcurl(*words).json["transfer"]
    assert again["name"] == made["name"]
    balance = terminal.call("accounts.v1.AccountService/GetBalance", {"name": credit}).json["balance"]
    assert balance["posted"] == {"currencyCode": "EUR", "minorUnits": "3000"}
    assert mesh.balance(debit).posted.minor_units == 70_00


def test_a_request_id_with_another_payload_is_refused_with_the_first_ones_name(terminal: Terminal, mesh: Mesh) -> None:
    """Same key, other amount: ALREADY_EXISTS, and the transfer that has the key."""
    debit, credit = mesh.account(funds=100_00), mesh.account()
    request = transfer(debit, credit, 10_00)
    made = terminal.call(TRANSFER, request).json["transfer"]
    said = terminal.call(TRANSFER, {**request, "amount": {"currency_code": "EUR", "minor_units": "2000"}})
    assert said.refusal == (code("ALREADY_EXISTS"), "REQUEST_ID_REUSED")
    assert made["name"] in json.dumps(said.status)
    assert mesh.balance(debit).posted.minor_units == 90_00


def test_a_batch_has_a_result_for_each_of_its_items(terminal: Terminal, mesh: Mesh) -> None:
    """One good, one without funds: the refusal of the second does not touch the first."""
    debit, credit, poor = mesh.account(funds=100_00), mesh.account(), mesh.account()
    requests = [transfer(debit, credit, 10_00), transfer(poor, credit, 10_00)]
    results = terminal.call("transactions.v1.TransferService/BatchCreateTransfers", {"requests": requests}).json
    first, second = results["results"]
    assert first["transfer"]["state"] == "TRANSFER_STATE_COMPLETED"
    assert second["status"]["code"] == code("FAILED_PRECONDITION")
    assert mesh.balance(credit).posted.minor_units == 10_00


def test_a_batch_of_1001_is_refused_whole(terminal: Terminal, mesh: Mesh) -> None:
    """A thousand is the most."""
    debit, credit = mesh.account(funds=100_00), mesh.account()
    requests = [transfer(debit, credit, 1) for _ in range(1001)]
    said = terminal.call("transactions.v1.TransferService/BatchCreateTransfers", {"requests": requests})
    assert said.refusal == (code("INVALID_ARGUMENT"), "REQUEST_INVALID")
    assert [found["field"] for found in said.detail("BadRequest")["fieldViolations"]] == ["requests"]
    assert mesh.balance(debit).posted.minor_units == 100_00


class Stream:
    """grpcurl that receives events until it is ended; a maximum time ends it if the test does not."""

    def __init__(self, terminal: Terminal, request: dict[str, Any]) -> None:
        method = "florin.notifications.v1.NotificationService/StreamEvents"
        command = terminal.grpcurl_command("-v", "-max-time", "60", "-d", json.dumps(request), method)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # Headers come as soon as the service has a place in the events to go on from.
        self._until("Response headers received:\n")

    def _until(self, wanted: str) -> str:
        """What grpcurl prints up to a line."""
        assert self._process.stdout is not None
        text = ""
        for line in self._process.stdout:
            text += line
            if line == wanted:
                return text
        raise AssertionError(f"the stream ended: {text}")

    def next(self) -> Any:
        """The next event."""
        self._until("Response contents:\n")
        return json.loads(self._until("}\n"))["event"]

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)


def test_events_stream_as_they_happen_and_go_on_after_a_break(terminal: Terminal, mesh: Mesh) -> None:
    """With the last event's resume_token the stream goes on where it broke, without a gap and without a repetition."""
    debit, credit = mesh.account(funds=100_00), mesh.account()
    wanted = {"event_types": ["florin.transactions.transfer_completed.v1"]}

    def pay(minor_units: int) -> Any:
        return terminal.call(TRANSFER, transfer(debit, credit, minor_units)).json["transfer"]["name"]

    with Stream(terminal, wanted) as events:
        first, event = pay(1), events.next()
    assert (event["subject"], event["type"]) == (first, wanted["event_types"][0])
    assert event["data"]["@type"].endswith("florin.transactions.v1.TransferCompleted")
    missed = {pay(2), pay(3)}
    with Stream(terminal, {**wanted, "resume_token": event["resumeToken"]}) as events:
        assert {events.next()["subject"] for _ in missed} == missed


def test_an_unknown_event_type_and_a_made_up_resume_token_are_refused(terminal: Terminal) -> None:
    """A stream that could never bring anything, or cannot know where to go on, does not begin."""
    method = "notifications.v1.NotificationService/StreamEvents"
    unknown = terminal.call(method, {"event_types": ["florin.transactions.nothing.v1"]}, "-max-time", "10")
    assert unknown.refusal == (code("INVALID_ARGUMENT"), "EVENT_TYPE_UNKNOWN")
    made_up = terminal.call(method, {"resume_token": "tomorrow"}, "-max-time", "10")
    assert made_up.refusal == (code("INVALID_ARGUMENT"), "RESUME_TOKEN_INVALID")


def test_a_refusal_for_want_of_funds_says_how_much_there_is(terminal: Terminal, mesh: Mesh) -> None:
    """The typed detail is shown by its fields: grpcurl learns the type by reflection."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    request = json.dumps(transfer(debit, credit, 30_00))
    said = terminal.grpcurl("-d", request, "florin.transactions.v1.TransferService/CreateTransfer")
    assert said.refusal == (code("FAILED_PRECONDITION"), "INSUFFICIENT_FUNDS")
    funds = said.detail("InsufficientFunds")
    assert funds["available"]["minorUnits"] == "1000"
    assert funds["requested"]["minorUnits"] == "3000"
    assert mesh.balance(debit).posted.minor_units == 10_00


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "an unknown account": ({"credit_account": "accounts/nobody"}, ("NOT_FOUND", "ACCOUNT_NOT_FOUND")),
    "an IBAN with wrong check digits": (
        {"credit_account": "iban:DE00500105175407324931"},
        ("INVALID_ARGUMENT", "IDENTIFIER_INVALID"),
    ),
    "a currency that nobody knows": (
        {"amount": {"currency_code": "XQQ", "minor_units": "5"}},
        ("INVALID_ARGUMENT", "CURRENCY_UNKNOWN"),
    ),
    "another currency than the account's": (
        {"amount": {"currency_code": "USD", "minor_units": "5"}},
        ("FAILED_PRECONDITION", "CURRENCY_MISMATCH"),
    ),
    "nothing": ({"amount": {"currency_code": "EUR"}}, ("INVALID_ARGUMENT", "REQUEST_INVALID")),
    "less than nothing": (
        {"amount": {"currency_code": "EUR", "minor_units": "-5"}},
        ("INVALID_ARGUMENT", "REQUEST_INVALID"),
    ),
    "a request_id that is too long": ({"request_id": "x" * 500}, ("INVALID_ARGUMENT", "REQUEST_INVALID")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_each_bad_request_has_its_reason(terminal: Terminal, mesh: Mesh, what: str) -> None:
    """One thing is wrong with the transfer; the reason says which."""
    changes, (status, reason) = REFUSED[what]
    debit, credit = mesh.account(funds=10_00), mesh.account()
    said = terminal.call(TRANSFER, transfer(debit, credit, 5_00, **changes))
    assert said.refusal == (code(status), reason)
    assert mesh.balance(debit).posted.minor_units == 10_00


def test_all_violations_come_in_one_answer(terminal: Terminal) -> None:
    """Whoever corrects them all at once needs one more call, not four."""
    said = terminal.call(
        TRANSFER, {"debit_account": "Accounts/A", "amount": {"currency_code": "eur", "minor_units": "-5"}}
    )
    assert said.refusal == (code("INVALID_ARGUMENT"), "REQUEST_INVALID")
    fields = {found["field"] for found in said.detail("BadRequest")["fieldViolations"]}
    assert {"debit_account", "credit_account", "amount", "amount.currency_code"} <= fields


def test_no_token_is_refused(terminal: Terminal) -> None:
    """Neither a call nor reflection answers somebody unknown."""
    said = terminal.call("accounts.v1.AccountService/GetAccount", {"name": "accounts/a"}, token="")
    assert said.refusal == (code("UNAUTHENTICATED"), "TOKEN_INVALID")
    listed = terminal.grpcurl("list", token="")
    assert listed.code != 0
    assert "Unauthenticated" in listed.err


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_token_is_refused(terminal: Terminal, mesh: Mesh, what: str) -> None:
    """Forged, expired or too powerful by its own account: UNAUTHENTICATED, in the same words."""
    said = terminal.call("accounts.v1.AccountService/GetAccount", {"name": "accounts/a"}, token=WRONG[what](mesh.state))
    assert said.refusal == (code("UNAUTHENTICATED"), "TOKEN_INVALID")


def test_a_token_without_the_scope_is_refused(terminal: Terminal, mesh: Mesh) -> None:
    """An auditor reads and does not pay."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    said = terminal.call(TRANSFER, transfer(debit, credit, 5_00), token=terminal.token("--as", "auditor"))
    assert said.refusal == (code("PERMISSION_DENIED"), "SCOPE_MISSING")


def test_a_customer_pays_from_their_own_account_alone(terminal: Terminal, mesh: Mesh) -> None:
    """To a customer, somebody else's account is not there."""
    customer = mesh.customer()
    own, others = mesh.account(customer, funds=10_00), mesh.account(funds=10_00)
    token = terminal.token("--as", "customer", "--customer", customer)
    paid = terminal.call(TRANSFER, transfer(own, others, 5_00), token=token)
    assert paid.json["transfer"]["state"] == "TRANSFER_STATE_COMPLETED"
    said = terminal.call(TRANSFER, transfer(others, own, 5_00), token=token)
    assert said.refusal == (code("NOT_FOUND"), "ACCOUNT_NOT_FOUND")
    assert mesh.balance(others).posted.minor_units == 15_00


def test_an_internal_service_cannot_be_called_from_outside(terminal: Terminal) -> None:
    """Whoever knows the internal contract still finds no way to it."""
    ledger = "florin.accounts.v1.LedgerService/PostJournals"
    said = terminal.grpcurl("-protoset", str(ALL), "-d", "{}", ledger, token=terminal.token("--as", "operator"))
    assert said.status["code"] == code("UNIMPLEMENTED")


def test_the_books_balance_after_all_of_it(mesh: Mesh) -> None:
    """What this file did to the mesh, good and bad, left every invariant standing."""
    verified = mesh.florin("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
