"""The violations that stand: each was seen twice, and stands until everything was gone through once without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from checker import metrics
from checker.findings import CLAIMS, Violation

_KEPT_MAX = 10_000


class Standing:
    """What stands, and when it was seen last, on time.monotonic()."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], float] = {}

    def add(self, confirmed: Iterable[Violation], now: float) -> list[Violation]:
        """Notes what was seen; gives what did not stand before."""
        fresh = []
        for violation in confirmed:
            if violation.key not in self._seen:
                if len(self._seen) >= _KEPT_MAX:
                    continue
                fresh.append(violation)
            self._seen[violation.key] = now
        return fresh

    def forget(self, before: float) -> None:
        """Forgets what was last seen before a moment."""
        self._seen = {key: seen for key, seen in self._seen.items() if seen >= before}

    def tell(self) -> None:
        """Sets the metrics."""
        numbers = Counter(invariant for invariant, _, _ in self._seen)
        for invariant in CLAIMS:
            metrics.VIOLATIONS.labels(invariant).set(numbers[invariant])
