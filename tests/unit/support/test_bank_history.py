"""The checker finds every bad history that it is there for, and nothing in a good one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bank_history import Asked, BankFinal, BankHistory, Entry, Reading, Stands, check

A, B = "accounts/a", "accounts/b"


def story() -> tuple[BankHistory, BankFinal]:
    """Two transfers with an answer, one refused, two without one, of which one was done; read meanwhile."""
    history = BankHistory(opening={A: (1000, 1), B: (0, 0)})
    history.asked = [
        Asked("anna", "one", A, B, 100, 1, 2, "COMPLETED"),
        Asked("anna", "poor", B, A, 5000, 3, 4, "DECLINED", "INSUFFICIENT_FUNDS"),
        Asked("carl", "silent", A, B, 50, 3, 5, ""),
        Asked("carl", "gone", A, B, 50, 6, 7, ""),
        Asked("anna", "back", B, A, 20, 6, 8, "COMPLETED"),
    ]
    history.readings = [
        Reading("reader", 0, 1, {A: (1000, 1), B: (0, 0)}),
        Reading("reader", 2.5, 3, {A: (900, 2), B: (100, 1)}),
        Reading("other", 4, 7, {A: (850, 3), B: (150, 2)}),
        Reading("reader", 9, 10, {A: (870, 4), B: (130, 3)}),
        Reading("historian", 9, 10, {A: (850, 3), B: (150, 2)}, as_of="2026-01-01T00:00:05"),
        Reading("historian", 11, 12, {A: (870, 4), B: (130, 3)}, as_of="2026-01-01T00:00:09"),
        Reading("historian", 13, 14, {A: (850, 3), B: (150, 2)}, as_of="2026-01-01T00:00:05"),
        Reading("historian", 13, 14, {A: (900, 2)}, as_of="sequence 2"),
    ]
    transfers = [
        Stands("transfers/1", "one", A, B, 100, "COMPLETED", "journals/1"),
        Stands("transfers/2", "poor", B, A, 5000, "DECLINED", ""),
        Stands("transfers/3", "silent", A, B, 50, "COMPLETED", "journals/3"),
        Stands("transfers/4", "back", B, A, 20, "COMPLETED", "journals/4"),
    ]
    entries = [
        Entry(A, 2, -100, 900, "journals/1", "transfers/1"),
        Entry(B, 1, 100, 100, "journals/1", "transfers/1"),
        Entry(A, 3, -50, 850, "journals/3", "transfers/3"),
        Entry(B, 2, 50, 150, "journals/3", "transfers/3"),
        Entry(B, 3, -20, 130, "journals/4", "transfers/4"),
        Entry(A, 4, 20, 870, "journals/4", "transfers/4"),
    ]
    return history, BankFinal(transfers, entries)


def with_reading(at: int, **changes: Any) -> tuple[BankHistory, BankFinal]:
    """The story with another reading in the place of one."""
    history, final = story()
    history.readings[at] = replace(history.readings[at], **changes)
    return history, final


def with_asked(at: int, **changes: Any) -> tuple[BankHistory, BankFinal]:
    """The story with something else that was asked or answered."""
    history, final = story()
    history.asked[at] = replace(history.asked[at], **changes)
    return history, final


def with_transfer(at: int, **changes: Any) -> tuple[BankHistory, BankFinal]:
    """The story with another end of a transfer."""
    history, final = story()
    transfers = list(final.transfers)
    transfers[at] = replace(transfers[at], **changes)
    return history, replace(final, transfers=transfers)


def with_entries(entries: list[Entry]) -> tuple[BankHistory, BankFinal]:
    """The story with other entries."""
    history, final = story()
    return history, replace(final, entries=entries)


def test_a_good_history_has_nothing_wrong() -> None:
    """A transfer without an answer was done or was not."""
    assert check(*story()) == []


BAD = {
    "a total that changed": (with_reading(1, balances={A: (900, 2), B: (90, 1)}), "came to 990"),
    "another account": (with_reading(1, balances={A: (900, 2), "accounts/c": (100, 1)}), "none of the bank's"),
    "an overdrawn account": (with_reading(1, balances={A: (1100, 2), B: (-100, 1)}), "at -100"),
    "half of a transfer": (with_reading(1, balances={A: (900, 2), B: (0, 0)}), "came to 900"),
    "a balance that no entry left": (with_reading(1, balances={A: (901, 2), B: (99, 1)}), "which was 900"),
    "a sequence that never was": (with_reading(1, balances={A: (900, 9), B: (100, 1)}), "which it never had"),
    "an acknowledged transfer that is lost": (with_asked(3, answer="COMPLETED"), "is lost"),
    "a transfer that was told otherwise": (with_asked(2, answer="DECLINED", reason="INSUFFICIENT_FUNDS"), "told to be"),
    "a refusal that nobody expects": (with_asked(1, reason="INTERNAL"), "refused for INTERNAL"),
    "other terms": (with_asked(0, minor_units=99), "not what was asked for"),
    "one request as two transfers": (with_transfer(3, tag="silent"), "became 2 transfers"),
    "a transfer that nobody asked for": (with_transfer(3, tag="nobody's"), "nobody asked for"),
    "one that is not final": (with_transfer(2, state="ACCEPTED"), "still ACCEPTED"),
    "a completed one that moved nothing": (with_transfer(1, state="COMPLETED"), "with the entries {}"),
    "a declined one that moved money": (with_transfer(2, state="DECLINED"), "and moved"),
    "another journal": (with_transfer(2, journal="journals/9"), "names journals/9"),
    "a read before an acknowledged one": (
        with_reading(3, balances={A: (850, 3), B: (150, 2)}),
        "back was acknowledged, and accounts/a was read without it",
    ),
    "a read of what was not asked for": (with_reading(1, balances={A: (870, 4), B: (130, 3)}), "before it was asked"),
    "a past that changed": (with_reading(6, balances={A: (900, 2), B: (100, 1)}), "before it was"),
    "moments in another order": (
        with_reading(5, balances={A: (1000, 1), B: (0, 0)}),
        "had more entries at 2026-01-01T00:00:05",
    ),
    "another past of one account": (with_reading(7, balances={A: (901, 2)}), "which was 900"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_found(name: str) -> None:
    """Each has one thing in it that one bank could not have shown."""
    (history, final), told = BAD[name]
    problems = check(history, final)
    assert any(told in problem for problem in problems), problems


def test_a_read_that_goes_back_is_found() -> None:
    """The same caller, or another one later, sees less than was seen before."""
    history, final = story()
    history.readings.append(Reading("late", 11, 12, {A: (850, 3), B: (150, 2)}))
    problems = check(history, final)
    assert any("reader had seen 4" in problem for problem in problems), problems


def test_money_that_was_moved_twice_is_found() -> None:
    """A second journal of one transfer, whose balances all add up."""
    _, final = story()
    twice = [
        *final.entries,
        Entry(A, 5, -100, 770, "journals/1-again", "transfers/1"),
        Entry(B, 4, 100, 230, "journals/1-again", "transfers/1"),
    ]
    problems = check(*with_entries(twice))
    assert any("transfers/1 is COMPLETED with the entries" in problem for problem in problems), problems


def test_an_entry_that_is_gone_is_found() -> None:
    """A gap in the sequence of an account."""
    _, final = story()
    problems = check(*with_entries([entry for entry in final.entries if (entry.account, entry.sequence) != (A, 3)]))
    assert any("should be number 3" in problem for problem in problems), problems


def test_entries_of_no_transfer_are_found() -> None:
    """Money that moved without anybody's asking."""
    _, final = story()
    strange = [Entry(A, 5, -1, 869, "journals/9", "transfers/9"), Entry(B, 4, 1, 131, "journals/9", "transfers/9")]
    problems = check(*with_entries([*final.entries, *strange]))
    assert any("transfers/9 is no transfer of anybody" in problem for problem in problems), problems


