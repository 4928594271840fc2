"""What a bank's customers and readers saw, and whether one bank with one order of things could have shown it to them.

After Jepsen's test of a bank. The checker is pure: it looks at the history, and at the entries and transfers that stand
in the end, at nothing else. Entries of an account are numbered without a gap, so every balance that anybody saw says
by its sequence which entries it is the sum of.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

MOVED, NOT_MOVED, UNKNOWN = "COMPLETED", "DECLINED", ""
EXPECTED_REFUSALS = frozenset({"INSUFFICIENT_FUNDS"})


@dataclass(frozen=True, slots=True)
class Asked:
    """One transfer that a caller asked for, with all attempts. Times are seconds, of one clock for all callers."""

    caller: str
    tag: str
    debit: str
    credit: str
    minor_units: int
    begun: float
    ended: float
    answer: str
    """COMPLETED, DECLINED, or nothing: the caller does not know."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """Balances as one answer showed them, or several that were asked for one moment of the past."""

    caller: str
    begun: float
    ended: float
    balances: Mapping[str, tuple[int, int]]
    """Account → posted and sequence."""
    as_of: str = ""
    """The moment of the past; empty for the present."""

    @property
    def is_complete(self) -> bool:
        """Whether it is of more than one account; one account's past has no total."""
        return len(self.balances) > 1


@dataclass(slots=True)
class BankHistory:
    """All that was asked and seen, in the order of its end."""

    opening: dict[str, tuple[int, int]]
    """Account → what it had, and its sequence, before the first transfer."""
    asked: list[Asked] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Keeps it, a line a record, for a person who wants to know what went wrong."""
        records: list[Asked | Reading] = sorted([*self.asked, *self.readings], key=lambda record: record.ended)
        with path.open("w") as file:
            file.write(json.dumps({"opening": self.opening}) + "\n")
            file.writelines(json.dumps(asdict(record)) + "\n" for record in records)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it stands in the end. `origin` is the transfer that it was posted for."""

    account: str
    sequence: int
    amount: int
    balance_after: int
    journal: str
    origin: str


@dataclass(frozen=True, slots=True)
class Stands:
    """A transfer as it stands in the end."""

    name: str
    tag: str
    debit: str
    credit: str
    minor_units: int
    state: str
    journal: str


@dataclass(frozen=True, slots=True)
class BankFinal:
    """What stands when nothing is asked for any more: all transfers, and all entries after the opening."""

    transfers: Sequence[Stands]
    entries: Sequence[Entry]


def check(history: BankHistory, final: BankFinal) -> list[str]:
    """A sentence for everything that one bank could not have shown."""
    return [
        *_totals(history),
        *_sums(history, final),
        *_effects(history, final),
        *_seen(history, final),
        *_forward(history),
        *_past(history),
    ]


def _totals(history: BankHistory) -> Iterator[str]:
    """Money only moves: no reading of all accounts shows more or less of it, and nobody is overdrawn."""
    expected = sum(posted for posted, _ in history.opening.values())
    for reading in history.readings:
        if not reading.is_complete:
            continue
        if reading.balances.keys() != history.opening.keys():
            yield f"{_of(reading)} is of {len(reading.balances)} accounts, not of {len(history.opening)}"
        total = sum(posted for posted, _ in reading.balances.values())
        if total != expected:
            yield f"{_of(reading)} came to {total}, not {expected}"
        yield from (
            f"{_of(reading)} shows {a} at {posted}" for a, (posted, _) in reading.balances.items() if posted < 0
        )


def _sums(history: BankHistory, final: BankFinal) -> Iterator[str]:
    """The entries of an account have no gap, and each says the balance that it leaves."""
    for account, entries in _by_account(history, final).items():
        posted, sequence = history.opening[account]
        for entry in entries:
            posted, sequence = posted + entry.amount, sequence + 1
            if (entry.balance_after, entry.sequence) != (posted, sequence):
                yield f"{entry} should be number {sequence} and leave {posted}"
                break


def _effects(history: BankHistory, final: BankFinal) -> Iterator[str]:
    """What was acknowledged stands; what was asked once, or without an answer, was done once or not at all."""
    by_tag: dict[str, list[Stands]] = defaultdict(list)
    for transfer in final.transfers:
        by_tag[transfer.tag].append(transfer)
    journals: dict[str, list[Entry]] = defaultdict(list)
    for entry in final.entries:
        journals[entry.origin].append(entry)
    for asked in history.asked:
        made = by_tag.pop(asked.tag, [])
        if len(made) > 1:
            yield f"{asked.tag} became {len(made)} transfers"
        if asked.answer != UNKNOWN and not made:
            yield f"{asked.tag} was {asked.answer}, and is lost"
        for transfer in made:
            yield from _effect(asked, transfer, journals.pop(transfer.name, []))
        if asked.answer == NOT_MOVED and asked.reason not in EXPECTED_REFUSALS:
            yield f"{asked.tag} was refused for {asked.reason}"
    yield from (f"nobody asked for {tag}" for tag in by_tag)
    yield from (
        f"{origin} is no transfer of anybody, and has {len(entries)} entries" for origin, entries in journals.items()
    )


def _effect(asked: Asked, transfer: Stands, entries: Sequence[Entry]) -> Iterator[str]:
    """One transfer beside what was asked for and what was posted for it."""
    if (transfer.debit, transfer.credit, transfer.minor_units) != (asked.debit, asked.credit, asked.minor_units):
        yield f"{transfer} is not what was asked for: {asked}"
    if transfer.state not in (MOVED, NOT_MOVED):
        yield f"{transfer.name} is still {transfer.state}"
    if asked.answer not in (UNKNOWN, transfer.state):
        yield f"{asked.tag} was told to be {asked.answer}, and is {transfer.state}"
    amounts = Counter((entry.account, entry.amount) for entry in entries)
    expected = Counter([(asked.debit, -asked.minor_units), (asked.credit, asked.minor_units)])
    if transfer.state == MOVED and amounts != expected:
        yield f"{transfer.name} is {transfer.state} with the entries {dict(amounts)}"
    if transfer.state != MOVED and amounts:
        yield f"{transfer.name} is {transfer.state} and moved {dict(amounts)}"
    if {entry.journal for entry in entries} - {transfer.journal}:
        yield f"{transfer.name} names {transfer.journal}, and was posted by {sorted({e.journal for e in entries})}"


def _seen(history: BankHistory, final: BankFinal) -> Iterator[str]:
    """Each balance that was seen is the sum of the entries up to its sequence; whoever reads after a transfer was
    acknowledged sees it, and nobody sees one that was not asked for yet."""
    entries = _by_account(history, final)
    names = {transfer.name: transfer.tag for transfer in final.transfers}
    asked = {one.tag: one for one in history.asked}
    first_seen: dict[tuple[str, int], float] = {}
    for reading in history.readings:
        for account, (posted, sequence) in reading.balances.items():
            if account not in entries:
                yield f"{_of(reading)} shows {account}, which is none of the bank's"
                continue
            number = sequence - history.opening[account][1]
            known = entries[account]
            if not 0 <= number <= len(known):
                yield f"{_of(reading)} shows {account} at the sequence {sequence}, which it never had"
                continue
            stood = known[number - 1].balance_after if number else history.opening[account][0]
            if stood != posted:
                yield f"{_of(reading)} shows {account} at {posted} by {sequence}, which was {stood}"
            place = account, number
            first_seen[place] = min(first_seen.get(place, reading.ended), reading.ended)
    for account, known in entries.items():
        seen_by = float("inf")
        # From the last to the first: who saw an entry saw all before it.
        for number in range(len(known), 0, -1):
            seen_by = min(seen_by, first_seen.get((account, number), seen_by))
            one = asked.get(names.get(known[number - 1].origin, ""))
            if one is not None and seen_by < one.begun:
                yield f"{one.tag} was seen on {account} before it was asked for"
    yield from _unseen(history, entries, names, asked)


def _unseen(
    history: BankHistory, entries: Mapping[str, Sequence[Entry]], names: Mapping[str, str], asked: Mapping[str, Asked]
) -> Iterator[str]:
    present = sorted((reading for reading in history.readings if not reading.as_of), key=lambda one: one.begun)
    begins = [reading.begun for reading in present]
    # What the readings that began at a moment or later saw at least.
    least: list[dict[str, int]] = [{} for _ in present]
    so_far: dict[str, int] = {}
    for place in range(len(present) - 1, -1, -1):
        for account, (_, sequence) in present[place].balances.items():
            so_far[account] = min(so_far.get(account, sequence), sequence)
        least[place] = dict(so_far)
    for account, known in entries.items():
        for entry in known:
            one = asked.get(names.get(entry.origin, ""))
            if one is None or one.answer != MOVED:
                continue
            place = bisect.bisect_right(begins, one.ended)
            if place < len(present) and least[place].get(account, entry.sequence) < entry.sequence:
                yield f"{one.tag} was acknowledged, and {account} was read without it afterwards"


def _forward(history: BankHistory) -> Iterator[str]:
    """Time goes forward, for each caller and for all of them: who begins to read when another has read sees no less."""
    present = sorted((reading for reading in history.readings if not reading.as_of), key=lambda one: one.begun)
    by_end = iter(sorted(present, key=lambda one: one.ended))
    ended = next(by_end, None)
    newest: dict[str, tuple[int, str]] = {}
    for reading in present:
        while ended is not None and ended.ended < reading.begun:
            for account, (_, sequence) in ended.balances.items():
                newest[account] = max(newest.get(account, (0, "")), (sequence, ended.caller))
            ended = next(by_end, None)
        for account, (_, sequence) in reading.balances.items():
            before, by = newest.get(account, (0, ""))
            if sequence < before:
                yield f"{_of(reading)} shows {account} at the sequence {sequence}, {by} had seen {before} by then"


def _past(history: BankHistory) -> Iterator[str]:
    """A moment of the past is the same whenever it is asked for, and moments come in order."""
    moments: dict[str, Reading] = {}
    for reading in history.readings:
        if reading.as_of and reading.is_complete:
            before = moments.setdefault(reading.as_of, reading)
            if before.balances != reading.balances:
                yield f"{_of(reading)} shows {dict(reading.balances)}, before it was {dict(before.balances)}"
    for (earlier, one), (later, other) in itertools.pairwise(sorted(moments.items())):
        for account in one.balances.keys() & other.balances.keys():
            if one.balances[account][1] > other.balances[account][1]:
                yield f"{account} had more entries at {earlier} than at {later}"


def _by_account(history: BankHistory, final: BankFinal) -> dict[str, list[Entry]]:
    entries: dict[str, list[Entry]] = {account: [] for account in history.opening}
    for entry in sorted(final.entries, key=lambda one: one.sequence):
        if entry.account in entries:
            entries[entry.account].append(entry)
    return entries


def _of(reading: Reading) -> str:
    when = f" as of {reading.as_of}" if reading.as_of else ""
    return f"the reading of {reading.caller}{when} at {reading.ended:.2f} s"
