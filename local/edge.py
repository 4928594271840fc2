"""Envoy as a child: its configuration is written by envoy/generate.py from the contracts."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from local import issuer
from local.binaries import Binaries
from local.processes import Child, http_ok
from local.services import Replica, addresses
from local.state import SERVICES, State

_GENERATOR = Path(__file__).resolve().parents[1] / "envoy" / "generate.py"


def generator() -> ModuleType:
    """The generator, loaded by its path: a package named envoy belongs to Envoy's own wheel."""
    spec = importlib.util.spec_from_file_location("florin_envoy_generate", _GENERATOR)
    if spec is None or spec.loader is None:
        raise ImportError(f"{_GENERATOR} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def configuration(
    state: State,
    replicas: Sequence[Replica],
    *,
    port: int,
    admin_port: int,
    jwks_port: int,
    otlp: str | None,
    cors_origins: Sequence[str] = (),
) -> Path:
    """Writes the edge's configuration; gives its file."""
    module = generator()
    edge_certificate, edge_key = state.certificate("edge")
    settings = module.EdgeSettings(
        listen=f"127.0.0.1:{port}",
        admin=f"127.0.0.1:{admin_port}",
        upstreams={service: tuple(addresses(replicas, service)) for service in SERVICES},
        issuer=issuer.ISSUER,
        issuer_jwks=f"http://127.0.0.1:{jwks_port}/jwks.json",
        audience=issuer.AUDIENCE,
        tls_cert=str(edge_certificate),
        tls_key=str(edge_key),
        ca=str(state.ca),
        client_cert=str(edge_certificate),
        client_key=str(edge_key),
        access_log=str(state.logs / "access.log"),
        otlp=otlp,
        cors_origins=tuple(cors_origins),
    )
    folder = state.root / "envoy"
    folder.mkdir(exist_ok=True)
    path = folder / "envoy.yaml"
    path.write_text(module.render(settings))
    return path


def child(state: State, binaries: Binaries, path: Path, *, port: int, admin_port: int) -> Child:
    """Envoy as a child of the supervisor."""

    async def ready() -> bool:
        return await http_ok(admin_port, "/ready")

    return Child(
        name="envoy",
        program=[
            str(binaries.envoy),
            *("-c", str(path), "--concurrency", "1", "--log-level", "warning"),
            # Hot restart needs shared memory that two meshes on one machine would fight for.
            "--disable-hot-restart",
            *("--drain-time-s", "2"),
            # Who follows the access log sees a call within a second rather than ten.
            *("--file-flush-interval-msec", "1000"),
        ],
        log=state.logs / "envoy.log",
        probe=ready,
        port=port,
    )
