"""The mesh under measurement: `florin up` in a process of its own, who is who in it, and when it has nothing to do."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from local import binaries, processes
from local.postgres import Postgres
from local.state import SERVICES, State

FLORIN = Path(sys.executable).with_name("florin")
_START_SECONDS = 180.0
_UNPUBLISHED = "SELECT EXISTS (SELECT FROM outbox_waiting)"


class BenchError(Exception):
    """The measurement cannot go on; its text is one clear sentence."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """A mesh that runs."""

    state: State
    supervisor: int
    started: float
    """When `florin up` was called, on the clock of time.monotonic()."""
    ready_seconds: float

    @property
    def description(self) -> dict[str, Any]:
        """What runs where."""
        return self.state.read_description()

    @property
    def port(self) -> int:
        """The edge's port."""
        return int(self.description["port"])

    def roots(self) -> dict[str, int]:
        """Process ids by name: the supervisor, the parts and the services."""
        return {"supervisor": self.supervisor, **self.description["processes"]}

    def postgres(self) -> Postgres:
        """The mesh's database server."""
        return Postgres(self.state, binaries.find())

    def streams(self, query: str = "") -> dict[str, Any]:
        """What the broker tells of its streams."""
        address = f"http://127.0.0.1:{self.description['ports']['nats_monitor']}/jsz{query}"
        with urllib.request.urlopen(address, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    async def until_quiet(self, seconds: float) -> float:
        """Waits until every event was published and consumed; the seconds that took. Raises BenchError."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if not await self._events_wait():
                return time.monotonic() - started
            await asyncio.sleep(0.1)
        raise BenchError(f"events were still waiting {seconds:.0f} s after the load")

    async def _events_wait(self) -> bool:
        # Outboxes before and after the broker: an event that is consumed in between may have made another.
        return (
            await asyncio.to_thread(self._outboxes_wait)
            or await asyncio.to_thread(self._consumers_wait)
            or await asyncio.to_thread(self._outboxes_wait)
        )

    def _outboxes_wait(self) -> bool:
        for service in SERVICES:
            with psycopg.connect(self.postgres().admin_dsn(service)) as connection:
                row = connection.execute(_UNPUBLISHED).fetchone()
                if row is None or row[0]:
                    return True
        return False

    def _consumers_wait(self) -> bool:
        found = self.streams("?consumers=true")
        streams = [stream for account in found["account_details"] for stream in account.get("stream_detail") or ()]
        consumers = [consumer for stream in streams for consumer in stream.get("consumer_detail") or ()]
        return any(consumer["num_pending"] + consumer["num_ack_pending"] for consumer in consumers)


@asynccontextmanager
async def running(state: State, *options: str) -> AsyncIterator[Mesh]:
    """A mesh in a state folder, on a free port, with more options of `florin up`, from its start on; stopped after it.

    Raises BenchError.
    """
    log = state.logs / "supervisor.log"
    state.description.unlink(missing_ok=True)
    started = time.monotonic()
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [FLORIN, "up", "--port", "0", "--state", str(state.root), *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        while not state.description.exists():
            if supervisor.poll() is not None or time.monotonic() - started > _START_SECONDS:
                raise BenchError(f"florin up did not come up; the end of {log}:\n{processes.tail(log)}")
            await asyncio.sleep(0.02)
        yield Mesh(state, supervisor.pid, started, time.monotonic() - started)
    finally:
        supervisor.terminate()
        await asyncio.to_thread(supervisor.wait)
