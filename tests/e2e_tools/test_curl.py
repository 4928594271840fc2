"""What a person with curl finds: REST with an Idempotency-Key, and a problem with its reason for every refusal."""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.terminal import Terminal, program
from tests.support.tokens import WRONG


def transfer(debit: str, credit: str, minor_units: int, **changes: Any) -> dict[str, Any]:
    """A transfer as REST callers write it."""
    amount = {"currencyCode": "EUR", "minorUnits": minor_units}
    return {"debitAccount": debit, "creditAccount": credit, "amount": amount, **changes}


def key(value: str = "") -> tuple[str, str]:
    """curl's option with an Idempotency-Key, of its own unless one is given."""
    return "--header", f"Idempotency-Key: {value or secrets.token_hex(8)}"


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_transfer_with_an_idempotency_key_is_made_once(terminal: Terminal, mesh: Mesh, version: str) -> None:
    """Sent twice it is one transfer, as both answers, the list and the balance say."""
    debit, credit = mesh.account(funds=100_00), mesh.account()
    body, once = transfer(debit, credit, 30_00), key()
    first, second = (terminal.curl("/v1/transfers", version, *once, body=body) for _ in (1, 2))
    assert (first.status, second.status) == (200, 200)
    made = first.json["transfer"]
    assert made["state"] == "TRANSFER_STATE_COMPLETED"
    assert second.json["transfer"]["name"] == made["name"]
    shown = terminal.curl(f"/v1/{made['name']}")
    assert shown.json["transfer"]["amount"] == {"currencyCode": "EUR", "minorUnits": "3000"}
    assert mesh.balance(debit).posted.minor_units == 70_00
    assert mesh.balance(credit).posted.minor_units == 30_00


def test_fifty_copies_at_once_are_one_transfer(terminal: Terminal, mesh: Mesh) -> None:
    """One curl sends the same request fifty times at the same time; the money moves once."""
    debit, credit = mesh.account(funds=100_00), mesh.account()
    copies = terminal.curl_many(["/v1/transfers"] * 50, *key(), body=transfer(debit, credit, 10_00))
    assert {copy.status for copy in copies} == {200}
    assert len({copy.json["transfer"]["name"] for copy in copies}) == 1
    assert mesh.balance(debit).posted.minor_units == 90_00


def test_a_key_with_another_body_is_a_conflict(terminal: Terminal, mesh: Mesh) -> None:
    """The problem names the transfer that has the key; nothing moves a second time."""
    debit, credit = mesh.account(funds=100_00), mesh.account()
    once = key()
    made = terminal.curl("/v1/transfers", *once, body=transfer(debit, credit, 10_00)).json["transfer"]
    other = terminal.curl("/v1/transfers", *once, body=transfer(debit, credit, 20_00))
    assert other.refusal == (409, "REQUEST_ID_REUSED")
    assert made["name"] in other.body
    assert mesh.balance(debit).posted.minor_units == 90_00


def test_no_token_is_401_as_problem_json(terminal: Terminal) -> None:
    """Who says nothing of themselves is told that a token is needed, in a form that programs read."""
    for _ in range(20):  # the answer must never overtake the request: curl 7.88 would not read it every other time
        posted = terminal.curl("/v1/transfers", *key(), body=transfer("accounts/a", "accounts/b", 1), token="")
        assert posted.refusal == (401, "TOKEN_INVALID")
    assert terminal.curl("/v1/accounts/a", token="").refusal == (401, "TOKEN_INVALID")


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_token_is_401_as_problem_json(terminal: Terminal, mesh: Mesh, what: str) -> None:
    """Forged, expired, unsigned: the same answer."""
    assert terminal.curl("/v1/accounts/a", token=WRONG[what](mesh.state)).refusal == (401, "TOKEN_INVALID")


