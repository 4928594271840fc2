"""A replica that stands still in the middle of something, as one whose host is gone: others get what it held."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from unittest import mock

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.settings import Settings
from florin.accounts.v1 import events_pb2
from meshkit import clock, outbox
from meshkit.database import Database, execute, flush
from meshkit.errors import Overloaded
from meshkit.outbox import Event, OutboxRow, Relay
from tests.support import parts as real
from tests.support.parts import eventually, fresh_database, settings_for

TENANT = "standing-still"


@pytest.fixture
async def db(parts: real.Parts) -> AsyncIterator[Database]:
    """A database of accounts; statements may take 400 ms, and a transaction may stand still for 300."""
    settings = settings_for(parts, Settings, fresh_database(parts, "accounts"), database_statement_timeout_ms=400)
    async with Database.open(settings) as opened:
        yield opened


async def test_a_transaction_that_stood_still_is_run_again(db: Database) -> None:
    """The server ended it and gave its locks to others; the work is done once, by the second try."""
    tries = 0

    async def work(conn: AsyncConnection) -> int:
        nonlocal tries
        tries += 1
        await conn.exec_driver_sql("SELECT pg_advisory_xact_lock(1)")
        if tries == 1:
            await asyncio.sleep(0.6)  # the process is stopped, and goes on later
        await _append(conn, "customers/a")
        return tries

    assert await db.run(TENANT, work) == 2
    assert await _count(db) == 1


@pytest.mark.parametrize("in_pipeline", [False, True], ids=["between-statements", "in-a-pipeline"])
async def test_who_waits_for_the_locks_of_a_standstill_gets_them_in_time(db: Database, in_pipeline: bool) -> None:
    """Its locks are free before those who wait for them are refused; also where the server waits for the rest of a
    pipeline, which is neither a statement nor idle."""
    locked = asyncio.Event()

    async def stands_still(conn: AsyncConnection) -> None:
        cursor = await execute(conn, "SELECT pg_advisory_xact_lock(2)")
        if not in_pipeline:
            await flush(conn)
        await cursor.fetchone()
        if not locked.is_set():
            locked.set()
            await asyncio.sleep(3)

    async def waits(conn: AsyncConnection) -> bool:
        await conn.exec_driver_sql("SELECT pg_advisory_xact_lock(2)")
        return True

    first = asyncio.create_task(db.run(TENANT, stands_still))
    await locked.wait()
    assert await db.run(TENANT, waits)
    await first


async def test_a_statement_that_takes_too_long_is_refused_once(db: Database) -> None:
    """The server watches it also within a transaction's own bound. Run again, slow work would only add to the load
    that made it slow."""
    tries = 0

    async def slow(conn: AsyncConnection) -> None:
        nonlocal tries
        tries += 1
        await conn.exec_driver_sql("SELECT pg_sleep(3)")

    with pytest.raises(Overloaded):
        await db.run(TENANT, slow)
    assert tries == 1


class Standing:
    """A broker's client in a process that stands still: what it publishes never ends."""

    connections = 0

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def publish_rows(self, _rows: Sequence[OutboxRow]) -> list[Exception | None]:
        self.reached.set()
        await asyncio.Event().wait()
        return []


class Noting:
    """A broker's client that notes what it is given."""

    connections = 0

    def __init__(self) -> None:
        self.rows: list[OutboxRow] = []

    async def publish_rows(self, rows: Sequence[OutboxRow]) -> list[Exception | None]:
        self.rows.extend(rows)
        return [None] * len(rows)


async def test_the_partitions_of_a_relay_that_stands_still_go_to_another(db: Database) -> None:
    """Its session is ended, so that events do not wait until the operating system finds out about its host."""
    await db.run(TENANT, lambda conn: _append(conn, "customers/a", "customers/b"))
    standing, noting = Standing(), Noting()
    with mock.patch.object(outbox, "STANDSTILL_SECONDS", 1):
        first = asyncio.create_task(_relay(db, standing))
        await standing.reached.wait()
        second = asyncio.create_task(_relay(db, noting))
        try:

            async def told() -> bool:
                return len(noting.rows) >= 2

            await eventually(told, 10)
        finally:
            for task in (first, second):
                task.cancel()
            await asyncio.gather(first, second, return_exceptions=True)
    assert [row.aggregate for row in noting.rows] == ["customers/a", "customers/b"]


async def _relay(db: Database, bus: Any) -> None:
    """A relay as the kit runs it: begun again when it fails."""
    while True:
        with contextlib.suppress(Exception):
            await Relay(db, bus, retention_hours=1).run()
        await asyncio.sleep(0.1)


async def _append(conn: AsyncConnection, *aggregates: str) -> None:
    events = [
        Event(TENANT, aggregate, 1, events_pb2.CustomerCreated(customer=aggregate), clock.now())
        for aggregate in aggregates
    ]
    await outbox.append(conn, events)


async def _count(db: Database) -> int:
    async def work(conn: AsyncConnection) -> int:
        return int((await conn.exec_driver_sql("SELECT count(*) FROM outbox")).scalar_one())

    return await db.run(TENANT, work, read_only=True)
