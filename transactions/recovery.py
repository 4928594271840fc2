"""Finishes what was left behind: takes overdue transfers and passes them on, in any number of replicas."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import logs, telemetry
from meshkit.database import ALL_TENANTS, Database
from meshkit.errors import DomainError
from meshkit.waiting import wait_at_most
from transactions import store
from transactions.model import Transfer
from transactions.passes import Passes
from transactions.settings import Settings

_TAKE = 500
_START_SECONDS = 10.0
_log = logs.get(__name__)

OPEN_TRANSFERS = Gauge("florin_saga_open", "Transfers that are not final, by state.", ["state"])
OLDEST_SECONDS = Gauge(
    "florin_saga_oldest_seconds", "Age of the oldest transfer that is not final, by state.", ["state"]
)


class Recovery:
    """The worker, and its run before the service becomes ready."""

    def __init__(self, db: Database, passes: Passes, settings: Settings) -> None:
        self._db = db
        self._passes = passes
        self._settings = settings
        self._due = asyncio.Event()

    def wake(self) -> None:
        """Looks at once: something became due."""
        self._due.set()

    async def before_ready(self) -> None:
        """Finishes what a crashed process left, for ten seconds at most: what depends on a service that is down
        stays for later, and readiness does not wait for it."""
        deadline = time.monotonic() + _START_SECONDS
        try:
            while time.monotonic() < deadline:
                taken = await self._take(ahead_seconds=self._settings.recovery_lease_seconds)
                if not taken:
                    return
                finished = [t for t in await self._passes.advance(taken) if t.is_final]
                _log.info("recovered", taken=len(taken), finished=len(finished))
                if not finished:
                    return
        except DomainError:
            _log.warning("recovery goes on in the background", exc_info=True)

    async def run(self) -> None:
        """Recovers until it is cancelled."""
        observe_again = 0.0
        while True:
            self._due.clear()
            taken = await self._take()
            if taken:
                telemetry.EVENTS_CONSUMED.labels("recovery", "taken").inc(len(taken))
                await asyncio.shield(self._passes.advance(taken))
            if time.monotonic() >= observe_again:
                await self._observe()
                observe_again = time.monotonic() + 5
            if len(taken) < _TAKE:
                await wait_at_most(self._due, self._settings.recovery_poll_ms / 1000)

    async def _take(self, ahead_seconds: float = 0.0) -> list[Transfer]:
        async def work(conn: AsyncConnection) -> list[Transfer]:
            return await store.take_due(
                conn,
                self._db.cipher,
                limit=_TAKE,
                lease_seconds=self._settings.recovery_lease_seconds,
                ahead_seconds=ahead_seconds,
            )

        return await self._db.run(ALL_TENANTS, work, durable=False)

    async def _observe(self) -> None:
        ages = await self._db.run(ALL_TENANTS, store.open_ages, read_only=True)
        for state, (count, seconds) in ages.items():
            OPEN_TRANSFERS.labels(state).set(count)
            OLDEST_SECONDS.labels(state).set(seconds)
