"""Removes events past their retention, a bounded number at a time; it must not touch anything younger."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit.database import ALL_TENANTS, Database
from notifications import operations

_BATCH = 5_000  # some hundred milliseconds: below the statement timeout, and no long wait for a writer
_SECONDS = 60.0


async def purge_once(db: Database, retention_hours: float) -> int:
    """Removes everything that is due now; gives how many events went."""

    async def work(conn: AsyncConnection) -> int:
        return await operations.purge_events(conn, keep_seconds=retention_hours * 3600, at_most=_BATCH)

    total = 0
    while True:
        gone = await db.run(ALL_TENANTS, work)
        total += gone
        if gone < _BATCH:
            return total


async def run(db: Database, retention_hours: float) -> None:
    """Purges once a minute until it is cancelled."""
    while True:
        await purge_once(db, retention_hours)
        await asyncio.sleep(_SECONDS)
