"""The watch over INV-8 on a table that takes longer to add up than any call may take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from compliance import app, screening_operations
from compliance.settings import Settings
from meshkit.database import Database
from tests.support import parts as real


async def test_a_watch_that_takes_long_is_not_cut_off(
    parts: real.Parts, compliance_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statements may take 100 ms here, and the sum takes 300: it is had all the same."""
    watched = asyncio.Event()

    async def slow(conn: Any, _now: Any) -> None:
        await conn.exec_driver_sql("SELECT pg_sleep(0.3)")
        watched.set()

    monkeypatch.setattr(screening_operations, "watch", slow)
    settings = real.settings_for(parts, Settings, compliance_database, database_statement_timeout_ms=100)
    async with Database.open(settings) as db:
        worker = asyncio.ensure_future(app._watch(db)())
        try:
            await asyncio.wait_for(watched.wait(), 5)
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
