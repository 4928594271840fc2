"""Removes events past their retention, a bounded number at a time; it must not touch anything younger."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit.database import ALL_TENANTS, Database
from meshkit.errors import Overloaded
from notifications import operations

_BATCH = 5_000  # with a few endpoints some hundred milliseconds: no long wait for a writer
_SECONDS = 60.0


async def purge_once(db: Database, retention_hours: float, at_most: int = _BATCH) -> int:
    """Removes everything that is due now, so many events in a transaction; gives how many events went.

    Each event takes its deliveries along: with many endpoints, fewer events fit into the time of a statement.
    """
    total = 0
    while True:

        async def work(conn: AsyncConnection, at_most: int = at_most) -> int:
            return await operations.purge_events(conn, keep_seconds=retention_hours * 3600, at_most=at_most)

        try:
            gone = await db.run(ALL_TENANTS, work, long=True)
        except Overloaded:
            if at_most == 1:
                raise
            at_most = max(at_most // 4, 1)
            continue
        total += gone
        if gone < at_most:
            return total


async def run(db: Database, retention_hours: float) -> None:
    """Purges once a minute until it is cancelled."""
    while True:
        await purge_once(db, retention_hours)
        await asyncio.sleep(_SECONDS)
