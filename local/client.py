"""Calls the mesh as its users do, through the edge; it must not know of any service behind it.

A call that the mesh could not answer is sent again, the very same message with the same request_id, until it is
answered or the patience is over: with idempotent methods that is safe, whatever died in between.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from florin.accounts.v1 import (
    account_service_pb2,
    account_service_pb2_grpc,
    audit_service_pb2_grpc,
    reconciliation_service_pb2_grpc,
    statement_service_pb2_grpc,
)
from florin.compliance.v1 import compliance_service_pb2_grpc
from florin.notifications.v1 import notification_service_pb2_grpc
from florin.transactions.v1 import (
    exchange_service_pb2_grpc,
    fee_service_pb2_grpc,
    payment_file_service_pb2_grpc,
    schedule_service_pb2_grpc,
    transfer_service_pb2_grpc,
)
from local import issuer
from local.state import State
from meshkit.errors import error_info

PATIENCE_SECONDS = 60.0
"""How long a call is sent again: a killed service is back within a few seconds, a killed database too."""
_BACKOFF_SECONDS = (0.05, 1.0)
_TOKEN_SPARE_SECONDS = 120
_TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)
_TRANSIENT_REASONS = frozenset(
    {"UNAVAILABLE", "OVERLOADED", "RATE_LIMITED", "DEADLINE_TOO_SHORT", "DEADLINE_EXCEEDED", "CONTENTION"}
)


class Refused(Exception):
    """The mesh said no. `reason` is that of the contract; empty where the answer carries none."""

    def __init__(self, code: grpc.StatusCode, status: status_pb2.Status) -> None:
        info = error_info(status)
        self.code = code
        self.status = status
        self.reason = info.reason if info is not None else ""
        self.metadata = dict(info.metadata) if info is not None else {}
        super().__init__(f"{self.reason or code.name}: {status.message}")


def is_transient(reason: str) -> bool:
    """Whether asking again with the same request_id may bring another answer."""
    return reason in _TRANSIENT_REASONS


def refusal(error: grpc.aio.AioRpcError) -> Refused:
    """A failed call as the refusal it stands for."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None  # the details are somebody else's, or damaged on the way
    if status is None:
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or error.code().name)
    return Refused(error.code(), status)


@dataclass(slots=True)
class Patience:
    """How long one call may be sent again, and how long to wait before the next time."""

    seconds: float = PATIENCE_SECONDS
    started: float = field(default_factory=time.monotonic)
    _delay: float = _BACKOFF_SECONDS[0]

    def left(self) -> float:
        """Seconds until it is over; not below zero."""
        return max(self.started + self.seconds - time.monotonic(), 0.0)

    async def wait(self, status: status_pb2.Status | None = None) -> bool:
        """Waits before the next attempt, as long as the answer asks for; False when it is over."""
        asked = _retry_delay_seconds(status) if status is not None else 0.0
        pause = max(asked, self._delay * (0.5 + random.random() / 2))  # noqa: S311 - spreads callers, no secret
        self._delay = min(self._delay * 2, _BACKOFF_SECONDS[1])
        if pause > self.left():
            return False
        await asyncio.sleep(pause)
        return True


