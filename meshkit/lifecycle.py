"""The life of a service process: build its parts, recover, serve, drain, finish what is in flight, close.

A service contributes `Parts`; tests serve them in the same way, on port 0.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit import channels, clock, health, logs, policy, reflection, sandbox, telemetry
from meshkit.interceptors import Guard
from meshkit.settings import ServiceSettings
from meshkit.tokens import Verifier

S = TypeVar("S", bound=ServiceSettings)
_log = logs.get(__name__)

_RESTART_SECONDS_MAX = 10.0
_COLLECT_AFTER_OBJECTS = 20_000

SERVER_OPTIONS = [
    # A replica has a port of its own; sharing one would not spread the load behind the edge.
    ("grpc.so_reuseport", 0),
    (
        "grpc.max_receive_message_length",
        16 * 1024 * 1024,
    ),  # a batch between services; the edge bounds users' calls
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ("grpc.max_metadata_size", 32 * 1024),
    # The edge and the channels of other services ping every 5 s, to notice a host that is gone without a word.
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A connection ends gracefully after a while, so that callers ask DNS again and find new replicas.
    ("grpc.max_connection_age_ms", 30_000),
]


@dataclass(slots=True)
class Parts:
    """What a service is made of."""

    services: Mapping[str, Callable[[grpc.aio.Server], None]]
    """Full name of each gRPC service → the function that adds its servicer to a server."""
    workers: Mapping[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    """Background loops; one that fails is started again with backoff."""
    checks: health.Checks = field(default_factory=dict)
    """Readiness: each raises while its dependency is not there."""
    recover: Callable[[], Awaitable[None]] | None = None
    """Awaited before the service becomes ready."""
    on_drain: Callable[[], Awaitable[None]] | None = None
    """Awaited when the drain begins, for example to end streams."""
    on_clock_move: Sequence[Callable[[], None]] = ()
    """Called after the clock of a sandbox was moved: each wakes a worker that waits for a moment to come."""


Build = Callable[[S], AbstractAsyncContextManager[Parts]]


@dataclass(frozen=True, slots=True)
class Running:
    """A service that serves."""

    grpc_port: int
    health_port: int
    probe_port: int | None
    readiness: health.Readiness
    parts: Parts


async def serve[S: ServiceSettings](settings: S, build: Build[S]) -> None:
    """Runs the service until SIGTERM or SIGINT."""
    logs.configure(settings.service, settings.log_level)
    telemetry.TRACING.configure(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    try:
        async with running(settings, build, drain_seconds=settings.drain_seconds) as service:
            _spare_the_collector()
            _log.info("serving", grpc_port=service.grpc_port, health_port=service.health_port)
            await stop.wait()
    finally:
        telemetry.TRACING.close()


def _spare_the_collector() -> None:
    """What a start leaves behind stays for good, so the collector need not walk it; what a call leaves behind is nearly
    all freed by counting references, so it need not look every 700 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS, 20, 20)


@asynccontextmanager
async def running[S: ServiceSettings](
    settings: S, build: Build[S], *, drain_seconds: float = 0.0
) -> AsyncIterator[Running]:
    """Serves while the block runs; then drains for `drain_seconds`, lets calls in flight finish, and closes."""
    clock.agree_on_zones()
    with sandbox.clock_of(settings.sandbox_clock_file) as moved:
        async with build(settings) as parts, _serving(settings, parts, moved, drain_seconds) as service:
            yield service


@asynccontextmanager
async def _serving(
    settings: ServiceSettings, parts: Parts, moved: sandbox.SandboxClock | None, drain_seconds: float
) -> AsyncIterator[Running]:
    declared = policy.load(settings.service)
    methods = policy.methods(parts.services)
    policy.check(declared, methods)
    verifier = Verifier(settings)
    guard = Guard(methods, verifier, concurrent_calls_max=settings.concurrent_calls_max)
    server = grpc.aio.server(interceptors=[guard], options=SERVER_OPTIONS)
    statuses = grpc_health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(statuses, server)
    for register in parts.services.values():
        register(server)
    reflection.add(server)

    async def tell(ready: bool) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *parts.services):
            await statuses.set(name, status)

    await tell(False)
    readiness = health.Readiness({**parts.checks, "issuer": verifier.check}, tell)
    port = server.add_secure_port(f"{settings.host}:{settings.grpc_port}", channels.server_credentials(settings))
    loops = dict(parts.workers)
    if moved is not None:
        loops["sandbox-clock"] = functools.partial(moved.run, parts.on_clock_move)
    page = moved.told if moved is not None else None
    async with (
        health.serve(settings.host, settings.health_port, readiness, page) as health_port,
        health.serve_probes(settings.host, settings.probe_port, statuses) as probe_port,
    ):
        workers = [asyncio.create_task(_keep_running(name, worker), name=name) for name, worker in loops.items()]
        try:
            await server.start()
            if parts.recover is not None:
                await parts.recover()
            await readiness.refresh()
            workers.append(asyncio.create_task(_keep_running("readiness", readiness.poll), name="readiness"))
            yield Running(port, health_port, probe_port, readiness, parts)
        finally:
            await _stop(settings, server, readiness, parts, workers, drain_seconds)


async def _stop(
    settings: ServiceSettings,
    server: grpc.aio.Server,
    readiness: health.Readiness,
    parts: Parts,
    workers: list[asyncio.Task[None]],
    drain_seconds: float,
) -> None:
    """Out of the balancers first, then no new calls, then the workers, whose batches finish what was begun."""
    await readiness.drain()
    if parts.on_drain is not None:
        await parts.on_drain()
    await asyncio.sleep(drain_seconds)
    await server.stop(settings.grace_seconds)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def _keep_running(name: str, worker: Callable[[], Awaitable[None]]) -> None:
    """A worker outlives its failures: a database or broker that is away must not need a restart of ours."""
    delay = 0.1
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        try:
            await worker()
            return
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - it is logged and counted, and tried again
            telemetry.WORKER_FAILURES.labels(name).inc()
            _log.warning("a worker failed and is started again", worker=name, exc_info=True)
        delay = 0.1 if loop.time() - started > 30 else min(delay * 2, _RESTART_SECONDS_MAX)
        await asyncio.sleep(delay)
