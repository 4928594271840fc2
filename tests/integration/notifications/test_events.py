"""Events from a publisher's outbox over a real broker to streams and webhooks, kept once, in order, and purged."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from google.protobuf.message import Message
from pydantic import ValidationError

from accounts.settings import Settings as AccountsSettings
from florin.accounts.v1 import events_pb2 as accounts_events
from meshkit import clock, outbox
from meshkit.bus import Bus
from meshkit.database import Database
from meshkit.outbox import Event, Relay
from notifications import retention
from notifications.settings import Settings
from tests.integration.notifications.conftest import DELIVERED, Service, incoming, opened, serving
from tests.integration.notifications.listener import Listener
from tests.integration.notifications.test_streams import age, as_owner, following, ids, take
from tests.support import parts as real
from tests.support.parts import eventually


@dataclass(slots=True)
class Publisher:
    """Accounts' outbox and its relay."""

    db: Database
    bus: Bus
    tenant: str

    async def tell(self, aggregate: str, *versions: int, message: Message | None = None) -> list[str]:
        """Writes events of an aggregate; gives their ids."""
        events = [
            Event(self.tenant, aggregate, version, message or opened(aggregate, "anna"), clock.now())
            for version in versions
        ]
        await self.db.run(self.tenant, lambda conn: outbox.append(conn, events))
        return [str(event.id) for event in events]


@pytest.fixture(scope="module")
def own_parts() -> Iterator[real.Parts]:
    """A broker of its own: services that other tests left running must not take these events, nor these theirs."""
    with real.running() as started:
        yield started


@pytest.fixture(scope="module")
def databases(own_parts: real.Parts) -> tuple[str, str]:
    """A database for each side."""
    return real.fresh_database(own_parts, "accounts"), real.fresh_database(own_parts, "notifications")


@pytest.fixture(scope="module")
async def whole(own_parts: real.Parts, databases: tuple[str, str]) -> AsyncIterator[Service]:
    """The whole service with all of its workers. It looks for nothing by itself while a test lasts: what the tests see
    was told to streams and to the delivery worker when it came."""
    async with (
        serving(own_parts, databases[1], workers=True, stream_poll_seconds=600, webhook_poll_seconds=600) as (
            settings,
            stub,
        ),
        Database.open(settings) as db,
    ):
        yield Service(own_parts, db, settings, stub)


@pytest.fixture
def running(whole: Service) -> Service:
    """The whole service in a new tenant."""
    return Service(whole.parts, whole.db, whole.settings, whole.stub)


@pytest.fixture
async def publisher(running: Service, databases: tuple[str, str]) -> AsyncIterator[Publisher]:
    """Accounts, telling of what happens in the test's tenant."""
    settings = real.settings_for(running.parts, AccountsSettings, databases[0])
    async with contextlib.AsyncExitStack() as stack:
        db = await stack.enter_async_context(Database.open(settings))
        bus = await stack.enter_async_context(Bus.open(settings))
        await bus.connected(10)
        relay = asyncio.create_task(Relay(db, bus, retention_hours=1).run())
        try:
            yield Publisher(db, bus, running.tenant)
        finally:
            relay.cancel()
            await asyncio.gather(relay, return_exceptions=True)


async def test_an_event_goes_from_the_outbox_to_streams_and_webhooks(
    running: Service, publisher: Publisher, listener: Listener
) -> None:
    """Its arrival wakes both; it has one id everywhere, its publisher's version and time."""
    made = await running.create(listener.url)
    async with following(running) as stream:
        told = await publisher.tell("a", 1, 2, 3)
        events = await take(stream, 3)
        posts = await listener.received(3)
    assert ids(events) == told
    assert [event.sequence for event in events] == [1, 2, 3]
    assert {post.id for post in posts} == set(told)
    by_id = {post.id: post.verified(made.secret) for post in posts}
    for event in events:
        assert by_id[event.id]["time"] == event.time.ToDatetime().isoformat() + "Z"
        assert by_id[event.id]["sequence"] == str(event.sequence)


async def test_an_event_that_is_told_again_is_kept_and_sent_once(
    running: Service, publisher: Publisher, listener: Listener
) -> None:
    """A replay of the outbox, also one that starts this consumer over, brings nobody anything twice."""
    await running.create(listener.url)
    begun = clock.now()
    async with following(running) as stream:
        told = await publisher.tell("b", 1, 2)
        await take(stream, 2)
        await eventually(lambda: _published(publisher))
        for again_for in ("", "notifications"):
            end = clock.now()
            assert await outbox.replay(publisher.db, publisher.bus, start=begun, end=end, again_for=again_for) == 2
        marker = await publisher.tell("marker", 1)
        assert ids(await take(stream, 1)) == marker
        await listener.received(3)
        assert await running.rows("SELECT event_id::text FROM events ORDER BY position") == [
            (one,) for one in [*told, *marker]
        ]
    assert sorted(post.id for post in listener.posts) == sorted([*told, *marker])


async def test_what_is_not_public_is_not_kept(running: Service, publisher: Publisher) -> None:
    """It is passed by, and holds up nothing."""
    async with following(running) as stream:
        await publisher.tell("hidden", 1, message=accounts_events.TenantCreated(tenant="tenants/x"))
        shown = await publisher.tell("shown", 1)
        assert ids(await take(stream, 1)) == shown
    assert await running.rows("SELECT event_id::text FROM events") == [(shown[0],)]


