"""The refusal about what is archived and not at hand."""

from __future__ import annotations

import grpc

from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError

_CODE = grpc.StatusCode


class ArchivedPeriodNotAttached(DomainError):
    """What was asked for is in a period of the archive whose tables are not attached to the database."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ARCHIVED_PERIOD_NOT_ATTACHED
    definitive = False

    def __init__(self, period: int, what: str) -> None:
        super().__init__(
            f"{what} is in the archived period {period}, which is not attached."
            f" An operator attaches it: restore its tables, then python -m accounts archive attach {period}.",
            metadata={"period": str(period), "resource": what},
        )


def raised[T](answer: T | ArchivedPeriodNotAttached) -> T:
    """An answer. Raises the refusal in its place."""
    if isinstance(answer, ArchivedPeriodNotAttached):
        raise answer
    return answer
