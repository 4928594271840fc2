"""Every refusal of the transactions service, in the order in which they go before each other."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from florin.common.v1 import errors_pb2
from meshkit import money
from meshkit.errors import DomainError, error_info
from transactions.model import AccountType, Fee


class IdentifierInvalid(DomainError):
    """An IBAN whose check digits are wrong."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_IDENTIFIER_INVALID

    def __init__(self, field: str) -> None:
        super().__init__(f"{field}: the check digits of the IBAN are wrong.", metadata={"field": field})


class AccountsIdentical(DomainError):
    """Both sides of a transfer are the same account."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_ACCOUNTS_IDENTICAL

    def __init__(self) -> None:
        super().__init__("The debit account and the credit account are the same.")


class TransferExists(DomainError):
    """The chosen transfer_id belongs to a transfer of another request."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = errors_pb2.REASON_TRANSFER_EXISTS

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} exists and was made by another request.", metadata={"name": name})


class TransferNotFound(DomainError):
    """No such transfer, or not the caller's: the same words for both."""

    code = grpc.StatusCode.NOT_FOUND
    reason = errors_pb2.REASON_TRANSFER_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class AccountNotFound(DomainError):
    """No such account, or not the caller's: the same words for both."""

    code = grpc.StatusCode.NOT_FOUND
    reason = errors_pb2.REASON_ACCOUNT_NOT_FOUND

    def __init__(self, reference: str) -> None:
        super().__init__(f"There is no account {reference}.", metadata={"account": reference})


class CurrencyMismatch(DomainError):
    """The account is of another currency."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_CURRENCY_MISMATCH

    def __init__(self, account: str, currency_code: str, requested: str) -> None:
        super().__init__(
            f"{account} is an account in {currency_code}, not {requested}.",
            metadata={"account": account, "currency_code": currency_code, "requested": requested},
        )


class AccountTypeWrong(DomainError):
    """The type of the account does not allow what was asked; `sentence` says what would."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_ACCOUNT_TYPE_WRONG

    def __init__(self, account: str, type_: AccountType, sentence: str) -> None:
        super().__init__(
            f"{account} is a {type_.name.lower()} account: {sentence}.",
            metadata={"account": account, "type": f"ACCOUNT_TYPE_{type_.name}"},
        )


class FeeScheduleNotFound(DomainError):
    """No such fee schedule, or no such version of it; `version` 0 is the newest."""

    code = grpc.StatusCode.NOT_FOUND
    reason = errors_pb2.REASON_FEE_SCHEDULE_NOT_FOUND

    def __init__(self, name: str, version: int) -> None:
        of_version = f" of version {version}" if version else ""
        super().__init__(f"There is no {name}{of_version}.", metadata={"name": name, "version": str(version)})


class StateTokenInvalid(DomainError):
    """The token is none of ours, or was not given to this caller for this request; `why` says which."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_STATE_TOKEN_INVALID
    _SENTENCES: ClassVar[dict[str, str]] = {
        "FORGED": "was not made by this service",
        "CALLER": "was given to another caller",
        "REQUEST": "was given for another request; but for validate_only and request_id, send what was previewed",
    }

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The state_token {self._SENTENCES[why]}. Preview again for one that can be used.",
            metadata={"field": "state_token", "why": why},
        )


class StateTokenExpired(DomainError):
    """What was previewed is not promised any more."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_STATE_TOKEN_EXPIRED

    def __init__(self, expire_time: datetime) -> None:
        super().__init__(
            f"The state_token expired at {expire_time.isoformat()}; preview again for another.",
            metadata={"field": "state_token", "expire_time": expire_time.isoformat()},
        )


class StateChanged(DomainError):
    """What was previewed would be refused by now. `changed` is LIMITS or ACCOUNT_STATE; that BALANCE or AVAILABLE is
    another, accounts tells."""

    code = grpc.StatusCode.ABORTED
    reason = errors_pb2.REASON_STATE_CHANGED

    def __init__(self, changed: str, cause: str, sentence: str, metadata: Mapping[str, str]) -> None:
        super().__init__(
            f"What was previewed would be refused by now: {sentence}",
            metadata={**metadata, "changed": changed, "cause": cause},
        )


class FeeChanged(DomainError):
    """What was previewed would cost another fee by now, or that of another version of its schedule."""

    code = grpc.StatusCode.ABORTED
    reason = errors_pb2.REASON_STATE_CHANGED

    def __init__(self, currency: str, *, previewed: Fee | None, present: Fee | None) -> None:
        metadata = {"changed": "FEE", "currency_code": currency}
        for which, fee in (("previewed", previewed), ("present", present)):
            metadata[f"{which}_minor_units"] = str(fee.amount if fee is not None else 0)
            metadata[f"{which}_version"] = str(fee.version if fee is not None else 0)
        super().__init__("The fee schedule changed since it was previewed; preview again.", metadata=metadata)