async def test_an_event_is_recorded_once_in_a_batch_and_between_batches(service: Service) -> None:
    """Two replicas that are given the same event at once make one event and one delivery of it."""
    made = await service.create("http://127.0.0.1:9/")
    event = incoming(service.tenant, opened())
    counts = await asyncio.gather(*(service.record(event, event) for _ in range(6)))
    assert sum(counts) == 1
    assert await service.rows("SELECT event_id FROM events") == [(event.id,)]
    assert [one.event_id for one in await service.deliveries(made.endpoint.name)] == [str(event.id)]


async def test_readers_pass_no_event_while_many_write(service: Service) -> None:
    """N-5: a stream under many writers at once gives every event once, in the order of the table."""
    async with following(service) as stream:
        batches = [[incoming(service.tenant, opened(f"a{one}-{two}")) for two in range(5)] for one in range(30)]
        taking = asyncio.create_task(take(stream, 150))
        await asyncio.gather(*(service.record(*batch) for batch in batches))
        given = ids(await taking)
    stored = await service.rows("SELECT event_id::text FROM events ORDER BY position")
    assert given == [row[0] for row in stored]
    for batch in batches:
        places = [given.index(str(event.id)) for event in batch]
        assert places == sorted(places)


async def test_old_events_go_with_their_deliveries_and_young_ones_stay(
    service: Service, listener: Listener, notifications_database: str
) -> None:
    """The retention removes what is past it, in that tenant alone, and a stream without a token begins after it."""
    made = await service.create(listener.url)
    other = Service(service.parts, service.db, service.settings, service.stub)
    await service.tell(opened("old"))
    async with service.delivering():
        await service.settled(made.endpoint.name, DELIVERED)
    await age(service, notifications_database, timedelta(hours=2))
    (young,) = await service.tell(opened("young"))
    (kept,) = await other.tell(opened("kept"))
    assert await retention.purge_once(service.db, 3) == 0
    assert await retention.purge_once(service.db, 1) == 1
    assert await service.rows("SELECT event_id::text FROM events") == [(young,)]
    assert await other.rows("SELECT event_id::text FROM events") == [(kept,)]
    assert [one.event_id for one in await service.deliveries(made.endpoint.name)] == [young]
    assert await service.rows("SELECT delivery FROM delivery_attempts") == []
    async with following(service) as stream:
        told = await service.tell(opened("next"))
        assert ids(await take(stream, 1)) == told


async def test_what_takes_longer_than_a_statement_may_goes_in_smaller_steps(
    service: Service, notifications_database: str
) -> None:
    """With many endpoints an event takes many deliveries along; the retention does not stand still for it."""
    slow = """
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.05); RETURN OLD; END $$;
        CREATE TRIGGER slow BEFORE DELETE ON deliveries FOR EACH ROW EXECUTE FUNCTION slow()
    """
    await service.create("http://127.0.0.1:9/")
    await service.tell(*(opened(f"a{number}") for number in range(12)))
    await age(service, notifications_database, timedelta(hours=2))
    settings = service.settings.model_copy(update={"database_statement_timeout_ms": 400})
    async with as_owner(service, notifications_database) as owner, Database.open(settings) as db:
        await owner.execute(slow)
        try:
            assert await retention.purge_once(db, 1, at_most=16) == 12
        finally:
            await owner.execute("DROP TRIGGER slow ON deliveries; DROP FUNCTION slow()")
    assert await service.rows("SELECT position FROM events") == []


async def test_settings_whose_attempts_outlive_their_events_stop_the_start(
    service: Service, notifications_database: str
) -> None:
    """A delivery would be gone before its last attempt, and nobody would be told that it failed."""
    values = {"webhook_attempts_max": 8, "webhook_backoff_max_seconds": 86_401}
    with pytest.raises(ValidationError, match="gone before its last attempt"):
        real.settings_for(service.parts, Settings, notifications_database, **values)
    with pytest.raises(ValidationError, match="gone before its last attempt"):
        real.settings_for(service.parts, Settings, notifications_database, event_retention_hours=155)
    real.settings_for(service.parts, Settings, notifications_database, event_retention_hours=169, **values)


async def test_no_setting_lets_the_service_remove_what_is_younger_than_an_hour(service: Service) -> None:
    """The database has the last word: the service's role removes events through its owner's function alone."""
    (event_id,) = await service.tell(opened())
    assert await retention.purge_once(service.db, 0) == 0
    with pytest.raises(Exception, match="permission denied"):
        await service.rows("DELETE FROM events RETURNING event_id")
    assert await service.rows("SELECT event_id::text FROM events") == [(event_id,)]


async def test_a_type_of_a_newer_release_is_passed_by(service: Service) -> None:
    """A replica that does not know a type yet records the others of the batch."""
    known = incoming(service.tenant, opened())
    unknown = replace(known, id=uuid.uuid4(), type="florin.accounts.account_renamed.v1")
    await service.record(unknown, known)
    assert await service.rows("SELECT event_id FROM events") == [(known.id,)]


async def _published(publisher: Publisher) -> bool:
    async def work(conn: object) -> int:
        statement = "SELECT count(*) FROM outbox_waiting"
        return int((await conn.exec_driver_sql(statement)).scalar_one())  # type: ignore[attr-defined]

    return await publisher.db.run(publisher.tenant, work, read_only=True) == 0
