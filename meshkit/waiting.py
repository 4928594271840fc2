"""Waits for a sign that may come, at most for a while; it knows nothing of what the sign is for."""

from __future__ import annotations

import asyncio


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Waits until the event is set, or for so long."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
    except TimeoutError:
        return
