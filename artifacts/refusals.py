"""What the services refuse with, read from their own code: each reason's status, and an example of it as a message."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from artifacts.contract import Contract
from florin.common.v1 import errors_pb2, money_pb2
from meshkit import errors

SERVICES = ("accounts", "transactions", "compliance", "notifications")
HTTP = {
    # How the edge translates a status (docs/errors.md).
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_BY_THE_EDGE = {
    # Refusals that no service makes, or makes with a text of its own.
    "RATE_LIMITED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "SCOPE_MISSING": grpc.StatusCode.PERMISSION_DENIED,
    "AUDIENCE_WRONG": grpc.StatusCode.PERMISSION_DENIED,
    "TOKEN_INVALID": grpc.StatusCode.UNAUTHENTICATED,
    "METHOD_UNKNOWN": grpc.StatusCode.UNIMPLEMENTED,
}
_AGAIN = frozenset({"UNAVAILABLE", "OVERLOADED", "RATE_LIMITED", "CONTENTION", "CAPTURE_UNDER_WAY"})


@cache
def codes() -> Mapping[str, grpc.StatusCode]:
    """Reason → the status code that it comes with."""
    found: dict[str, grpc.StatusCode] = dict(_BY_THE_EDGE)
    for module in ("meshkit.errors", "meshkit.sandbox", *(name for one in SERVICES for name in _modules(one))):
        importlib.import_module(module)
    for refusal in _subclasses(errors.DomainError):
        found.setdefault(errors.reason_name(refusal.reason), refusal.code)
    return found


def http_status(reason: str) -> int:
    """The HTTP status that a reason comes with over REST."""
    # The one exception: who calls no method that there is has found nothing.
    return 404 if reason == "METHOD_UNKNOWN" else HTTP[codes()[reason]]


def reasons_by_status(contract: Contract) -> dict[int, list[str]]:
    """HTTP status → the reasons that come with it, in the order of errors.proto."""
    found: dict[int, list[str]] = {}
    for reason in contract.reasons:
        if reason in codes():
            found.setdefault(http_status(reason), []).append(reason)
    return found


def example(contract: Contract, reason: str) -> status_pb2.Status:
    """A refusal with a reason, as it goes over the wire, with the details that callers find beside it."""
    made = status_pb2.Status(code=codes()[reason].value[0], message=contract.reasons[reason])
    info = error_details_pb2.ErrorInfo(reason=reason, domain=errors.DOMAIN, metadata={"name": "accounts/ada"})
    made.details.add().Pack(info)
    if reason == "REQUEST_INVALID":
        violation = error_details_pb2.BadRequest.FieldViolation(field="amount", description="must be greater than zero")
        made.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if reason in _AGAIN:
        made.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1)))
    if reason == "INSUFFICIENT_FUNDS":
        euros = [money_pb2.Money(currency_code="EUR", minor_units=number) for number in (500, 1050, 200)]
        made.details.add().Pack(errors_pb2.InsufficientFunds(available=euros[0], requested=euros[1], held=euros[2]))
    if reason == "LIMIT_EXCEEDED":
        quota = error_details_pb2.QuotaFailure.Violation(subject="customers/ada", description="1000.00 EUR a day")
        made.details.add().Pack(error_details_pb2.QuotaFailure(violations=[quota]))
    return made


def _modules(service: str) -> Iterator[str]:
    package = importlib.import_module(service)
    for module in pkgutil.iter_modules(package.__path__):
        if module.name == "errors" or module.name.endswith("_errors"):
            yield f"{service}.{module.name}"


def _subclasses(of: type[errors.DomainError]) -> Iterator[type[errors.DomainError]]:
    for one in of.__subclasses__():
        if one is not errors.RecordedRefusal:
            yield one
            yield from _subclasses(one)
