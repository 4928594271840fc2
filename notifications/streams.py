"""Event streams: each reads the table in order from its own position; it must not keep events in memory.

A slow client holds one page of events and no database connection: the next page is read when gRPC has taken this one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncConnection

from florin.notifications.v1 import notification_service_pb2 as pb
from florin.notifications.v1 import webhook_pb2
from meshkit import clock
from meshkit.database import Database
from meshkit.errors import Overloaded, TokenInvalid, Unavailable
from meshkit.identity import Call
from meshkit.waiting import wait_at_most
from notifications import event_store
from notifications.arrivals import Arrivals
from notifications.catalogue import public_types, visible
from notifications.errors import ResumeTokenExpired
from notifications.model import EventPage, StoredEvent
from notifications.resume import ResumeTokens

_PAGE = 100
_GATHER_SECONDS = 0.02
"""Lets the next batch of events join; the price is this much delay."""
_GATHER_SECONDS_PER_STREAM = 0.002
"""All streams of a replica together look at most 500 times a second."""

OPEN = Gauge("florin_event_streams_open", "Event streams that clients follow.")


class Streams:
    """The open streams of this replica."""

    def __init__(
        self, db: Database, arrivals: Arrivals, tokens: ResumeTokens, *, poll_seconds: float, streams_max: int
    ) -> None:
        self._db = db
        self._arrivals = arrivals
        self._tokens = tokens
        self._poll_seconds = poll_seconds
        self._streams_max = streams_max
        self._open = 0
        self._draining = False

    async def drain(self) -> None:
        """Ends every stream with UNAVAILABLE, so that clients go on at another replica."""
        self._draining = True
        self._arrivals.announce()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A stream's place among those of this replica, from before its first look. Raises Overloaded.

        All clients of a replica that left may come at the same moment: none is let in before it is counted.
        """
        if self._open >= self._streams_max:
            raise Overloaded
        self._open += 1
        OPEN.set(self._open)
        try:
            yield
        finally:
            self._open -= 1
            OPEN.set(self._open)

    async def begin(self, call: Call, token: str) -> int:
        """The position after which a stream begins. Raises ResumeTokenInvalid, ResumeTokenExpired."""
        if token:
            position = self._tokens.read(call.tenant, token)
            page = await self._read(call, position, (), 1)
            _check_horizon(page, position)
            return position

        async def work(conn: AsyncConnection) -> int:
            return await event_store.head(conn, call.tenant)

        return await self._db.run(call.tenant, work, read_only=True)

    async def follow(
        self, call: Call, position: int, patterns: Sequence[str]
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        """Every event after a position that the caller may see and asks for, in order, once, without end.

        Raises Unavailable at a drain, TokenInvalid when the caller's token ended or was withdrawn, ResumeTokenExpired
        when a client is so slow that events went before it read them.
        """
        types = visible(patterns, call.who.scopes)
        while True:
            upcoming = self._arrivals.upcoming()
            await self._check_end(call)
            page = await self._read(call, position, types, _PAGE)
            _check_horizon(page, position)
            for event in page.events:
                await self._check_end(call)
                yield self._response(call.tenant, event)
            position = page.scanned_to
            if page.caught_up:
                await wait_at_most(upcoming, min(self._poll_seconds, call.token_expires - time.time()))
                await asyncio.sleep(max(_GATHER_SECONDS, self._open * _GATHER_SECONDS_PER_STREAM))

    async def _check_end(self, call: Call) -> None:
        if self._draining:
            raise Unavailable("this replica")
        if time.time() >= call.token_expires:
            raise TokenInvalid
        await call.token_stands()

    async def _read(self, call: Call, after: int, types: Sequence[str], limit: int) -> EventPage:
        customer = call.who.customer or ""

        async def work(conn: AsyncConnection) -> EventPage:
            return await event_store.page(conn, call.tenant, after=after, types=types, customer=customer, limit=limit)

        return await self._db.run(call.tenant, work, read_only=True)

    def _response(self, tenant: str, event: StoredEvent) -> pb.StreamEventsResponse:
        kind = public_types()[event.type]
        message = webhook_pb2.Event(
            id=str(event.id),
            type=event.type,
            source=kind.source,
            subject=event.subject,
            sequence=event.sequence,
            resume_token=self._tokens.make(tenant, event.position),
            time=clock.timestamp(event.time),
        )
        message.data.type_url = f"type.googleapis.com/{kind.message.DESCRIPTOR.full_name}"
        message.data.value = event.data
        return pb.StreamEventsResponse(event=message)


def _check_horizon(page: EventPage, position: int) -> None:
    if position < page.purged_to:
        raise ResumeTokenExpired
