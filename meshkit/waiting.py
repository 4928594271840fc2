"""Waits for a sign that may come, at most for a while, or for the end of work that must not be cut off; it knows
nothing of what either is for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Waits until the event is set, or for so long."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
    except TimeoutError:
        return


async def finished[T](work: Coroutine[Any, Any, T]) -> T:
    """What work comes to. Where its caller is cancelled it is finished first: what it needs is closed after that."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
