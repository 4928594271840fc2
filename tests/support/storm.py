"""A tenant under load for a test that hurts the mesh meanwhile: opened, settled afterwards, and judged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from local import rest
from local.client import connect
from local.verify import SETTLED_SECONDS
from tests.support import freezing, history
from tests.support.history import Final, History
from tests.support.load import REVIEW_ABOVE, Load
from tests.support.mesh import Mesh

FINAL_SECONDS = 30.0
"""After the last fault every accepted payment has to be final within this."""
ACCOUNTS = 12
FUNDS = 5_000_00


@dataclass(slots=True)
class Storm:
    """A load and what came of it."""

    mesh: Mesh
    load: Load
    history: History
    final_at: float = 0.0
    """When all was final, on time.monotonic()."""

    async def settle(self, since: float) -> tuple[Final, float]:
        """What stands when all is final, and the seconds that it took from a moment of time.monotonic() on."""
        took = await self._until_final(since)
        self.final_at = time.monotonic()
        await asyncio.to_thread(self.mesh.wait_all_ready)
        final = await self.load.read_final()
        await self._until_told(final)
        return final, took

    async def _until_final(self, since: float) -> float:
        while True:
            left = await self.load.open_transfers()
            took = time.monotonic() - since
            if not left:
                return took
            assert took < FINAL_SECONDS, f"{left} transfers are not final {took:.0f} s after the last fault"
            await asyncio.sleep(0.1)

    async def _until_told(self, final: Final) -> None:
        """Waits until the stream has told the end of every transfer, or no longer: the checker says what is missing."""
        ends = {(t.name, f"florin.transactions.transfer_{t.state.lower()}.v1") for t in final.transfers}
        deadline = time.monotonic() + FINAL_SECONDS
        while time.monotonic() < deadline and not ends <= {(event.subject, event.type) for event in self.load.told}:
            await asyncio.sleep(0.1)

    def judge(self, final: Final, folder: Path, faults: Sequence[object]) -> None:
        """Raises AssertionError with everything that is not as it has to be."""
        problems = history.check(self.history, final)
        if problems:
            self.history.write(folder / "history.jsonl")
            raise AssertionError(
                f"{len(problems)} problems; the history is in {folder}\n"
                + "\n".join(problems[:20])
                + "\n\nthe faults were\n"
                + "\n".join(map(str, faults))
            )

    def summary(self, final: Final) -> str:
        """How much was tried."""
        states = Counter(transfer.state for transfer in final.transfers)
        silent = sum(operation.answer.is_silence for operation in self.history.of("pay"))
        return (
            f"{len(self.history.payments)} payments asked for, {silent} of them without an answer, "
            f"{len(final.transfers)} transfers: "
            + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            + f"; {len(self.history.readings)} readings of all balances, {len(final.events)} events"
        )


@asynccontextmanager
async def storm(mesh: Mesh, tenant: str, seed: int) -> AsyncIterator[Storm]:
    """A new tenant with accounts and money, an officer at work and a follower of its events."""
    rest.ensure_tenant(mesh.state, tenant)
    made = History(opening={})
    async with connect(mesh.state, f"localhost:{mesh.port}") as edge:
        load = Load(edge, tenant, seed, made)
        async with load.attended():
            await asyncio.to_thread(_open, mesh, tenant, made)
            await asyncio.wait_for(load.following.wait(), 20)
            yield Storm(mesh, load, made)


def _open(mesh: Mesh, tenant: str, made: History) -> None:
    """Accounts with money, and a rule that has large payments reviewed."""
    rule = {
        "expression": f"payment.amount_minor_units > {REVIEW_ABOVE}",
        "outcome": "RULE_OUTCOME_REVIEW",
        "enabled": True,
    }
    rest.call(mesh.state, "POST", "/v1/rules", {"ruleId": "large", "rule": rule}, tenant=tenant)
    for _ in range(ACCOUNTS):
        made.opening[mesh.account(funds=FUNDS, tenant=tenant)] = FUNDS


async def verified(under: Storm) -> None:
    """`florin verify` once all that is final has been so for as long as the invariants across services ask for; and the
    checker, which looked on all the while, has found nothing either."""
    await asyncio.sleep(max(under.final_at + SETTLED_SECONDS + 1 - time.monotonic(), 0))
    done = await asyncio.to_thread(under.mesh.florin, "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    await asyncio.to_thread(freezing.found_nothing, under.mesh, time.time())
