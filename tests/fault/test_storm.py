"""Everything is killed while payments run; then the books, and all that was told of them, are judged by a history."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from local.state import SERVICES
from tests.support import faults
from tests.support.mesh import Mesh
from tests.support.storm import storm, verified

FAULT_SECONDS = 60.0


@pytest.mark.timeout(300)
async def test_no_payment_is_lost_or_doubled_whatever_is_killed(
    mesh: Mesh, seed: int, tmp_path: Path, notes: list[str]
) -> None:
    """kill -9 of each service, a replica of each, the broker, the database and the edge; some are stopped for a while.
    Every reading adds up, what was accepted is final soon afterwards, once, and every invariant holds."""
    services = [faults.replicas(mesh, service) for service in SERVICES]
    plan = faults.schedule(seed, services, ("nats", "postgres", "envoy"), FAULT_SECONDS)
    async with storm(mesh, f"storm-{seed}", seed) as under:
        async with under.load.running():
            await faults.play(mesh, plan)
            last = time.monotonic()
        final, took = await under.settle(last)
    notes.append(
        f"{len(plan)} faults in {FAULT_SECONDS:.0f} s: {under.summary(final)}; all final {took:.1f} s after the last"
    )
    under.judge(final, tmp_path, plan)
    await verified(under)
