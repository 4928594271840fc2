"""A sandbox over the lives of its mesh, and the story that is told in one."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import state_folder, wait_nothing_left
from tests.support.mesh import FLORIN, florin


@pytest.fixture
def root() -> Iterator[Path]:
    """Where a new mesh may stand."""
    with state_folder() as folder:
        yield folder


@pytest.mark.timeout(240)
def test_a_sandbox_keeps_its_time_when_it_is_stopped_and_started(root: Path) -> None:
    """It goes on from where it was, and is not started by the real time, which would be before what it recorded."""
    state = ("--state", str(root))
    up = ("up", "--sandbox", "--detach", "--port", "0", *state)
    assert florin(*up, seconds=120).returncode == 0
    assert florin("clock", "advance", "31d", *state).returncode == 0
    assert florin("down", *state).returncode == 0
    wait_nothing_left(root)
    refused = florin("up", "--detach", "--port", "0", *state)
    assert refused.returncode == 1
    assert "CLOCK_BACKWARDS" in refused.stderr and "--sandbox" in refused.stderr
    assert florin(*up, seconds=120).returncode == 0
    shown = json.loads(florin("clock", "show", "--json", *state).stdout)
    assert shown["ahead_seconds"] == 31 * 86_400
    assert shown["replicas"] == dict.fromkeys(("accounts", "transactions", "compliance", "notifications"), True)
    assert florin("down", *state).returncode == 0


@pytest.mark.timeout(240)
def test_the_month_of_a_treasury_is_told_to_its_end(root: Path) -> None:
    """Every expectation of every step holds; its documents stay, its mesh and its folder do not."""
    root.mkdir()
    told = subprocess.run(
        [FLORIN, "demo", "--scenario", "treasury"],
        env={**os.environ, "TMPDIR": str(root)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "✗" not in told.stdout
    assert told.stdout.count(" holds ") == 9
    assert "everything came out as it had to" in told.stdout
    (documents,) = root.iterdir()
    # Two statements: the importer's account here, and the bank's own at the other bank.
    kinds = sorted(file.name.partition(".")[2] for file in documents.iterdir())
    assert kinds == ["camt.053.xml", "camt.053.xml", "jsonl", "pdf"]
    assert str(documents) in told.stdout
    wait_nothing_left(root)
