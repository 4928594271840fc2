"""INV-9 on a database: every journal is what was sealed, in a tree that was only added to; it changes nothing.

A log is gone through from its beginning, in the order of its positions, a page in one reading of the database: what was
seen in an earlier one has not changed, since a log is only added to.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from accounts.history import MICROSECONDS, Head, JournalContent, SealedEntry
from accounts.merkle import Node
from accounts.signing import VerifyingKeys
from checker import archive
from checker.findings import Violation
from checker.log_check import LogCheck, Report
from checker.tables import Connection, Rows

PAGE = 2000
LOG = "logs/journals"
_UNSEALED_MAX = 1000
_LEVELS = range(1, 63)  # of the tree; leaves are level 0

_TENANTS = (
    "SELECT tenant FROM sealed_journals UNION SELECT tenant FROM tree_heads UNION SELECT tenant FROM tree_nodes"
    " ORDER BY tenant"
)
# The next greater one each time: a log of millions is not read for the name of its tenant.
_NEXT_TENANT = (
    "SELECT min(tenant) FROM (SELECT min(tenant) AS tenant FROM sealed_journals WHERE tenant > %(after)s"
    " UNION ALL SELECT min(tenant) FROM tree_heads WHERE tenant > %(after)s"
    " UNION ALL SELECT min(tenant) FROM tree_nodes WHERE tenant > %(after)s) AS t"
)
_JOURNALS = (
    "SELECT s.position, s.journal::text, s.leaf_hash, j.journal IS NOT NULL, j.kind, j.origin,"
    f" {MICROSECONDS.format('j.create_time')}, {MICROSECONDS.format('j.effective_time')}"
    " FROM (SELECT tenant, position, journal, leaf_hash FROM sealed_journals WHERE tenant = %s AND position >= %s"
    " ORDER BY position LIMIT %s) AS s LEFT JOIN all_journals AS j USING (tenant, journal) ORDER BY s.position"
)
_ENTRIES = (
    "SELECT e.journal::text, e.account, e.sequence, e.currency, e.amount, e.balance_after FROM all_entries AS e"
    " JOIN unnest(%s::uuid[]) AS k(journal) USING (journal) WHERE e.tenant = %s ORDER BY e.journal, e.leg"
)
_METADATA = (
    "SELECT m.journal::text, m.key, m.value FROM journal_metadata AS m JOIN unnest(%s::uuid[]) AS k(journal)"
    " USING (journal) WHERE m.tenant = %s"
)
# In the order in which the subtrees become complete.
_NODES = (
    "SELECT n.level, n.number, n.hash FROM tree_nodes AS n JOIN unnest(%s::smallint[], %s::bigint[], %s::bigint[])"
    " AS k(level, first, last) ON n.level = k.level AND n.number >= k.first AND n.number < k.last"
    " WHERE n.tenant = %s ORDER BY (n.number + 1) << n.level::integer, n.level"
)
_HEADS = (
    f"SELECT tree_size, root_hash, {MICROSECONDS.format('time')}, key_id, signature, number FROM tree_heads"
    " WHERE tenant = %s AND tree_size > %s AND tree_size <= %s ORDER BY tree_size"
)
_TOLD = "SELECT coalesce(max(version), 0) FROM outbox WHERE tenant = %s AND aggregate = 'logs/journals'"
_UNSEALED = (
    "SELECT j.tenant, 'journals/' || j.journal FROM journals AS j"
    # No transaction that is seen has a number of the future: such a journal would be sealed in years, or never.
    " WHERE (j.xid < pg_snapshot_xmin(pg_current_snapshot()) OR j.xid >= pg_snapshot_xmax(pg_current_snapshot()))"
    " AND NOT EXISTS (SELECT 1 FROM sealed_journals AS s WHERE s.tenant = j.tenant AND s.journal = j.journal)"
    " ORDER BY j.xid, j.journal LIMIT %s"
)
_LATE = (
    "SELECT j.tenant, 'journals/' || j.journal FROM {rows} AS j"
    " WHERE j.create_time < now() - make_interval(secs => %(grace_seconds)s)"
    " AND NOT EXISTS (SELECT 1 FROM sealed_journals AS s WHERE s.tenant = j.tenant AND s.journal = j.journal)"
)
_INT64_MAX = 2**63 - 1


def check(accounts: Connection, keys: VerifyingKeys | None) -> tuple[int, list[str]]:
    """How many sealed journals there are, and what is wrong with them. Without keys, heads are not believed."""
    report, checked = Report(), 0
    tenants = [row[0] for row in accounts.execute(_TENANTS)]
    if tenants and keys is None:
        report.say("who signed the heads cannot be told without the public key: give --public-key")
    for tenant in tenants:
        walk = LogWalk(tenant, keys, report)
        while not walk.is_at_end:
            checked += walk.page(accounts, PAGE)
    return checked, report.sentences()


def next_tenant(accounts: Connection, after: str) -> str | None:
    """The tenant that comes next among those that have a log."""
    (tenant,) = accounts.execute(_NEXT_TENANT, {"after": after}).fetchone()
    return None if tenant is None else str(tenant)


def unsealed(accounts: Connection) -> list[Violation]:
    """The first journals that are not sealed, of transactions that ended or whose numbers cannot be; the former may be
    sealed a moment later."""
    return _not_sealed(accounts.execute(_UNSEALED, (_UNSEALED_MAX,)))


def late(accounts: Connection, rows: Rows, grace_seconds: float) -> list[Violation]:
    """Those of some journals that should have been sealed so long ago. Nobody changed anything for that to be so."""
    parameters = {**rows.parameters(), "grace_seconds": grace_seconds}
    return _not_sealed(accounts.execute(rows.statement(_LATE), parameters))


def _not_sealed(rows: Iterable[tuple[str, str]]) -> list[Violation]:
    return [Violation("INV-9", tenant, "", journal, " is not sealed", is_on_its_way=True) for tenant, journal in rows]


class LogWalk:
    """Goes through one tenant's log, a page at a time; after the end it goes on with what came meanwhile."""

    def __init__(self, tenant: str, keys: VerifyingKeys | None, report: Report) -> None:
        self.tenant = tenant
        self.report = report
        self.is_at_end = False
        """Whether the last page came to the end of the log as it was then."""
        self._log = LogCheck(tenant, keys, report)
        self._heads = _Heads(self._log)

    def copy(self) -> LogWalk:
        """Another one at the same place, for a second reading."""
        return copy.deepcopy(self, {id(self._log.keys): self._log.keys})

    def page(self, accounts: Connection, limit: int) -> int:
        """Checks what comes next, in one reading of the database; gives the number of journals."""
        log, size = self._log, self._log.size
        rows = accounts.execute(_JOURNALS, (self.tenant, size, limit)).fetchall()
        self.is_at_end = len(rows) < limit
        upto = _INT64_MAX if self.is_at_end else min(rows[-1][0] + 1, _INT64_MAX)
        kept = _Nodes(self._nodes(accounts, size, upto), log)
        self._heads.take(accounts.execute(_HEADS, (self.tenant, self._heads.size, upto)).fetchall(), self.tenant)
        contents = list(_contents(accounts, rows, self.tenant))
        lacking = [(self.tenant, journal) for _, journal, _, content in contents if not (content and content.entries)]
        away = {name.removeprefix("journals/") for _, name in archive.away(accounts, lacking)}
        for position, journal, leaf, content in contents:
            self._heads.up_to(min(position, log.size))
            if journal in away:
                log.leaf(position, journal, leaf, kept.take)
            else:
                log.journal(position, journal, leaf, content, kept.take)
            self._heads.up_to(log.size)
        if log.is_lost:
            self.is_at_end = True  # so much is missing that there is no going on
        if self.is_at_end:
            self._heads.rest()
            kept.rest()
            (told,) = accounts.execute(_TOLD, (self.tenant,)).fetchone()
            if told > self._heads.number:
                log.say(f"head number {self._heads.number + 1}: it was told of by an event, and is gone")
        return len(rows)

    def _nodes(self, accounts: Connection, size: int, upto: int) -> list[tuple[Any, ...]]:
        """The kept subtrees that become complete from `size` positions up to `upto`."""
        ranges = [(level, size >> level, upto >> level) for level in _LEVELS if size >> level < upto >> level]
        columns = tuple([one[column] for one in ranges] for column in range(3))
        found: list[tuple[Any, ...]] = accounts.execute(_NODES, (*columns, self.tenant)).fetchall()
        return found


