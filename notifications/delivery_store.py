"""SQL for deliveries: taken under a lease, recorded, listed, replayed; it must not send anything.

Locks are taken in one order everywhere: endpoints by name, then deliveries by id. The database's clock alone says
what is due, so that replicas need not agree on the time. Leases end by it as it is, pauses between attempts by the
bank's time.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock
from notifications.model import Attempt, Delivery, DeliveryState, DueDelivery, Outcome, StoredEvent

ATTEMPTS_SHOWN = 20
"""The newest of a delivery: replays add to them without end."""

# Which endpoints have something pending is found by skipping through the index: one probe for each such endpoint,
# however many deliveries wait. In random order, so that no endpoint is always served last when there is much to do.
_TAKE = """
    WITH RECURSIVE waiting AS (
        (SELECT tenant, endpoint FROM deliveries WHERE state = 1 ORDER BY tenant, endpoint LIMIT 1)
        UNION ALL
        SELECT next.tenant, next.endpoint FROM waiting AS w CROSS JOIN LATERAL (
            SELECT tenant, endpoint FROM deliveries
            WHERE state = 1 AND (tenant, endpoint) > (w.tenant, w.endpoint) ORDER BY tenant, endpoint LIMIT 1
        ) AS next
    ), taken AS MATERIALIZED (
        SELECT due.tenant, due.delivery
        FROM (SELECT tenant, endpoint FROM waiting ORDER BY random()) AS w
        JOIN webhook_endpoints AS e ON (e.tenant, e.endpoint) = (w.tenant, w.endpoint) AND e.enabled
        LEFT JOIN unnest(%(busy_tenants)s::text[], %(busy_endpoints)s::text[], %(busy_counts)s::integer[])
            AS busy(tenant, endpoint, count) ON (busy.tenant, busy.endpoint) = (w.tenant, w.endpoint)
        CROSS JOIN LATERAL (
            SELECT d.tenant, d.delivery FROM deliveries AS d
            WHERE d.tenant = w.tenant AND d.endpoint = w.endpoint AND d.state = 1
              AND d.due_time <= clock_timestamp() + %(ahead)s::interval
              AND (d.lease IS NULL OR d.due_time <= clock_timestamp())
            ORDER BY d.due_time LIMIT greatest(%(per_endpoint)s - coalesce(busy.count, 0), 0)
            FOR UPDATE SKIP LOCKED
        ) AS due
        LIMIT %(limit)s
    )
    UPDATE deliveries AS d
    SET lease = gen_random_uuid(), due_time = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
    FROM taken, webhook_endpoints AS e, events AS v
    WHERE (d.tenant, d.delivery) = (taken.tenant, taken.delivery)
      AND (e.tenant, e.endpoint) = (d.tenant, d.endpoint) AND (v.tenant, v.position) = (d.tenant, d.position)
    RETURNING d.tenant, d.delivery, d.lease, d.endpoint, d.attempt_count, e.url, e.scopes, e.secret,
        ARRAY(SELECT p.secret FROM unnest(e.previous_secrets, e.previous_secret_end_times) AS p(secret, end_time)
              WHERE p.end_time > clock_timestamp() + %(ahead)s::interval ORDER BY p.end_time DESC),
        v.position, v.event_id, v.type, v.subject, v.sequence, v.time, v.data
"""

_OUTCOMES = (
    "unnest(%(tenants)s::text[], %(deliveries)s::uuid[], %(leases)s::uuid[], %(states)s::smallint[],"
    " %(waits)s::float8[], %(starts)s::timestamptz[], %(statuses)s::integer[], %(errors)s::text[],"
    " %(durations)s::integer[])"
    " AS o(tenant, delivery, lease, state, wait_s, start_time, http_status, error, duration_ms)"
)

_DISABLE = """
    WITH gone AS (
        SELECT e.tenant, e.endpoint FROM webhook_endpoints AS e
        JOIN unnest(%s::text[], %s::text[], %s::text[]) AS g(tenant, endpoint, url) USING (tenant, endpoint, url)
        WHERE e.enabled ORDER BY 1, 2 FOR NO KEY UPDATE OF e
    )
    UPDATE webhook_endpoints AS e
    SET enabled = false, update_time = clock_timestamp() + %s::interval,
        etag = replace(gen_random_uuid()::text, '-', '')
    FROM gone WHERE (e.tenant, e.endpoint) = (gone.tenant, gone.endpoint)
    RETURNING e.tenant, e.endpoint
"""

_LOCK = f"""
    SELECT d.tenant, d.delivery FROM deliveries AS d JOIN {_OUTCOMES} USING (tenant, delivery)
    ORDER BY d.tenant, d.delivery FOR UPDATE OF d
