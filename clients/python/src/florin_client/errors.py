"""Refusals as exceptions, from the status that a call ended with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from florin.common.v1 import errors_pb2, money_pb2

DOMAIN = "florin"
_DETAILS = "grpc-status-details-bin"


class Refused(grpc.RpcError):
    """Florin said no. `reason` is a value of florin.common.v1.Reason without its prefix; its meaning never changes."""

    def __init__(self, code: grpc.StatusCode, status: status_pb2.Status) -> None:
        self.status = status
        """The whole google.rpc.Status."""
        info = self.detail(error_details_pb2.ErrorInfo)
        ours = info is not None and info.domain == DOMAIN
        self._code = code
        self.reason: str = info.reason if ours else ""
        self.metadata: Mapping[str, str] = dict(info.metadata) if ours else {}
        """The values in the sentence, by name."""
        super().__init__(f"{self.reason or code.name}: {status.message}")

    def code(self) -> grpc.StatusCode:
        """gRPC's status code."""
        return self._code

    def details(self) -> str:
        """The sentence for people; it may change."""
        return str(self.status.message)

    @property
    def retry_after_seconds(self) -> float | None:
        """How long to wait before asking again, where the answer says so."""
        info = self.detail(error_details_pb2.RetryInfo)
        return float(info.retry_delay.ToTimedelta().total_seconds()) if info is not None else None

    def detail[M: Message](self, kind: type[M]) -> Any:
        """The detail of a type, for example error_details_pb2.QuotaFailure; None if there is none."""
        for packed in self.status.details:
            if packed.Is(kind.DESCRIPTOR):
                found = kind()
                packed.Unpack(found)
                return found
        return None


class Unanswered(Refused):
    """No answer of Florin's came, so what was done is not known. Ask again with the same request_id."""


class NotFound(Refused):
    """There is no such thing, or it is not the caller's."""


class RequestInvalid(Refused):
    """The request breaks rules of the contract."""

    @property
    def violations(self) -> list[tuple[str, str]]:
        """Every rule that it breaks: the field's path, and a sentence."""
        found = self.detail(error_details_pb2.BadRequest)
        return [(one.field, one.description) for one in found.field_violations] if found is not None else []


class LimitExceeded(Refused):
    """The payment is above a limit."""

    @property
    def limits(self) -> list[tuple[str, str]]:
        """The limits: whose, and a sentence with its use and what is left."""
        found = self.detail(error_details_pb2.QuotaFailure)
        return [(one.subject, one.description) for one in found.violations] if found is not None else []


class InsufficientFunds(Refused):
    """The funds available do not cover the amount."""

    def __init__(self, code: grpc.StatusCode, status: status_pb2.Status) -> None:
        super().__init__(code, status)
        figures = self.detail(errors_pb2.InsufficientFunds)
        self.available: money_pb2.Money | None = figures.available if figures else None
        """What could be paid; None to callers who may not know it."""
        self.requested: money_pb2.Money | None = figures.requested if figures else None
        self.held: money_pb2.Money | None = figures.held if figures else None


_BY_REASON: dict[str, type[Refused]] = {
    "REQUEST_INVALID": RequestInvalid,
    "LIMIT_EXCEEDED": LimitExceeded,
    "INSUFFICIENT_FUNDS": InsufficientFunds,
}


def refusal(error: grpc.RpcError) -> Refused:
    """A failed call as the exception that it stands for."""
    if isinstance(error, Refused):
        return error
    code: grpc.StatusCode = error.code()
    status = _status(error) or status_pb2.Status(code=code.value[0], message=error.details() or code.name)
    plain = Refused(code, status)
    if not plain.reason:
        return Unanswered(code, status)
    kind = _BY_REASON.get(plain.reason) or (NotFound if code is grpc.StatusCode.NOT_FOUND else None)
    return kind(code, status) if kind is not None else plain


def _status(error: grpc.RpcError) -> status_pb2.Status | None:
    trailers: Any = error.trailing_metadata()
    for name, value in trailers or ():
        if name == _DETAILS:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None  # damaged on the way: the code and the sentence are left
    return None
