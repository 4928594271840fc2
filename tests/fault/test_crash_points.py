"""A process dies at each point between two steps of the money path, while every kind of payment is made."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from florin.accounts.v1 import account_service_pb2
from florin.transactions.v1 import transfer_service_pb2
from local import rest
from local.client import Session, connect
from local.verify import SETTLED_SECONDS
from tests.support import crashes, scenes
from tests.support import mesh as whole
from tests.support.load import REVIEW_ABOVE, state_of
from tests.support.parts import eventually
from tests.support.scenes import Scenes

REPLICAS = {"transactions": 3, "accounts": 2, "compliance": 2}
AT_ONCE = {"transactions": 4, "compliance": 2}
"""How many points of a service are armed at once, where it has more of them than others; else one."""
CALLERS = 10
ACCOUNTS = 6
FUNDS = 1_000_000_00
POINT_SECONDS = 45.0
FINAL_SECONDS = 60.0
"""After the last death every scene has come to its end within this."""
LEASE = {"TRANSACTIONS_RECOVERY_LEASE_MS": "1500"}
"""Shorter than by default: here so much dies that what is left behind would wait for most of the time."""
CRASHING = Path(crashes.__file__).with_name("crashing")


@pytest.fixture(scope="module")
def armed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a file for each point that is armed."""
    return tmp_path_factory.mktemp("armed")


@pytest.fixture(scope="module")
def mesh(armed: Path) -> Iterator[whole.Mesh]:
    """A mesh whose processes may die at the points. It starts them again at once, however often they died."""
    path = os.pathsep.join([str(CRASHING), *filter(None, [os.environ.get("PYTHONPATH")])])
    scale = [part for service, count in REPLICAS.items() for part in ("--scale", f"{service}={count}")]
    with whole.running(*scale, environment={**LEASE, "PYTHONPATH": path, crashes.VARIABLE: str(armed)}) as started:
        yield started


def waves(seed: int) -> list[list[str]]:
    """All points in an order of the seed, some of each service at once."""
    chance = random.Random(f"{seed}-points")
    left = {service: chance.sample(points, len(points)) for service in REPLICAS if (points := crashes.points(service))}
    drawn = []
    while any(left.values()):
        drawn.append([p for service, points in left.items() for p in points[: AT_ONCE.get(service, 1)]])
        left = {service: points[AT_ONCE.get(service, 1) :] for service, points in left.items()}
    return drawn


@pytest.mark.timeout(400)
async def test_a_death_at_any_point_leaves_every_payment_with_one_end(
    mesh: whole.Mesh, armed: Path, seed: int, notes: list[str]
) -> None:
    """Before and after each commit, each call between services and each step of an event's way: every payment comes to
    the end that it has to, which it keeps, the balances are what these ends make of them, and every invariant holds."""
    tenant, began = f"points-{seed}", time.monotonic()
    async with connect(mesh.state, f"localhost:{mesh.port}") as edge:
        accounts, poor = await asyncio.to_thread(_open, mesh, tenant)
        played = Scenes(edge, tenant, accounts, poor, seed)
        died = 0
        with scenes.playing(played, CALLERS) as end:
            for wave in waves(seed):
                await _die_at(armed, wave)
                died += len(wave)
            await asyncio.wait_for(end(), FINAL_SECONDS)
        settled = time.monotonic()
        session = edge.session("teller", tenant=tenant)
        assert await _states(session) == played.ends
        assert await _balances(session) == {
            **{account: (FUNDS + played.moved[account], 0) for account in accounts},
            poor: (played.moved[poor], 0),
        }
    await asyncio.sleep(max(settled + SETTLED_SECONDS + 1 - time.monotonic(), 0))
    done = await asyncio.to_thread(mesh.florin, "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(played.played.values())
    notes.append(f"{died} deaths at as many points in {settled - began:.0f} s, amid {count} scenes")


async def _die_at(armed: Path, points: list[str]) -> None:
    """Arms points and waits until a process died at each."""
    for point in points:
        (armed / point).touch()

    async def reached() -> bool:
        return not any((armed / point).exists() for point in points)

    try:
        await eventually(reached, POINT_SECONDS)
    except AssertionError:
        left = [point for point in points if (armed / point).exists()]
        raise AssertionError(f"no process came to {left}") from None


def _open(mesh: whole.Mesh, tenant: str) -> tuple[list[str], str]:
    """Accounts with money and one without, and a rule that has large payments reviewed."""
    rest.ensure_tenant(mesh.state, tenant)
    rule = {
        "expression": f"payment.amount_minor_units > {REVIEW_ABOVE}",
        "outcome": "RULE_OUTCOME_REVIEW",
        "enabled": True,
    }
    rest.call(mesh.state, "POST", "/v1/rules", {"ruleId": "large", "rule": rule}, tenant=tenant)
    accounts = [mesh.account(funds=FUNDS, tenant=tenant) for _ in range(ACCOUNTS)]
    return accounts, mesh.account(tenant=tenant)


async def _states(session: Session) -> dict[str, str]:
    """All transfers of the tenant and their states."""
    found: dict[str, str] = {}
    token = ""
    while True:
        asked = transfer_service_pb2.ListTransfersRequest(page_size=1000, page_token=token)
        page = await session.call(session.transfers.ListTransfers, asked)
        found |= {one.name: state_of(one) for one in page.transfers}
        token = page.next_page_token
        if not token:
            return found


async def _balances(session: Session) -> dict[str, tuple[int, int]]:
    """Account → posted and held, of customers' accounts."""
    asked = account_service_pb2.ListAccountsRequest(page_size=1000)
    page = await session.call(session.accounts.ListAccounts, asked)
    return {
        one.name: (one.balance.posted.minor_units, one.balance.held.minor_units)
        for one in page.accounts
        if one.customers
    }
