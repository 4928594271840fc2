"""A transfer that another service fails at holds up nobody who shares a batch with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from meshkit.errors import Failed
from tests.integration.transactions.conftest import Replica
from tests.unit.transactions.making import transfer
from transactions import saga
from transactions.model import State, Transfer


@pytest.mark.parametrize("part", ["accounts", "compliance"])
async def test_what_a_service_fails_at_holds_up_no_other_transfer(
    replica: Replica, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call with the poison among its items fails, as one answer cannot say for which; the others are paid, by the
    callers' pass or by recovery's, also where the deployment lets stand-in decisions pass."""
    replica.passes._settings = replica.settings.model_copy(
        update={"screening_posture": "stand-in", "stand_in_maximum": {"EUR": 9_000_000}}
    )
    poison = transfer(amount=13)
    target, name = (replica.ledger, "post") if part == "accounts" else (replica.screening, "screen")
    ask = getattr(target, name)

    async def fails(items: Sequence[Any], **options: Any) -> list[Any]:
        asked: list[Transfer] = [item[0] if isinstance(item, tuple) else item for item in items]
        healthy = [item for item, one in zip(items, asked, strict=True) if one.id != poison.id]
        outcomes: list[Any] = await ask(healthy, **options)  # what could be done was done
        if len(healthy) < len(items):
            raise Failed(part)
        return outcomes

    monkeypatch.setattr(target, name, fails)
    orders = [transfer(amount=10) for _ in range(40)]
    await asyncio.gather(*(replica.create(order) for order in (*orders[:20], poison, *orders[20:])))
    await replica.hurry()
    await replica.recovery.before_ready()
    assert {(await replica.row(order)).state for order in orders} == {State.COMPLETED}
    assert not (await replica.row(poison)).is_final
    monkeypatch.undo()
    await replica.hurry()
    await replica.recovery.before_ready()
    assert (await replica.row(poison)).state is State.COMPLETED


async def test_what_this_service_fails_at_holds_up_no_other_transfer(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken invariant of one transfer is an alarm, and the worker goes on with those that it took with it."""
    replica.screening.faults.down = True
    poison, orders = transfer(amount=13), [transfer(amount=10) for _ in range(40)]
    await asyncio.gather(*(replica.create(order) for order in (*orders[:20], poison, *orders[20:])))
    replica.screening.faults.down = False
    after = saga.after

    def fails(one: Transfer, answer: saga.Answer) -> State:
        if one.id == poison.id:
            raise saga.ImpossibleAnswer("poison")
        return after(one, answer)

    monkeypatch.setattr(saga, "after", fails)
    await replica.hurry()
    worker = asyncio.create_task(replica.recovery.run())
    try:
        for order in orders:
            assert (await replica.transfers.wait(order.principal, order.id, 10)).state is State.COMPLETED
        assert not worker.done()
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    assert not (await replica.row(poison)).is_final
