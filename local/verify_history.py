"""INV-9 on a database: every journal is what was sealed, in a tree that was only added to; it changes nothing.

It goes through all of the log, in the order of its positions and in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg

from accounts.history import MICROSECONDS, Head, JournalContent, SealedEntry
from accounts.merkle import Node
from accounts.signing import VerifyingKeys
from local.log_check import LogCheck, Report

_PAGE = 2000
_UNSEALED_MAX = 1000

Connection = psycopg.Connection[tuple[Any, ...]]

_TENANTS = (
    "SELECT tenant FROM sealed_journals UNION SELECT tenant FROM tree_heads UNION SELECT tenant FROM tree_nodes"
    " ORDER BY tenant"
)
_JOURNALS = (
    "SELECT s.position, s.journal::text, s.leaf_hash, j.journal IS NOT NULL, j.kind, j.origin,"  # noqa: S608
    f" {MICROSECONDS.format('j.create_time')}, {MICROSECONDS.format('j.effective_time')}"
    " FROM sealed_journals AS s LEFT JOIN journals AS j USING (tenant, journal)"
    " WHERE s.tenant = %s ORDER BY s.position"
)
_ENTRIES = (
    "SELECT e.journal::text, e.account, e.sequence, e.currency, e.amount, e.balance_after FROM entries AS e"
    " JOIN unnest(%s::uuid[]) AS k(journal) USING (journal) WHERE e.tenant = %s ORDER BY e.journal, e.leg"
)
_METADATA = (
    "SELECT m.journal::text, m.key, m.value FROM journal_metadata AS m JOIN unnest(%s::uuid[]) AS k(journal)"
    " USING (journal) WHERE m.tenant = %s"
)
# In the order in which the subtrees become complete.
_NODES = "SELECT level, number, hash FROM tree_nodes WHERE tenant = %s ORDER BY (number + 1) << level::integer, level"
_HEADS = (
    f"SELECT tree_size, root_hash, {MICROSECONDS.format('time')}, key_id, signature, number FROM tree_heads"  # noqa: S608
    " WHERE tenant = %s ORDER BY tree_size"
)
_TOLD = "SELECT coalesce(max(version), 0) FROM outbox WHERE tenant = %s AND aggregate = 'logs/journals'"
_UNSEALED = (
    "SELECT j.tenant || '/journals/' || j.journal || ' is not sealed' FROM journals AS j"
    # No transaction that is seen has a number of the future: such a journal would be sealed in years, or never.
    " WHERE (j.xid < pg_snapshot_xmin(pg_current_snapshot()) OR j.xid >= pg_snapshot_xmax(pg_current_snapshot()))"
    " AND NOT EXISTS (SELECT 1 FROM sealed_journals AS s WHERE s.tenant = j.tenant AND s.journal = j.journal)"
    " ORDER BY j.xid, j.journal LIMIT %s"
)


def check(accounts: Connection, keys: VerifyingKeys | None) -> tuple[int, list[str]]:
    """How many sealed journals there are, and what is wrong with them. Without keys, heads are not believed."""
    report, checked = Report(), 0
    tenants = [row[0] for row in accounts.execute(_TENANTS)]
    if tenants and keys is None:
        report.say("who signed the heads cannot be told without the public key: give --public-key")
    for tenant in tenants:
        checked += _check_tenant(accounts, LogCheck(tenant, keys, report), tenant)
    return checked, report.sentences()


def unsealed(accounts: Connection) -> tuple[int, set[str]]:
    """The first journals that are not sealed, of transactions that ended or whose numbers cannot be; the former may be
    sealed a moment later."""
    return 0, {row[0] for row in accounts.execute(_UNSEALED, (_UNSEALED_MAX,))}


def _check_tenant(accounts: Connection, log: LogCheck, tenant: str) -> int:
    with (
        accounts.cursor(name="sealed_journals") as journals,
        accounts.cursor(name="tree_nodes") as nodes,
        accounts.cursor(name="tree_heads") as stored_heads,
    ):
        for cursor, statement in ((journals, _JOURNALS), (nodes, _NODES), (stored_heads, _HEADS)):
            cursor.itersize = _PAGE
            cursor.execute(statement, (tenant,))
        kept = _Nodes(nodes, log)
        heads = _Heads(stored_heads, log, tenant)
        checked = 0
        for position, journal, leaf, content in _contents(accounts, journals, tenant):
            heads.up_to(min(position, log.size))
            log.journal(position, journal, leaf, content, kept.take)
            heads.up_to(log.size)
            checked += 1
        heads.rest()
        kept.rest()
    (told,) = accounts.execute(_TOLD, (tenant,)).fetchone() or (0,)
    if told > heads.number:
        log.say(f"head number {heads.number + 1}: it was told of by an event, and is gone")
    return checked


def _contents(
    accounts: Connection, cursor: psycopg.ServerCursor[tuple[Any, ...]], tenant: str
) -> Iterator[tuple[int, str, bytes, JournalContent | None]]:
    while rows := cursor.fetchmany(_PAGE):
        entries: dict[str, list[SealedEntry]] = {}
        for journal, *values in accounts.execute(_ENTRIES, ([row[1] for row in rows], tenant)):
            entries.setdefault(journal, []).append(SealedEntry(*values))
        # Of any journal: what is written on one that had nothing when it was sealed is a change of it.
        metadata: dict[str, list[tuple[str, str]]] = {}
        for journal, key, value in accounts.execute(_METADATA, ([row[1] for row in rows], tenant)):
            metadata.setdefault(journal, []).append((key, value))
        for position, journal, leaf, is_there, *facts in rows:
            written = metadata.get(journal, ())
            content = _content(tenant, journal, facts, entries.get(journal, ()), written) if is_there else None
            yield position, journal, bytes(leaf), content


def _content(
    tenant: str,
    journal: str,
    facts: Sequence[Any],
    entries: Iterable[SealedEntry],
    metadata: Iterable[tuple[str, str]],
) -> JournalContent:
    kind, origin, create_time, effective_time = facts
    return JournalContent(tenant, journal, kind, origin, create_time, effective_time, tuple(entries), tuple(metadata))


class _Nodes:
    """The kept subtrees, taken in the order in which they become complete."""

    def __init__(self, rows: Iterable[tuple[Any, ...]], log: LogCheck) -> None:
        self._rows = iter(rows)
        self._log = log
        self._next = next(self._rows, None)

    def take(self, node: Node) -> bytes | None:
        """What is kept of a subtree; None for nothing."""
        while self._next is not None and _order(self._next[0], self._next[1]) < _order(*node):
            self._extra()
        if self._next is None or (self._next[0], self._next[1]) != node:
            return None
        value = bytes(self._next[2])
        self._next = next(self._rows, None)
        return value

    def rest(self) -> None:
        """Those that are over no journals."""
        while self._next is not None:
            self._extra()

    def _extra(self) -> None:
        if self._next is not None:
            level, number, _ = self._next
            self._log.say(f"the tree has a node of level {level}, number {number}, over no journals")
            self._next = next(self._rows, None)


def _order(level: int, number: int) -> tuple[int, int]:
    return (number + 1) << level, level


class _Heads:
    """The heads, each checked once all journals before it have passed."""

    def __init__(self, rows: Iterable[tuple[Any, ...]], log: LogCheck, tenant: str) -> None:
        self._rows = iter(rows)
        self._log = log
        self._tenant = tenant
        self._next = next(self._rows, None)
        self.number = 0
        """That of the last head; they are counted from 1."""
        self._size = 0

    def up_to(self, size: int) -> None:
        """Checks the heads of trees up to a size."""
        while self._next is not None and self._next[0] <= size:
            self._check()

    def rest(self) -> None:
        """Checks what is left: heads of more journals than there are, and journals that no head is over."""
        while self._next is not None:
            self._check()
        if self._size < self._log.size:
            self._log.say(f"positions {self._size} to {self._log.size - 1}: the head over them is gone")

    def _check(self) -> None:
        if self._next is None:
            return
        tree_size, root, time, key_id, signature, number = self._next
        if number != self.number + 1:
            self._log.say(f"head of size {tree_size}: it is number {number} and follows number {self.number}")
        self._log.head(Head(self._tenant, tree_size, bytes(root), time, key_id, bytes(signature)))
        self.number, self._size = number, tree_size
        self._next = next(self._rows, None)