"""  # noqa: S608 - the text is a constant of this module

# A delivery whose lease passed to another worker is not changed by a late failure; a late success counts always,
# since the receiver has the event, also against a failure in the same batch.
_SETTLE = f"""
    UPDATE deliveries AS d
    SET state = o.state, lease = NULL, attempt_count = d.attempt_count + 1,
        failure_count = d.failure_count + (o.state = 3)::integer,
        due_time = CASE WHEN o.state = 1
            THEN clock_timestamp() + %(ahead)s::interval + make_interval(secs => o.wait_s) END,
        update_time = clock_timestamp() + %(ahead)s::interval
    FROM (
        SELECT DISTINCT ON (o.tenant, o.delivery) o.tenant, o.delivery, o.state, o.wait_s
        FROM {_OUTCOMES} JOIN deliveries AS held USING (tenant, delivery)
        WHERE held.state = 1 AND (held.lease = o.lease OR o.state = 2)
        ORDER BY o.tenant, o.delivery, (o.state = 2) DESC
    ) AS o
    WHERE (d.tenant, d.delivery) = (o.tenant, o.delivery)
    RETURNING d.tenant, d.delivery, d.state, d.failure_count, d.update_time
"""  # noqa: S608 - as above

_LOG = f"""
    INSERT INTO delivery_attempts (tenant, delivery, attempt, create_time, http_status, error, duration_ms)
    SELECT o.tenant, o.delivery, o.lease, o.start_time, o.http_status, o.error, o.duration_ms
    FROM {_OUTCOMES} JOIN deliveries AS d USING (tenant, delivery)
    ON CONFLICT DO NOTHING
"""  # noqa: S608 - as above

_LIST = text(
    "SELECT delivery, endpoint, position, event_id, type, state, due_time, create_time FROM deliveries"
    " WHERE tenant = :tenant AND endpoint = :endpoint"
    " AND (create_time, position) < (CAST(:before_time AS timestamptz), CAST(:before AS bigint))"
    " AND (:state = 0 OR state = :state) ORDER BY create_time DESC, position DESC LIMIT :limit"
)
_ATTEMPTS = text(
    "SELECT d.delivery, a.create_time, a.http_status, a.error, a.duration_ms"
    " FROM unnest(CAST(:deliveries AS uuid[])) AS d(delivery) CROSS JOIN LATERAL ("
    "  SELECT * FROM delivery_attempts WHERE tenant = :tenant AND delivery = d.delivery"
    "  ORDER BY create_time DESC LIMIT :shown) AS a ORDER BY a.create_time"
)
_REPLAYED = (
    " SET state = 1, attempt_count = 0, lease = NULL, due_time = clock_timestamp() + CAST(:ahead AS interval)"
    " FROM chosen"
    " WHERE (d.tenant, d.delivery) = (chosen.tenant, chosen.delivery)"
    # One that is being sent right now is on its way already.
    " AND NOT (d.state = 1 AND d.lease IS NOT NULL AND d.due_time > clock_timestamp())"
)
_REPLAY_ONE = text(
    "WITH chosen AS (SELECT tenant, delivery FROM deliveries"  # noqa: S608 - as above
    " WHERE tenant = :tenant AND endpoint = :endpoint AND delivery = :delivery FOR UPDATE),"
    f" again AS (UPDATE deliveries AS d {_REPLAYED}) SELECT count(*) FROM chosen"
)
_COUNT_RANGE = text(
    "SELECT count(*) FROM (SELECT FROM deliveries WHERE tenant = :tenant AND endpoint = :endpoint"
    " AND create_time >= :start AND create_time < :end LIMIT :limit) AS counted"
)
_REPLAY_RANGE = text(
    "WITH chosen AS (SELECT tenant, delivery FROM deliveries"  # noqa: S608 - as above
    " WHERE tenant = :tenant AND endpoint = :endpoint AND create_time >= :start AND create_time < :end"
    " ORDER BY tenant, delivery FOR UPDATE),"
    f" again AS (UPDATE deliveries AS d {_REPLAYED}) SELECT count(*) FROM chosen"
)


@dataclass(frozen=True, slots=True)
class Settled:
    """A delivery as an attempt left it."""

    tenant: str
    delivery: uuid.UUID
    state: DeliveryState
    failure_count: int
    """How often it was given up; replays can make it more than once."""
    time: datetime


async def take(
    conn: AsyncConnection,
    *,
    limit: int,
    per_endpoint: int,
    busy: Mapping[tuple[str, str], int],
    lease_seconds: float,
) -> list[DueDelivery]:
    """Takes due deliveries of all tenants under a lease. `busy` counts what this replica has in flight already."""
    result = await conn.exec_driver_sql(
        _TAKE,
        {
            "busy_tenants": [tenant for tenant, _ in busy],
            "busy_endpoints": [endpoint for _, endpoint in busy],
            "busy_counts": list(busy.values()),
            "per_endpoint": per_endpoint,
            "limit": limit,
            "lease_seconds": lease_seconds,
            "ahead": clock.ahead(),
        },
    )
    rows: list[Any] = list(result.all())
    return [_due(row) for row in rows]


async def disable(conn: AsyncConnection, endpoints: Sequence[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Disables endpoints, given as (tenant, id, URL), whose receivers are gone; gives those that were enabled until
    now. One that has another URL by now has another receiver."""
    if not endpoints:
        return []
    columns = tuple(list(column) for column in zip(*sorted(set(endpoints)), strict=True))
    rows: list[Any] = list((await conn.exec_driver_sql(_DISABLE, (*columns, clock.ahead()))).all())
    return [(row[0], row[1]) for row in rows]


async def settle(conn: AsyncConnection, outcomes: Sequence[Outcome]) -> list[Settled]:
    """Records attempts and what they make of their deliveries; gives those that changed. Again, it changes nothing."""
    values: dict[str, object] = {
        "tenants": [outcome.delivery.tenant for outcome in outcomes],
        "deliveries": [outcome.delivery.id for outcome in outcomes],
        "leases": [outcome.delivery.lease for outcome in outcomes],
        "states": [int(outcome.state) for outcome in outcomes],
        "waits": [outcome.wait_s for outcome in outcomes],
        "starts": [outcome.reply.start_time for outcome in outcomes],
        "statuses": [outcome.reply.http_status for outcome in outcomes],
        "errors": [outcome.reply.error for outcome in outcomes],
        "durations": [outcome.reply.duration_ms for outcome in outcomes],
        "ahead": clock.ahead(),
    }
    await conn.exec_driver_sql(_LOCK, values)
    settled: list[Any] = list((await conn.exec_driver_sql(_SETTLE, values)).all())
    await conn.exec_driver_sql(_LOG, values)
    return [Settled(row[0], row[1], DeliveryState(row[2]), row[3], row[4]) for row in settled]


async def list_before(
    conn: AsyncConnection, tenant: str, endpoint_id: str, *, state: int, before: tuple[datetime, int], limit: int
) -> list[Delivery]:
    """Deliveries of an endpoint, the newest first, before (create_time, position), each with its newest attempts."""
    values = {
        "tenant": tenant,
        "endpoint": endpoint_id,
        "state": state,
        "before_time": before[0],
        "before": before[1],
        "limit": limit,
    }
    rows: list[Any] = list((await conn.execute(_LIST, values)).all())
    wanted = {"tenant": tenant, "deliveries": [row[0] for row in rows], "shown": ATTEMPTS_SHOWN}
    attempts: dict[uuid.UUID, list[Attempt]] = {row[0]: [] for row in rows}
    for delivery, *values_of_attempt in await conn.execute(_ATTEMPTS, wanted):
        attempts[delivery].append(Attempt(*values_of_attempt))
    return [_delivery(row, attempts[row[0]]) for row in rows]


async def replay_one(conn: AsyncConnection, tenant: str, endpoint_id: str, delivery: uuid.UUID) -> bool:
    """Makes a delivery due with all its attempts before it; False if the endpoint has none of that id."""
    values = {"tenant": tenant, "endpoint": endpoint_id, "delivery": delivery, "ahead": clock.ahead()}
    return bool((await conn.execute(_REPLAY_ONE, values)).scalar_one())


async def count_range(
    conn: AsyncConnection, tenant: str, endpoint_id: str, start: datetime, end: datetime, *, at_most: int
) -> int:
    """How many deliveries an endpoint has of events that came in from `start` to before `end`, up to `at_most`."""
    values = {"tenant": tenant, "endpoint": endpoint_id, "start": start, "end": end, "limit": at_most}
    return int((await conn.execute(_COUNT_RANGE, values)).scalar_one())


async def replay_range(conn: AsyncConnection, tenant: str, endpoint_id: str, start: datetime, end: datetime) -> int:
    """Makes all deliveries of a time range due again; gives their number."""
    values = {"tenant": tenant, "endpoint": endpoint_id, "start": start, "end": end, "ahead": clock.ahead()}
    return int((await conn.execute(_REPLAY_RANGE, values)).scalar_one())


def _due(row: Sequence[Any]) -> DueDelivery:
    tenant, delivery, lease, endpoint, attempt_count, url, scopes, secret, previous_secrets = row[:9]
    event = StoredEvent(*row[9:])
    return DueDelivery(
        tenant, delivery, lease, endpoint, attempt_count, url, tuple(scopes), secret, tuple(previous_secrets), event
    )


def _delivery(row: Sequence[Any], attempts: Sequence[Attempt]) -> Delivery:
    delivery, endpoint, position, event_id, event_type, state, due_time, create_time = row
    state = DeliveryState(state)
    return Delivery(delivery, endpoint, position, event_id, event_type, state, due_time, create_time, tuple(attempts))
