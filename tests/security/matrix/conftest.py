"""What the matrix is tried on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import world as bank
from tests.support.mesh import Mesh


@pytest.fixture(scope="module")
def world(mesh: Mesh) -> Iterator[bank.World]:
    """Two customers, another tenant, and channels with any certificate."""
    with bank.made(mesh) as made:
        yield made
