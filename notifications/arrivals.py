"""Tells waiting streams that there may be something new; a hint only, it must not carry data."""

from __future__ import annotations

import asyncio


class Arrivals:
    """Wakes everybody who waits, once each."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def announce(self) -> None:
        """There is something new."""
        self._next.set()
        self._next = asyncio.Event()

    def upcoming(self) -> asyncio.Event:
        """What the next announcement sets. Take it before you look, wait for it after: nothing is missed between."""
        return self._next
