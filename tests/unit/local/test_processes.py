"""Children of the supervisor: started again, stopped for good, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local import processes
from local.processes import Child
from local.state import MeshError
from tests.support.parts import wait_until

SLEEP = "import time; time.sleep(60)"


async def never() -> bool:
    """A probe that finds nothing ready."""
    return False


def child(tmp_path: Path, program: str, **options: object) -> Child:
    """A child that runs a Python program."""
    return Child("child", [sys.executable, "-c", program], tmp_path / "child.log", never, **options)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    return bool(processes.command_of(pid))


async def until(condition: object, seconds: float = 10.0) -> None:
    """Awaits a condition of no argument, with a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_a_child_that_dies_is_started_again_a_little_later_each_time(tmp_path: Path) -> None:
    """Three deaths, three starts, with pauses that double."""
    log = tmp_path / "child.log"
    one = child(tmp_path, "import time; print(time.monotonic(), flush=True)")
    watcher = asyncio.create_task(one.supervise())
    await until(lambda: one.restarts >= 3)
    await one.stop()
    await asyncio.wait_for(watcher, 5)
    first, second, third, *_ = [float(line) for line in log.read_text().split()]
    assert third - second > second - first > 0.15


async def test_a_child_that_waits_to_be_started_again_stays_down_after_a_stop(tmp_path: Path) -> None:
    """A stop between two starts ends the watch at once; nothing is started behind its back."""
    one = child(tmp_path, "raise SystemExit(1)")
    watcher = asyncio.create_task(one.supervise())
    await until(lambda: one.restarts == 3 and one.pid is None)
    started = time.monotonic()
    await one.stop()
    await asyncio.wait_for(watcher, 5)
    assert time.monotonic() - started < 0.5
    assert one.pid is None


async def test_a_child_that_is_being_started_is_ended_after_a_stop(tmp_path: Path) -> None:
    """A stop that comes while the system makes the process does not lose it."""
    one = child(tmp_path, SLEEP)
    watcher = asyncio.create_task(one.supervise())
    await asyncio.sleep(0)  # the start has begun
    assert one.process is None
    await one.stop()
    await asyncio.wait_for(watcher, 10)
    assert one.process is not None
    assert one.process.returncode is not None


async def test_a_child_that_ignores_its_signal_is_ended(tmp_path: Path) -> None:
    """After the time it has, it is killed."""
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    one = child(tmp_path, deaf, stop_seconds=0.2)
    watcher = asyncio.create_task(one.supervise())
    await until(lambda: (tmp_path / "child.log").exists() and "deaf" in (tmp_path / "child.log").read_text())
    await one.stop()
    await asyncio.wait_for(watcher, 5)
    assert one.process is not None
    assert one.process.returncode == -signal.SIGKILL


