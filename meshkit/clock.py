"""The one source of time in a process; it must not be bypassed, so that tests and a sandbox can move it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The present moment in UTC, with microseconds."""
    return datetime.now(UTC)
