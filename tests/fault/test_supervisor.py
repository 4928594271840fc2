"""The supervisor is killed and everything with it; the same folder is brought up again, now with stand-in limits."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from florin.transactions.v1 import transfer_pb2, transfer_service_pb2
from tests.support import faults
from tests.support.history import Final
from tests.support.mesh import Mesh
from tests.support.parts import eventually, wait_until
from tests.support.storm import Storm, storm, verified

STAND_IN = {"TRANSACTIONS_SCREENING_POSTURE": "stand-in", "TRANSACTIONS_STAND_IN_MAXIMUM": '{"CHF": 5000}'}
"""In a currency of its own, so that whatever else is paid on this mesh waits for compliance as before."""


@dataclass(frozen=True, slots=True)
class Crash:
    """What was seen of a mesh whose supervisor was killed, and of the one that came after it."""

    survivors: list[str]
    under: Storm
    final: Final


@pytest.fixture(scope="module")
async def crash(mesh: Mesh, seed: int) -> AsyncIterator[Crash]:
    """Payments before, meanwhile and afterwards; the callers only know that nobody answers for a while."""
    async with storm(mesh, f"crash-{seed}", seed) as under:
        async with under.load.running():
            await eventually(lambda: _answered(under, 40), 60)
            before = mesh.description
            children = {pid: name for name, pid in before["processes"].items()}
            os.kill(mesh.supervisor.pid, signal.SIGKILL)
            survivors = await asyncio.to_thread(_survivors, children)
            await asyncio.to_thread(faults.bring_up_again, mesh, before, STAND_IN)
            answered = len(under.history.operations)
            await eventually(lambda: _answered(under, answered + 40), 60)
        final, _ = await under.settle(time.monotonic())
        yield Crash(survivors, under, final)


def _survivors(children: dict[int, str]) -> list[str]:
    """Who still lives ten seconds after the supervisor."""

    def gone() -> bool:
        return not any(map(faults.is_running, children))

    try:
        wait_until(gone, 10)
    except AssertionError:
        return [name for pid, name in children.items() if faults.is_running(pid)]
    return []


async def _answered(under: Storm, count: int) -> bool:
    return len(under.history.operations) >= count


@pytest.mark.timeout(300)
async def test_a_killed_supervisor_takes_all_with_it_and_the_books_stand_afterwards(
    crash: Crash, tmp_path: Path
) -> None:
    """Every process ends at the same moment, amid payments: none survives, and no payment is lost or doubled."""
    assert crash.survivors == []
    crash.under.judge(crash.final, tmp_path, ["kill -9 of the supervisor"])
    await verified(crash.under)


@pytest.mark.timeout(120)
async def test_stand_in_limits_let_small_payments_pass_while_compliance_is_down(mesh: Mesh, crash: Crash) -> None:
    """Up to the limit of the currency a payment is completed and marked; a larger one waits, and is no stand-in."""
    debit = await asyncio.to_thread(mesh.account, currency="CHF", funds=1_000_00)
    credit = await asyncio.to_thread(mesh.account, currency="CHF")

    def pay(minor_units: int) -> transfer_pb2.Transfer:
        request = mesh.transfer(debit, credit, minor_units, currency="CHF")
        transfer: transfer_pb2.Transfer = mesh.call("TransferService.CreateTransfer", request).transfer
        return transfer

    with faults.dead(mesh, *faults.replicas(mesh, "compliance")):
        small, large = [await asyncio.to_thread(pay, minor_units) for minor_units in (50_00, 50_01)]
        assert (small.state, small.stand_in) == (transfer_pb2.TRANSFER_STATE_COMPLETED, True)
        assert (large.state, large.stand_in) == (transfer_pb2.TRANSFER_STATE_ACCEPTED, False)

    def completed() -> bool:
        now = mesh.call(
            "TransferService.GetTransfer", transfer_service_pb2.GetTransferRequest(name=large.name)
        ).transfer
        return (now.state, now.stand_in) == (transfer_pb2.TRANSFER_STATE_COMPLETED, False)

    await asyncio.to_thread(wait_until, completed, 30)
