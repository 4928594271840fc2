"""What an attacker tries at the real edge beside tokens: floods, sizes, smuggled headers, hidden services."""

from __future__ import annotations

import json
import socket
import ssl

import grpc
import pytest

from florin.accounts.v1 import account_service_pb2, account_service_pb2_grpc
from tests.support.edge import ADMIN_RATE, Edge, error_info
from tests.support.parts import wait_until

CREATE_TENANT = "/florin.accounts.v1.AccountService/CreateTenant"
INTERNAL = (
    "/florin.accounts.v1.LedgerService/PostJournals",
    "/florin.accounts.v1.LedgerService/ResolveAccounts",
    "/florin.compliance.v1.ScreeningService/ScreenTransfers",
    "/grpc.health.v1.Health/Check",
    "/grpc.channelz.v1.Channelz/GetTopChannels",
)


@pytest.mark.parametrize("path", INTERNAL)
@pytest.mark.parametrize("role", ["operator", "compliance"])
def test_an_internal_service_cannot_be_reached(stand_in_edge: Edge, path: str, role: str) -> None:
    """No token opens what has no route: UNIMPLEMENTED with METHOD_UNKNOWN, as for a name that was made up."""
    with stand_in_edge.channel() as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary(path)(b"", metadata=stand_in_edge.metadata(role), timeout=5)
    info = error_info(refusal.value)
    assert info is not None
    assert (refusal.value.code(), info.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../florin.accounts.v1.LedgerService/PostJournals",
        "//florin.accounts.v1.LedgerService//PostJournals",
        "/florin.accounts.v1.LedgerService%2FPostJournals",
        "/v1/accounts%2Fone",
        "/v1/accounts%5Cone",
        "/FLORIN.ACCOUNTS.V1.LEDGERSERVICE/POSTJOURNALS",
    ],
)
def test_a_twisted_path_opens_nothing(stand_in_edge: Edge, path: str) -> None:
    """Dots, doubled and escaped slashes and other cases are normalized or refused before anything is decided."""
    answer = stand_in_edge.http("POST", path, body="{}", token=stand_in_edge.token("operator"))
    assert answer.status in {400, 403, 404, 405, 501}
    assert not stand_in_edge.calls("PostJournals")


def test_a_caller_cannot_speak_for_the_edge(stand_in_edge: Edge) -> None:
    """Headers that could be taken for the edge's own words are dropped, and the request id is the edge's."""
    smuggled = {
        "x-auth-sub": "operator",
        "x-auth-tenant": "other",
        "x-florin-role": "operator",
        "x-jwt-claims": "{}",
        "x-request-id": "chosen-by-the-caller",
        "x-forwarded-for": "10.0.0.1",
        "x-envoy-original-path": "/forged",
    }
    answer = stand_in_edge.http("GET", "/v1/accounts/smuggled", token=stand_in_edge.token(), headers=smuggled)
    assert answer.status == 200
    seen = next(call for call in stand_in_edge.calls("GetAccount") if call.request.name == "accounts/smuggled")
    assert not [name for name in seen.metadata if name.startswith(("x-auth-", "x-florin-", "x-jwt-"))]
    assert seen.metadata["x-request-id"] != "chosen-by-the-caller"
    assert seen.metadata["x-envoy-original-path"] == "/v1/accounts/smuggled"


def test_a_header_with_an_underscore_is_refused(stand_in_edge: Edge) -> None:
    """x_auth_sub would be read as x-auth-sub by some: it is refused."""
    answer = stand_in_edge.http("GET", "/v1/accounts/one", token=stand_in_edge.token(), headers={"x_auth_sub": "a"})
    assert answer.status == 400


def test_too_many_and_too_large_headers_are_refused(stand_in_edge: Edge) -> None:
    """101 headers, or 40 KiB of them, end with 431."""
    token = stand_in_edge.token()
    many = {f"x-many-{number}": "1" for number in range(110)}
    assert stand_in_edge.http("GET", "/v1/accounts/one", token=token, headers=many).status == 431
    large = {"x-large": "a" * 40_000}
    assert stand_in_edge.http("GET", "/v1/accounts/one", token=token, headers=large).status == 431


