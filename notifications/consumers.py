"""Events in: each publisher's stream to `operations.record_events`; it must not look into them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit.bus import Bus
from meshkit.database import Database
from meshkit.envelopes import Incoming
from meshkit.inbox import Consumer
from notifications import operations
from notifications.catalogue import PUBLISHERS
from notifications.settings import Settings


class Recorder:
    """Records one stream's events, and afterwards wakes those who wait for them."""

    def __init__(self, events_arrived: Callable[[], None], deliveries_made: Callable[[], None]) -> None:
        self._events_arrived = events_arrived
        self._deliveries_made = deliveries_made
        self._made = False

    async def record(self, conn: AsyncConnection, incoming: Sequence[Incoming]) -> None:
        """The consumer's handler."""
        # A hint that survives a rollback costs one look at the table.
        self._made = bool(await operations.record_events(conn, incoming)) or self._made

    def committed(self) -> None:
        """After the commit: the delivery worker is only woken when there is work for it."""
        self._events_arrived()
        if self._made:
            self._made = False
            self._deliveries_made()


def workers(
    settings: Settings,
    bus: Bus,
    db: Database,
    events_arrived: Callable[[], None],
    deliveries_made: Callable[[], None],
) -> dict[str, Callable[[], Awaitable[None]]]:
    """One durable consumer for each publisher."""
    found: dict[str, Callable[[], Awaitable[None]]] = {}
    for publisher in PUBLISHERS:
        recorder = Recorder(events_arrived, deliveries_made)
        consumer = Consumer(
            bus,
            db,
            stream=publisher,
            durable=settings.service,
            handle=recorder.record,
            gap_seconds=settings.event_gap_seconds,
            after_commit=recorder.committed,
        )
        found[f"events-{publisher}"] = consumer.run
    return found
