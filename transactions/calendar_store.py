"""All SQL of holiday calendars; a calendar is locked before the schedules that go by it."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit.database import execute, fetch
from transactions.schedule import HolidayCalendar
from transactions.schedule_rows import CALENDAR_COLUMNS, calendar_from


async def get(conn: AsyncConnection, tenant: str, id_: str, *, lock: str = "") -> HolidayCalendar | None:
    """One calendar, locked as `lock` says ("FOR SHARE", "FOR UPDATE"); None when there is none."""
    statement = f"SELECT {CALENDAR_COLUMNS} FROM holiday_calendars WHERE tenant = %s AND id = %s {lock}"  # noqa: S608
    rows = await fetch(conn, statement, (tenant, id_))
    return calendar_from(rows[0]) if rows else None


async def present(conn: AsyncConnection, places: Collection[tuple[str, str]]) -> dict[tuple[str, str], HolidayCalendar]:
    """The calendars of (tenant, id)."""
    if not places:
        return {}
    rows = await fetch(
        conn,
        f"SELECT {CALENDAR_COLUMNS} FROM holiday_calendars"  # noqa: S608
        " JOIN unnest(%s::text[], %s::text[]) AS k(tenant, id) USING (tenant, id)",
        ([place[0] for place in places], [place[1] for place in places]),
    )
    return {(row[0], row[1]): calendar_from(row) for row in rows}


async def save(conn: AsyncConnection, calendar: HolidayCalendar) -> bool:
    """Writes a calendar over the version before it, which is locked, or adds the first; whether it was written. The
    schedules that go by it have to be told: it is spreading from then on."""
    rows = await fetch(
        conn,
        f"INSERT INTO holiday_calendars AS c ({CALENDAR_COLUMNS}, spreading)"  # noqa: S608
        " VALUES (%s, %s, %s, %s, %s::smallint[], %s::date[], %s::text[], %s, %s, true)"
        " ON CONFLICT (tenant, id) DO UPDATE SET version = excluded.version, display_name = excluded.display_name,"
        " weekend_days = excluded.weekend_days, holidays = excluded.holidays, holiday_names = excluded.holiday_names,"
        " update_time = excluded.update_time, spreading = true WHERE c.version = excluded.version - 1 RETURNING 1",
        (
            calendar.tenant,
            calendar.id,
            calendar.version,
            calendar.display_name,
            list(calendar.weekend_days),
            [day for day, _ in calendar.holidays],
            [name for _, name in calendar.holidays],
            calendar.create_time,
            calendar.update_time,
        ),
    )
    return bool(rows)


async def lock_spreading(conn: AsyncConnection) -> HolidayCalendar | None:
    """A calendar whose schedules have to be told of its version, locked; one that another replica has is left to it."""
    rows = await fetch(
        conn,
        f"SELECT {CALENDAR_COLUMNS} FROM holiday_calendars WHERE spreading"  # noqa: S608
        " ORDER BY update_time LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    return calendar_from(rows[0]) if rows else None


async def spread(conn: AsyncConnection, calendar: HolidayCalendar) -> None:
    """Notes that all schedules know of a locked calendar's version."""
    await execute(
        conn,
        "UPDATE holiday_calendars SET spreading = false WHERE tenant = %s AND id = %s",
        (calendar.tenant, calendar.id),
    )


async def list_page(conn: AsyncConnection, tenant: str, *, after: str, limit: int) -> list[HolidayCalendar]:
    """A page of calendars without their holidays, by id."""
    rows = await fetch(
        conn,
        "SELECT tenant, id, version, display_name, weekend_days, '{}'::date[], '{}'::text[], create_time, update_time"
        " FROM holiday_calendars WHERE tenant = %s AND id > %s ORDER BY id LIMIT %s",
        (tenant, after, limit),
    )
    return [calendar_from(row) for row in rows]
