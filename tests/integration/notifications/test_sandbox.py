"""Webhooks while a sandbox's clock is moved: a pause is over then, an attempt that is under way is not."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from meshkit import clock
from tests.integration.notifications.conftest import DELIVERED, PENDING, Service, opened
from tests.integration.notifications.listener import Answer, Listener
from tests.support.parts import eventually
from tests.support.sandbox import sandbox_in

HALF_A_DAY = 43_200.0


async def test_a_failed_webhook_is_sent_again_when_its_pause_is_passed_over(
    service: Service, listener: Listener, tmp_path: Path
) -> None:
    """A pause of up to half a day, told by the bank's time; the signature's time is the receiver's own."""
    listener.answers.extend([Answer(500), Answer(204)])
    with sandbox_in(tmp_path) as sandbox:
        made = await service.create(listener.url)
        await service.tell(opened())
        async with service.delivering(webhook_backoff_base_seconds=HALF_A_DAY) as worker:
            waiting = await service.settled(made.endpoint.name, PENDING)
            sandbox.advance(timedelta(seconds=HALF_A_DAY))
            worker.wake()
            delivered = await service.settled(made.endpoint.name, DELIVERED, attempts=2)
        first, second = (attempt.create_time.ToDatetime() for attempt in delivered.attempts)
        assert second - first >= timedelta(seconds=HALF_A_DAY)
        assert waiting.next_attempt_time.ToDatetime() <= second
    for post in listener.posts:
        post.verified(made.secret)
        assert abs(int(post.headers["webhook-timestamp"]) - clock.machine_now().timestamp()) < 60


async def test_an_attempt_under_way_is_not_made_twice_because_time_was_moved(
    service: Service, listener: Listener, tmp_path: Path
) -> None:
    """Its lease is between machines: another replica passes it by, and sends what came after it."""
    gate = asyncio.Event()
    listener.answers.append(Answer(204, when=gate))
    with sandbox_in(tmp_path) as sandbox:
        made = await service.create(listener.url)
        (slow,) = await service.tell(opened("slow"))
        async with service.delivering(webhook_endpoint_concurrency_max=1):
            await listener.received(1)
            sandbox.advance(timedelta(days=31))
            async with service.delivering():
                (other,) = await service.tell(opened("other"))
                await listener.received(2)
            gate.set()

            async def delivered() -> bool:
                return [one.state for one in await service.deliveries(made.endpoint.name)] == [DELIVERED] * 2

            await eventually(delivered)
    assert [post.id for post in listener.posts] == [slow, other]
