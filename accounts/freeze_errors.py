"""Every refusal about frozen ledgers, in the order in which they go before each other."""

from __future__ import annotations

import grpc

from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError

_CODE = grpc.StatusCode


class LedgerFrozen(DomainError):
    """The ledger takes no journals and no holds. Why is staff's alone to know. It is no outcome: nothing is stored."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_LEDGER_FROZEN
    definitive = False

    def __init__(self, currency: str) -> None:
        super().__init__(
            f"Nothing can be moved or held in {currency} now; nothing was done.", metadata={"currency_code": currency}
        )


class LedgerFreezeNotFound(DomainError):
    """No such freeze of the tenant's ledger."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_LEDGER_FREEZE_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class LedgerFreezeEnded(DomainError):
    """Somebody ended the freeze before."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_LEDGER_FREEZE_ENDED

    def __init__(self, name: str, ended_by: str) -> None:
        super().__init__(f"{name} was ended by {ended_by}.", metadata={"name": name, "ended_by": ended_by})
