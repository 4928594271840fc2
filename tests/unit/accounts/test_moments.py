"""Recorded times in the order of sequences, and what a question for a moment of the past may ask."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts import errors, ledger, moments
from accounts.book import Book, Posted
from accounts.ledger import POSTED_MAX
from accounts.model import JournalKind
from accounts.moments import AsOf, Axis
from meshkit.errors import RequestInvalid
from meshkit.money import INT64_MAX
from tests.unit.accounts.test_ledger import NOW, TENANT, account, bank, book, post

CLOCKS = st.lists(st.integers(-5, 5), min_size=1, max_size=12)
PAIRS = st.lists(st.sampled_from([("a", "b"), ("b", "c"), ("c", "a")]), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(CLOCKS, st.lists(PAIRS, min_size=12, max_size=12))
def test_an_accounts_entries_are_recorded_in_the_order_of_their_sequence(
    clocks: list[int], batches: list[list[tuple[str, str]]]
) -> None:
    """Whatever the clocks of batches say, no entry is recorded before the one before it, a journal's legs are recorded
    at one moment, and none is put later than a clock said it was."""
    subject: Book = book(account("a", 1000), account("b", 1000), account("c", 1000))
    last: dict[str, datetime] = {}
    latest = NOW - timedelta(days=1)
    for number, (seconds, pairs) in enumerate(zip(clocks, batches, strict=False)):
        now = NOW + timedelta(seconds=seconds)
        latest = max(latest, now)
        steps = [post(100 * number + at, (debit, -1), (credit, 1)) for at, (debit, credit) in enumerate(pairs)]
        for outcome in ledger.apply(subject, steps, now):
            assert isinstance(outcome, Posted)
            assert now <= outcome.create_time <= latest
            assert outcome.effective_time == outcome.create_time
            for leg in outcome.legs:
                assert outcome.create_time >= last.get(leg.account, outcome.create_time)
                last[leg.account] = outcome.create_time
    assert all(subject.accounts[TENANT, name].recorded_time == moment for name, moment in last.items())


def test_an_account_knows_how_far_its_entries_are_dated() -> None:
    """The largest distance stays, forward or back; an entry that counts from its recorded time is at none."""
    subject = book(account("a"), bank())
    for number, days in enumerate((-2, 0, 3, -1)):
        step = post(number, ("bank", -1), ("a", 1), kind=JournalKind.REVERSAL)
        moment = None if days == 0 else NOW + timedelta(days=days)
        ledger.apply(subject, [replace(step, effective_time=moment)], NOW)
    assert subject.accounts[TENANT, "a"].dating_microseconds == 3 * 86_400 * 1_000_000


@pytest.mark.parametrize(("seconds", "nanos"), [(-(10**18), 0), (10**12, 0), (0, -1), (0, 10**9), (-62_135_596_801, 0)])
def test_what_is_no_time_is_refused(seconds: int, nanos: int) -> None:
    """Timestamps beyond the years 1 to 9999, or with impossible nanoseconds, name their field."""
    with pytest.raises(RequestInvalid) as caught:
        moments.moment(Timestamp(seconds=seconds, nanos=nanos), "as_of_recorded_time")
    assert "as_of_recorded_time" in str(caught.value)


def test_a_time_is_cut_to_microseconds() -> None:
    """Times are kept in microseconds: what is at or before a time is at or before the time cut, and no other."""
    assert moments.moment(Timestamp(seconds=1, nanos=1999), "f") == datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC)
    assert moments.moment(Timestamp(seconds=-62_135_596_800), "f") == datetime(1, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("as_of", "is_refused"),
    [
        (AsOf(Axis.RECORDED, NOW), False),
        (AsOf(Axis.RECORDED, NOW + timedelta(microseconds=1)), True),
        (AsOf(Axis.EFFECTIVE, NOW + timedelta(microseconds=1)), True),
        (AsOf(Axis.SEQUENCE, sequence=7), False),
        (AsOf(Axis.SEQUENCE, sequence=8), True),
    ],
)
def test_the_future_is_refused(as_of: AsOf, is_refused: bool) -> None:
    """The present moment and the last sequence are shown; one more is not."""
    if not is_refused:
        moments.check(as_of, "a", last_sequence=7, now=NOW)
        return
    with pytest.raises(errors.AsOfFuture):
        moments.check(as_of, "a", last_sequence=7, now=NOW)


def test_a_sum_beyond_64_bits_is_refused() -> None:
    """Some of an account's entries can add up to more than all of them."""
    assert moments.check_range("a", POSTED_MAX) == POSTED_MAX
    with pytest.raises(errors.AmountOverflow):
        moments.check_range("a", INT64_MAX + 1)
