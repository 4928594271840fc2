"""The crash points are where they are said to be, and nowhere in a process that was not asked to die."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import crashes

STEPS = [(service, name) for service, steps in crashes.STEPS.items() for name in steps]
_ASK = (
    "import importlib, sys; from tests.support import crashes; step = crashes.STEPS['accounts']['batch'];"
    "sys.orig_argv[-1] = 'accounts'; {install};"
    "print(hasattr(importlib.import_module(step.module).apply_steps, '__wrapped__'))"
)


@pytest.mark.parametrize(("service", "name"), STEPS)
def test_every_step_is_a_coroutine_function_of_the_product(service: str, name: str) -> None:
    """Where one gets another name, its points get it too."""
    step = crashes.STEPS[service][name]
    found = importlib.import_module(step.module)
    for part in step.function.split("."):
        found = getattr(found, part)
    assert inspect.iscoroutinefunction(found)


@pytest.mark.parametrize(("install", "wrapped"), [("crashes.install()", True), ("pass", False)])
def test_only_a_process_that_installs_them_has_points(tmp_path: Path, install: str, wrapped: bool) -> None:
    """An import alone wraps nothing."""
    environment = {**os.environ, crashes.VARIABLE: str(tmp_path)}
    command = [sys.executable, "-c", _ASK.format(install=install)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=60)
    assert done.stdout.strip() == str(wrapped)


def test_a_service_without_the_folder_on_its_path_is_as_it_is(tmp_path: Path) -> None:
    """The variable alone does nothing: what reads it is not among the product's modules."""
    environment = {**os.environ, crashes.VARIABLE: str(tmp_path), "PYTHONPATH": ""}
    asked = "import sys, accounts.posting; print('tests.support.crashes' in sys.modules)"
    command = [sys.executable, "-P", "-c", asked]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=60)
    assert done.stdout.strip() == "False"


async def test_a_point_that_is_not_armed_lets_all_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the function gives is what comes of it."""
    monkeypatch.setenv(crashes.VARIABLE, str(tmp_path))

    async def step(number: int) -> int:
        return number + 1

    assert await crashes.dying(step, "accounts.step")(1) == 2


@pytest.mark.parametrize("when", crashes.WHEN)
def test_who_reaches_an_armed_point_dies_there_once(tmp_path: Path, when: str) -> None:
    """Before the step nothing of it is done, after it all is; the next process passes."""
    program = (
        "import asyncio, sys; from tests.support import crashes\n"
        "async def step(): print('done', flush=True)\n"
        "asyncio.run(crashes.dying(step, 'accounts.step')()); print('passed')\n"
    )
    environment = {**os.environ, crashes.VARIABLE: str(tmp_path)}
    (tmp_path / f"accounts.step.{when}").touch()
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [137, 0]
    assert runs[0].stdout == ("" if when == "before" else "done\n")
    assert runs[1].stdout == "done\npassed\n"
