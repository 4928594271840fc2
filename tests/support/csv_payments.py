"""CSV files of payments for tests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from florin.transactions.v1 import payment_file_pb2, payment_file_service_pb2_grpc
from florin.transactions.v1 import payment_file_service_pb2 as pb

if TYPE_CHECKING:
    from tests.support.mesh import Mesh

HEADER = "debit_account,credit_account,amount,currency,creditor_name,end_to_end_id,remittance"
CSV, PAIN_001 = payment_file_pb2.PAYMENT_FILE_FORMAT_CSV, payment_file_pb2.PAYMENT_FILE_FORMAT_PAIN_001


def row(
    debit: str,
    credit: str,
    amount: str = "1.00",
    *,
    currency: str = "EUR",
    end_to_end_id: str = "",
    name: str = "Nord",
    remittance: str = "Invoice",
) -> str:
    """One payment."""
    return f"{debit},{credit},{amount},{currency},{name},{end_to_end_id},{remittance}"


def document(*rows: str) -> bytes:
    """A whole file."""
    return "\r\n".join([HEADER, *rows, ""]).encode()


def upload(
    data: bytes, message_id: str = "", kind: payment_file_pb2.PaymentFileFormat = CSV, *, chunk_bytes: int = 100_000
) -> Iterator[pb.UploadPaymentFileRequest]:
    """The messages of an upload."""
    header = pb.UploadPaymentFileRequest.Header(format=kind, message_id=message_id)
    yield pb.UploadPaymentFileRequest(header=header)
    for at in range(0, len(data), chunk_bytes):
        yield pb.UploadPaymentFileRequest(chunk=data[at : at + chunk_bytes])


def uploaded(
    mesh: Mesh, data: bytes, message_id: str = "", role: str = "teller", **who: Any
) -> payment_file_pb2.PaymentFile:
    """A file as it was accepted through the edge, under a message_id of its own unless one is given."""
    stub = payment_file_service_pb2_grpc.PaymentFileServiceStub(mesh.channel)
    messages = upload(data, message_id or secrets.token_hex(8))
    answer: Any = stub.UploadPaymentFile(messages, metadata=mesh.metadata(role, **who), timeout=60)
    file: payment_file_pb2.PaymentFile = answer.payment_file
    return file
