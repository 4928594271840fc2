"""Who is behind a call: the principal of the token, the calling service, and the call's key and deadline.

Nothing here decides; `interceptors` fills it in once and everything below reads it.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from florin.common.v1 import principal_pb2
from meshkit.errors import TokenInvalid


@dataclass(frozen=True, slots=True)
class Principal:
    """The person or program outside, as a verified token names them."""

    tenant: str
    subject: str
    customer: str | None
    """The resource name "customers/…" that the token is bound to; None for staff."""
    scopes: frozenset[str]

    @property
    def is_staff(self) -> bool:
        """Whether the token is not bound to one customer."""
        return self.customer is None

    def to_proto(self) -> principal_pb2.Principal:
        """The principal for an internal call."""
        return principal_pb2.Principal(
            tenant=self.tenant,
            subject=self.subject,
            customer=self.customer or "",
            scopes=sorted(self.scopes),
        )

    @staticmethod
    def from_proto(message: principal_pb2.Principal) -> Principal:
        """The principal of an internal call; the caller vouches for it with its certificate."""
        return Principal(
            tenant=message.tenant,
            subject=message.subject,
            customer=message.customer or None,
            scopes=frozenset(message.scopes),
        )


async def _no_token() -> None:
    """Calls without a token have none that could be withdrawn."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it came in."""

    method: str
    """The full method, for example "/florin.accounts.v1.AccountService/CreateCustomer"."""
    caller: str
    """The service at the other end of the connection, from its certificate: "edge", "transactions" …"""
    principal: Principal | None
    """None on internal methods, whose items carry principals of their own."""
    request_id: str
    """The caller's idempotency key; empty for none."""
    fingerprint: bytes
    """SHA-256 of the request without its request_id."""
    deadline: float
    """When the answer must be there, on the clock of time.monotonic(), in seconds."""
    traceparent: str = ""
    """The W3C trace context of the call's span, as `trace_given` checks it; empty when there is none."""
    token_expires: float = float("inf")
    """When the token ends, in Unix seconds; a stream must not outlive it, also while it is silent."""
    token_stands: Callable[[], Awaitable[object]] = _no_token
    """Verifies the token once more, which costs next to nothing: a stream asks now and then, since the issuer may have
    withdrawn the key that signed it. Raises TokenInvalid."""

    @property
    def who(self) -> Principal:
        """The principal; refuses the call where there is none."""
        if self.principal is None:
            raise TokenInvalid
        return self.principal

    @property
    def tenant(self) -> str:
        """The tenant of the token."""
        return self.who.tenant

    @property
    def trace_id(self) -> str:
        """The trace that the call belongs to; empty when there is none."""
        return self.traceparent[3:35]

    def remaining_s(self) -> float:
        """What is left of the deadline, in seconds; negative when it passed."""
        return self.deadline - time.monotonic()


_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_HEX = re.compile(r"[0-9a-f]{32}\Z")


def trace_given(metadata: Mapping[str, str]) -> str:
    """The W3C trace context that a caller sent; empty when it sent none, or something else in its place.

    It goes into logs, rows and headers of events, so it must not be anything that a caller likes.
    """
    given = metadata.get("traceparent", "")
    return given if _TRACEPARENT.match(given) else ""


def trace_named(metadata: Mapping[str, str]) -> str:
    """A trace context made of the edge's name for the call (x-request-id); empty where the edge gave none.

    Without a collector of traces it is what the edge's log, the services' logs and the events have in common.
    """
    name = metadata.get("x-request-id", "").replace("-", "")
    return f"00-{name}-{secrets.token_hex(8)}-00" if _HEX.match(name) else ""


_current: ContextVar[Call | None] = ContextVar("florin_call", default=None)
_batch_trace: ContextVar[str] = ContextVar("florin_batch_trace", default="")


def current() -> Call:
    """The call that is being answered. Raises LookupError outside of one."""
    call = _current.get()
    if call is None:
        raise LookupError("no call is being answered here")
    return call


def current_or_none() -> Call | None:
    """The call that is being answered, or None in a worker."""
    return _current.get()


def begin(call: Call) -> None:
    """Makes `call` the current one for the running task; only the interceptor and tests do this."""
    _current.set(call)


def traceparent() -> str:
    """The W3C trace context of the call that is being answered, or of the batch; empty when there is none."""
    call = _current.get()
    return call.traceparent if call is not None else _batch_trace.get()


def adopt_trace(traces: Iterable[str]) -> None:
    """Gives the running task, which works for many, the trace that all of them have in common; none where they differ:
    what is done for one payment must not be told as another's."""
    distinct = set(traces)
    _batch_trace.set(distinct.pop() if len(distinct) == 1 else "")
