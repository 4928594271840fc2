"""Where the rules of time zones come from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import meshkit

_TOLD = """
import sys, zoneinfo
from datetime import datetime
from meshkit import clock
if sys.argv[1] == "service":
    clock.agree_on_zones()
print(datetime(2026, 3, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Vienna")).utcoffset())
"""


def test_a_machine_with_other_rules_tells_the_same_days(tmp_path: Path) -> None:
    """A machine on which Vienna has Tokyo's rules: a program takes them, a service has those of the package."""
    (tmp_path / "Europe").mkdir()
    with resources.as_file(resources.files("tzdata.zoneinfo.Asia") / "Tokyo") as tokyo:
        shutil.copy(tokyo, tmp_path / "Europe" / "Vienna")
    environment = {**os.environ, "PYTHONTZPATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    told = {
        role: subprocess.run(
            [sys.executable, "-c", _TOLD, role],
            env=environment,
            cwd=Path(meshkit.__file__).parents[1],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for role in ("program", "service")
    }
    assert told == {"program": "9:00:00", "service": "1:00:00"}
