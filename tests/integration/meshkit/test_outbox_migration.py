"""What stands in an outbox of the version before is published and purged as what comes later, and so is what that
version still writes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit.database import ALL_TENANTS, Database
from meshkit.outbox import OutboxRow, Relay
from notifications.settings import Settings
from tests.support import parts as real
from tests.support.parts import eventually, fresh_database, migrate, settings_for

_INSERT = (
    "INSERT INTO outbox"
    " (tenant, partition, event_id, subject, aggregate, version, time, traceparent, data, published_at)"
    " SELECT %s, 3, gen_random_uuid(), 's', %s, g, now(), '', '', {} FROM generate_series(%s::int, %s::int) AS g"
)


class Sink:
    """A broker's client that takes everything."""

    connections = 0

    def __init__(self) -> None:
        self.took: list[tuple[str, str, int]] = []

    async def publish_rows(self, rows: Sequence[OutboxRow]) -> list[Exception | None]:
        """Takes events."""
        self.took += [(row.tenant, row.aggregate, row.version) for row in rows]
        return [None] * len(rows)


async def test_an_outbox_of_before_goes_on(parts: real.Parts) -> None:
    """Published long ago: gone with the first purge. Published a moment ago: told again, once. Not yet published, or
    written by the version before after the migration: published, in their order."""
    database = fresh_database(parts, "notifications", "0001")
    async with Database.open(settings_for(parts, Settings, database)) as db:

        async def write(aggregate: str, first: int, last: int, published_at: str, tenant: str = "a") -> None:
            async def work(conn: AsyncConnection) -> None:
                await conn.exec_driver_sql(_INSERT.format(published_at), (tenant, aggregate, first, last))

            await db.run(ALL_TENANTS, work)

        async def versions() -> list[tuple[str, int]]:
            async def work(conn: AsyncConnection) -> list[tuple[str, int]]:
                rows = await conn.exec_driver_sql("SELECT aggregate, version FROM outbox ORDER BY id")
                return [(row[0], row[1]) for row in rows]

            return await db.run(ALL_TENANTS, work, read_only=True)

        await write("old", 1, 3, "now() - interval '3 days'")
        await write("old", 1, 3, "now() - interval '3 days'", tenant="b")
        await write("fresh", 1, 2, "now()")
        await write("fresh", 3, 4, "NULL")
        migrate(parts, "notifications", database)
        await write("fresh", 5, 6, "NULL")
        sink = Sink()
        relay = asyncio.create_task(Relay(db, sink, retention_hours=48).run())  # type: ignore[arg-type]
        try:
            await eventually(lambda: _is(versions, [("fresh", version) for version in range(1, 7)]), 20)
            await eventually(lambda: _took(sink, 6), 20)
        finally:
            relay.cancel()
            await asyncio.gather(relay, return_exceptions=True)
    assert sink.took == [("a", "fresh", version) for version in range(1, 7)]


async def _is(versions: object, wanted: object) -> bool:
    return await versions() == wanted  # type: ignore[operator]


async def _took(sink: Sink, count: int) -> bool:
    return len(sink.took) >= count
