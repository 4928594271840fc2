"""What the readiness check says of a database that is busy, and of one that is away."""

from __future__ import annotations

import asyncio

import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.settings import Settings
from meshkit import health
from meshkit import parts as kit
from meshkit.database import Database
from tests.support import parts as real
from tests.support.parts import fresh_database, settings_for


async def _told(_ready: bool) -> None:
    """Nobody listens."""


def _allow(parts: real.Parts, database: str, *, connections: bool) -> None:
    """Lets a database take connections, or ends all that there are and takes none."""
    with psycopg.connect(parts.postgres.admin_dsn("postgres"), autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS {connections}'.encode())
        if not connections:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,))


async def test_a_busy_service_is_ready_and_one_without_its_database_is_not(parts: real.Parts) -> None:
    """All connections are in use for longer than the check waits: out of the balancer, the replica would only give
    its load to the others, which would follow it. Without the database it is not ready."""
    name = fresh_database(parts, "accounts")
    settings = settings_for(parts, Settings, name, database_pool_size=2)
    async with Database.open(settings) as db:
        busy = asyncio.Event()

        async def slow(conn: AsyncConnection) -> None:
            await conn.exec_driver_sql("SELECT 1")
            busy.set()
            await conn.exec_driver_sql("SELECT pg_sleep(3)")

        readiness = health.Readiness(kit.checks(settings, db), _told)
        holding = [asyncio.create_task(db.run("t", slow)) for _ in range(2)]
        await busy.wait()
        await readiness.refresh()
        assert readiness.failures == {}
        await asyncio.gather(*holding)
        _allow(parts, name, connections=False)
        await readiness.refresh()
        assert set(readiness.failures) == {"database"}
        _allow(parts, name, connections=True)
        await readiness.refresh()
        assert readiness.failures == {}
