"""The money core under every kind of schedule, beside an oracle."""

from __future__ import annotations

import os

import pytest

from tests.simulation.schedules import play_many
from tests.support.seeds import SEED

SCHEDULES = int(os.environ.get("FLORIN_SCHEDULES") or 100)


@pytest.mark.timeout(120 + SCHEDULES)
def test_every_schedule_ends_as_the_oracle_says() -> None:
    """Payments, batches, authorizations, captures, reversals, exchanges, cancellations, reviews, state tokens, fees,
    limits, minimum balances, blocked and frozen accounts; with calls and commits lost, late and done twice, events in
    any order, replicas and the database killed, two of them recovering: at every step the services hold what the
    oracle holds, and in the end each request had one effect."""
    play_many(SCHEDULES, SEED)
