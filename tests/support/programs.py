"""Programs beside the mesh: a service on its own as a deployment starts it, or any other, gone after the test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from local import binaries
from local.postgres import Postgres
from local.processes import Child, free_port
from local.services import Replica, Surroundings
from tests.support.mesh import Mesh
from tests.support.parts import start


@contextmanager
def program(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """A program that runs while the block does; what it prints is in `log`."""

    async def never() -> bool:
        return False

    process = start(Child(log.stem, command, log, probe=never, environment=environment or {}))
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def replica(service: str) -> Replica:
    """One more process of a service, on ports of its own."""
    return Replica(service, 9, free_port(), free_port())


def environment(mesh: Mesh, one: Replica, changes: Mapping[str, str]) -> dict[str, str]:
    """All that a process of a service is told in a mesh, with changes."""
    ports = mesh.description["ports"]
    postgres = Postgres(mesh.state, binaries.find())
    around = Surroundings(mesh.state, postgres, [], ports["nats"], ports["jwks"], changes)
    return {**os.environ, **around.environment(one)}


def service(name: str, *arguments: str) -> list[str]:
    """The command of a service."""
    return [sys.executable, "-m", name, *arguments]
