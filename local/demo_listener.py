"""A webhook receiver on loopback that believes nothing unsigned; it must not know what the events should be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from florin.notifications.v1 import notification_service_pb2
from local.client import Session

CASE_EVENTS = ("florin.compliance.case_opened.v1", "florin.compliance.case_resolved.v1")
"""What is told of a review."""
EVENT_TYPES = ("florin.transactions.*", *CASE_EVENTS)


@dataclass(frozen=True, slots=True)
class Received:
    """An event whose signature holds."""

    id: str
    type: str
    subject: str
    data: dict[str, Any]


@dataclass(slots=True)
class Listener:
    """What arrived so far."""

    url: str = ""
    secret: str = ""
    events: dict[str, Received] = field(default_factory=dict)
    """By webhook-id, each event once."""
    repeated: int = 0
    """Deliveries of an event that was here already."""
    unsigned: int = 0
    """Requests whose signature did not hold."""
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def by_type(self) -> Counter[str]:
        """How many events of each type."""
        return Counter(event.type for event in self.events.values())

    def subjects(self, type_: str) -> set[str]:
        """The resources that events of a type are about."""
        return {event.subject for event in self.events.values() if event.type == type_}

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Waits until a condition on what arrived holds; False when the time is over."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return condition()
        return True

    async def receive(self, request: web.Request) -> web.Response:
        """One delivery: 204 when its signature holds, 401 when not."""
        body = await request.read()
        if not self.secret:
            return web.Response(status=503)
        try:
            event = Webhook(self.secret).verify(body, dict(request.headers))
        except WebhookVerificationError:
            self.unsigned += 1
            return web.Response(status=401)
        id_ = request.headers["webhook-id"]
        if id_ in self.events:
            self.repeated += 1
        self.events[id_] = Received(id_, event["type"], event.get("subject", ""), event.get("data", {}))
        self._arrived.set()
        return web.Response(status=204)


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """A receiver on a free port of loopback."""
    listener = Listener()
    application = web.Application()
    application.router.add_post("/hooks", listener.receive)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        listener.url = f"http://{host}:{port}/hooks"
        yield listener
    finally:
        await runner.cleanup()


async def register(session: Session, listener: Listener) -> str:
    """Makes the mesh send its events to the listener; the endpoint's name. Raises Refused."""
    request = notification_service_pb2.CreateWebhookEndpointRequest(
        url=listener.url, event_types=list(EVENT_TYPES), description="florin demo", request_id="demo-endpoint"
    )
    answer = await session.call(session.notifications.CreateWebhookEndpoint, request)
    listener.secret = answer.secret
    attempt = 0
    while not listener.secret:
        # The answer with the secret was lost on the way and is not given twice; a new one is.
        attempt += 1
        rotation = notification_service_pb2.RotateWebhookSecretRequest(
            name=answer.endpoint.name, request_id=f"demo-secret-{attempt}"
        )
        listener.secret = (await session.call(session.notifications.RotateWebhookSecret, rotation)).secret
    return answer.endpoint.name
