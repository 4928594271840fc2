"""The README's calls, run word for word on a fresh mesh; the port alone is another."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import mesh as whole
from tests.support.mesh import Mesh
from tests.support.terminal import program

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PORT = "localhost:8443"
"""What `make up` takes when nobody says otherwise, and what the README writes."""


@pytest.fixture(scope="module")
def fresh() -> Iterator[Mesh]:
    """A mesh that nobody has called yet, as the README's reader has it."""
    with whole.running() as started:
        yield started


def blocks(heading: str) -> list[str]:
    """The shell blocks below a heading of the README."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", README.read_text(), re.M | re.S)
    return re.findall(r"^```sh\n(.*?)^```$", section[1], re.M | re.S) if section else []


def test_the_calls_do_what_the_readme_says(fresh: Mesh) -> None:
    """One shell runs block after block and stops at the first command that fails; then the answers are looked at."""
    for needed in ("grpcurl", "curl"):
        program(needed)
    calls = [*blocks("First calls"), *blocks("More calls")]
    assert PORT in calls[0]
    script = "".join(f"echo '== block {number}'\n{block}" for number, block in enumerate(calls, 1))
    environment = {**os.environ, "FLORIN_STATE": str(fresh.state.root)}
    shell = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace(PORT, f"localhost:{fresh.port}")],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = shell.stdout + shell.stderr
    assert shell.returncode == 0, said
    assert "florin.transactions.v1.TransferService" in said  # list
    assert "rpc CreateTransfer (" in said  # describe
    assert '"state": "TRANSFER_STATE_COMPLETED"' in said  # gRPC
    twice = re.findall(r'"transfer":\{"name":"([^"]+)"', said)
    assert len(twice) == 3  # and the exchange
    assert len(set(twice)) == 2
    assert twice[0] == twice[1]
    assert re.search(r"^HTTP/2 401", said, re.M)
    assert "application/problem+json" in said
    assert "minor_units: 3500" in said  # 25.00 by gRPC and 10.00 once by REST
    assert '"runTime":"2099-12-30T08:00:00Z"' in said  # the last business day before the bank's holiday
    assert '"state":"OVERDRAFT_CHANGE_STATE_APPLIED"' in said
    assert '"fee":{"amount":{"currencyCode":"EUR","minorUnits":"5"}' in said
    assert "2 open items" in said
    assert '"creditAmount":{"currencyCode":"USD","minorUnits":"3283"}' in said
    assert '"state":"WITHDRAWAL_STATE_SETTLED"' in said
    assert '"kind":"RAIL_EXCEPTION_KIND_DEPOSIT_SUSPENDED"' in said


def test_every_make_target_of_the_readme_exists() -> None:
    """Whatever the README tells its reader to make can be made."""
    code = "\n".join(re.findall(r"^```sh\n.*?^```|`[^`\n]+`", README.read_text(), re.M | re.S))
    told = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", code))
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))
    assert told
    assert told <= targets
