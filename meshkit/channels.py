"""Calls between services: mTLS, round robin over healthy replicas, a share of the deadline, refusals as refusals."""

from __future__ import annotations

import json
import time
from typing import Any, TypeVar

import grpc
from grpc_status import rpc_status

from meshkit import identity, telemetry
from meshkit.errors import DeadlineTooShort, Failed, RecordedRefusal, Unavailable, error_info
from meshkit.hedging import SECOND_CALLS, Budget, hedged
from meshkit.process_settings import ProcessSettings

Response = TypeVar("Response")

_SHAVE_SECONDS = 0.05
"""Kept back of the caller's deadline, so that there is time to answer after the callee did not."""
_BUDGET_MIN_SECONDS = 0.02
HEDGE_SECONDS = 1.0
"""A call without an answer after this is made once more, most likely at another replica; a full batch takes less."""
_SILENCE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_budgets: dict[str, Budget] = {}

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # Replicas that drain say so by their health; the empty name is the whole server.
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{}],
            # Every internal method is idempotent by its items' keys.
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 50, "tokenRatio": 0.2},
}


def options(service: str) -> list[tuple[str, Any]]:
    """The channel arguments; a wrong name would be ignored silently, so a test shows that they take effect."""
    return [
        ("grpc.ssl_target_name_override", service),
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.enable_retries", 1),
        # A host that is gone without a word is noticed within some ten seconds, and its calls fail over.
        ("grpc.keepalive_time_ms", 5_000),
        # What ends an unanswered ping; keepalive_timeout_ms alone would leave it to this one's default of a minute.
        ("grpc.http2.ping_timeout_ms", 4_000),
        ("grpc.keepalive_timeout_ms", 4_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # The least time that a connection is given to be made, TLS on a busy machine included.
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.dns_min_time_between_resolutions_ms", 2_000),
        ("grpc.max_receive_message_length", 16 * 1024 * 1024),
        ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ]


def connect(settings: ProcessSettings, target: str, service: str) -> grpc.aio.Channel:
    """A channel to all replicas of a service; it connects by itself and needs none of them to be there."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=settings.tls_ca_file.read_bytes(),
        private_key=settings.tls_key_file.read_bytes(),
        certificate_chain=settings.tls_cert_file.read_bytes(),
    )
    return grpc.aio.secure_channel(target, credentials, options=options(service))


def server_credentials(settings: ProcessSettings) -> grpc.ServerCredentials:
    """TLS with a client certificate of the mesh's authority, always."""
    pair = (settings.tls_key_file.read_bytes(), settings.tls_cert_file.read_bytes())
    return grpc.ssl_server_credentials(
        [pair], root_certificates=settings.tls_ca_file.read_bytes(), require_client_auth=True
    )


async def call(method: Any, request: Any, *, service: str, timeout_s: float) -> Any:
    """Calls `method` with at most `timeout_s`, less where the current call has less left; a second time, round robin,
    when it hangs: every internal method is idempotent by its items' keys.

    Raises Unavailable when the service is down or did not answer in time, Failed when it answered that it failed,
    DeadlineTooShort when there is no time to begin, or the service's refusal as it is.
    """
    current = identity.current_or_none()
    if current is not None:
        timeout_s = min(timeout_s, current.remaining_s() - _SHAVE_SECONDS)
        if timeout_s < _BUDGET_MIN_SECONDS:
            raise DeadlineTooShort
    trace = identity.traceparent()
    metadata = (("traceparent", trace),) if trace else ()
    name = method._method.decode() if isinstance(getattr(method, "_method", None), bytes) else ""
    deadline = time.monotonic() + timeout_s

    async def attempt() -> Any:
        return await method(request, timeout=deadline - time.monotonic(), metadata=metadata)

    try:
        response = await hedged(
            attempt,
            after_s=HEDGE_SECONDS,
            budget=_budgets.setdefault(service, Budget()),
            another_may_differ=_is_silence,
            on_second=SECOND_CALLS.labels(service).inc,
        )
    except grpc.aio.AioRpcError as error:
        telemetry.OUTGOING_CALLS.labels(service, name, error.code().name).inc()
        raise refusal(error, service) from None
    telemetry.OUTGOING_CALLS.labels(service, name, "OK").inc()
    return response


def refusal(error: grpc.aio.AioRpcError, service: str) -> Exception:
    """What a failed call means here: the callee's refusal, or that it could not be reached."""
    if _is_silence(error):
        return Unavailable(service)
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None
    if status is not None and error_info(status) is not None and status.code != grpc.StatusCode.INTERNAL.value[0]:
        return RecordedRefusal(status)
    # A bug over there is no refusal of the caller's request: it may go through when it is mended.
    return Failed(service)


def _is_silence(error: BaseException) -> bool:
    """Whether an answer says nothing about the request: another replica, or the same one later, may do it."""
    return isinstance(error, grpc.aio.AioRpcError) and error.code() in _SILENCE
