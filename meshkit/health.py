"""The health port: /livez, /readyz with each check's result, and /metrics; plain HTTP, never exposed at the edge.

And the probe port, for platforms that probe by gRPC: they have no certificate, so it answers nothing but health.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
from aiohttp import web
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from meshkit import logs, telemetry

_CHECK_TIMEOUT_SECONDS = 2.0
_POLL_SECONDS = 1.0
LIVE = "live"
"""What a liveness probe asks for: SERVING as long as the process answers. The empty name is readiness; a service whose
database is away must not be killed for it."""
_log = logs.get(__name__)

Checks = Mapping[str, Callable[[], Awaitable[None]]]


class Readiness:
    """Whether the service should be given calls: from its dependencies, and from its own life."""

    def __init__(self, checks: Checks, changed: Callable[[bool], Awaitable[None]]) -> None:
        self._checks = checks
        self._changed = changed
        self.failures: dict[str, str] = {"start": "not finished"}
        self.draining = False
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether all checks passed the last time and no drain has begun."""
        return not self.failures and not self.draining

    async def refresh(self) -> None:
        """Runs every check once and tells of a change."""
        names = list(self._checks)
        results = await asyncio.gather(
            *(asyncio.wait_for(self._checks[name](), _CHECK_TIMEOUT_SECONDS) for name in names),
            return_exceptions=True,
        )
        self.failures = {
            name: type(result).__name__ for name, result in zip(names, results, strict=True) if result is not None
        }
        await self._tell()

    async def drain(self) -> None:
        """Takes the service out of every balancer from now on."""
        self.draining = True
        await self._tell()

    async def poll(self) -> None:
        """Refreshes until it is cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(_POLL_SECONDS)

    async def _tell(self) -> None:
        telemetry.READY.set(1 if self.ready else 0)
        if self.ready != self._ready:
            self._ready = self.ready
            _log.info("ready" if self.ready else "not ready", failures=self.failures, draining=self.draining)
            await self._changed(self.ready)


@asynccontextmanager
async def serve(
    host: str, port: int, readiness: Readiness, clock: Callable[[], dict[str, Any]] | None = None
) -> AsyncIterator[int]:
    """Serves the health port while the block runs; gives the port. `clock` is what a sandbox's replica tells of its
    own at /clock; there is no such page elsewhere."""

    async def livez(_request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def readyz(_request: web.Request) -> web.Response:
        body = {"ready": readiness.ready, "draining": readiness.draining, "failures": readiness.failures}
        return web.json_response(body, status=200 if readiness.ready else 503)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    if clock is not None:
        told = clock

        async def clock_page(_request: web.Request) -> web.Response:
            return web.json_response(told())

        application.add_routes([web.get("/clock", clock_page)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serve_probes(
    host: str, port: int | None, statuses: grpc_health.aio.HealthServicer
) -> AsyncIterator[int | None]:
    """Serves `statuses` on the probe port while the block runs; gives the port. Does nothing where there is none."""
    if port is None:
        yield None
        return
    await statuses.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(statuses, server)
    bound = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)