class Session:
    """Speaks for one role of one tenant."""

    def __init__(self, channel: grpc.aio.Channel, mint: Callable[[], str]) -> None:
        self._mint = mint
        self._token = ""
        self._minted = 0.0
        self.accounts = account_service_pb2_grpc.AccountServiceStub(channel)
        self.audit = audit_service_pb2_grpc.AuditServiceStub(channel)
        self.reconciliation = reconciliation_service_pb2_grpc.ReconciliationServiceStub(channel)
        self.statements = statement_service_pb2_grpc.StatementServiceStub(channel)
        self.transfers = transfer_service_pb2_grpc.TransferServiceStub(channel)
        self.schedules = schedule_service_pb2_grpc.ScheduleServiceStub(channel)
        self.fees = fee_service_pb2_grpc.FeeServiceStub(channel)
        self.exchange = exchange_service_pb2_grpc.ExchangeServiceStub(channel)
        self.payment_files = payment_file_service_pb2_grpc.PaymentFileServiceStub(channel)
        self.compliance = compliance_service_pb2_grpc.ComplianceServiceStub(channel)
        self.notifications = notification_service_pb2_grpc.NotificationServiceStub(channel)

    def token(self) -> str:
        """A token with time to live."""
        age = time.monotonic() - self._minted
        if not self._token or age > issuer.LIFETIME_SECONDS - _TOKEN_SPARE_SECONDS:
            self._token, self._minted = self._mint(), time.monotonic()
        return self._token

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call carries beside its message."""
        return (("authorization", f"Bearer {self.token()}"),)

    async def call[Q: Message, A: Message](
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Q, A],
        request: Q,
        *,
        seconds: float = 5.0,
        patience: Patience | None = None,
        until: Collection[str] = (),
    ) -> A:
        """Calls a method, with at most `seconds` an attempt. Raises Refused.

        Refusals named in `until` are taken for "not yet", where the answer depends on an event that is on its way.
        """

        async def attempt(seconds_left: float) -> A:
            answer: A = await method(request, timeout=seconds_left, metadata=self.metadata(), wait_for_ready=True)
            return answer

        return await _patiently(attempt, seconds, patience or Patience(), until)

    async def send_stream[Q: Message, A: Message](
        self,
        method: grpc.aio.StreamUnaryMultiCallable[Q, A],
        requests: Callable[[], Iterator[Q]],
        *,
        seconds: float = 60.0,
        patience: Patience | None = None,
    ) -> A:
        """Sends a stream of messages, from the beginning each time. Raises Refused."""

        async def attempt(seconds_left: float) -> A:
            answer: A = await method(requests(), timeout=seconds_left, metadata=self.metadata(), wait_for_ready=True)
            return answer

        return await _patiently(attempt, seconds, patience or Patience(), ())


class Edge:
    """One connection to a mesh's edge."""

    def __init__(self, channel: grpc.aio.Channel, state: State) -> None:
        self._channel = channel
        self._state = state

    def session(self, role: str, *, tenant: str = "demo", customer: str | None = None) -> Session:
        """Speaks for a role of the development issuer."""
        return Session(self._channel, lambda: issuer.mint(self._state, role, tenant=tenant, customer=customer))


@asynccontextmanager
async def connect(state: State, target: str) -> AsyncIterator[Edge]:
    """A connection to the edge at `target` (host:port), trusting the mesh's own CA."""
    credentials = grpc.ssl_channel_credentials(root_certificates=state.ca.read_bytes())
    options: Sequence[tuple[str, str | int]] = (
        ("grpc.ssl_target_name_override", "localhost"),
        ("grpc.max_receive_message_length", 16 * 1024 * 1024),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    )
    async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
        yield Edge(channel, state)


async def ensure_tenant(state: State, port: int, tenant: str, *, time_zone: str = "UTC", home: str = "demo") -> None:
    """Makes a tenant unless it exists; `home` is the tenant of the operator who does it. Raises Refused."""
    async with connect(state, f"localhost:{port}") as edge:
        operator = edge.session("operator", tenant=home)
        request = account_service_pb2.CreateTenantRequest(
            tenant_id=tenant, display_name=tenant, time_zone=time_zone, request_id=f"ensure-tenant-{tenant}"
        )
        try:
            await operator.call(operator.accounts.CreateTenant, request)
        except Refused as refused:
            if refused.reason != "TENANT_EXISTS":
                raise


async def _patiently[A](
    attempt: Callable[[float], Awaitable[A]], seconds: float, patience: Patience, until: Collection[str]
) -> A:
    while True:
        try:
            return await attempt(max(min(seconds, patience.left()), 0.1))
        except grpc.aio.AioRpcError as error:
            refused = refusal(error)
            again = error.code() in _TRANSIENT or is_transient(refused.reason) or refused.reason in until
            if not again or not await patience.wait(refused.status):
                raise refused from None


def _retry_delay_seconds(status: status_pb2.Status) -> float:
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            info = error_details_pb2.RetryInfo()
            detail.Unpack(info)
            return float(info.retry_delay.ToTimedelta().total_seconds())
    return 0.0
