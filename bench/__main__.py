"""`python -m bench`: measures, prints one table, leaves its JSON in bench/results/."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from bench import report as reports
from bench.load import ROOT
from bench.mesh import BenchError
from bench.run import QUICK, Plan, measure
from local.client import Refused
from local.state import MeshError


def main() -> None:
    """Exit 0 when everything was measured and every call was answered as it should, else 1."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer rows, shorter ones")
    parser.add_argument("--folder", type=Path, help="where the mesh's state is put; it decides which disk is measured")
    arguments = parser.parse_args()
    begun = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {line}", flush=True)

    plan = QUICK if arguments.quick else Plan()
    try:
        report = asyncio.run(measure(plan, arguments.folder, tell))
    except (BenchError, MeshError, Refused) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    print(f"\n{reports.as_text(report)}\n")
    for path in reports.write(report):
        print(path.relative_to(ROOT))
    raise SystemExit(1 if reports.failures(report) else 0)


if __name__ == "__main__":
    main()
