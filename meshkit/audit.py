"""Append-only record of privileged actions: who, what, before, after, why; it must hold no personal data."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock
from meshkit.identity import Call

_INSERT = text(
    "INSERT INTO audit (tenant, time, subject, caller, method, request_id, action, resource, before, after, why)"
    " VALUES (:tenant, now() + CAST(:ahead AS interval), :subject, :caller, :method, :request_id, :action, :resource,"
    " CAST(:before AS jsonb), CAST(:after AS jsonb), :why)"
)


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
            "before": None if before is None else json.dumps(before, default=str),
            "after": None if after is None else json.dumps(after, default=str),
            "why": why,
        },
    )
