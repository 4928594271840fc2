"""`python -m bench.checker`: what the checker costs beside the mesh that it looks at, at rest and under load.

Throughput with it and without it differs by less than one run from another on a shared machine; the CPU time of its
process and of its connections' backends is the same whoever else is busy.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable
from pathlib import Path

import psycopg

from bench import bank, meters
from bench import mesh as meshes
from bench.load import Order, Tally, generators
from bench.mesh import BenchError, Mesh
from bench.run import world
from local import client
from local.services import CHECKER
from local.state import open_state

_ACCOUNTS = 40
_SECONDS, _REST_SECONDS, _QUIET_SECONDS = 25.0, 10.0, 120.0


async def measure() -> None:
    """Prints a line for each span of time. Raises BenchError, MeshError and Refused."""
    with tempfile.TemporaryDirectory(prefix="florin-bench-") as made:
        Path(made).chmod(0o755)
        state, parties = open_state(Path(made) / "state"), bank.parties(_ACCOUNTS)
        async with meshes.running(state) as mesh:
            async with client.connect(state, f"localhost:{mesh.port}") as edge:
                await bank.open_bank(edge, parties)
            async with generators(world(state, f"localhost:{mesh.port}", parties), 1) as load:
                await load.run(Order("batch", 2, 3.0, 1.0, 0.0, 500))
                await mesh.until_quiet(_QUIET_SECONDS)
                await _span(mesh, "at rest", _rest())
                await _span(mesh, "transfers, 64 callers", load.run(Order("transfer", 64, _SECONDS, 0.5)))
                await _span(mesh, "batches of 500", load.run(Order("batch", 2, _SECONDS, 0.5, 0.0, 500)))


async def _rest() -> Tally:
    await asyncio.sleep(_REST_SECONDS)
    return Tally()


async def _span(mesh: Mesh, name: str, work: Awaitable[Tally]) -> None:
    backends = _backends(mesh)
    roots = {**mesh.roots(), **{f"backend-{pid}": pid for pid in backends}}
    before = meters.read(roots)
    tally = await work
    spent = meters.read(roots).since(before)
    own = spent.groups[CHECKER] + sum(spent.groups[f"backend-{pid}"] for pid in backends)
    if _backends(mesh) != backends:
        raise BenchError("the checker lost a connection meanwhile; what it cost cannot be told")
    share = own / max(sum(spent.groups.values()), 0.001)
    rate = f", {tally.per_second:.0f} transfers a second" if tally.items else ""
    sys.stdout.write(f"{name}: {share:.1%} of the mesh's CPU time, {own / spent.seconds:.4f} cores{rate}\n")


def _backends(mesh: Mesh) -> set[int]:
    with psycopg.connect(mesh.postgres().admin_dsn("postgres")) as connection:
        found = connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'florin-checker'")
        return {int(row[0]) for row in found}


if __name__ == "__main__":
    asyncio.run(measure())
