"""Programs of other languages that build clients: where they are kept, and what to do where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

EPOCH = "1767225600"
"""The time that archives give their files: always the same, so that the same sources give the same bytes."""


class ToolMissing(Exception):
    """A program is not on PATH; the sentence says how to get it."""


def cache() -> Path:
    """Where downloads are kept."""
    return Path(os.environ.get("FLORIN_CACHE") or Path.home() / ".cache" / "florin")


def cached(name: str, lock: Path, fill: Callable[[Path], None]) -> Path:
    """A folder of the cache that `fill` filled once for this lock file; made beside its place and then moved there."""
    root = cache() / "clients"
    place = root / f"{name}-{sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not place.exists():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            new = Path(scratch) / name
            new.mkdir()
            fill(new)
            try:
                new.rename(place)
            except OSError:  # somebody else was quicker
                if not place.exists():
                    raise
    return place


def need(program: str, advice: str) -> str:
    """Where a program is. Raises ToolMissing."""
    found = shutil.which(program)
    if found is None:
        raise ToolMissing(f"The clients need {program}: {advice}.")
    return found


def run(command: Sequence[str | Path], *, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    """Runs a program; gives what it prints. Raises ChildProcessError with what it said when it fails."""
    done = subprocess.run(  # noqa: S603 - the words are ours
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "CGO_ENABLED": "0", **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ChildProcessError(f"{command[0]} failed in {cwd}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout
