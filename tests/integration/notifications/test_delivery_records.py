"""What became of an attempt is recorded as long as that can be: when the database was away, when the process ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from florin.notifications.v1 import notification_service_pb2 as pb
from florin.notifications.v1 import webhook_pb2
from meshkit import clock
from meshkit.database import ALL_TENANTS, Database
from notifications import operations
from notifications.delivery import DeliveryWorker
from notifications.model import DeliveryState, DueDelivery, Outcome, Reply
from tests.integration.notifications.conftest import DELIVERED, ENABLED, FAILED, Service, opened
from tests.integration.notifications.listener import Answer, Listener
from tests.support.parts import eventually

TRIES = 4
"""Of one transaction, before its caller is told that the database is away."""


class Connection:
    """What becomes of one database's transactions that change something."""

    def __init__(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away = False
        self.refused = 0
        self.taken = asyncio.Event()
        """A delivery worker has committed what it takes."""
        self.held: asyncio.Event | None = None
        """What it waits for before it is told so."""
        once = Database._once

        async def observed(self_: Database, scope: str, work: Any, **options: Any) -> Any:
            if self_ is not db or options["read_only"]:
                return await once(self_, scope, work, **options)
            if self.away:
                self.refused += 1
                raise psycopg.OperationalError("connection refused")
            result = await once(self_, scope, work, **options)
            if scope == ALL_TENANTS and result:
                self.taken.set()
                if self.held is not None:
                    await self.held.wait()
            return result

        monkeypatch.setattr(Database, "_once", observed)


@pytest.fixture
def connection(service: Service, monkeypatch: pytest.MonkeyPatch) -> Connection:
    """The connection of the delivery worker to its database."""
    return Connection(service.db, monkeypatch)


async def test_an_answer_is_recorded_when_the_database_is_back_and_nothing_is_sent_twice(
    service: Service, listener: Listener, connection: Connection
) -> None:
    """The receiver acknowledged while the database was away: that acknowledgement is not lost."""
    gate = asyncio.Event()
    listener.answers.append(Answer(when=gate))
    made = await service.create(listener.url)
    await service.tell(opened())
    async with service.delivering():
        await listener.received(1)
        connection.away = True
        gate.set()

        async def tried_again() -> bool:
            return connection.refused > 3 * TRIES

        await eventually(tried_again)
        connection.away = False
        delivery = await service.settled(made.endpoint.name, DELIVERED)
    assert [attempt.http_status for attempt in delivery.attempts] == [204]
    assert len(listener.posts) == 1


async def test_what_is_taken_when_a_replica_ends_is_sent_before_it_does(
    service: Service, listener: Listener, connection: Connection
) -> None:
    """Under its lease no other replica would send it for the better part of a minute."""
    made = await service.create(listener.url)
    (event_id,) = await service.tell(opened())
    connection.held = asyncio.Event()
    async with service.sending() as sender:
        task = asyncio.create_task(DeliveryWorker(service.db, sender, service.settings).run())
        await asyncio.wait_for(connection.taken.wait(), 10)
        task.cancel()
        await asyncio.sleep(0)
        connection.held.set()
        await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert [post.id for post in listener.posts] == [event_id]
    (delivery,) = await service.deliveries(made.endpoint.name)
    assert (delivery.state, len(delivery.attempts)) == (DELIVERED, 1)


@pytest.mark.parametrize("late_first", [True, False])
async def test_of_two_attempts_recorded_together_the_success_counts(service: Service, *, late_first: bool) -> None:
    """A late success and the failure of the attempt after it, in one batch and in any order."""
    made = await service.create("http://127.0.0.1:9/")
    await service.tell(opened())
    late = await _take(service)
    await service.hurry()
    later = await _take(service)
    outcomes = [
        Outcome(late, Reply(clock.now(), 204, "", 1), DeliveryState.DELIVERED, 0.0, disables_endpoint=False),
        Outcome(later, Reply(clock.now(), 503, "busy", 1), DeliveryState.PENDING, 9.0, disables_endpoint=False),
    ]
    await _settle(service, outcomes if late_first else outcomes[::-1])
    (delivery,) = await service.deliveries(made.endpoint.name)
    assert (delivery.state, len(delivery.attempts)) == (DELIVERED, 2)
    assert not delivery.HasField("next_attempt_time")
    # The answer to the COMMIT was lost: once more changes nothing.
    await _settle(service, outcomes)
    assert await service.deliveries(made.endpoint.name) == [delivery]


async def test_a_receiver_that_is_gone_does_not_disable_its_successor(service: Service, listener: Listener) -> None:
    """The endpoint was pointed elsewhere while the 410 was on its way."""
    gate = asyncio.Event()
    listener.answers.append(Answer(410, when=gate))
    made = await service.create(listener.url)
    await service.tell(opened())
    async with service.delivering():
        await listener.received(1)
        wanted = webhook_pb2.WebhookEndpoint(name=made.endpoint.name, url=listener.url + "/new")
        await service.call("UpdateWebhookEndpoint", pb.UpdateWebhookEndpointRequest(endpoint=wanted))
        gate.set()
        await service.settled(made.endpoint.name, FAILED)
    assert (await service.endpoint(made.endpoint.name)).state == ENABLED


async def _take(service: Service) -> DueDelivery:
    async def work(conn: AsyncConnection) -> list[DueDelivery]:
        return await operations.take_deliveries(conn, limit=1, per_endpoint=1, busy={}, lease_seconds=60)

    (taken,) = await service.db.run(ALL_TENANTS, work)
    return taken


async def _settle(service: Service, outcomes: Sequence[Outcome]) -> None:
    await service.db.run(service.tenant, lambda conn: operations.settle_deliveries(conn, outcomes))