def test_a_token_without_the_scope_is_403(terminal: Terminal, mesh: Mesh) -> None:
    """An auditor reads an account and does not pay from it."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    auditor = terminal.token("--as", "auditor")
    assert terminal.curl(f"/v1/{debit}", token=auditor).status == 200
    refused = terminal.curl("/v1/transfers", *key(), body=transfer(debit, credit, 1_00), token=auditor)
    assert refused.refusal == (403, "SCOPE_MISSING")


REFUSED: dict[str, tuple[dict[str, Any], tuple[int, str]]] = {
    "more than there is": ({"amount": {"currencyCode": "EUR", "minorUnits": 1_000_000}}, (400, "INSUFFICIENT_FUNDS")),
    "an unknown account": ({"creditAccount": "accounts/nobody"}, (404, "ACCOUNT_NOT_FOUND")),
    "an unknown currency": ({"amount": {"currencyCode": "XQQ", "minorUnits": 5}}, (400, "CURRENCY_UNKNOWN")),
    "nothing": ({"amount": {"currencyCode": "EUR", "minorUnits": 0}}, (400, "REQUEST_INVALID")),
    "less than nothing": ({"amount": {"currencyCode": "EUR", "minorUnits": -5}}, (400, "REQUEST_INVALID")),
    "more than a number holds": (
        {"amount": {"currencyCode": "EUR", "minorUnits": "9223372036854775808"}},
        (400, "REQUEST_INVALID"),
    ),
    "an amount in words": ({"amount": {"currencyCode": "EUR", "minorUnits": "many"}}, (400, "REQUEST_INVALID")),
    "an amount with decimals": ({"amount": {"currencyCode": "EUR", "minorUnits": 1.5}}, (400, "REQUEST_INVALID")),
    "a malformed account": ({"creditAccount": "../accounts/a"}, (400, "REQUEST_INVALID")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_each_bad_transfer_is_a_problem_with_its_reason(terminal: Terminal, mesh: Mesh, what: str) -> None:
    """One thing is wrong; the problem says which, and no money moves."""
    changes, refusal = REFUSED[what]
    debit, credit = mesh.account(funds=10_00), mesh.account()
    refused = terminal.curl("/v1/transfers", *key(), body=transfer(debit, credit, 5_00, **changes))
    assert refused.refusal == refusal
    assert mesh.balance(debit).posted.minor_units == 10_00


@pytest.mark.parametrize("body", ["", "{", "[]", '"a"', '{"amount": 5}', "\x00\x01", '{"debitAccount": {}}'])
def test_a_body_that_is_no_transfer_is_a_problem(terminal: Terminal, body: str) -> None:
    """Whatever stands in the body, the answer is 400 with a reason, never an internal error."""
    assert terminal.curl("/v1/transfers", *key(), body=body).refusal == (400, "REQUEST_INVALID")


def test_all_violations_come_in_one_problem(terminal: Terminal) -> None:
    """A list of field and description for every one."""
    body = {"debitAccount": "Accounts/A", "amount": {"currencyCode": "eur", "minorUnits": -5}}
    refused = terminal.curl("/v1/transfers", *key(), body=body)
    assert refused.refusal == (400, "REQUEST_INVALID")
    fields = {violation["field"] for violation in refused.json["violations"]}
    assert {"debit_account", "credit_account", "amount", "amount.currency_code"} <= fields


def test_unknown_fields_of_a_body_are_tolerated(terminal: Terminal, mesh: Mesh) -> None:
    """A client of a later contract is understood as far as this one goes."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    made = terminal.curl("/v1/transfers", *key(), body=transfer(debit, credit, 5_00, surprise=1))
    assert made.json["transfer"]["state"] == "TRANSFER_STATE_COMPLETED"


def test_a_body_of_five_mebibytes_is_too_large(terminal: Terminal) -> None:
    """The edge sheds it before a service sees it."""
    body = json.dumps(transfer("accounts/a", "accounts/b", 1, remittance="x" * (5 * 1024 * 1024)))
    # Answered while it is still sent: over HTTP/2, curl 7.88 takes that for a broken connection.
    refused = terminal.curl("/v1/transfers", "--http1.1", *key(), body=body)
    assert refused.refusal == (413, "REQUEST_INVALID")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v2/transfers", "/v1/journals:post", "/%2e%2e/admin"])
def test_an_unknown_path_is_404_as_problem_json(terminal: Terminal, path: str) -> None:
    """What nobody serves is said to be so; nothing of the inside answers."""
    assert terminal.curl(path, "--path-as-is").refusal[0] == 404


def test_events_stream_to_curl(terminal: Terminal, mesh: Mesh, tmp_path: Path) -> None:
    """GET /v1/events:stream writes a line for each event as it happens, until the caller has enough."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    wanted = "florin.transactions.transfer_completed.v1"
    received = tmp_path / "events"
    command = [program("curl"), "--silent", "--no-buffer", "--max-time", "60", "--output", str(received)]
    command += ["--cacert", str(mesh.state.ca), "--header", f"authorization: Bearer {terminal.token()}"]
    command += [f"https://localhost:{mesh.port}/v1/events:stream?event_types={wanted}"]
    made = []

    def arrived() -> bool:
        # The edge holds a stream's headers until its first event, so nothing tells that it has begun but an event.
        body = transfer(debit, credit, 1)
        made.append(terminal.curl("/v1/transfers", *key(), body=body).json["transfer"]["name"])
        return received.exists() and received.stat().st_size > 0

    with subprocess.Popen(command) as streaming:
        try:
            wait_until(arrived, 30)
            wait_until(lambda: made[-1] in received.read_text() and received.read_text().endswith("\n"), 30)
        finally:
            streaming.terminate()
    events = [json.loads(line)["event"] for line in received.read_text().splitlines()]
    assert {event["type"] for event in events} == {wanted}
    subjects = [event["subject"] for event in events]
    assert len(set(subjects)) == len(subjects)
    assert set(subjects) <= set(made)


def test_the_books_balance_after_all_of_it(mesh: Mesh) -> None:
    """What this file did to the mesh, good and bad, left every invariant standing."""
    verified = mesh.florin("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
