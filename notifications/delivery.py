"""The delivery worker: takes due deliveries under a lease, sends them, records what came of it.

It must not hold a database transaction while it sends. A crash between an answer and its record leads to the same
event once more, under the same id, when the lease is over; a database that is away for less long does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Sequence

from google.protobuf.message import DecodeError
from prometheus_client import Counter as Meter
from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock, logs
from meshkit.batching import Batcher
from meshkit.database import ALL_TENANTS, Database
from meshkit.errors import DomainError
from meshkit.waiting import wait_at_most
from notifications import catalogue, operations, signing
from notifications.model import DeliveryState, DueDelivery, Outcome, Reply
from notifications.settings import Settings

_LEASE_MARGIN_SECONDS = 30.0
"""Beyond the longest attempt: for recording it while the database is slow."""
_TAKE_AGAIN_SECONDS = 0.5
_RECORD_AGAIN_SECONDS, _RECORD_AGAIN_SECONDS_MAX = 0.1, 2.0
"""Between two tries to record an attempt, doubled each time."""
_GATHER_SECONDS = 0.01
"""Lets a few attempts end before the table is asked again."""

ATTEMPTS = Meter("florin_webhook_attempts_total", "Attempts to deliver, by what came of them.", ["outcome"])
IN_FLIGHT = Gauge("florin_webhook_attempts_in_flight", "Attempts that wait for their receiver.")

_log = logs.get(__name__)


class DeliveryWorker:
    """Delivers; any number of replicas may run one. Order across events is not kept: a failed one does not hold up
    those after it."""

    def __init__(
        self,
        db: Database,
        sender: operations.Sender,
        settings: Settings,
        chance: random.Random | None = None,
    ) -> None:
        self._db = db
        self._sender = sender
        self._settings = settings
        self._chance = chance or random.SystemRandom()
        self._wake = asyncio.Event()
        self._busy: Counter[tuple[str, str]] = Counter()

    @property
    def _lease_seconds(self) -> float:
        return self._settings.webhook_timeout_seconds + _LEASE_MARGIN_SECONDS

    def wake(self) -> None:
        """There may be something due."""
        self._wake.set()

    async def run(self) -> None:
        """Delivers until it is cancelled; then lets attempts in flight end and records them."""
        batcher: Batcher[Outcome, None] = Batcher("deliveries", self._settle, batch_max=200)
        recording = asyncio.create_task(batcher.run(), name="record-deliveries")
        in_flight: set[asyncio.Task[None]] = set()
        try:
            while True:
                try:
                    await self._round(batcher, in_flight)
                except DomainError as refusal:
                    # The database is away or busy. What is in flight goes on, and is recorded when it is back.
                    _log.warning("no deliveries are taken", cause=repr(refusal))
                    await asyncio.sleep(_TAKE_AGAIN_SECONDS)
        finally:
            if in_flight:
                await asyncio.wait(in_flight, timeout=self._settings.webhook_timeout_seconds)
            for task in in_flight:
                task.cancel()
            recording.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await recording

    async def _round(self, batcher: Batcher[Outcome, None], in_flight: set[asyncio.Task[None]]) -> None:
        """Takes what is due and there is room for; waits when that was nothing."""
        self._wake.clear()
        room = self._settings.webhook_concurrency_max - len(in_flight)
        taken: list[DueDelivery] = []
        if room > 0:
            taking = asyncio.ensure_future(self._take(room))
            try:
                taken = await asyncio.shield(taking)
            except asyncio.CancelledError:
                # What is being taken at the end is sent too: under its lease no other replica would send it for long.
                (last,) = await asyncio.gather(taking, return_exceptions=True)
                if not isinstance(last, BaseException):
                    self._begin(last, batcher, in_flight)
                raise
        self._begin(taken, batcher, in_flight)
        if not taken:
            await wait_at_most(self._wake, self._settings.webhook_poll_seconds)
            await asyncio.sleep(_GATHER_SECONDS)

    def _begin(
        self, taken: Sequence[DueDelivery], batcher: Batcher[Outcome, None], in_flight: set[asyncio.Task[None]]
    ) -> None:
        for due in taken:
            self._busy[due.tenant, due.endpoint] += 1
            task = asyncio.create_task(self._deliver(due, batcher), name=f"deliver-{due.id}")
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
        IN_FLIGHT.set(len(in_flight))

    async def _take(self, room: int) -> list[DueDelivery]:
        busy = dict(self._busy)

        async def work(conn: AsyncConnection) -> list[DueDelivery]:
            return await operations.take_deliveries(
                conn,
                limit=room,
                per_endpoint=self._settings.webhook_endpoint_concurrency_max,
                busy=busy,
                lease_seconds=self._lease_seconds,
            )

        return await self._db.run(ALL_TENANTS, work)

    async def _deliver(self, due: DueDelivery, batcher: Batcher[Outcome, None]) -> None:
        lease_end = time.monotonic() + self._lease_seconds
        try:
            reply = await self._attempt(due)
            outcome = self._settings.backoff().judge(due, reply, self._chance)
            await _record(outcome, batcher, lease_end)
            ATTEMPTS.labels(outcome.state.name.lower()).inc()
        except DomainError as refusal:
            # The lease runs out and the event is sent once more, under the same id.
            _log.warning("an attempt could not be recorded", delivery=str(due.id), cause=repr(refusal))
        except Exception:  # noqa: BLE001 - one delivery's failure is logged and must not end the worker of all
            _log.exception("an attempt failed here", delivery=str(due.id))
        finally:
            self._busy[due.tenant, due.endpoint] -= 1
            if not self._busy[due.tenant, due.endpoint]:
                del self._busy[due.tenant, due.endpoint]
            self.wake()

    async def _attempt(self, due: DueDelivery) -> Reply:
        try:
            if not catalogue.may_see(due.event.type, due.scopes):
                # It was pointed elsewhere by someone who may see less, and an older event was waiting or is replayed.
                return Reply(clock.now(), 0, "the endpoint may not be sent this type of event", 0, is_final=True)
            body = signing.body(due.tenant, due.event)
            purpose = signing.sealing_purpose(due.tenant, due.endpoint)
            keys = [self._db.cipher.decrypt(sealed, purpose) for sealed in (due.secret, *due.previous_secrets)]
        except (KeyError, ValueError, DecodeError):
            # A key that was taken away too early, a type this release does not know: no fault of the receiver's.
            _log.exception("an event cannot be prepared for sending", delivery=str(due.id))
            return Reply(clock.now(), 0, "the event could not be prepared for sending", 0)
        headers = signing.headers(str(due.event.id), clock.machine_now(), body, keys)
        return await self._sender.send(due.url, headers, body)

    async def _settle(self, outcomes: Sequence[Outcome]) -> Sequence[None]:
        async def work(conn: AsyncConnection) -> list[tuple[str, str]]:
            return await operations.settle_deliveries(conn, outcomes)

        tenants = {outcome.delivery.tenant for outcome in outcomes}
        for tenant, endpoint in await self._db.run(tenants, work):
            _log.warning("a webhook endpoint is gone (410) and was disabled", tenant=tenant, endpoint=endpoint)
        for outcome in outcomes:
            if outcome.state is DeliveryState.FAILED:
                _log.warning(
                    "a delivery is given up", tenant=outcome.delivery.tenant, delivery=str(outcome.delivery.id)
                )
        return [None] * len(outcomes)


async def _record(outcome: Outcome, batcher: Batcher[Outcome, None], lease_end: float) -> None:
    """Records an attempt, again and again while its lease lasts: the receiver has answered, and must not be sent the
    event once more because the database was away. Raises what the last try raised."""
    wait = _RECORD_AGAIN_SECONDS
    while True:
        try:
            await batcher.submit(outcome)
            return
        except DomainError:
            if time.monotonic() + wait >= lease_end:
                raise
        await asyncio.sleep(wait)
        wait = min(wait * 2, _RECORD_AGAIN_SECONDS_MAX)
