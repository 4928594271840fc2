"""The mesh that a demonstration runs on, how one ends in order, and its verification; no story is told here."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from local import mesh
from local.client import Refused
from local.demo_report import Screen
from local.state import MeshError, State, open_state


def told(story: Coroutine[Any, Any, int]) -> int:
    """Tells a story to its end; the command's exit code. Raises MeshError."""
    return asyncio.run(_interruptible(story))


async def _interruptible(story: Coroutine[Any, Any, int]) -> int:
    """Ctrl-C and SIGTERM end the demo in order: what it started is stopped, what it made is removed."""
    work = asyncio.ensure_future(story)
    loop = asyncio.get_running_loop()
    interrupted = False

    def stop() -> None:
        nonlocal interrupted
        # A second one must not interrupt the tidying up.
        if not interrupted:
            interrupted = True
            work.cancel()

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(name, stop)
    try:
        return await work
    except asyncio.CancelledError:
        return 130
    except (Refused, TimeoutError) as error:
        raise MeshError(f"The demo cannot go on: {error}") from None


@asynccontextmanager
async def standing(
    folder: Path | None, screen: Screen, keep: bool, *, sandbox: bool = False
) -> AsyncIterator[tuple[State, int]]:
    """The mesh that runs in `folder`, or a new one in a folder of its own, gone afterwards; and the edge's port."""
    if folder is not None:
        state = open_state(folder)
        yield state, int(state.read_description()["port"])
        return
    root = Path(tempfile.mkdtemp(prefix="florin-demo-"))
    try:
        state = open_state(root)
        async with mesh.running(state, mesh.Wishes(port=0, sandbox=sandbox), screen.step) as running:
            kind = "a sandbox" if sandbox else "the mesh"
            screen.step(f"{kind} is ready at https://localhost:{running.port}")
            yield state, running.port
    finally:
        if keep:
            screen.step(f"the state folder stays: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


async def kept(screen: Screen, state: State, port: int, *, keep: bool) -> None:
    """Lets a mesh go on for a look, until Ctrl-C, where that is wanted."""
    if keep:
        screen.step(f"the mesh goes on at https://localhost:{port}, state {state.root}; Ctrl-C ends it")
        await asyncio.Event().wait()


def ended(screen: Screen, *, good: bool) -> int:
    """The last sentence, and the exit code."""
    screen.step(f"{'everything came out as it had to' if good else 'NOT everything came out as it had to'}")
    return 0 if good else 1


async def verify(screen: Screen, state: State) -> list[str]:
    """The numbered invariants, looked up in the databases; what breaks them."""
    from local import verify as checks

    findings = await asyncio.to_thread(checks.verify, state)
    for line in checks.as_text(findings).splitlines():
        screen.step(line)
    return [f"{violation}" for finding in findings for violation in finding.violations]
