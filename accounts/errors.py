"""Every refusal of this service but those about statements, in the order of precedence; each has its code and reason.

Where a method can refuse for several reasons it gives the one that stands first here, as its contract lists them.
"""

from __future__ import annotations

import grpc

from accounts.model import AccountState, AccountType, Balance, Identifier
from florin.common.v1 import errors_pb2, money_pb2
from meshkit.errors import DomainError, Unavailable
from meshkit.money import format_minor

_CODE = grpc.StatusCode


class ClockAhead(Unavailable):
    """This process's clock is ahead of the database's: what it recorded would take the times of accounts with it, for
    good. Nothing was done; a replica whose clock is right answers."""

    def __init__(self) -> None:
        super().__init__("this replica, whose clock is ahead of its database's,")


class TenantExists(DomainError):
    """CreateTenant: somebody made it before."""

    code = _CODE.ALREADY_EXISTS
    reason = errors_pb2.REASON_TENANT_EXISTS

    def __init__(self, tenant: str) -> None:
        super().__init__(f"tenants/{tenant} exists.", metadata={"name": f"tenants/{tenant}"})


class StepCancelled(DomainError):
    """The step's key was cancelled before the step came; it will never be done."""

    code = _CODE.ABORTED
    reason = errors_pb2.REASON_STEP_CANCELLED

    def __init__(self, key: str) -> None:
        super().__init__("The step was cancelled before it was done.", metadata={"key": key})


class IdentifierInvalid(DomainError):
    """The IBAN's check digits are wrong."""

    code = _CODE.INVALID_ARGUMENT
    reason = errors_pb2.REASON_IDENTIFIER_INVALID

    def __init__(self, identifier: Identifier, field: str) -> None:
        super().__init__(
            f'"{identifier.value}" is not a valid {_IDENTIFIER_NAMES[identifier.kind]}.',
            metadata={"field": field, "identifier": identifier.value},
        )


class CustomerExists(DomainError):
    """CreateCustomer: the chosen id is taken."""

    code = _CODE.ALREADY_EXISTS
    reason = errors_pb2.REASON_CUSTOMER_EXISTS

    def __init__(self, customer: str) -> None:
        super().__init__(f"customers/{customer} exists.", metadata={"name": f"customers/{customer}"})


class AccountExists(DomainError):
    """CreateAccount: the chosen id is taken."""

    code = _CODE.ALREADY_EXISTS
    reason = errors_pb2.REASON_ACCOUNT_EXISTS

    def __init__(self, account: str) -> None:
        super().__init__(f"accounts/{account} exists.", metadata={"name": f"accounts/{account}"})


class CustomerNotFound(DomainError):
    """No such customer, or not the caller's: one text for both."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_CUSTOMER_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class AccountNotFound(DomainError):
    """No such account, or not the caller's: one text for both. `reference` is what the caller wrote."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_ACCOUNT_NOT_FOUND

    def __init__(self, reference: str) -> None:
        super().__init__(f"There is no account {reference}.", metadata={"account": reference})


class JournalNotFound(DomainError):
    """No such journal, or it touches no account of the caller's: one text for both."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_JOURNAL_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class TreeHeadNotFound(DomainError):
    """No signed head of that size, or none at all yet, for which `tree_size` is 0."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_TREE_HEAD_NOT_FOUND

    def __init__(self, tree_size: int) -> None:
        what = f"There is no tree head of size {tree_size}." if tree_size else "Nothing is sealed yet."
        super().__init__(what, metadata={"tree_size": str(tree_size)})


class JournalNotSealed(DomainError):
    """The journal is there, and not among the first `tree_size` sealed ones."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_JOURNAL_NOT_SEALED

    def __init__(self, name: str, tree_size: int) -> None:
        super().__init__(
            f"{name} is not in the tree of size {tree_size}.", metadata={"name": name, "tree_size": str(tree_size)}
        )


class AsOfFuture(DomainError):
    """The time or sequence that was asked for has not come yet; `present` is the one that has."""

    code = _CODE.OUT_OF_RANGE
    reason = errors_pb2.REASON_AS_OF_FUTURE

    def __init__(self, account: str, axis: str, asked: str, present: str) -> None:
        super().__init__(
            f"accounts/{account} cannot be shown as of {axis} {asked}: it is {present} now.",
            metadata={"account": f"accounts/{account}", "axis": axis, "asked": asked, "present": present},
        )


class CustomerRejected(DomainError):
    """Accounts are not opened for a customer whom compliance rejected."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_CUSTOMER_REJECTED

    def __init__(self, customer: str) -> None:
        super().__init__(
            f"customers/{customer} was rejected; no account can be opened.",
            metadata={"customer": f"customers/{customer}"},
        )


