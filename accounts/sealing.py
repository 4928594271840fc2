"""Seals journals after their commit, and proves what is sealed: one function, one use case, one transaction."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from prometheus_client import Counter, Gauge
from psycopg.errors import UniqueViolation
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import errors, events, merkle, seal_store
from accounts.history import Head, JournalContent
from accounts.merkle import Frontier, Node, Range
from accounts.seal_store import BEGINNING, Cursor, LogState, NewHead
from accounts.signing import Signer
from meshkit import clock, outbox
from meshkit.database import ALL_TENANTS, Database, flush

SEALED = Counter("florin_sealed_journals_total", "Journals sealed by this replica.")
DELAY = Gauge(
    "florin_seal_delay_seconds", "How old the first journal is that the last pass began with or waits for; 0 for none."
)

BATCH = 2000
"""Journals of one pass at most: some tenths of a second."""


Known = Mapping[str, tuple[int, bytes]]
"""The size and root of the largest head of a tenant that a sealer signed."""

_TENANTS_NAMED_MAX = 5


class LogDamaged(Exception):
    """A log is not what its last head says, or what comes next cannot be in it: somebody changed it, so nothing more is
    signed."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass came to: the journals sealed, where to go on, and whether there is more right now."""

    sealed: int
    cursor: Cursor
    more: bool
    heads: Known = field(default_factory=dict)
    """The heads that were signed."""


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Where a journal is, and the proof of it."""

    position: int
    leaf_hash: bytes
    tree_size: int
    hashes: list[bytes]
    head: Head | None
    """That of just this size, if there is one."""


class Sealer:
    """The worker. Every replica has one; in each pass one of them seals."""

    def __init__(self, db: Database, signer: Signer, *, every_seconds: float, batch: int = BATCH) -> None:
        self._db = db
        self._signer = signer
        self._every_seconds = every_seconds
        self._batch = batch
        self._seen = BEGINNING
        self._known: dict[str, tuple[int, bytes]] = {}

    async def run(self) -> None:
        """Seals until it is cancelled; the caller starts it again when it fails."""
        # What was seen is forgotten with whatever ended the run before: the database may have been restored since. What
        # was signed is not: a log that became smaller is for people to judge, who then start the process anew.
        self._seen = BEGINNING
        more = False
        while True:
            more = (await self.seal(rest_seconds=0 if more else self._every_seconds)).more
            if not more:
                await asyncio.sleep(self._every_seconds)

    async def seal(self, *, rest_seconds: float = 0) -> Pass:
        """One pass; none if a head is younger than `rest_seconds`. Raises LogDamaged."""

        async def work(conn: AsyncConnection) -> Pass:
            return await seal_next(
                conn,
                self._signer,
                after=self._seen,
                limit=self._batch,
                rest=timedelta(seconds=rest_seconds),
                known=self._known,
            )

        done = await self._db.run(ALL_TENANTS, work)
        self._seen = done.cursor
        self._known.update(done.heads)
        SEALED.inc(done.sealed)
        return done


async def seal_next(
    conn: AsyncConnection,
    signer: Signer,
    *,
    after: Cursor,
    limit: int,
    rest: timedelta = timedelta(0),
    known: Known | None = None,
) -> Pass:
    """Seals the journals that come next, with a head for each tenant that has some; nothing while another replica's
    heads are younger than `rest`. Raises LogDamaged.

    `after` is where the caller knows that it may begin, beyond what was sealed last: it may have seen sealed ones.
    `known` is what it signed: a log that has less now is damaged.
    """
    is_owner = await seal_store.own(conn)
    stored, signed = await seal_store.cursor(conn)
    start = max(stored, after, key=_order)
    # First of all, and in every replica: it has to be seen above all when nothing is sealed.
    oldest = await seal_store.oldest_waiting(conn, start)
    DELAY.set(0 if oldest is None else max(0, clock.microseconds(clock.now()) - oldest) / 1_000_000)
    if not is_owner:
        return Pass(0, after, more=False)
    if signed is not None and timedelta(0) <= clock.now() - signed < rest:
        return Pass(0, after, more=False)
    page = await seal_store.next_journals(conn, start, limit=limit)
    end = page.last or start
    heads = await _append(conn, signer, page.journals, end, known or {}) if page.journals else {}
    if page.is_moved and page.count < limit:
        # All that came with the dump is sealed. What follows is counted anew, and among it may be what is sealed.
        end = Cursor(end.era + 1, page.server, BEGINNING.xid, BEGINNING.journal)
        return Pass(len(page.journals), end, more=True, heads=heads)
    return Pass(len(page.journals), end, more=page.count == limit, heads=heads)


def _order(cursor: Cursor) -> tuple[int, int, uuid.UUID]:
    return cursor.era, int(cursor.xid), uuid.UUID(cursor.journal)


async def _append(
    conn: AsyncConnection, signer: Signer, journals: Sequence[tuple[JournalContent, str]], end: Cursor, known: Known
) -> dict[str, tuple[int, bytes]]:
    now = clock.now()
    by_tenant: dict[str, list[tuple[JournalContent, str]]] = {}
    for content, xid in journals:
        by_tenant.setdefault(content.tenant, []).append((content, xid))
    states = await seal_store.states(conn, by_tenant)
    _compare(states, {tenant: known[tenant] for tenant in by_tenant if tenant in known})
    frontiers = await _frontiers(conn, states)
    sealed: list[tuple[str, int, str, bytes]] = []
    made: list[tuple[str, Node, bytes]] = []
    heads: list[NewHead] = []
    for tenant, added in sorted(by_tenant.items()):
        frontier = frontiers.get(tenant) or Frontier()
        for content, _ in added:
            (leaf, value), *above = frontier.append(_leaf(content))
            sealed.append((tenant, leaf[1], content.journal, value))
            made += [(tenant, node, hash_) for node, hash_ in above]
        number = states[tenant].number + 1 if tenant in states else 1
        head = signer.sign(tenant, frontier.size, frontier.root(), clock.microseconds(now))
        last, xid = added[-1]
        heads.append(NewHead(head, number, replace(end, xid=xid, journal=last.journal)))
    try:
        await seal_store.add(conn, sealed, made, heads)
        await outbox.append(conn, [events.tree_head_signed(new.head, new.number) for new in heads])
        await flush(conn)
    except UniqueViolation as error:
        # PostgreSQL does not say which row, since row-level security could hide it.
        named = ", ".join(
            [*sorted(by_tenant)[:_TENANTS_NAMED_MAX], *(["…"] if len(by_tenant) > _TENANTS_NAMED_MAX else [])]
        )
        raise LogDamaged(
            f"{error.diag.constraint_name}: beyond the last head there are rows already, of one of the tenants {named}"
        ) from None
    return {new.head.tenant: (new.head.tree_size, new.head.root_hash) for new in heads}


def _compare(states: Mapping[str, LogState], known: Known) -> None:
    """Raises LogDamaged for a log that has less than what was signed, or something else."""
    for tenant, (size, root) in known.items():
        state = states.get(tenant)
        stored = (0, b"") if state is None else (state.tree_size, state.root_hash)
        if stored[0] < size or (stored[0] == size and stored[1] != root):
            raise LogDamaged(
                f"the newest head of tenant {tenant} is of size {stored[0]}, and one of size {size} with root"
                f" {root.hex()} was signed"
            )


def _leaf(content: JournalContent) -> bytes:
    try:
        return content.leaf()
    except ValueError as error:
        raise LogDamaged(f"tenant {content.tenant}, journals/{content.journal} cannot be sealed: {error}") from None


async def _frontiers(conn: AsyncConnection, states: dict[str, LogState]) -> dict[str, Frontier]:
    wanted = {tenant: merkle.subtrees(0, state.tree_size) for tenant, state in states.items()}
    found = await seal_store.nodes(conn, [(tenant, node) for tenant, nodes in wanted.items() for node in nodes])
    frontiers: dict[str, Frontier] = {}
    for tenant, nodes in wanted.items():
        hashes = [found.get((tenant, node), b"") for node in nodes]
        if merkle.fold(hashes) != states[tenant].root_hash:
            raise LogDamaged(f"the tree of tenant {tenant} is not that of its head of size {states[tenant].tree_size}")
        frontiers[tenant] = Frontier(states[tenant].tree_size, hashes)
    return frontiers


async def get_tree_head(conn: AsyncConnection, tenant: str, tree_size: int) -> Head:
    """The head of a size, the newest for 0. Raises TreeHeadNotFound."""
    found = await seal_store.head(conn, tenant, tree_size)
    if found is None:
        raise errors.TreeHeadNotFound(tree_size)
    return found


async def get_inclusion_proof(conn: AsyncConnection, tenant: str, name: str, tree_size: int) -> Inclusion:
    """The proof that a journal is in a tree, the newest head's for 0.

    Raises JournalNotFound, TreeHeadNotFound, JournalNotSealed.
    """
    journal = _journal_id(name)
    place = await seal_store.place(conn, tenant, journal) if journal else None
    if place is None and not (journal and await seal_store.exists(conn, tenant, journal)):
        raise errors.JournalNotFound(name)
    size = await _tree_size(conn, tenant, tree_size)
    if place is None or place[0] >= size:
        raise errors.JournalNotSealed(name, size)
    position, leaf = place
    hashes = await _hashes(conn, tenant, merkle.inclusion_ranges(position, size))
    return Inclusion(position, leaf, size, hashes, await seal_store.head(conn, tenant, size))


async def get_consistency_proof(conn: AsyncConnection, tenant: str, first: int, second: int) -> list[bytes]:
    """The proof that a tree begins with an earlier one. Raises TreeHeadNotFound."""
    await _tree_size(conn, tenant, second)
    return await _hashes(conn, tenant, merkle.consistency_ranges(first, second))


async def _tree_size(conn: AsyncConnection, tenant: str, asked: int) -> int:
    newest = await seal_store.head(conn, tenant)
    if newest is None or asked > newest.tree_size:
        raise errors.TreeHeadNotFound(asked)
    return asked or newest.tree_size


async def _hashes(conn: AsyncConnection, tenant: str, ranges: Iterable[Range]) -> list[bytes]:
    wanted = [(one, merkle.subtrees(*one)) for one in ranges]
    found = await seal_store.nodes(conn, {(tenant, node) for _, nodes in wanted for node in nodes})
    hashes = {node: value for (_, node), value in found.items()}
    try:
        return [merkle.hash_of(leaves, hashes) for leaves, _ in wanted]
    except KeyError as error:
        raise LogDamaged(f"a node of tenant {tenant}'s tree is gone: {error}") from None


def _journal_id(name: str) -> str:
    """The UUID in "journals/{journal}"; empty where there is none."""
    text = name.rpartition("/")[2]
    try:
        return text if str(uuid.UUID(text)) == text else ""
    except ValueError:
        return ""
