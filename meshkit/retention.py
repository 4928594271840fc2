"""Removes what the settings keep no longer: what was seen of others' events, and answers to requests."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit.database import ALL_TENANTS, Database

_PURGE_ROWS = 10_000  # in one transaction


async def purge(db: Database, *, inbox_hours: float, requests_hours: float) -> None:
    """Removes inbox rows and answers to request_ids that are older than what the settings keep, all of them."""
    for table, key, time_column, hours in (
        ("inbox", "tenant, source, aggregate", "update_time", inbox_hours),
        ("requests", "tenant, subject, method, request_id", "create_time", requests_hours),
    ):
        # What another replica purges at this moment is left to it.
        statement = (
            f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table}"  # noqa: S608 - constants
            f" WHERE {time_column} < now() - make_interval(secs => %s) LIMIT %s FOR UPDATE SKIP LOCKED)"
        )

        async def work(conn: AsyncConnection, statement: str = statement, hours: float = hours) -> int:
            return (await conn.exec_driver_sql(statement, (hours * 3600, _PURGE_ROWS))).rowcount

        while await db.run(ALL_TENANTS, work, long=True) == _PURGE_ROWS:
            pass
