"""What all tests share: the real parts, once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support import edge as edge_support
from tests.support import mesh as whole
from tests.support import parts as real

# How long an example takes says how busy the machine is.
settings.register_profile("florin", deadline=None)
settings.load_profile("florin")

ON_ONE_MESH = ("tests/e2e/", "tests/security/")


class _OneMesh(LoadScopeScheduling):
    """Shares tests out between processes by file. Those that need a whole mesh go to one, which starts it once, and
    those of the edge alone to one, which starts its stand-ins once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", maxsplit=1)[0]
        if not file.startswith(ON_ONE_MESH):
            return file
        return "the edge" if Path(file).name.startswith("test_edge_") else "the mesh"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """How `make test` shares out its work."""
    return _OneMesh(config, log)


@pytest.fixture(autouse=True)
def plain_logs() -> None:
    """Tracebacks as text: drawn with every local variable they hold up the services of this process for a second.

    Set for each test, since those of the logs set others.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ]
    )


@pytest.fixture(scope="session")
def parts() -> Iterator[real.Parts]:
    """PostgreSQL, NATS, certificates and an issuer for the session."""
    with real.running() as started:
        yield started


@pytest.fixture(scope="session")
def stand_in_edge() -> Iterator[edge_support.Edge]:
    """The real Envoy before stand-ins for the services, for the session."""
    with edge_support.running() as started:
        yield started


@pytest.fixture(scope="session")
def mesh() -> Iterator[whole.Mesh]:
    """The whole mesh behind the real Envoy, for the session; tests use customers and accounts of their own."""
    # The checker looks again sooner than it does elsewhere, so that tests need not wait for it.
    with whole.running(environment={"CHECKER_SWEEP_SECONDS": "1"}) as started:
        yield started
