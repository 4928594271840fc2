"""The inbox's rule: once each, in order per aggregate, gaps waited for."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from meshkit import inbox
from meshkit.envelopes import Incoming

_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def _event(aggregate: str, version: int, *, again: bool = False) -> Incoming:
    return Incoming(
        id=uuid.uuid5(uuid.NAMESPACE_URL, f"{aggregate}{version}"),
        type="florin.accounts.account_opened.v1",
        source="//florin/accounts",
        tenant="demo",
        aggregate=aggregate,
        version=version,
        time=_TIME,
        traceparent="",
        data=b"",
        again=again,
    )


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 2**32), st.integers(1, 5))
def test_any_redelivery_order_gives_each_event_once_in_order(lengths: list[int], seed: int, batch: int) -> None:
    """Shuffled, doubled and cut into batches, the events of each aggregate are handled once each and in order."""
    chooser = random.Random(seed)
    pending = [_event(f"a{index}", version) for index, n in enumerate(lengths) for version in range(1, n + 1)] * 2
    chooser.shuffle(pending)
    versions: dict[tuple[str, str, str], int] = {}
    handled: list[Incoming] = []
    for _ in range(1000):
        if not pending:
            break
        now, pending = pending[:batch], pending[batch:]
        outcome = inbox.sort(now, versions, lambda _event: True)
        handled += outcome.fresh
        versions.update(outcome.versions)
        pending += [now[position] for position in sorted(outcome.waiting)]
    assert not pending
    for index, n in enumerate(lengths):
        assert [event.version for event in handled if event.aggregate == f"a{index}"] == list(range(1, n + 1))


def test_an_event_whose_predecessor_never_comes_is_let_through_in_the_end() -> None:
    """A lost predecessor must not stop an aggregate for ever."""
    outcome = inbox.sort([_event("a", 3)], {}, lambda _event: False)
    assert [event.version for event in outcome.fresh] == [3]
    assert outcome.versions == {("demo", "//florin/accounts", "a"): 3}


def test_an_event_sent_again_on_purpose_is_handled_again() -> None:
    """A redrive or replay reaches its handler, and does not move the version back."""
    outcome = inbox.sort([_event("a", 1, again=True)], {("demo", "//florin/accounts", "a"): 4}, lambda _e: True)
    assert [event.version for event in outcome.fresh] == [1]
    assert outcome.versions == {}
