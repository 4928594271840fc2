"""How long after its commit a payment reaches a webhook: a receiver on loopback that notes when each event came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from aiohttp import web

from florin.notifications.v1 import notification_service_pb2
from local.client import Session

_EVENT = "florin.transactions.transfer_completed.v1"


@dataclass(slots=True)
class Receiver:
    """What came so far."""

    url: str = ""
    late_us: dict[str, int] = field(default_factory=dict)
    """By the event's id: from the time in the event, which is the journal's, to its arrival."""
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, request: web.Request) -> web.Response:
        """One delivery."""
        now = time.time()
        event = json.loads(await request.read())
        happened = datetime.fromisoformat(event["time"]).timestamp()
        self.late_us.setdefault(event["id"], int((now - happened) * 1_000_000))
        self._arrived.set()
        return web.Response(status=204)

    async def until(self, count: int, seconds: float) -> None:
        """Waits until so many came, or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                while len(self.late_us) < count:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return


@asynccontextmanager
async def receiving(operator: Session) -> AsyncIterator[Receiver]:
    """A receiver of completed transfers, registered with the mesh while the block runs. Raises Refused."""
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/hooks", receiver.receive)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=1.0).start()
        host, port = runner.addresses[0][:2]
        receiver.url = f"http://{host}:{port}/hooks"
        request = notification_service_pb2.CreateWebhookEndpointRequest(
            url=receiver.url, event_types=[_EVENT], description="bench", request_id="bench-endpoint"
        )
        endpoint = (await operator.call(operator.notifications.CreateWebhookEndpoint, request)).endpoint
        yield receiver
        removal = notification_service_pb2.DeleteWebhookEndpointRequest(
            name=endpoint.name, request_id="bench-endpoint-gone"
        )
        await operator.call(operator.notifications.DeleteWebhookEndpoint, removal)
    finally:
        await runner.cleanup()
