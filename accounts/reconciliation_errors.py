"""Every refusal about reconciliation, in the order in which they go before each other."""

from __future__ import annotations

import grpc

from accounts.reconciliation_model import ItemState, MatchState
from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError
from meshkit.money import format_minor

_CODE = grpc.StatusCode


class BankStatementInvalid(DomainError):
    """It cannot be read, contradicts itself, or has more than a statement may have."""

    code = _CODE.INVALID_ARGUMENT
    reason = errors_pb2.REASON_BANK_STATEMENT_INVALID

    def __init__(self, sentence: str, line: int | None = None) -> None:
        super().__init__(
            f"Nothing of the statement is taken: {f'line {line}: ' if line else ''}{sentence}.",
            metadata={"line": str(line)} if line else None,
        )


class BankStatementAccountWrong(DomainError):
    """It is of another account than the one that ours stands for, or of another currency."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_BANK_STATEMENT_ACCOUNT_WRONG

    def __init__(self, account: str, *, ours: str, stated: str) -> None:
        known = f"stands for {ours}" if ours else "was opened without an identifier, so that it stands for no account"
        super().__init__(
            f"The statement is of {stated}, but accounts/{account} {known}. Name the settlement account that was opened"
            " with that identifier and currency.",
            metadata={"account": f"accounts/{account}", "identifiers": ours, "stated": stated},
        )


class BankStatementExists(DomainError):
    """Another one was imported under its identification."""

    code = _CODE.ALREADY_EXISTS
    reason = errors_pb2.REASON_BANK_STATEMENT_EXISTS

    def __init__(self, name: str, statement_id: str) -> None:
        super().__init__(
            f"{name} was imported as {statement_id} and says something else; ask the bank which of them holds.",
            metadata={"name": name, "statement_id": statement_id},
        )


class BankStatementNotContinuous(DomainError):
    """Something is between it and the last one, or they overlap; once what is between them is there, it can come."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_BANK_STATEMENT_NOT_CONTINUOUS
    definitive = False

    def __init__(self, last: str, currency: str, *, closing: int, opening: int, period_end: str, start: str) -> None:
        overlap = start <= period_end
        super().__init__(
            f"The statement opens on {start} with {format_minor(opening, currency)} {currency}, but {last} closed on"
            f" {period_end} with {format_minor(closing, currency)} {currency}: "
            + ("it overlaps with what was imported." if overlap else "import what is between them first."),
            metadata={
                "last": last,
                "closing_minor_units": str(closing),
                "opening_minor_units": str(opening),
                "kind": "overlap" if overlap else "gap",
            },
        )


class BankStatementNotFound(DomainError):
    """No such statement."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_BANK_STATEMENT_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class ReconciliationItemNotFound(DomainError):
    """No such item."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_RECONCILIATION_ITEM_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class ReconciliationItemNotOpen(DomainError):
    """It stands in a match, or somebody proposed one."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_RECONCILIATION_ITEM_NOT_OPEN

    def __init__(self, name: str, state: ItemState, match: str) -> None:
        super().__init__(
            f"{name} is {state.name.lower()} by {match}: undo or reject that first.",
            metadata={"name": name, "state": f"RECONCILIATION_ITEM_STATE_{state.name}", "item_match": match},
        )


class ItemMatchUnbalanced(DomainError):
    """The items of the two sides do not cancel each other out."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ITEM_MATCH_UNBALANCED

    def __init__(self, currency: str, *, bank: int, ledger: int) -> None:
        super().__init__(
            f"The bank's items come to {format_minor(bank, currency)} {currency} and ours to"
            f" {format_minor(ledger, currency)} {currency}, which is {format_minor(bank + ledger, currency)}"
            f" {currency} together, not zero. Book what is missing, and match it too.",
            metadata={
                "bank_minor_units": str(bank),
                "ledger_minor_units": str(ledger),
                "difference_minor_units": str(bank + ledger),
            },
        )


class ItemMatchNotFound(DomainError):
    """No such match."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_ITEM_MATCH_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class ItemMatchStateWrong(DomainError):
    """What is asked for cannot be done in its state."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ITEM_MATCH_STATE_WRONG

    def __init__(self, name: str, state: MatchState, wanted: str) -> None:
        super().__init__(
            f"{name} is {state.name.lower().replace('_', ' ')}; {wanted}.",
            metadata={"name": name, "state": f"ITEM_MATCH_STATE_{state.name}"},
        )
