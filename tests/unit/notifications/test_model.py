"""When a delivery is tried again and when it is given up; what a filter means; who may widen an endpoint."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import policy
from notifications import catalogue
from notifications.clients import retry_after_s
from notifications.model import Backoff, DeliveryState, DueDelivery, Reply, StoredEvent, scopes_after_url_change

NOW = datetime(2026, 1, 31, tzinfo=UTC)
BACKOFF = Backoff(base_s=5.0, max_s=100.0, attempts_max=4)


def due(attempts: int) -> DueDelivery:
    """A delivery after so many attempts."""
    event = StoredEvent(1, uuid.uuid4(), "florin.accounts.customer_created.v1", "customers/a", 1, NOW, b"")
    return DueDelivery("demo", uuid.uuid4(), uuid.uuid4(), "e", attempts, "https://a.example", (), b"", (), event)


def reply(status: int, error: str = "", retry_after_s: float = 0.0, *, is_final: bool = False) -> Reply:
    """What a receiver said."""
    return Reply(NOW, status, error, 1, retry_after_s, is_final)


@pytest.mark.parametrize(
    ("attempts", "answer", "state"),
    [
        (0, reply(200), DeliveryState.DELIVERED),
        (3, reply(204), DeliveryState.DELIVERED),
        (0, reply(302), DeliveryState.PENDING),
        (0, reply(500), DeliveryState.PENDING),
        (0, reply(0, "the connection was refused"), DeliveryState.PENDING),
        (0, reply(200, "the answer was cut off"), DeliveryState.PENDING),
        (2, reply(503), DeliveryState.PENDING),
        (3, reply(503), DeliveryState.FAILED),
        (0, reply(410), DeliveryState.FAILED),
        (0, reply(0, "it may not be sent", is_final=True), DeliveryState.FAILED),
    ],
)
def test_what_an_answer_makes_of_a_delivery(attempts: int, answer: Reply, state: DeliveryState) -> None:
    """2xx ends it, 410 and the last attempt give it up, all else is tried again; 410 alone disables the endpoint."""
    outcome = BACKOFF.judge(due(attempts), answer, random.Random(1))
    assert outcome.state is state
    assert outcome.disables_endpoint is (answer.http_status == 410)
    assert (outcome.wait_s > 0) == (state is DeliveryState.PENDING)


@given(st.integers(0, 2), st.floats(0, 1e6), st.integers())
def test_a_wait_grows_and_honours_the_receiver_within_bounds(attempts: int, asked: float, seed: int) -> None:
    """Never above the ceiling of its attempt unless the receiver asks, never above the longest wait at all."""
    wait = BACKOFF.judge(due(attempts), reply(503, retry_after_s=asked), random.Random(seed)).wait_s
    assert min(asked, BACKOFF.max_s) <= wait <= max(BACKOFF.ceiling_s(attempts + 1), min(asked, BACKOFF.max_s))
    assert wait <= BACKOFF.max_s


def test_ceilings_double_up_to_the_longest_wait() -> None:
    """5, 10, 20 … 100, and no overflow however often it was tried."""
    assert [BACKOFF.ceiling_s(made) for made in (1, 2, 3, 6, 5000)] == [5, 10, 20, 100, 100]


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=3), st.integers())
def test_all_waits_of_a_delivery_are_within_the_longest_span(asked: list[float], seed: int) -> None:
    """Whatever its receiver asks for; events are kept for longer than that."""
    chance = random.Random(seed)
    waits = [BACKOFF.judge(due(made), reply(503, retry_after_s=more), chance).wait_s for made, more in enumerate(asked)]
    assert sum(waits) <= BACKOFF.longest_span_s()


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [
        (429, "120", 120.0),
        (503, "0", 0.0),
        (503, "9" * 400, 999_999_999.0),
        (503, "Sat, 31 Jan 2026 00:05:00 GMT", 300.0),
        (503, "Fri, 30 Jan 2026 00:00:00 GMT", 0.0),
        (503, "Sat, 31 Jan 2026 00:05:00 -0000", 0.0),
        (503, "-5", 0.0),
        (503, "soon", 0.0),
        (503, "Sat, 31 Jan 99999999999999999999 00:05:00 GMT", 0.0),
        (503, "", 0.0),
        (200, "120", 0.0),
        (500, "120", 0.0),
    ],
)
def test_a_receiver_may_ask_for_time_in_seconds_or_until_a_date(status: int, value: str, seconds: float) -> None:
    """With 429 and 503 alone; what is neither is as if it was not there."""
    assert retry_after_s(status, value, NOW) == seconds


@given(st.text())
def test_no_text_of_a_receiver_breaks_its_attempt(value: str) -> None:
    """Whatever stands in Retry-After."""
    assert retry_after_s(503, value, NOW) >= 0


def test_a_filter_is_a_name_or_a_beginning() -> None:
    """A beginning ends at a dot; a name means itself alone."""
    assert catalogue.covers("florin.accounts.*", "florin.accounts.customer_created.v1")
    assert not catalogue.covers("florin.acc.*", "florin.accounts.customer_created.v1")
    assert not catalogue.covers("florin.accounts.customer_created", "florin.accounts.customer_created.v1")
    assert catalogue.first_unknown(["florin.accounts.*", "florin.nothing.*"]) == "florin.nothing.*"
    assert catalogue.first_unknown(["florin.accounts.customer_created.v1"]) is None


def test_no_event_is_visible_without_one_of_its_scopes() -> None:
    """Every public event names scopes; all of them together see everything."""
    assert catalogue.visible([], []) == []
    scopes = {scope for kind in catalogue.public_types().values() for scope in kind.scopes}
    assert catalogue.visible([], scopes) == sorted(catalogue.public_types())
    assert all(name.startswith("florin.accounts.") for name in catalogue.visible(["florin.accounts.*"], scopes))


@given(st.frozensets(st.sampled_from("abcd")), st.frozensets(st.sampled_from("abcd")))
def test_pointing_an_endpoint_elsewhere_never_widens_it(held: frozenset[str], changer: frozenset[str]) -> None:
    """Only what both its maker and the one who changes it may see goes to the new URL."""
    after = set(scopes_after_url_change(sorted(held), changer))
    assert after == held & changer


def test_every_public_event_comes_in() -> None:
    """What contracts call public and the policy does not name would never reach anybody."""
    received = {subject for subjects in policy.load("notifications").consumes.values() for subject in subjects}
    assert set(catalogue.public_types()) - received == set()
