"""Everything is killed while payments run; then the books, and all that was told of them, are judged by a history."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from local import rest
from local.client import connect
from local.state import SERVICES
from local.verify import SETTLED_SECONDS
from tests.support import faults, history
from tests.support.faults import Fault
from tests.support.history import Final, History
from tests.support.load import REVIEW_ABOVE, Load
from tests.support.mesh import Mesh

FAULT_SECONDS = 60.0
FINAL_SECONDS = 30.0
"""After the last fault every accepted payment has to be final within this."""
ACCOUNTS = 12
FUNDS = 5_000_00


@pytest.mark.timeout(240)
async def test_no_payment_is_lost_or_doubled_whatever_is_killed(
    mesh: Mesh, seed: int, tmp_path: Path, notes: list[str]
) -> None:
    """Two rounds of kill -9 of each service, replica, broker, database and edge, and of stop and continue of one."""
    tenant = f"storm-{seed}"
    rest.ensure_tenant(mesh.state, tenant)
    services = [faults.replicas(mesh, service) for service in SERVICES]
    plan = faults.schedule(seed, services, ("nats", "postgres", "envoy"), FAULT_SECONDS)
    history_ = History(opening={})
    async with connect(mesh.state, f"localhost:{mesh.port}") as edge:
        load = Load(edge, tenant, seed, history_)
        async with load.attended():
            await asyncio.to_thread(_open, mesh, tenant, history_)
            await asyncio.wait_for(load.following.wait(), 20)
            async with load.running():
                await faults.play(mesh, plan)
                last = time.monotonic()
            took = await _until_final(load, last)
            await asyncio.to_thread(mesh.wait_all_ready)
            final_at = time.monotonic()
            final = await load.read_final()
            await _until_told(load, final)
    history_.write(tmp_path / "history.jsonl")
    problems = history.check(history_, final)
    notes.append(_summary(history_, final, plan, took))
    assert not problems, _report(problems, plan, tmp_path)
    await asyncio.sleep(max(final_at + SETTLED_SECONDS + 1 - time.monotonic(), 0))
    verified = mesh.florin("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def _open(mesh: Mesh, tenant: str, history_: History) -> None:
    """Accounts with money, and a rule that has large payments reviewed."""
    rest.call(
        mesh.state,
        "POST",
        "/v1/rules",
        {
            "ruleId": "large",
            "rule": {
                "expression": f"payment.amount_minor_units > {REVIEW_ABOVE}",
                "outcome": "RULE_OUTCOME_REVIEW",
                "enabled": True,
            },
        },
        tenant=tenant,
    )
    for _ in range(ACCOUNTS):
        history_.opening[mesh.account(funds=FUNDS, tenant=tenant)] = FUNDS


async def _until_final(load: Load, since: float) -> float:
    """Waits until every transfer is final; gives the seconds from the last fault on."""
    while True:
        left = await load.open_transfers()
        took = time.monotonic() - since
        if not left:
            return took
        assert took < FINAL_SECONDS, f"{left} transfers are not final {took:.0f} s after the last fault"
        await asyncio.sleep(0.1)


async def _until_told(load: Load, final: Final) -> None:
    """Waits until the stream has told the end of every transfer, or no longer: the checker says what is missing."""
    wanted = {transfer.name for transfer in final.transfers}
    deadline = time.monotonic() + FINAL_SECONDS
    while time.monotonic() < deadline:
        ended = {event.subject for event in load.told if not event.type.endswith(("_accepted.v1", "_held.v1"))}
        if wanted <= ended:
            return
        await asyncio.sleep(0.1)


def _summary(history_: History, final: Final, plan: Sequence[Fault], took: float) -> str:
    states = Counter(transfer.state for transfer in final.transfers)
    silent = sum(operation.answer.is_silence for operation in history_.of("pay"))
    return (
        f"{len(plan)} faults in {FAULT_SECONDS:.0f} s, {len(history_.payments)} payments asked for, {silent} of them "
        f"without an answer, {len(final.transfers)} transfers: "
        + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        + f"; {len(history_.readings)} readings of all balances, {len(final.events)} events; all final {took:.1f} s "
        "after the last fault"
    )


def _report(problems: Sequence[str], plan: Sequence[Fault], folder: Path) -> str:
    shown = "\n".join(problems[:20])
    faults_ = "\n".join(map(str, plan))
    return f"{len(problems)} problems; the history is in {folder}\n{shown}\n\nthe faults were\n{faults_}"