def test_a_history_is_kept_line_by_line(tmp_path: Path) -> None:
    """What a person gets to read after a failure."""
    history, _ = story()
    history.write(tmp_path / "history.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines[0] == {"opening": {A: [1000, 1], B: [0, 0]}}
    assert len(lines) == 1 + len(history.asked) + len(history.readings)
    assert [line["ended"] for line in lines[1:]] == sorted(line["ended"] for line in lines[1:])


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 100)), max_size=20), st.data())
def test_whatever_one_bank_does_in_order_has_nothing_wrong(moves: list[tuple[bool, int]], data: st.DataObject) -> None:
    """Transfers one after the other, and readings anywhere between them: never an alarm for nothing."""
    history, transfers, entries = BankHistory(opening={A: (5000, 0), B: (5000, 0)}), [], []
    now, standing = 0.0, dict(history.opening)
    for number, (forth, amount) in enumerate(moves):
        debit, credit = (A, B) if forth else (B, A)
        for account, change in ((debit, -amount), (credit, amount)):
            posted, sequence = standing[account]
            standing[account] = posted + change, sequence + 1
            entries.append(
                Entry(account, sequence + 1, change, posted + change, f"journals/{number}", f"transfers/{number}")
            )
        transfers.append(
            Stands(f"transfers/{number}", str(number), debit, credit, amount, "COMPLETED", f"journals/{number}")
        )
        answer = data.draw(st.sampled_from(["COMPLETED", ""]))
        history.asked.append(Asked("caller", str(number), debit, credit, amount, now, now + 1, answer))
        if data.draw(st.booleans()):
            history.readings.append(Reading("reader", now + 1, now + 2, dict(standing)))
        now += 2
    assert check(history, BankFinal(transfers, entries)) == []
