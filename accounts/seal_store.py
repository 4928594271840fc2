"""The sealed history's SQL: which journals come next, the log's rows, its tree and its heads; it decides nothing."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import journal_store, places
from accounts.archive_errors import ArchivedPeriodNotAttached
from accounts.history import MICROSECONDS, Head, JournalContent, SealedEntry
from accounts.merkle import Node
from accounts.model import JournalKind, Metadata
from accounts.places import ALL, LEDGER, Tables
from meshkit import clock
from meshkit.database import execute, fetch

_LOCK_CLASS = 0x7365616C  # "seal": one sealer at a time in the whole database


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last journal that was looked at, in the order in which journals are sealed.

    Transactions count on while a database stays on its server, or on a copy of its files. Restored from a dump, they
    are counted by another server: that is another era.
    """

    era: int
    server: int | None
    """The system identifier of the server whose transactions it is about; None where nothing was sealed yet."""
    xid: str
    """A number of PostgreSQL's type xid8, as text."""
    journal: str


BEGINNING = Cursor(1, None, "0", str(uuid.UUID(int=0)))


@dataclass(frozen=True, slots=True)
class Page:
    """What comes next. `is_moved` says that the cursor's transaction is of another server than `server`, this one."""

    is_moved: bool
    server: int
    journals: list[tuple[JournalContent, str]]
    """Those that are not sealed yet, each with its transaction."""
    count: int
    last: Cursor | None
    """The last one looked at; None where there was none."""


@dataclass(frozen=True, slots=True)
class LogState:
    """A tenant's log as its newest head tells: its size and root, and the number of heads so far."""

    tree_size: int
    root_hash: bytes
    number: int


@dataclass(frozen=True, slots=True)
class NewHead:
    """A head that is to be stored, with the last of its journals."""

    head: Head
    number: int
    last: Cursor


JOURNAL = (
    f"j.kind, j.origin, {MICROSECONDS.format('j.create_time')} AS create_time,"
    f" {MICROSECONDS.format('j.effective_time')} AS effective_time"
)

# Transactions end in another order than they begin in. Below the snapshot's xmin all have ended: what they left is seen
# by this very statement, and nothing can come before it any more. Of another server's transactions all have ended.
# Numbers do not tell whose they are: a server that counts lower may have passed the cursor before anybody looked.
_NEXT = (
    "SELECT h.is_moved, h.server, j.xid::text, j.tenant, j.journal::text, j.kind, j.origin, j.create_time,"  # noqa: S608
    " j.effective_time, s.is_sealed FROM (SELECT o.system_identifier AS server,"
    " c.server <> o.system_identifier AS is_moved,"
    " CASE WHEN c.server <> o.system_identifier THEN '18446744073709551615'::xid8"
    " ELSE pg_snapshot_xmin(pg_current_snapshot()) END AS horizon"
    " FROM pg_control_system() AS o, (SELECT %s::bigint AS server) AS c) AS h"
    f" LEFT JOIN LATERAL (SELECT j.xid, j.tenant, j.journal, {JOURNAL} FROM journals AS j"
    " WHERE (j.xid, j.journal) > (%s::text::xid8, %s::uuid) AND j.xid < h.horizon"
    " ORDER BY j.xid, j.journal LIMIT %s) AS j ON true"
    # The limit keeps this a look-up for each: as a plain join it might read the whole log, every second.
    " LEFT JOIN LATERAL (SELECT true AS is_sealed FROM sealed_journals AS s"
    " WHERE s.tenant = j.tenant AND s.journal = j.journal LIMIT 1) AS s ON true ORDER BY j.xid, j.journal"
)
_OLDEST = (
    f"SELECT coalesce({MICROSECONDS.format('create_time')}, 0) FROM journals AS j"  # noqa: S608
    " WHERE (j.xid, j.journal) > (%s::text::xid8, %s::uuid) ORDER BY j.xid, j.journal LIMIT 1"
)
# Each journal's entries are looked up for themselves, as in journal_store.
_ENTRIES = (
    "SELECT e.tenant, e.journal::text, e.account, e.sequence, e.currency, e.amount, e.balance_after"
    " FROM unnest(%s::text[], %s::uuid[]) AS k(tenant, journal) CROSS JOIN LATERAL"
    " (SELECT * FROM {entries} AS e WHERE e.tenant = k.tenant AND e.journal = k.journal OFFSET 0) AS e"
    " ORDER BY e.tenant, e.journal, e.leg"
)
_STATES = (
    "SELECT k.tenant, h.tree_size, h.root_hash, h.number FROM unnest(%s::text[]) AS k(tenant) CROSS JOIN LATERAL"
    " (SELECT tree_size, root_hash, number FROM tree_heads WHERE tenant = k.tenant"
    " ORDER BY tree_size DESC LIMIT 1) AS h"
)
_NODES = (
    "SELECT tenant, level, number, hash FROM tree_nodes"
    " JOIN unnest(%s::text[], %s::smallint[], %s::bigint[]) AS k(tenant, level, number) USING (tenant, level, number)"
)
_LEAVES = (
    "SELECT tenant, position, leaf_hash FROM sealed_journals"
    " JOIN unnest(%s::text[], %s::bigint[]) AS k(tenant, position) USING (tenant, position)"
)
_HEAD = (
    f"SELECT tree_size, root_hash, {MICROSECONDS.format('time')}, key_id, signature FROM tree_heads"  # noqa: S608
    " WHERE tenant = %s"
)
_EXPORT = (
    "SELECT s.position, s.journal::text, s.leaf_hash, j.journal IS NOT NULL,"  # noqa: S608
    f" {JOURNAL} FROM sealed_journals AS s LEFT JOIN {{journals}} AS j USING (tenant, journal)"
    " WHERE s.tenant = %s AND s.position >= %s AND s.position < %s ORDER BY s.position"
)


