"""What load is asked for and what came of it, and the processes that make it; it must not know what a call does."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_LINE_BYTES_MAX = 64 * 1024 * 1024
_SPARE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class World:
    """Where calls go, who makes them, and between which accounts."""

    target: str
    ca: str
    tokens: tuple[str, ...]
    """One a subject: the edge bounds the rate of a subject, and one subject's bound is not what is measured."""
    accounts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Of the accounts' owners, in the same order."""


@dataclass(frozen=True, slots=True)
class Order:
    """One load. With `rate` it is open: calls begin when they are due, whatever became of those before."""

    kind: str
    callers: int
    seconds: float
    warm_seconds: float = 0.0
    rate: float = 0.0
    """Calls a second of all processes together; 0 for a closed loop."""
    batch: int = 1


@dataclass(slots=True)
class Tally:
    """What came of a load."""

    items: int = 0
    """Done in all, with those before and after the measured time."""
    measured: int = 0
    """Done within the measured time."""
    seconds: float = 0.0
    latencies_us: list[int] = field(default_factory=list)
    """Of each call that ended within the measured time; of an open load, from when it was due."""
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, other: dict[str, Any]) -> None:
        """Adds what one process did."""
        self.items += other["items"]
        self.measured += other["measured"]
        self.seconds = max(self.seconds, other["seconds"])
        self.latencies_us += other["latencies_us"]
        self.refused.update(other["refused"])

    @property
    def per_second(self) -> float:
        """Items a second."""
        return self.measured / self.seconds if self.seconds else 0.0

    def percentile_ms(self, share: float) -> float:
        """The time within which a share of the calls was answered, in ms; not a number without any."""
        ordered = sorted(self.latencies_us)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] / 1000 if ordered else float("nan")


class Generators:
    """Processes that make load; each has one connection to the edge and keeps it."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [process.pid for process in self._processes]

    async def run(self, order: Order) -> Tally:
        """Makes one load, its callers shared out evenly. Raises RuntimeError when a process ends or is not answered."""
        share, rest = divmod(order.callers, len(self._processes))
        counts = [share + (number < rest) for number in range(len(self._processes))]
        tally = Tally()
        answers = await asyncio.gather(
            *(
                self._ask(process, Order(**{**asdict(order), "callers": count, "rate": order.rate / len(counts)}))
                for process, count in zip(self._processes, counts, strict=True)
                if count
            )
        )
        for answer in answers:
            tally.add(answer)
        return tally

    @staticmethod
    async def _ask(process: asyncio.subprocess.Process, order: Order) -> dict[str, Any]:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a load generator has no pipes")
        process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        async with asyncio.timeout(order.warm_seconds + order.seconds + _SPARE_SECONDS):
            line = await process.stdout.readline()
        if not line:
            raise RuntimeError("a load generator ended; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def generators(world: World, count: int) -> AsyncIterator[Generators]:
    """So many processes, connected; gone afterwards."""
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.generator"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            limit=_LINE_BYTES_MAX,
        )
        for _ in range(count)
    ]
    try:
        for process in processes:
            if process.stdin is not None:
                process.stdin.write(json.dumps(asdict(world)).encode() + b"\n")
        yield Generators(processes)
    finally:
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
        await asyncio.gather(*(process.wait() for process in processes))
