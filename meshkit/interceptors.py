"""What happens to every call before its handler, in one visible list; it decides nothing about the business."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import protovalidate
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from meshkit import identity, logs, storable, telemetry
from meshkit.errors import (
    CallerNotAllowed,
    DeadlineExceeded,
    DeadlineTooShort,
    DomainError,
    MethodUnknown,
    Overloaded,
    RequestInvalid,
    ScopeMissing,
    StaffOnly,
    TokenInvalid,
    internal_status,
    reason_of_error,
)
from meshkit.identity import Call, Principal
from meshkit.policy import Method
from meshkit.tokens import Verifier

_log = logs.get(__name__)

SPIFFE_PREFIX = "spiffe://florin/"
OPEN_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")
"""Served to every identity of the mesh without a token."""

BUDGET_MIN_SECONDS = 0.01
"""With less than this left nothing is begun: it could not be finished."""
FURTHER_ATTEMPT_SHARE = 0.25
"""The edge makes a further attempt when this share of the contract's deadline is over (envoy/edge_contracts.py)."""
_FURTHER_ATTEMPT_SECONDS_MIN = 0.25


@dataclass(slots=True)
class Exchange:
    """A call on its way through the checks; each adds what it found."""

    method: Method
    context: Any
    metadata: Mapping[str, str]
    request: Message | None
    """None for a stream of requests."""
    caller: str = ""
    deadline: float = 0.0
    principal: Principal | None = None
    token_expires: float = float("inf")
    request_id: str = ""
    fingerprint: bytes = b""
    traceparent: str = ""


Check = Callable[["Guard", Exchange], Awaitable[None]]


@dataclass(slots=True)
class Malformed:
    """Stands for a request whose bytes are not its message."""

    why: str = field(default="the bytes are not this message")


async def check_deadline(_guard: Guard, exchange: Exchange) -> None:
    """Sets the call's deadline: the caller's, the contract's at most; less for a further attempt of the edge."""
    now, most = time.monotonic(), exchange.method.policy.deadline_ms / 1000
    remaining = exchange.context.time_remaining()
    if remaining is not None and remaining < BUDGET_MIN_SECONDS:
        raise DeadlineTooShort
    if most == 0:  # a stream without a limit of its own
        exchange.deadline = now + (remaining if remaining is not None else float("inf"))
        return
    budget = min(remaining, most) if remaining is not None else most
    attempt = exchange.metadata.get("x-envoy-attempt-count", "1")
    if attempt.isdigit():
        # The edge sends a further attempt with the caller's whole time, of which earlier ones have used some.
        used = (int(attempt) - 1) * most * FURTHER_ATTEMPT_SHARE
        budget = max(budget - used, min(budget, _FURTHER_ATTEMPT_SECONDS_MIN))
    exchange.deadline = now + budget


async def check_caller(guard: Guard, exchange: Exchange) -> None:
    """Names the service at the other end from its certificate, and lets in those that the contract names."""
    exchange.caller = peer(exchange.context)
    allowed = tuple(exchange.method.policy.services) or guard.public_callers
    if exchange.caller not in allowed:
        raise CallerNotAllowed(exchange.caller)


async def check_token(guard: Guard, exchange: Exchange) -> None:
    """Verifies the token again, whatever the edge said. Internal methods have none: their items carry principals."""
    if exchange.method.is_internal:
        return
    exchange.principal, exchange.token_expires = await guard.verifier.verify(exchange.metadata.get("authorization"))


async def check_policy(_guard: Guard, exchange: Exchange) -> None:
    """Scope, staff, and customers named in the request; who owns other resources is decided where they are stored."""
    principal, policy = exchange.principal, exchange.method.policy
    if principal is None:
        return
    if not principal.scopes.intersection(policy.scopes):
        raise ScopeMissing(list(policy.scopes))
    if policy.staff_only and not principal.is_staff:
        raise StaffOnly


async def check_request(_guard: Guard, exchange: Exchange) -> None:
    """The contract's validation rules: every violation in one answer."""
    if exchange.request is not None:
        validate(exchange.request)


