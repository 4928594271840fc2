"""The checks of schedules for `florin verify`: each run pays once at most, and is told of once; it only reads."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg

from local.invariants import NAMESPACE

Connection = psycopg.Connection[tuple[Any, ...]]

_RUNS_AT_ONCE = 2000
_MOVED = ("COMPLETED", "REVERSED")
_PAID = {"COMPLETED": (1,), "STARTED": (0, 1)}
"""How many of a run's attempts may have moved money, by its state; none in every other one."""


def runs(connection: Connection) -> tuple[int, list[str]]:
    """Whether a run that says that it paid did so once, by its last attempt, and every other run did not."""
    checked, violations = 0, []
    with connection.cursor(name="schedule_runs") as cursor:
        cursor.itersize = _RUNS_AT_ONCE
        cursor.execute(
            "SELECT tenant, 'schedules/' || schedule || '/runs/' || number,"
            " (extract(epoch FROM create_time) * 1000000)::bigint, state, attempts"
            " FROM schedule_runs WHERE attempts > 0"
        )
        while rows := cursor.fetchmany(_RUNS_AT_ONCE):
            checked += len(rows)
            violations += _violations(connection, rows)
    return checked, violations


def events(connection: Connection, ahead: timedelta) -> list[str]:
    """Schedules whose last event is not that of their version, and final runs that were not told of; of the last day,
    which ends `ahead` of the database's clock."""
    rows = connection.execute(
        "SELECT s.tenant || '/schedules/' || s.id || ' has version ' || s.version || ' and events up to '"
        " || coalesce(max(o.version), 0) FROM schedules AS s LEFT JOIN outbox AS o"
        " ON o.tenant = s.tenant AND o.aggregate = 'schedules/' || s.id"
        " WHERE s.update_time > now() + %(ahead)s - interval '1 day'"
        " GROUP BY s.tenant, s.id, s.version HAVING s.version <> coalesce(max(o.version), 0)"
        " UNION ALL SELECT r.tenant || '/schedules/' || r.schedule || '/runs/' || r.number || ' is ' || r.state"
        " || ' and has ' || count(o.version) || ' events' FROM schedule_runs AS r LEFT JOIN outbox AS o"
        " ON o.tenant = r.tenant AND o.aggregate = 'schedules/' || r.schedule || '/runs/' || r.number"
        " WHERE r.update_time > now() + %(ahead)s - interval '1 day' GROUP BY r.tenant, r.schedule, r.number, r.state"
        " HAVING count(o.version) <> (r.state IN ('COMPLETED', 'DECLINED', 'SKIPPED'))::integer",
        {"ahead": ahead},
    )
    return [row[0] for row in rows]


def transfer_id(tenant: str, run: str, begun: int, attempt: int) -> str:
    """The transfer of a run's attempt, as transactions derives it; it began at `begun`, in microseconds since 1970."""
    return str(uuid.uuid5(NAMESPACE, f"{tenant}/{run}/{begun}/attempt-{attempt}"))


def _violations(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[str]:
    # One more than there were: an attempt that no run knows of.
    asked = [
        (tenant, transfer_id(tenant, run, begun, attempt))
        for tenant, run, begun, _, attempts in rows
        for attempt in range(1, attempts + 2)
    ]
    found = connection.execute(
        "SELECT tenant, id, state FROM transfers JOIN unnest(%s::text[], %s::text[]) AS k(tenant, id)"
        " USING (tenant, id)",
        ([tenant for tenant, _ in asked], [id_ for _, id_ in asked]),
    )
    states = {(tenant, id_): state for tenant, id_, state in found}
    violations = []
    for tenant, run, begun, state, attempts in rows:
        paid = [
            attempt
            for attempt in range(1, attempts + 2)
            if states.get((tenant, transfer_id(tenant, run, begun, attempt))) in _MOVED
        ]
        if len(paid) not in _PAID.get(state, (0,)) or any(attempt != attempts for attempt in paid):
            violations.append(f"{tenant}/{run} is {state} after {attempts} attempts, and those that paid are {paid}")
    return violations
