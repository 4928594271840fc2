"""Composition root: the only module that builds what notifications is made of."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from florin.notifications.v1 import notification_service_pb2_grpc as pb_grpc
from meshkit import parts
from meshkit.bus import Bus
from meshkit.database import Database
from meshkit.lifecycle import Parts
from notifications import consumers, retention
from notifications.arrivals import Arrivals
from notifications.clients import WebhookSender
from notifications.delivery import DeliveryWorker
from notifications.resume import ResumeTokens
from notifications.rpc import NotificationService
from notifications.settings import Settings
from notifications.streams import Streams


@asynccontextmanager
async def build(settings: Settings) -> AsyncIterator[Parts]:
    """Everything of one replica; at the end, closes it in the opposite order."""
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(Database.open(settings))
        bus = await stack.enter_async_context(Bus.open(settings))
        sender = await stack.enter_async_context(WebhookSender.open(settings))
        arrivals = Arrivals()
        streams = Streams(
            db,
            arrivals,
            ResumeTokens(db.cipher),
            poll_seconds=settings.stream_poll_seconds,
            streams_max=settings.streams_max,
        )
        delivery = DeliveryWorker(db, sender, settings)
        service = NotificationService(db, sender, streams, settings)
        yield Parts(
            services={
                "florin.notifications.v1.NotificationService": functools.partial(
                    pb_grpc.add_NotificationServiceServicer_to_server, service
                )
            },
            workers={
                **parts.workers(settings, db, bus),
                **consumers.workers(settings, bus, db, arrivals.announce, delivery.wake),
                "deliveries": delivery.run,
                "retention": functools.partial(retention.run, db, settings.event_retention_hours),
            },
            checks=parts.checks(settings, db),
            on_drain=streams.drain,
            on_clock_move=(delivery.wake,),
        )
