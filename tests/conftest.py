"""What all tests share: the real parts, once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import parts as real


@pytest.fixture(scope="session")
def parts() -> Iterator[real.Parts]:
    """PostgreSQL, NATS, certificates and an issuer for the session."""
    with real.running() as started:
        yield started