def test_an_oversized_body_is_refused_before_the_service_sees_it(stand_in_edge: Edge) -> None:
    """5 MiB: 413 over REST, INVALID_ARGUMENT over gRPC, both with REQUEST_INVALID."""
    body = json.dumps({"remittance": "a" * (5 * 1024 * 1024)})
    headers = {"content-type": "application/json"}
    answer = stand_in_edge.http("POST", "/v1/transfers", body=body, token=stand_in_edge.token(), headers=headers)
    assert (answer.status, answer.json["reason"]) == (413, "REQUEST_INVALID")
    with stand_in_edge.channel() as channel, pytest.raises(grpc.RpcError) as refusal:
        account_service_pb2_grpc.AccountServiceStub(channel).GetAccount(
            account_service_pb2.GetAccountRequest(name="a" * (5 * 1024 * 1024)),
            metadata=stand_in_edge.metadata(),
            timeout=10,
        )
    info = error_info(refusal.value)
    assert info is not None
    assert (refusal.value.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")


def test_one_subjects_rate_does_not_touch_anothers(stand_in_edge: Edge) -> None:
    """A flood of administrative calls is RATE_LIMITED with a time to wait; other subjects and classes are served."""
    with stand_in_edge.channel() as channel:
        create = channel.unary_unary(CREATE_TENANT)
        flood = stand_in_edge.metadata("operator", subject="flood")
        refusals = []
        for _ in range(ADMIN_RATE * 4):
            try:
                create(b"", metadata=flood, timeout=5)
            except grpc.RpcError as error:
                refusals.append(error)
        assert len(refusals) >= ADMIN_RATE
        info = error_info(refusals[0])
        assert info is not None
        assert (refusals[0].code(), info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        # More subjects than the filter would keep by default (20): none of them is refused for the others.
        for number in range(40):
            create(b"", metadata=stand_in_edge.metadata("operator", subject=f"calm-{number}"), timeout=5)
        create(b"", metadata=stand_in_edge.metadata("operator", subject="flood", tenant="other"), timeout=5)
    token = stand_in_edge.token("operator", subject="flood")
    assert stand_in_edge.http("GET", "/v1/accounts/one", token=token).status == 200


def test_a_rate_is_shared_by_rest_and_grpc_and_says_when_to_come_back(stand_in_edge: Edge) -> None:
    """REST calls count against the class of their method; a refused one has Retry-After."""
    token = stand_in_edge.token("operator", subject="rest-flood")
    headers = {"content-type": "application/json"}
    answers = [
        stand_in_edge.http("POST", "/v1/tenants", body="{}", token=token, headers=headers)
        for _ in range(ADMIN_RATE * 4)
    ]
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert refused[0].json["reason"] == "RATE_LIMITED"
    assert int(refused[0].headers["retry-after"]) >= 1


def test_old_tls_and_plain_text_are_refused(stand_in_edge: Edge) -> None:
    """TLS 1.1 does not come to a handshake; plain HTTP gets no answer."""
    context = stand_in_edge.tls()
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", stand_in_edge.port), 5) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(plain)
    with socket.create_connection(("127.0.0.1", stand_in_edge.port), 5) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert not plain.recv(16).startswith(b"HTTP/1.1 200")


def test_the_access_log_names_the_call_and_keeps_no_secret(stand_in_edge: Edge) -> None:
    """One JSON line a call with who and how it ended; neither the token nor the query is in it."""
    token = stand_in_edge.token("auditor", subject="logged")
    stand_in_edge.http("GET", "/v1/accounts/logged?surprise=hidden-value", token=token)
    log = stand_in_edge.state.logs / "access.log"
    # Envoy writes its log once a second.
    wait_until(lambda: "/v1/accounts/logged" in log.read_text(), 10)
    text = log.read_text()
    line = next(json.loads(one) for one in text.splitlines() if "/v1/accounts/logged" in one)
    assert (line["path"], line["status"], line["subject"]) == ("/v1/accounts/logged", 400, "logged")
    assert "hidden-value" not in text
    assert token.split(".")[1] not in text
