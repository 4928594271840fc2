"""Every refusal about limits of accounts and sums of balances, in the order in which they go before each other."""

from __future__ import annotations

import grpc

from accounts.model import Balance
from accounts.overdrafts import ChangeState
from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError
from meshkit.money import format_minor

_CODE = grpc.StatusCode


class OverdraftThresholdNotFound(DomainError):
    """No threshold is set for the currency: overdraft limits in it apply at once."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_OVERDRAFT_THRESHOLD_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}; set one first.", metadata={"name": name})


class OverdraftChangeNotFound(DomainError):
    """No such change of an overdraft limit."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_OVERDRAFT_CHANGE_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class OverdraftChangeEnded(DomainError):
    """The change does not wait any more."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_OVERDRAFT_CHANGE_ENDED

    def __init__(self, name: str, state: ChangeState) -> None:
        super().__init__(
            f"{name} does not wait for anybody: it is {state.name.lower()}. Ask for the limit anew with UpdateAccount.",
            metadata={"name": name, "state": f"OVERDRAFT_CHANGE_STATE_{state.name}"},
        )


class MinimumBalanceWithOverdraft(DomainError):
    """An account may go below zero or has to stay above an amount, not both."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_MINIMUM_BALANCE_WITH_OVERDRAFT

    def __init__(self, account: str, *, overdraft_limit: int, minimum: int) -> None:
        super().__init__(
            f"accounts/{account} has a minimum balance or an overdraft limit, not both: set one of them to zero.",
            metadata={
                "account": f"accounts/{account}",
                "overdraft_limit_minor_units": str(overdraft_limit),
                "minimum_balance_minor_units": str(minimum),
            },
        )


class MinimumBalanceUncovered(DomainError):
    """What stands on the account less holds is below the minimum that is to be set."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_MINIMUM_BALANCE_UNCOVERED

    def __init__(self, account: str, balance: Balance, minimum: int) -> None:
        covered = balance.posted - balance.held
        super().__init__(
            f"accounts/{account} has {format_minor(covered, balance.currency)} {balance.currency} less holds, below the"
            f" minimum of {format_minor(minimum, balance.currency)} {balance.currency}: credit it first.",
            metadata={
                "account": f"accounts/{account}",
                "covered_minor_units": str(covered),
                "minimum_balance_minor_units": str(minimum),
            },
        )


class SumOverflow(DomainError):
    """The balances of some accounts together would not fit into 64 bits."""

    code = _CODE.OUT_OF_RANGE
    reason = errors_pb2.REASON_AMOUNT_OVERFLOW

    def __init__(self, currency: str) -> None:
        super().__init__(f"The sum of balances in {currency} would exceed 64 bits.", metadata={"currency": currency})
