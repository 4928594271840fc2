"""Puts together what an image holds: the packages that are installed in it, and the code that it needs, both compiled.

`python images/assemble.py packages TARGET` trims and compiles TARGET/venv; `python images/assemble.py SERVICE TARGET`,
in the repository with its stubs made, adds the code and the entry point. Each gets meshkit, the stubs and its own
folder, `checker` that of accounts too, `operator` everything but the contracts' sources. The same sources give the same
bytes: code has the time SOURCE_DATE_EPOCH, packages always the same one, so that a new version with the same packages
shares their layer.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVICES = ("accounts", "transactions", "compliance", "notifications")
FOLDERS = {
    **{service: (service,) for service in SERVICES},
    "checker": ("checker", "accounts"),
    "operator": (*SERVICES, "checker", "local", "envoy"),
}
"""Image → the folders that it holds beside meshkit and the stubs. What accounts seals is verified by its own code."""
POLICIES = {"checker": ("transactions", "compliance", "notifications")}
"""Image → the services that it knows the policies of, and nothing else."""
SOURCES = (".pyi", ".pyx", ".pxd", ".c", ".cc", ".cpp", ".h", ".hpp")
"""Files of packages that only compilers and editors read."""
UNUSED = re.compile(
    r"/site-packages/(stdnum/[a-z_]{2,3}|greenlet/tests|(alembic|sqlalchemy)/testing"
    r"|pygments/lexers/(?!__init__|_mapping|python|special)\w+\.py$)"
)
"""What packages bring and nothing here imports: number formats of countries, their own tests, colours for languages."""
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyi", "*.pyc", "*.md", ".ready")


def packages(target: Path) -> None:
    """Drops what nothing imports from `target`/venv, and compiles the rest."""
    for path in sorted((target / "venv").rglob("*")):
        if path.is_file() and (path.suffix in SOURCES or UNUSED.search(path.as_posix())):
            path.unlink()
    _finish(target / "venv", target, 0)


def assemble(image: str, target: Path) -> None:
    """Fills `target`/app with compiled code, and writes `target`/entrypoint."""
    app = target / "app"
    for folder in ("meshkit", *FOLDERS[image]):
        shutil.copytree(ROOT / folder, app / folder, ignore=LEFT_OUT)
    for service in POLICIES.get(image, ()):
        (app / service).mkdir()
        shutil.copy(ROOT / service / "policy.yaml", app / service)
    shutil.copytree(ROOT / "build" / "gen", app / "build" / "gen", ignore=LEFT_OUT)
    module = "local" if image == "operator" else image
    entrypoint = target / "entrypoint"
    entrypoint.write_text(f'#!/bin/sh\nexec python -m {module} "$@"\n')
    moment = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    _finish(app, target, moment)
    entrypoint.chmod(0o755)
    os.utime(entrypoint, (moment, moment))


def _finish(folder: Path, target: Path, moment: int) -> None:
    """Compiles a folder below `target`, as what it is called in an image, and gives all of it one time."""
    compiled = compileall.compile_dir(
        str(folder),
        quiet=1,
        stripdir=str(target),
        prependdir="/opt/florin",
        # Nobody changes a file of an image, so nobody has to compare them with what they were compiled from.
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not compiled:
        sys.exit("something cannot be compiled; its name is above")
    # Modes that do not depend on who builds, too.
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            runs = path.is_dir() or bool(path.stat().st_mode & 0o100)
            path.chmod(0o755 if runs else 0o644)
        os.utime(path, (moment, moment), follow_symlinks=False)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in {*FOLDERS, "packages"}:
        sys.exit(f"usage: python images/assemble.py packages|{'|'.join(FOLDERS)} TARGET")
    if sys.argv[1] == "packages":
        packages(Path(sys.argv[2]))
    else:
        assemble(sys.argv[1], Path(sys.argv[2]))
