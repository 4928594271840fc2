"""A process that makes load: reads a world and then orders from stdin, a line each, and answers each with its tally.

It must not print anything else. It is a process of its own so that its CPU can be told from the mesh's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import uvloop

from bench.calls import Call, Calls, Unfinished
from bench.load import Order, World

_REFUSED_MAX = 2000
"""More refusals than this mean that something is broken: the load ends early, and the report shows them."""


@dataclass(slots=True)
class _Run:
    """One load on its way."""

    call: Call
    begin: float
    """When the measured time begins; before it is the warm-up."""
    end: float
    items: int = 0
    measured: int = 0
    latencies_us: list[int] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    async def once(self, caller: int, due: float) -> None:
        """One call; its time counts from when it was due."""
        try:
            count = await self.call(caller)
        except grpc.aio.AioRpcError as error:
            self.refused[f"{error.code().name}: {error.details()}"[:120]] += 1
            if self.refused.total() > _REFUSED_MAX:
                self.end = 0.0
            return
        except Unfinished as unfinished:
            self.refused[str(unfinished)[:120]] += 1
            return
        now = _now()
        self.items += count
        if self.begin <= now <= self.end:
            self.measured += count
            self.latencies_us.append(int((now - due) * 1_000_000))

    async def closed(self, caller: int) -> None:
        """Calls one after the other."""
        while (now := _now()) < self.end:
            await self.once(caller, now)

    async def open(self, rate: float, callers: int, chance: random.Random) -> None:
        """Calls when they are due, at random with this many a second on average."""
        due, number = _now(), 0
        async with asyncio.TaskGroup() as calls:
            while due < self.end:
                await asyncio.sleep(due - _now())
                calls.create_task(self.once(number % callers, due))
                due += chance.expovariate(rate)
                number += 1


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _answer(calls: Calls, order: Order, chance: random.Random) -> dict[str, Any]:
    begin = _now() + order.warm_seconds
    run = _Run(calls.of(order.kind, order.batch), begin, begin + order.seconds)
    if order.rate:
        await run.open(order.rate, order.callers, chance)
    else:
        await asyncio.gather(*(run.closed(caller) for caller in range(order.callers)))
    return {
        "items": run.items,
        "measured": run.measured,
        "seconds": order.seconds,
        "latencies_us": run.latencies_us,
        "refused": run.refused,
    }


async def main() -> None:
    """Until stdin ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    described: dict[str, Any] = json.loads(await reader.readline())
    world = World(
        described["target"],
        described["ca"],
        tuple(described["tokens"]),
        tuple(described["accounts"]),
        tuple(described["names"]),
    )
    credentials = grpc.ssl_channel_credentials(root_certificates=Path(world.ca).read_bytes())
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.max_receive_message_length", 16 * 1024 * 1024)]
    chance = random.Random(1)
    async with grpc.aio.secure_channel(world.target, credentials, options=options) as channel:
        calls = Calls(world, channel, chance)
        while line := await reader.readline():
            answer = await _answer(calls, Order(**json.loads(line)), chance)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())
