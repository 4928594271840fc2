"""Goes through a log of journals from its beginning and says what is not as it was signed; in bounded memory.

It takes what it is given, from a database or a file that somebody may have changed, and fails at none of it.
"""

from __future__ import annotations

from collections.abc import Callable

from accounts import merkle
from accounts.history import Head, JournalContent
from accounts.merkle import Node
from accounts.signing import VerifyingKeys
from checker.texts import printable

_SAID_MAX = 1000
_GAP_MAX = 1_000_000
"""A larger gap is one that somebody made to keep us busy; what follows it is not looked at."""

Kept = Callable[[Node], bytes | None]
"""Gives the hash that is kept of a complete subtree, which are asked for in the order in which they become complete."""


class Report:
    """What is wrong, a sentence each; a thousand at most are kept, since everything may be."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._more = 0

    def say(self, sentence: str) -> None:
        """Adds a sentence; what is in it may be of whoever made the file or the rows."""
        if len(self._said) < _SAID_MAX:
            self._said.append(printable(sentence))
        else:
            self._more += 1

    def take(self) -> list[str]:
        """The sentences so far, which are forgotten."""
        taken = self.sentences()
        self._said, self._more = [], 0
        return taken

    def sentences(self) -> list[str]:
        """All of them, and how many more there were."""
        return [*self._said, f"and {self._more} more"] if self._more else list(self._said)


class LogCheck:
    """One tenant's log. Give it the journals and heads in their order, each head after the last of its journals."""

    def __init__(self, tenant: str, keys: VerifyingKeys | None, report: Report) -> None:
        self._tenant = tenant
        self.keys = keys
        """Heads are believed by these."""
        self._report = report
        self.size = 0
        """How many positions have passed."""
        self.signed: Head | None = None
        """The last head that is signed, and whose root is that of what stands before it."""
        self.is_lost = False
        """Whether so much is missing that there is no going on."""
        self._hashes: list[bytes | None] = []
        self._proved = 0
        """Up to here a head said that all is as it was."""
        self._is_disproved = False
        self._has_gap = False

    def journal(
        self, position: int, journal: str, leaf: bytes, content: JournalContent | None, kept: Kept | None = None
    ) -> None:
        """The next journal: the leaf that was kept of it, and what it is now; None for one that is gone."""
        if not self._comes(position, journal, kept):
            return
        if content is None:
            self.say(f"position {position}, journals/{journal}: the journal is gone")
        elif not _is_leaf(content, leaf):
            self.say(f"position {position}, journals/{journal}: the journal is not what was sealed")
        self._append(leaf, kept)

    def leaf(self, position: int, journal: str, leaf: bytes, kept: Kept | None = None) -> None:
        """The next journal, of which no more than its leaf is at hand."""
        if self._comes(position, journal, kept):
            self._append(leaf, kept)

    def _comes(self, position: int, journal: str, kept: Kept | None) -> bool:
        """Whether a position can be gone on with."""
        if self.is_lost:
            return False
        if position < self.size:
            self.say(f"position {position}, journals/{journal}, comes after position {self.size - 1}")
            return False
        if position > self.size and not self._fill(position, kept):
            self.is_lost = True
            return False
        return True

    def head(self, head: Head) -> None:
        """A head that stands here."""
        is_signed = self.keys is not None and self.keys.is_signed(head)
        if self.keys is not None and not is_signed:
            self.say(f"head of size {head.tree_size}: it is not signed by key {head.key_id}, or that key is not ours")
        if self.is_lost:
            return
        if head.tree_size != self.size:
            if head.tree_size > self.size or not self._has_gap:
                self.say(f"head of size {head.tree_size}: there are {self.size} positions before it")
            return
        known = [value for value in self._hashes if value is not None]
        if len(known) < len(self._hashes):
            return  # a position is missing, as was said
        if merkle.fold(known) == head.root_hash:
            self._proved, self._is_disproved = self.size, False
            if is_signed:
                self.signed = head
        elif not self._is_disproved:
            # Later heads are over the same change; the first one says the most about where it is.
            self.say(
                f"head of size {head.tree_size}: its root is not that of the journals; the change is in one of the"
                f" positions {self._proved} to {self.size - 1}, or in the head"
            )
            self._is_disproved = True

    def say(self, sentence: str) -> None:
        """Says what is wrong with this log."""
        self._report.say(f"{self._tenant}: {sentence}")

    def _fill(self, position: int, kept: Kept | None) -> bool:
        """Passes positions that are missing; whether there is any going on after so many."""
        last = position - 1
        self.say(f"position {last} is missing" if last == self.size else f"positions {self.size} to {last} are missing")
        self._has_gap = True
        if position - self.size > _GAP_MAX:
            return False
        while self.size < position:
            self._append(None, kept)
        return True

    def _append(self, leaf: bytes | None, kept: Kept | None) -> None:
        value, node, size = leaf, (0, self.size), self.size
        while size & 1:
            left, level = self._hashes.pop(), node[0] + 1
            value = None if left is None or value is None else merkle.node_hash(left, value)
            node, size = (level, node[1] >> 1), size >> 1
            if kept is not None:
                value = self._compared(node, value, kept(node))
        self._hashes.append(value)
        self.size += 1

    def _compared(self, node: Node, worked_out: bytes | None, kept: bytes | None) -> bytes | None:
        """The hash to go on with: the one that is kept, so that what is wrong is said of the smallest subtree alone."""
        level, number = node
        where = f"positions {number << level} to {((number + 1) << level) - 1}"
        if kept is None:
            self.say(f"{where}: the tree's node over them is gone")
            return worked_out
        if worked_out is not None and worked_out != kept:
            self.say(f"{where}: one of them, or their order, is not what was sealed")
        return kept


def _is_leaf(content: JournalContent, leaf: bytes) -> bool:
    try:
        return content.leaf() == leaf
    except ValueError:
        return False