class IdentifierTaken(DomainError):
    """The identifier belongs to another account of the tenant."""

    code = _CODE.ALREADY_EXISTS
    reason = errors_pb2.REASON_IDENTIFIER_TAKEN

    def __init__(self, identifier: Identifier) -> None:
        super().__init__(
            f"The {_IDENTIFIER_NAMES[identifier.kind]} {identifier.value} belongs to another account.",
            metadata={"identifier": identifier.value},
        )


class AccountsIdentical(DomainError):
    """A journal that debits and credits one account."""

    code = _CODE.INVALID_ARGUMENT
    reason = errors_pb2.REASON_ACCOUNTS_IDENTICAL

    def __init__(self, account: str) -> None:
        super().__init__(
            f"accounts/{account} is both debited and credited.", metadata={"account": f"accounts/{account}"}
        )


class AccountTypeWrong(DomainError):
    """The type of the account does not allow what was asked; `sentence` says what would."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ACCOUNT_TYPE_WRONG

    def __init__(self, account: str, type_: AccountType, sentence: str) -> None:
        super().__init__(
            f"accounts/{account} is a {type_.name.lower()} account: {sentence}.",
            metadata={"account": f"accounts/{account}", "type": f"ACCOUNT_TYPE_{type_.name}"},
        )


class CurrencyMismatch(DomainError):
    """The money is not of the account's currency."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_CURRENCY_MISMATCH

    def __init__(self, account: str, currency: str, asked: str) -> None:
        super().__init__(
            f"accounts/{account} is kept in {currency}, not in {asked}.",
            metadata={"account": f"accounts/{account}", "account_currency": currency, "currency": asked},
        )


class JournalUnbalanced(DomainError):
    """INV-1: the legs do not sum to zero in each currency, or one of them is zero."""

    code = _CODE.INVALID_ARGUMENT
    reason = errors_pb2.REASON_JOURNAL_UNBALANCED

    def __init__(self, currency: str, total: int) -> None:
        super().__init__(
            f"The legs in {currency} sum to {total} minor units, not to zero, or one of them is zero.",
            metadata={"currency": currency, "sum_minor_units": str(total)},
        )


class AccountPending(DomainError):
    """The account waits for its owners' verification."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ACCOUNT_PENDING

    def __init__(self, account: str) -> None:
        super().__init__(
            f"accounts/{account} waits for its owners' verification.", metadata={"account": f"accounts/{account}"}
        )


class AccountFrozen(DomainError):
    """The account is frozen."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ACCOUNT_FROZEN

    def __init__(self, account: str) -> None:
        super().__init__(f"accounts/{account} is frozen.", metadata={"account": f"accounts/{account}"})


class AccountClosed(DomainError):
    """The account is closed."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ACCOUNT_CLOSED

    def __init__(self, account: str) -> None:
        super().__init__(f"accounts/{account} is closed.", metadata={"account": f"accounts/{account}"})


class HoldNotFound(DomainError):
    """No hold stands under the key, or it is not on an account that the journal debits."""

    code = _CODE.NOT_FOUND
    reason = errors_pb2.REASON_HOLD_NOT_FOUND

    def __init__(self, key: str) -> None:
        super().__init__(f"There is no holds/{key} on a debited account.", metadata={"hold": f"holds/{key}"})


class HoldNotActive(DomainError):
    """The hold was consumed or released before, or its time is over."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_HOLD_NOT_ACTIVE

    def __init__(self, key: str, state: str) -> None:
        super().__init__(
            f"holds/{key} is no longer active: it was {state.lower()}.",
            metadata={"hold": f"holds/{key}", "state": state},
        )