async def own(conn: AsyncConnection) -> bool:
    """Whether this transaction is the one that seals; false while another does."""
    rows = await fetch(conn, "SELECT pg_try_advisory_xact_lock(%s, 0)", (_LOCK_CLASS,))
    return bool(rows[0][0])


async def cursor(conn: AsyncConnection) -> tuple[Cursor, datetime | None]:
    """Where the last pass that sealed anything ended, and when it signed; None for never."""
    rows = await fetch(
        conn,
        # By the columns, which the texts in front of them hide: 999 is not after 1000.
        "SELECT era, server, last_xid::text, last_journal::text, time FROM tree_heads AS h"
        " ORDER BY h.era DESC, h.last_xid DESC, h.last_journal DESC LIMIT 1",
    )
    if not rows:
        return BEGINNING, None
    era, server, xid, journal, time = rows[0]
    return Cursor(era, server, xid, journal), time


async def next_journals(conn: AsyncConnection, after: Cursor, *, limit: int) -> Page:
    """The journals that come after the cursor, of transactions that nothing can come before any more."""
    rows = await fetch(conn, _NEXT, (after.server, after.xid, after.journal, limit))
    is_moved, server = bool(rows[0][0]), rows[0][1]
    found = [row[2:] for row in rows if row[2] is not None]
    wanted = [row for row in found if not row[-1]]
    entries = await _entries(conn, LEDGER, [(row[1], row[2]) for row in wanted])
    # On a payment's journal nothing is written. What somebody else wrote on one is not sealed, and so is found.
    manual = [(row[1], row[2]) for row in wanted if row[3] == JournalKind.MANUAL]
    metadata = await journal_store.metadata(conn, manual)
    journals = [
        (_content(tenant, journal, facts, entries, metadata), xid) for xid, tenant, journal, *facts, _ in wanted
    ]
    # What came from another server is numbered by that one until all of it is sealed.
    last = Cursor(after.era, after.server if is_moved else server, found[-1][0], found[-1][2]) if found else None
    return Page(is_moved, server, journals, len(found), last)


