"""The rules of reconciliation: what is certain is matched, what could be otherwise is not, in any order of lots."""

from __future__ import annotations

import itertools
import random
import time
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts import reconciliation_rules as rules
from accounts.reconciliation_model import (
    Books,
    Head,
    Notice,
    Side,
    compared,
    item_in,
    item_name,
    ledger_references,
    notices,
    references,
)

EDGES = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), max_size=20)
AMOUNTS = st.dictionaries(st.integers(1, 50), st.integers(-6, 6).filter(bool), max_size=8)


def brute_parts(total: int, candidates: dict[int, int], size: int | None) -> list[tuple[int, ...]]:
    """Every part of two or more that comes to a total."""
    return [
        chosen
        for count in range(2, len(candidates) + 1)
        for chosen in itertools.combinations(sorted(candidates), count)
        if sum(candidates[one] for one in chosen) == total and (not size or count == size)
    ]


@given(EDGES)
def test_a_pair_is_an_edge_whose_ends_have_no_other(edges: list[tuple[int, int]]) -> None:
    """Exactly those: one that could be otherwise is not matched, and one that could not is."""
    assert rules.pairs(edges) == sorted(
        (bank, ledger)
        for bank, ledger in set(edges)
        if {one for one in edges if one[0] == bank or one[1] == ledger} == {(bank, ledger)}
    )


@given(EDGES, st.integers(1, 8), st.randoms(use_true_random=False))
def test_neither_order_nor_division_into_lots_changes_the_pairs(
    edges: list[tuple[int, int]], at: int, chance: random.Random
) -> None:
    """Lots one after the other, each with what hangs on its items at either end, come to what one look comes to."""
    whole = rules.pairs(edges)
    left = list(edges)
    chance.shuffle(left)
    found: list[tuple[int, int]] = []
    for lot in (range(1, at + 1), range(at + 1, 9)):
        # As the service does it: the edges of the lot, then those of whatever of ours these reach.
        near = [edge for edge in left if edge[0] in lot]
        reached = {ledger for _, ledger in near}
        back = [edge for edge in left if edge[1] in reached]
        pairs = rules.pairs([*near, *back])
        assert all(bank in lot for bank, _ in pairs)
        found += pairs
        left = [edge for edge in left if not any(edge[0] == bank or edge[1] == ledger for bank, ledger in pairs)]
    assert sorted(found) == whole


@given(EDGES)
def test_two_candidates_of_each_are_enough(edges: list[tuple[int, int]]) -> None:
    """Who stops at the second candidate of either end comes to the same pairs."""
    capped = []
    for end in (0, 1):
        for number in range(1, 9):
            capped += sorted({edge for edge in edges if edge[end] == number})[:2]
    assert rules.pairs(capped) == rules.pairs(edges)


@given(st.integers(-12, 12), AMOUNTS, st.sampled_from([None, 0, 2, 3]))
def test_parts_are_those_that_come_to_the_total(total: int, candidates: dict[int, int], size: int | None) -> None:
    """The first two of all of them: whether there is one, and whether there is another."""
    found, all_parts = rules.parts(total, candidates, size=size), brute_parts(total, candidates, size)
    assert len(found) == min(len(all_parts), 2)
    assert {tuple(one) for one in found} <= {tuple(one) for one in all_parts}


@given(st.integers(-12, 12).filter(bool), AMOUNTS, st.sampled_from([None, 0, 2, 3]), st.sets(st.integers(1, 50)))
def test_a_batch_comes_to_the_amount_of_its_entry(
    amount: int, candidates: dict[int, int], size: int | None, others: set[int]
) -> None:
    """It is all of them, or the only part; of the stated size; and nothing that another entry refers to as well."""
    found = rules.batch(amount, candidates, size=size, others=others)
    if others & set(candidates):
        assert found == ()
    if not found:
        return
    assert amount + sum(candidates[one] for one in found) == 0
    assert len(found) >= 2
    assert not size or len(found) == size
    whole = tuple(sorted(candidates))
    assert found == whole or brute_parts(-amount, candidates, size) == [found]


