"""What is archived next: always a beginning of each account's entries, each journal once, and all of it in the end."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from accounts import archive
from accounts.archive import Reach, Sealed
from accounts.history import JournalContent, SealedEntry
from meshkit import clock

START = datetime(2024, 11, 1, tzinfo=UTC)
NEVER_MORE = clock.microseconds(datetime(2100, 1, 1, tzinfo=UTC))


def journal(number: int, time: datetime, *entries: tuple[str, int], posted: int = 0) -> Sealed:
    """A sealed journal of (account, sequence) entries; its kind tells in which order they were posted."""
    legs = tuple(SealedEntry(account, sequence, "EUR", 1, 1) for account, sequence in entries)
    recorded = clock.microseconds(time)
    content = JournalContent("t", f"00000000-0000-0000-0000-{number:012}", posted, "o", recorded, recorded, legs)
    return Sealed(number, content.leaf(), content)


def history(chance: random.Random) -> list[Sealed]:
    """Journals in the order of the log, which is that of their postings with some displaced, as batches' are."""
    last: dict[str, int] = {}
    posted = []
    time = START
    for number in range(chance.randint(1, 40)):
        time += chance.choice([timedelta(0), timedelta(hours=1), timedelta(days=30)])
        legs = []
        for account in chance.sample("abcdef", chance.randint(2, 4)) + chance.choices("abc", k=chance.randint(0, 2)):
            last[account] = last.get(account, 0) + 1
            legs.append((account, last[account]))
        posted.append((number, time, legs))
    displaced = sorted(posted, key=lambda one: one[0] + chance.choice([0, 0, 0, 3, 9]))
    return [journal(position, time, *legs, posted=number) for position, (number, time, legs) in enumerate(displaced)]


def reached(choice: archive.Choice, reaches: dict[str, Reach]) -> dict[str, Reach]:
    """How far accounts are archived after a choice; fails when an entry is not the next one."""
    after = dict(reaches)
    for one, period in choice.moved:
        for entry in sorted(one.content.entries, key=lambda entry: entry.sequence):
            before = after.get(entry.account, Reach())
            assert entry.sequence == before.sequence + 1
            assert period >= before.period
            after[entry.account] = Reach(entry.sequence, period)
    return after


@given(st.integers(0), st.integers(1, 12), st.integers(1, 12), st.integers(0, 400))
def test_all_that_is_old_is_archived_in_the_end(seed: int, window: int, limit: int, days: int) -> None:
    """Whatever the windows and limits: each choice leaves a beginning of every account's entries, and choices over what
    is left come to all that is older than the boundary and nothing else."""
    log = history(random.Random(seed))
    boundary = clock.microseconds(START + timedelta(days=days))
    ledger, reaches, archived = list(log), dict[str, Reach](), list[int]()
    while True:
        shown = ledger[:window]
        choice = archive.choose(shown, reaches, boundary=boundary, limit=limit)
        moved = {one.position for one, _ in choice.moved}
        assert len(moved) == len(choice.moved)
        assert sum(len(one.content.entries) for one, _ in choice.moved) <= limit or len(moved) == 1
        assert choice.left == [one for one in shown if one.content.create_time < boundary and one.position not in moved]
        reaches = reached(choice, reaches)
        archived += moved
        ledger = [one for one in ledger if one.position not in moved]
        if not moved and window >= len(ledger):
            break
        window *= 1 if moved else 2
    assert sorted(archived) == [one.position for one in log if one.content.create_time < boundary]


@given(st.integers(0))
def test_what_follows_a_journal_that_stays_stays_too(seed: int) -> None:
    """A journal that is not in the window holds back those behind it on its accounts, and those behind these; no others
    stay."""
    chance = random.Random(seed)
    log = history(chance)
    missing = chance.choice(log)
    choice = archive.choose([one for one in log if one is not missing], {}, boundary=NEVER_MORE, limit=1000)
    reached(choice, {})
    moved = {one.position for one, _ in choice.moved}
    held_back: set[str] = set()
    for one in sorted(log, key=lambda one: one.content.kind):
        accounts = {entry.account for entry in one.content.entries}
        stays = one is missing or bool(accounts & held_back)
        assert (one.position in moved) is not stays
        if stays:
            held_back |= accounts


def test_an_account_never_goes_back_to_an_earlier_period() -> None:
    """A journal that a clock set back recorded in the year before is put where the entries before it are."""
    late = journal(0, datetime(2026, 1, 1, tzinfo=UTC), ("a", 1), ("b", 1))
    early = journal(1, datetime(2025, 12, 31, 23, tzinfo=UTC), ("b", 2), ("c", 1))
    choice = archive.choose([late, early], {"c": Reach(0, 0)}, boundary=NEVER_MORE, limit=9)
    assert [period for _, period in choice.moved] == [2026, 2026]


def test_a_detached_period_takes_nothing() -> None:
    """Its journal stays, with what follows; others go."""
    log = [
        journal(0, datetime(2024, 5, 1, tzinfo=UTC), ("a", 1), ("b", 1)),
        journal(1, datetime(2025, 5, 1, tzinfo=UTC), ("b", 2), ("c", 1)),
        journal(2, datetime(2025, 6, 1, tzinfo=UTC), ("d", 1), ("e", 1)),
    ]
    choice = archive.choose(log, {}, boundary=NEVER_MORE, limit=9, detached=[2024])
    assert [(one.position, period) for one, period in choice.moved] == [(2, 2025)]
    assert [one.position for one in choice.left] == [0, 1]
    assert archive.periods(log, {"a": Reach(3, 2023)}, boundary=NEVER_MORE) == {2023, 2024, 2025}


def test_what_cannot_be_a_journal_stays() -> None:
    """One with a time that cannot be, or without entries: somebody made it so, and it is to be looked at."""
    whole = journal(0, START, ("a", 1), ("b", 1))
    timeless = Sealed(1, b"", JournalContent("t", "x", 1, "o", None, 0, whole.content.entries))  # type: ignore[arg-type]
    ancient = Sealed(2, b"", JournalContent("t", "x", 1, "o", -(10**17), 0, whole.content.entries))
    empty = Sealed(3, b"", JournalContent("t", "x", 1, "o", 0, 0, ()))
    choice = archive.choose([timeless, ancient, empty], {}, boundary=NEVER_MORE, limit=9)
    assert (choice.moved, choice.left) == ([], [])
    assert whole.is_as_sealed()
    assert not any(one.is_as_sealed() for one in (timeless, ancient, empty))
