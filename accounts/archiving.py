"""Moves old journals into the archive, slice by slice: one slice, one transaction, beside a service at work.

What ends it between two slices loses nothing, and what ends it within one leaves no trace of that: it goes on from the
ledger as it is. A slice holds locks on the rows that it moves alone, which nobody else writes or locks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import archive, archive_store
from accounts.archive import Choice, Sealed
from accounts.archive_store import Put, Window
from accounts.model import JournalKind
from accounts.places import Tables
from meshkit import audit, clock
from meshkit.database import ALL_TENANTS, Database, allow_long_statements
from meshkit.errors import Contention
from meshkit.identity import Call, Principal

BATCH = 500
"""Journals that one slice looks at, and those of the last one's transaction."""
_BATCH_MAX = 32_000
_ENTRIES_MAX = 2_000
"""Entries of one slice, so that it is far from a statement's time; some tenths of a second."""
_SPAN = 50_000
"""Positions of the log that are looked through at once for journals that are still in the ledger."""

_REFUSED = (psycopg.errors.NoDataFound, psycopg.errors.ObjectInUse)


class ArchiveRefused(Exception):
    """Nothing more is moved; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be archived of a tenant, and who asked: the role that the database knows."""

    tenant: str
    before: datetime
    role: str


@dataclass(frozen=True, slots=True)
class Slice:
    """What one transaction came to. Positions are those of the log."""

    journals: int
    entries: int
    left: int
    """Journals before the boundary that were given up for now."""
    next: int
    """Where the next slice begins to look."""
    batch: int
    """How many journals it looks at."""
    is_last: bool


@dataclass(slots=True)
class Totals:
    """What a run moved, and what it left: journals before the boundary that it could not move."""

    journals: int = 0
    entries: int = 0
    left: int = 0


async def archive_next(conn: AsyncConnection, order: Order, *, start: int, batch: int = BATCH) -> Slice:
    """Moves the next journals of a tenant that are older than the boundary, from a position of the log on.

    Raises ArchiveRefused while another does the same, and for a journal that is not what was sealed.
    """
    if not await archive_store.own(conn, order.tenant):
        raise ArchiveRefused(f"tenant {order.tenant} is being archived by somebody else; wait until that has ended")
    progress = await archive_store.progress(conn, order.tenant)
    start = max(start, progress)
    window = await archive_store.window(conn, order.tenant, start=start, limit=batch, span=_SPAN)
    choice = await _choose(conn, order, window)
    if choice.moved:
        await _move(conn, order, choice.moved)
    moved = {one.position for one, _ in choice.moved}
    staying = [one.position for one in window.journals if one.position not in moved]
    reached = staying[0] if staying else window.end
    if start == progress < reached:
        await archive_store.set_progress(conn, order.tenant, reached)
    return _result(choice, window, start, batch)


def _result(choice: Choice, window: Window, start: int, batch: int) -> Slice:
    """Where to go on. What was left follows journals that stand later in the log, and is looked at again with them."""
    left = [one.position for one in choice.left]
    if choice.moved:
        entries = sum(len(one.content.entries) for one, _ in choice.moved)
        return Slice(len(choice.moved), entries, 0, left[0] if left else window.end, BATCH, is_last=False)
    is_end = window.end >= window.size
    if left and not is_end and len(window.journals) >= batch and batch < _BATCH_MAX:
        return Slice(0, 0, 0, start, batch * 2, is_last=False)
    # Journals that are all of later come behind all that are older but for some seconds, by which clocks differ.
    is_past = bool(window.journals) and not left
    return Slice(0, 0, len(left), window.end, BATCH, is_last=is_end or is_past)


async def _choose(conn: AsyncConnection, order: Order, window: Window) -> Choice:
    boundary = clock.microseconds(order.before)
    accounts = {entry.account for one in window.journals for entry in one.content.entries}
    reaches = await archive_store.reaches(conn, order.tenant, accounts)
    wanted = archive.periods(window.journals, reaches, boundary=boundary)
    detached = [period for period in sorted(wanted) if not await archive_store.open_period(conn, period)]
    return archive.choose(window.journals, reaches, boundary=boundary, limit=_ENTRIES_MAX, detached=detached)


async def _move(conn: AsyncConnection, order: Order, moved: Sequence[tuple[Sealed, int]]) -> None:
    """Raises ArchiveRefused for a journal that is not what was sealed: it is to be looked at, not put away."""
    for one, _ in moved:
        if not one.is_as_sealed():
            raise ArchiveRefused(
                f"tenant {order.tenant}, journals/{one.content.journal} at position {one.position} is not what was"
                " sealed: run florin verify, and see the runbook in accounts/README.md"
            )
    periods = sorted({period for _, period in moved})
    for period in periods:
        journals = [one for one, its_period in moved if its_period == period]
        entries = [entry for one in journals for entry in one.content.entries]
        rows = sum(one.content.kind != JournalKind.MANUAL for one in journals)
        wanted = rows, len(entries), len({entry.account for entry in entries})
        done = await archive_store.move(conn, order.tenant, journals, period)
        if done != wanted:
            raise RuntimeError(f"{done} journals, entries and spans of accounts were moved in the place of {wanted}")
    await audit.record(
        conn,
        Call("archive", "", Principal(order.tenant, order.role, None, frozenset()), "", b"", math.inf),
        action="archive_journals",
        resource="logs/journals",
        before=None,
        after={
            "before": order.before.isoformat(),
            "periods": periods,
            "first_position": min(one.position for one, _ in moved),
            "last_position": max(one.position for one, _ in moved),
            "journals": len(moved),
            "entries": sum(len(one.content.entries) for one, _ in moved),
        },
    )


