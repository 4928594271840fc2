"""One call over each protocol of the edge: gRPC, REST and gRPC-Web; paths and bodies are the contract's own."""

from __future__ import annotations

import base64
import json
import re
import struct
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.api import annotations_pb2
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from florin.accounts.v1 import (
    account_service_pb2,  # noqa: F401 - fills the descriptor pool
    audit_service_pb2,  # noqa: F401
    balance_service_pb2,  # noqa: F401
    freeze_service_pb2,  # noqa: F401
    journal_service_pb2,  # noqa: F401
    overdraft_service_pb2,  # noqa: F401
    reconciliation_service_pb2,  # noqa: F401
    statement_service_pb2,  # noqa: F401
)
from florin.compliance.v1 import compliance_service_pb2  # noqa: F401
from florin.notifications.v1 import notification_service_pb2  # noqa: F401
from florin.transactions.v1 import (
    exchange_service_pb2,  # noqa: F401
    fee_service_pb2,  # noqa: F401
    payment_file_service_pb2,  # noqa: F401
    rail_service_pb2,  # noqa: F401
    schedule_service_pb2,  # noqa: F401
    transfer_service_pb2,  # noqa: F401
)

if TYPE_CHECKING:
    from tests.support.mesh import Mesh

PROTOCOLS = ("gRPC", "REST", "gRPC-Web")

SERVICES = {
    "AccountService": "florin.accounts.v1.AccountService",
    "AuditService": "florin.accounts.v1.AuditService",
    "BalanceService": "florin.accounts.v1.BalanceService",
    "FreezeService": "florin.accounts.v1.FreezeService",
    "JournalService": "florin.accounts.v1.JournalService",
    "OverdraftService": "florin.accounts.v1.OverdraftService",
    "ReconciliationService": "florin.accounts.v1.ReconciliationService",
    "StatementService": "florin.accounts.v1.StatementService",
    "TransferService": "florin.transactions.v1.TransferService",
    "ScheduleService": "florin.transactions.v1.ScheduleService",
    "FeeService": "florin.transactions.v1.FeeService",
    "ExchangeService": "florin.transactions.v1.ExchangeService",
    "PaymentFileService": "florin.transactions.v1.PaymentFileService",
    "RailService": "florin.transactions.v1.RailService",
    "ComplianceService": "florin.compliance.v1.ComplianceService",
    "NotificationService": "florin.notifications.v1.NotificationService",
}
HTTP_STATUS = {
    "INVALID_ARGUMENT": {400, 413},
    "FAILED_PRECONDITION": {400},
    "OUT_OF_RANGE": {400},
    "UNAUTHENTICATED": {401},
    "PERMISSION_DENIED": {403},
    "NOT_FOUND": {404},
    "ALREADY_EXISTS": {409},
    "ABORTED": {409},
    "RESOURCE_EXHAUSTED": {429},
    "DEADLINE_EXCEEDED": {504},
}
"""gRPC's code → the HTTP statuses that docs/errors.md gives it."""


@dataclass(slots=True)
class Refused(Exception):
    """A refused call, whichever protocol carried it."""

    code: str
    """gRPC's, by name; over REST empty."""
    reason: str
    message: str
    http_status: int = 0
    """Only over REST."""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    """The fields that break a rule."""
    details: list[Any] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code or self.http_status} {self.reason}: {self.message} {self.violations or ''}"

    def is_for(self, code: str, reason: str) -> bool:
        """Whether it is this refusal, in the form of its protocol."""
        fits = self.http_status in HTTP_STATUS[code] if self.http_status else self.code == code
        return fits and self.reason == reason


@contextmanager
def refusal() -> Iterator[list[Refused]]:
    """The refusal that ends the block is in the list afterwards; a block that ends well fails the test."""
    caught: list[Refused] = []
    try:
        yield caught
    except Refused as refused:
        caught.append(refused)
    except grpc.RpcError as error:
        caught.append(of(error))
    else:
        raise AssertionError("the call was not refused")


def refused(call: Callable[[], Any]) -> Refused:
    """The refusal of a call."""
    with refusal() as caught:
        call()
    return caught[0]


def of(error: grpc.RpcError) -> Refused:
    """A failed gRPC call as a refusal; one without details has no reason."""
    status = rpc_status.from_call(error) or status_pb2.Status(message=error.details() or "")
    return _from_status(error.code().name, status)


def method(name: str) -> MethodDescriptor:
    """A public method by its short name, for example "TransferService.CreateTransfer"."""
    service, _, verb = name.partition(".")
    return descriptor_pool.Default().FindServiceByName(SERVICES[service]).methods_by_name[verb]


def path(name: str) -> str:
    """The full gRPC method of a short name."""
    service, _, verb = name.partition(".")
    return f"/{SERVICES[service]}/{verb}"


def call(
    mesh: Mesh,
    protocol: str,
    name: str,
    request: Message,
    *,
    token: str | None,
    seconds: float = 10.0,
    headers: Mapping[str, str] | None = None,
) -> Any:
    """Calls a unary method over a protocol. Raises Refused."""
    if protocol == "REST":
        return _rest(mesh, name, request, token, headers or {})
    if protocol == "gRPC-Web":
        return web(mesh, name, request.SerializeToString(), token, headers or {})
    answer = message_factory.GetMessageClass(method(name).output_type)
    stub = mesh.channel.unary_unary(
        path(name), request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
    )
    metadata = [*(headers or {}).items(), *([("authorization", f"Bearer {token}")] if token is not None else [])]
    try:
        return stub(request, metadata=metadata, timeout=seconds)
    except grpc.RpcError as error:
        raise of(error) from None


