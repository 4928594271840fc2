"""A webhook receiver on loopback in the tests' own loop, which answers, waits or sends elsewhere as it is told."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

from tests.support.parts import eventually


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver says, as soon as it may."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    when: asyncio.Event | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The webhook-id."""
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        """The event, once the receivers' library holds its signature for good. Raises WebhookVerificationError."""
        event = Webhook(secret).verify(self.body, self.headers)
        assert event == json.loads(self.body)
        return event


@dataclass(slots=True)
class Listener:
    """What came so far; `answers` are those to the next requests, `usual` the one to all after them."""

    url: str = ""
    posts: list[Post] = field(default_factory=list)
    answers: deque[Answer] = field(default_factory=deque)
    usual: Answer = field(default_factory=Answer)

    async def received(self, count: int, seconds: float = 10.0) -> list[Post]:
        """The posts, once there are so many."""

        async def enough() -> bool:
            return len(self.posts) >= count

        await eventually(enough, seconds)
        return self.posts

    async def answer(self, request: web.Request) -> web.Response:
        """Keeps a request, and answers it."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.posts.append(Post(request.path, headers, await request.read()))
        chosen = self.answers.popleft() if self.answers else self.usual
        if chosen.when is not None:
            await chosen.when.wait()
        return web.Response(status=chosen.status, headers=chosen.headers)


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """A receiver on a free port, closed afterwards."""
    listener = Listener()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", listener.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        listener.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
        yield listener
    finally:
        await runner.cleanup()
