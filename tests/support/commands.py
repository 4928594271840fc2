"""`florin up` as a process of its own, watched from outside, and what is left of a mesh among the processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local.processes import tail
from local.state import State, find_state
from tests.support.mesh import FLORIN, START_SECONDS
from tests.support.parts import wait_until


@contextmanager
def state_folder() -> Iterator[Path]:
    """The place of a new mesh's folder, short and open to PostgreSQL's user; all that is left goes away afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="florin-life-"))
    folder.chmod(0o755)
    try:
        yield folder / "state"
    finally:
        for pid in processes_of(folder / "state"):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def processes_of(root: Path) -> dict[int, str]:
    """Every process that has the folder in its command line or environment, ours and our own callers' aside."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(root) in command + environment:
            found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def wait_nothing_left(root: Path, seconds: float = 20.0) -> None:
    """Waits until no process of a mesh is there any more."""
    left: dict[int, str] = {}

    def gone() -> bool:
        left.clear()
        left.update(processes_of(root))
        return not left

    try:
        wait_until(gone, seconds)
    except AssertionError:
        raise AssertionError(f"left behind: {left}") from None


@dataclass(slots=True)
class Foreground:
    """A `florin up` that somebody looks at."""

    process: subprocess.Popen[bytes]
    output: Path
    root: Path

    @property
    def text(self) -> str:
        """What it printed so far."""
        return self.output.read_text(errors="replace")

    def wait_ready(self) -> State:
        """Waits until it says so."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"florin up ended:\n{tail(self.output, 30)}")
            return "ready in" in self.text

        wait_until(ready, START_SECONDS)
        return find_state(self.root)


@contextmanager
def foreground(
    root: Path,
    *options: str,
    command: Sequence[str] = (str(FLORIN),),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Foreground]:
    """`florin up --port 0` in a process group of its own, as a terminal starts it; ended if it is still there."""
    output = root.with_name(f"{root.name}.out")
    with output.open("wb") as handle:
        process = subprocess.Popen(
            [*command, "up", "--port", "0", *options],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            start_new_session=True,
            env={**os.environ, "FLORIN_STATE": str(root), **(environment or {})},
        )
    try:
        yield Foreground(process, output, root)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)
