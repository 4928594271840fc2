"""SQL that moves journals with their entries from the ledger into the archive; it decides nothing.

A row is moved by one statement, taken from the ledger and put into the archive, so it is in exactly one of the two
whatever ends the transaction. Statements here lock nothing that a posting needs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import seal_store
from accounts.archive import Reach, Sealed
from accounts.places import LEDGER, Tables
from meshkit.database import fetch

_LOCK_CLASS = 0x61726368  # "arch": one archiver at a time for each tenant


@dataclass(frozen=True, slots=True)
class Window:
    """Some sealed journals that are still in the ledger, in the order of the log."""

    journals: list[Sealed]
    end: int
    """The position behind the last one that was looked at."""
    size: int
    """The log's size, by its newest head."""


@dataclass(frozen=True, slots=True)
class Put:
    """How much of a tenant was put into a period, and between which positions of the log it stands."""

    tenant: str
    journals: int
    entries: int
    first_position: int
    last_position: int


_TRANSACTION_MAX = 5000
"""Journals of one transaction at most, by the bounds of ACCOUNTS_LEDGER_BATCH_MAX."""

# The limits keep this a look-up for each: as a plain join, planned while the tables were small, it might go through all
# of a tenant's journals for each position.
_WINDOW = (
    "SELECT s.position, s.journal::text, s.leaf_hash, j.xid::text, j.kind, j.origin, j.create_time, j.effective_time"  # noqa: S608
    " FROM sealed_journals AS s CROSS JOIN LATERAL"
    f" (SELECT j.xid, j.tenant, j.journal, {seal_store.JOURNAL} FROM {{journals}} AS j"
    " WHERE j.tenant = s.tenant AND j.journal = s.journal LIMIT 1) AS j"
    " WHERE s.tenant = %s AND s.position >= %s AND s.position < %s AND (%s::text IS NULL OR j.xid = %s::text::xid8)"
    # The rows of the bank's own journals stay when their entries are moved.
    " AND (j.kind <> 4 OR (SELECT true FROM {entries} AS e"
    " WHERE e.tenant = j.tenant AND e.journal = j.journal LIMIT 1))"
    " ORDER BY s.position LIMIT %s"
)
_REACHES = (
    "SELECT k.account, s.last_sequence, s.period FROM unnest(%s::text[]) AS k(account) CROSS JOIN LATERAL"
    " (SELECT last_sequence, period FROM archived_spans WHERE tenant = %s AND account = k.account"
    " ORDER BY period DESC LIMIT 1) AS s"
)
_MOVE_ENTRIES = """
WITH moved AS (
    DELETE FROM entries WHERE tenant = %s AND journal = ANY(%s::uuid[]) RETURNING *
), kept AS (
    INSERT INTO archived_entries (tenant, period, account, sequence, journal, leg, currency, amount, balance_after,
        create_time, effective_time)
    SELECT tenant, %s::smallint, account, sequence, journal, leg, currency, amount, balance_after, create_time,
        effective_time FROM moved RETURNING 1
), told AS (
    INSERT INTO archived_spans AS s (tenant, account, period, first_sequence, last_sequence, opening, closing,
        first_time, last_time, is_dated)
    SELECT tenant, account, %s::smallint, min(sequence), max(sequence),
        (array_agg(balance_after - amount ORDER BY sequence))[1], (array_agg(balance_after ORDER BY sequence DESC))[1],
        min(create_time), max(create_time), bool_or(effective_time <> create_time)
    FROM moved GROUP BY tenant, account
    ON CONFLICT ON CONSTRAINT archived_spans_pk DO UPDATE SET last_sequence = EXCLUDED.last_sequence,
        closing = EXCLUDED.closing, last_time = EXCLUDED.last_time, is_dated = s.is_dated OR EXCLUDED.is_dated
    WHERE EXCLUDED.first_sequence = s.last_sequence + 1 AND EXCLUDED.opening = s.closing
    RETURNING 1
)
SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM kept), (SELECT count(*) FROM told)
"""
_MOVE_JOURNALS = """
WITH moved AS (
    DELETE FROM journals WHERE tenant = %s AND journal = ANY(%s::uuid[]) AND kind <> 4 RETURNING *
), kept AS (
    INSERT INTO archived_journals (tenant, period, journal, kind, origin, create_time, effective_time, xid)
    SELECT tenant, %s::smallint, journal, kind, origin, create_time, effective_time, xid FROM moved RETURNING 1
)
SELECT count(*) FROM kept
"""
_COUNT = (
    "INSERT INTO archived_periods AS p (tenant, period, journals, entries, first_position, last_position)"
    " VALUES (%s, %s, %s, %s, %s, %s)"
    " ON CONFLICT ON CONSTRAINT archived_periods_pk DO UPDATE SET journals = p.journals + EXCLUDED.journals,"
    " entries = p.entries + EXCLUDED.entries, first_position = least(p.first_position, EXCLUDED.first_position),"
    " last_position = greatest(p.last_position, EXCLUDED.last_position) RETURNING 1"
)
_SET_PROGRESS = (
    "INSERT INTO archive_progress (tenant, position) VALUES (%s, %s)"
    " ON CONFLICT ON CONSTRAINT archive_progress_pk DO UPDATE SET position = EXCLUDED.position"
)


