"""Every refusal about statements, in the order in which they go before each other."""

from __future__ import annotations

import grpc

from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError

_CODE = grpc.StatusCode


class StatementNotFound(DomainError):
    """No such statement, or it is of an account that is not the caller's: one text for both."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_STATEMENT_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class StatementPeriodOpen(DomainError):
    """A statement is of days that have passed; asked again when they have, the same request is answered."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_STATEMENT_PERIOD_OPEN
    definitive = False

    def __init__(self, account: str, end_time: str) -> None:
        super().__init__(
            f"The period on accounts/{account} ends at {end_time}; a statement can be issued from then on.",
            metadata={"account": f"accounts/{account}", "end_time": end_time},
        )


class StatementTooLarge(DomainError):
    """The period has more entries than a statement may have."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_STATEMENT_TOO_LARGE

    def __init__(self, account: str, entries: int, limit: int) -> None:
        super().__init__(
            f"The period has {entries} entries on accounts/{account}; a statement has {limit} at most."
            " Ask for shorter periods.",
            metadata={"account": f"accounts/{account}", "entries": str(entries), "limit": str(limit)},
        )


class StatementFormatUnsuitable(DomainError):
    """The format has fewer digits than a figure of the statement."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_STATEMENT_FORMAT_UNSUITABLE

    def __init__(self, name: str, figure: str, digits: int) -> None:
        super().__init__(
            f"{name} holds {figure}; the format has {digits} digits. The other formats can hold it.",
            metadata={"name": name, "figure": figure, "digits": str(digits)},
        )
