"""SQL of cases; it decides nothing. Creditors' names are sealed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from compliance.model import Case, CaseState
from meshkit.cipher import Cipher
from meshkit.database import fetch

_COLUMNS = (
    "tenant, case_id, transfer, debit_account, customer, currency, amount, creditor_name, state, requested_by,"
    " resolved_by, reason, version, create_time, expire_time, resolve_time"
)


def seal_name(cipher: Cipher, tenant: str, case_id: uuid.UUID, name: str) -> bytes:
    """A creditor's name for its row."""
    return cipher.encrypt(name, _purpose(tenant, case_id))


async def read(
    conn: AsyncConnection, cipher: Cipher, tenant: str, case_id: uuid.UUID, *, lock: bool = False
) -> Case | None:
    """One case, opened."""
    found = await conn.execute(
        text(
            f"SELECT {_COLUMNS} FROM cases WHERE tenant = :tenant AND case_id = :case_id"  # noqa: S608
            + (" FOR UPDATE" if lock else "")
        ),
        {"tenant": tenant, "case_id": case_id},
    )
    row = found.first()
    return None if row is None else _case(row, cipher)


async def list_after(
    conn: AsyncConnection,
    cipher: Cipher,
    tenant: str,
    *,
    state: int,
    transfer: str,
    after: tuple[datetime, uuid.UUID],
    limit: int,
) -> list[Case]:
    """Cases, the oldest first, after one; `state` 0 and an empty `transfer` give all."""
    rows = await conn.execute(
        text(
            f"SELECT {_COLUMNS} FROM cases WHERE tenant = :tenant"  # noqa: S608
            " AND (:state = 0 OR state = :state) AND (:transfer = '' OR transfer = :transfer)"
            " AND (create_time, case_id) > (:time, :case_id) ORDER BY create_time, case_id LIMIT :limit"
        ),
        {
            "tenant": tenant,
            "state": state,
            "transfer": transfer,
            "time": after[0],
            "case_id": after[1],
            "limit": limit,
        },
    )
    return [_case(row, cipher) for row in rows]


async def save_resolution(conn: AsyncConnection, case: Case) -> None:
    """Writes how a case ended."""
    await conn.execute(
        text(
            "UPDATE cases SET state = :state, resolved_by = :resolved_by, reason = :reason, version = :version,"
            " resolve_time = :resolve_time WHERE tenant = :tenant AND case_id = :case_id"
        ),
        {
            "tenant": case.tenant,
            "case_id": case.id,
            "state": case.state.value,
            "resolved_by": case.resolved_by,
            "reason": case.reason,
            "version": case.version,
            "resolve_time": case.resolve_time,
        },
    )


async def expire(conn: AsyncConnection, cipher: Cipher, now: datetime, *, limit: int) -> list[Case]:
    """Ends open cases whose time has passed; those that somebody is resolving are left to them."""
    rows = await conn.exec_driver_sql(
        "UPDATE cases SET state = %s, version = version + 1, resolve_time = %s WHERE (tenant, case_id) IN"  # noqa: S608
        " (SELECT tenant, case_id FROM cases WHERE state = 1 AND expire_time <= %s"
        f" ORDER BY expire_time LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING {_COLUMNS}",
        (CaseState.EXPIRED.value, now, now, limit),
    )
    return [_case(row, cipher) for row in rows]


async def make_moot(
    conn: AsyncConnection, cipher: Cipher, transfers: Sequence[tuple[str, str]], now: datetime
) -> list[Case]:
    """Ends the open cases of (tenant, transfer) that became final without them."""
    keys = sorted(transfers)
    rows = await fetch(
        conn,
        "UPDATE cases SET state = %s, version = version + 1, resolve_time = %s WHERE state = 1"  # noqa: S608
        " AND (tenant, transfer) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"
        f" RETURNING {_COLUMNS}",
        (CaseState.MOOT.value, now, [key[0] for key in keys], [key[1] for key in keys]),
    )
    return [_case(row, cipher) for row in rows]


def _purpose(tenant: str, case_id: uuid.UUID) -> str:
    return f"cases.creditor_name/{tenant}/{case_id}"


def _case(row: Sequence[Any], cipher: Cipher) -> Case:
    tenant, case_id, transfer, debit_account, customer, currency, amount, creditor_name, state, *rest = row
    opened = cipher.decrypt(creditor_name, _purpose(tenant, case_id))
    return Case(tenant, case_id, transfer, debit_account, customer, currency, amount, opened, CaseState(state), *rest)
