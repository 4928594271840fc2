"""transactions is killed in the middle of a file; it is gone on with where it was, and nothing is lost or doubled."""

from __future__ import annotations

import secrets
import time
from typing import Any

import grpc

from florin.transactions.v1 import payment_file_pb2 as files_pb
from florin.transactions.v1 import payment_file_service_pb2 as pb
from florin.transactions.v1.payment_file_service_pb2_grpc import PaymentFileServiceStub
from tests.support import faults
from tests.support.csv_payments import document, row, upload
from tests.support.mesh import Mesh

PAYMENTS = 6000
FINISH_SECONDS = 110.0


def test_a_file_survives_the_death_of_whoever_makes_its_payments(mesh: Mesh) -> None:
    """kill -9 of both replicas while a third and while two thirds of six thousand payments are done: each is completed
    once, the money moved is their sum, and the counts are those of the items."""
    debit, credit = mesh.account(funds=PAYMENTS), mesh.account()
    stub = PaymentFileServiceStub(mesh.channel)
    data = document(*[row(debit, credit, "0.01")] * PAYMENTS)
    messages = upload(data, secrets.token_hex(6))
    made: Any = stub.UploadPaymentFile(messages, metadata=mesh.metadata(), timeout=60)
    name, kill_at = made.payment_file.name, [PAYMENTS // 3, PAYMENTS * 2 // 3]
    deadline = time.monotonic() + FINISH_SECONDS
    while True:
        assert time.monotonic() < deadline, kill_at
        try:
            asked = pb.GetPaymentFileRequest(name=name)
            file: files_pb.PaymentFile = stub.GetPaymentFile(asked, metadata=mesh.metadata(), timeout=5).payment_file
        except grpc.RpcError as error:
            assert error.code().name in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), error
            time.sleep(0.2)
            continue
        if file.done:
            break
        if kill_at and file.counts.completed >= kill_at[0]:
            kill_at.pop(0)
            for replica in faults.replicas(mesh, "transactions"):
                mesh.kill(replica)
        time.sleep(0.05)
    assert kill_at == []
    assert file.counts == files_pb.PaymentFile.Counts(completed=PAYMENTS)
    assert mesh.balance(credit).posted.minor_units == PAYMENTS
    assert mesh.balance(debit).posted.minor_units == 0
