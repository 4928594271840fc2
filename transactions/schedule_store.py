"""All SQL of schedules and their runs: set-based, keys sorted wherever rows are locked; schedules before their runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock
from meshkit.cipher import Cipher
from meshkit.database import execute, fetch
from meshkit.filters import Condition
from transactions import columns, listing
from transactions.schedule import HolidayCalendar, Run, Schedule
from transactions.schedule_rows import (
    COLUMNS,
    RUN_COLUMNS,
    payment_values,
    run_columns,
    run_from,
    schedule_from,
    values_of,
)

_INSERT = (
    f"INSERT INTO schedules ({COLUMNS}) VALUES ({', '.join(['%s'] * len(COLUMNS.split(',')))})"  # noqa: S608
    " ON CONFLICT DO NOTHING RETURNING 1"
)
# What goes on by itself; what users change is beside it in `save`.
_GO_ON = (
    "UPDATE schedules AS s SET version = n.version, state = n.state, refusal = n.refusal, runs_begun = n.runs_begun,"
    " last_nominal_date = n.last_nominal_date, last_run_date = n.last_run_date, skip_before = n.skip_before,"
    " next_run_time = n.next_run_time, due_time = n.due_time, calendar_version = n.calendar_version,"
    " update_time = n.update_time"
    " FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::bytea[], %s::integer[], %s::date[], %s::date[],"
    " %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::bigint[], %s::timestamptz[])"
    " AS n(tenant, id, version, state, refusal, runs_begun, last_nominal_date, last_run_date, skip_before,"
    " next_run_time, due_time, calendar_version, update_time) WHERE s.tenant = n.tenant AND s.id = n.id"
)
_INSERT_RUNS = (
    "INSERT INTO schedule_runs (tenant, schedule, number, state, nominal_date, run_time, skip, amount, creditor_name,"
    " end_to_end_id, remittance, attempts, due_time, create_time, update_time)"
    " SELECT n.*, n.create_time FROM unnest(%s::text[], %s::text[], %s::integer[], %s::text[], %s::date[],"
    " %s::timestamptz[], %s::text[], %s::bigint[], %s::bytea[], %s::text[], %s::bytea[], %s::integer[],"
    " %s::timestamptz[], %s::timestamptz[])"
    " AS n(tenant, schedule, number, state, nominal_date, run_time, skip, amount, creditor_name, end_to_end_id,"
    " remittance, attempts, due_time, create_time)"
)
_LOCK_RUNS = (
    "SELECT tenant, schedule, number FROM schedule_runs AS r"
    " JOIN unnest(%s::text[], %s::text[], %s::integer[], %s::integer[]) AS k(tenant, schedule, number, present)"
    " USING (tenant, schedule, number) WHERE r.state = 'STARTED' AND r.attempts = k.present"
    " ORDER BY tenant, schedule, number FOR UPDATE OF r"
)
_WRITE_RUNS = (
    "UPDATE schedule_runs AS r SET attempts = n.attempts, state = n.state, refusal = n.refusal, due_time = n.due_time,"
    " takings = n.takings, update_time = n.update_time"
    " FROM unnest(%s::text[], %s::text[], %s::integer[], %s::integer[], %s::text[], %s::bytea[], %s::timestamptz[],"
    " %s::integer[], %s::timestamptz[])"
    " AS n(tenant, schedule, number, attempts, state, refusal, due_time, takings, update_time)"
    " WHERE (r.tenant, r.schedule, r.number) = (n.tenant, n.schedule, n.number)"
)


async def insert(conn: AsyncConnection, cipher: Cipher, schedule: Schedule) -> bool:
    """Adds a schedule; whether it is new."""
    return bool(await fetch(conn, _INSERT, values_of(schedule, cipher)))


async def count_open(conn: AsyncConnection, tenant: str, customer: str) -> int:
    """How many schedules a customer made that have not ended; until the transaction ends, nobody else counts them."""
    key = f"schedules/{tenant}/{customer}"
    await execute(conn, "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (key,))
    rows = await fetch(
        conn,
        "SELECT count(*) FROM schedules WHERE tenant = %s AND customers @> ARRAY[%s::text] AND customer = %s"
        " AND state IN ('ACTIVE', 'PAUSED')",
        (tenant, customer, customer),
    )
    return int(rows[0][0])


async def get(conn: AsyncConnection, cipher: Cipher, tenant: str, id_: str, *, lock: bool = False) -> Schedule | None:
    """One schedule, locked if asked for; None when there is none."""
    statement = f"SELECT {COLUMNS} FROM schedules WHERE tenant = %s AND id = %s"  # noqa: S608
    rows = await fetch(conn, statement + (" FOR UPDATE" if lock else ""), (tenant, id_))
    return schedule_from(rows[0], cipher) if rows else None


async def present(
    conn: AsyncConnection, cipher: Cipher, places: Sequence[tuple[str, str]], *, lock: bool = False
) -> dict[tuple[str, str], Schedule]:
    """The schedules of (tenant, id), locked if asked for."""
    ordered = sorted(set(places))
    rows = await fetch(
        conn,
        f"SELECT {COLUMNS} FROM schedules JOIN unnest(%s::text[], %s::text[]) AS k(tenant, id) USING (tenant, id)"  # noqa: S608
        " ORDER BY tenant, id" + (" FOR UPDATE OF schedules" if lock else ""),
        ([place[0] for place in ordered], [place[1] for place in ordered]),
    )
    return {schedule.place: schedule for schedule in (schedule_from(row, cipher) for row in rows)}


async def save(conn: AsyncConnection, cipher: Cipher, schedule: Schedule) -> None:
    """Writes all that can change of a locked schedule."""
    await execute(
        conn,
        "UPDATE schedules SET amount = %s, creditor_name = %s, end_to_end_id = %s, remittance = %s, local_time = %s,"
        " day_adjustment = %s, holiday_calendar = %s, end_date = %s, run_count = %s, retries = %s, retry_pause = %s"
        " WHERE tenant = %s AND id = %s",
        (
            *payment_values(schedule.payment, cipher),
            schedule.timing.local_time,
            schedule.timing.adjustment.value,
            schedule.holiday_calendar,
            schedule.timing.end_date,
            schedule.timing.run_count,
            schedule.retry.retries,
            schedule.retry.pause,
            *schedule.place,
        ),
    )
    await go_on(conn, [schedule])


async def go_on(conn: AsyncConnection, schedules: Sequence[Schedule]) -> None:
    """Writes how far locked schedules have come, and their states."""
    await execute(
        conn,
        _GO_ON,
        (
            [s.tenant for s in schedules],
            [s.id for s in schedules],
            [s.version for s in schedules],
            [s.state.value for s in schedules],
            [columns.status_bytes(s.refusal) for s in schedules],
            [s.position.number for s in schedules],
            [s.position.nominal_date for s in schedules],
            [s.position.run_date for s in schedules],
            [s.skip_before for s in schedules],
            [s.next_run_time for s in schedules],
            [s.due_time for s in schedules],
            [s.calendar_version for s in schedules],
            [s.update_time for s in schedules],
        ),
    )


async def present_time(conn: AsyncConnection) -> datetime:
    """The moment that this process's clock and the database's have both reached: a clock that is ahead begins nothing
    before its time, gives nothing up and skips nothing."""
    rows = await fetch(conn, "SELECT clock_timestamp()")
    return min(clock.now(), clock.of_machine(rows[0][0]))


async def overdue(conn: AsyncConnection) -> timedelta | None:
    """For how long the first schedule, run or calendar has been due, below zero where it will be; None when none is."""
    rows = await fetch(
        conn,
        "SELECT least((SELECT min(due_time) FROM schedules WHERE due_time IS NOT NULL),"
        " (SELECT min(due_time) FROM schedule_runs WHERE due_time IS NOT NULL),"
        " (SELECT min(update_time) FROM holiday_calendars WHERE spreading))",
    )
    return await present_time(conn) - rows[0][0] if rows[0][0] is not None else None


async def lock_due(conn: AsyncConnection, cipher: Cipher, now: datetime, limit: int) -> list[Schedule]:
    """Schedules that are due, locked; those that another replica has at this moment are left to it."""
    rows = await fetch(
        conn,
        f"SELECT {COLUMNS} FROM schedules WHERE due_time <= %s ORDER BY due_time LIMIT %s FOR UPDATE SKIP LOCKED",  # noqa: S608
        (now, limit),
    )
    return [schedule_from(row, cipher) for row in rows]


async def lock_outdated(conn: AsyncConnection, cipher: Cipher, calendar: HolidayCalendar, limit: int) -> list[Schedule]:
    """Active schedules whose next run an older version of a locked calendar says; waited for and locked."""
    rows = await fetch(
        conn,
        f"SELECT {COLUMNS} FROM schedules WHERE tenant = %s AND holiday_calendar = %s AND holiday_calendar <> ''"  # noqa: S608
        " AND state = 'ACTIVE' AND calendar_version < %s ORDER BY calendar_version, id LIMIT %s FOR UPDATE",
        (calendar.tenant, calendar.id, calendar.version, limit),
    )
    return [schedule_from(row, cipher) for row in rows]


async def insert_runs(conn: AsyncConnection, cipher: Cipher, runs: Sequence[Run]) -> None:
    """Adds the runs of locked schedules."""
    if runs:
        await execute(conn, _INSERT_RUNS, run_columns(runs, cipher))


async def lock_due_runs(conn: AsyncConnection, cipher: Cipher, now: datetime, limit: int) -> list[Run]:
    """Runs that are due, locked; those that another replica has at this moment are left to it."""
    rows = await fetch(
        conn,
        f"SELECT {RUN_COLUMNS} FROM schedule_runs WHERE due_time <= %s ORDER BY due_time LIMIT %s"  # noqa: S608
        " FOR UPDATE SKIP LOCKED",
        (now, limit),
    )
    return [run_from(row, cipher) for row in rows]


async def record_runs(conn: AsyncConnection, runs: Sequence[Run]) -> set[tuple[str, str, int]]:
    """Writes what became of attempts where nobody was faster; gives the places of what was written."""
    ordered = sorted(runs, key=lambda run: run.place)
    rows = await fetch(conn, _LOCK_RUNS, _attempts(ordered))
    present = {(row[0], row[1], row[2]) for row in rows}
    await write_runs(conn, [run for run in ordered if run.place in present])
    return present


async def write_runs(conn: AsyncConnection, runs: Sequence[Run]) -> None:
    """Writes how far locked runs have come."""
    await execute(
        conn,
        _WRITE_RUNS,
        (
            *_attempts(runs),
            [r.state.value for r in runs],
            [columns.status_bytes(r.refusal) for r in runs],
            [r.due_time for r in runs],
            [r.takings for r in runs],
            [r.update_time for r in runs],
        ),
    )


def _attempts(runs: Sequence[Run]) -> tuple[list[Any], ...]:
    return [r.tenant for r in runs], [r.schedule for r in runs], [r.number for r in runs], [r.attempts for r in runs]


async def decline_waiting(
    conn: AsyncConnection, cipher: Cipher, places: Sequence[tuple[str, str]], now: datetime
) -> list[Run]:
    """Ends the runs of locked schedules that wait for another attempt; gives them as they are then."""
    rows = await fetch(
        conn,
        "UPDATE schedule_runs AS r SET state = 'DECLINED', due_time = NULL, update_time = %s"  # noqa: S608
        " FROM unnest(%s::text[], %s::text[]) AS k(tenant, schedule)"
        " WHERE r.tenant = k.tenant AND r.schedule = k.schedule AND r.state = 'WAITING' RETURNING "
        + columns.of("r", RUN_COLUMNS),
        (now, [place[0] for place in places], [place[1] for place in places]),
    )
    return [run_from(row, cipher) for row in rows]


async def list_runs(
    conn: AsyncConnection, cipher: Cipher, place: tuple[str, str], *, before: int, limit: int
) -> list[Run]:
    """A page of a schedule's runs, the newest first, with numbers below `before`."""
    rows = await fetch(
        conn,
        f"SELECT {RUN_COLUMNS} FROM schedule_runs WHERE tenant = %s AND schedule = %s AND number < %s"  # noqa: S608
        " ORDER BY number DESC LIMIT %s",
        (*place, before, limit),
    )
    return [run_from(row, cipher) for row in rows]


_FIELDS = {
    "state": "state",
    "debit_account": "debit_account",
    "credit_account": "credit_account",
    "end_to_end_id": "end_to_end_id",
    "holiday_calendar": "holiday_calendar",
    "amount.minor_units": "amount",
    "amount.currency_code": "currency",
    "create_time": "create_time",
    "next_run_time": "next_run_time",
}


async def list_page(
    conn: AsyncConnection,
    cipher: Cipher,
    *,
    tenant: str,
    customer: str | None,
    conditions: Sequence[Condition],
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Schedule]:
    """A page, the newest first, after a position; new schedules do not move what comes later."""
    rows = await listing.page(
        conn,
        table="schedules",
        columns=COLUMNS,
        fields=_FIELDS,
        tenant=tenant,
        customer=customer,
        conditions=conditions,
        after=after,
        limit=limit,
    )
    return [schedule_from(row, cipher) for row in rows]
