"""Every refusal of notifications, in order of precedence; it must not say anything that the caller may not know."""

from __future__ import annotations

from typing import ClassVar

import grpc

from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError


class EventTypeUnknown(DomainError):
    """A filter names an event type that is not public, or a prefix of none."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INVALID_ARGUMENT
    reason: ClassVar[int] = errors_pb2.REASON_EVENT_TYPE_UNKNOWN

    def __init__(self, event_type: str) -> None:
        super().__init__(f'No public event is called "{event_type}".', metadata={"event_type": event_type})


class EndpointUrlForbidden(DomainError):
    """The URL is not one that webhooks may be sent to; `why` must not tell what a name resolves to."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INVALID_ARGUMENT
    reason: ClassVar[int] = errors_pb2.REASON_ENDPOINT_URL_FORBIDDEN
    # A name can resolve to something else tomorrow.
    definitive: ClassVar[bool] = False

    def __init__(self, why: str) -> None:
        super().__init__(f"Webhooks cannot be sent to this URL: {why}.", metadata={"why": why})


class EndpointNotFound(DomainError):
    """There is no such endpoint, or it is not the caller's: the same words for both."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.NOT_FOUND
    reason: ClassVar[int] = errors_pb2.REASON_ENDPOINT_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f'There is no webhook endpoint "{name}".', metadata={"name": name})


class EndpointLimitReached(DomainError):
    """The customer has as many endpoints as it may have: every event costs one delivery to each."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason: ClassVar[int] = errors_pb2.REASON_ENDPOINT_LIMIT_REACHED
    definitive: ClassVar[bool] = False

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"A customer may have {limit} webhook endpoints; delete one first.", metadata={"limit": str(limit)}
        )


class EndpointExists(DomainError):
    """An endpoint of that id exists."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.ALREADY_EXISTS
    reason: ClassVar[int] = errors_pb2.REASON_ENDPOINT_EXISTS

    def __init__(self, name: str) -> None:
        super().__init__(f'A webhook endpoint "{name}" exists.', metadata={"name": name})


class DeliveryNotFound(DomainError):
    """There is no such delivery at this endpoint."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.NOT_FOUND
    reason: ClassVar[int] = errors_pb2.REASON_DELIVERY_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f'There is no delivery "{name}" at this endpoint.', metadata={"name": name})


class ResumeTokenInvalid(DomainError):
    """The resume_token was not given by this stream to this tenant."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INVALID_ARGUMENT
    reason: ClassVar[int] = errors_pb2.REASON_RESUME_TOKEN_INVALID

    def __init__(self) -> None:
        super().__init__("The resume_token is not one of this stream.", metadata={"field": "resume_token"})


class ResumeTokenExpired(DomainError):
    """Events after the resume_token are no longer kept."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.OUT_OF_RANGE
    reason: ClassVar[int] = errors_pb2.REASON_RESUME_TOKEN_EXPIRED

    def __init__(self) -> None:
        super().__init__(
            "Events after the resume_token are no longer kept; begin without it and read what was missed.",
            metadata={"field": "resume_token"},
        )
