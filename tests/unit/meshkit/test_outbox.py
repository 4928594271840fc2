"""The relay's rounds keep the order of each aggregate."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from florin.accounts.v1 import events_pb2
from meshkit.outbox import Event, OutboxRow, rounds, subject_of

_TIME = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_a_round_has_one_event_of_an_aggregate_and_rounds_keep_the_order(aggregates: list[str]) -> None:
    """Within a round nothing can overtake; across rounds each aggregate's rows come in their order."""
    rows = [
        OutboxRow("demo", number, uuid.uuid4(), "s", aggregate, number, _TIME, "", b"")
        for number, aggregate in enumerate(aggregates)
    ]
    turns = rounds(rows)
    assert all(len({row.aggregate for row in turn}) == len(turn) for turn in turns)
    flat = [row for turn in turns for row in turn]
    for aggregate in set(aggregates):
        ids = [row.id for row in flat if row.aggregate == aggregate]
        assert ids == sorted(ids)
    assert len(flat) == len(rows)


def test_the_same_change_has_the_same_event_id() -> None:
    """A repeated event is the same event: its id comes from aggregate and version alone."""
    message = events_pb2.AccountOpened(account="accounts/a")
    first = Event("demo", "accounts/a", 1, message, _TIME)
    again = Event("demo", "accounts/a", 1, message, datetime.now(UTC))
    other = Event("demo", "accounts/a", 2, message, _TIME)
    assert first.id == again.id != other.id


def test_the_subject_comes_from_the_contract() -> None:
    """Nobody types a subject twice."""
    assert subject_of(events_pb2.AccountOpened()) == "florin.accounts.account_opened.v1"
