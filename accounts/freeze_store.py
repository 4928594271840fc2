"""SQL of freezes and findings; takes a connection, gives model objects, decides nothing.

A batch of steps holds its tenants' locks shared from before it locks accounts until it commits (ledger_store.py); who
freezes or unfreezes a ledger holds its tenant's alone. So a freeze waits for the batches under way, and each one after
it sees the freeze.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.freezes import Finding, Freeze, FreezeState, lock_key
from meshkit.database import execute, fetch

LOCK_CLASS = 0x66727A65  # "frze": locks of tenants' ledgers

_FREEZE = (
    "tenant, freeze_id::text, currency, state, reason, finding_count, version, create_time, update_time, ended_by,"
    " note, findings_accepted, end_time"
)
_FINDING = "f.tenant, z.currency, f.invariant, f.object, f.sentence, f.found_time"
_LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


async def lock(conn: AsyncConnection, tenant: str) -> None:
    """Waits until no batch of the tenant's steps is under way, and keeps others out until the transaction ends."""
    await execute(conn, "SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, lock_key(tenant)))


async def standing(conn: AsyncConnection, tenant: str, currency: str) -> Freeze | None:
    """The freeze that stands of a currency."""
    statement = f"SELECT {_FREEZE} FROM ledger_freezes WHERE tenant = %s AND currency = %s AND state = 1"  # noqa: S608
    rows = await fetch(conn, statement, (tenant, currency))
    return _freeze(rows[0]) if rows else None


async def all_standing(conn: AsyncConnection, tenant: str) -> list[Freeze]:
    """All freezes that stand, by currency."""
    statement = f"SELECT {_FREEZE} FROM ledger_freezes WHERE tenant = %s AND state = 1 ORDER BY currency"  # noqa: S608
    return [_freeze(row) for row in await fetch(conn, statement, (tenant,))]


async def freeze(conn: AsyncConnection, tenant: str, id_: str) -> Freeze | None:
    """A freeze by its id."""
    statement = f"SELECT {_FREEZE} FROM ledger_freezes WHERE tenant = %s AND freeze_id = %s::uuid"  # noqa: S608
    rows = await fetch(conn, statement, (tenant, id_))
    return _freeze(rows[0]) if rows else None


async def list_freezes(conn: AsyncConnection, tenant: str, *, state: int, before: str, limit: int) -> list[Freeze]:
    """Freezes by id, the newest first, from behind `before` on; in a state if given."""
    rows = await conn.execute(
        text(
            f"SELECT {_FREEZE} FROM ledger_freezes WHERE tenant = :tenant"  # noqa: S608 - a constant
            + (" AND state = :state" if state else "")
            + " AND freeze_id < CAST(:before AS uuid) ORDER BY freeze_id DESC LIMIT :limit"
        ),
        {"tenant": tenant, "before": before or _LAST_ID, "limit": limit, **({"state": state} if state else {})},
    )
    return [_freeze(row) for row in rows]


async def add_freeze(conn: AsyncConnection, added: Freeze) -> None:
    """Adds a freeze that stands."""
    await execute(
        conn,
        "INSERT INTO ledger_freezes (tenant, freeze_id, currency, state, reason, finding_count, version, create_time,"
        " update_time) VALUES (%s, %s::uuid, %s, %s, %s, %s, %s, %s, %s)",
        (
            added.tenant,
            added.id,
            added.currency,
            added.state.value,
            added.reason,
            added.finding_count,
            added.version,
            added.create_time,
            added.update_time,
        ),
    )


async def save_freeze(conn: AsyncConnection, changed: Freeze) -> None:
    """Writes a freeze that was read under the tenant's lock."""
    await execute(
        conn,
        "UPDATE ledger_freezes SET state = %s, finding_count = %s, version = %s, update_time = %s, ended_by = %s,"
        " note = %s, findings_accepted = %s, end_time = %s WHERE tenant = %s AND freeze_id = %s::uuid",
        (
            changed.state.value,
            changed.finding_count,
            changed.version,
            changed.update_time,
            changed.ended_by,
            changed.note,
            changed.findings_accepted,
            changed.end_time,
            changed.tenant,
            changed.id,
        ),
    )


async def known_findings(conn: AsyncConnection, tenant: str, ids: Sequence[str]) -> set[str]:
    """Those of some findings that stand with a freeze that stands, or that were accepted."""
    rows = await fetch(
        conn,
        "SELECT f.finding::text FROM ledger_findings AS f JOIN ledger_freezes AS z USING (tenant, freeze_id)"
        " WHERE f.tenant = %s AND f.finding = ANY (%s::uuid[]) AND (z.state = 1 OR z.findings_accepted)",
        (tenant, list(ids)),
    )
    return {row[0] for row in rows}


async def ended_count(conn: AsyncConnection, tenant: str, currency: str) -> int:
    """How many freezes of a currency have ended."""
    statement = "SELECT count(*) FROM ledger_freezes WHERE tenant = %s AND currency = %s AND state = 2"
    return int((await fetch(conn, statement, (tenant, currency)))[0][0])


async def add_findings(conn: AsyncConnection, freeze_id: str, added: Sequence[Finding]) -> None:
    """Adds findings to a freeze."""
    await execute(
        conn,
        "INSERT INTO ledger_findings (tenant, finding, freeze_id, invariant, object, sentence, found_time)"
        " SELECT n.tenant, n.finding, %s::uuid, n.invariant, n.object, n.sentence, n.found_time"
        " FROM unnest(%s::text[], %s::uuid[], %s::text[], %s::text[], %s::text[], %s::timestamptz[])"
        " AS n(tenant, finding, invariant, object, sentence, found_time)",
        (
            freeze_id,
            [finding.tenant for finding in added],
            [finding.id for finding in added],
            [finding.invariant for finding in added],
            [finding.object for finding in added],
            [finding.sentence for finding in added],
            [finding.found_time for finding in added],
        ),
    )


async def list_findings(conn: AsyncConnection, tenant: str, freeze_id: str, *, after: str, limit: int) -> list[Finding]:
    """A freeze's findings by id, from behind `after` on."""
    rows = await conn.execute(
        text(
            f"SELECT {_FINDING} FROM ledger_findings AS f"  # noqa: S608 - a constant
            " JOIN ledger_freezes AS z USING (tenant, freeze_id) WHERE f.tenant = :tenant"
            " AND f.freeze_id = CAST(:freeze AS uuid) AND f.finding > CAST(:after AS uuid)"
            " ORDER BY f.finding LIMIT :limit"
        ),
        {
            "tenant": tenant,
            "freeze": freeze_id,
            "after": after or "00000000-0000-0000-0000-000000000000",
            "limit": limit,
        },
    )
    return [Finding(*row) for row in rows]


def _freeze(row: Sequence[Any]) -> Freeze:
    tenant, id_, currency, state, *rest = row
    return Freeze(tenant, id_, currency, FreezeState(state), *rest)
