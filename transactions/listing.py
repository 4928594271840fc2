"""Pages of what is listed, the newest first: the one statement of them all, and the tokens between one and the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import pages
from meshkit.database import Database
from meshkit.errors import PageTokenInvalid
from meshkit.filters import Condition

Position = tuple[datetime, str]
"""Where a page begins: after what was made then, under this id."""


class Listed(Protocol):
    """What lists are ordered by."""

    @property
    def create_time(self) -> datetime:
        """When it was made."""

    @property
    def id(self) -> str:
        """Its id."""


async def paged[T: Listed](
    db: Database,
    tenant: str,
    read: Callable[[AsyncConnection, Position | None, int], Awaitable[list[T]]],
    *,
    kind: str,
    scope: str,
    page_size: int,
    page_token: str,
) -> tuple[list[T], str]:
    """A page of what `read` gives after a position, at most so many, and the next page's token.

    `kind` and `scope`, whose list by which filter, are what a token belongs to. Raises PageTokenInvalid.
    """
    key = pages.decode(kind, scope, page_token, shape=(str, str))
    after, limit = _position(key) if key else None, pages.size(page_size)
    found = await db.run(tenant, lambda conn: read(conn, after, limit + 1), read_only=True)
    if len(found) <= limit:
        return found, ""
    last = found[limit - 1]
    return found[:limit], pages.encode(kind, scope, [last.create_time.isoformat(), last.id])


def _position(values: Sequence[str | int]) -> Position:
    """Where a page begins. Raises PageTokenInvalid when a made-up token names no time."""
    try:
        moment = datetime.fromisoformat(str(values[0]))
    except ValueError:
        raise PageTokenInvalid from None
    if moment.tzinfo is None:
        raise PageTokenInvalid
    return moment, str(values[1])


async def page(
    conn: AsyncConnection,
    *,
    table: str,
    columns: str,
    fields: Mapping[str, str],
    tenant: str,
    customer: str | None,
    conditions: Sequence[Condition],
    after: Position | None,
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
