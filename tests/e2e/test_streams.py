"""Transfers on one open stream through the edge: many in flight, each answered, and gone on with after a break."""

from __future__ import annotations

import queue
import secrets
from collections.abc import Iterator

import grpc
import pytest

from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from meshkit.errors import error_info
from tests.support.mesh import Mesh
from tests.support.protocols import of

COMPLETED = transfer_pb2.TRANSFER_STATE_COMPLETED


def asked(mesh: Mesh, debit: str, credit: str, minor_units: int = 1_00) -> pb.StreamTransfersRequest:
    """One item."""
    return pb.StreamTransfersRequest(transfer=mesh.transfer(debit, credit, minor_units))


def test_a_thousand_in_flight_are_all_paid_once(mesh: Mesh) -> None:
    """One connection, no call a payment; sent again after a break in the middle, nothing moves twice."""
    debit, credit = mesh.account(funds=1_000_00), mesh.account()
    requests = [asked(mesh, debit, credit, 1) for _ in range(1000)]
    metadata = mesh.metadata()
    broken = mesh.stubs().transfers.StreamTransfers(iter(requests), metadata=metadata, timeout=60)
    for _ in range(100):
        assert next(broken).transfer.state == COMPLETED
    broken.cancel()
    answers = list(mesh.stubs().transfers.StreamTransfers(iter(requests), metadata=metadata, timeout=60))
    assert sorted(answer.position for answer in answers) == list(range(1, 1001))
    assert {answer.transfer.state for answer in answers} == {COMPLETED}
    assert {answer.request_id for answer in answers} == {request.transfer.request_id for request in requests}
    assert mesh.balance(credit).posted.minor_units == 1000


def test_an_open_stream_answers_each_item_before_the_next_is_sent(mesh: Mesh) -> None:
    """The edge holds back neither side; a refused item has its reason and the stream goes on."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    messages: queue.Queue[pb.StreamTransfersRequest | None] = queue.Queue()

    def sent() -> Iterator[pb.StreamTransfersRequest]:
        while (message := messages.get()) is not None:
            yield message

    answers = mesh.stubs().transfers.StreamTransfers(sent(), metadata=mesh.metadata(), timeout=60)
    messages.put(asked(mesh, debit, credit, 4_00))
    assert next(answers).transfer.state == COMPLETED
    messages.put(asked(mesh, debit, credit, 7_00))
    refused = next(answers)
    assert refused.transfer.state == transfer_pb2.TRANSFER_STATE_DECLINED
    info = error_info(refused.status)
    assert info is not None
    assert info.reason == "INSUFFICIENT_FUNDS"
    messages.put(asked(mesh, debit, credit, 6_00))
    assert next(answers).transfer.state == COMPLETED
    messages.put(None)
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK
    assert mesh.balance(credit).posted.minor_units == 10_00


def test_a_stream_ends_with_its_token(mesh: Mesh) -> None:
    """The edge let it in with a good token; the service does not let it outlive that."""
    debit, credit = mesh.account(funds=1_00), mesh.account()
    messages: queue.Queue[pb.StreamTransfersRequest] = queue.Queue()
    messages.put(asked(mesh, debit, credit))
    metadata = mesh.metadata(lifetime_seconds=3)
    answers = mesh.stubs().transfers.StreamTransfers(iter(messages.get, None), metadata=metadata, timeout=60)
    assert next(answers).transfer.state == COMPLETED
    with pytest.raises(grpc.RpcError) as ended:
        next(answers)
    assert of(ended.value).is_for("UNAUTHENTICATED", "TOKEN_INVALID")
    messages.put(pb.StreamTransfersRequest())  # lets the thread that sends end


def test_a_customers_stream_debits_what_is_theirs_alone(mesh: Mesh) -> None:
    """Another customer's account does not exist for it, item by item."""
    me, other = mesh.customer(), mesh.customer()
    mine, theirs = mesh.account(me, funds=1_00), mesh.account(other, funds=1_00)
    requests = [asked(mesh, theirs, mine, 50), asked(mesh, mine, theirs, 50)]
    metadata = mesh.metadata("customer", customer=me, subject=f"s-{secrets.token_hex(4)}")
    answers = {
        answer.position: answer
        for answer in mesh.stubs().transfers.StreamTransfers(iter(requests), metadata=metadata, timeout=30)
    }
    info = error_info(answers[1].status)
    assert info is not None
    assert info.reason == "ACCOUNT_NOT_FOUND"
    assert answers[2].transfer.state == COMPLETED
