"""`python -m bench.scaling`: what a payment costs each part and what is kept of it, and what replicas with a bounded
CPU make of that; the figures of docs/scaling.md."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench import bank, meters
from bench import mesh as meshes
from bench.load import Order, generators
from bench.mesh import BenchError, Mesh
from bench.quota import bounded
from bench.run import world
from local import client
from local.client import Refused
from local.demo_bank import Party
from local.state import SERVICES, MeshError, open_state

_QUIET_SECONDS = 120.0
_CALLERS = 64
_SCALED = "transactions"
_CORES = 0.2
"""Of each bounded replica: with two of them the machine's other processes still have all that they ask for."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one transfer takes."""

    rate: float
    """Transfers a second that this was measured at."""
    cpu_ms: Mapping[str, float]
    """By process."""
    stored: Mapping[str, float]
    """Bytes that are kept, by database and for the broker's streams."""
    wal: float
    """Bytes that PostgreSQL wrote ahead of it."""


async def measure(seconds: float, folder: Path | None) -> None:
    """Measures and prints. Raises BenchError, MeshError and Refused."""
    parties = bank.parties(200)
    with tempfile.TemporaryDirectory(prefix="florin-scaling-", dir=folder) as made:
        Path(made).chmod(0o755)
        state = open_state(Path(made) / "state")
        async with meshes.running(state) as mesh:
            async with client.connect(state, f"localhost:{mesh.port}") as edge:
                await bank.open_bank(edge, parties)
            await mesh.until_quiet(_QUIET_SECONDS)
            one = await _cost(mesh, parties, Order("transfer", _CALLERS, seconds, 1.0))
            _print_cost(f"one transfer a call, {_CALLERS} callers", one)
            _print_cost("batches of 500", await _cost(mesh, parties, Order("batch", 2, seconds, 1.0, batch=500)))
        print(f"\n{_SCALED} bounded to {_CORES} cores a replica, {_CALLERS} callers:")
        rates = []
        for replicas in (1, 2):
            async with meshes.running(state, "--scale", f"{_SCALED}={replicas}") as mesh:
                rates.append(await _bounded_rate(mesh, parties, seconds))
            print(f"  {replicas} of them: {rates[-1]:.0f} a second")
        print(f"  twice the replicas make {rates[1] / rates[0]:.2f} times as much")


async def _cost(mesh: Mesh, parties: tuple[Party, ...], order: Order) -> Cost:
    async with generators(world(mesh.state, f"localhost:{mesh.port}", parties), 1) as made:
        stored, wal, spent = _stored(mesh), _wal(mesh), meters.read(mesh.roots())
        tally = await made.run(order)
        await mesh.until_quiet(_QUIET_SECONDS)
        after = meters.read(mesh.roots()).since(spent)
        items = max(tally.items, 1)
        kept = {name: (size - stored[name]) / items for name, size in _stored(mesh).items()}
        cpu = {name: used * 1000 / items for name, used in after.groups.items()}
        return Cost(tally.per_second, cpu, kept, (_wal(mesh) - wal) / items)


async def _bounded_rate(mesh: Mesh, parties: tuple[Party, ...], seconds: float) -> float:
    """Transfers a second while each replica has so much CPU."""
    pids = [pid for name, pid in mesh.roots().items() if name.partition("-")[0] == _SCALED]
    async with generators(world(mesh.state, f"localhost:{mesh.port}", parties), 1) as made:
        with ExitStack() as stack:
            for pid in pids:
                stack.enter_context(bounded(pid, _CORES))
            tally = await made.run(Order("transfer", _CALLERS, 2 * seconds, 3.0))
        await mesh.until_quiet(_QUIET_SECONDS)
    return tally.per_second


def _stored(mesh: Mesh) -> dict[str, int]:
    """Bytes on disk by database, and of all streams."""
    sizes = {}
    for service in SERVICES:
        with psycopg.connect(mesh.postgres().admin_dsn(service)) as connection:
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            sizes[service] = int(row[0]) if row else 0
    return {**sizes, "streams": int(mesh.streams()["bytes"])}


def _wal(mesh: Mesh) -> int:
    with psycopg.connect(mesh.postgres().admin_dsn("accounts")) as connection:
        row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
        return int(row[0]) if row else 0


def _print_cost(case: str, cost: Cost) -> None:
    print(f"\n{case}: {cost.rate:.0f} a second; a transfer takes")
    cpu = sorted(cost.cpu_ms.items(), key=lambda pair: -pair[1])
    print(f"  CPU ms {sum(cost.cpu_ms.values()):.2f}: " + ", ".join(f"{name} {ms:.2f}" for name, ms in cpu))
    stored = ", ".join(f"{name} {size / 1000:.1f}" for name, size in cost.stored.items())
    print(f"  kB kept {sum(cost.stored.values()) / 1000:.1f}: {stored}")
    print(f"  kB written ahead {cost.wal / 1000:.1f}", flush=True)


def main() -> None:
    """Exit 0 when everything was measured, else 1."""
    parser = argparse.ArgumentParser(prog="make scaling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each load runs")
    parser.add_argument("--folder", type=Path, help="where the mesh's state is put; it decides which disk is measured")
    arguments = parser.parse_args()
    try:
        asyncio.run(measure(arguments.seconds, arguments.folder))
    except (BenchError, MeshError, Refused) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
