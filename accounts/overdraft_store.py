"""SQL of overdraft thresholds and of changes that wait; takes a connection, gives model objects, decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.overdrafts import ChangeState, OverdraftChange, Threshold

_THRESHOLD = "tenant, currency, threshold, set_by, version, update_time"
_CHANGE = (
    "tenant, change::text, account, state, currency, previous_limit, new_limit, requested_by, decided_by, reason,"
    " version, create_time, expire_time, end_time"
)
_FIRST = "ffffffff-ffff-ffff-ffff-ffffffffffff"


async def threshold(conn: AsyncConnection, tenant: str, currency: str, *, lock: bool = False) -> Threshold | None:
    """The threshold of a currency, locked for a change if asked."""
    rows = await conn.execute(
        text(
            f"SELECT {_THRESHOLD} FROM overdraft_thresholds WHERE tenant = :tenant"  # noqa: S608 - a constant
            f" AND currency = :currency {'FOR NO KEY UPDATE' if lock else ''}"
        ),
        {"tenant": tenant, "currency": currency},
    )
    row = rows.first()
    return None if row is None else Threshold(*row)


async def list_thresholds(conn: AsyncConnection, tenant: str, *, after: str, limit: int) -> list[Threshold]:
    """Thresholds by currency, from behind `after` on."""
    rows = await conn.execute(
        text(
            f"SELECT {_THRESHOLD} FROM overdraft_thresholds WHERE tenant = :tenant"  # noqa: S608 - a constant
            " AND currency > :after ORDER BY currency LIMIT :limit"
        ),
        {"tenant": tenant, "after": after, "limit": limit},
    )
    return [Threshold(*row) for row in rows]


async def add_threshold(conn: AsyncConnection, added: Threshold) -> bool:
    """Adds the first threshold of a currency; False if there is one. Who adds the same one meanwhile is waited for."""
    row = await conn.execute(
        text(
            f"INSERT INTO overdraft_thresholds ({_THRESHOLD})"  # noqa: S608 - a constant
            " VALUES (:tenant, :currency, :amount, :set_by, :version, :update_time)"
            " ON CONFLICT DO NOTHING RETURNING 1"
        ),
        _threshold_values(added),
    )
    return row.first() is not None


async def save_threshold(conn: AsyncConnection, changed: Threshold) -> None:
    """Writes a threshold that was read with a lock."""
    await conn.execute(
        text(
            "UPDATE overdraft_thresholds SET threshold = :amount, set_by = :set_by, version = :version,"
            " update_time = :update_time WHERE tenant = :tenant AND currency = :currency"
        ),
        _threshold_values(changed),
    )


async def change(conn: AsyncConnection, tenant: str, change_id: str, *, lock: bool = False) -> OverdraftChange | None:
    """A change by its id, locked if asked."""
    rows = await conn.execute(
        text(
            f"SELECT {_CHANGE} FROM overdraft_changes WHERE tenant = :tenant"  # noqa: S608 - a constant
            f" AND change = CAST(:change AS uuid) {'FOR NO KEY UPDATE' if lock else ''}"
        ),
        {"tenant": tenant, "change": change_id},
    )
    row = rows.first()
    return None if row is None else _to_change(row)


async def pending(conn: AsyncConnection, tenant: str, account: str) -> OverdraftChange | None:
    """The change that waits on an account, locked; the account's row is locked already."""
    rows = await conn.execute(
        text(
            f"SELECT {_CHANGE} FROM overdraft_changes WHERE tenant = :tenant"  # noqa: S608 - a constant
            " AND account = :account AND state = 1 FOR NO KEY UPDATE"
        ),
        {"tenant": tenant, "account": account},
    )
    row = rows.first()
    return None if row is None else _to_change(row)


async def list_changes(
    conn: AsyncConnection, tenant: str, *, account: str, state: int, before: str, limit: int
) -> list[OverdraftChange]:
    """Changes by id, the newest first, from behind `before` on; of an account or in a state if given."""
    rows = await conn.execute(
        text(
            f"SELECT {_CHANGE} FROM overdraft_changes WHERE tenant = :tenant"  # noqa: S608 - a constant
            + (" AND account = :account" if account else "")
            + (" AND state = :state" if state else "")
            + " AND change < CAST(:before AS uuid) ORDER BY change DESC LIMIT :limit"
        ),
        {
            "tenant": tenant,
            "before": before or _FIRST,
            "limit": limit,
            **({"account": account} if account else {}),
            **({"state": state} if state else {}),
        },
    )
    return [_to_change(row) for row in rows]


async def add_change(conn: AsyncConnection, added: OverdraftChange) -> None:
    """Adds a change that waits."""
    await conn.execute(
        text(
            "INSERT INTO overdraft_changes (tenant, change, account, state, currency, previous_limit, new_limit,"
            " requested_by, version, create_time, expire_time)"
            " VALUES (:tenant, CAST(:change AS uuid), :account, :state, :currency,"
            " :previous_limit, :new_limit, :requested_by, :version, :create_time, :expire_time)"
        ),
        {
            "tenant": added.tenant,
            "change": added.id,
            "account": added.account,
            "state": added.state.value,
            "currency": added.currency,
            "previous_limit": added.previous_limit,
            "new_limit": added.new_limit,
            "requested_by": added.requested_by,
            "version": added.version,
            "create_time": added.create_time,
            "expire_time": added.expire_time,
        },
    )


async def save_change(conn: AsyncConnection, ended: OverdraftChange) -> None:
    """Writes how a change ended that was read with a lock."""
    await conn.execute(
        text(
            "UPDATE overdraft_changes SET state = :state, decided_by = :decided_by, reason = :reason,"
            " version = :version, end_time = :end_time WHERE tenant = :tenant AND change = CAST(:change AS uuid)"
        ),
        {
            "tenant": ended.tenant,
            "change": ended.id,
            "state": ended.state.value,
            "decided_by": ended.decided_by,
            "reason": ended.reason,
            "version": ended.version,
            "end_time": ended.end_time,
        },
    )


async def overdue(conn: AsyncConnection, now: datetime, limit: int) -> list[OverdraftChange]:
    """Changes whose time is over, of all tenants that the transaction sees; locked, those of others passed over."""
    rows = await conn.execute(
        text(
            f"SELECT {_CHANGE} FROM overdraft_changes WHERE state = 1 AND expire_time <= :now"  # noqa: S608 - a constant
            " ORDER BY expire_time LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED"
        ),
        {"now": now, "limit": limit},
    )
    return [_to_change(row) for row in rows]


def _threshold_values(one: Threshold) -> dict[str, object]:
    return {
        "tenant": one.tenant,
        "currency": one.currency,
        "amount": one.amount,
        "set_by": one.set_by,
        "version": one.version,
        "update_time": one.update_time,
    }


def _to_change(row: Sequence[Any]) -> OverdraftChange:
    tenant, change_id, account, state, *rest = row
    return OverdraftChange(tenant, change_id, account, ChangeState(state), *rest)
