"""Refusals that cross RPC with their reason intact; it must never let anything internal out.

A refusal is a small subclass of `DomainError`. The interceptor turns it into a `google.rpc.Status` with exactly one
`ErrorInfo` (domain "florin"); `RecordedRefusal` is that status read back, from a store or from another service.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from florin.common.v1 import errors_pb2

DOMAIN = "florin"
Reason = errors_pb2.Reason

TEXT_MAX = 256
"""Characters of a refusal's sentence and of each of its values, which may quote the caller.

A refusal travels in trailers: gRPC's clients drop it whole above 8 KiB, and a character may take 12 bytes of them.
"""
VIOLATIONS_BYTES_MAX = 3_000
"""What the violations of one refusal may take, for the same reason; 4,000 once they are encoded."""

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def reason_name(reason: int) -> str:
    """The reason as it stands in ErrorInfo: without the enum's prefix."""
    return str(errors_pb2.Reason.Name(reason)).removeprefix("REASON_")  # type: ignore[arg-type]


class DomainError(Exception):
    """A refusal. Subclasses set `code` and `reason`; the message is a sentence for people."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[int] = errors_pb2.REASON_INTERNAL
    retry_after_s: ClassVar[float | None] = None
    definitive: ClassVar[bool] = True
    """Whether asking again gives the same answer, so that it may be stored under a request_id."""

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        details: Sequence[Message] = (),
    ) -> None:
        super().__init__(message)
        self.message = _short(message)
        self.metadata = {name: _short(value) for name, value in (metadata or {}).items()}
        self.details = tuple(details)

    def to_status(self) -> status_pb2.Status:
        """The refusal as it goes over the wire."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        info = error_details_pb2.ErrorInfo(reason=reason_name(self.reason), domain=DOMAIN, metadata=self.metadata)
        status.details.add().Pack(info)
        if self.retry_after_s is not None:
            delay = Duration()
            delay.FromNanoseconds(int(self.retry_after_s * 1e9))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        for detail in self.details:
            status.details.add().Pack(detail)
        return status


class RecordedRefusal(DomainError):
    """A refusal that was read back; it is raised again exactly as it was."""

    def __init__(self, status: status_pb2.Status) -> None:
        info = error_info(status)
        super().__init__(status.message, metadata=dict(info.metadata) if info else None)
        self.status = status
        self.recorded_code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        self.recorded_reason = reason_of(status)

    def to_status(self) -> status_pb2.Status:
        """The status as it was recorded."""
        return self.status


def error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo of a status, if it has one."""
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            return info
    return None


def reason_of(status: status_pb2.Status) -> int:
    """The Reason of a status; REASON_UNSPECIFIED where it carries none of ours."""
    info = error_info(status)
    if info is None or info.domain != DOMAIN:
        return errors_pb2.REASON_UNSPECIFIED
    try:
        return errors_pb2.Reason.Value(f"REASON_{info.reason}")
    except ValueError:
        return errors_pb2.REASON_UNSPECIFIED


def reason_of_error(error: BaseException) -> str:
    """The reason's name that a caller is told for an error; INTERNAL for anything that is no refusal."""
    if isinstance(error, RecordedRefusal):
        return reason_name(error.recorded_reason)
    if isinstance(error, TimeoutError):
        return reason_name(DeadlineExceeded.reason)
    return reason_name(error.reason) if isinstance(error, DomainError) else "INTERNAL"


_TOLD_MAX = 160  # letters of a violation in the sentence that sums them up
_PATTERN_MAX = 80  # the same of one that quotes a pattern


class RequestInvalid(DomainError):
    """The request breaks rules of the contract; `violations` are pairs of field path and sentence, all of them.

    The answer lists as many as a caller can receive; its metadata say how many there are.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_REQUEST_INVALID

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        bad_request, room = error_details_pb2.BadRequest(), VIOLATIONS_BYTES_MAX
        for field, sentence in violations:
            one = error_details_pb2.BadRequest.FieldViolation(field=field, description=_short(sentence))
            room -= one.ByteSize() + 4  # the tag and the length of an item
            if room < 0:
                break
            bad_request.field_violations.append(one)
        told = "; ".join(_told(field, sentence) for field, sentence in violations[:3])
        more = f" (and {len(violations) - 3} more)" if len(violations) > 3 else ""
        super().__init__(
            f"The request is invalid: {told}{more}.",
            metadata={"violations": str(len(violations))},
            details=[bad_request],
        )


class MethodUnknown(DomainError):
    """There is no such method."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = errors_pb2.REASON_METHOD_UNKNOWN


class TokenInvalid(DomainError):
    """No token, or one that does not hold; always the same words, so that nothing is learned from them."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = errors_pb2.REASON_TOKEN_INVALID
    definitive = False

    def __init__(self) -> None:
        super().__init__("A valid bearer token is required.")


class AudienceWrong(DomainError):
    """The token is meant for somebody else."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = errors_pb2.REASON_AUDIENCE_WRONG
    definitive = False

    def __init__(self) -> None:
        super().__init__("The token is not meant for this audience.")


class ScopeMissing(DomainError):
    """The token has none of the scopes of the method."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = errors_pb2.REASON_SCOPE_MISSING
    definitive = False

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__(
            f"The token needs one of these scopes: {', '.join(scopes)}.",
            metadata={"scopes": " ".join(scopes)},
        )


class StaffOnly(DomainError):
    """A customer's token cannot be used for the method."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = errors_pb2.REASON_STAFF_ONLY
    definitive = False

    def __init__(self) -> None:
        super().__init__("This can only be done by staff.")


