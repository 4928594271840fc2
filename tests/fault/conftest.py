"""A mesh to be hurt, once a session, and the seed that everything random here comes from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import faults
from tests.support import mesh as whole
from tests.support.parts import wait_until
from tests.support.seeds import SEED

NOTES = pytest.StashKey[list[str]]()
TWO_OF_EACH = tuple(
    part
    for service in ("accounts", "transactions", "compliance", "notifications")
    for part in ("--scale", f"{service}=2")
)


def pytest_sessionstart(session: pytest.Session) -> None:
    """The seed is told before anything can fail."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"seed {SEED}; FLORIN_SEED={SEED} repeats the faults and the load")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What the tests measured."""
    for note in config.stash.get(NOTES, []):
        terminalreporter.write_line(note)


@pytest.fixture
def notes(pytestconfig: pytest.Config) -> list[str]:
    """Sentences for the end of the run."""
    return pytestconfig.stash.setdefault(NOTES, [])


@pytest.fixture(scope="session")
def seed() -> int:
    """What random choices are drawn from."""
    return SEED


@pytest.fixture(scope="session")
def mesh() -> Iterator[whole.Mesh]:
    """A mesh with two replicas of each service."""
    with whole.running(*TWO_OF_EACH) as started:
        try:
            yield started
        finally:
            # It may be another one than at first.
            started.supervisor.terminate()
            started.supervisor.wait(60)


@pytest.fixture(autouse=True)
def whole_before_and_after(mesh: whole.Mesh) -> Iterator[None]:
    """Each test begins with a mesh that is ready, also in the edge's eyes, and has to leave one that becomes so."""
    _wait_whole(mesh)
    yield
    _wait_whole(mesh)


def _wait_whole(mesh: whole.Mesh, seconds: float = 60) -> None:
    mesh.wait_all_ready(seconds)
    doubted: list[str] = []

    def believed() -> bool:
        doubted[:] = faults.doubted(mesh)
        return not doubted

    try:
        wait_until(believed, seconds)
    except AssertionError:
        raise AssertionError(f"the edge does not believe in {doubted}") from None
