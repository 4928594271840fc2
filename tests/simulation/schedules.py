"""Runs schedules of a seed: thousands a minute."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.simulation.machine import Money

STEPS = 60
"""In a schedule, at most; what is under way then comes to its end."""


def play(schedules: int, chosen: int, *, shrink: bool = True) -> None:
    """Runs so many schedules. Raises what they find; with `shrink`, in the shortest schedule that finds it."""
    run_state_machine_as_test(
        seed(chosen)(Money),
        settings=settings(
            max_examples=schedules,
            stateful_step_count=STEPS,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            deadline=None,
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