async def archive_all(
    db: Database, order: Order, totals: Totals, *, share: float, tell: Callable[[Totals], None]
) -> None:
    """Moves all of a tenant's journals before the boundary, using a share of the time; adds what it moved to the
    totals, and `tell`s them after each slice.

    It looks at everything once more until there is nothing that it can move: what was left may have become the next.
    """
    before, left = -1, totals.left
    while totals.journals > before:
        before, totals.left = totals.journals, left
        start, batch, is_last = 0, BATCH, False
        while not is_last:
            began = time.monotonic()

            async def work(conn: AsyncConnection, start: int = start, batch: int = batch) -> Slice:
                return await archive_next(conn, order, start=start, batch=batch)

            done = await db.run(order.tenant, work, long=True)
            start, batch, is_last = done.next, done.batch, done.is_last
            totals.journals += done.journals
            totals.entries += done.entries
            totals.left += done.left
            tell(totals)
            # Whoever pays has the database to itself for the rest of the time.
            await asyncio.sleep((time.monotonic() - began) * (1 / share - 1))


async def detach(db: Database, period: int) -> None:
    """Takes a period's tables off, as the owner of the database. Raises ArchiveRefused."""

    async def work(conn: AsyncConnection) -> None:
        await allow_long_statements(conn)
        await archive_store.detach(conn, period)

    await _change(db, work)


async def _change(db: Database, work: Callable[[AsyncConnection], Awaitable[None]]) -> None:
    try:
        await db.run(ALL_TENANTS, work, long=True)
    except _REFUSED as error:
        raise ArchiveRefused(error.diag.message_primary or str(error)) from None
    except Contention:
        raise ArchiveRefused(
            "somebody reads the archive for long, as a backup does; run this again when that has ended"
        ) from None


async def attach(db: Database, period: int) -> None:
    """Brings a period's tables back, as the owner of the database, once all that was put there is proved to be in them,
    and nothing else. Raises ArchiveRefused."""
    try:
        tables = await db.run(ALL_TENANTS, lambda conn: archive_store.period_tables(conn, period), read_only=True)
    except LookupError as missing:
        raise ArchiveRefused(f"there is no table {missing}; restore it from its dump first") from None
    if tables is None:
        return
    journals = entries = 0
    for put in await db.run(ALL_TENANTS, lambda conn: archive_store.put_there(conn, period), read_only=True):
        journals += await _proved(db, tables, period, put)
        entries += put.entries

    async def numbers(conn: AsyncConnection) -> tuple[int, int]:
        await allow_long_statements(conn)
        return await archive_store.numbers(conn, period)

    if await db.run(ALL_TENANTS, numbers, read_only=True, long=True) != (journals, entries):
        raise ArchiveRefused(f"the tables of the period {period} have rows that were not put there")
    await _change(db, lambda conn: archive_store.attach(conn, period))


async def _proved(db: Database, tables: Tables, period: int, put: Put) -> int:
    """How many rows of a tenant's journals are in a period's tables, each of which is what was sealed, and none of
    which is missing. Raises ArchiveRefused."""
    start, journals, entries, rows = put.first_position, 0, 0, 0
    while start <= put.last_position:

        async def read(conn: AsyncConnection, start: int = start) -> list[Sealed]:
            return await archive_store.sealed_of(conn, tables, put, start=start, limit=BATCH)

        found = await db.run(put.tenant, read, read_only=True)
        for one in found:
            if not one.is_as_sealed():
                raise ArchiveRefused(
                    f"tenant {put.tenant}, journals/{one.content.journal} at position {one.position} is not what was"
                    f" sealed: the tables of the period {period} were changed, or are not those that were detached"
                )
        journals += len(found)
        entries += sum(len(one.content.entries) for one in found)
        rows += sum(one.content.kind != JournalKind.MANUAL for one in found)
        start = found[-1].position + 1 if len(found) == BATCH else put.last_position + 1
    if (journals, entries) != (put.journals, put.entries):
        raise ArchiveRefused(
            f"the tables of the period {period} have {journals} journals and {entries} entries of tenant {put.tenant},"
            f" of which {put.journals} and {put.entries} were put there"
        )
    return rows


async def tenants(db: Database) -> list[str]:
    """All tenants."""
    return await db.run(ALL_TENANTS, archive_store.tenants, read_only=True)
