"""All SQL about exceptions of the rail, and about what came in and was dealt with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import outbox
from meshkit.database import execute, fetch
from meshkit.filters import Condition
from transactions import listing, rail_events
from transactions.rail_model import ExceptionKind, ExceptionState, RailException

_COLUMNS = (
    "tenant, id, version, state, kind, resource, message_id, reference, detail, proposed_account, proposed_reason,"
    " proposed_by, decided_by, create_time, update_time"
)


async def open_exceptions(conn: AsyncConnection, exceptions: Sequence[RailException]) -> None:
    """Records exceptions that are not known yet, with their events."""
    for one in sorted(exceptions, key=lambda exception: exception.id):
        added = await fetch(
            conn,
            f"INSERT INTO rail_exceptions ({_COLUMNS})"  # noqa: S608
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, '', '', '', '', %s, %s) ON CONFLICT DO NOTHING RETURNING 1",
            (
                *(one.tenant, one.id, one.version, one.state.value, one.kind.value, one.resource, one.message_id),
                *(one.reference, one.detail, one.create_time, one.update_time),
            ),
        )
        if added:
            await outbox.append(conn, [rail_events.of_exception(one)])


async def get_exception(conn: AsyncConnection, tenant: str, id_: str, *, lock: bool = False) -> RailException | None:
    """One exception, locked if asked for; None when there is none."""
    rows = await fetch(
        conn,
        f"SELECT {_COLUMNS} FROM rail_exceptions WHERE tenant = %s AND id = %s{' FOR UPDATE' if lock else ''}",  # noqa: S608
        (tenant, id_),
    )
    return _exception(rows[0]) if rows else None


async def save_exception(conn: AsyncConnection, exception: RailException) -> None:
    """Writes a locked exception in its new state, with its event."""
    await execute(
        conn,
        "UPDATE rail_exceptions SET version = %s, state = %s, proposed_account = %s, proposed_reason = %s,"
        " proposed_by = %s, decided_by = %s, update_time = %s WHERE tenant = %s AND id = %s",
        (
            exception.version,
            exception.state.value,
            exception.proposed_account,
            exception.proposed_reason,
            exception.proposed_by,
            exception.decided_by,
            exception.update_time,
            exception.tenant,
            exception.id,
        ),
    )
    await outbox.append(conn, [rail_events.of_exception(exception)])


async def list_exceptions(
    conn: AsyncConnection,
    *,
    tenant: str,
    state: ExceptionState | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[RailException]:
    """A page of exceptions, the newest first."""
    conditions = [Condition("state", "=", state.value)] if state is not None else []
    rows = await listing.page(
        conn,
        table="rail_exceptions",
        columns=_COLUMNS,
        fields={"state": "state"},
        tenant=tenant,
        customer=None,
        conditions=conditions,
        after=after,
        limit=limit,
    )
    return [_exception(row) for row in rows]


async def claim_file(conn: AsyncConnection, tenant: str, digest: str, name: str, lease_seconds: float) -> bool | None:
    """Claims what came in for this replica; True where its effects are still to be recorded, False where they are, None
    where another replica is at it."""
    rows = await fetch(
        conn,
        "INSERT INTO rail_files AS f (tenant, digest, name, kind, message_id, refusal, claim_time)"
        " VALUES (%s, %s, %s, '', '', '', now()) ON CONFLICT (tenant, digest) DO UPDATE SET claim_time = now()"
        " WHERE f.done_time IS NULL AND f.claim_time < now() - make_interval(secs => %s) RETURNING 1",
        (tenant, digest, name, lease_seconds),
    )
    if rows:
        return True
    done = await fetch(
        conn, "SELECT done_time IS NOT NULL FROM rail_files WHERE tenant = %s AND digest = %s", (tenant, digest)
    )
    return False if done[0][0] else None


async def release_file(conn: AsyncConnection, tenant: str, digest: str) -> None:
    """Lets go of what was claimed and could not be dealt with, so that it is tried again at once."""
    await execute(
        conn,
        "UPDATE rail_files SET claim_time = '-infinity' WHERE tenant = %s AND digest = %s AND done_time IS NULL",
        (tenant, digest),
    )


async def end_file(conn: AsyncConnection, tenant: str, digest: str, kind: str, message_id: str, refusal: str) -> None:
    """Notes that all effects of what came in are recorded."""
    await execute(
        conn,
        "UPDATE rail_files SET kind = %s, message_id = %s, refusal = %s, done_time = now()"
        " WHERE tenant = %s AND digest = %s",
        (kind, message_id, refusal, tenant, digest),
    )


def _exception(row: Sequence[Any]) -> RailException:
    (
        tenant, id_, version, state, kind, resource, message_id, reference, detail, proposed_account, proposed_reason,
        proposed_by, decided_by, create_time, update_time,
    ) = row  # fmt: skip
    return RailException(
        tenant=tenant,
        id=id_,
        kind=ExceptionKind(kind),
        resource=resource,
        message_id=message_id,
        reference=reference,
        detail=detail,
        create_time=create_time,
        update_time=update_time,
        state=ExceptionState(state),
        version=version,
        proposed_account=proposed_account,
        proposed_reason=proposed_reason,
        proposed_by=proposed_by,
        decided_by=decided_by,
    )