async def own(conn: AsyncConnection, tenant: str) -> bool:
    """Whether this transaction is the one that archives the tenant's journals; false while another does."""
    rows = await fetch(conn, "SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", (_LOCK_CLASS, tenant))
    return bool(rows[0][0])


async def tenants(conn: AsyncConnection) -> list[str]:
    """All of them."""
    return [row[0] for row in await fetch(conn, "SELECT tenant FROM tenants ORDER BY tenant")]


async def progress(conn: AsyncConnection, tenant: str) -> int:
    """The position below which no journal of a tenant is in the ledger any more."""
    rows = await fetch(conn, "SELECT position FROM archive_progress WHERE tenant = %s", (tenant,))
    return int(rows[0][0]) if rows else 0


async def window(conn: AsyncConnection, tenant: str, *, start: int, limit: int, span: int) -> Window:
    """The sealed journals from a position on that are in the ledger: so many, and those of the last one's transaction,
    whose order among themselves is not that of their entries; of `span` positions at most."""
    rows = await fetch(
        conn, "SELECT tree_size FROM tree_heads WHERE tenant = %s ORDER BY tree_size DESC LIMIT 1", (tenant,)
    )
    size = int(rows[0][0]) if rows else 0
    end = min(start + span, size)
    found = await _sealed(conn, LEDGER, tenant, start, end, limit)
    if len(found) == limit:
        last, xid = found[-1][0].position, found[-1][1]
        found += await _sealed(
            conn, LEDGER, tenant, last + 1, min(last + 1 + _TRANSACTION_MAX, size), _TRANSACTION_MAX, xid
        )
        end = found[-1][0].position + 1
    return Window([one for one, _ in found], end, size)


async def _sealed(
    conn: AsyncConnection, tables: Tables, tenant: str, start: int, end: int, limit: int, xid: str | None = None
) -> list[tuple[Sealed, str]]:
    """Sealed journals of positions [start, end) that have entries in the tables, or none anywhere, each with the number
    of its transaction; of one transaction alone if asked."""
    rows = await fetch(conn, tables.named(_WINDOW), (tenant, start, end, xid, xid, limit))
    contents = await seal_store.contents(conn, tables, tenant, [(row[1], row[4:]) for row in rows])
    return [(Sealed(row[0], bytes(row[2]), content), row[3]) for row, content in zip(rows, contents, strict=True)]


