"""The parts that every service has alike: schema check, relay, consumers, purges; it knows none of them by name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sqlalchemy import text

from meshkit import migrations, retention
from meshkit.bus import Bus
from meshkit.database import Database
from meshkit.outbox import Relay
from meshkit.settings import ServiceSettings

_PURGE_SECONDS = 600


def checks(settings: ServiceSettings, db: Database) -> dict[str, Callable[[], Awaitable[None]]]:
    """Ready when the database answers and has the schema that this code is written for.

    NATS is no condition: without it payments go on and events wait in the outbox.
    """
    expected = migrations.head(settings.service)

    async def schema() -> None:
        async with db.probe.connect() as conn:
            present = (await conn.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()
        if present < expected:
            raise RuntimeError(f"the schema is {present}; this code needs {expected}: run migrate")

    return {"database": schema}


def workers(settings: ServiceSettings, db: Database, bus: Bus) -> dict[str, Callable[[], Awaitable[None]]]:
    """The relay of the outbox and the purge of what is past its retention."""
    relay = Relay(db, bus, retention_hours=settings.outbox_retention_hours)

    async def purge() -> None:
        while True:
            await retention.purge(
                db,
                inbox_hours=settings.inbox_retention_hours,
                requests_hours=settings.idempotency_retention_hours,
            )
            await asyncio.sleep(_PURGE_SECONDS)

    return {"relay": relay.run, "purge": purge}
