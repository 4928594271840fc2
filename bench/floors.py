"""What the mesh stands on, measured in the same run: the database server alone, and an empty call through an edge."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench.load import ROOT, Tally
from bench.mesh import BenchError, Mesh
from local import binaries, edge, issuer, processes
from local.postgres import ADMIN, PORT, Postgres
from local.processes import Child
from local.state import SERVICES

DATABASE = "bench"
SCALE = 10
"""pgbench's own rule: at least as much as there are clients, or they queue on the branches' rows. 16 clients meet
now and then."""
_READY_SECONDS = 30.0


def pgbench() -> Path | None:
    """The program, beside the server's other ones; None where the installation lacks it."""
    found = binaries.find().postgres_bin / "pgbench"
    return found if found.exists() else None


@asynccontextmanager
async def pgbench_database(program: Path, postgres: Postgres) -> AsyncIterator[None]:
    """A database with TPC-B's tables on the mesh's own server, gone afterwards. Raises BenchError."""
    with psycopg.connect(postgres.admin_dsn("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
        try:
            await _run(program, postgres, Path.cwd(), "-i", "-q", "-s", str(SCALE))
            yield
        finally:
            admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


async def tpc_b(program: Path, postgres: Postgres, clients: int, seconds: int) -> Tally:
    """Transactions like TPC-B's, prepared, with durable commits: three updates, a select and an insert each."""
    folder = Path(tempfile.mkdtemp(prefix="florin-pgbench-"))
    try:
        output = await _run(
            program,
            postgres,
            folder,
            *("-M", "prepared", "-n", "-c", str(clients), "-j", "2", "-T", str(seconds), "-l"),
        )
        count = re.search(r"number of transactions actually processed: (\d+)", output)
        rate = re.search(r"tps = ([0-9.]+)", output)
        if count is None or rate is None:
            raise BenchError(f"pgbench said nothing that can be read: {output[-300:]}")
        lines = [line.split() for log in folder.glob("pgbench_log.*") for line in log.read_text().splitlines()]
        done = int(count[1])
        return Tally(done, done, done / float(rate[1]), [int(line[2]) for line in lines])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _run(program: Path, postgres: Postgres, folder: Path, *arguments: str) -> str:
    password = (postgres.state.secrets / "postgres-admin").read_text()
    process = await asyncio.create_subprocess_exec(
        *(str(program), "-h", str(postgres.socket), "-p", str(PORT), "-U", ADMIN, *arguments, DATABASE),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "PGPASSWORD": password},
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise BenchError(f"pgbench failed: {output.decode(errors='replace')[-300:]}")
    return output.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class EmptyEdge:
    """An edge with nothing behind it but empty answers."""

    target: str
    roots: Mapping[str, int]


@asynccontextmanager
async def empty_edge(mesh: Mesh) -> AsyncIterator[EmptyEdge]:
    """A second Envoy with the mesh's own configuration, before one server that does nothing. Raises MeshError."""
    state = mesh.state
    echo_port, port, admin_port = (processes.free_port() for _ in range(3))
    certificate, key = state.certificate("accounts")
    edge_certificate, edge_key = state.certificate("edge")
    generator = edge.generator()
    # The same settings as the mesh's edge has, but for where things are.
    settings = generator.EdgeSettings(
        listen=f"127.0.0.1:{port}",
        admin=f"127.0.0.1:{admin_port}",
        upstreams=dict.fromkeys(SERVICES, (f"127.0.0.1:{echo_port}",)),
        issuer=issuer.ISSUER,
        issuer_jwks=f"http://127.0.0.1:{mesh.description['ports']['jwks']}/jwks.json",
        audience=issuer.AUDIENCE,
        tls_cert=str(edge_certificate),
        tls_key=str(edge_key),
        ca=str(state.ca),
        client_cert=str(edge_certificate),
        client_key=str(edge_key),
        access_log=str(state.logs / "empty-access.log"),
    )
    configuration = state.root / "envoy" / "empty.yaml"
    configuration.write_text(generator.render(settings))

    async def answers() -> bool:
        return await processes.listens(echo_port)

    server = Child(
        name="echo",
        program=[sys.executable, "-m", "bench.echo", str(echo_port), str(certificate), str(key), str(state.ca)],
        log=state.logs / "empty-server.log",
        probe=answers,
        environment={"PYTHONPATH": str(ROOT)},
    )
    envoy = edge.child(state, binaries.find(), configuration, port=port, admin_port=admin_port)
    envoy.name, envoy.log = "empty-edge", state.logs / "empty-edge.log"
    children = [server, envoy]
    try:
        for child in children:
            await child.start()
            await child.wait_ready(_READY_SECONDS)
        yield EmptyEdge(f"localhost:{port}", {child.name: child.pid for child in children if child.pid is not None})
    finally:
        for child in reversed(children):
            await child.stop()