async def oldest_waiting(conn: AsyncConnection, after: Cursor) -> int | None:
    """When the journal that comes first after the cursor was created, whether it can be sealed yet or not, in
    microseconds; a time that cannot be is as old as 1970. None for no journal."""
    rows = await fetch(conn, _OLDEST, (after.xid, after.journal))
    return rows[0][0] if rows else None


async def states(conn: AsyncConnection, tenants: Collection[str]) -> dict[str, LogState]:
    """The logs of those tenants that have one."""
    rows = await fetch(conn, _STATES, (list(tenants),))
    return {tenant: LogState(tree_size, bytes(root), number) for tenant, tree_size, root, number in rows}


async def nodes(conn: AsyncConnection, wanted: Collection[tuple[str, Node]]) -> dict[tuple[str, Node], bytes]:
    """The hashes of complete subtrees of tenants' trees, leaves too; those that are there."""
    found: dict[tuple[str, Node], bytes] = {}
    inner = [(tenant, level, number) for tenant, (level, number) in wanted if level]
    if inner:
        columns = [one[0] for one in inner], [one[1] for one in inner], [one[2] for one in inner]
        for tenant, level, number, value in await fetch(conn, _NODES, columns):
            found[tenant, (level, number)] = bytes(value)
    leaves = [(tenant, number) for tenant, (level, number) in wanted if not level]
    if leaves:
        for tenant, position, value in await fetch(
            conn, _LEAVES, ([one[0] for one in leaves], [one[1] for one in leaves])
        ):
            found[tenant, (0, position)] = bytes(value)
    return found


async def add(
    conn: AsyncConnection,
    sealed: Sequence[tuple[str, int, str, bytes]],
    made: Sequence[tuple[str, Node, bytes]],
    heads: Sequence[NewHead],
) -> None:
    """Writes sealed journals (tenant, position, journal, leaf), completed subtrees above leaves, and heads."""
    await execute(
        conn,
        "INSERT INTO sealed_journals (tenant, position, journal, leaf_hash)"
        " SELECT * FROM unnest(%s::text[], %s::bigint[], %s::uuid[], %s::bytea[])",
        tuple([row[column] for row in sealed] for column in range(4)),
    )
    if made:
        await execute(
            conn,
            "INSERT INTO tree_nodes (tenant, level, number, hash)"
            " SELECT * FROM unnest(%s::text[], %s::smallint[], %s::bigint[], %s::bytea[])",
            (
                [tenant for tenant, _, _ in made],
                [level for _, (level, _), _ in made],
                [number for _, (_, number), _ in made],
                [value for _, _, value in made],
            ),
        )
    await execute(
        conn,
        "INSERT INTO tree_heads (tenant, tree_size, number, root_hash, time, key_id, signature, era, server,"
        " last_xid, last_journal) SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bytea[],"
        " %s::timestamptz[], %s::text[], %s::bytea[], %s::smallint[], %s::bigint[], %s::xid8[], %s::uuid[])",
        (
            [new.head.tenant for new in heads],
            [new.head.tree_size for new in heads],
            [new.number for new in heads],
            [new.head.root_hash for new in heads],
            [clock.from_microseconds(new.head.time) for new in heads],
            [new.head.key_id for new in heads],
            [new.head.signature for new in heads],
            [new.last.era for new in heads],
            [new.last.server for new in heads],
            [new.last.xid for new in heads],
            [new.last.journal for new in heads],
        ),
    )


async def head(conn: AsyncConnection, tenant: str, tree_size: int = 0) -> Head | None:
    """The head of a size, or the newest."""
    if tree_size:
        rows = await fetch(conn, _HEAD + " AND tree_size = %s", (tenant, tree_size))
    else:
        rows = await fetch(conn, _HEAD + " ORDER BY tree_size DESC LIMIT 1", (tenant,))
    return _head(tenant, rows[0]) if rows else None


async def heads(conn: AsyncConnection, tenant: str, *, above: int, up_to: int) -> list[Head]:
    """The heads of trees with more journals than `above`, up to a size."""
    statement = _HEAD + " AND tree_size > %s AND tree_size <= %s ORDER BY tree_size"
    return [_head(tenant, row) for row in await fetch(conn, statement, (tenant, above, up_to))]


