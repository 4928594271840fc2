"""SQL for webhook endpoints; secrets come and go sealed. It must not decide who may change one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock
from notifications.model import Endpoint

_TABLE = sa.table(
    "webhook_endpoints",
    sa.column("tenant", sa.Text),
    sa.column("endpoint", sa.Text),
    sa.column("url", sa.Text),
    sa.column("event_types", ARRAY(sa.Text)),
    sa.column("enabled", sa.Boolean),
    sa.column("customer", sa.Text),
    sa.column("scopes", ARRAY(sa.Text)),
    sa.column("description", sa.Text),
    sa.column("create_time", sa.DateTime(timezone=True)),
    sa.column("update_time", sa.DateTime(timezone=True)),
    sa.column("etag", sa.Text),
    sa.column("secret", sa.LargeBinary),
)
_c = _TABLE.c

PREVIOUS_SECRETS_MAX = 5
"""Each is one more signature in the headers of every attempt."""

# Whoever rotates again before the overlap is over may have lost the secret of the first time: the receiver then knows
# only the one before, so all of them sign until their own time.
_ROTATE = sa.text(
    "UPDATE webhook_endpoints AS e SET secret = :secret, update_time = :update_time, etag = :etag,"
    " (previous_secrets, previous_secret_end_times) = ("
    "  SELECT array_agg(p.secret ORDER BY p.end_time DESC), array_agg(p.end_time ORDER BY p.end_time DESC) FROM ("
    "   SELECT e.secret, CAST(:overlap_end AS timestamptz) AS end_time UNION ALL"
    "   SELECT o.secret, o.end_time FROM unnest(e.previous_secrets, e.previous_secret_end_times)"
    "    AS o(secret, end_time) WHERE o.end_time > clock_timestamp() + CAST(:ahead AS interval)"
    "   ORDER BY end_time DESC LIMIT :previous_max) AS p)"
    " WHERE e.tenant = :tenant AND e.endpoint = :endpoint"
)
_SHOWN = (
    _c.tenant, _c.endpoint, _c.url, _c.event_types, _c.enabled, _c.customer, _c.scopes, _c.description,
    _c.create_time, _c.update_time, _c.etag,
)  # fmt: skip


def _endpoint(row: Sequence[object]) -> Endpoint:
    tenant, name, url, event_types, enabled, customer, scopes, description, created, updated, etag = row
    return Endpoint(
        tenant=str(tenant),
        id=str(name),
        url=str(url),
        event_types=tuple(event_types),  # type: ignore[arg-type]
        enabled=bool(enabled),
        customer=str(customer),
        scopes=tuple(scopes),  # type: ignore[arg-type]
        description=str(description),
        create_time=created,  # type: ignore[arg-type]
        update_time=updated,  # type: ignore[arg-type]
        etag=str(etag),
    )


def _values(endpoint: Endpoint) -> dict[str, object]:
    return {
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "enabled": endpoint.enabled,
        "scopes": list(endpoint.scopes),
        "description": endpoint.description,
        "update_time": endpoint.update_time,
        "etag": endpoint.etag,
    }


async def add(conn: AsyncConnection, endpoint: Endpoint, sealed_secret: bytes) -> bool:
    """Writes a new endpoint; False if its name is taken."""
    statement = (
        insert(_TABLE)
        .values(
            tenant=endpoint.tenant,
            endpoint=endpoint.id,
            customer=endpoint.customer,
            create_time=endpoint.create_time,
            secret=sealed_secret,
            **_values(endpoint),
        )
        .on_conflict_do_nothing()
        .returning(_c.endpoint)
    )
    return (await conn.execute(statement)).first() is not None


async def count_of_customer(conn: AsyncConnection, tenant: str, customer: str) -> int:
    """How many endpoints a customer has; until the transaction ends, nobody else counts or adds one for them."""
    key = sa.func.hashtextextended(sa.literal(f"{tenant}/{customer}"), 0)
    await conn.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
    owned = sa.select(sa.func.count()).where(_c.tenant == tenant, _c.customer == customer)
    return int((await conn.execute(owned.select_from(_TABLE))).scalar_one())


async def read(
    conn: AsyncConnection, tenant: str, endpoint_id: str, *, customer: str | None, lock: bool = False
) -> Endpoint | None:
    """An endpoint, or None where there is none or it is not this customer's. `customer` None reads as staff."""
    query = sa.select(*_SHOWN).where(_c.tenant == tenant, _c.endpoint == endpoint_id)
    if customer is not None:
        query = query.where(_c.customer == customer)
    if lock:
        query = query.with_for_update()
    row = (await conn.execute(query)).first()
    return _endpoint(row) if row is not None else None


async def list_after(
    conn: AsyncConnection, tenant: str, *, customer: str | None, after: str, limit: int
) -> list[Endpoint]:
    """Endpoints by id, after one."""
    query = sa.select(*_SHOWN).where(_c.tenant == tenant, _c.endpoint > after).order_by(_c.endpoint).limit(limit)
    if customer is not None:
        query = query.where(_c.customer == customer)
    return [_endpoint(row) for row in await conn.execute(query)]


async def save(conn: AsyncConnection, endpoint: Endpoint) -> None:
    """Writes a locked endpoint's new values."""
    where = (_c.tenant == endpoint.tenant, _c.endpoint == endpoint.id)
    await conn.execute(sa.update(_TABLE).where(*where).values(**_values(endpoint)))


async def rotate_secret(conn: AsyncConnection, endpoint: Endpoint, sealed_secret: bytes, overlap_end: datetime) -> None:
    """Puts a new secret in front of the present one, which signs as well until `overlap_end`."""
    await conn.execute(
        _ROTATE,
        {
            "tenant": endpoint.tenant,
            "endpoint": endpoint.id,
            "secret": sealed_secret,
            "overlap_end": overlap_end,
            "ahead": clock.ahead(),
            "previous_max": PREVIOUS_SECRETS_MAX,
            "update_time": endpoint.update_time,
            "etag": endpoint.etag,
        },
    )


async def remove(conn: AsyncConnection, tenant: str, endpoint_id: str) -> None:
    """Deletes an endpoint with its deliveries and their attempts."""
    await conn.execute(sa.delete(_TABLE).where(_c.tenant == tenant, _c.endpoint == endpoint_id))
