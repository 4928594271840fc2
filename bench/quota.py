"""Bounds the CPU of a process by a control group of its own, as a container's limit does; Linux, as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.mesh import BenchError

_V1, _V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
_PERIOD_US = 20_000
"""How often a process gets its share anew. Kubernetes has 100 ms: a small share is used up at once, and the rest of
the time is waited for."""


@contextmanager
def bounded(pid: int, cores: float) -> Iterator[None]:
    """A process has at most so many cores while the block runs. Raises BenchError where that cannot be had."""
    quota = int(cores * _PERIOD_US)
    first = (_V1 / "cpu.cfs_quota_us").exists()
    group = (_V1 if first else _V2) / f"florin-bench-{os.getpid()}-{pid}"
    try:
        group.mkdir()
        if first:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise BenchError(
            f"the CPU of a process cannot be bounded here: {error}; it takes root, and a control group of CPU"
        ) from None
    try:
        yield
    finally:
        for member in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(member)
        group.rmdir()