async def check_request_id(_guard: Guard, exchange: Exchange) -> None:
    """Takes the request_id, from the Idempotency-Key header if the message has none, and fingerprints the rest."""
    request = exchange.request
    if request is None or "request_id" not in request.DESCRIPTOR.fields_by_name:
        return
    header = exchange.metadata.get("idempotency-key", "")
    if header and not request.request_id:  # type: ignore[attr-defined]
        request.request_id = header[:129]  # type: ignore[attr-defined]  # one too long is refused, not cut
        validate(request)
    exchange.request_id = request.request_id or _sent_again_as(exchange.metadata)  # type: ignore[attr-defined]
    exchange.fingerprint = fingerprint(request)


def _sent_again_as(metadata: Mapping[str, str]) -> str:
    """The key of a call that has none of its caller's: the edge's own id of it, which no caller can choose.

    The edge sends a call again when a replica dies over it; without a key the copies would be two payments.
    """
    edges = metadata.get("x-request-id", "")
    return f"edge:{edges}" if edges else ""


CHECKS: tuple[Check, ...] = (
    check_deadline,
    check_caller,
    check_token,
    check_policy,
    check_request,
    check_request_id,
)
"""In the order in which their refusals go before each other. Telemetry and errors are around all of them."""


class Guard(grpc.aio.ServerInterceptor):
    """Wraps every handler of the service; wraps it once, and keeps it."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        verifier: Verifier,
        *,
        concurrent_calls_max: int,
        public_callers: tuple[str, ...] = ("edge",),
    ) -> None:
        self._methods = methods
        self.verifier = verifier
        self.public_callers = public_callers
        self._concurrent_calls_max = concurrent_calls_max
        self._wrapped: dict[str, Any] = {}
        self.in_flight = 0

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Gives gRPC the wrapped handler."""
        name: str = details.method
        if name.startswith(OPEN_SERVICES):
            return await continuation(details)
        wrapped = self._wrapped.get(name)
        if wrapped is None:
            handler = await continuation(details)
            method = self._methods.get(name)
            if handler is None or method is None:
                return _unknown(name)
            wrapped = self._wrapped[name] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: Method, handler: Any) -> Any:
        deserializer = _tolerant(handler.request_deserializer)
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(method, handler.stream_stream, both_ways=True), deserializer, handler.response_serializer
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream, both_ways=False), deserializer, handler.response_serializer
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(method, handler.stream_unary, streaming=True),
                deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary, streaming=False),
            deserializer,
            handler.response_serializer,
        )

    def _unary(self, method: Method, handler: Any, *, streaming: bool) -> Any:
        async def answer(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            code = "OK"
            self.in_flight += 1
            telemetry.CALLS_IN_FLIGHT.set(self.in_flight)
            try:
                exchange = Exchange(method, context, _metadata(context), None if streaming else request)
                with telemetry.TRACING.span(method.name, identity.trace_given(exchange.metadata)) as trace:
                    exchange.traceparent = trace or identity.trace_named(exchange.metadata)
                    await self._admit(exchange)
                    messages = _validated(request) if streaming else request
                    async with asyncio.timeout_at(_loop_time(exchange.deadline)):
                        return await handler(messages, context)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:  # noqa: BLE001 - the outermost guard: nothing leaves but a status
                status = _status_of(method, error)
                code = _code_name(status)
                await context.abort_with_status(rpc_status.to_status(status))
            finally:
                self._count(method, code, started)

        return answer

    def _stream(self, method: Method, handler: Any, *, both_ways: bool) -> Any:
        """A stream of answers. One that goes both ways is given its messages as they come, Malformed ones too: its
        handler answers each, and ends the stream with the token when it has answered what it read."""

        async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
            started = time.perf_counter()
            code = "OK"
            self.in_flight += 1
            try:
                exchange = Exchange(method, context, _metadata(context), None if both_ways else request)
                exchange.traceparent = identity.trace_given(exchange.metadata) or identity.trace_named(
                    exchange.metadata
                )
                await self._admit(exchange)
                expires = exchange.token_expires
                async for response in handler(request, context):
                    yield response
                    if both_ways:
                        continue
                    if time.time() > expires:
                        raise TokenInvalid
                    await check_token(self, exchange)  # the issuer may have withdrawn its key meanwhile
            except (asyncio.CancelledError, GeneratorExit):
                code = "CANCELLED"
                raise
            except Exception as error:  # noqa: BLE001 - the outermost guard: nothing leaves but a status
                status = _status_of(method, error)
                code = _code_name(status)
                await context.abort_with_status(rpc_status.to_status(status))
            finally:
                self._count(method, code, started)

        return answer

    async def _admit(self, exchange: Exchange) -> None:
        if self.in_flight > self._concurrent_calls_max:
            raise Overloaded
        if isinstance(exchange.request, Malformed):
            raise RequestInvalid([("", exchange.request.why)])
        for check in CHECKS:
            await check(self, exchange)
        identity.begin(
            Call(
                method=exchange.method.name,
                caller=exchange.caller,
                principal=exchange.principal,
                request_id=exchange.request_id,
                fingerprint=exchange.fingerprint,
                deadline=exchange.deadline,
                traceparent=exchange.traceparent,
                token_expires=exchange.token_expires,
                token_stands=partial(check_token, self, exchange),
            )
        )

    def _count(self, method: Method, code: str, started: float) -> None:
        self.in_flight -= 1
        telemetry.CALLS_IN_FLIGHT.set(self.in_flight)
        telemetry.calls(method.name, code).inc()
        telemetry.call_seconds(method.name).observe(time.perf_counter() - started)


def peer(context: Any) -> str:
    """The service at the other end, from the SPIFFE URI of its certificate; empty when it has none of this mesh."""
    for value in context.auth_context().get("peer_spiffe_id", ()):
        uri = value.decode() if isinstance(value, bytes) else str(value)
        if uri.startswith(SPIFFE_PREFIX):
            return uri.removeprefix(SPIFFE_PREFIX)
    return ""


def validate(message: Message) -> None:
    """Checks a message against the rules of its contract. Raises RequestInvalid with every violation."""
    broken = protovalidate.collect_violations(message)
    violations = [(_path(violation.proto), _sentence(violation)) for violation in broken]
    violations += storable.violations(message)
    if violations:
        raise RequestInvalid(violations)


def fingerprint(request: Message) -> bytes:
    """SHA-256 of a request without its request_id: two calls with the same one ask for the same."""
    copy = type(request)()
    copy.CopyFrom(request)
    copy.ClearField("request_id")
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).digest()


