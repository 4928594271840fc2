"""gRPC and gRPC-Web through the real edge: routing, deadlines, reflection, balancing; services are stand-ins."""

from __future__ import annotations

import struct
import time

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from florin.accounts.v1 import account_service_pb2, account_service_pb2_grpc
from florin.notifications.v1 import notification_service_pb2, notification_service_pb2_grpc
from florin.transactions.v1 import transfer_service_pb2, transfer_service_pb2_grpc
from tests.support.edge import Edge, error_info
from tests.support.parts import wait_until

GET_ACCOUNT = "/florin.accounts.v1.AccountService/GetAccount"
WEB = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}


def web_frame(message: bytes) -> bytes:
    """A gRPC-Web data frame."""
    return struct.pack(">BI", 0, len(message)) + message


def test_a_stub_calls_through_the_edge(stand_in_edge: Edge) -> None:
    """Plain gRPC with TLS and a token reaches the service, which gets the token too and the edge's request id."""
    with stand_in_edge.channel() as channel:
        stub = account_service_pb2_grpc.AccountServiceStub(channel)
        request = account_service_pb2.GetAccountRequest(name="accounts/stub")
        answer = stub.GetAccount(request, metadata=stand_in_edge.metadata(), timeout=5)
    assert answer.account.name == "accounts/stub"
    seen = next(call for call in stand_in_edge.calls("GetAccount") if call.request.name == "accounts/stub")
    assert seen.metadata["authorization"].startswith("Bearer ")
    assert seen.metadata["x-request-id"]


def test_a_stream_arrives_message_by_message(stand_in_edge: Edge) -> None:
    """Server streaming is passed on, in order."""
    with stand_in_edge.channel() as channel:
        stub = notification_service_pb2_grpc.NotificationServiceStub(channel)
        request = notification_service_pb2.StreamEventsRequest()
        events = list(stub.StreamEvents(request, metadata=stand_in_edge.metadata(), timeout=5))
    assert [event.event.resume_token for event in events] == ["0", "1", "2"]


def test_grpc_web_carries_the_answer_and_the_refusal(stand_in_edge: Edge) -> None:
    """A browser's frames are translated; refusals of the service and of the edge are gRPC statuses with details."""
    token = stand_in_edge.token()
    good = account_service_pb2.GetAccountRequest(name="accounts/web").SerializeToString()
    answer = stand_in_edge.http("POST", GET_ACCOUNT, body=web_frame(good), token=token, headers=WEB)
    assert answer.status == 200
    assert b"accounts/web" in answer.body
    assert b"grpc-status:0" in answer.body
    missing = account_service_pb2.GetAccountRequest(name="accounts/missing").SerializeToString()
    refused = stand_in_edge.http("POST", GET_ACCOUNT, body=web_frame(missing), token=token, headers=WEB)
    assert (refused.status, refused.headers["grpc-status"]) == (200, "5")
    assert refused.headers["grpc-status-details-bin"]
    closed = stand_in_edge.http("POST", GET_ACCOUNT, body=web_frame(good), headers=WEB)
    assert (closed.status, closed.headers["grpc-status"]) == (200, "16")
    assert closed.headers["grpc-status-details-bin"]


def test_reflection_through_the_edge_lists_public_services_alone(stand_in_edge: Edge) -> None:
    """Both versions of reflection answer, and describe no internal service."""
    for version in ("v1", "v1alpha"):
        with stand_in_edge.channel() as channel:
            call = channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            answers = list(call(asked, metadata=stand_in_edge.metadata("customer", customer="c1"), timeout=5))
        names = {service.name for service in answers[0].list_services_response.service}
        assert "florin.transactions.v1.TransferService" in names
        assert not any("LedgerService" in name or "ScreeningService" in name for name in names)


def test_copies_of_a_payment_without_a_key_carry_the_edges_one_id_of_it(stand_in_edge: Edge) -> None:
    """A service that answers UNAVAILABLE may have recorded it, so a copy must be known for one; what the caller says
    of itself is not believed."""
    request = transfer_service_pb2.CreateTransferRequest(
        debit_account="accounts/a", credit_account="accounts/b", end_to_end_id="no-key", remittance="down"
    )
    metadata = [*stand_in_edge.metadata(), ("x-request-id", "mine")]
    with stand_in_edge.channel() as channel:
        stub = transfer_service_pb2_grpc.TransferServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.CreateTransfer(request, metadata=metadata, timeout=5)
    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
    seen = [call for call in stand_in_edge.calls("CreateTransfer") if call.request.end_to_end_id == "no-key"]
    ids = {call.metadata["x-request-id"] for call in seen}
    assert len(ids) == 1
    assert ids != {"mine"}


