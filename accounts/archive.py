"""Which journals go into the archive next, and into which period; pure, no I/O.

What is archived of an account is always a beginning of its entries: those up to some sequence, and all after it are in
the ledger. So a read that finds in the ledger what it begins with finds all of the rest there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from accounts.history import JournalContent
from meshkit import clock

_YEAR_1 = -62_135_596_800_000_000
"""The first moment that has a year here, in microseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed journal that is in the ledger: its place in the log, what was sealed of it, and what it is now."""

    position: int
    leaf: bytes
    content: JournalContent

    def is_as_sealed(self) -> bool:
        """Whether nothing of it was changed since."""
        try:
            return self.content.leaf() == self.leaf
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Reach:
    """How far an account is archived: the last sequence, and the period that its entry was put into."""

    sequence: int = 0
    period: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What is moved of some journals, each with its period, in an order in which they may be moved one by one."""

    moved: list[tuple[Sealed, int]] = field(default_factory=list)
    left: list[Sealed] = field(default_factory=list)
    """Those older than the boundary that are not moved: they are beyond the limit, or follow one on an account that is
    not moved either, or their period is detached."""


def choose(
    journals: Sequence[Sealed],
    reaches: Mapping[str, Reach],
    *,
    boundary: int,
    limit: int,
    detached: Collection[int] = (),
) -> Choice:
    """Those recorded before a boundary, in microseconds since 1970, that leave a beginning of each account's entries
    archived: with so many entries at most, or one of more. `reaches` are those of the accounts; none for an account of
    which nothing is.

    The log's order is nearly that of postings, not quite: a journal waits for those before it on its accounts. An
    account never goes back to an earlier period, though clocks may have been set back.
    """
    old = [one for one in journals if _is_older(one.content, boundary)]
    heads = {(entry.account, entry.sequence): number for number, one in enumerate(old) for entry in one.content.entries}
    reached = dict(reaches)
    choice, is_moved, entries = Choice(), [False] * len(old), 0
    waiting = deque(range(len(old)))
    while waiting and entries < limit:
        number = waiting.popleft()
        content = old[number].content
        after = None if is_moved[number] else _after(content, reached)
        if after is None:
            continue
        period = max([_period(content), *(reached.get(account, Reach()).period for account in after)])
        if period in detached or (entries and entries + len(content.entries) > limit):
            continue
        is_moved[number] = True
        entries += len(content.entries)
        choice.moved.append((old[number], period))
        for account, sequence in after.items():
            reached[account] = Reach(sequence, period)
            if (account, sequence + 1) in heads:
                waiting.append(heads[account, sequence + 1])
    choice.left.extend(one for one, was_moved in zip(old, is_moved, strict=True) if not was_moved)
    return choice


def periods(journals: Sequence[Sealed], reaches: Mapping[str, Reach], *, boundary: int) -> set[int]:
    """Every period that some of the journals can be put into."""
    own = {_period(one.content) for one in journals if _is_older(one.content, boundary)}
    return own | {reach.period for reach in reaches.values() if reach.period}


def _is_older(content: JournalContent, boundary: int) -> bool:
    # A time that cannot be, which somebody put there, is None: that journal stays where it can be looked at.
    time: int | None = content.create_time
    return time is not None and _YEAR_1 <= time < boundary and bool(content.entries)


def _period(content: JournalContent) -> int:
    """The year in UTC in which a journal was recorded."""
    return clock.from_microseconds(content.create_time).year


def _after(content: JournalContent, reached: Mapping[str, Reach]) -> dict[str, int] | None:
    """How far each of a journal's accounts is archived with it; None where one of its entries is not the next one."""
    own: dict[str, list[int]] = {}
    for entry in content.entries:
        own.setdefault(entry.account, []).append(entry.sequence)
    after = {}
    for account, sequences in own.items():
        first = reached.get(account, Reach()).sequence + 1
        if sorted(sequences) != list(range(first, first + len(sequences))):
            return None
        after[account] = first + len(sequences) - 1
    return after
