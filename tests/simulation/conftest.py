"""How long the simulation runs, and the seed that it comes from."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from tests.simulation.places import simulated
from tests.support.seeds import SEED


def pytest_sessionstart(session: pytest.Session) -> None:
    """The seed is told before anything can fail."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"seed {SEED}; FLORIN_SEED={SEED} repeats the schedules, FLORIN_SCHEDULES=5000 makes more")


@pytest.fixture(autouse=True)
def tables_and_gates(plain_logs: None) -> Iterator[None]:
    """The real code over tables in memory; what it warns of is what is done to it here, so it says nothing."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with simulated():
        yield
    structlog.reset_defaults()
