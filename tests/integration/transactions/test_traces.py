"""The trace of a payment's call: in the payment's events, however many payments share a batch with it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

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
