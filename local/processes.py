"""Child processes of the mesh: started so that they die with us, started again when they die, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from local.state import MeshError

_LAUNCH = Path(__file__).with_name("launch.py")
_BACKOFF_SECONDS_MAX = 10.0
_STABLE_SECONDS = 30.0
_TRIES_MAX = 4
"""A child that ended so often before it was ready once will not become so."""
LOG_BYTES_MAX = 32 * 1024 * 1024
WATCH = "kernel" if sys.platform == "linux" else "pipe"
"""How a child learns that this process was killed; see launch.py."""
_PORTS = range(15_000, 30_000)
"""Below what Linux (32768) and others (49152) take for outgoing connections, above what services are known by."""
_given: set[int] = set()
_HARMLESS = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")


def launched(user: str, death_signal: str, program: Sequence[str], *, watch: str = WATCH) -> list[str]:
    """The command that runs a program as `user` ("-" for ourselves) and ends it by a signal when this process ends.

    With `watch` "pipe", its standard input has to be a pipe whose other end only this process holds; with "none", what
    it does has to be short.
    """
    return [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), watch, user, death_signal, *program]


def environment_for(user: str) -> dict[str, str]:
    """What a program finds in its environment: ours, but where it is another user's only what tells no secret."""
    if user == "-":
        return dict(os.environ)
    return {name: os.environ[name] for name in _HARMLESS if name in os.environ}


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
    _stop_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _lifeline: int | None = None
    """Our end of the pipe that tells the child's watcher that we live, where there is one."""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    @property
    def death_signal(self) -> str:
        """How it ends when this process was killed: PostgreSQL shuts down at once, the others have no time for more."""
        return "SIGQUIT" if self.stop_signal is signal.SIGINT else "SIGKILL"

    async def start(self) -> None:
        """Starts the program; it dies with this process, whatever ends it. Raises OSError."""
        stdin = asyncio.subprocess.DEVNULL
        if WATCH == "pipe":
            stdin, self._lifeline = os.pipe()
        try:
            with self.log.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *launched(self.user, self.death_signal, self.program),
                    stdin=stdin,
                    stdout=log,
                    stderr=log,
                    env={**environment_for(self.user), **self.environment},
                    # A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which stops in order.
                    start_new_session=True,
                )
        finally:
            if stdin >= 0:
                os.close(stdin)

    async def supervise(self) -> None:
        """Keeps it running until `stop`: a child that dies is started again, each time a little later."""
        delay = 0.1
        while not self._stop_wanted.is_set():
            started = time.monotonic()
            await self._run_once()
            if self._stop_wanted.is_set():
                return
            self.restarts += 1
            delay = 0.1 if time.monotonic() - started > _STABLE_SECONDS else min(delay * 2, _BACKOFF_SECONDS_MAX)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop_wanted.wait(), delay)

    async def _run_once(self) -> None:
        """Starts it and waits for its end. What keeps the system from starting it is said in its log."""
        try:
            await self.start()
        except OSError as error:
            with contextlib.suppress(OSError), self.log.open("a") as log:
                log.write(f"{self.name} could not be started: {error}\n")
            return
        finally:
            if self._stop_wanted.is_set():  # asked to stop while it was starting
                await self._end()
        if self.process is not None:
            await self.process.wait()
        self.ready = False
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    async def wait_ready(self, seconds: float) -> None:
        """Waits until it takes work. Raises MeshError with the end of its log when it does not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.restarts < _TRIES_MAX:
            if await self.probe():
                self.ready = True
                return
            await asyncio.sleep(0.05)
        raise MeshError(f"{self.name} did not become ready; the end of {self.log}:\n{tail(self.log)}")

    async def stop(self) -> None:
        """Asks it to stop, and ends it when it does not. `supervise` ends as well."""
        self._stop_wanted.set()
        await self._end()

    async def _end(self) -> None:
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


def command_of(pid: int) -> str:
    """A process's program and arguments; empty when there is none."""
    shown = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self").exists():
        try:
            return shown.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""
    told = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.strip()


def tail(path: Path, lines: int = 12) -> str:
    """The end of a log."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - 8192))
        return "\n".join(handle.read().decode(errors="replace").splitlines()[-lines:])


def shorten_logs(folder: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Sets logs that have grown large aside, the last time's in the place of the one before.

    The programs hold their logs open, so they are copied and emptied; what is written in between is lost.
    Raises OSError.
    """
    for log in folder.glob("*.log"):
        if log.stat().st_size > bytes_max:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def free_port() -> int:
    """A loopback port that was free a moment ago, no port twice.

    It is none that the system gives to outgoing connections: one of those, in the moment in which a child is started
    again, would keep the child from its port for as long as the connection lives.
    """
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
    raise MeshError(f"No port of {_PORTS.start} to {_PORTS.stop - 1} is free on this machine.")


def claim_port(port: int) -> int:
    """The port, if it is free, or any for 0. Raises MeshError when something listens there."""
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise MeshError(f"Port {port} cannot be used ({error.strerror}); choose another with --port.") from None
    return port


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
