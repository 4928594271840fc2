"""Many rows: what is past its retention goes as fast as it comes, and a long backlog is relayed batch by batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.settings import Settings
from meshkit import outbox, retention
from meshkit.database import ALL_TENANTS, Database
from meshkit.outbox import OutboxRow, Relay
from tests.support import parts as real
from tests.support.parts import eventually, fresh_database, settings_for

OLD, YOUNG = 25_000, 40
_FILL = """
INSERT INTO outbox (tenant, partition, event_id, subject, aggregate, version, time, traceparent, data)
SELECT 't', g %% 16, gen_random_uuid(), 'florin.accounts.journal_posted.v1', 'journals/' || g, 1, now(), '', ''::bytea
    FROM generate_series(%s::integer, %s::integer) AS g
"""
_PUBLISHED = """
WITH gone AS (DELETE FROM outbox_waiting RETURNING partition, id)
INSERT INTO outbox_rounds (tenant, published_at, partitions, ids)
SELECT 't', now() - %s::interval, array_agg(partition), array_agg(id) FROM gone GROUP BY id / 100
"""


class Sink:
    """A broker's client that takes everything and keeps nothing."""

    connections = 0

    async def publish_rows(self, rows: Sequence[OutboxRow]) -> list[Exception | None]:
        """Takes events."""
        return [None] * len(rows)


@pytest.fixture(scope="module")
def database(parts: real.Parts) -> str:
    """A database of accounts."""
    return fresh_database(parts, "accounts")


@pytest.fixture
async def db(parts: real.Parts, database: str) -> AsyncIterator[Database]:
    """The database, its tables of the kit empty."""
    async with Database.open(settings_for(parts, Settings, database)) as opened:
        for table in ("outbox", "outbox_waiting", "outbox_rounds", "inbox", "requests"):
            await _execute(opened, f"DELETE FROM {table}")
        yield opened


async def test_the_outbox_loses_what_is_past_its_retention_at_once(db: Database) -> None:
    """More than one purge's worth is gone within moments, not ten thousand rows a minute; what is younger stays."""
    for first, last, age in ((1, OLD, "2 hours"), (OLD + 1, OLD + YOUNG, "0")):
        await _execute(db, _FILL, (first, last))
        await _execute(db, _PUBLISHED, (age,))
    relay = asyncio.create_task(Relay(db, Sink(), retention_hours=1).run())  # type: ignore[arg-type]
    try:
        await eventually(lambda: _is(db, "SELECT count(*) FROM outbox", YOUNG), 30)
    finally:
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)


async def test_inbox_and_requests_lose_what_is_past_their_retention_in_one_purge(db: Database) -> None:
    """However many there are, and in two replicas at once; what is younger stays."""
    for first, last, age in ((1, OLD, "2 hours"), (OLD + 1, OLD + YOUNG, "1 minute")):
        await _execute(
            db,
            "INSERT INTO inbox (tenant, source, aggregate, version, update_time)"
            f" SELECT 't', 's', g::text, 1, now() - interval '{age}' FROM generate_series(%s::int, %s::int) AS g",
            (first, last),
        )
        await _execute(
            db,
            "INSERT INTO requests (tenant, subject, method, request_id, fingerprint, create_time)"
            f" SELECT 't', 's', 'm', g::text, '', now() - interval '{age}' FROM generate_series(%s::int, %s::int) AS g",
            (first, last),
        )
    await asyncio.gather(*(retention.purge(db, inbox_hours=1, requests_hours=1) for _ in range(2)))
    assert await _is(db, "SELECT count(*) FROM inbox", YOUNG)
    assert await _is(db, "SELECT count(*) FROM requests", YOUNG)


async def test_a_batch_for_the_broker_reads_no_more_rows_the_more_of_them_wait(db: Database) -> None:
    """60,000 events wait: a few batches are looked at in all, by the index, and one is taken."""
    await _execute(db, _FILL, (1, 60_000))

    async def work(conn: AsyncConnection) -> Any:
        await conn.exec_driver_sql(outbox.IN_ORDER.replace("false", "true"))
        explained = await conn.exec_driver_sql(
            "EXPLAIN (ANALYZE, FORMAT JSON) " + outbox._TAKE, (list(range(outbox.PARTITIONS)), 125)
        )
        return explained.scalar_one()

    (explained,) = await db.run(ALL_TENANTS, work, read_only=True)
    assert _rows_read(explained["Plan"]) <= outbox.PARTITIONS * 125 + 500


def _rows_read(node: dict[str, Any]) -> int:
    """The rows that a plan looked at."""
    own = 0
    if node.get("Relation Name") in ("outbox", "outbox_waiting"):
        own = int(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)))
    return own + sum(_rows_read(child) for child in node.get("Plans", ()))


async def _execute(db: Database, statement: str, parameters: tuple[object, ...] = ()) -> None:
    async def work(conn: AsyncConnection) -> None:
        await conn.exec_driver_sql(statement, parameters)

    await db.run(ALL_TENANTS, work)


async def _is(db: Database, statement: str, value: int) -> bool:
    async def work(conn: AsyncConnection) -> int:
        return int((await conn.exec_driver_sql(statement)).scalar_one())

    return await db.run(ALL_TENANTS, work, read_only=True) == value
