"""The Python client as its users get it: a wheel in an empty environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clients import python_package, stage
from clients.stage import ROOT
from tests.clients.conftest import Bank, judge_losses, judge_quickstart, quickstart

pytestmark = pytest.mark.timeout(600)
"""Building may compile and fetch a lot, the first time."""

UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel, what it asks for, and pytest."""
    folder = tmp_path_factory.mktemp("python")
    wheel = python_package.build(folder / "dist")
    interpreter = folder / "venv" / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder / "venv"], check=True)
    pinned = ROOT / "clients" / "python" / "requirements.lock"
    install = [UV, "pip", "install", "--quiet", "--python", interpreter]
    subprocess.run([*install, "--require-hashes", "--no-deps", "-r", pinned], check=True)
    subprocess.run([*install, "--no-deps", wheel], check=True)
    return interpreter


def test_the_quickstart_runs(bank: Bank, python: Path, tmp_path: Path) -> None:
    """The README's program, word for word, in an empty folder."""
    program = tmp_path / "quickstart.py"
    program.write_text(quickstart("python", "python"))
    judge_quickstart(bank.run(python, program, cwd=tmp_path))


def test_the_clients_own_tests_pass_and_what_lost_its_answer_is_paid_once(
    bank: Bank, python: Path, tmp_path: Path
) -> None:
    """Blocking and with asyncio, through a proxy that loses an answer of each."""
    tests = ROOT / "clients" / "python" / "tests"
    said = bank.run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--asyncio-mode=auto",
                    f"--rootdir={tmp_path}", "-c", "/dev/null", tests, cwd=tmp_path, lossy=True)  # fmt: skip
    assert " passed" in said
    judge_losses(bank, 2)


def test_it_needs_nothing_of_the_mesh(python: Path, bank: Bank, tmp_path: Path) -> None:
    """No package of the services, of validation or of the edge is installed beside it."""
    said = bank.run(UV, "pip", "list", "--quiet", "--python", python, cwd=tmp_path)
    names = {line.split()[0] for line in said.splitlines()[2:]}
    assert {"grpcio", "protobuf", "googleapis-common-protos", "florin-client"} <= names
    assert names & {"florin", "protovalidate", "grpcio-status", "sqlalchemy"} == set()


def test_its_types_hold(python: Path) -> None:
    """Strictly, for those who check theirs: the layer above the stubs, and the README's program."""
    source = stage.STAGE / "python" / "src"
    program = stage.STAGE / "python" / "quickstart.py"
    program.write_text(quickstart("python", "python"))
    flags = ["--config-file", "", "--strict", "--explicit-package-bases", "--namespace-packages"]
    command = [sys.executable, "-m", "mypy", *flags, "--ignore-missing-imports", source / "florin_client", program]
    environment = {**os.environ, "MYPYPATH": str(source)}
    done = subprocess.run(command, env=environment, cwd=stage.STAGE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