class LimitExceeded(DomainError):
    """The payment is above a limit; compliance gave the figures."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_LIMIT_EXCEEDED

    def __init__(self, message: str, metadata: dict[str, str]) -> None:
        violation = error_details_pb2.QuotaFailure.Violation(subject=metadata.get("limit", ""), description=message)
        details: list[Message] = [error_details_pb2.QuotaFailure(violations=[violation])]
        super().__init__(message, metadata=metadata, details=details)


class PaymentDeclined(DomainError):
    """Declined by policy. What compliance saw is not told: it would tip off."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_PAYMENT_DECLINED

    def __init__(self) -> None:
        super().__init__("The payment was declined.")


class ReviewExpired(DomainError):
    """Nobody resolved the payment's case in time."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_REVIEW_EXPIRED

    def __init__(self) -> None:
        super().__init__("The payment waited for a review that did not come in time; it was declined.")


class TransferCancelled(DomainError):
    """Cancelled on request."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_TRANSFER_CANCELLED

    def __init__(self) -> None:
        super().__init__("The transfer was cancelled.")


class TransferFinal(DomainError):
    """Too late to cancel."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_TRANSFER_FINAL

    def __init__(self, name: str, state: str) -> None:
        super().__init__(
            f"{name} is {state} and can no longer be cancelled; a completed one can be reversed, an authorized one"
            " voided.",
            metadata={"name": name, "state": state},
        )


class TransferNotCompleted(DomainError):
    """Only what moved money can be reversed."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_TRANSFER_NOT_COMPLETED
    definitive = False  # it may complete later

    def __init__(self, name: str, state: str) -> None:
        super().__init__(f"{name} is {state}; only a completed transfer can be reversed.", metadata={"state": state})


class TransferReversed(DomainError):
    """Reversed before."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_TRANSFER_REVERSED

    def __init__(self, name: str, reversal: str) -> None:
        super().__init__(f"{name} was reversed by {reversal}.", metadata={"name": name, "reversal": reversal})


class TransferNotAuthorized(DomainError):
    """Only an authorization that stands can be captured or voided."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_TRANSFER_NOT_AUTHORIZED
    definitive = False  # it may be authorized later

    def __init__(self, name: str, state: str) -> None:
        super().__init__(
            f"{name} is {state}; only a transfer that was made with authorize_only, and is AUTHORIZED, can be captured"
            " or voided.",
            metadata={"name": name, "state": state},
        )


class AuthorizationEnded(DomainError):
    """Nothing is held for captures any more."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_AUTHORIZATION_ENDED

    def __init__(self, name: str, state: str = "") -> None:
        super().__init__(
            f"{name} has ended{f': it is {state}' if state else ''}; nothing is held for it any more.",
            metadata={"name": name, **({"state": state} if state else {})},
        )


class CaptureExceeded(DomainError):
    """More is to be captured than is left."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_CAPTURE_EXCEEDED
    definitive = False  # what is left may grow, when a capture on its way is refused

    def __init__(self, name: str, currency: str, *, left: int, requested: int) -> None:
        super().__init__(
            f"{money.format_minor(left, currency)} {currency} of {name} are left,"
            f" not {money.format_minor(requested, currency)} {currency}.",
            metadata={"name": name, "left_minor_units": str(left), "requested_minor_units": str(requested)},
        )


class CaptureUnderWay(DomainError):
    """Another capture has to end first: it could not be brought to its end in time."""

    code = grpc.StatusCode.ABORTED
    reason = errors_pb2.REASON_CAPTURE_UNDER_WAY
    retry_after_s = 1.0
    definitive = False

    def __init__(self, name: str, capture: str) -> None:
        super().__init__(
            f"{capture} of {name} is on its way; capture again when it has ended.",
            metadata={"name": name, "capture": capture},
        )


class ReversalExceeded(DomainError):
    """More is to be moved back than was moved."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_REVERSAL_EXCEEDED

    def __init__(self, name: str, currency: str, *, moved: int, requested: int) -> None:
        super().__init__(
            f"{name} moved {money.format_minor(moved, currency)} {currency},"
            f" not {money.format_minor(requested, currency)} {currency}.",
            metadata={"name": name, "moved_minor_units": str(moved), "requested_minor_units": str(requested)},
        )


class StreamLimitReached(DomainError):
    """The caller has too many streams of transfers open at this replica."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = errors_pb2.REASON_STREAM_LIMIT_REACHED
    retry_after_s = 1.0
    definitive = False

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} streams of this caller are open here, which is all that it may have; one takes a thousand"
            " transfers at a time.",
            metadata={"limit": str(limit)},
        )


class StreamEnded(DomainError):
    """This replica ends a stream, all that it read answered."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = errors_pb2.REASON_STREAM_ENDED
    retry_after_s = 0.1
    definitive = False

    def __init__(self, why: str, received: int = 0) -> None:
        super().__init__(
            f"The stream ends here: {why}. The {received} messages that were read are answered; open another stream and"
            " send the rest, with the same request_ids.",
            metadata={"why": why, "received": str(received)},
        )


def naming(status: status_pb2.Status, transfer: str) -> status_pb2.Status:
    """The status with the transfer's name among its metadata, so that a refused caller can look it up."""
    named = status_pb2.Status(code=status.code, message=status.message)
    for detail in status.details:
        copy = named.details.add()
        copy.CopyFrom(detail)
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_info(status)
            if info is not None:
                info.metadata["transfer"] = transfer
                copy.Pack(info)
    return named
