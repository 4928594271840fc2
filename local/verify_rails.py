"""The checks of withdrawals and deposits for `florin verify`: each moved its money once, as its state says."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg

from local.invariants import NAMESPACE

Connection = psycopg.Connection[tuple[Any, ...]]

_AT_ONCE = 2000
_STEPS_MAX = 1000
_BANK = ("florin/rail", "/florin.transactions.v1.RailService/-")
"""The subject and the method that transactions derives the bank's own requests by."""
_UNDER_WAY = {"RECEIVED": "/", "ASSIGNING": "/", "SUSPENDING": "/suspense/"}
"""States in which a transfer may have moved the money that is not recorded yet, and how its request is written."""


def withdrawals(connection: Connection) -> tuple[int, list[str]]:
    """Whether each withdrawal's transfer is as its state says: declined, completed, or reversed by its reversal."""
    rows = connection.execute(
        "SELECT w.tenant || '/withdrawals/' || w.id || ' is ' || w.state || ', and its transfer is '"
        " || coalesce(t.state, 'missing') || coalesce(' by ' || nullif(t.reversed_by, ''), '')"
        " FROM withdrawals AS w LEFT JOIN transfers AS t ON t.tenant = w.tenant AND t.id = w.id"
        " WHERE NOT coalesce(CASE w.state"
        "  WHEN 'ACCEPTED' THEN t.state <> 'REVERSED'"
        "  WHEN 'DECLINED' THEN t.state = 'DECLINED'"
        "  WHEN 'REJECTED' THEN t.state = 'COMPLETED' OR (t.state = 'REVERSED' AND t.reversed_by = w.reversal)"
        "  WHEN 'RETURNED' THEN t.state = 'REVERSED' AND t.reversed_by = w.reversal"
        "  ELSE t.state = 'COMPLETED' END, false)"
    ).fetchall()
    counted = connection.execute("SELECT count(*) FROM withdrawals").fetchone()
    return (counted[0] if counted else 0), [row[0] for row in rows]


def deposits(connection: Connection) -> tuple[int, list[str]]:
    """Whether what a deposit says moved its money did, and nothing else: none is credited twice."""
    checked, violations = 0, []
    with connection.cursor(name="deposits") as cursor:
        cursor.itersize = _AT_ONCE
        cursor.execute("SELECT tenant, id, state, step, credit_transfer, suspense_transfer FROM deposits")
        while rows := cursor.fetchmany(_AT_ONCE):
            checked += len(rows)
            violations += _violations(connection, rows)
    return checked, violations


def events(connection: Connection, ahead: timedelta = timedelta()) -> list[str]:
    """What of withdrawals, deposits and exceptions has another last event than that of its version; of the last day,
    which ends `ahead` of the database's clock."""
    rows = connection.execute(
        " UNION ALL ".join(
            f"SELECT r.tenant || '/{name}/' || r.id || ' has version ' || r.version || ' and events up to '"  # noqa: S608
            f" || coalesce(max(o.version), 0) FROM {table} AS r LEFT JOIN outbox AS o"
            f" ON o.tenant = r.tenant AND o.aggregate = '{name}/' || r.id"
            " WHERE r.update_time > now() + %(ahead)s - interval '1 day'"
            " GROUP BY r.tenant, r.id, r.version HAVING r.version <> coalesce(max(o.version), 0)"
            for name, table in (
                ("withdrawals", "withdrawals"),
                ("deposits", "deposits"),
                ("railExceptions", "rail_exceptions"),
            )
        ),
        {"ahead": ahead},
    )
    return [row[0] for row in rows]


def transfer_id(tenant: str, request_id: str) -> str:
    """The transfer of a request of the bank's own, as transactions derives it."""
    subject, method = _BANK
    return str(uuid.uuid5(NAMESPACE, "\0".join([tenant, subject, method, request_id])))


def _violations(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[str]:
    # One more than there were: a step that no deposit knows of.
    candidates = {
        (tenant, id_): {
            transfer_id(tenant, f"deposits/{id_}{form}{number}")
            for form in ("/", "/suspense/")
            for number in range(min(step, _STEPS_MAX) + 2)
        }
        for tenant, id_, _, step, _, _ in rows
    }
    asked = [(tenant, one) for (tenant, _), ids in candidates.items() for one in ids]
    found = connection.execute(
        # By the keys, which nobody can choose; the bank's own transfers have them for ids.
        "SELECT tenant, request_key::text FROM transfers"
        " JOIN unnest(%s::text[], %s::uuid[]) AS k(tenant, request_key) USING (tenant, request_key)"
        " WHERE state IN ('COMPLETED', 'REVERSED')",
        ([tenant for tenant, _ in asked], [one for _, one in asked]),
    )
    moved = {(row[0], row[1]) for row in found}
    violations = []
    for tenant, id_, state, step, credited, suspended in rows:
        named = {one for one in (credited, suspended) if one}
        did = {one for one in candidates[tenant, id_] if (tenant, one) in moved}
        form = _UNDER_WAY.get(state)
        allowed = named | ({transfer_id(tenant, f"deposits/{id_}{form}{step}")} if form else set())
        if not named <= did <= allowed:
            what = f"{sorted(did)} moved its money, it names {sorted(named)}"
            violations.append(f"{tenant}/deposits/{id_} is {state}: {what}")
    return violations
