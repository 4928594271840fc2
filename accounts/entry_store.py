"""SQL of entries that are read: from the ledger, and from the archive where the ledger has them no more.

What is archived of an account is a beginning of its entries (`archive.py`), so a page that the ledger fills, or whose
first entry it has, is whole there. Any other is read anew from both in a single statement: no row is seen twice or not
at all, though rows are being moved meanwhile. Reads of the present ask nothing of the archive.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import places
from accounts.archive_errors import ArchivedPeriodNotAttached
from accounts.model import Entry, JournalKind
from accounts.places import ALL, LEDGER, Tables
from meshkit.database import fetch

ENTRY = (
    "e.account, e.journal::text, e.currency, e.amount, e.balance_after, e.sequence, j.kind, j.origin, e.create_time,"
    " e.effective_time"
)

# Of both places the page is taken before its journals are: else the planner may take all entries, and sort them.
_NEWEST = (
    f"SELECT {ENTRY} FROM (SELECT * FROM {{entries}} WHERE tenant = %s AND account = %s AND sequence < %s"  # noqa: S608
    " ORDER BY sequence DESC LIMIT %s) AS e JOIN {journals} AS j USING (tenant, journal) ORDER BY e.sequence DESC"
)
_BETWEEN = (
    f"SELECT {ENTRY} FROM (SELECT * FROM {{entries}} WHERE tenant = %s AND account = %s AND sequence > %s"  # noqa: S608
    " AND sequence <= %s ORDER BY sequence LIMIT %s) AS e JOIN {journals} AS j USING (tenant, journal)"
    " ORDER BY e.sequence"
)


async def list_entries(conn: AsyncConnection, tenant: str, account: str, *, before: int, limit: int) -> list[Entry]:
    """An account's entries, the newest first, with sequences below `before`: fewer than `limit` where they end, or go
    on in a period that is not attached. Raises ArchivedPeriodNotAttached where there is none before that."""
    asked = (tenant, account, before, limit)
    found = await _entries(conn, _NEWEST, LEDGER, asked)
    if len(found) == limit or before <= 1 or (found and found[-1].sequence == 1):
        return found
    if not await places.reach(conn, tenant, account):
        return found
    (detached,) = await places.detached_of(conn, [(tenant, account)])
    found = await _entries(conn, _NEWEST, ALL, asked)
    cut = next((one for one in reversed(detached) if one.first_sequence < before), None)
    if cut is None or (len(found) == limit and found[-1].sequence > cut.last_sequence):
        return found
    above = [entry for entry in found if entry.sequence > cut.last_sequence]
    if not above:
        raise ArchivedPeriodNotAttached(cut.period, f"accounts/{account} up to entry {cut.last_sequence}")
    return above


async def entries_between(
    conn: AsyncConnection, tenant: str, account: str, *, after: int, up_to: int, limit: int
) -> list[Entry]:
    """An account's entries with sequences above `after`, up to `up_to`, the oldest first: up to the next period that is
    not attached. Raises ArchivedPeriodNotAttached where the first one is in such a period."""
    asked = (tenant, account, after, up_to, limit)
    found = await _entries(conn, _BETWEEN, LEDGER, asked)
    if up_to <= after or (found and found[0].sequence == after + 1):
        return found
    if await places.reach(conn, tenant, account) <= after:
        return found
    (detached,) = await places.detached_of(conn, [(tenant, account)])
    found = await _entries(conn, _BETWEEN, ALL, asked)
    cut = next((one for one in detached if one.last_sequence > after), None)
    if cut is None:
        return found
    if cut.first_sequence <= after + 1:
        raise ArchivedPeriodNotAttached(cut.period, f"accounts/{account} from entry {after + 1} on")
    return [entry for entry in found if entry.sequence < cut.first_sequence]


def to_entry(row: Any) -> Entry:
    """An entry of the columns of `ENTRY`."""
    account, journal_id, currency, amount, after, sequence, kind, origin, created, effective = row
    return Entry(account, journal_id, currency, amount, after, sequence, JournalKind(kind), origin, created, effective)


async def _entries(conn: AsyncConnection, statement: str, tables: Tables, asked: tuple[object, ...]) -> list[Entry]:
    return [to_entry(row) for row in await fetch(conn, tables.named(statement), asked)]
