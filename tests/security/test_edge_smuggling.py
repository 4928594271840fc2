"""Requests that two servers could read in two ways: the real edge reads them in one, or refuses them and hangs up."""

from __future__ import annotations

import json
import socket
import time

import pytest

from tests.support.edge import Edge

HIDDEN = b"POST /v1/tenants HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}"


def head(edge: Edge, *lines: str) -> bytes:
    """The head of a good payment with more lines."""
    first = ["POST /v1/transfers HTTP/1.1", "host: localhost", f"authorization: Bearer {edge.token('operator')}"]
    return "\r\n".join([*first, "content-type: application/json", *lines, "", ""]).encode()


def send(edge: Edge, data: bytes, seconds: float = 5.0) -> tuple[bytes, bool]:
    """What the edge answers to bytes on a connection of their own, and whether it hung up."""
    answer = b""
    with edge.tls().wrap_socket(
        socket.create_connection(("127.0.0.1", edge.port), 5), server_hostname="localhost"
    ) as connection:
        connection.sendall(data)
        connection.settimeout(seconds)
        try:
            while part := connection.recv(65536):
                answer += part
        except TimeoutError:
            return answer, False
    return answer, True


AMBIGUOUS: dict[str, tuple[tuple[str, ...], bytes]] = {
    "a length and chunks": (("content-length: 4", "transfer-encoding: chunked"), b"0\r\n\r\n" + HIDDEN),
    "chunks and a length": (("transfer-encoding: chunked", "content-length: 4"), b"0\r\n\r\n" + HIDDEN),
    "two lengths": (("content-length: 2", f"content-length: {len(HIDDEN) + 2}"), b"{}" + HIDDEN),
    "a length twice": (("content-length: 2, 2",), b"{}" + HIDDEN),
    "a negative length": (("content-length: -1",), b"{}" + HIDDEN),
    "a length with a sign": (("content-length: +2",), b"{}" + HIDDEN),
    "a length before its colon": (("content-length : 2",), b"{}" + HIDDEN),
    "another encoding": (("transfer-encoding: xchunked",), b"0\r\n\r\n" + HIDDEN),
    "an encoding after the chunks": (("transfer-encoding: chunked, identity",), b"0\r\n\r\n" + HIDDEN),
    "a NUL in a header": (("x-a: a\0b", "content-length: 2"), b"{}" + HIDDEN),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_an_ambiguous_request_is_refused_and_nothing_behind_it_is_read(stand_in_edge: Edge, kind: str) -> None:
    """One refusal, then the connection ends: a second request that hides in the first one's body is never seen."""
    lines, body = AMBIGUOUS[kind]
    before = len(stand_in_edge.calls("CreateTenant"))
    answer, hung_up = send(stand_in_edge, head(stand_in_edge, *lines) + body)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501")), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert hung_up
    assert len(stand_in_edge.calls("CreateTenant")) == before


def test_http_1_0_is_refused(stand_in_edge: Edge) -> None:
    """It has no host and no chunks; nobody needs it."""
    answer, hung_up = send(stand_in_edge, head(stand_in_edge).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert answer.startswith(b"HTTP/1.1 426")
    assert hung_up


def test_a_tunnel_is_not_dug(stand_in_edge: Edge) -> None:
    """CONNECT leads nowhere, whoever asks."""
    target = f"127.0.0.1:{stand_in_edge.admin}"
    request = f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nauthorization: Bearer {stand_in_edge.token()}\r\n\r\n"
    answer, _ = send(stand_in_edge, request.encode(), 2.0)
    assert answer.startswith(b"HTTP/1.1 40")


def test_half_a_head_is_not_waited_for(stand_in_edge: Edge) -> None:
    """A slow caller has five seconds for its headers."""
    started = time.monotonic()
    answer, hung_up = send(stand_in_edge, b"GET /v1/accounts/one HTTP/1.1\r\nho", 15.0)
    assert answer.startswith(b"HTTP/1.1 408")
    assert hung_up
    assert time.monotonic() - started < 12


@pytest.mark.parametrize("depth", [100, 1_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [('{"amount":', "}"), ("[", "]")])
def test_a_tower_of_json_is_refused(stand_in_edge: Edge, depth: int, opening: str, closing: str) -> None:
    """Neither an empty success nor a crash: REQUEST_INVALID."""
    body = f'{{"surprise": {opening * depth}1{closing * depth}}}'
    headers = {"content-type": "application/json"}
    answer = stand_in_edge.http("POST", "/v1/transfers", body=body, token=stand_in_edge.token(), headers=headers)
    assert (answer.status, answer.json["reason"]) == (400, "REQUEST_INVALID")


def test_a_caller_does_not_command_the_edge(stand_in_edge: Edge) -> None:
    """Envoy's own headers work for nobody outside: no retries, no time limits, no identity of a caller's choice."""
    commands = {
        "x-envoy-retry-on": "5xx",
        "x-envoy-max-retries": "50",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-internal": "true",
        "x-envoy-external-address": "10.9.9.9",
        "x-forwarded-client-cert": "URI=spiffe://florin/transactions",
        "x-forwarded-proto": "http",
    }
    answer = stand_in_edge.http("GET", "/v1/accounts/commanded", token=stand_in_edge.token(), headers=commands)
    assert answer.status == 200
    (seen,) = [call for call in stand_in_edge.calls("GetAccount") if call.request.name == "accounts/commanded"]
    assert not [
        name for name in ("x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-internal") if name in seen.metadata
    ]
    assert "x-forwarded-client-cert" not in seen.metadata
    assert seen.metadata["x-forwarded-proto"] == "https"
    assert "10.9.9.9" not in json.dumps({name: value for name, value in seen.metadata.items() if "address" in name})
