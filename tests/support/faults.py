"""Faults on a running mesh: processes killed, stopped or held down, a database taken away; in an order of a seed.

It knows the mesh by its description and the operating system alone; the product has nothing in it for these tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from local.binaries import find
from local.postgres import Postgres
from local.processes import http_ok, tail
from local.state import MeshError, State
from tests.support.mesh import FLORIN, START_SECONDS, Mesh
from tests.support.parts import wait_until

RETURN_SECONDS = 30.0
"""In which a killed process has to be back."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong at a time, in seconds from the first."""

    at: float
    targets: tuple[str, ...]
    frozen_seconds: float = 0.0
    """How long they are stopped; 0: they are killed."""

    def __str__(self) -> str:
        what = f"stop and continue, {self.frozen_seconds} s" if self.frozen_seconds else "kill -9"
        return f"{self.at:5.1f} s  {what}: {', '.join(self.targets)}"


def schedule(seed: int, services: Sequence[Sequence[str]], others: Sequence[str], seconds: float) -> list[Fault]:
    """Two rounds in an order drawn from the seed: every service is killed, once with all its replicas and once one of
    them, and every other process; and in each round one of them all is stopped and continued."""
    chance = random.Random(f"{seed}-faults")
    drawn: list[tuple[tuple[str, ...], float]] = []
    for whole in (True, False):
        targets = [tuple(replicas) if whole else (chance.choice(replicas),) for replicas in services]
        targets += [(name,) for name in others]
        turn = [*((target, 0.0) for target in targets), (chance.choice(targets), round(chance.uniform(2, 5), 1))]
        chance.shuffle(turn)
        drawn += turn
    step = seconds / len(drawn)
    return [
        Fault(round(step * number + chance.uniform(0, step), 1), targets, frozen)
        for number, (targets, frozen) in enumerate(drawn)
    ]


async def play(mesh: Mesh, faults: Sequence[Fault]) -> None:
    """Does the faults at their times, or as soon as their targets are there to be hurt."""
    started = time.monotonic()
    for fault in faults:
        await asyncio.sleep(max(started + fault.at - time.monotonic(), 0))
        if fault.frozen_seconds:
            with stopped(mesh, *fault.targets):
                await asyncio.sleep(fault.frozen_seconds)
        else:
            await asyncio.to_thread(kill, mesh, *fault.targets)


def alive(mesh: Mesh, name: str, seconds: float = RETURN_SECONDS) -> int:
    """Waits until a process of the mesh runs; gives its id."""
    deadline = time.monotonic() + seconds
    while True:
        pid = mesh.description["processes"][name]
        if pid is not None and is_running(pid):
            return int(pid)
        if time.monotonic() > deadline:
            raise AssertionError(f"{name} was not started again within {seconds:.0f} s")
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process lives; one that ended and was not yet taken leave of does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def kill(mesh: Mesh, *names: str) -> list[int]:
    """kill -9 of processes that run; gives the ids that they had."""
    pids = [alive(mesh, name) for name in names]
    for pid in pids:
        _signal(pid, signal.SIGKILL)
    return pids


def family(pid: int) -> list[int]:
    """A process and its descendants: PostgreSQL's backends go on when their parent alone is stopped."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


@contextmanager
def stopped(mesh: Mesh, *names: str) -> Iterator[None]:
    """Processes that do not run but are not gone: connections to them stand, and nothing answers."""
    members = [pid for name in names for pid in family(alive(mesh, name))]
    try:
        for pid in members:
            _signal(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in members:
            _signal(pid, signal.SIGCONT)


@contextmanager
def dead(mesh: Mesh, *names: str) -> Iterator[None]:
    """Processes that are gone and stay away: whoever would start them again is stopped meanwhile."""
    pids = [alive(mesh, name) for name in names]
    os.kill(mesh.supervisor.pid, signal.SIGSTOP)
    try:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, pids)), 10)
        yield
    finally:
        os.kill(mesh.supervisor.pid, signal.SIGCONT)


def bring_up_again(
    mesh: Mesh, before: Mapping[str, Any], environment: Mapping[str, str], seconds: float = START_SECONDS
) -> None:
    """Starts a mesh whose supervisor is gone on the same folder; port and replicas as its description had them."""
    counts = Counter(one["service"] for one in before["services"].values())
    scale: list[str] = [part for service, count in counts.items() for part in ("--scale", f"{service}={count}")]
    mesh.supervisor.wait(10)
    command = [str(FLORIN), "up", "--port", str(before["port"]), "--state", str(mesh.state.root), *scale]
    log = mesh.state.root.parent / "supervisor-again.log"
    with log.open("wb") as output:
        mesh.supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environment}
        )

    def up() -> bool:
        if mesh.supervisor.poll() is not None:
            raise AssertionError(f"florin up ended:\n{tail(log, 30)}")
        try:
            return bool(mesh.description["supervisor"] == mesh.supervisor.pid)
        except MeshError:  # the description of the mesh that was killed is gone, the new one is not there yet
            return False

    wait_until(up, seconds)


@contextmanager
def without_database(mesh: Mesh, service: str) -> Iterator[None]:
    """One service's database refuses it: no new connections, and the present ones are ended."""
    postgres = Postgres(mesh.state, find())
    role, database = sql.Identifier(f"{service}_runtime"), sql.Identifier(service)
    with psycopg.connect(postgres.admin_dsn("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(database, role))
        try:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (service,))
            yield
        finally:
            admin.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, role))


def doubted(mesh: Mesh) -> list[str]:
    """The replicas that the edge does not believe in at the moment: their cluster and address, and why."""
    admin = mesh.description["ports"]["envoy_admin"]
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/clusters?format=json", timeout=5) as answer:
        clusters = json.load(answer)["cluster_statuses"]
    found = []
    for cluster in clusters:
        for host in cluster.get("host_statuses", ()):
            reasons = sorted(reason for reason, failed in host["health_status"].items() if failed is True)
            if reasons:
                port = host["address"]["socket_address"]["port_value"]
                found.append(f"{cluster['name']} at {port}: {', '.join(reasons)}")
    return found


def is_ready(state: State, name: str) -> bool:
    """Whether a service says that it is ready."""
    port = state.read_description()["services"][name]["health"]
    return asyncio.run(http_ok(port, "/readyz"))


def replicas(mesh: Mesh, service: str) -> list[str]:
    """The names of all processes of a service."""
    return [name for name, one in mesh.description["services"].items() if one["service"] == service]


def _signal(pid: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)
