"""The whole mesh on one machine: what is started in which order, watched while it runs, and stopped at the end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from local import binaries, certs, edge, issuer, nats, processes, rest, sandbox, services
from local.postgres import Postgres
from local.processes import Child
from local.services import Replica, Surroundings
from local.state import SERVICES, MeshError, State, is_locked, lock, running_supervisor, write_private

DEFAULT_TENANT = "demo"
_READY_SECONDS = 60.0
_READS = tuple(f"/v1/{list_}?pageSize=1" for list_ in ("accounts", "transfers", "limits", "webhookEndpoints"))
"""A read of each service."""
_LOG_TURNS = 60  # of half a second

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person asked for."""

    port: int = 8443
    scale: Mapping[str, int] = field(default_factory=dict)
    otlp: str | None = None
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the edge from a browser."""
    sandbox: bool = False
    """Whether its time can be moved."""


@dataclass(slots=True)
class Mesh:
    """A mesh that runs."""

    state: State
    port: int
    children: list[Child]
    replicas: Sequence[Replica]
    postgres: Postgres
    ports: dict[str, int]
    started: float
    sandbox: bool = False

    def describe(self) -> dict[str, Any]:
        """What runs where, for other commands."""
        return {
            "edge": f"localhost:{self.port}",
            "port": self.port,
            "ca": str(self.state.ca),
            "state": str(self.state.root),
            "supervisor": os.getpid(),
            "tenant": DEFAULT_TENANT,
            "sandbox": self.sandbox,
            "ports": self.ports,
            "services": {
                replica.name: {"service": replica.service, "grpc": replica.grpc_port, "health": replica.health_port}
                for replica in self.replicas
            },
            "processes": {child.name: child.pid for child in self.children},
            "restarts": {child.name: child.restarts for child in self.children},
            "ready_seconds": round(self.started, 2),
        }

    def write_description(self) -> None:
        """Tells other commands."""
        write_private(self.state.description, json.dumps(self.describe(), indent=2))


@asynccontextmanager
async def running(state: State, wishes: Wishes, tell: Tell = lambda _line: None) -> AsyncIterator[Mesh]:
    """A mesh that runs while the block does. Raises MeshError when something cannot be started."""
    with lock(state):
        state.description.unlink(missing_ok=True)
        begun = time.monotonic()
        sandbox.prepare(state, wanted=wishes.sandbox)
        found = binaries.find()
        port = processes.claim_port(wishes.port)
        certs.ensure(state)
        issuer.ensure(state)
        children: list[Child] = []
        watchers: list[asyncio.Task[None]] = []

        def begin(child: Child) -> Child:
            children.append(child)
            watchers.append(asyncio.create_task(child.supervise(), name=child.name))
            return child

        try:
            async with issuer.serve(state, 0) as jwks_port:
                mesh = await _start(state, wishes, found, port, jwks_port, begin, tell)
                mesh.children = children
                mesh.started = time.monotonic() - begun
                mesh.write_description()
                keeper = asyncio.create_task(_keep_description(mesh))
                try:
                    yield mesh
                finally:
                    keeper.cancel()
        finally:
            tell("stopping")
            await _stop(children, watchers)
            state.description.unlink(missing_ok=True)


async def _start(
    state: State,
    wishes: Wishes,
    found: binaries.Binaries,
    port: int,
    jwks_port: int,
    begin: Callable[[Child], Child],
    tell: Tell,
) -> Mesh:
    from meshkit import policy

    tell("starting PostgreSQL and NATS")
    postgres = Postgres(state, found)
    policies = {service: policy.load(service) for service in SERVICES}
    nats_port, monitor_port, admin_port = (processes.free_port() for _ in range(3))
    broker = begin(nats.child(state, found, nats_port, monitor_port, policies))
    replicas = services.plan(wishes.scale)
    services.ensure_keys(state, first_start=not postgres.is_made)
    async with services.preparation(state, postgres, nats_port) as prepare:
        await asyncio.to_thread(postgres.prepare)
        database = begin(postgres.child(services.connections(replicas)))
        config = await asyncio.to_thread(
            edge.configuration,
            state,
            replicas,
            port=port,
            admin_port=admin_port,
            jwks_port=jwks_port,
            otlp=wishes.otlp,
            cors_origins=wishes.cors_origins,
        )
        await database.wait_ready(_READY_SECONDS)
        await asyncio.to_thread(postgres.create_databases, SERVICES)
        await broker.wait_ready(_READY_SECONDS)
        tell("bringing the schemas up")
        await prepare()
    tell("starting the services and the edge")
    extra = services.overrides()
    if wishes.otlp is not None:
        extra = {**{f"{service.upper()}_OTLP_ENDPOINT": wishes.otlp for service in SERVICES}, **extra}
    around = Surroundings(state, postgres, replicas, nats_port, jwks_port, extra, sandbox=wishes.sandbox)
    checker_port = processes.free_port()
    started = [begin(around.child(replica)) for replica in replicas]
    started.append(begin(around.checker(checker_port)))
    started.append(begin(edge.child(state, found, config, port=port, admin_port=admin_port)))
    await asyncio.gather(*(child.wait_ready(_READY_SECONDS) for child in started))
    ports = {
        "edge": port,
        "nats": nats_port,
        "nats_monitor": monitor_port,
        "envoy_admin": admin_port,
        "jwks": jwks_port,
        services.CHECKER: checker_port,
    }
    mesh = Mesh(state, port, [], replicas, postgres, ports, 0.0, wishes.sandbox)
    await _create_default_tenant(state, port)
    await _wait_for_edge(state, port)
    return mesh


async def _create_default_tenant(state: State, port: int) -> None:
    """The tenant that the examples use; a mesh that has it already answers so."""
    await _answered(functools.partial(rest.ensure_tenant, state, DEFAULT_TENANT, port=port))


async def _wait_for_edge(state: State, port: int) -> None:
    """Waits until the edge sends calls to every service: it learns a moment later than we do that they are ready."""
    for path in _READS:
        await _answered(functools.partial(rest.call, state, "GET", path, tenant=DEFAULT_TENANT, port=port))


async def _answered(call: Callable[[], object]) -> None:
    """Makes a call until it is answered. Raises MeshError when it is not in time."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            await asyncio.to_thread(call)
            return
        except MeshError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def _keep_description(mesh: Mesh) -> None:
    """Other commands see restarted children under their new process ids, and people which child takes no work."""
    shown = mesh.describe()
    for turn in itertools.count():
        await asyncio.sleep(0.5)
        if turn % _LOG_TURNS == 0:
            with contextlib.suppress(OSError):  # a full disk, most likely: what helps then is less, not an end
                await asyncio.to_thread(processes.shorten_logs, mesh.state.logs)
        # Now and then also those that were ready: one may hang.
        await asyncio.gather(*(_probe(child) for child in mesh.children if turn % 4 == 0 or not child.ready))
        if mesh.describe() != shown:
            # A full disk must not end this: it is tried again.
            with contextlib.suppress(OSError):
                mesh.write_description()
                shown = mesh.describe()


