"""Composition root: the only module that builds what compliance is made of."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from compliance import consumers, operations, screening_operations
from compliance.rpc import ComplianceService
from compliance.screening_operations import Terms
from compliance.screening_rpc import ScreeningService
from compliance.settings import Settings
from compliance.watchlists import Watchlists
from florin.compliance.v1 import compliance_service_pb2_grpc, screening_service_pb2_grpc
from meshkit import clock, parts
from meshkit.bus import Bus
from meshkit.database import ALL_TENANTS, Database, allow_long_statements
from meshkit.lifecycle import Parts
from meshkit.waiting import wait_at_most

_EXPIRE_AT_ONCE = 200
_WATCH_SECONDS = 30.0
_WATCH_PAUSE_FACTOR = 50  # so that watching takes a fiftieth of the time of one of the database's cores


@asynccontextmanager
async def build(settings: Settings) -> AsyncIterator[Parts]:
    """Everything of one replica; at the end, closes it in the opposite order."""
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(Database.open(settings))
        bus = await stack.enter_async_context(Bus.open(settings))
        watchlists = Watchlists(
            db,
            score_min=settings.match_score_min,
            cache_size=settings.match_cache_size,
            poll_seconds=settings.watchlist_poll_seconds,
        )
        terms = Terms(
            lease=timedelta(seconds=settings.reservation_lease_seconds),
            case_time=timedelta(hours=settings.case_hours),
        )
        service = ComplianceService(db, watchlists, settings)
        cases_due = asyncio.Event()
        screening = ScreeningService(db, watchlists, terms, batch_max=settings.screening_batch_max)
        yield Parts(
            services={
                "florin.compliance.v1.ComplianceService": functools.partial(
                    compliance_service_pb2_grpc.add_ComplianceServiceServicer_to_server, service
                ),
                "florin.compliance.v1.ScreeningService": functools.partial(
                    screening_service_pb2_grpc.add_ScreeningServiceServicer_to_server, screening
                ),
            },
            workers={
                **parts.workers(settings, db, bus),
                **consumers.workers(settings, bus, db),
                "screening": screening.batcher.run,
                "watchlists": watchlists.run,
                "expire-cases": _expire_cases(db, settings.case_poll_seconds, cases_due),
                "watch": _watch(db),
            },
            checks=parts.checks(settings, db),
            on_clock_move=(cases_due.set,),
        )


def _expire_cases(db: Database, poll_seconds: float, due: asyncio.Event) -> Callable[[], Awaitable[None]]:
    """The worker that ends cases nobody resolved in time."""

    async def work(conn: AsyncConnection) -> int:
        return await operations.expire_cases(conn, db.cipher, clock.now(), limit=_EXPIRE_AT_ONCE)

    async def run() -> None:
        while True:
            due.clear()
            if await db.run(ALL_TENANTS, work) < _EXPIRE_AT_ONCE:
                await wait_at_most(due, poll_seconds)

    return run


def _watch(db: Database) -> Callable[[], Awaitable[None]]:
    """The worker that looks for lapsed reservations and for a broken INV-8, and tells the metrics."""

    async def work(conn: AsyncConnection) -> None:
        await allow_long_statements(conn)
        await screening_operations.watch(conn, clock.now())

    async def run() -> None:
        clock_s = asyncio.get_running_loop().time
        while True:
            began = clock_s()
            await db.run(ALL_TENANTS, work, read_only=True, long=True)
            await asyncio.sleep(max(_WATCH_SECONDS, (clock_s() - began) * _WATCH_PAUSE_FACTOR))

    return run
