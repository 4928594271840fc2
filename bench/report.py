"""What was measured, as one table for people and as JSON for programs; it must not measure anything."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import plot
from bench.run import GENERATOR, Report, Row

RESULTS = Path(__file__).with_name("results")
PROCESSES = {
    "envoy": "edge",
    "transactions": "trans",
    "compliance": "compl",
    "accounts": "acc",
    "notifications": "notif",
    "postgres": "pg",
    "nats": "nats",
}
"""The mesh's processes and the columns of their CPU."""
_SAME = {"empty-edge": "envoy", "echo": "transactions"}
"""The floor's processes stand where those of the mesh stand that they are compared with."""
_LEGEND = """\
per s and ms: within the measured time; an open loop's ms count from when a call was due. CPU ms for one item: from the
first call until the last event was consumed; all: of the mesh without load, which is the generator's. behind: seconds
from the last answer until then. others: cores that were busy with something else; they lower per s and lengthen ms."""


def as_text(report: Report) -> str:
    """The table, then memory and starts, then what went wrong."""
    starts = (
        f"florin up in a fresh folder: ready after {report.fresh_ready_seconds:.1f} s. Again: ready after "
        f"{report.warm_ready_seconds:.1f} s, first transfer completed after {report.warm_first_seconds:.1f} s, "
        f"{sum(report.start_cpu_seconds.values()):.1f} s of CPU."
    )
    lines = [*_heading(), *map(_line, report.rows), "", _LEGEND, "", *_memory(report), "", starts]
    lines += [f"Not measured: {what}." for what in report.missing]
    lines += [f"NOT COMPLETED: {failure}" for failure in failures(report)]
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """Everything but the single latencies."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "file_system": report.file_system,
        "seconds_a_row": report.plan.seconds,
        "fresh_ready_seconds": round(report.fresh_ready_seconds, 2),
        "warm_ready_seconds": round(report.warm_ready_seconds, 2),
        "warm_first_transfer_seconds": round(report.warm_first_seconds, 2),
        "start_cpu_seconds": _rounded(report.start_cpu_seconds, 2),
        "idle_cores": _rounded(report.idle_cores, 4),
        "idle_mb": _rounded(report.idle_mb, 1),
        "loaded_mb": _rounded(report.loaded_mb, 1),
        "not_measured": report.missing,
        "rows": [_row(row) for row in report.rows],
    }


def write(report: Report) -> list[Path]:
    """Writes the JSON and the plot; gives their files."""
    RESULTS.mkdir(exist_ok=True)
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    bars = [
        (f"{row.case}, {row.callers} at once", [spent.get(process, 0.0) for process in (*PROCESSES, GENERATOR)])
        for row in report.rows
        if row.unit == "transfers"
        for spent in [by_process(row)]
    ]
    written = {
        RESULTS / f"{name}.json": json.dumps(as_json(report), indent=2) + "\n",
        RESULTS / f"{name}.svg": plot.bars("CPU milliseconds a transfer", (*PROCESSES, GENERATOR), bars),
    }
    for path, text in written.items():
        path.write_text(text)
    return list(written)


def by_process(row: Row) -> dict[str, float]:
    """CPU ms an item; the floor's processes under the names of the mesh's, replicas under their service's."""
    sums: dict[str, float] = {}
    for name, spent in row.cpu_ms.items():
        service, _, number = name.rpartition("-")
        known = service if number.isdigit() else _SAME.get(name, name)
        sums[known] = sums.get(known, 0.0) + spent
    return sums


def failures(report: Report) -> Sequence[str]:
    """What makes the run a failed one: calls that were not answered as they should."""
    return [
        f"{row.case}, {row.callers} at once: {count} × {why}"
        for row in report.rows
        for why, count in row.tally.refused.items()
    ]


def _heading() -> list[str]:
    columns = "".join(f"{name:>7}" for name in ("all", *PROCESSES.values(), "load"))
    times = "".join(f"{f'p{share} ms':>9}" for share in (50, 95, 99))
    left = f"{'':<26}{'at once':>8}{'per s':>8}{times}{'failed':>7}"
    return [
        f"{'':<{len(left)}}  {'CPU ms for one item':>{len(columns)}}",
        f"{left}  {columns}{'behind':>8}{'others':>8}",
    ]


def _line(row: Row) -> str:
    spent = by_process(row)
    load = spent.pop(GENERATOR, 0.0)
    times = "".join(f"{row.tally.percentile_ms(share):>9.1f}" for share in (0.5, 0.95, 0.99))
    figures = (sum(spent.values()), *(spent.get(name, 0.0) for name in PROCESSES), load)
    return (
        f"{row.case:<26}{row.callers:>8}{row.tally.per_second:>8.0f}{times}{row.tally.refused.total():>7}  "
        f"{''.join(f'{figure:>7.2f}' for figure in figures)}{row.behind_seconds:>8.1f}{row.others_cores:>8.2f}"
    )


def _memory(report: Report) -> list[str]:
    if not report.idle_mb:
        return []
    names = list(report.idle_mb)
    width = max(map(len, names)) + 2
    lines = [f"{'MB (PSS)':<16}" + "".join(f"{name:>{width}}" for name in (*names, "all"))]
    for label, values, digits in (
        ("idle", report.idle_mb, 0),
        ("after the load", report.loaded_mb, 0),
        ("cores when idle", report.idle_cores, 3),
    ):
        figures = [values.get(name, 0.0) for name in names]
        lines.append(f"{label:<16}" + "".join(f"{figure:>{width}.{digits}f}" for figure in (*figures, sum(figures))))
    return lines


def _row(row: Row) -> dict[str, Any]:
    tally = row.tally
    return {
        "case": row.case,
        "at_once": row.callers,
        "unit": row.unit,
        "items": tally.items,
        "per_second": round(tally.per_second, 1),
        **{f"p{share}_ms": round(tally.percentile_ms(share / 100), 2) for share in (50, 95, 99)},
        "failed": dict(tally.refused),
        "cpu_ms_an_item": _rounded(by_process(row), 3),
        "generator_cores": round(row.generator_cores, 2),
        "others_cores": round(row.others_cores, 2),
        "behind_seconds": round(row.behind_seconds, 2),
    }


def _rounded(values: Mapping[str, float], digits: int) -> dict[str, float]:
    return {name: round(value, digits) for name, value in values.items()}
