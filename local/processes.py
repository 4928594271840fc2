"""Child processes of the mesh: started so that they die with us, started again when they die, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from local.state import MeshError

_LAUNCH = Path(__file__).with_name("launch.py")
_BACKOFF_SECONDS_MAX = 10.0
_STABLE_SECONDS = 30.0


@dataclass(slots=True)
class Child:
    """A program of the mesh, and how it is doing."""

    name: str
    program: Sequence[str]
    log: Path
    probe: Callable[[], Awaitable[bool]]
    """Whether it takes work."""
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = "-"
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 15.0
    port: int = 0
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    ready: bool = False
    stopping: bool = False

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    async def start(self) -> None:
        """Starts the program; it dies with this process, whatever ends it."""
        # PostgreSQL's fast shutdown is SIGINT; anything else ends by SIGTERM, but an orphan has no time for that.
        death = "SIGQUIT" if self.stop_signal is signal.SIGINT else "SIGKILL"
        command = [sys.executable, "-I", "-S", str(_LAUNCH), self.user, death, *self.program]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                # A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which stops in order.
                start_new_session=True,
            )

    async def supervise(self) -> None:
        """Keeps it running until `stop`: a child that dies is started again, each time a little later."""
        delay = 0.1
        while True:
            started = time.monotonic()
            if self.pid is None:
                await self.start()
            if self.process is not None:
                await self.process.wait()
            self.ready = False
            if self.stopping:
                return
            self.restarts += 1
            delay = 0.1 if time.monotonic() - started > _STABLE_SECONDS else min(delay * 2, _BACKOFF_SECONDS_MAX)
            await asyncio.sleep(delay)

    async def wait_ready(self, seconds: float) -> None:
        """Waits until it takes work. Raises MeshError with the end of its log when it does not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if await self.probe():
                self.ready = True
                return
            if self.process is not None and self.process.returncode is not None and self.restarts > 3:
                break
            await asyncio.sleep(0.05)
        raise MeshError(f"{self.name} did not become ready; the end of {self.log}:\n{tail(self.log)}")

    async def stop(self) -> None:
        """Asks it to stop, and ends it when it does not."""
        self.stopping = True
        process = self.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.stop_signal)
        try:
            await asyncio.wait_for(process.wait(), self.stop_seconds)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def tail(path: Path, lines: int = 12) -> str:
    """The end of a log."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - 8192))
        return "\n".join(handle.read().decode(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def claim_port(port: int) -> int:
    """The port, if it is free. Raises MeshError when something listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise MeshError(f"Port {port} cannot be used ({error.strerror}); choose another with --port.") from None
        chosen: int = probe.getsockname()[1]
        return chosen


async def listens(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 1)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def http_ok(port: int, path: str) -> bool:
    """Whether a plain HTTP endpoint on loopback answers 200."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 1)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        status = await asyncio.wait_for(reader.readline(), 3)
        writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in status
