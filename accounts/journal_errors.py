"""Every refusal of journals that the bank posts itself, beyond those of all journals, in their order of precedence."""

from __future__ import annotations

from datetime import datetime

import grpc

from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError

_CODE = grpc.StatusCode


class EffectiveTimeOutOfRange(DomainError):
    """The journal is to count from too long ago, or from too far ahead."""

    code = _CODE.OUT_OF_RANGE
    reason = errors_pb2.REASON_EFFECTIVE_TIME_OUT_OF_RANGE

    def __init__(self, asked: datetime, *, earliest: datetime, latest: datetime) -> None:
        super().__init__(
            f"A journal can count from {earliest.isoformat()} to {latest.isoformat()}, not from {asked.isoformat()}.",
            metadata={
                "effective_time": asked.isoformat(),
                "earliest": earliest.isoformat(),
                "latest": latest.isoformat(),
            },
        )


class JournalCustomerAccount(DomainError):
    """The journal touches a customer's account, which compliance does not see: that needs a scope of its own."""

    code = _CODE.PERMISSION_DENIED
    reason = errors_pb2.REASON_JOURNAL_CUSTOMER_ACCOUNT

    def __init__(self, account: str, scope: str) -> None:
        super().__init__(
            f"accounts/{account} is a customer's: a journal that touches it needs the scope {scope}. Payments go by"
            " CreateTransfer.",
            metadata={"account": f"accounts/{account}", "scope": scope},
        )


class AccountVersionMismatch(DomainError):
    """The account has got other entries than its poster knew of."""

    code = _CODE.ABORTED
    reason = errors_pb2.REASON_ACCOUNT_VERSION_MISMATCH

    def __init__(self, account: str, *, expected: int, actual: int) -> None:
        super().__init__(
            f"accounts/{account} is at version {actual}, not at {expected}; read it, and use a new request_id.",
            metadata={
                "account": f"accounts/{account}",
                "expected_version": str(expected),
                "actual_version": str(actual),
            },
        )


class JournalBatchAborted(DomainError):
    """Another journal of the atomic batch was refused, so none was posted."""

    code = _CODE.ABORTED
    reason = errors_pb2.REASON_JOURNAL_BATCH_ABORTED

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(
            f"Nothing of the batch was posted, since requests[{position}] was refused: {reason}.",
            metadata={"position": str(position), "reason": reason},
        )
