"""SQL of fee schedules; it decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock
from transactions.fees import FeeSchedule, Kind, Rounding

_COLUMNS = (
    "tenant, kind, currency, version, fixed, millionths, rounding, minimum, maximum, account, enabled, start_time,"
    " create_time, created_by"
)
_OF = "tenant = :tenant AND kind = :kind AND currency = :currency"
# A transfer is priced by the moment at which it was made, a little before now: versions that a later one took the place
# of are read for an hour more.
_IN_USE = text(
    f"SELECT {_COLUMNS} FROM fee_schedule_versions AS v WHERE NOT EXISTS (SELECT 1 FROM fee_schedule_versions AS later"  # noqa: S608
    " WHERE (later.tenant, later.kind, later.currency) = (v.tenant, v.kind, v.currency) AND later.version > v.version"
    " AND later.start_time <= now() + CAST(:ahead AS interval) - interval '1 hour')"
)
_NEXT_VERSION = text(
    "INSERT INTO fee_schedules (tenant, kind, currency, version) VALUES (:tenant, :kind, :currency, 1)"
    " ON CONFLICT (tenant, kind, currency) DO UPDATE SET version = fee_schedules.version + 1 RETURNING version"
)
_ADD = text(
    f"INSERT INTO fee_schedule_versions ({_COLUMNS}) VALUES (:tenant, :kind, :currency, :version, :fixed,"  # noqa: S608
    " :millionths, :rounding, :minimum, :maximum, :account, :enabled, :start_time, :create_time, :created_by)"
)


async def read_in_use(conn: AsyncConnection) -> list[FeeSchedule]:
    """All tenants' versions that can price a transfer now or later."""
    return [_schedule(row) for row in await conn.execute(_IN_USE, {"ahead": clock.ahead()})]


async def next_version(conn: AsyncConnection, tenant: str, kind: Kind, currency: str) -> int:
    """The version that comes next; locks the schedule."""
    found = await conn.execute(_NEXT_VERSION, {"tenant": tenant, "kind": kind.value, "currency": currency})
    return int(found.scalar_one())


async def add_version(conn: AsyncConnection, schedule: FeeSchedule) -> None:
    """Writes a version; versions are never changed."""
    await conn.execute(
        _ADD,
        {
            "tenant": schedule.tenant,
            "kind": schedule.kind.value,
            "currency": schedule.currency,
            "version": schedule.version,
            "fixed": schedule.fixed,
            "millionths": schedule.millionths,
            "rounding": schedule.rounding.value,
            "minimum": schedule.minimum,
            "maximum": schedule.maximum,
            "account": schedule.account,
            "enabled": schedule.enabled,
            "start_time": schedule.start_time,
            "create_time": schedule.create_time,
            "created_by": schedule.created_by,
        },
    )


async def read_version(
    conn: AsyncConnection, tenant: str, kind: Kind, currency: str, version: int = 0
) -> FeeSchedule | None:
    """A version of a schedule, the newest for 0; None when there is none."""
    found = await conn.execute(
        text(
            f"SELECT {_COLUMNS} FROM fee_schedule_versions WHERE {_OF}"  # noqa: S608
            " AND (version = :version OR :version = 0) ORDER BY version DESC LIMIT 1"
        ),
        {"tenant": tenant, "kind": kind.value, "currency": currency, "version": version},
    )
    row = found.first()
    return None if row is None else _schedule(row)


async def list_newest(conn: AsyncConnection, tenant: str, *, after: tuple[str, str], limit: int) -> list[FeeSchedule]:
    """The newest version of each schedule, by kind and currency, after one."""
    rows = await conn.execute(
        text(
            f"SELECT {_COLUMNS} FROM fee_schedule_versions JOIN fee_schedules USING (tenant, kind, currency, version)"  # noqa: S608
            ' WHERE tenant = :tenant AND (kind COLLATE "C", currency COLLATE "C") > (:kind, :currency)'
            ' ORDER BY kind COLLATE "C", currency COLLATE "C" LIMIT :limit'
        ),
        {"tenant": tenant, "kind": after[0], "currency": after[1], "limit": limit},
    )
    return [_schedule(row) for row in rows]


async def list_versions(
    conn: AsyncConnection, tenant: str, kind: Kind, currency: str, *, before: int, limit: int
) -> list[FeeSchedule]:
    """A schedule's versions below one, the newest first."""
    rows = await conn.execute(
        text(
            f"SELECT {_COLUMNS} FROM fee_schedule_versions WHERE {_OF} AND version < :before"  # noqa: S608
            " ORDER BY version DESC LIMIT :limit"
        ),
        {"tenant": tenant, "kind": kind.value, "currency": currency, "before": before, "limit": limit},
    )
    return [_schedule(row) for row in rows]


def _schedule(row: Sequence[Any]) -> FeeSchedule:
    tenant, kind, currency, version, fixed, millionths, rounding, *rest = row
    return FeeSchedule(tenant, Kind(kind), currency, version, fixed, millionths, Rounding(rounding), *rest)
