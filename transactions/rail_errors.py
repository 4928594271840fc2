"""Every refusal about money to and from outside, in the order in which they go before each other."""

from __future__ import annotations

import grpc

from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError
from transactions.model import AccountType


class RailNotConfigured(DomainError):
    """No rail is set up in this deployment."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_RAIL_NOT_CONFIGURED
    definitive = False

    def __init__(self) -> None:
        super().__init__(
            "No rail to other banks is set up here; the operator sets TRANSACTIONS_RAIL_FOLDER and"
            " TRANSACTIONS_RAIL_BIC.",
            metadata={"setting": "TRANSACTIONS_RAIL_FOLDER"},
        )


class RailAccountMissing(DomainError):
    """What the rail books through is not there."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_RAIL_ACCOUNT_MISSING
    definitive = False

    def __init__(self, account: str, type_: AccountType, currency: str) -> None:
        super().__init__(
            f"The rail books through {account}, which is to be opened as ACCOUNT_TYPE_{type_.name} in {currency}.",
            metadata={"account": account, "type": f"ACCOUNT_TYPE_{type_.name}", "currency_code": currency},
        )


class CreditorInside(DomainError):
    """The IBAN is one of this bank's own accounts."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_CREDITOR_INSIDE

    def __init__(self) -> None:
        super().__init__(
            "The IBAN is an account of this bank; CreateTransfer pays it.", metadata={"field": "creditor_iban"}
        )


class WithdrawalNotFound(DomainError):
    """No such withdrawal, or not the caller's: the same words for both."""

    code = grpc.StatusCode.NOT_FOUND
    reason = errors_pb2.REASON_WITHDRAWAL_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class DepositNotFound(DomainError):
    """No such deposit, or not the caller's: the same words for both."""

    code = grpc.StatusCode.NOT_FOUND
    reason = errors_pb2.REASON_DEPOSIT_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class RailExceptionNotFound(DomainError):
    """No such exception."""

    code = grpc.StatusCode.NOT_FOUND
    reason = errors_pb2.REASON_RAIL_EXCEPTION_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class RailExceptionStateWrong(DomainError):
    """It is too early or too late for that."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_RAIL_EXCEPTION_STATE_WRONG

    def __init__(self, name: str, state: str, wanted: str) -> None:
        super().__init__(f"{name} is {state}; it has to be {wanted}.", metadata={"name": name, "state": state})


class RailResolutionWrong(DomainError):
    """An account for what has no money, or none for what has some."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_RAIL_RESOLUTION_WRONG

    def __init__(self, name: str, *, needs_account: bool) -> None:
        what = "names the account that its deposit belongs to" if needs_account else "names no account"
        super().__init__(f"A resolution of {name} {what}.", metadata={"name": name, "field": "account"})


class TransferOfARail(DomainError):
    """A withdrawal's transfer, or one that the bank made for what the rail said."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_TRANSFER_OF_A_RAIL

    def __init__(self, transfer: str) -> None:
        super().__init__(
            f"{transfer} belongs to a withdrawal or a deposit: what the rail answers, or the resolution of its"
            " exception, moves its money.",
            metadata={"transfer": transfer},
        )
