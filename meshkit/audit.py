"""Append-only record of privileged actions: who, what, before, after, why; it must hold no personal data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock
from meshkit.database import execute
from meshkit.identity import Call

_INSERT = text(
    "INSERT INTO audit (tenant, time, subject, caller, method, request_id, action, resource, before, after, why)"
    " VALUES (:tenant, now() + CAST(:ahead AS interval), :subject, :caller, :method, :request_id, :action, :resource,"
    " CAST(:before AS jsonb), CAST(:after AS jsonb), :why)"
)
_INSERT_ALL = (
    "INSERT INTO audit (tenant, time, subject, caller, method, request_id, action, resource, before, after, why)"
    " SELECT r.tenant, now() + %s::interval, r.subject, r.caller, r.method, r.request_id, r.action, r.resource,"
    " r.before::jsonb, r.after::jsonb, r.why FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[],"
    " %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])"
    " AS r(tenant, subject, caller, method, request_id, action, resource, before, after, why)"
)


@dataclass(frozen=True, slots=True)
class Action:
    """A privileged action that is to be recorded, and the call that it was done for."""

    call: Call
    action: str
    resource: str
    before: Mapping[str, object] | None
    after: Mapping[str, object] | None
    why: str = ""


async def record(
    conn: AsyncConnection,
    call: Call,
    *,
    action: str,
    resource: str,
    before: Mapping[str, object] | None,
    after: Mapping[str, object] | None,
    why: str = "",
) -> None:
    """Writes one audit row in the transaction of the action."""
    await conn.execute(
        _INSERT,
        {
            "tenant": call.tenant,
            "ahead": clock.ahead(),
            "subject": call.who.subject,
            "caller": call.caller,
            "method": call.method,
            "request_id": call.request_id,
            "action": action,
            "resource": resource,
            "before": _json(before),
            "after": _json(after),
            "why": why,
        },
    )


async def record_all(conn: AsyncConnection, actions: Sequence[Action]) -> None:
    """Writes an audit row for each of many actions, in the transaction of them all, by one statement."""
    if not actions:
        return
    await execute(
        conn,
        _INSERT_ALL,
        (
            clock.ahead(),
            [one.call.tenant for one in actions],
            [one.call.who.subject for one in actions],
            [one.call.caller for one in actions],
            [one.call.method for one in actions],
            [one.call.request_id for one in actions],
            [one.action for one in actions],
            [one.resource for one in actions],
            [_json(one.before) for one in actions],
            [_json(one.after) for one in actions],
            [one.why for one in actions],
        ),
    )


def _json(values: Mapping[str, object] | None) -> str | None:
    return None if values is None else json.dumps(values, default=str)
