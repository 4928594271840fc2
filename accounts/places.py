"""Where entries and journals stand: in the ledger, in the archive, or in a period of it that is not attached.

Whoever reads the archive first locks it against a period's being detached, then asks what is detached, and reads after
that: what a period that comes back meanwhile adds is not missed by either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit.database import execute, fetch


@dataclass(frozen=True, slots=True)
class Tables:
    """Where entries and journals are read."""

    entries: str
    journals: str

    def named(self, statement: str) -> str:
        """A statement with the names in the place of {entries} and {journals}."""
        return statement.format(entries=self.entries, journals=self.journals)


LEDGER = Tables("entries", "journals")
ALL = Tables("all_entries", "all_journals")
"""The ledger and what is attached of the archive."""


@dataclass(frozen=True, slots=True)
class Detached:
    """A period of an account that is not attached."""

    period: int
    first_sequence: int
    last_sequence: int
    first_time: datetime
    last_time: datetime
    is_dated: bool
    """Whether any of its entries counts from another time than it was recorded at."""


_HOLD = "LOCK TABLE archived_journals, archived_entries IN ACCESS SHARE MODE"
_DETACHED = (
    "SELECT k.position, d.period, d.first_sequence, d.last_sequence, d.first_time, d.last_time, d.is_dated"
    " FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS k(tenant, account, position)"
    " JOIN detached_spans AS d USING (tenant, account) ORDER BY k.position, d.period"
)


async def reach(conn: AsyncConnection, tenant: str, account: str) -> int:
    """The sequence up to which an account is archived; 0 for not at all."""
    rows = await fetch(
        conn, "SELECT max(last_sequence) FROM archived_spans WHERE tenant = %s AND account = %s", (tenant, account)
    )
    return int(rows[0][0] or 0)


async def detached_of(conn: AsyncConnection, accounts: Sequence[tuple[str, str]]) -> list[list[Detached]]:
    """The periods of (tenant, account) that are not attached, in their order; none is detached before the transaction's
    end."""
    await execute(conn, _HOLD)
    found: list[list[Detached]] = [[] for _ in accounts]
    columns = [tenant for tenant, _ in accounts], [account for _, account in accounts]
    for position, *values in await fetch(conn, _DETACHED, columns):
        found[position - 1].append(Detached(*values))
    return found


async def detached_journals(conn: AsyncConnection, tenant: str, journals: Sequence[str]) -> dict[str, int]:
    """Of journals those that are sealed and in a period that is not attached, with the period; the others stay where
    they can be read until the transaction's end."""
    await execute(conn, _HOLD)
    rows = await fetch(
        conn,
        "SELECT journal::text, period FROM detached_journals WHERE tenant = %s AND journal = ANY(%s::uuid[])",
        (tenant, list(journals)),
    )
    return {row[0]: row[1] for row in rows}


async def detached_position(conn: AsyncConnection, tenant: str, *, start: int, end: int) -> tuple[int, int] | None:
    """The first of the positions [start, end) whose journal is in a period that is not attached, and that period; none
    is detached before the transaction's end."""
    await execute(conn, _HOLD)
    rows = await fetch(
        conn,
        "SELECT position, period FROM detached_journals WHERE tenant = %s AND position >= %s AND position < %s"
        " ORDER BY position LIMIT 1",
        (tenant, start, end),
    )
    return (rows[0][0], rows[0][1]) if rows else None
