"""CPU and memory of processes from /proc; on systems without it nothing is measured, and the report says so."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
AVAILABLE = (_PROC / "self" / "smaps_rollup").exists()
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds used so far, by group of processes, and by everything on the machine."""

    at: float
    groups: Mapping[str, float]
    machine: float

    def since(self, before: Reading) -> Spent:
        """What was used in between."""
        return Spent(
            self.at - before.at,
            {name: seconds - before.groups.get(name, 0.0) for name, seconds in self.groups.items()},
            self.machine - before.machine,
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds between two readings."""

    seconds: float
    groups: Mapping[str, float]
    machine: float

    def others_cores(self) -> float:
        """How many cores were busy with what is not ours: the noise of the measurement."""
        return max(self.machine - sum(self.groups.values()), 0.0) / self.seconds if self.seconds else 0.0


def read(roots: Mapping[str, int]) -> Reading:
    """Reads the groups. A process belongs to the nearest of `roots` (name → process id) among its ancestors."""
    if not AVAILABLE:
        return Reading(time.monotonic(), {}, 0.0)
    groups = dict.fromkeys(roots, 0.0)
    for name, pids in members(roots).items():
        for pid in pids:
            groups[name] += _cpu_seconds(pid)
    return Reading(time.monotonic(), groups, _machine_seconds())


def memory_mb(roots: Mapping[str, int]) -> dict[str, float]:
    """Proportional set size of each group in MB (10^6 bytes): shared pages count once over all who share them."""
    if not AVAILABLE:
        return {}
    return {name: sum(map(_pss_bytes, pids)) / 1e6 for name, pids in members(roots).items()}


def members(roots: Mapping[str, int]) -> dict[str, list[int]]:
    """The processes of each group, its root among them."""
    parents: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    names = {pid: name for name, pid in roots.items()}
    groups: dict[str, list[int]] = {name: [] for name in roots}
    for pid in parents:
        ancestor = pid
        while ancestor not in names and ancestor in parents:
            ancestor = parents[ancestor]
        if ancestor in names:
            groups[names[ancestor]].append(pid)
    return groups


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on; empty when the system does not tell."""
    try:
        mounts = [line.split() for line in (_PROC / "mounts").read_text().splitlines()]
    except OSError:
        return ""
    fitting = [(mount[1], mount[2]) for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(fitting, key=lambda mount: len(mount[0]))[1] if fitting else ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the program's name; empty when the process is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _cpu_seconds(pid: int) -> float:
    """Of the process and of its children that ended: PostgreSQL's sessions come and go."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / _TICKS if fields else 0.0


def _pss_bytes(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _machine_seconds() -> float:
    """What all processes of the machine used: everything but idle, waiting for disks, and other machines' share."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, (_PROC / "stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS
