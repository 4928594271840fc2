"""REST through the real edge: mapping, problem+json, Idempotency-Key, cross-origin calls; services are stand-ins."""

from __future__ import annotations

import json

import pytest

from tests.support.edge import ORIGIN, Edge
from tests.support.parts import wait_until

JSON = {"content-type": "application/json"}


def test_a_get_reaches_the_method_that_the_contract_maps_it_to(stand_in_edge: Edge) -> None:
    """The path's name arrives in the message, the answer comes back as JSON with its zero values."""
    answer = stand_in_edge.http("GET", "/v1/accounts/one", token=stand_in_edge.token())
    assert answer.status == 200
    assert answer.json["account"]["name"] == "accounts/one"
    assert answer.json["account"]["overdraftLimitMinorUnits"] == "0"
    assert "grpc-status" not in answer.headers
    assert answer.headers["x-request-id"]


def test_the_idempotency_key_reaches_the_service_as_metadata(stand_in_edge: Edge) -> None:
    """The services fill request_id from this header; the edge must not drop it."""
    body = '{"debitAccount": "accounts/a", "amount": {"currencyCode": "EUR", "minorUnits": "5"}}'
    headers = {**JSON, "idempotency-key": "key-77"}
    answer = stand_in_edge.http("POST", "/v1/transfers", body=body, token=stand_in_edge.token(), headers=headers)
    assert answer.status == 200
    seen = [call for call in stand_in_edge.calls("CreateTransfer") if call.metadata.get("idempotency-key") == "key-77"]
    assert len(seen) == 1
    assert seen[0].request.amount.minor_units == 5


def test_unknown_body_fields_are_tolerated_and_unknown_query_parameters_are_not(stand_in_edge: Edge) -> None:
    """The documented tolerance of the transcoder, and its limit."""
    token = stand_in_edge.token()
    tolerated = stand_in_edge.http("POST", "/v1/transfers", body='{"surprise": 1}', token=token, headers=JSON)
    assert tolerated.status == 200
    refused = stand_in_edge.http("GET", "/v1/accounts/one?surprise=1", token=token)
    assert (refused.status, refused.json["reason"]) == (400, "REQUEST_INVALID")


def test_a_plus_in_a_query_is_a_space(stand_in_edge: Edge) -> None:
    """As most libraries write it; a plus sign itself is %2B."""
    answer = stand_in_edge.http("GET", "/v1/accounts?pageToken=a+b%20c%2Bd", token=stand_in_edge.token())
    assert answer.status == 501
    seen = stand_in_edge.calls("ListAccounts")
    assert [call.request.page_token for call in seen] == ["a b c+d"]


def test_a_services_refusal_is_a_problem_with_its_reason(stand_in_edge: Edge) -> None:
    """Reason, sentence and metadata of the service reach a REST caller as RFC 9457 has it."""
    answer = stand_in_edge.http("GET", "/v1/accounts/missing", token=stand_in_edge.token())
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json == {
        "type": "urn:florin:reason:ACCOUNT_NOT_FOUND",
        "title": "There is no such account, or it is not the caller's.",
        "status": 404,
        "detail": 'There is no "account" like that.\n',
        "reason": "ACCOUNT_NOT_FOUND",
        "metadata": {"account": "accounts/missing"},
    }


def test_the_access_log_tells_the_reason_of_a_refusal(stand_in_edge: Edge) -> None:
    """Of a service's, and of the edge's own: over REST the gRPC status says nothing of it."""
    answer = stand_in_edge.http("GET", "/v1/accounts/missing", token=stand_in_edge.token())
    refused = stand_in_edge.http("GET", "/v1/accounts/missing")
    wanted = {
        answer.headers["x-request-id"]: ("rest", 404, "ACCOUNT_NOT_FOUND"),
        refused.headers["x-request-id"]: ("rest", 401, "TOKEN_INVALID"),
    }

    def logged() -> bool:
        lines = [json.loads(line) for line in (stand_in_edge.state.logs / "access.log").read_text().splitlines()]
        found = {line["request_id"]: (line["api"], line["status"], line["reason"]) for line in lines}
        return wanted.items() <= found.items()

    wait_until(logged, 20)


def test_every_violation_is_in_the_problem(stand_in_edge: Edge) -> None:
    """BadRequest's violations are a list of field and description."""
    answer = stand_in_edge.http("POST", "/v1/accounts", body="{}", token=stand_in_edge.token(), headers=JSON)
    assert (answer.status, answer.json["reason"]) == (400, "REQUEST_INVALID")
    assert answer.json["violations"] == [
        {"field": "currency_code", "description": "must match the pattern"},
        {"field": "type", "description": "must not be 0"},
    ]


def test_retry_info_is_the_retry_after_header(stand_in_edge: Edge) -> None:
    """2.5 s of RetryInfo are 3 whole seconds of Retry-After."""
    answer = stand_in_edge.http("GET", "/v1/accounts/busy", token=stand_in_edge.token())
    assert (answer.status, answer.json["reason"], answer.headers["retry-after"]) == (429, "OVERLOADED", "3")


@pytest.mark.parametrize("body", ['{"a', "[]", '{"amount": {"minorUnits": "many"}}', '{"amount": 5}', "\x00"])
def test_malformed_json_is_a_problem(stand_in_edge: Edge, body: str) -> None:
    """What cannot be read as the message is refused with REQUEST_INVALID, never as an internal error."""
    answer = stand_in_edge.http("POST", "/v1/transfers", body=body, token=stand_in_edge.token(), headers=JSON)
    assert (answer.status, answer.json["reason"]) == (400, "REQUEST_INVALID")


def test_an_unknown_path_is_a_problem(stand_in_edge: Edge) -> None:
    """No mapping, no method: 404 with METHOD_UNKNOWN, also for an internal method's path."""
    for path in ("/v1/nothing", "/", "/florin.accounts.v1.LedgerService/PostJournals"):
        answer = stand_in_edge.http("POST", path, body="{}", token=stand_in_edge.token(), headers=JSON)
        assert (answer.status, answer.json["reason"]) == (404, "METHOD_UNKNOWN"), path


def test_a_stream_is_a_line_for_each_event(stand_in_edge: Edge) -> None:
    """Server streaming over REST is newline-delimited JSON."""
    answer = stand_in_edge.http("GET", "/v1/events:stream", token=stand_in_edge.token())
    assert answer.status == 200
    assert answer.body.count(b"\n") == 3


def test_pages_of_named_origins_may_call_and_others_may_not(stand_in_edge: Edge) -> None:
    """A preflight is answered for the origin of the settings alone."""
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = stand_in_edge.http("OPTIONS", "/v1/transfers", headers={"origin": ORIGIN, **asked})
    assert allowed.status == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "idempotency-key" in allowed.headers["access-control-allow-headers"]
    foreign = stand_in_edge.http("OPTIONS", "/v1/transfers", headers={"origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in foreign.headers


def test_the_edge_says_that_it_is_well_without_a_token(stand_in_edge: Edge) -> None:
    """/healthz is for load balancers."""
    assert stand_in_edge.http("GET", "/healthz").status == 200
