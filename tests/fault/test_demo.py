"""The demo while `transactions` is killed: the same table in the end."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.mesh import FLORIN, Mesh

DEMO_SECONDS = 120.0
_BATCHES = re.compile(r"sent \d+ payments in \d+ ms, (\d+) of (\d+)")
_NAMES = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def demo(mesh: Mesh, folder: Path, at_first_batch: Callable[[], None] = lambda: None) -> str:
    """Runs the demo on a mesh and does something when the first of its batches is answered; what it printed."""
    output = folder / "demo.txt"
    with output.open("wb") as file:
        process = subprocess.Popen([FLORIN, "demo", "--state", str(mesh.state.root)], stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + DEMO_SECONDS
            while not (sent := _BATCHES.findall(output.read_text())) and process.poll() is None:
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.005)
            assert sent, output.read_text()
            at_first_batch()
            assert process.wait(max(deadline - time.monotonic(), 1)) == 0, output.read_text()
        finally:
            process.kill()
            process.wait()
    return output.read_text()


def table(printed: str, title: str) -> list[tuple[str, ...]]:
    """The rows of a table without what is new in each run, the names of transfers and cases."""
    rows: list[list[str]] = []
    for line in printed.partition(title)[2].partition("└")[0].splitlines():
        if not line.startswith("│"):
            continue
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if cells[0] or cells[1]:
            rows.append(cells)
        else:  # a row goes on in the next line
            rows[-1] = [before + more for before, more in zip(rows[-1], cells, strict=True)]
    return [tuple(_NAMES.sub("", cell) for cell in row) for row in rows]


@pytest.mark.timeout(300)
def test_the_demo_comes_to_the_same_when_transactions_is_killed_in_the_middle(mesh: Mesh, tmp_path: Path) -> None:
    """kill -9 of all its replicas while the file is paid: exit code 0, the same fates for the same reasons, the same
    webhooks, and every invariant holds."""
    undisturbed = demo(mesh, tmp_path)
    killed: list[int] = []
    disturbed = demo(mesh, tmp_path, lambda: killed.extend(faults.kill(mesh, *faults.replicas(mesh, "transactions"))))
    assert len(killed) == 2
    for title in ("What became of the payments", "Webhooks with a verified signature"):
        rows = table(undisturbed, title)
        assert len(rows) > 5
        assert table(disturbed, title) == rows
    for printed in (undisturbed, disturbed):
        assert printed.count(" holds ") == 9, printed
