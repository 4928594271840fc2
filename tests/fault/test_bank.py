"""Money between a fixed set of accounts while everything is killed: nobody ever sees more of it, less, or the past."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from local import rest
from local.client import connect
from tests.support import bank_history, faults
from tests.support.bank_callers import Bank
from tests.support.bank_history import BankHistory
from tests.support.faults import Fault
from tests.support.mesh import Mesh
from tests.support.parts import eventually

ACCOUNTS = 8
FUNDS = 1_000
ROUND_SECONDS = 30.0
FINAL_SECONDS = 30.0
SECONDS = float(os.environ.get("FLORIN_BANK_SECONDS") or ROUND_SECONDS)


def plan(mesh: Mesh, seed: int) -> list[Fault]:
    """Rounds of half a minute, in which whatever moves money or tells of it is killed twice, the database too."""
    services = [faults.replicas(mesh, service) for service in ("transactions", "accounts", "compliance")]
    drawn: list[Fault] = []
    for number in range(max(round(SECONDS / ROUND_SECONDS), 1)):
        turn = faults.schedule(seed + number, services, ("nats", "postgres"), ROUND_SECONDS)
        drawn += [Fault(round(f.at + number * ROUND_SECONDS, 1), f.targets, f.frozen_seconds) for f in turn]
    return drawn


@pytest.mark.timeout(200 + 2 * SECONDS)
async def test_the_bank_shows_one_history_whatever_is_killed(
    mesh: Mesh, seed: int, tmp_path: Path, notes: list[str]
) -> None:
    """The total is the same at every read, of the present and of the past; what was acknowledged is there, once; what
    was not is there once or not at all; nobody's second look is older than anybody's first."""
    tenant, drawn = f"bank-{seed}", plan(mesh, seed)
    await asyncio.to_thread(_open, mesh, tenant)
    async with connect(mesh.state, f"localhost:{mesh.port}") as edge:
        history = BankHistory(opening=await Bank(edge, tenant, seed, BankHistory(opening={})).read_opening())
        assert sum(posted for posted, _ in history.opening.values()) == ACCOUNTS * FUNDS
        bank = Bank(edge, tenant, seed, history)
        async with bank.open():
            await faults.play(mesh, drawn)
            last = time.monotonic()

        async def all_final() -> bool:
            return not await bank.unfinished()

        await eventually(all_final, FINAL_SECONDS)
        took = time.monotonic() - last
        await asyncio.to_thread(mesh.wait_all_ready)
        final = await bank.read_final()
    problems = bank_history.check(history, final)
    notes.append(f"bank: {len(drawn)} faults, {_summary(history)}; all final {took:.1f} s after the last")
    if problems:
        kept = tmp_path / "history.jsonl"
        history.write(kept)
        told = "\n".join([*problems[:20], "", "the faults were", *map(str, drawn)])
        raise AssertionError(f"{len(problems)} problems; the history is in {kept}\n{told}")
    answers = Counter(asked.answer for asked in history.asked)
    assert answers[bank_history.MOVED] > 20, "too little was paid to show anything"
    assert sum(not reading.as_of for reading in history.readings) > 20, "too little was read to show anything"


def _open(mesh: Mesh, tenant: str) -> None:
    rest.ensure_tenant(mesh.state, tenant)
    for _ in range(ACCOUNTS):
        mesh.account(funds=FUNDS, tenant=tenant)


def _summary(history: BankHistory) -> str:
    answers = Counter(asked.answer or "without an answer" for asked in history.asked)
    past = sum(bool(reading.as_of) for reading in history.readings)
    return (
        f"{len(history.asked)} transfers asked for ("
        + ", ".join(f"{count} {answer}" for answer, count in sorted(answers.items()))
        + f"), {len(history.readings)} readings, {past} of them of the past"
    )
