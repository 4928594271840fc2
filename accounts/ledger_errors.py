"""What the ledger refuses of steps that expect something of their accounts."""

from __future__ import annotations

import grpc

from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError


class StateChanged(DomainError):
    """The account is not as the step expects it; `changed` says what is different, `available` is in minor units."""

    code = grpc.StatusCode.ABORTED
    reason = errors_pb2.REASON_STATE_CHANGED

    def __init__(self, account: str, changed: str, *, available: int) -> None:
        super().__init__(
            f"Something happened on accounts/{account} since it was looked at; look again.",
            metadata={
                "changed": changed,
                "account": f"accounts/{account}",
                "available_minor_units": str(available),
            },
        )
