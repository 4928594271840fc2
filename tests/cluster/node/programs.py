"""Programs that run in the background, each with a log."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from local.processes import launched
from tests.cluster.node import machine

_STOP_SECONDS = 15.0


class Programs:
    """What runs, and where it says what it does."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, *command: str | Path, environment: dict[str, str] | None = None) -> None:
        """Starts one; it does not outlive this process, however that ends."""
        with (self._logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                launched("-", "SIGKILL", [str(part) for part in command]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**machine.environment(), **(environment or {})},
                cwd=self._logs.parent,
                start_new_session=True,
            )
        self._running.append((name, process))

    def stop(self) -> None:
        """Ends all of them; kills what does not end in time, as an API server that waits for its callers."""
        deadline = time.monotonic() + _STOP_SECONDS
        for _, process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
        for _, process in reversed(self._running):
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def wait(self, what: str, is_there: Callable[[], bool], seconds: float = 120.0) -> None:
        """Until something is as it should be. Raises AssertionError with the end of the logs, also if one has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended = [name for name, process in self._running if process.poll() is not None]
            if ended:
                raise AssertionError(f"{', '.join(ended)} ended before {what}:\n{self.tails(ended)}")
            if is_there():
                return
            time.sleep(0.1)
        raise AssertionError(f"no {what} within {seconds:g} s:\n{self.tails([name for name, _ in self._running])}")

    def tails(self, names: Sequence[str]) -> str:
        """The ends of logs."""
        return "\n".join(
            f"-- {name}\n{(self._logs / f'{name}.log').read_text(errors='replace')[-2000:]}" for name in names
        )


@contextmanager
def running(folder: Path) -> Iterator[Programs]:
    """Programs with their logs in a folder, ended at the end."""
    folder.mkdir(parents=True)
    programs = Programs(folder)
    try:
        yield programs
    finally:
        programs.stop()
