"""The rules by which items of the bank and of the ledger belong together; pure, the same in any order and division.

What could be in more ways than one is not decided: a person has to. Work is bounded: who is asked for what might fit
may stop at the second candidate of a pair, and at these bounds of a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

Edge = tuple[int, int]
"""An item of the bank and one of the ledger that might belong together, by their numbers."""
Amounts = Mapping[int, int]
"""Items by their number, with their amounts."""

BATCH_MAX = 1000
"""Items in a batch that is matched whole."""
PARTS_MAX = 12
"""Items of which some are looked for that come to an amount: 4,096 ways, a millisecond in which nobody pays."""


def pairs(edges: Iterable[Edge]) -> list[Edge]:
    """The edges whose two ends have no other: of everything that might belong together, what can be in one way only.

    Taking one of them changes nothing for the others, so neither the order nor the division into lots matters, as long
    as a lot has for each of its items whether there is none, one or another.
    """
    ledger_of: dict[int, set[int]] = {}
    bank_of: dict[int, set[int]] = {}
    for bank, ledger in edges:
        ledger_of.setdefault(bank, set()).add(ledger)
        bank_of.setdefault(ledger, set()).add(bank)
    return sorted(
        (bank, ledger)
        for bank, found in ledger_of.items()
        for ledger in found
        if len(found) == 1 and len(bank_of[ledger]) == 1
    )


def batch(amount: int, candidates: Amounts, *, size: int | None, others: Collection[int]) -> tuple[int, ...]:
    """Those of ours that an entry of the bank with `amount` refers to and that it stands for; empty where that is not
    certain.

    All of them if they come to the amount, or else the only part that does. `size` is how many it says it has; `others`
    are those that another of the bank's refers to as well, which makes it uncertain.
    """
    if not 2 <= len(candidates) <= BATCH_MAX or any(number in others for number in candidates):
        return ()
    if sum(candidates.values()) == -amount and size in (None, 0, len(candidates)):
        return tuple(sorted(candidates))
    found = parts(-amount, candidates, size=size)
    return found[0] if len(found) == 1 else ()


def batches_of_a_day(bank: Mapping[int, tuple[int, int]], candidates: Amounts) -> dict[int, tuple[int, ...]]:
    """The batches of the bank on one day, each by its number with its amount and size (0 for unknown), as sums of ours
    of that day. A batch that is a sum in several ways, or of what might be another's, is left out."""
    found = {
        number: parts(-amount, {one: value for one, value in candidates.items() if value * amount < 0}, size=size)
        for number, (amount, size) in bank.items()
    }
    certain = {}
    for number, ways in found.items():
        if len(ways) != 1:
            continue
        others = [theirs for other, theirs in found.items() if other != number]
        # What another one could be is only known where that is nothing, or one way.
        uncertain = any(len(theirs) > 1 for theirs in others)
        taken = {one for theirs in others for way in theirs for one in way}
        if not uncertain and not taken.intersection(ways[0]):
            certain[number] = ways[0]
    return certain


def parts(total: int, candidates: Amounts, *, size: int | None) -> list[tuple[int, ...]]:
    """The parts of two candidates or more, of `size` if it is told, that come to a total: up to two, since a second one
    makes it uncertain; none of more than PARTS_MAX candidates."""
    if not 2 <= len(candidates) <= PARTS_MAX:
        return []
    numbers = sorted(candidates)
    found: list[tuple[int, ...]] = []
    sums = _sums(numbers, candidates)
    for chosen, come_to in enumerate(sums):
        count = chosen.bit_count()
        if come_to == total and count >= 2 and (not size or count == size):
            found.append(tuple(number for at, number in enumerate(numbers) if chosen >> at & 1))
            if len(found) == 2:
                break
    return found


def _sums(numbers: Sequence[int], amounts: Amounts) -> list[int]:
    """What each choice of the numbers comes to, by the bits of its index."""
    sums = [0]
    for number in numbers:
        sums += [one + amounts[number] for one in sums]
    return sums
