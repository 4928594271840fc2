"""The programs of a person at a terminal, pointed at the session's mesh."""

from __future__ import annotations

import pytest

from tests.support.mesh import Mesh
from tests.support.terminal import Terminal


@pytest.fixture(scope="session")
def terminal(mesh: Mesh) -> Terminal:
    """grpcurl, curl and `florin token` for the session's mesh."""
    return Terminal(mesh)