class CallerNotAllowed(DomainError):
    """The calling service is not one of those that may call the method."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = errors_pb2.REASON_CALLER_NOT_ALLOWED
    definitive = False

    def __init__(self, caller: str) -> None:
        super().__init__("This caller may not call this method.", metadata={"caller": caller})


class Unavailable(DomainError):
    """A part that the answer needs is down; nothing was done, or the same request_id brings the answer."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = errors_pb2.REASON_UNAVAILABLE
    retry_after_s = 1.0
    definitive = False

    def __init__(self, part: str) -> None:
        super().__init__(f"{part} is unavailable; try again with the same request_id.", metadata={"part": part})


class Failed(Unavailable):
    """A part is there and failed at this very request; one item of a batch may be what it fails at."""


class Overloaded(DomainError):
    """The service sheds load; nothing was done."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = errors_pb2.REASON_OVERLOADED
    retry_after_s = 0.5
    definitive = False

    def __init__(self) -> None:
        super().__init__("The service is overloaded; nothing was done. Try again shortly.")


class DeadlineTooShort(DomainError):
    """Too little of the deadline is left to begin; nothing was done."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = errors_pb2.REASON_DEADLINE_TOO_SHORT
    definitive = False

    def __init__(self) -> None:
        super().__init__("Too little of the deadline is left; nothing was done.")


class DeadlineExceeded(DomainError):
    """The deadline passed before the answer; a write may have happened."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = errors_pb2.REASON_DEADLINE_EXCEEDED
    definitive = False

    def __init__(self) -> None:
        super().__init__("The deadline passed; ask again with the same request_id.")


class Contention(DomainError):
    """Concurrent writers met too often; nothing was done."""

    code = grpc.StatusCode.ABORTED
    reason = errors_pb2.REASON_CONTENTION
    retry_after_s = 0.1
    definitive = False

    def __init__(self) -> None:
        super().__init__("Too many concurrent changes of the same thing; nothing was done. Try again.")


class RequestIdReused(DomainError):
    """The request_id stands for another payload."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = errors_pb2.REASON_REQUEST_ID_REUSED
    definitive = False

    def __init__(self, name: str) -> None:
        made = f" It made {name}." if name else ""
        super().__init__(
            f"This request_id was used before with another payload.{made}",
            metadata={"name": name} if name else None,
        )


class PageTokenInvalid(DomainError):
    """The page_token is none of this list and filter."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_PAGE_TOKEN_INVALID

    def __init__(self) -> None:
        super().__init__(
            "The page_token does not belong to this list and filter; begin again without it.",
            metadata={"field": "page_token"},
        )


class FilterInvalid(DomainError):
    """The filter cannot be understood; `position` is the first character that cannot, from 0."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_FILTER_INVALID

    def __init__(self, position: int, why: str) -> None:
        super().__init__(
            f"The filter cannot be understood at character {position + 1}: {why}.",
            metadata={"field": "filter", "position": str(position + 1)},
        )


class FourEyes(DomainError):
    """Who asked for something does not approve it."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = errors_pb2.REASON_FOUR_EYES

    def __init__(self, name: str) -> None:
        super().__init__(f"Another person has to approve {name}.", metadata={"name": name})


class EtagMismatch(DomainError):
    """Somebody else changed the resource."""

    code = grpc.StatusCode.ABORTED
    reason = errors_pb2.REASON_ETAG_MISMATCH

    def __init__(self, present: str) -> None:
        super().__init__("The resource changed since it was read; read it again.", metadata={"present_etag": present})


class UpdateMaskInvalid(DomainError):
    """The update_mask is empty or names what cannot be changed."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_UPDATE_MASK_INVALID

    def __init__(self, path: str, allowed: Sequence[str]) -> None:
        fault = f'"{path}" cannot be changed here' if path else "name the fields that are to be changed"
        super().__init__(
            f"update_mask: {fault}; these can: {', '.join(allowed)}.",
            metadata={"field": "update_mask", "path": path, "allowed": " ".join(allowed)},
        )


class CurrencyUnknown(DomainError):
    """The currency is not one of ISO 4217."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_CURRENCY_UNKNOWN

    def __init__(self, currency_code: str) -> None:
        super().__init__(f'"{currency_code}" is not a currency of ISO 4217.', metadata={"currency_code": currency_code})


class TenantNotFound(DomainError):
    """The tenant of the token does not exist."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_TENANT_NOT_FOUND
    definitive = False

    def __init__(self, tenant: str) -> None:
        super().__init__(
            f'The tenant "{tenant}" does not exist; it is made by CreateTenant.', metadata={"tenant": tenant}
        )


def _told(field: str, sentence: str) -> str:
    """A violation in the sentence that sums them up. What is long, as patterns are, stands in the list alone."""
    whole = f"{field}: {sentence}" if field else sentence
    if len(whole) <= (_PATTERN_MAX if "regex pattern" in sentence else _TOLD_MAX):
        return whole
    return (field or sentence)[:_TOLD_MAX]


def _short(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"


def internal_status(error_id: str) -> status_pb2.Status:
    """What a caller sees of a bug or a broken database: an id to quote, nothing else."""
    status = status_pb2.Status(code=code_pb2.INTERNAL, message=f"Something failed here; quote the error id {error_id}.")
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"error_id": error_id})
    status.details.add().Pack(info)
    return status
