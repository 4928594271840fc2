"""Every refusal about files of payments, in the order in which they go before each other."""

from __future__ import annotations

import grpc

from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError


class PaymentFileTooLarge(DomainError):
    """More than a file may have."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_PAYMENT_FILE_TOO_LARGE

    def __init__(self, limit: int, unit: str) -> None:
        super().__init__(
            f"A file has {limit:,} {unit} at most; divide it into several.",
            metadata={"limit": str(limit), "unit": unit},
        )


class PaymentFileInvalid(DomainError):
    """It cannot be read."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_PAYMENT_FILE_INVALID

    def __init__(self, sentence: str, line: int | None = None) -> None:
        super().__init__(
            f"Nothing of the file is paid: {f'line {line}: ' if line else ''}{sentence}.",
            metadata={"line": str(line)} if line else None,
        )


class PaymentFileExists(DomainError):
    """The message_id was used for other bytes."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = errors_pb2.REASON_PAYMENT_FILE_EXISTS

    def __init__(self, name: str, message_id: str) -> None:
        super().__init__(
            f"{name} was taken under the message_id {message_id} and has other contents; a new file needs a new one.",
            metadata={"name": name, "message_id": message_id},
        )


class PaymentFileNotFound(DomainError):
    """No such file, or not the caller's: the same words for both."""

    code = grpc.StatusCode.NOT_FOUND
    reason = errors_pb2.REASON_PAYMENT_FILE_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class PaymentFileFinished(DomainError):
    """Too late to cancel."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_PAYMENT_FILE_FINISHED

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is finished: every payment of it has its end. Completed ones can be reversed.",
            metadata={"name": name},
        )


class PaymentRepeated(DomainError):
    """A payment of a file that looks like one before it."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = errors_pb2.REASON_PAYMENT_REPEATED

    def __init__(self, end_to_end_id: str, number: int) -> None:
        super().__init__(
            f"Payment {number} of the file has the end-to-end identification {end_to_end_id} as well; it was not made"
            " twice.",
            metadata={"end_to_end_id": end_to_end_id, "number": str(number)},
        )