async def test_a_program_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without room for another process ends no watch; the log says why."""

    async def full(*_arguments: object, **_options: object) -> asyncio.subprocess.Process:
        raise OSError(11, "Resource temporarily unavailable")

    one = child(tmp_path, SLEEP)
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", full)
        watcher = asyncio.create_task(one.supervise())
        await until(lambda: one.restarts >= 1)
    await until(lambda: one.pid is not None)
    assert "could not be started" in (tmp_path / "child.log").read_text()
    await one.stop()
    await asyncio.wait_for(watcher, 5)


async def test_one_that_dies_again_and_again_is_not_waited_for(tmp_path: Path) -> None:
    """Four deaths before it was ready once, and the end of its log is told at once, not after a minute."""
    one = child(tmp_path, "import sys; sys.exit('the setting is missing')")
    watcher = asyncio.create_task(one.supervise())
    with pytest.raises(MeshError, match=r"did not become ready[\s\S]*the setting is missing"):
        await asyncio.wait_for(one.wait_ready(60), 20)
    await one.stop()
    await watcher


LAUNCHER = """
import os, subprocess, sys
from local import processes
theirs, ours = os.pipe()
command = processes.launched("-", "SIGKILL", [sys.executable, "-c", "import time; time.sleep(60)"], watch=sys.argv[1])
started = subprocess.Popen(command, stdin=theirs)
os.close(theirs)
print(started.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("watch", ["kernel", "pipe"])
def test_a_child_dies_with_a_supervisor_that_is_killed(watch: str) -> None:
    """By the kernel's word where there is one, by the end of a pipe elsewhere."""
    if watch == "kernel" and sys.platform != "linux":
        pytest.skip("only Linux tells a child of its parent's death")
    supervisor = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, watch], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    try:
        wait_until(lambda: "time.sleep" in processes.command_of(pid) and "launch.py" not in processes.command_of(pid))
        assert alive(pid)
        supervisor.kill()
        supervisor.wait(10)
        wait_until(lambda: not alive(pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_the_watcher_of_a_pipe_lets_a_program_end_by_itself() -> None:
    """It is no child of the program, which ends as it wants while the pipe is open."""
    theirs, ours = os.pipe()
    program = "import os; os.waitpid(-1, 0)"
    command = processes.launched("-", "SIGKILL", [sys.executable, "-c", program], watch="pipe")
    done = subprocess.run(command, stdin=theirs, stderr=subprocess.PIPE, text=True, timeout=20, check=False)
    os.close(theirs)
    os.close(ours)
    assert "ChildProcessError" in done.stderr


def test_a_child_whose_supervisor_died_before_it_began_does_not_begin() -> None:
    """Between the start of the launcher and its first word its parent may be gone: it must not be an orphan."""
    command = processes.launched("-", "SIGKILL", [sys.executable, "-c", "print('running')"], watch="none")
    command[4] = "1" if os.getpid() != 1 else "2"  # somebody else's process id in the supervisor's place
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "running" not in done.stdout
    assert "the supervisor is gone" in done.stderr


def test_another_user_learns_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL runs as `nobody`, whose processes may read each other's environment."""
    monkeypatch.setenv("CLOUD_SECRET", "word")
    assert "CLOUD_SECRET" in processes.environment_for("-")
    assert "CLOUD_SECRET" not in processes.environment_for("nobody")
    assert processes.environment_for("nobody")["PATH"] == os.environ["PATH"]


def test_a_port_in_use_is_a_sentence() -> None:
    """It names the port and the way out."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MeshError, match=f"Port {port} cannot be used .* choose another with --port"):
            processes.claim_port(port)


def test_the_end_of_a_log_is_short_whatever_the_log(tmp_path: Path) -> None:
    """At most so many lines, and never a failure for bytes that are no text."""
    log = tmp_path / "one.log"
    assert processes.tail(log) == "(no log)"
    log.write_bytes(b"\xff\xfe\n" + b"line\n" * 100_000)
    assert processes.tail(log, 3) == "line\nline\nline"


def test_a_log_that_has_grown_large_is_set_aside_under_its_writer(tmp_path: Path) -> None:
    """The writer goes on at the beginning of an empty file; the one before is kept, small ones are left."""
    log, small = tmp_path / "access.log", tmp_path / "nats.log"
    small.write_text("small\n")
    with log.open("a") as writer:
        for text in ("first\n" * 100, "second\n" * 100, "third\n"):
            writer.write(text)
            writer.flush()
            processes.shorten_logs(tmp_path, bytes_max=50)
    assert log.read_text() == "third\n"
    assert log.with_name("access.log.1").read_text() == "second\n" * 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["access.log", "access.log.1", "nats.log"]


def test_who_follows_a_log_goes_on_after_it_was_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is written afterwards is shown, also while it is less than was there before."""
    from local import live

    log = tmp_path / "nats.log"
    log.write_text("before\n" * 20)
    with log.open() as follower:
        assert live._print_new("nats", follower, label=False) == 20
        processes.shorten_logs(tmp_path, bytes_max=50)
        with log.open("a") as writer:
            writer.write("after\n")
        assert live._print_new("nats", follower, label=False) == 1
    assert capsys.readouterr().out.endswith("before\nafter\n")


def test_ports_are_given_once_and_are_none_of_outgoing_connections() -> None:
    """A connection of anybody's must not sit on the port of a child that is started again."""
    ports = [processes.free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    setting = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(setting.read_text().split()[0]) if setting.exists() else 49152
    assert all(1024 < port < first for port in ports)
    assert processes.claim_port(0) not in ports
