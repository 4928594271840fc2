"""What replicas do to each other's deliveries, and what is sent again after one of them died."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from florin.notifications.v1 import notification_service_pb2 as pb
from meshkit.database import Database
from notifications import operations
from notifications.delivery import DeliveryWorker
from notifications.model import Reply
from tests.integration.notifications.conftest import DELIVERED, PENDING, Service, opened
from tests.integration.notifications.listener import Answer, Listener
from tests.support.parts import eventually


class Watched:
    """A sender that is watched; its process dies when the receiver's answer is there, if it is told so."""

    def __init__(self, sender: operations.Sender, *, dies: bool = False) -> None:
        self._sender = sender
        self._dies = dies
        self.sent = 0
        self.answered = asyncio.Event()

    async def check_url(self, url: str) -> None:
        await self._sender.check_url(url)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        self.sent += 1
        reply = await self._sender.send(url, headers, body)
        self.answered.set()
        if self._dies:
            await asyncio.Event().wait()
        return reply


async def test_two_replicas_deliver_every_event_once(service: Service, listener: Listener) -> None:
    """Both take part, as the receiver answers nobody before more came than one replica may have on its way."""
    at_once = service.settings.webhook_endpoint_concurrency_max
    gate = asyncio.Event()
    listener.usual = Answer(when=gate)
    made = await service.create(listener.url)
    ids = await service.tell(*(opened(f"a{number}") for number in range(80)))
    async with Database.open(service.settings) as other_db, service.sending() as sender:
        senders = [Watched(sender), Watched(sender)]
        workers = [
            DeliveryWorker(db, watched, service.settings)
            for db, watched in zip((service.db, other_db), senders, strict=True)
        ]
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        try:
            await listener.received(2 * at_once)
            assert [watched.sent for watched in senders] == [at_once, at_once]
            gate.set()
            await listener.received(len(ids))
            await eventually(lambda: _all_delivered(service, made.endpoint.name))
        finally:
            gate.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert Counter(post.id for post in listener.posts) == dict.fromkeys(ids, 1)


async def test_what_was_sent_by_a_replica_that_died_is_sent_again_under_the_same_id(
    service: Service, listener: Listener
) -> None:
    """The receiver had answered, and nobody wrote it down: not before the lease is over, and not a third time."""
    made = await service.create(listener.url)
    (event_id,) = await service.tell(opened())
    async with service.sending() as sender:
        dying = Watched(sender, dies=True)
        async with service.delivering(dying, webhook_timeout_seconds=0.2):
            await asyncio.wait_for(dying.answered.wait(), 10)
    (waiting,) = await service.deliveries(made.endpoint.name)
    assert (waiting.state, len(waiting.attempts), len(listener.posts)) == (PENDING, 0, 1)
    async with service.delivering():
        # Another event passes by the one that the dead replica holds.
        (marker,) = await service.tell(opened("marker"))
        await listener.received(2)
        await service.hurry()
        await listener.received(3)
        await eventually(lambda: _all_delivered(service, made.endpoint.name))
    assert [post.id for post in listener.posts] == [event_id, marker, event_id]
    for post in listener.posts:
        post.verified(made.secret)


async def test_a_late_failure_changes_nothing_of_what_another_replica_has_delivered(
    service: Service, listener: Listener
) -> None:
    """The lease had passed on; the attempt is kept in the log all the same."""
    late = asyncio.Event()
    listener.answers.extend([Answer(500, when=late), Answer(204)])
    made = await service.create(listener.url)
    await service.tell(opened())
    async with service.delivering(webhook_endpoint_concurrency_max=1):
        await listener.received(1)
        # The first replica has no room for it, so the second one takes it.
        async with service.delivering():
            await service.hurry()
            await service.settled(made.endpoint.name, DELIVERED)
            late.set()
            delivery = await service.settled(made.endpoint.name, DELIVERED, attempts=2)
    assert [attempt.http_status for attempt in delivery.attempts] == [500, 204]


async def test_a_late_success_counts_although_the_lease_was_lost(service: Service, listener: Listener) -> None:
    """The receiver has the event, so the attempt that another replica would make next is not made."""
    late = asyncio.Event()
    listener.answers.extend([Answer(204, when=late), Answer(503, {"retry-after": "3600"})])
    made = await service.create(listener.url)
    await service.tell(opened())
    async with service.delivering(webhook_endpoint_concurrency_max=1):
        await listener.received(1)
        # The first replica has no room for it, so the second one takes it.
        async with service.delivering():
            await service.hurry()
            await service.settled(made.endpoint.name, PENDING)
            late.set()
            delivery = await service.settled(made.endpoint.name, DELIVERED, attempts=2)
    assert not delivery.HasField("next_attempt_time")
    assert len(listener.posts) == 2


async def test_a_replay_leaves_alone_what_is_on_its_way(service: Service, listener: Listener) -> None:
    """A delivery under a lease is being sent already; it is not sent a second time for the replay."""
    gate = asyncio.Event()
    listener.answers.append(Answer(when=gate))
    made = await service.create(listener.url)
    await service.tell(opened())
    async with service.delivering():
        await listener.received(1)
        (delivery,) = await service.deliveries(made.endpoint.name)
        request = pb.ReplayDeliveriesRequest(endpoint=made.endpoint.name, delivery=delivery.name)
        assert (await service.call("ReplayDeliveries", request)).replayed_count == 1
        # The worker has looked again when another event went by.
        await service.tell(opened("marker"))
        await eventually(lambda: service.deliveries(made.endpoint.name, state=DELIVERED))
        gate.set()
        await eventually(lambda: _all_delivered(service, made.endpoint.name))
    assert len(listener.posts) == 2


async def test_a_slow_receiver_does_not_hold_up_another(service: Service, listener: Listener) -> None:
    """An endpoint has a bounded share of a replica; the rest is for the others."""
    gate = asyncio.Event()
    listener.usual = Answer(when=gate)
    await service.create(listener.url + "/slow")
    await service.tell(*(opened(f"a{number}") for number in range(20)))
    bound = service.settings.webhook_endpoint_concurrency_max
    async with service.delivering(webhook_concurrency_max=bound + 1):
        await listener.received(bound)
        quick = await service.create(listener.url + "/quick")
        listener.answers.append(Answer())
        await service.tell(opened("b"))
        await service.settled(quick.endpoint.name)
        assert [post.path for post in listener.posts] == ["/hooks/slow"] * bound + ["/hooks/quick"]
        gate.set()


async def _all_delivered(service: Service, endpoint: str) -> bool:
    return all(one.state == DELIVERED for one in await service.deliveries(endpoint))
