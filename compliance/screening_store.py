"""SQL of the hot path: set-based statements over a batch of payments or of ended transfers; it decides nothing.

Locks are taken in one order everywhere: rows of limit_usage by their key, then decisions, then reservations.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from compliance import traces
from compliance.model import (
    Case,
    Decision,
    End,
    Reservation,
    ReservationState,
    Usage,
    UsageKey,
)
from meshkit import outbox
from meshkit.database import execute, fetch, flush

_DECISION_COLUMNS = "tenant, key, transfer, outcome, trace, refusal, has_case, create_time"

_DECISIONS = (
    f"SELECT {_DECISION_COLUMNS} FROM decisions"  # noqa: S608
    " WHERE (tenant, key) IN (SELECT * FROM unnest(%s::text[], %s::uuid[]))"
)
_RESERVATIONS = (
    "SELECT tenant, transfer, state FROM reservations"
    " WHERE (tenant, transfer) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"
)
_USAGE_CLAIM = (
    "INSERT INTO limit_usage (tenant, customer, currency, day)"
    " SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::date[]) ON CONFLICT DO NOTHING"
)
_USAGE_READ = (
    "SELECT u.tenant, u.customer, u.currency, u.day, u.used, u.payments FROM limit_usage AS u"
    " JOIN unnest(%s::text[], %s::text[], %s::text[], %s::date[]) AS k(tenant, customer, currency, day)"
    " USING (tenant, customer, currency, day)"
)
_USAGE_LOCK = _USAGE_READ + " ORDER BY 1, 2, 3, 4 FOR UPDATE OF u"
_USAGE_ADD = (
    "UPDATE limit_usage AS u SET used = u.used + k.used, payments = u.payments + k.payments"
    " FROM unnest(%s::text[], %s::text[], %s::text[], %s::date[], %s::bigint[], %s::bigint[])"
    " AS k(tenant, customer, currency, day, used, payments)"
    " WHERE (u.tenant, u.customer, u.currency, u.day) = (k.tenant, k.customer, k.currency, k.day)"
)
_DECISION_INSERT = (
    f"INSERT INTO decisions ({_DECISION_COLUMNS})"  # noqa: S608
    " SELECT * FROM unnest(%s::text[], %s::uuid[], %s::text[], %s::smallint[], %s::bytea[], %s::bytea[],"
    " %s::boolean[], %s::timestamptz[])"
)
# Customers' ids have no commas; an array of arrays of different lengths cannot be sent.
_RESERVATION_INSERT = (
    "INSERT INTO reservations (tenant, transfer, key, customers, currency, day, amount, state, lease_time)"
    " SELECT r.tenant, r.transfer, r.key, string_to_array(r.customers, ','), r.currency, r.day, r.amount, 1, %s"
    " FROM unnest(%s::text[], %s::text[], %s::uuid[], %s::text[], %s::text[], %s::date[], %s::bigint[])"
    " AS r(tenant, transfer, key, customers, currency, day, amount)"
)
_CASE_INSERT = (
    "INSERT INTO cases (tenant, case_id, transfer, debit_account, customer, currency, amount, creditor_name, state,"
    " requested_by, create_time, expire_time)"
    " SELECT c.tenant, c.case_id, c.transfer, c.debit_account, c.customer, c.currency, c.amount, c.creditor_name, 1,"
    " c.requested_by, c.create_time, c.expire_time"
    " FROM unnest(%s::text[], %s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bytea[],"
    " %s::text[], %s::timestamptz[], %s::timestamptz[]) AS c(tenant, case_id, transfer, debit_account, customer,"
    " currency, amount, creditor_name, requested_by, create_time, expire_time)"
)
RACED = frozenset({"inv_5_one_decision_per_key", "inv_c1_one_reservation_per_transfer"})
"""The constraints at which two sessions meet that decide about the same transfer."""

_LIVE = (
    "SELECT r.tenant, c.customer, r.currency, r.day FROM reservations AS r, unnest(r.customers) AS c(customer)"
    " WHERE (r.tenant, r.transfer) IN (SELECT * FROM unnest(%s::text[], %s::text[])) AND r.state = 1"
)
_PROLONG = (
    "UPDATE reservations AS r SET lease_time = greatest(r.lease_time, l.lease_time)"
    " FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) AS l(tenant, transfer, lease_time)"
    " WHERE (r.tenant, r.transfer) = (l.tenant, l.transfer) AND r.state = 1"
)
# A transfer that was never screened leaves a row as well: if its screening comes late, it finds that it has ended.
_END = (
    "INSERT INTO reservations AS r (tenant, transfer, customers, currency, day, amount, state, lease_time)"
    " SELECT e.tenant, e.transfer, '{}', '', %s, 0, e.state, %s"
    " FROM unnest(%s::text[], %s::text[], %s::smallint[]) AS e(tenant, transfer, state)"
    " ON CONFLICT (tenant, transfer) DO UPDATE SET state = excluded.state WHERE r.state = 1"
    " RETURNING r.tenant, r.transfer, r.key, r.customers, r.currency, r.day, r.amount, r.state"
)
_REDUCE = (
    "UPDATE reservations AS r SET amount = n.amount FROM unnest(%s::text[], %s::text[], %s::bigint[])"
    " AS n(tenant, transfer, amount) WHERE (r.tenant, r.transfer) = (n.tenant, n.transfer)"
)


async def find_decisions(
    conn: AsyncConnection, keys: Sequence[tuple[str, uuid.UUID]], transfers: Sequence[tuple[str, str]]
) -> tuple[dict[tuple[str, uuid.UUID], Decision], dict[tuple[str, str], ReservationState]]:
    """Decisions by (tenant, key), and what is known of transfers by (tenant, transfer)."""
    decided = await execute(conn, _DECISIONS, _columns(keys, 2))
    reserved = await execute(conn, _RESERVATIONS, _columns(transfers, 2))
    await flush(conn)
    decisions = [_decision(row) for row in await decided.fetchall()]
    states = {(row[0], row[1]): ReservationState(row[2]) for row in await reserved.fetchall()}
    return {(one.tenant, one.key): one for one in decisions}, states


async def lock_usage(conn: AsyncConnection, keys: Iterable[UsageKey]) -> dict[UsageKey, Usage]:
    """What is used under each key, locked until the transaction ends; rows that are missing are made."""
    columns = _usage_columns(sorted(set(keys)))
    if not columns[0]:
        return {}
    await execute(conn, _USAGE_CLAIM, columns)
    rows = await fetch(conn, _USAGE_LOCK, columns)
    return {UsageKey(*row[:4]): Usage(row[4], row[5]) for row in rows}


async def read_usage(conn: AsyncConnection, keys: Iterable[UsageKey]) -> dict[UsageKey, Usage]:
    """What is used under each key, without a lock; for answers that reserve nothing."""
    rows = await fetch(conn, _USAGE_READ, _usage_columns(sorted(set(keys))))
    return {UsageKey(*row[:4]): Usage(row[4], row[5]) for row in rows}


async def store(
    conn: AsyncConnection,
    decisions: Sequence[Decision],
    reservations: Sequence[Reservation],
    cases: Sequence[tuple[Case, bytes]],
    events: Sequence[outbox.Event],
    *,
    lease: timedelta,
) -> None:
    """Writes a batch with the COMMIT; a case comes with its creditor's sealed name.

    The transaction fails with psycopg's UniqueViolation, of one of RACED, when another session decided one of the keys
    or ended one of the transfers meanwhile; the batch then has to be decided again, and finds that.
    """
    decisions = sorted(decisions, key=lambda one: (one.tenant, one.key))
    reservations = sorted(reservations, key=lambda one: (one.tenant, one.transfer))
    added = added_usage(reservations)
    if added:
        keys = sorted(added)
        figures = ([added[key].used for key in keys], [added[key].payments for key in keys])
        await execute(conn, _USAGE_ADD, (*_usage_columns(keys), *figures))
    # These two before all others, so that a race shows in them.
    await execute(conn, _DECISION_INSERT, _decision_columns(decisions))
    lease_time = decisions[0].create_time + lease
    await execute(conn, _RESERVATION_INSERT, (lease_time, *_reservation_columns(reservations)))
    if cases:
        await execute(conn, _CASE_INSERT, _case_columns(cases))
    await outbox.append(conn, events)


async def end_transfers(conn: AsyncConnection, ends: Mapping[tuple[str, str], End], now: datetime) -> list[Reservation]:
    """Ends the live reservations of (tenant, transfer), gives back what is released or was not moved, and gives what
    changed.

    An end that is told again changes nothing.
    """
    keys = sorted(ends)
    less = [key for key in keys if ends[key].state is ReservationState.RELEASED or ends[key].amount is not None]
    if less:
        live = await fetch(conn, _LIVE, _columns(less, 2))
        await lock_usage(conn, [UsageKey(*row) for row in live])
    states = [ends[key].state.value for key in keys]
    rows = await fetch(conn, _END, (now.date(), now, *_columns(keys, 2), states))
    ended = [_reservation(row) for row in rows if row[2] is not None]
    back = added_usage([one for one in ended if ends[one.tenant, one.transfer].state is ReservationState.RELEASED])
    moved = [(one, amount) for one in ended if (amount := ends[one.tenant, one.transfer].amount) is not None]
    if moved:
        columns = _columns([(one.tenant, one.transfer, amount) for one, amount in moved], 3)
        await execute(conn, _REDUCE, columns)
        for one, amount in moved:
            for key in added_usage([one]):
                back.setdefault(key, Usage()).used += one.amount - amount  # the payment itself still counts
    if back:
        usage_keys = sorted(back)
        figures = ([-back[key].used for key in usage_keys], [-back[key].payments for key in usage_keys])
        await execute(conn, _USAGE_ADD, (*_usage_columns(usage_keys), *figures))
    return ended


async def prolong_leases(conn: AsyncConnection, leases: Mapping[tuple[str, str], datetime]) -> None:
    """The live reservations of (tenant, transfer) do not lapse before these times."""
    ordered = sorted((*key, time) for key, time in leases.items())
    await execute(conn, _PROLONG, _columns(ordered, 3))


async def watch(conn: AsyncConnection, now: datetime, since: date) -> tuple[int, int]:
    """How many reservations are past their lease, and how many rows of limit_usage since a day break INV-8."""
    lapsed = await fetch(conn, "SELECT count(*) FROM reservations WHERE state = 1 AND lease_time < %s", (now,))
    return lapsed[0][0], len(await fetch(conn, IMBALANCES, (since, since)))


IMBALANCES = (
    "SELECT tenant, customer, currency, day, coalesce(u.used, 0), coalesce(r.used, 0)"
    " FROM (SELECT * FROM limit_usage WHERE day >= %s) AS u FULL JOIN"
    " (SELECT tenant, customer, currency, day, sum(amount)::bigint AS used, count(*) AS payments"
    " FROM reservations, unnest(customers) AS c(customer) WHERE state IN (1, 2) AND day >= %s"
    " GROUP BY 1, 2, 3, 4) AS r USING (tenant, customer, currency, day)"
    " WHERE coalesce(u.used, 0) <> coalesce(r.used, 0) OR coalesce(u.payments, 0) <> coalesce(r.payments, 0)"
)
"""Rows that break INV-8 since a day (given twice): what is counted, and what the reservations come to."""


def added_usage(reservations: Iterable[Reservation]) -> dict[UsageKey, Usage]:
    """What reservations come to under each key."""
    sums: dict[UsageKey, Usage] = {}
    for one in reservations:
        for customer in one.customers:
            usage = sums.setdefault(UsageKey(one.tenant, customer, one.currency, one.day), Usage())
            usage.used += one.amount
            usage.payments += 1
    return sums


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    return [[row[at] for row in rows] for at in range(width)]


def _usage_columns(keys: Sequence[UsageKey]) -> list[list[object]]:
    return _columns([(key.tenant, key.customer, key.currency, key.day) for key in keys], 4)


def _decision_columns(decisions: Sequence[Decision]) -> list[list[object]]:
    rows = [
        (
            one.tenant,
            one.key,
            one.transfer,
            one.outcome.value,
            traces.seal(one.checks),
            traces.seal_refusal(one.refusal),
            one.has_case,
            one.create_time,
        )
        for one in decisions
    ]
    return _columns(rows, 8)


def _reservation_columns(reservations: Sequence[Reservation]) -> list[list[object]]:
    rows = [
        (one.tenant, one.transfer, one.key, ",".join(one.customers), one.currency, one.day, one.amount)
        for one in reservations
    ]
    return _columns(rows, 7)


def _case_columns(cases: Sequence[tuple[Case, bytes]]) -> list[list[object]]:
    rows = [
        (
            case.tenant,
            case.id,
            case.transfer,
            case.debit_account,
            case.customer,
            case.currency,
            case.amount,
            creditor_name,
            case.requested_by,
            case.create_time,
            case.expire_time,
        )
        for case, creditor_name in cases
    ]
    return _columns(rows, 11)


def _reservation(row: Sequence[Any]) -> Reservation:
    tenant, transfer, key, customers, currency, day, amount, _ = row
    return Reservation(tenant, transfer, key, tuple(customers), currency, day, amount)


def _decision(row: Sequence[Any]) -> Decision:
    return traces.decision(*row)


async def read_decision(conn: AsyncConnection, tenant: str, key: uuid.UUID) -> Decision | None:
    """One decision."""
    decisions, _ = await find_decisions(conn, [(tenant, key)], [])
    return decisions.get((tenant, key))