def _sentence(violation: Any) -> str:
    """What is wrong, in protovalidate's words; of a value that was left out these speak of a list or a length."""
    left_out = violation.proto.rule_id in {"enum.not_in", "string.min_len"} and not violation.field_value
    return "value is required" if left_out else str(violation.proto.message)


def _path(violation: Any) -> str:
    parts = []
    for element in violation.field.elements if violation.field is not None else ():
        index = getattr(element.subscript, "value", None) if element.subscript is not None else None
        parts.append(f"{element.field_name}[{index}]" if index is not None else element.field_name)
    return ".".join(parts)


def _metadata(context: Any) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _loop_time(deadline: float) -> float | None:
    if deadline == float("inf"):
        return None
    return asyncio.get_running_loop().time() + (deadline - time.monotonic())


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A malformed message would be answered by gRPC itself, with the class name of the exception in it."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except (DecodeError, ValueError, RecursionError):
            return Malformed()

    return read


async def _validated(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, Malformed):
            raise RequestInvalid([("", request.why)])
        validate(request)
        yield request


def _status_of(method: Method, error: Exception) -> status_pb2.Status:
    if isinstance(error, TimeoutError):
        error = DeadlineExceeded()
    if isinstance(error, DomainError):
        telemetry.REFUSALS.labels(method.name, reason_of_error(error)).inc()
        return error.to_status()
    error_id = uuid.uuid4().hex
    _log.error("a call failed", error_id=error_id, call=method.name, exc_info=error)
    telemetry.REFUSALS.labels(method.name, "INTERNAL").inc()
    return internal_status(error_id)


def _code_name(status: status_pb2.Status) -> str:
    for code in grpc.StatusCode:
        if code.value[0] == status.code:
            return str(code.name)
    return "UNKNOWN"


def _unknown(name: str) -> Any:
    async def answer(_request: bytes, context: Any) -> None:
        refusal = MethodUnknown(f"There is no method {name}.")
        await context.abort_with_status(rpc_status.to_status(refusal.to_status()))

    return grpc.unary_unary_rpc_method_handler(answer)