def _contents(
    accounts: Connection, rows: Sequence[Any], tenant: str
) -> Iterator[tuple[int, str, bytes, JournalContent | None]]:
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
    """The kept subtrees of a page, taken in the order in which they become complete."""

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
    """The heads of a log, each checked once all journals before it have passed."""

    def __init__(self, log: LogCheck) -> None:
        self._log = log
        self._waiting: list[tuple[int, Head]] = []
        """With their numbers, the smallest first."""
        self.number = 0
        """That of the last head; they are counted from 1."""
        self.size = 0
        """That of the last head."""

    def take(self, rows: Sequence[tuple[Any, ...]], tenant: str) -> None:
        """Adds the heads of the next page, in place of those that still waited."""
        self._waiting = [
            (number, Head(tenant, tree_size, bytes(root), time, key_id, bytes(signature)))
            for tree_size, root, time, key_id, signature, number in rows
        ]

    def up_to(self, size: int) -> None:
        """Checks the heads of trees up to a size."""
        while self._waiting and self._waiting[0][1].tree_size <= size:
            self._check()

    def rest(self) -> None:
        """Checks what is left: heads of more journals than there are, and journals that no head is over."""
        while self._waiting:
            self._check()
        if self.size < self._log.size:
            self._log.say(f"positions {self.size} to {self._log.size - 1}: the head over them is gone")

    def _check(self) -> None:
        number, head = self._waiting.pop(0)
        if number != self.number + 1:
            self._log.say(f"head of size {head.tree_size}: it is number {number} and follows number {self.number}")
        self._log.head(head)
        self.number, self.size = number, head.tree_size