@given(st.dictionaries(st.integers(1, 4), st.tuples(st.integers(-9, 9).filter(bool), st.sampled_from([0, 2]))), AMOUNTS)
def test_batches_of_a_day_share_nothing_and_are_each_the_only_sum(
    bank: dict[int, tuple[int, int]], candidates: dict[int, int]
) -> None:
    """Of entries on the one side only; where two could have the same, neither has it."""
    found = rules.batches_of_a_day(bank, candidates)
    taken = [one for part in found.values() for one in part]
    assert len(taken) == len(set(taken))
    for number, part in found.items():
        amount, size = bank[number]
        usable = {one: value for one, value in candidates.items() if value * amount < 0}
        assert brute_parts(-amount, usable, size) == [part]
        for other, (others_amount, others_size) in bank.items():
            theirs = {one: value for one, value in candidates.items() if value * others_amount < 0}
            if other != number:
                assert all(not set(way) & set(part) for way in brute_parts(-others_amount, theirs, others_size))


def test_what_is_looked_for_in_a_batch_is_bounded() -> None:
    """More candidates than the bound are all or nothing, at once."""
    many = dict.fromkeys(range(1, 1001), -1)
    started = time.perf_counter()
    assert rules.batch(1000, many, size=None, others=()) == tuple(range(1, 1001))
    assert rules.batch(999, many, size=None, others=()) == ()
    assert rules.parts(-8, dict.fromkeys(range(rules.PARTS_MAX + 1), -1), size=None) == []
    assert rules.batch(1001, dict.fromkeys(range(1001), -1), size=None, others=()) == ()
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("0192F3A0-7b1c-7000-8000-0123456789AB", "0192f3a07b1c700080000123456789ab"),
        ("E2E / 17-a", "e2e17a"),
        ("NOTPROVIDED", ""),
        ("NONREF", ""),
        ("ÄÖ", ""),
        ("", ""),
    ],
)
def test_references_are_compared_by_letters_and_digits(given_: str, kept: str) -> None:
    """Banks write them without dashes, in capitals, or not at all."""
    assert compared(given_) == kept


@given(st.text())
def test_comparing_again_changes_nothing(text: str) -> None:
    """What is kept is what is looked for."""
    assert compared(compared(text)) == compared(text)
    assert " " not in compared(text)


def test_an_entry_of_ours_is_found_by_its_journal_and_its_origin() -> None:
    """An origin without a name in it is nobody's reference."""
    assert ledger_references("A-1", "transfers/B-2") == ("a1", "b2")
    assert ledger_references("A-1", "funding") == ("a1",)
    assert references(["x", "X", "NOTPROVIDED", "a"]) == ("a", "x")


@given(st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True), st.sampled_from(Side), st.integers(1, 10**17))
def test_the_name_of_an_item_says_where_it_is(account: str, side: Side, number: int) -> None:
    """Both ways."""
    assert item_in(item_name(account, side, number)) == (account, side, number)


@pytest.mark.parametrize(
    ("days", "number", "told"),
    [
        (1, 8, []),
        (1, 0, []),
        (1, 9, [Notice.NUMBER_GAP]),
        (1, 7, [Notice.NUMBER_GAP]),
        (3, 8, [Notice.DAYS_GAP]),
        (0, 8, [Notice.DAYS_OVERLAP]),
    ],
)
def test_what_does_not_follow_the_last_statement_is_told(days: int, number: int, told: list[Notice]) -> None:
    """Though its balance does."""
    last = date(2026, 3, 2)
    books = Books("t", "a", 0, 0, 0, 0, last, 7, 1, 0, 0, 1, 0)
    head = Head("M", "S", number, "iban:X", "EUR", last + timedelta(days=days), last + timedelta(days=days), 0, 0)
    assert list(notices(books, head, 0)) == told
    assert list(notices(books, head, 1)) == [*told, Notice.DUPLICATES]
    assert notices(None, head, 0) == ()
