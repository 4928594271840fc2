"""Builds the clients' packages into a folder: `python -m clients --output dist`, all or those that are named."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from clients import go_module, java_package, npm_package, python_package
from clients.toolchains import ToolMissing

BUILDERS: Mapping[str, Callable[[Path], Path]] = {
    "python": python_package.build,
    "go": go_module.build,
    "typescript": npm_package.build,
    "java": java_package.build,
}


def main() -> int:
    """The command; the exit code is 1 when a language's tools are missing."""
    parser = argparse.ArgumentParser(prog="python -m clients", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", required=True, type=Path, help="the folder")
    parser.add_argument("languages", nargs="*", help=f"of {', '.join(BUILDERS)}; all if none is named")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.languages) - set(BUILDERS))
    if unknown:
        parser.error(f"there is no client for {', '.join(unknown)}")
    try:
        for language in arguments.languages or BUILDERS:
            sys.stdout.write(f"{BUILDERS[language](arguments.output)}\n")
            sys.stdout.flush()
    except ToolMissing as missing:
        sys.stderr.write(f"{missing}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
