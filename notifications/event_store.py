"""SQL for events: recorded in one order of arrival, read below it, purged; it must not decide who may see one.

Order: a number from a sequence is not the order of commits, so a reader could pass a row that is not visible yet.
Therefore events have one writer at a time: `record` takes an advisory lock that PostgreSQL gives back after the
commit has become visible. What a reader sees is then always a prefix of the order, and nothing below it is added.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock
from meshkit.database import execute, fetch
from notifications.model import EventPage, StoredEvent

_WRITER_LOCK = 0x6E6F7469  # "noti": held by the one transaction that records events

WINDOW = 20_000
"""How many positions one look covers: bounds the work of a filter that hardly anything passes."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to record."""

    tenant: str
    id: uuid.UUID
    type: str
    subject: str
    sequence: int
    time: datetime
    data: bytes
    customers: tuple[str, ...]


_LOCK = "SELECT pg_advisory_xact_lock(%s)"

# One statement a batch: the events, and a delivery for each endpoint that wants one. Endpoints are found by customer
# ("" is the whole tenant's), so that a tenant with thousands of customers' endpoints costs no more than one with
# none. KEY SHARE makes a delete of the endpoint wait, and skips an endpoint whose delete went before.
_RECORD = """
    WITH arrived AS (
        SELECT * FROM unnest(%s::text[], %s::uuid[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[],
            %s::bytea[], %s::text[]) WITH ORDINALITY
            AS a(tenant, event_id, type, subject, sequence, time, data, customers, place)
    ), recorded AS (
        INSERT INTO events (tenant, event_id, type, subject, sequence, time, data, customers, create_time)
        SELECT tenant, event_id, type, subject, sequence, time, data, customers::text[],
            clock_timestamp() + %s::interval FROM arrived ORDER BY place
        ON CONFLICT (tenant, event_id) DO NOTHING
        RETURNING tenant, position, event_id, type, customers, create_time
    ), made AS (
        INSERT INTO deliveries (tenant, endpoint, position, event_id, type, due_time, create_time, update_time)
        SELECT r.tenant, e.endpoint, r.position, r.event_id, r.type, r.create_time, r.create_time, r.create_time
        FROM recorded AS r
        JOIN unnest(%s::text[], %s::text[]) AS t(type, scopes) ON t.type = r.type
        JOIN webhook_endpoints AS e ON e.tenant = r.tenant AND e.customer = ANY (r.customers || ''::text)
        WHERE e.enabled AND e.scopes && t.scopes::text[] AND (
            e.event_types = '{}' OR r.type = ANY (e.event_types)
            OR EXISTS (SELECT FROM unnest(e.event_types) AS p
                       WHERE p LIKE '%%.*' AND starts_with(r.type, left(p, -1))))
        FOR KEY SHARE OF e
        ON CONFLICT (tenant, endpoint, event_id) DO NOTHING
        RETURNING 1
    )
    SELECT count(*) FROM made
"""

# One statement, so one snapshot: the newest position, the horizon and the rows belong together.
_PAGE = """
    WITH seen AS (
        SELECT coalesce((SELECT max(position) FROM events WHERE tenant = %(tenant)s), 0) AS head,
               coalesce((SELECT purged_position FROM event_horizons WHERE tenant = %(tenant)s), 0) AS purged
    )
    SELECT seen.head, seen.purged, e.position, e.event_id, e.type, e.subject, e.sequence, e.time, e.data
    FROM seen LEFT JOIN LATERAL (
        SELECT * FROM events
        WHERE tenant = %(tenant)s AND position > %(after)s AND position <= %(after)s::bigint + %(window)s
          AND type = ANY (%(types)s) AND (%(customer)s = '' OR %(customer)s = ANY (customers))
        ORDER BY position LIMIT %(limit)s
    ) AS e ON true
    ORDER BY e.position
"""


async def record(
    conn: AsyncConnection, events: Sequence[NewEvent], scopes: Sequence[tuple[str, tuple[str, ...]]]
) -> int:
    """Records events in their order, once each, with a delivery for each enabled endpoint that may and wants to see it.

    `scopes` says for each type of the batch who may see it. Gives the number of new deliveries.
    """
    await execute(conn, _LOCK, (_WRITER_LOCK,))
    rows = await fetch(
        conn,
        _RECORD,
        (
            [event.tenant for event in events],
            [event.id for event in events],
            [event.type for event in events],
            [event.subject for event in events],
            [event.sequence for event in events],
            [event.time for event in events],
            [event.data for event in events],
            [_array(event.customers) for event in events],
            clock.ahead(),
            [event_type for event_type, _ in scopes],
            [_array(needed) for _, needed in scopes],
        ),
    )
    deliveries: int = rows[0][0]
    return deliveries


async def head(conn: AsyncConnection, tenant: str) -> int:
    """The newest position of a tenant; 0 before the first event."""
    newest = text("SELECT coalesce(max(position), 0) FROM events WHERE tenant = :tenant")
    purged = text("SELECT coalesce(max(purged_position), 0) FROM event_horizons WHERE tenant = :tenant")
    values = [(await conn.execute(query, {"tenant": tenant})).scalar_one() for query in (newest, purged)]
    return int(max(values))


async def page(
    conn: AsyncConnection, tenant: str, *, after: int, types: Sequence[str], customer: str, limit: int
) -> EventPage:
    """Events after a position, of the types, and of the customer unless that is empty; at most `limit`."""
    result = await conn.exec_driver_sql(
        _PAGE,
        {
            "tenant": tenant,
            "after": after,
            "window": WINDOW,
            "types": list(types),
            "customer": customer,
            "limit": limit,
        },
    )
    rows: list[Any] = list(result.all())
    newest, purged = int(rows[0][0]), int(rows[0][1])
    events = tuple(
        StoredEvent(position=row[2], id=row[3], type=row[4], subject=row[5], sequence=row[6], time=row[7], data=row[8])
        for row in rows
        if row[2] is not None
    )
    full = len(events) == limit
    scanned_to = events[-1].position if full else min(after + WINDOW, max(newest, after))
    return EventPage(events, scanned_to, caught_up=not full and scanned_to >= newest, purged_to=purged)


async def purge(conn: AsyncConnection, *, keep_seconds: float, at_most: int) -> int:
    """Removes the oldest events past their retention, with their deliveries and attempts; gives how many went."""
    result = await conn.execute(
        text("SELECT purge_events(make_interval(secs => :keep), :at_most)"),
        {"keep": keep_seconds, "at_most": at_most},
    )
    return int(result.scalar_one())


def _array(values: Sequence[str]) -> str:
    """An array as PostgreSQL reads it: unnest takes no array of arrays whose lengths differ."""
    if not values:
        return "{}"
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return '{"' + '","'.join(quoted) + '"}'
