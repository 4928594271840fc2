"""From outbox to inbox over a real broker: order, once each, dead letters, replays, a broker that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import nats.errors
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.settings import Settings as AccountsSettings
from compliance.settings import Settings as ComplianceSettings
from florin.accounts.v1 import events_pb2
from local.nats import operator
from meshkit import clock, dead_letters, inbox, outbox
from meshkit.bus import Bus
from meshkit.database import Database
from meshkit.envelopes import Incoming
from meshkit.errors import Unavailable
from meshkit.outbox import Event, OutboxRow, Relay
from tests.support import parts as real
from tests.support.parts import eventually


@dataclass(slots=True)
class Path:
    """A publisher (accounts) and a consumer (compliance), each with its own database and identity."""

    parts: real.Parts
    publisher: Database
    consumer: Database
    publisher_bus: Bus
    consumer_bus: Bus
    handled: list[Incoming] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)
    """Aggregates whose events cannot be handled."""
    failures: Counter[str] = field(default_factory=Counter)
    """How often they were tried."""
    unavailable: int = 0
    """How often the handler is still to find its database away."""
    tenant: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:12]}")

    async def tell(self, aggregate: str, *versions: int) -> None:
        """Writes events of an aggregate into the publisher's outbox, in one transaction."""
        await self.tell_together(*((aggregate, version) for version in versions))

    async def tell_together(self, *told: tuple[str, int]) -> None:
        """Writes events (aggregate, version) in one transaction: of several aggregates they travel in one message."""
        events = [
            Event(
                tenant=self.tenant,
                aggregate=aggregate,
                version=version,
                message=events_pb2.CustomerCreated(customer=aggregate),
                time=clock.now(),
            )
            for aggregate, version in told
        ]
        await self.publisher.run(self.tenant, lambda conn: outbox.append(conn, events))

    async def handle(self, conn: AsyncConnection, events: Sequence[Incoming]) -> None:
        """What the consumer does: it notes its own tenant's events, or fails."""
        if self.unavailable:
            self.unavailable -= 1
            raise Unavailable("the database")
        for event in events:
            if event.aggregate in self.poison:
                self.failures[event.aggregate] += 1
                raise ValueError("poison")
        self.handled.extend(event for event in events if event.tenant == self.tenant)

    def seen(self, aggregate: str) -> list[int]:
        """The versions of an aggregate in the order in which they were handled."""
        return [event.version for event in self.handled if event.aggregate == aggregate]

    @asynccontextmanager
    async def working(self, gap_seconds: float = 1) -> AsyncIterator[None]:
        """Relay and consumer run."""
        consumer = inbox.Consumer(
            self.consumer_bus,
            self.consumer,
            stream="accounts",
            durable="compliance",
            handle=self.handle,
            gap_seconds=gap_seconds,
        )
        tasks = [
            asyncio.create_task(Relay(self.publisher, self.publisher_bus, retention_hours=1).run()),
            asyncio.create_task(consumer.run()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(scope="module")
def parts() -> Iterator[real.Parts]:
    """A broker of its own: services that other tests left running must not take these events."""
    with real.running() as started:
        yield started


@pytest.fixture(scope="module")
def databases(parts: real.Parts) -> tuple[str, str]:
    """A database for each side."""
    return real.fresh_database(parts, "accounts"), real.fresh_database(parts, "compliance")


@pytest.fixture
async def path(parts: real.Parts, databases: tuple[str, str]) -> AsyncIterator[Path]:
    """Both sides, connected."""
    sender = real.settings_for(parts, AccountsSettings, databases[0])
    receiver = real.settings_for(parts, ComplianceSettings, databases[1])
    async with contextlib.AsyncExitStack() as stack:
        made = Path(
            parts,
            await stack.enter_async_context(Database.open(sender)),
            await stack.enter_async_context(Database.open(receiver)),
            await stack.enter_async_context(Bus.open(sender)),
            await stack.enter_async_context(Bus.open(receiver)),
        )
        await made.publisher_bus.connected(10)
        await made.consumer_bus.connected(10)
        yield made


async def test_events_arrive_once_each_and_in_order_per_aggregate(path: Path) -> None:
    """Two relays and two consumers, as two replicas have them, give every event once."""
    async with path.working(), path.working():
        for version in range(1, 21):
            await path.tell("customers/one", version)
            await path.tell("customers/two", version)
        await eventually(lambda: _has(path, "customers/one", 20))
        await eventually(lambda: _has(path, "customers/two", 20))
    assert path.seen("customers/one") == list(range(1, 21))
    assert path.seen("customers/two") == list(range(1, 21))


async def test_an_event_that_cannot_be_handled_goes_to_the_dead_letters_and_comes_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds up nobody else; sent once more it reaches the consumer that gave it up, although newer ones passed."""
    monkeypatch.setattr(inbox, "_FAILURES_MAX", 2)
    path.poison.add("customers/poison")
    async with path.working():
        await path.tell("customers/poison", 1)
        await path.tell("customers/fine", 1)
        await eventually(lambda: _has(path, "customers/fine", 1))
        async with operator(path.parts.state, path.parts.nats_port) as jetstream:
            (letter,) = await eventually(lambda: letters(jetstream, path.tenant), 20)
            assert (letter.consumer, letter.stream, letter.failure) == ("compliance", "accounts", "ValueError")
            path.poison.clear()
            await path.tell("customers/poison", 2)
            await eventually(lambda: _has(path, "customers/poison", 1))
            assert path.seen("customers/poison") == [2]
            await dead_letters.redrive(jetstream, letter)
            await eventually(lambda: _has(path, "customers/poison", 2))
            assert path.seen("customers/poison") == [2, 1]
            assert await letters(jetstream, path.tenant) == []


async def test_of_a_message_with_many_only_what_cannot_be_handled_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others in it are handled once; the dead letter holds that event alone, and it comes back."""
    monkeypatch.setattr(inbox, "_FAILURES_MAX", 2)
    path.poison.add("customers/3")
    names = [f"customers/{number}" for number in range(10)]
    async with path.working():
        await path.tell_together(*((name, 1) for name in names))
        async with operator(path.parts.state, path.parts.nats_port) as jetstream:
            (letter,) = await eventually(lambda: letters(jetstream, path.tenant), 20)
            assert (letter.aggregate, letter.failure) == ("customers/3", "ValueError")
            path.poison.clear()
            await dead_letters.redrive(jetstream, letter)
            await eventually(lambda: _has(path, "customers/3", 1))
    assert {name: path.seen(name) for name in names} == {name: [1] for name in names}


async def test_an_event_that_waits_for_another_holds_up_none_that_came_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message comes again until it is done; the others in it are handled at once, and once. One of them that cannot
    be handled is given up by its own failures, once, however often the message comes."""
    monkeypatch.setattr(inbox, "_FAILURES_MAX", 4)  # not reached by how often the message comes
    path.poison.add("customers/bad")
    async with path.working(gap_seconds=60):
        await path.tell_together(("customers/late", 2), ("customers/early", 1), ("customers/bad", 1))
        await eventually(lambda: _has(path, "customers/early", 1))
        (first,) = await eventually(lambda: _letters_of(path), 30)
        assert path.failures["customers/bad"] >= 4
        assert path.seen("customers/late") == []
        await path.tell("customers/late", 1)
        await eventually(lambda: _has(path, "customers/late", 2), 20)
        await eventually(lambda: _acknowledged(path), 20)
        assert [letter.number for letter in await _letters_of(path)] == [first.number]
    assert (path.seen("customers/late"), path.seen("customers/early")) == ([1, 2], [1])
    early, _, late = path.handled
    assert early.stream_sequence == late.stream_sequence  # or this test shows nothing


async def test_a_consumer_told_to_start_over_handles_what_shared_a_message_with_a_failure_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent again for one consumer passes its inbox, so it must not come again because of another event."""
    monkeypatch.setattr(inbox, "_FAILURES_MAX", 3)
    begun = clock.now()
    async with path.working():
        await path.tell_together(*((f"customers/again{number}", 1) for number in range(5)))
        await eventually(lambda: _has(path, "customers/again4", 1))
        await eventually(lambda: _all_published(path))
        path.poison.add("customers/again2")
        again = await outbox.replay(
            path.publisher, path.publisher_bus, start=begun, end=clock.now(), again_for="compliance"
        )
        assert again == 5
        await eventually(lambda: _letters_of(path), 20)
        await eventually(lambda: _acknowledged(path), 20)
    assert [len(path.seen(f"customers/again{number}")) for number in range(5)] == [2, 2, 1, 2, 2]


async def test_what_a_consumer_did_not_get_to_comes_again_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a fetch takes too long, or its database goes away, the rest of it does not wait until the broker takes the
    consumer for dead."""
    monkeypatch.setattr(inbox, "_EVENTS_AT_ONCE", 1)
    path.unavailable = 3
    async with path.working():
        started = time.monotonic()
        for number in range(6):  # a message each
            await path.tell(f"customers/rest{number}", 1)
        for number in range(6):
            await eventually(lambda number=number: _has(path, f"customers/rest{number}", 1), 20)  # type: ignore[misc]
        assert time.monotonic() - started < 7  # it would be taken for dead after 8
    assert path.unavailable == 0


async def test_an_event_is_not_passed_over_while_another_replica_has_what_comes_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that is slow with an event does not make the others take it for lost, however long it takes."""
    monkeypatch.setattr(outbox, "_RETELL_SECONDS", -1.0)  # the event must not come a second time
    slow = await path.consumer_bus.jetstream.pull_subscribe_bind(durable="compliance", stream="accounts")
    relay = asyncio.create_task(Relay(path.publisher, path.publisher_bus, retention_hours=1).run())
    await path.tell("customers/slow", 1)
    (held,) = await slow.fetch(1, timeout=10)
    await slow.unsubscribe()
    await eventually(lambda: _all_published(path))
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    async with path.working():
        await path.tell("customers/slow", 2)
        await path.tell("customers/other", 1)
        await eventually(lambda: _has(path, "customers/other", 1))
        # Three times as long as a gap is waited for.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(eventually(lambda: _has(path, "customers/slow", 1), 60), 3)
        await held.nak()
        await eventually(lambda: _has(path, "customers/slow", 2))
    assert path.seen("customers/slow") == [1, 2]


async def test_what_a_broker_lost_from_its_end_is_told_again_once(path: Path) -> None:
    """Events that were acknowledged and never reached the broker's disk come again when a relay starts, in order."""
    await path.publisher.run(path.tenant, _forget)
    async with path.working():
        await path.tell("customers/kept", 1)
        await eventually(lambda: _has(path, "customers/kept", 1))
        await eventually(lambda: _all_published(path))
    store = path.parts.state.root / "nats"
    with path.parts.broker_away():
        shutil.copytree(store, store.with_name("nats-before"))
    # The consumer stands still while two more are published; then the broker loses them.
    relay = asyncio.create_task(Relay(path.publisher, path.publisher_bus, retention_hours=1).run())
    await path.tell("customers/kept", 2, 3)
    await eventually(lambda: _all_published(path), 20)
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    with path.parts.broker_away():
        shutil.rmtree(store)
        store.with_name("nats-before").rename(store)
    await path.tell("customers/kept", 4)
    async with path.working():
        await eventually(lambda: _has(path, "customers/kept", 4), 20)
    assert path.seen("customers/kept") == [1, 2, 3, 4]


async def test_consumers_bind_again_to_a_broker_that_was_killed(path: Path) -> None:
    """Events that are written while it is away arrive once it is back, once each and in order."""
    async with path.working():
        await path.tell("customers/bound", 1)
        await eventually(lambda: _has(path, "customers/bound", 1))
        with path.parts.broker_away():
            await path.tell("customers/bound", 2)
        await path.tell("customers/bound", 3)
        await eventually(lambda: _has(path, "customers/bound", 3), 20)
    assert path.seen("customers/bound") == [1, 2, 3]


async def _forget(conn: AsyncConnection) -> None:
    await conn.exec_driver_sql("DELETE FROM outbox")


async def test_an_event_that_the_broker_does_not_take_holds_up_no_other(path: Path) -> None:
    """Each has its own outcome: here one that the service may not publish, one too large, and one after them."""
    subject = "florin.accounts.customer_created.v1"
    sent = [
        OutboxRow(path.tenant, number, uuid.uuid4(), subject, f"customers/{number}", 1, clock.now(), "", b"")
        for number in range(4)
    ]
    sent[1] = replace(sent[1], subject="florin.compliance.decision_made.v1")
    sent[2] = replace(sent[2], data=b"x" * 2 * 1024 * 1024)
    outcomes = await path.publisher_bus.publish_rows(sent)
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        nats.errors.TimeoutError,
        nats.errors.MaxPayloadError,
        type(None),
    ]
    with pytest.raises(Unavailable), path.parts.broker_away():
        await eventually(lambda: _disconnected(path))
        await path.publisher_bus.publish_rows(sent[:1])
    await eventually(lambda: _takes(path, sent[:1]), 20)


async def _disconnected(path: Path) -> bool:
    return not path.publisher_bus.client.is_connected


async def _takes(path: Path, rows: Sequence[OutboxRow]) -> bool:
    try:
        return await path.publisher_bus.publish_rows(rows) == [None] * len(rows)
    except Unavailable:
        return False


async def test_what_is_no_event_is_buried_and_stops_nothing(path: Path) -> None:
    """A message without a CloudEvent's headers is kept with what is wrong with it."""
    async with path.working():
        await path.publisher_bus.jetstream.publish("florin.accounts.customer_created.v1", b"junk", headers={"a": "b"})
        await path.tell("customers/after", 1)
        await eventually(lambda: _has(path, "customers/after", 1))
        async with operator(path.parts.state, path.parts.nats_port) as jetstream:
            found = await eventually(lambda: letters(jetstream, ""))
            assert "CloudEvent" in found[-1].failure
            for letter in found:
                await dead_letters.drop(jetstream, letter)


async def test_a_replay_is_skipped_by_who_saw_it_and_handled_by_who_is_named(path: Path) -> None:
    """A lost stream can be filled again without doing anything twice; one consumer can be made to start over."""
    begun = clock.now()
    async with path.working():
        await path.tell("customers/replay", 1, 2, 3)
        await eventually(lambda: _has(path, "customers/replay", 3))
        period = {"start": begun, "end": clock.now()}
        # What the relay has not marked yet is not a replay's to tell.
        await eventually(lambda: _all_published(path))
        assert await outbox.replay(path.publisher, path.publisher_bus, **period) == 3
        await path.tell("customers/marker", 1)
        await eventually(lambda: _has(path, "customers/marker", 1))
        assert path.seen("customers/replay") == [1, 2, 3]
        again = await outbox.replay(path.publisher, path.publisher_bus, **period, again_for="compliance")
        assert again == 3
        await eventually(lambda: _has(path, "customers/replay", 6))
    assert path.seen("customers/replay") == [1, 2, 3, 1, 2, 3]


async def _letters_of(path: Path) -> list[dead_letters.DeadLetter]:
    async with operator(path.parts.state, path.parts.nats_port) as jetstream:
        return await letters(jetstream, path.tenant)


async def _acknowledged(path: Path) -> bool:
    info = await path.consumer_bus.jetstream.consumer_info("accounts", "compliance")
    return not info.num_pending and not info.num_ack_pending


async def _has(path: Path, aggregate: str, count: int) -> bool:
    return len(path.seen(aggregate)) >= count


async def _all_published(path: Path) -> bool:
    async def work(conn: AsyncConnection) -> int:
        rows = await conn.exec_driver_sql("SELECT count(*) FROM outbox_waiting")
        return int(rows.scalar_one())

    return await path.publisher.run(path.tenant, work, read_only=True) == 0


async def letters(jetstream: Any, tenant: str) -> list[dead_letters.DeadLetter]:
    """The dead letters of a tenant."""
    return [letter async for letter in dead_letters.waiting(jetstream) if letter.tenant == tenant]
