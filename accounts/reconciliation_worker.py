"""Takes in entries of ours and has the rules go over what is open, in any number of replicas, a lot at a time.

It rests after each lot as long as that took: those who pay keep the better half of the process and of the database. Two
replicas at one account do the same in turns, which harms nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import date

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import reconciliation_matching, reconciliation_store
from accounts.reconciliation_model import Books, Window
from meshkit import logs, telemetry
from meshkit.database import ALL_TENANTS, Database
from meshkit.errors import Contention, Overloaded
from meshkit.waiting import wait_at_most

_AGAIN_SECONDS = 5.0
"""After a pass in which others held an account's row for long: an import is at work."""
_log = logs.get(__name__)
_rest = asyncio.sleep


class Reconciler:
    """The worker of one replica."""

    def __init__(self, db: Database, *, days: int, every_seconds: float) -> None:
        self._db = db
        self._days = days
        self._every_seconds = every_seconds
        self._due = asyncio.Event()

    def wake(self) -> None:
        """Looks at once: a statement came."""
        self._due.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            self._due.clear()
            whole = await self.work_once()
            wait_seconds = self._every_seconds if whole else min(_AGAIN_SECONDS, self._every_seconds)
            await wait_at_most(self._due, wait_seconds)

    async def work_once(self) -> bool:
        """One pass over every account that has something new; whether none had to be left for later."""
        whole = True
        for tenant, account in await self._db.run(ALL_TENANTS, reconciliation_store.due, read_only=True):
            try:
                await self.reconcile(tenant, account)
            except (Contention, Overloaded) as refused:
                _log.warning("a reconciliation waits for its row", account=account, refusal=type(refused).__name__)
                whole = False
            except Exception as error:  # noqa: BLE001 - whatever one account breaks, the others have to go on
                telemetry.WORKER_FAILURES.labels("reconciler").inc()
                _log.error("an account cannot be reconciled", tenant=tenant, account=account, exc_info=error)
                whole = False
        return whole

    async def reconcile(self, tenant: str, account: str) -> None:
        """A pass over one account, from wherever the one before ended."""

        async def begin(conn: AsyncConnection) -> tuple[Books, int]:
            books = await reconciliation_matching.locked(conn, tenant, account)
            return books, await reconciliation_store.sequence(conn, tenant, account)

        # What comes after this is left to the next pass, so that this one ends.
        begun, up_to = await self._lot(tenant, begin)
        while await self._lot(
            tenant, lambda conn: reconciliation_matching.take_entries(conn, tenant, account, up_to=up_to)
        ):
            pass
        window = Window(self._days, begun.period_end)
        await self._lots(tenant, lambda conn, at: reconciliation_matching.match_by_reference(conn, tenant, account, at))
        await self._lots(
            tenant, lambda conn, at: reconciliation_matching.match_by_amount(conn, tenant, account, at, window)
        )
        await self._lots(tenant, lambda conn, at: reconciliation_matching.match_batches(conn, tenant, account, at))
        await self._batch_days(tenant, account, window)

        async def finish(conn: AsyncConnection) -> None:
            await reconciliation_matching.finish(
                conn, tenant, account, statements_seen=begun.statements, sequence=up_to
            )

        await self._lot(tenant, finish)

    async def _lots(self, tenant: str, work: Callable[[AsyncConnection, int], Awaitable[int | None]]) -> None:
        """Lots of the bank's items, each from where the one before ended."""
        after = 0
        while (at := await self._lot(tenant, work, after)) is not None:
            after = at

    async def _batch_days(self, tenant: str, account: str, window: Window) -> None:
        """The days that the bank has batches on, one after the other."""

        def work(conn: AsyncConnection, at: date) -> Awaitable[date | None]:
            return reconciliation_matching.match_batches_of_a_day(conn, tenant, account, at, window)

        after = date.min
        while (day := await self._lot(tenant, work, after)) is not None:
            after = day

    async def _lot[T, *A](self, tenant: str, work: Callable[[AsyncConnection, *A], Awaitable[T]], *arguments: *A) -> T:
        started = time.monotonic()
        done = await self._db.run(tenant, lambda conn: work(conn, *arguments))
        await _rest(time.monotonic() - started)
        return done