async def place(conn: AsyncConnection, tenant: str, journal: str) -> tuple[int, bytes] | None:
    """A sealed journal's position and leaf."""
    rows = await fetch(
        conn,
        "SELECT position, leaf_hash FROM sealed_journals WHERE tenant = %s AND journal = %s::uuid",
        (tenant, journal),
    )
    return (rows[0][0], bytes(rows[0][1])) if rows else None


async def exists(conn: AsyncConnection, tenant: str, journal: str) -> bool:
    """Whether the ledger has a journal, sealed or not."""
    statement = "SELECT 1 FROM journals WHERE tenant = %s AND journal = %s::uuid"
    return bool(await fetch(conn, statement, (tenant, journal)))


async def export(
    conn: AsyncConnection, tenant: str, *, start: int, end: int
) -> list[tuple[int, str, bytes, JournalContent | None]]:
    """Positions [start, end) of a log: position, journal, leaf, and what the ledger or the archive has under it, None
    for nothing. Raises ArchivedPeriodNotAttached."""
    found = await _export(conn, LEDGER, tenant, start, end)
    if all(content is not None and content.entries for *_, content in found):
        return found
    detached = await places.detached_position(conn, tenant, start=start, end=end)
    if detached is not None:
        raise ArchivedPeriodNotAttached(detached[1], f"position {detached[0]} of the log")
    # Anew, all of it: a journal that is being moved can have been there, and its entries gone a statement later.
    return await _export(conn, ALL, tenant, start, end)


async def _export(
    conn: AsyncConnection, tables: Tables, tenant: str, start: int, end: int
) -> list[tuple[int, str, bytes, JournalContent | None]]:
    rows = await fetch(conn, tables.named(_EXPORT), (tenant, start, end))
    found = await contents(conn, tables, tenant, [(row[1], row[4:]) for row in rows])
    return [
        (position, journal, bytes(leaf), content if is_there else None)
        for (position, journal, leaf, is_there, *_), content in zip(rows, found, strict=True)
    ]


async def contents(
    conn: AsyncConnection, tables: Tables, tenant: str, journals: Sequence[tuple[str, Sequence[Any]]]
) -> list[JournalContent]:
    """What is sealed of journals, by their ids and what `JOURNAL` gives of each, with their entries of the tables."""
    wanted = [(tenant, journal) for journal, _ in journals]
    # Of any journal: what is written on one that had nothing when it was sealed is a change of it.
    entries, metadata = await _entries(conn, tables, wanted), await journal_store.metadata(conn, wanted)
    return [_content(tenant, journal, facts, entries, metadata) for journal, facts in journals]


async def _entries(
    conn: AsyncConnection, tables: Tables, journals: Sequence[tuple[str, str]]
) -> Mapping[tuple[str, str], tuple[SealedEntry, ...]]:
    if not journals:
        return {}
    statement = tables.named(_ENTRIES)
    rows = await fetch(conn, statement, ([tenant for tenant, _ in journals], [journal for _, journal in journals]))
    found: dict[tuple[str, str], list[SealedEntry]] = {}
    for tenant, journal, *values in rows:
        found.setdefault((tenant, journal), []).append(SealedEntry(*values))
    return {key: tuple(values) for key, values in found.items()}


def _content(
    tenant: str,
    journal: str,
    facts: Sequence[Any],
    entries: Mapping[tuple[str, str], tuple[SealedEntry, ...]],
    metadata: Mapping[tuple[str, str], Metadata],
) -> JournalContent:
    kind, origin, create_time, effective_time = facts
    legs, written = entries.get((tenant, journal), ()), metadata.get((tenant, journal), ())
    return JournalContent(tenant, journal, kind, origin, create_time, effective_time, legs, written)


def _head(tenant: str, row: Sequence[Any]) -> Head:
    tree_size, root_hash, time, key_id, signature = row
    return Head(tenant, tree_size, bytes(root_hash), time, key_id, bytes(signature))
