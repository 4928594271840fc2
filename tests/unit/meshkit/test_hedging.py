"""Second calls: made when the first hangs, never instead of it, and no more of them than the budget has."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from meshkit.hedging import Budget, hedged


class Refused(Exception):
    """An answer that another attempt would get too."""


class Lost(Exception):
    """No answer; another attempt may get one."""


def attempts(*outcomes: Awaitable[str]) -> tuple[Callable[[], Awaitable[str]], list[int]]:
    """Attempts that end as told, one after the other, and the numbers of those that were made."""
    made: list[int] = []
    numbers = itertools.count()

    async def attempt() -> str:
        number = next(numbers)
        made.append(number)
        return await outcomes[number]

    return attempt, made


async def _hedged(attempt: Callable[[], Awaitable[str]], budget: Budget | None = None) -> str:
    return await hedged(
        attempt,
        after_s=0.02,
        budget=budget or Budget(),
        another_may_differ=lambda error: isinstance(error, Lost),
    )


async def _after(seconds: float, outcome: str | Exception) -> str:
    await asyncio.sleep(seconds)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def test_an_answer_in_time_is_asked_for_once() -> None:
    """The ordinary case costs no second call."""
    attempt, made = attempts(_after(0, "first"))
    assert await _hedged(attempt) == "first"
    assert made == [0]


async def test_a_call_that_hangs_is_answered_by_the_second() -> None:
    """The first one stands still for good, and is cancelled when the second one was answered."""
    hanging = asyncio.get_running_loop().create_future()
    attempt, made = attempts(hanging, _after(0, "second"))
    assert await _hedged(attempt) == "second"
    assert made == [0, 1]
    await asyncio.sleep(0)
    assert hanging.cancelled()


async def test_a_slow_call_is_not_given_up_for_the_second() -> None:
    """The first one answers while the second one hangs."""
    hanging = asyncio.get_running_loop().create_future()
    attempt, made = attempts(_after(0.05, "first"), hanging)
    assert await _hedged(attempt) == "first"
    assert made == [0, 1]


async def test_a_lost_call_waits_for_the_other_and_a_refusal_does_not() -> None:
    """The second one's loss says nothing about the first; its refusal does."""
    attempt, _ = attempts(_after(0.06, "first"), _after(0, Lost()))
    assert await _hedged(attempt) == "first"
    hanging = asyncio.get_running_loop().create_future()
    attempt, _ = attempts(hanging, _after(0, Refused()))
    with pytest.raises(Refused):
        await _hedged(attempt)


async def test_a_quick_failure_is_no_reason_to_ask_again() -> None:
    """Whoever is refused at once knows it at once; and two failures are one."""
    attempt, made = attempts(_after(0, Lost()))
    with pytest.raises(Lost):
        await _hedged(attempt)
    assert made == [0]
    attempt, made = attempts(_after(0.04, Lost()), _after(0.04, Lost()))
    with pytest.raises(Lost):
        await _hedged(attempt)
    assert made == [0, 1]


async def test_the_budget_bounds_second_calls() -> None:
    """A service that is slow for all does not get twice the calls: after the reserve it is one for five."""
    budget = Budget()
    second = 0
    for _ in range(200):
        budget.earn()
        second += budget.spend()
    assert second <= Budget.MOST + 200 * Budget.PER_CALL


async def test_a_cancelled_caller_leaves_no_call_behind() -> None:
    """Both attempts are cancelled with it."""
    hanging = [asyncio.get_running_loop().create_future() for _ in range(2)]
    attempt, made = attempts(*hanging)
    caller = asyncio.create_task(_hedged(attempt))
    while len(made) < 2:
        await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.sleep(0)
    assert all(future.cancelled() for future in hanging)
