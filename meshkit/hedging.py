"""Asks a second time while a call hangs, so that a replica that stands still is not felt; for idempotent calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from prometheus_client import Counter

SECOND_CALLS = Counter("florin_second_calls_total", "Calls made again while the first one hung.", ["service"])


class Budget:
    """How many second calls may be made: one for every five calls and some to begin with, so that a service which is
    slow because it has too much to do is not given twice as much."""

    PER_CALL = 0.2
    MOST = 20.0

    def __init__(self) -> None:
        self._left = self.MOST

    def earn(self) -> None:
        """A call was made."""
        self._left = min(self._left + self.PER_CALL, self.MOST)

    def spend(self) -> bool:
        """Whether a second call may be made; it is counted."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


async def hedged[T](
    attempt: Callable[[], Awaitable[T]],
    *,
    after_s: float,
    budget: Budget,
    another_may_differ: Callable[[BaseException], bool],
    on_second: Callable[[], None] = lambda: None,
) -> T:
    """The first answer of `attempt`, which is made once more when there is none after `after_s` seconds.

    Neither attempt is given up until one has answered. Raises what an attempt raised, unless the other one may still
    do better.
    """
    budget.earn()
    running = {asyncio.ensure_future(attempt())}
    try:
        done, running = await asyncio.wait(running, timeout=after_s)
        if running and budget.spend():
            on_second()
            running.add(asyncio.ensure_future(attempt()))
        lost: list[asyncio.Future[T]] = []
        while True:
            for answer in done:
                error = answer.exception()
                if error is None or not another_may_differ(error):
                    return answer.result()
                lost.append(answer)
            if not running:
                return lost[0].result()
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in running:
            task.cancel()
