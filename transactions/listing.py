"""A page of what is listed by a filter, the newest first: the one statement of transfers and schedules alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit.filters import Condition


async def page(
    conn: AsyncConnection,
    *,
    table: str,
    columns: str,
    fields: Mapping[str, str],
    tenant: str,
    customer: str | None,
    conditions: Sequence[Condition],
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Any]:
    """The rows after a position, of the customer unless that is None; new ones do not move what comes later.

    `table`, `columns` and `fields`, a filter's field → its column, are constants of the caller.
    """
    where = ["tenant = :tenant"]
    values: dict[str, Any] = {"tenant": tenant, "limit": limit}
    if customer is not None:
        where.append("customers @> ARRAY[:customer]")
        values["customer"] = customer
    for number, condition in enumerate(conditions):
        # Field and operator come from fixed tables, the value is a parameter.
        where.append(f"{fields[condition.field]} {condition.operator} :value_{number}")
        values[f"value_{number}"] = condition.value
    if after is not None:
        where.append("(create_time, id) < (:after_time, :after_id)")
        values["after_time"], values["after_id"] = after
    statement = (
        f"SELECT {columns} FROM {table} WHERE {' AND '.join(where)}"  # noqa: S608
        " ORDER BY create_time DESC, id DESC LIMIT :limit"
    )
    return (await conn.execute(text(statement), values)).all()