async def period_tables(conn: AsyncConnection, period: int) -> Tables | None:
    """The tables of a period that is not attached, with the rows of the bank's own journals, which stay in the ledger.
    None for a period that is attached. Raises LookupError where a table is not there."""
    ((is_attached, *are_there),) = await fetch(
        conn,
        "SELECT archive_attached(%s::smallint), to_regclass(%s) IS NOT NULL, to_regclass(%s) IS NOT NULL",
        (period, f"archived_journals_{period}", f"archived_entries_{period}"),
    )
    if is_attached:
        return None
    for table, is_there in zip((f"archived_journals_{period}", f"archived_entries_{period}"), are_there, strict=True):
        if not is_there:
            raise LookupError(table)
    columns = "tenant, journal, kind, origin, create_time, effective_time, xid"
    return Tables(
        f"archived_entries_{period}",
        f"(SELECT {columns} FROM archived_journals_{period} UNION ALL SELECT {columns} FROM journals WHERE kind = 4)",  # noqa: S608
    )


async def put_there(conn: AsyncConnection, period: int) -> list[Put]:
    """What was put into a period, by tenants."""
    rows = await fetch(
        conn,
        "SELECT tenant, journals, entries, first_position, last_position FROM archived_periods WHERE period = %s"
        " ORDER BY tenant",
        (period,),
    )
    return [Put(*row) for row in rows]


async def sealed_of(conn: AsyncConnection, tables: Tables, put: Put, *, start: int, limit: int) -> list[Sealed]:
    """The next journals of a tenant in a period's tables, from a position of the log on."""
    return [one for one, _ in await _sealed(conn, tables, put.tenant, start, put.last_position + 1, limit)]


async def numbers(conn: AsyncConnection, period: int) -> tuple[int, int]:
    """How many rows the tables of a period have: journals and entries, of all tenants."""
    ((journals, entries),) = await fetch(
        conn,
        f"SELECT (SELECT count(*) FROM archived_journals_{period}), (SELECT count(*) FROM archived_entries_{period})",  # noqa: S608
    )
    return journals, entries


async def detach(conn: AsyncConnection, period: int) -> None:
    """Takes a period's tables off."""
    await fetch(conn, "SELECT archive_detach(%s::smallint)", (period,))


async def attach(conn: AsyncConnection, period: int) -> None:
    """Attaches a period's tables."""
    await fetch(conn, "SELECT archive_attach(%s::smallint)", (period,))


async def reaches(conn: AsyncConnection, tenant: str, accounts: Collection[str]) -> dict[str, Reach]:
    """How far the accounts are archived; nothing for those of which nothing is."""
    rows = await fetch(conn, _REACHES, (sorted(accounts), tenant))
    return {account: Reach(sequence, period) for account, sequence, period in rows}


async def open_period(conn: AsyncConnection, period: int) -> bool:
    """Makes a period's tables where there are none; false where they are detached."""
    rows = await fetch(conn, "SELECT archive_open(%s::smallint)", (period,))
    return bool(rows[0][0])


async def move(conn: AsyncConnection, tenant: str, moved: Sequence[Sealed], period: int) -> tuple[int, int, int]:
    """Takes journals with their entries out of the ledger, and puts them into a period; of the bank's own journals the
    entries alone. Gives how many journals and entries were moved, and how many spans of accounts were told of them.
    """
    journals = [one.content.journal for one in moved]
    ((taken, kept, told),) = await fetch(conn, _MOVE_ENTRIES, (tenant, journals, period, period))
    ((rows,),) = await fetch(conn, _MOVE_JOURNALS, (tenant, journals, period))
    positions = [one.position for one in moved]
    await fetch(conn, _COUNT, (tenant, period, len(moved), taken, min(positions), max(positions)))
    return int(rows), int(kept) if kept == taken else -1, int(told)


async def set_progress(conn: AsyncConnection, tenant: str, position: int) -> None:
    """Notes that below a position no journal is in the ledger."""
    await fetch(conn, _SET_PROGRESS + " RETURNING 1", (tenant, position))