async def _probe(child: Child) -> None:
    process = child.process
    try:
        ready = child.pid is not None and await child.probe()
    except OSError:
        ready = False
    if process is child.process:  # the answer is of the process that runs now
        child.ready = ready


async def _stop(children: Sequence[Child], watchers: Sequence[asyncio.Task[None]]) -> None:
    """The edge first, so that nothing new comes in; then the services; then what they stand on."""
    order = {"envoy": 0, "nats": 2, "postgres": 3}
    for rank in range(4):
        await asyncio.gather(*(child.stop() for child in children if order.get(child.name, 1) == rank))
    # They end by themselves: one that was about to start its child ends it first.
    await asyncio.gather(*watchers, return_exceptions=True)


async def until_stopped() -> None:
    """Returns at SIGINT or SIGTERM, or when the terminal is closed."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(name, stop.set)
    await stop.wait()


def end(state: State, seconds: float = 30.0) -> bool:
    """Stops the mesh of a state folder from outside, also one that is still starting; False when none runs.

    Raises MeshError when it does not stop. Only the process that holds the folder is signalled: a description that a
    killed mesh left behind names process ids that may be anybody's by now.
    """
    if not is_locked(state):
        return False
    signalled = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        supervisor = running_supervisor(state)
        if supervisor is None:
            return True
        if supervisor != signalled and supervisor > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(supervisor, signal.SIGTERM)
            signalled = supervisor
        time.sleep(0.1)
    raise MeshError(f"The mesh in {state.root} did not stop within {seconds:.0f} s (supervisor {signalled}).")
