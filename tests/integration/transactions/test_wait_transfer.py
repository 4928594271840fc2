"""WaitTransfer: told at once, looked at seldom, sent away by a drain."""

from __future__ import annotations

import asyncio
import time
from unittest import mock

from tests.integration.transactions.conftest import Replica
from tests.unit.transactions.making import TELLER, transfer
from transactions.model import State, Transfer


async def _pending(replica: Replica) -> Transfer:
    replica.screening.faults.down = True
    return await replica.create(transfer())


async def test_a_long_wait_looks_seldom(replica: Replica) -> None:
    """Whoever waits for a service that is down does not keep the database busy."""
    order = await _pending(replica)
    with mock.patch.object(replica.transfers, "get", wraps=replica.transfers.get) as get:
        assert (await replica.transfers.wait(TELLER, order.id, 3)).state is State.ACCEPTED
    assert get.call_count <= 9


async def test_a_drain_answers_those_who_wait_with_the_present_state(replica: Replica) -> None:
    """A stop need not wait for them, and nobody is cut off."""
    order = await _pending(replica)
    waiting = asyncio.create_task(replica.transfers.wait(TELLER, order.id, 30))
    while not replica.waiters._waiting:
        await asyncio.sleep(0)
    began = time.monotonic()
    await replica.waiters.drain()
    assert (await waiting).state is State.ACCEPTED
    assert (await replica.transfers.wait(TELLER, order.id, 30)).state is State.ACCEPTED
    assert time.monotonic() - began < 10
