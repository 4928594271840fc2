"""What a person sees of a mesh: the live status while it runs, the table of `florin status`, its logs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from local import binaries, mesh, processes, services
from local.mesh import Mesh, Wishes
from local.postgres import Postgres
from local.processes import Child
from local.state import MeshError, State, is_locked


def run(state: State, wishes: Wishes) -> None:
    """Runs a mesh in the foreground, with a live status on a terminal and plain lines elsewhere."""
    asyncio.run(_run(state, wishes))


def detach(folder: State, wishes: Wishes) -> str:
    """Starts a mesh that goes on without this process; gives a sentence once it is ready. Raises MeshError."""
    if is_locked(folder):
        raise MeshError(f"A mesh runs in {folder.root} already; `florin down --state {folder.root}` stops it.")
    command = [sys.argv[0], "up", "--port", str(wishes.port), "--state", str(folder.root)]
    for service, count in wishes.scale.items():
        command += ["--scale", f"{service}={count}"]
    if wishes.otlp is not None:
        command += ["--otlp", wishes.otlp]
    for origin in wishes.cors_origins:
        command += ["--cors-origin", origin]
    if wishes.sandbox:
        command.append("--sandbox")
    log = folder.logs / "supervisor.log"
    # What a mesh that was killed left behind must not be taken for the new one's.
    folder.description.unlink(missing_ok=True)
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    while not folder.description.exists():
        if supervisor.poll() is not None:
            # All that it said but for its steps: a sentence, and for a part that did not start the end of its log.
            said = [line for line in log.read_text(errors="replace").splitlines() if not line.startswith("· ")]
            raise MeshError("\n".join(said[-20:]) or f"The mesh ended with {supervisor.returncode}; see {log}.")
        time.sleep(0.05)
    description = folder.read_description()
    return f"ready at https://{description['edge']} (CA {folder.ca}); stop it with: florin down --state {folder.root}"


async def _run(state: State, wishes: Wishes) -> None:
    console = Console()
    stopped = asyncio.create_task(mesh.until_stopped())
    await asyncio.sleep(0)  # the signals are caught from here on

    async def whole() -> None:
        async with mesh.running(state, wishes, lambda line: console.print(f"· {line}", highlight=False)) as started:
            _welcome(console, started)
            await _watch(console, started)

    work = asyncio.create_task(whole())
    await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        work.cancel()
    stopped.cancel()
    try:
        await work
    except asyncio.CancelledError:
        console.print("stopped", highlight=False)


def _welcome(console: Console, started: Mesh) -> None:
    console.print(f"ready in {started.started:.1f} s at https://localhost:{started.port}", highlight=False)
    console.print(f"CA: {started.state.ca}", highlight=False, soft_wrap=True)
    if started.sandbox:
        command = f"florin clock advance 31d --state {started.state.root}"
        console.print(f"a sandbox: {command} moves its time", highlight=False, soft_wrap=True)


async def _watch(console: Console, started: Mesh) -> None:
    if not console.is_terminal:
        await asyncio.Event().wait()
    with Live(_children(started.children), console=console, refresh_per_second=2, transient=True) as live:
        while True:
            await asyncio.sleep(0.5)
            live.update(_children(started.children))


def _children(children: Sequence[Child]) -> Table:
    table = Table("process", "pid", "port", "state", "restarts", box=None, header_style="bold")
    for child in children:
        state = "[green]ready" if child.ready and child.pid else "[yellow]starting" if child.pid else "[red]down"
        table.add_row(child.name, str(child.pid or "–"), str(child.port or "–"), state, str(child.restarts))
    return table


def status(state: State) -> dict[str, Any]:
    """Every process of a running mesh and whether it takes work. Raises MeshError when none runs."""
    description = state.read_description()
    ports = {name: service["health"] for name, service in description["services"].items()}

    async def probe(name: str, pid: int | None) -> bool:
        if pid is None or not _alive(pid):
            return False
        if name == services.CHECKER:
            return await processes.http_ok(description["ports"][name], "/readyz")
        if name in ports:
            return await processes.http_ok(ports[name], "/readyz")
        if name == "envoy":
            return await processes.http_ok(description["ports"]["envoy_admin"], "/ready")
        if name == "postgres":
            return await Postgres(state, binaries.find()).answers()
        return await processes.listens(description["ports"][name])

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(probe(name, pid) for name, pid in description["processes"].items()))

    ready = asyncio.run(all_of_them())
    found = {
        name: {"pid": pid, "ready": is_ready, "restarts": description["restarts"].get(name, 0)}
        for (name, pid), is_ready in zip(description["processes"].items(), ready, strict=True)
    }
    return {"edge": description["edge"], "ca": description["ca"], "tenant": description["tenant"], "processes": found}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def table(found: dict[str, Any]) -> str:
    """The status as lines for people."""
    lines = [f"edge https://{found['edge']}   CA {found['ca']}", ""]
    lines += [
        f"{name:<16} {'ready' if process['ready'] else 'NOT READY':<10} pid {process['pid'] or '–':<8}"
        f" restarts {process['restarts']}"
        for name, process in found["processes"].items()
    ]
    return "\n".join(lines)


def show_logs(state: State, name: str | None, *, follow: bool) -> None:
    """Prints logs, and goes on as lines come when asked to. Raises MeshError for an unknown process."""
    paths = sorted(state.logs.glob("*.log"))
    if name is not None:
        paths = [path for path in paths if path.stem == name]
        if not paths:
            known = ", ".join(sorted(path.stem for path in state.logs.glob("*.log"))) or "none yet"
            raise MeshError(f"There is no log of {name}; there are: {known}.")
    opened = [(path.stem, path.open(errors="replace")) for path in paths]
    try:
        while True:
            printed = sum(_print_new(stem, handle, label=name is None) for stem, handle in opened)
            if not follow:
                return
            if not printed:
                time.sleep(0.2)
    except KeyboardInterrupt:
        return
    finally:
        for _, handle in opened:
            handle.close()


def _print_new(stem: str, handle: TextIO, *, label: bool) -> int:
    count = 0
    if os.fstat(handle.fileno()).st_size < handle.tell():
        handle.seek(0)  # it grew large and was set aside
    for line in handle:
        sys.stdout.write(f"{stem:<14} {line}" if label else line)
        count += 1
    sys.stdout.flush()
    return count
