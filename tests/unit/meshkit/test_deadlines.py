"""How long a call may take: its caller's time, the contract's at most, and what earlier attempts left of it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshkit import interceptors
from meshkit.errors import DeadlineTooShort
from meshkit.interceptors import Exchange


async def budget(remaining: float | None, deadline_ms: int = 4000, **metadata: str) -> float:
    """The seconds that a call is given, of a method with a deadline."""
    method: Any = SimpleNamespace(policy=SimpleNamespace(deadline_ms=deadline_ms))
    context = SimpleNamespace(time_remaining=lambda: remaining)
    named = {name.replace("_", "-"): value for name, value in metadata.items()}
    exchange = Exchange(method, context, named, None)
    started = time.monotonic()
    await interceptors.check_deadline(cast(Any, None), exchange)
    return exchange.deadline - started


@pytest.mark.parametrize(("remaining", "seconds"), [(None, 4.0), (1.0, 1.0), (30.0, 4.0)])
async def test_a_call_has_its_callers_time_and_the_contracts_at_most(remaining: float | None, seconds: float) -> None:
    """A caller may want less, never more."""
    assert await budget(remaining) == pytest.approx(seconds, abs=0.05)


@pytest.mark.parametrize(
    ("attempt", "remaining", "seconds"),
    [
        ("1", None, 4.0),
        ("2", None, 3.0),
        ("3", 4.0, 2.0),
        ("2", 2.0, 1.0),
        ("3", 1.0, 0.25),
        ("3", 0.1, 0.1),
        ("x", 4.0, 4.0),
    ],
)
async def test_a_further_attempt_has_what_the_earlier_ones_left(
    attempt: str, remaining: float | None, seconds: float
) -> None:
    """The edge begins one each quarter of the contract's deadline and sends the caller's whole time with each."""
    assert await budget(remaining, x_envoy_attempt_count=attempt) == pytest.approx(seconds, abs=0.05)


async def test_nothing_is_begun_that_cannot_be_finished() -> None:
    """A millisecond is refused as too short."""
    with pytest.raises(DeadlineTooShort):
        await budget(0.001)


async def test_a_stream_without_a_limit_has_its_callers() -> None:
    """Which may be none."""
    assert await budget(None, deadline_ms=0) == float("inf")
