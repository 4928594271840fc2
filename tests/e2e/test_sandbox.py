"""A mesh that is no sandbox has the real time."""

from __future__ import annotations

from tests.support.mesh import Mesh


def test_another_mesh_goes_by_the_real_time(mesh: Mesh) -> None:
    """It says which one can be moved; its replicas have no page of a clock, and its services no such setting."""
    for arguments in (("advance", "31d"), ("show",)):
        done = mesh.florin("clock", *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("CLOCK_FIXED: ")
        assert "florin up --sandbox" in done.stderr
    assert not mesh.state.clock.exists()