def test_a_callers_deadline_ends_the_call(stand_in_edge: Edge) -> None:
    """1 ms is DEADLINE_EXCEEDED, never INTERNAL, and the service is told what time is left."""
    with stand_in_edge.channel() as channel:
        stub = account_service_pb2_grpc.AccountServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.GetAccount(
                account_service_pb2.GetAccountRequest(name="accounts/slow"),
                metadata=stand_in_edge.metadata(),
                timeout=0.001,
            )
        assert refusal.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        request = account_service_pb2.GetAccountRequest(name="accounts/timed")
        stub.GetAccount(request, metadata=stand_in_edge.metadata(), timeout=1.5)
    seen = next(call for call in stand_in_edge.calls("GetAccount") if call.request.name == "accounts/timed")
    assert seen.seconds_left is not None
    assert seen.seconds_left < 1.6


def test_the_contracts_deadline_bounds_a_caller_that_sets_a_longer_one(stand_in_edge: Edge) -> None:
    """GetAccount may take 2 s; a caller that allows 30 is answered soon after, over gRPC and over REST."""
    began = time.monotonic()
    with stand_in_edge.channel() as channel:
        stub = account_service_pb2_grpc.AccountServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.GetAccount(
                account_service_pb2.GetAccountRequest(name="accounts/slow"),
                metadata=stand_in_edge.metadata(),
                timeout=30,
            )
    assert refusal.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    info = error_info(refusal.value)
    assert info is not None
    assert info.reason == "DEADLINE_EXCEEDED"
    answer = stand_in_edge.http("GET", "/v1/accounts/slow", token=stand_in_edge.token())
    assert (answer.status, answer.json["reason"]) == (504, "DEADLINE_EXCEEDED")
    assert time.monotonic() - began < 15


def test_calls_are_spread_over_replicas(stand_in_edge: Edge) -> None:
    """With two replicas of accounts, forty calls reach both."""
    token = stand_in_edge.token()
    replicas = {
        stand_in_edge.http("GET", "/v1/accounts/spread", token=token).json["account"]["displayName"] for _ in range(40)
    }
    assert replicas == {"accounts-0", "accounts-1"}


def test_the_loss_of_one_replica_is_not_seen_by_callers(stand_in_edge: Edge) -> None:
    """While one of two replicas is stopped every call succeeds, and it is used again when it is back."""
    first, second = stand_in_edge.stand_ins["accounts"]
    request = account_service_pb2.GetAccountRequest(name="accounts/survivor")
    metadata = stand_in_edge.metadata()
    with stand_in_edge.channel() as channel:
        stub = account_service_pb2_grpc.AccountServiceStub(channel)
        second.stop()
        try:
            answers = [stub.GetAccount(request, metadata=metadata, timeout=5) for _ in range(60)]
        finally:
            second.start()
        assert {answer.account.display_name for answer in answers} == {first.replica}
        wait_until(
            lambda: stub.GetAccount(request, metadata=metadata, timeout=5).account.display_name == second.replica, 20
        )


def test_a_replica_that_hangs_is_not_waited_for(stand_in_edge: Edge) -> None:
    """After a quarter of the deadline the other replica is asked as well, and its answer is the call's."""
    request = account_service_pb2.GetAccountRequest(name="accounts/stuck")
    with stand_in_edge.channel() as channel:
        stub = account_service_pb2_grpc.AccountServiceStub(channel)
        # Which of the two is asked first is Envoy's to choose, by chance.
        for _ in range(60):
            answer = stub.GetAccount(request, metadata=stand_in_edge.metadata(), timeout=5)
            assert answer.account.display_name == "accounts-1"
            stuck = [call for call in stand_in_edge.calls("GetAccount") if call.request.name == "accounts/stuck"]
            if "accounts-0" in {call.replica for call in stuck}:
                break
        else:
            raise AssertionError("the hanging replica was never asked")
    # The further attempt is told that it is one: its caller's time has been running since the first.
    assert {call.metadata["x-envoy-attempt-count"] for call in stuck} == {"1", "2"}


def test_a_service_without_replicas_is_unavailable_and_the_others_are_not(stand_in_edge: Edge) -> None:
    """The refusal is UNAVAILABLE with its reason, over gRPC and REST, and only for methods of that service."""
    (only,) = stand_in_edge.stand_ins["notifications"]
    token = stand_in_edge.token("auditor")
    only.stop()
    try:
        with stand_in_edge.channel() as channel:
            stub = notification_service_pb2_grpc.NotificationServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refusal:
                stub.GetWebhookEndpoint(
                    notification_service_pb2.GetWebhookEndpointRequest(name="webhookEndpoints/w"),
                    metadata=[("authorization", f"Bearer {token}")],
                    timeout=5,
                )
        assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
        info = error_info(refusal.value)
        assert info is not None
        assert info.reason == "UNAVAILABLE"
        answer = stand_in_edge.http("GET", "/v1/webhookEndpoints/w", token=token)
        assert (answer.status, answer.json["reason"], answer.headers["retry-after"]) == (503, "UNAVAILABLE", "1")
        assert stand_in_edge.http("GET", "/v1/accounts/one", token=token).status == 200
    finally:
        only.start()
    wait_until(lambda: stand_in_edge.http("GET", "/v1/webhookEndpoints/w", token=token).status == 501, 20)
