"""What is handed out is the same to the byte whenever it is built of the same sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from artifacts.contract import version
from clients.__main__ import BUILDERS
from clients.stage import ROOT

pytestmark = pytest.mark.timeout(600)
"""Building may compile and fetch a lot, the first time."""


def hashes(folder: Path) -> dict[str, str]:
    """Each file's hash."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("language", BUILDERS)
def test_a_package_built_twice_has_the_same_bytes(language: str, tmp_path: Path) -> None:
    """No time, no path and no order of the machine gets into it."""
    build: Callable[[Path], Path] = BUILDERS[language]
    build(tmp_path / "first")
    build(tmp_path / "second")
    first = hashes(tmp_path / "first")
    assert first
    assert first == hashes(tmp_path / "second")


def test_the_npm_lock_names_no_place() -> None:
    """Packages are named with their hashes; where they come from is each installation's own."""
    lock = json.loads((ROOT / "clients" / "typescript" / "package-lock.json").read_text())
    packages = {name: one for name, one in lock["packages"].items() if name}
    assert len(packages) > 4
    assert [name for name, one in packages.items() if "resolved" in one or "integrity" not in one] == []


@pytest.mark.parametrize("language", BUILDERS)
def test_a_readme_names_the_present_version(language: str) -> None:
    """What it tells its reader to install is what is built."""
    assert version() in (ROOT / "clients" / language / "README.md").read_text()
