"""Calls to other services: mTLS, round robin over healthy replicas, a share of the deadline, refusals as refusals."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import grpc
from grpc_status import rpc_status

from meshkit import identity, telemetry
from meshkit.errors import DeadlineTooShort, Failed, RecordedRefusal, Unavailable, error_info
from meshkit.settings import ServiceSettings

Response = TypeVar("Response")

_SHAVE_SECONDS = 0.05
"""Kept back of the caller's deadline, so that there is time to answer after the callee did not."""
_BUDGET_MIN_SECONDS = 0.02

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
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.dns_min_time_between_resolutions_ms", 2_000),
        ("grpc.max_receive_message_length", 16 * 1024 * 1024),
        ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ]


def connect(settings: ServiceSettings, target: str, service: str) -> grpc.aio.Channel:
    """A channel to all replicas of a service; it connects by itself and needs none of them to be there."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=settings.tls_ca_file.read_bytes(),
        private_key=settings.tls_key_file.read_bytes(),
        certificate_chain=settings.tls_cert_file.read_bytes(),
    )
    return grpc.aio.secure_channel(target, credentials, options=options(service))


async def call(method: Any, request: Any, *, service: str, timeout_s: float) -> Any:
    """Calls `method` with at most `timeout_s`, less where the current call has less left.

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
    try:
        response = await method(request, timeout=timeout_s, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        telemetry.OUTGOING_CALLS.labels(service, name, error.code().name).inc()
        raise refusal(error, service) from None
    telemetry.OUTGOING_CALLS.labels(service, name, "OK").inc()
    return response


def refusal(error: grpc.aio.AioRpcError, service: str) -> Exception:
    """What a failed call means here: the callee's refusal, or that it could not be reached."""
    if error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ):
        return Unavailable(service)
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None
    if status is not None and error_info(status) is not None and status.code != grpc.StatusCode.INTERNAL.value[0]:
        return RecordedRefusal(status)
    # A bug over there is no refusal of the caller's request: it may go through when it is mended.
    return Failed(service)
