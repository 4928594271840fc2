"""What answers of accounts and compliance mean for a transfer; pure, but for the log of a broken invariant."""

from __future__ import annotations

from collections.abc import Mapping

from google.rpc import error_details_pb2, status_pb2

from florin.common.v1 import errors_pb2
from meshkit import logs
from meshkit.errors import error_info, reason_of
from transactions import errors
from transactions.model import State, Transfer
from transactions.ports import Account, Outcome

_log = logs.get(__name__)

_CHANGES: Mapping[int, str] = {
    errors_pb2.REASON_LIMIT_EXCEEDED: "LIMITS",
    errors_pb2.REASON_ACCOUNT_PENDING: "ACCOUNT_STATE",
    errors_pb2.REASON_ACCOUNT_FROZEN: "ACCOUNT_STATE",
    errors_pb2.REASON_ACCOUNT_CLOSED: "ACCOUNT_STATE",
    errors_pb2.REASON_ACCOUNT_DEBITS_BLOCKED: "ACCOUNT_STATE",
    errors_pb2.REASON_ACCOUNT_CREDITS_BLOCKED: "ACCOUNT_STATE",
}
"""What would have been in the way of a preview, and was not, and what is different then. PAYMENT_DECLINED is not among
them: that a list or a rule is another would tip off."""


def admit(
    transfer: Transfer, accounts: Mapping[tuple[str, str], Account]
) -> tuple[status_pb2.Status | None, tuple[Account, Account] | None]:
    """What can be refused from what does not change of the accounts: a refusal, or the two accounts."""
    debit = accounts.get((transfer.tenant, transfer.debit_account))
    credit = accounts.get((transfer.tenant, transfer.credit_account))
    customer = transfer.principal.customer
    if debit is None or (customer is not None and customer not in debit.customers):
        return errors.AccountNotFound(transfer.debit_account).to_status(), None
    if credit is None:
        return errors.AccountNotFound(transfer.credit_account).to_status(), None
    if debit.name == credit.name:
        return errors.AccountsIdentical().to_status(), None
    for account, currency in ((debit, transfer.currency), (credit, transfer.credit_currency)):
        if account.currency != currency:
            # The payer named the payee's account, and may know its currency; nothing else of it is told.
            return errors.CurrencyMismatch(account.name, account.currency, currency).to_status(), None
    return None, (debit, credit)


def given_back(transfer: Transfer, released: Outcome) -> bool:
    """Whether nothing is held for a transfer any more. A hold that a journal consumed means that money moved: INV-6
    would be broken by declining, so the transfer stays open and a person has to look."""
    if released.refusal is None or reason_of(released.refusal) != errors_pb2.REASON_HOLD_NOT_ACTIVE:
        return True
    _log.error("INV-6: a transfer that is to be declined was posted", transfer=transfer.name)
    return False


def resolved(transfer: Transfer, debit: Account, credit: Account) -> Transfer:
    """The transfer with its accounts' names, and with who may see it."""
    seen_by = tuple(dict.fromkeys((*transfer.customers, *debit.customers)))
    if (transfer.debit_account, transfer.credit_account, transfer.customers) == (debit.name, credit.name, seen_by):
        return transfer
    return transfer.changed(debit_account=debit.name, credit_account=credit.name, customers=seen_by)


def viewers(transfer: Transfer, outcome: Outcome) -> tuple[str, ...]:
    """Who may see the transfer, now that the ledger told of the debited account's owners."""
    return tuple(dict.fromkeys((*transfer.customers, *outcome.customers)))


def refusal(status: status_pb2.Status, transfer: Transfer) -> status_pb2.Status:
    """A step's refusal as the transfer's: a step that was cancelled is a transfer that was cancelled, a hold that was
    given back is an authorization that has ended, and what was not in the way of a preview is a change since."""
    reason = reason_of(status)
    changed = _CHANGES.get(reason) if transfer.expected is not None and transfer.state is not State.IN_REVIEW else None
    if changed is not None:
        info = error_info(status) or error_details_pb2.ErrorInfo()
        status = errors.StateChanged(changed, info.reason, status.message, info.metadata).to_status()
    elif reason == errors_pb2.REASON_STEP_CANCELLED:
        status = errors.TransferCancelled().to_status()
    elif transfer.capture_of and reason in (errors_pb2.REASON_HOLD_NOT_ACTIVE, errors_pb2.REASON_HOLD_NOT_FOUND):
        status = errors.AuthorizationEnded(f"transfers/{transfer.capture_of}").to_status()
    return errors.naming(status, transfer.name)
