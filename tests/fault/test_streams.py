"""Replicas are killed under an open stream of transfers; its client goes on, and nothing doubles."""

from __future__ import annotations

import time

import grpc

from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from tests.support import faults
from tests.support.mesh import Mesh

PAYMENTS = 2000
FINAL_SECONDS = 90.0
BROKEN = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL"}
"""How a broken stream looks: once answers have begun the edge can only reset it, which gRPC calls INTERNAL."""


def test_a_killed_replica_costs_a_stream_nothing_but_a_new_one(mesh: Mesh) -> None:
    """kill -9 of each replica of transactions and one of accounts, while two thousand transfers go over streams: sent
    again until each is completed, they move the money once."""
    debit, credit = mesh.account(funds=PAYMENTS), mesh.account()
    left = {r.request_id: r for r in (mesh.transfer(debit, credit, 1) for _ in range(PAYMENTS))}
    victims = [*faults.replicas(mesh, "transactions"), faults.replicas(mesh, "accounts")[0]]
    kill_at = [PAYMENTS - PAYMENTS * (number + 1) // 5 for number in range(len(victims))]
    deadline, streams = time.monotonic() + FINAL_SECONDS, 0
    while left:
        assert time.monotonic() < deadline, f"{len(left)} are not completed after {streams} streams"
        streams += 1
        messages = (pb.StreamTransfersRequest(transfer=request) for request in list(left.values()))
        try:
            for answer in mesh.stubs().transfers.StreamTransfers(messages, metadata=mesh.metadata(), timeout=60):
                if answer.transfer.state == transfer_pb2.TRANSFER_STATE_COMPLETED:
                    left.pop(answer.request_id, None)
                if victims and len(left) <= kill_at[0]:
                    kill_at.pop(0)
                    mesh.kill(victims.pop(0))
        except grpc.RpcError as error:
            assert error.code().name in BROKEN, error
            time.sleep(0.1)
    assert not victims
    assert streams > 1
    assert mesh.balance(credit).posted.minor_units == PAYMENTS