class HoldExceeded(DomainError):
    """The journal takes more than its hold keeps back, and was to leave the rest of it."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_HOLD_EXCEEDED

    def __init__(self, key: str, currency: str, *, kept: int, requested: int) -> None:
        super().__init__(
            f"holds/{key} keeps {format_minor(kept, currency)} {currency} back,"
            f" not {format_minor(requested, currency)} {currency}.",
            metadata={
                "hold": f"holds/{key}",
                "kept_minor_units": str(kept),
                "requested_minor_units": str(requested),
            },
        )


class AccountDebitsBlocked(DomainError):
    """Staff blocked the account's debits; why is staff's alone to know."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ACCOUNT_DEBITS_BLOCKED

    def __init__(self, account: str) -> None:
        super().__init__(f"accounts/{account} takes no debits.", metadata={"account": f"accounts/{account}"})


class AccountCreditsBlocked(DomainError):
    """Staff blocked the account's credits; why is staff's alone to know."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ACCOUNT_CREDITS_BLOCKED

    def __init__(self, account: str) -> None:
        super().__init__(f"accounts/{account} takes no credits.", metadata={"account": f"accounts/{account}"})


class AmountOverflow(DomainError):
    """A balance would not fit into 64 bits."""

    code = _CODE.OUT_OF_RANGE
    reason = errors_pb2.REASON_AMOUNT_OVERFLOW

    def __init__(self, account: str) -> None:
        super().__init__(
            f"The balance of accounts/{account} would exceed 64 bits.", metadata={"account": f"accounts/{account}"}
        )


class InsufficientFunds(DomainError):
    """INV-3: the funds available do not cover the amount. The detail has the figures, in minor units."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_INSUFFICIENT_FUNDS

    def __init__(self, account: str, currency: str, *, available: int, requested: int, held: int) -> None:
        detail = errors_pb2.InsufficientFunds(
            available=money_pb2.Money(currency_code=currency, minor_units=available),
            requested=money_pb2.Money(currency_code=currency, minor_units=requested),
            held=money_pb2.Money(currency_code=currency, minor_units=held),
        )
        super().__init__(
            f"The funds available on accounts/{account} do not cover {format_minor(requested, currency)} {currency}.",
            metadata={
                "account": f"accounts/{account}",
                "available_minor_units": str(available),
                "requested_minor_units": str(requested),
            },
            details=[detail],
        )


class AccountHasHolds(DomainError):
    """An account with active holds cannot be closed."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ACCOUNT_HAS_HOLDS

    def __init__(self, account: str, balance: Balance) -> None:
        super().__init__(
            f"Holds keep {format_minor(balance.held, balance.currency)} {balance.currency} back"
            f" on accounts/{account}; it cannot be closed.",
            metadata={"account": f"accounts/{account}", "held_minor_units": str(balance.held)},
        )


class AccountNotEmpty(DomainError):
    """An account is closed at zero."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ACCOUNT_NOT_EMPTY

    def __init__(self, account: str, balance: Balance) -> None:
        super().__init__(
            f"accounts/{account} stands at {format_minor(balance.posted, balance.currency)} {balance.currency};"
            " it can be closed at zero.",
            metadata={"account": f"accounts/{account}", "posted_minor_units": str(balance.posted)},
        )


class OverdraftInUse(DomainError):
    """The new limit is below what the account uses of its overdraft."""

    code = _CODE.FAILED_PRECONDITION
    reason = errors_pb2.REASON_OVERDRAFT_IN_USE

    def __init__(self, account: str, balance: Balance) -> None:
        used = balance.held - balance.posted
        super().__init__(
            f"accounts/{account} uses {format_minor(used, balance.currency)} {balance.currency} of its overdraft.",
            metadata={"account": f"accounts/{account}", "used_minor_units": str(used)},
        )


_IDENTIFIER_NAMES = {"iban": "IBAN", "local": "local number"}

STATE_REFUSALS: dict[AccountState, type[AccountPending] | type[AccountFrozen] | type[AccountClosed]] = {
    AccountState.PENDING: AccountPending,
    AccountState.FROZEN: AccountFrozen,
    AccountState.CLOSED: AccountClosed,
}
"""Why an account that is not ACTIVE takes neither debits nor credits, in the order of precedence."""
