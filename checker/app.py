"""The composition root of the checker: the only module that builds its parts, and what serves its health."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc

from accounts import signing
from checker.clients import AccountsClient
from checker.settings import Settings
from checker.worker import Accounts, Worker
from meshkit import channels, health, logs, sandbox

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A checker that runs."""

    grpc_port: int
    health_port: int
    worker: Worker
    readiness: health.Readiness


async def serve(settings: Settings) -> None:
    """Runs the checker until SIGTERM or SIGINT."""
    logs.configure(settings.service, settings.log_level)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with (
        channels.connect(settings, settings.accounts_target, "accounts") as channel,
        running(settings, AccountsClient(channel)) as checker,
    ):
        _log.info("serving", grpc_port=checker.grpc_port, health_port=checker.health_port)
        await stop.wait()


@asynccontextmanager
async def running(settings: Settings, accounts: Accounts) -> AsyncIterator[Running]:
    """Checks while the block runs, and tells of its health over HTTP and gRPC; nothing else is served."""
    with sandbox.clock_of(settings.sandbox_clock_file) as moved:
        async with _running(settings, accounts, moved) as checker:
            yield checker


@asynccontextmanager
async def _running(
    settings: Settings, accounts: Accounts, moved: sandbox.SandboxClock | None
) -> AsyncIterator[Running]:
    keys = None if settings.sealing_keys_file is None else signing.verifying_keys(settings.sealing_keys_file)
    worker = Worker(settings, accounts, keys)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    statuses = grpc_health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(statuses, server)

    async def tell(ready: bool) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING
        await statuses.set("", serving if ready else health_pb2.HealthCheckResponse.NOT_SERVING)

    await tell(False)
    readiness = health.Readiness({"databases": worker.check_databases}, tell)
    port = server.add_secure_port(f"{settings.host}:{settings.grpc_port}", channels.server_credentials(settings))
    page = moved.told if moved is not None else None
    async with health.serve(settings.host, settings.health_port, readiness, page) as health_port:
        await server.start()
        tasks = [asyncio.create_task(readiness.poll(), name="readiness")]
        if moved is not None:
            tasks.append(asyncio.create_task(moved.run([]), name="sandbox-clock"))
        try:
            async with worker.running():
                yield Running(port, health_port, worker, readiness)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await readiness.drain()
            await server.stop(settings.grace_seconds)
