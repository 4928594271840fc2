"""The time that is left for an answer."""

from __future__ import annotations

import asyncio
import time

import pytest

from transactions.orders import ANSWER_BEFORE_DEADLINE_SECONDS, _InTime


async def _answer(seconds: float, work: asyncio.Future[str]) -> str:
    async with _InTime(time.monotonic() + ANSWER_BEFORE_DEADLINE_SECONDS + seconds):
        return await work
    return "late"


@pytest.mark.parametrize("seconds", [0.01, 0.0, -1.0])
async def test_what_takes_too_long_is_ended_and_the_rest_is_done(seconds: float) -> None:
    """Also when the time was over before."""
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    assert await _answer(seconds, work) == "late"
    assert work.cancelled()


async def test_what_comes_in_time_is_the_answer() -> None:
    """Nothing is ended."""
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(work.set_result, "there")
    assert await _answer(30, work) == "there"


async def test_a_timeout_from_within_is_not_taken_for_ours() -> None:
    """Something else took too long: that is a failure, not a late answer."""
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    work.set_exception(TimeoutError("a lock"))
    with pytest.raises(TimeoutError, match="a lock"):
        await _answer(30, work)


async def test_a_caller_that_goes_away_gets_no_answer() -> None:
    """Its cancellation goes on."""
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    caller = asyncio.create_task(_answer(30, work))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
