"""INV-5 for schedules: each run pays once at most, and by its last attempt; it only reads."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from checker.events import NAMESPACE
from checker.findings import Violation
from checker.tables import Connection, Rows

_MOVED = ("COMPLETED", "REVERSED")
_PAID = {"COMPLETED": (1,), "STARTED": (0, 1)}
"""How many of a run's attempts may have moved money, by its state; none in every other one."""

_RUNS = (
    "SELECT tenant, 'schedules/' || schedule || '/runs/' || number,"
    " (extract(epoch FROM create_time) * 1000000)::bigint, state, attempts FROM {rows} AS r WHERE attempts > 0"
)
_TRANSFERS = (
    "SELECT tenant, id, state FROM transfers JOIN unnest(%s::text[], %s::text[]) AS k(tenant, id) USING (tenant, id)"
)


def violations(connection: Connection, rows: Rows) -> tuple[int, list[Violation]]:
    """How many of some runs tried to pay, and which of them did not pay as they say."""
    runs = connection.execute(rows.statement(_RUNS), rows.parameters()).fetchall()
    return len(runs), _judged(connection, runs) if runs else []


def transfer_id(tenant: str, run: str, begun: int, attempt: int) -> str:
    """The transfer of a run's attempt, as transactions derives it; it began at `begun`, in microseconds since 1970."""
    return str(uuid.uuid5(NAMESPACE, f"{tenant}/{run}/{begun}/attempt-{attempt}"))


def _judged(connection: Connection, runs: Sequence[tuple[Any, ...]]) -> list[Violation]:
    # One more than there were: an attempt that no run knows of.
    asked = [
        (tenant, transfer_id(tenant, run, begun, attempt))
        for tenant, run, begun, _, attempts in runs
        for attempt in range(1, attempts + 2)
    ]
    columns = [tenant for tenant, _ in asked], [id_ for _, id_ in asked]
    states = {(tenant, id_): state for tenant, id_, state in connection.execute(_TRANSFERS, columns)}
    found = []
    for tenant, run, begun, state, attempts in runs:
        paid = [
            attempt
            for attempt in range(1, attempts + 2)
            if states.get((tenant, transfer_id(tenant, run, begun, attempt))) in _MOVED
        ]
        if len(paid) not in _PAID.get(state, (0,)) or any(attempt != attempts for attempt in paid):
            sentence = f" is {state} after {attempts} attempts, and those that paid are {paid}"
            found.append(Violation("INV-5", tenant, "", run, sentence))
    return found