def raw(channel: grpc.Channel, method: MethodDescriptor) -> Callable[[bytes, Any], bytes]:
    """Calls any method with bytes and metadata and gives the bytes of its answer, whatever streams there are.

    Of a stream of answers it waits for the beginning alone and gives nothing. Raises grpc.RpcError.
    """
    name = f"/{method.containing_service.full_name}/{method.name}"

    def follow(message: bytes, metadata: Any) -> bytes:
        stream = channel.unary_stream(name)(message, metadata=metadata, timeout=5)
        # Initial metadata are sent when the stream has begun; one that is refused is at its end by then.
        stream.initial_metadata()
        if stream.done():
            next(stream)
        stream.cancel()
        return b""

    if method.server_streaming and method.client_streaming:
        # One message, and the answer to it.
        return lambda message, metadata: next(
            channel.stream_stream(name)(iter([message]), metadata=metadata, timeout=10), b""
        )
    if method.server_streaming:
        return follow
    if method.client_streaming:
        return lambda message, metadata: channel.stream_unary(name)(iter([message]), metadata=metadata, timeout=10)
    # Those that wait answer shortly before their caller's deadline.
    timeout = 2 if method.name.startswith("Wait") else 10
    return lambda message, metadata: channel.unary_unary(name)(message, metadata=metadata, timeout=timeout)


def rest_form(name: str, request: Message) -> tuple[str, str, bytes | None]:
    """HTTP method, path with query, and body of a request, by the contract's mapping."""
    rule = method(name).GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    values = json_format.MessageToDict(request)
    target = re.sub(r"\{([^=}]+)(?:=[^}]*)?\}", lambda found: _take(values, found[1]), getattr(rule, verb))
    body: bytes | None = None
    if rule.body == "*":
        body, values = json.dumps(values).encode(), {}
    elif rule.body:
        body = json.dumps(values.pop(rule.body, {})).encode()
    query = urllib.parse.urlencode(list(_flat(values)), doseq=True)
    return verb.upper(), f"{target}?{query}" if query else target, body


def _take(values: dict[str, Any], dotted: str) -> str:
    """Takes a value out of the message: what stands in the path does not stand in the body again."""
    *outer, last = [re.sub(r"_(\w)", lambda found: found[1].upper(), part) for part in dotted.split(".")]
    for part in outer:
        values = values.setdefault(part, {})
    return str(urllib.parse.quote(str(values.pop(last, "")), safe="/"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value).lower() if isinstance(value, bool) else value


def _rest(mesh: Mesh, name: str, request: Message, token: str | None, headers: Mapping[str, str]) -> Any:
    verb, target, body = rest_form(name, request)
    sent = {**({"content-type": "application/json"} if body is not None else {}), **headers}
    answer = mesh.http(verb, target, body=body, token=token, headers=sent)
    if answer.status != 200:
        assert answer.headers["content-type"] == "application/problem+json", answer
        problem = answer.json
        assert problem["status"] == answer.status
        raise Refused(
            "",
            problem.get("reason", ""),
            problem.get("detail", ""),
            answer.status,
            problem.get("metadata", {}),
            [violation["field"] for violation in problem.get("violations", [])],
            problem.get("details", []),
            answer.headers,
        )
    return json_format.Parse(answer.body, message_factory.GetMessageClass(method(name).output_type)())


def web(mesh: Mesh, name: str, message: bytes, token: str | None, headers: Mapping[str, str] | None = None) -> Any:
    """A call over gRPC-Web with any bytes for its message. Raises Refused."""
    sent = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", **(headers or {})}
    frame = struct.pack(">BI", 0, len(message)) + message
    answer = mesh.http("POST", path(name), body=frame, token=token, headers=sent)
    data, trailers = b"", dict(answer.headers)
    rest = answer.body if answer.headers.get("content-type", "").startswith("application/grpc-web") else b""
    while rest:
        flag, length = struct.unpack(">BI", rest[:5])
        part, rest = rest[5 : 5 + length], rest[5 + length :]
        if flag & 0x80:
            lines = [line.partition(":") for line in part.decode().split("\r\n") if line]
            trailers |= {key.strip().lower(): value.strip() for key, _, value in lines}
        else:
            data += part
    number = int(trailers.get("grpc-status", "-1"))
    if number != 0:
        code = next((one.name for one in grpc.StatusCode if one.value[0] == number), f"HTTP {answer.status}")
        details = trailers.get("grpc-status-details-bin", "")
        raw = base64.b64decode(details + "=" * (-len(details) % 4))
        status = status_pb2.Status.FromString(raw)
        status.message = status.message or urllib.parse.unquote(trailers.get("grpc-message", ""))
        raise _from_status(code, status)
    return message_factory.GetMessageClass(method(name).output_type).FromString(data)


def _from_status(code: str, status: status_pb2.Status) -> Refused:
    refusal = Refused(code, "", status.message)
    infos = 0
    for detail in status.details:
        info, broken = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            infos += 1
            refusal.reason, refusal.metadata = info.reason, dict(info.metadata)
            assert info.domain == "florin"
        elif detail.Unpack(broken):
            refusal.violations = [violation.field for violation in broken.field_violations]
        else:
            refusal.details.append(detail)
    assert infos <= 1
    return refusal
