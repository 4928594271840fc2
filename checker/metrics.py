"""What the checker tells of itself."""

from __future__ import annotations

import time

from prometheus_client import Counter, Gauge

from checker.findings import CLAIMS

CHECKED = Counter("florin_invariant_checked_total", "What was judged by an invariant.", ["invariant"])
VIOLATIONS = Gauge("florin_invariant_violations", "Violations that stand, seen twice each.", ["invariant"])
LAST_CHECKED = Gauge(
    "florin_invariant_last_checked_timestamp_seconds", "When an invariant was judged last.", ["invariant"]
)
SWEEP_ROWS = Gauge("florin_checker_sweep_rows", "Rows of a table that the sweep under way has judged.", ["table"])
SWEEP_LAST_ROWS = Gauge("florin_checker_sweep_last_rows", "Rows that the last whole sweep judged.", ["table"])
SWEEP_LAST_SECONDS = Gauge("florin_checker_sweep_last_seconds", "What the last whole sweep took.", ["table"])
SWEEP_LAST_END = Gauge("florin_checker_sweep_last_end_timestamp_seconds", "When it ended.", ["table"])
TAIL_SKIPPED = Counter("florin_checker_tail_skipped_total", "Times that new journals were left to the sweeps.")
WAITING = Gauge("florin_checker_waiting", "Readings that wait for their second look.")
LEADING = Gauge("florin_checker_leading", "1 while this is the checker that works.")
FAILURES = Counter("florin_checker_failures_total", "Readings that failed.", ["cause"])
FREEZES = Counter("florin_checker_freezes_total", "Calls that asked accounts for a freeze.", ["outcome"])

for _name in CLAIMS:
    CHECKED.labels(_name)
    VIOLATIONS.labels(_name).set(0)


def checked(invariant: str, number: int) -> None:
    """Notes that an invariant was judged."""
    CHECKED.labels(invariant).inc(number)
    LAST_CHECKED.labels(invariant).set(time.time())
