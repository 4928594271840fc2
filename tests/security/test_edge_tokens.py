"""Tokens at the real edge: every wrong one is refused in one form, and so is a good one without the scope."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from florin.accounts.v1 import account_service_pb2, account_service_pb2_grpc
from local import issuer
from tests.support.edge import Edge, error_info
from tests.support.tokens import WRONG, claims


def call(edge: Edge, token: str | None) -> grpc.RpcError:
    """The refusal of a read with a token."""
    metadata = [("authorization", f"Bearer {token}")] if token is not None else None
    with edge.channel() as channel, pytest.raises(grpc.RpcError) as refusal:
        account_service_pb2_grpc.AccountServiceStub(channel).GetAccount(
            account_service_pb2.GetAccountRequest(name="accounts/guarded"), metadata=metadata, timeout=5
        )
    return refusal.value


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_token_is_refused_in_one_form(stand_in_edge: Edge, kind: str) -> None:
    """UNAUTHENTICATED or 401 with TOKEN_INVALID and one text, whatever is wrong; the service never sees the call."""
    token = WRONG[kind](stand_in_edge.state)
    refusal = call(stand_in_edge, token)
    info = error_info(refusal)
    assert info is not None
    assert (refusal.code(), info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    assert refusal.details() == "A valid token is needed."
    answer = stand_in_edge.http("GET", "/v1/accounts/guarded", token=token)
    assert (answer.status, answer.json["reason"]) == (401, "TOKEN_INVALID")
    assert answer.json["detail"] == "A valid token is needed."
    assert not [seen for seen in stand_in_edge.calls("GetAccount") if seen.request.name == "accounts/guarded"]


def test_no_token_is_401_as_a_problem(stand_in_edge: Edge) -> None:
    """Without a token: UNAUTHENTICATED over gRPC, 401 with WWW-Authenticate as problem+json over REST."""
    assert call(stand_in_edge, None).code() == grpc.StatusCode.UNAUTHENTICATED
    answer = stand_in_edge.http("GET", "/v1/accounts/guarded")
    assert answer.status == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json["reason"] == "TOKEN_INVALID"


def test_a_token_in_the_query_is_not_a_token(stand_in_edge: Edge) -> None:
    """Only the Authorization header carries a token: addresses end up in logs."""
    answer = stand_in_edge.http("GET", f"/v1/accounts/guarded?access_token={stand_in_edge.token()}")
    assert answer.status == 401


def test_a_token_for_another_audience_is_permission_denied(stand_in_edge: Edge) -> None:
    """AUDIENCE_WRONG over both protocols."""
    token = issuer.sign(stand_in_edge.state, claims(aud="somebody-else"))
    refusal = call(stand_in_edge, token)
    info = error_info(refusal)
    assert info is not None
    assert (refusal.code(), info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "AUDIENCE_WRONG")
    answer = stand_in_edge.http("GET", "/v1/accounts/guarded", token=token)
    assert (answer.status, answer.json["reason"]) == (403, "AUDIENCE_WRONG")


@pytest.mark.parametrize("scope", ["", "transfers:read", "accounts:reader", "accounts:read,x", "accounts"])
def test_a_token_without_the_scope_is_permission_denied(stand_in_edge: Edge, scope: str) -> None:
    """A scope must be carried as a whole word; one that merely looks like it opens nothing."""
    token = issuer.sign(stand_in_edge.state, claims(scope=scope))
    refusal = call(stand_in_edge, token)
    info = error_info(refusal)
    assert info is not None
    assert (refusal.code(), info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    answer = stand_in_edge.http("GET", "/v1/accounts/guarded", token=token)
    assert (answer.status, answer.json["reason"]) == (403, "SCOPE_MISSING")


def test_every_public_method_asks_for_its_scope(stand_in_edge: Edge) -> None:
    """A good token with no scope at all reaches no method of the contracts."""
    from tests.support.edge import generator

    token = issuer.sign(stand_in_edge.state, claims(scope="nothing:at-all"))
    with stand_in_edge.channel() as channel:
        for method in generator().load_contracts().methods:
            kind = channel.stream_unary if method.client_streaming else channel.unary_unary
            argument: Any = iter([b""]) if method.client_streaming else b""
            with pytest.raises(grpc.RpcError) as refusal:
                kind(method.path)(argument, metadata=[("authorization", f"Bearer {token}")], timeout=5)
            assert refusal.value.code() == grpc.StatusCode.PERMISSION_DENIED, method.path


def test_every_path_asks_for_a_token(stand_in_edge: Edge) -> None:
    """Public, internal, reflected or unknown: without a token nothing but /healthz is answered."""
    from tests.support.edge import generator

    paths = [method.path for method in generator().load_contracts().methods if not method.client_streaming]
    paths += ["/florin.accounts.v1.LedgerService/PostJournals", "/nothing/Here"]
    paths += ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
    with stand_in_edge.channel() as channel:
        for path in paths:
            with pytest.raises(grpc.RpcError) as refusal:
                channel.unary_unary(path)(b"", timeout=5)
            assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED, path
