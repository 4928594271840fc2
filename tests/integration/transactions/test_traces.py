"""The trace of a payment's call: in the payment's events, however many payments share a batch with it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from meshkit import identity
from tests.integration.transactions.conftest import Replica
from tests.unit.transactions.making import transfer


def _trace(number: int) -> str:
    return f"00-{number:032x}-00f067aa0ba902b7-01"


async def test_each_transfers_events_carry_the_trace_of_its_own_call(replica: Replica) -> None:
    """Thirty payments at once, one without a trace: nobody's events are told as another's."""
    traces = ["", *(_trace(number) for number in range(1, 30))]
    orders = [replace(transfer(amount=10), traceparent=trace) for trace in traces]
    await asyncio.gather(*(replica.create(order) for order in orders))
    for order, trace in zip(orders, traces, strict=True):
        rows = await replica.query(f"SELECT traceparent FROM outbox WHERE aggregate = '{order.name}'")
        assert [row[0] for row in rows] == [trace, trace]


async def test_a_pass_continues_the_trace_of_its_payment_whatever_its_intent_was_recorded_with(
    replica: Replica,
) -> None:
    """A new payment and a copy of an old one are recorded together; what follows is the new one's alone."""
    old = transfer(amount=10)
    await replica.create(old)
    seen: list[str] = []
    screen = replica.screening.screen

    async def watched(transfers, *, validate_only=False):  # type: ignore[no-untyped-def]
        seen.append(identity.traceparent())
        return await screen(transfers, validate_only=validate_only)

    replica.screening.screen = watched  # type: ignore[method-assign]
    new = replace(transfer(amount=10), traceparent=_trace(1))
    await asyncio.gather(replica.create(new), replica.create(replace(old, traceparent=_trace(2))))
    assert seen == [_trace(1)]
