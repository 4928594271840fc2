"""Event streams: what each caller receives, where it goes on after a break, and how a stream ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.message import Message

from florin.accounts.v1 import events_pb2 as accounts_events
from florin.notifications.v1 import notification_service_pb2 as pb
from florin.notifications.v1 import webhook_pb2
from local import issuer
from local.roles import ROLES
from meshkit.errors import TokenInvalid
from meshkit.identity import Call, Principal
from notifications import retention
from notifications.arrivals import Arrivals
from notifications.resume import ResumeTokens
from notifications.streams import Streams
from tests.integration.notifications.conftest import ANNA, BEN, Service, connected, opened, refused, serving, started
from tests.support.parts import eventually

Stream = Any
"""A call that gives events."""


@asynccontextmanager
async def following(service: Service, token: str = "", types: Sequence[str] = (), **who: Any) -> AsyncIterator[Stream]:
    """A stream whose position is fixed; hung up on at the end."""
    request = pb.StreamEventsRequest(resume_token=token, event_types=types)
    call: Stream = service.stub.StreamEvents(request, metadata=service.metadata(**who))
    try:
        await asyncio.wait_for(call.initial_metadata(), 10)
        yield call
    finally:
        call.cancel()


async def take(stream: Stream, count: int) -> list[webhook_pb2.Event]:
    """The next events of a stream."""
    return [(await asyncio.wait_for(stream.read(), 10)).event for _ in range(count)]


def ids(events: Sequence[webhook_pb2.Event]) -> list[str]:
    """Their ids."""
    return [event.id for event in events]


async def test_a_stream_gives_what_happens_from_now_on(service: Service) -> None:
    """Nothing from before, everything after, in order, with the event itself as its contract declares it."""
    await service.tell(opened("before"))
    async with following(service) as stream:
        message = opened("a", "anna")
        told = await service.tell(message, opened("b"), opened("c"))
        events = await take(stream, 3)
    assert ids(events) == told
    assert (events[0].type, events[0].source) == ("florin.accounts.account_opened.v1", "//florin/accounts")
    assert (events[0].subject, events[0].sequence) == ("accounts/a", 1)
    unpacked = accounts_events.AccountOpened()
    assert events[0].data.Unpack(unpacked)
    assert unpacked == message


async def test_a_stream_goes_on_after_the_event_that_its_token_came_with(service: Service) -> None:
    """Neither again nor passed over, wherever the break was, and however many events a page has."""
    async with following(service) as stream:
        told = await service.tell(*(opened(f"a{number}") for number in range(230)))
        events = await take(stream, 3)
    for broken_after in (0, 2):
        async with following(service, events[broken_after].resume_token) as again:
            rest = await take(again, len(told) - broken_after - 1)
            told_later = await service.tell(opened("later"))
            assert ids(rest) == told[broken_after + 1 :]
            assert ids(await take(again, 1)) == told_later
        told += told_later


async def test_a_customer_receives_its_own_events_alone(service: Service) -> None:
    """Not another customer's, not another tenant's, and not those of a type that its scopes do not cover."""
    foreign = Service(service.parts, service.db, service.settings, service.stub)
    async with following(service, **ANNA) as anna, following(service, **BEN) as ben, following(service) as staff:
        await foreign.tell(opened("elsewhere", "anna", "ben"))
        told = await service.tell(
            opened("a", "anna"),
            opened("b", "ben"),
            accounts_events.CustomerCreated(customer="customers/anna", customers=["customers/anna"]),
            opened("c", "ben", "anna"),
            opened("d", "ben"),
        )
        assert ids(await take(staff, 5)) == told
        assert ids(await take(anna, 2)) == [told[0], told[3]]
        assert ids(await take(ben, 3)) == [told[1], told[3], told[4]]
        # A last one for each: nothing else stands before it.
        last = await service.tell(opened("z", "anna", "ben"))
        assert ids(await take(anna, 1)) == ids(await take(ben, 1)) == last


async def test_a_token_tells_a_customer_nothing_that_it_may_not_see(service: Service) -> None:
    """With the token of a colleague of the bank, a customer still receives its own events alone."""
    async with following(service) as staff:
        told = await service.tell(opened("a", "ben"), opened("b", "ben"), opened("c", "anna"))
        (first, *_) = await take(staff, 3)
    async with following(service, first.resume_token, **ANNA) as anna:
        assert ids(await take(anna, 1)) == told[2:]


@pytest.mark.parametrize(
    ("types", "wanted"),
    [
        (["florin.accounts.customer_created.v1"], [1]),
        (["florin.accounts.*"], [0, 1]),
        (["florin.accounts.account_opened.v1", "florin.compliance.*"], [0]),
    ],
)
async def test_a_stream_can_ask_for_types(service: Service, types: list[str], wanted: list[int]) -> None:
    """By name or by beginning; what is between is passed by, and its position too."""
    messages: list[Message] = [opened("a"), accounts_events.CustomerCreated(customer="customers/anna")]
    async with following(service, types=types) as stream:
        told = [(await service.tell(message))[0] for message in messages]
        events = await take(stream, len(wanted))
        assert ids(events) == [told[number] for number in wanted]
    async with following(service, events[-1].resume_token, types) as stream:
        told = [(await service.tell(message))[0] for message in messages]
        assert ids(await take(stream, len(wanted))) == [told[number] for number in wanted]


async def test_a_type_that_nobody_knows_is_refused(service: Service) -> None:
    """A stream for it would be silent for ever."""
    for unknown in ("florin.nothing.*", "florin.accounts.tenant_created.v1"):
        async with refused("EVENT_TYPE_UNKNOWN"), following(service, types=[unknown]) as stream:
            await take(stream, 1)


async def test_a_token_of_another_tenant_or_none_at_all_is_refused(service: Service) -> None:
    """It is bound to its tenant, and cannot be made up or changed."""
    async with following(service) as stream:
        await service.tell(opened())
        (event,) = await take(stream, 1)
    foreign = Service(service.parts, service.db, service.settings, service.stub)
    token = event.resume_token
    changed = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    for who, given in ((foreign, token), (service, changed), (service, "made-up"), (service, "1"), (service, "ä")):
        async with refused("RESUME_TOKEN_INVALID"), following(who, given) as stream:
            await take(stream, 1)


async def test_a_token_whose_events_went_is_expired(service: Service, notifications_database: str) -> None:
    """Rather than events being missed without a word; the last token before what is kept still works."""
    async with following(service) as stream:
        await service.tell(opened("a"), opened("b"))
        first, second = await take(stream, 2)
    await age(service, notifications_database, timedelta(hours=2))
    await retention.purge_once(service.db, 1)
    told = await service.tell(opened("c"))
    async with refused("RESUME_TOKEN_EXPIRED"), following(service, first.resume_token) as stream:
        await take(stream, 1)
    async with following(service, second.resume_token) as stream:
        assert ids(await take(stream, 1)) == told


async def test_a_stream_ends_with_the_token_of_its_caller(service: Service) -> None:
    """Also when nothing happens: who lost the right to see events must not see one more."""
    token = issuer.mint(service.parts.state, "operator", tenant=service.tenant, lifetime_seconds=2)
    call: Stream = service.stub.StreamEvents(pb.StreamEventsRequest(), metadata=(("authorization", f"Bearer {token}"),))
    async with refused("TOKEN_INVALID"):
        await take(call, 1)


async def test_a_withdrawn_token_ends_a_stream_between_two_events(service: Service) -> None:
    """The issuer may take back the key that signed it, long before the token's own end; a silent stream asks too."""
    stands = True

    async def verify() -> None:
        if not stands:
            raise TokenInvalid

    who = Principal(service.tenant, "colleague", None, frozenset(ROLES["operator"]))
    call = Call("m", "edge", who, "", b"", float("inf"), token_stands=verify)
    streams = Streams(service.db, Arrivals(), ResumeTokens(service.db.cipher), poll_seconds=0.05, streams_max=1)
    stream = streams.follow(call, await streams.begin(call, ""), ())
    (told, _) = await service.tell(opened("a"), opened("b"))
    assert (await anext(stream)).event.id == told
    stands = False
    with pytest.raises(TokenInvalid):
        await anext(stream)
    stands = True
    stream = streams.follow(call, await streams.begin(call, ""), ())
    silent = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.2)
    assert not silent.done()
    stands = False
    with pytest.raises(TokenInvalid):
        await asyncio.wait_for(silent, 10)


async def test_a_drain_ends_streams_so_that_clients_go_on_elsewhere(
    service: Service, notifications_database: str
) -> None:
    """A silent stream too, at once; at another replica its token gives what came meanwhile."""
    async with following(service) as stream:
        await service.tell(opened("a"))
        (before,) = await take(stream, 1)
    shown = await service.tell(opened("b"))
    async with contextlib.AsyncExitStack() as afterwards:
        replica = await afterwards.enter_async_context(contextlib.AsyncExitStack())
        _, port = await replica.enter_async_context(
            started(service.parts, notifications_database, stream_poll_seconds=600)
        )
        stub = await afterwards.enter_async_context(connected(service.parts, port))
        leaving = Service(service.parts, service.db, service.settings, stub, service.tenant)
        async with following(leaving, before.resume_token) as stream:
            (last,) = await take(stream, 1)
            assert [last.id] == shown
            ended = asyncio.create_task(take(stream, 1))
            await replica.aclose()
            async with refused("UNAVAILABLE"):
                await ended
    meanwhile = await service.tell(opened("c"))
    async with following(service, last.resume_token) as stream:
        assert ids(await take(stream, 1)) == meanwhile


async def test_a_replica_follows_so_many_streams_and_no_more(service: Service, notifications_database: str) -> None:
    """Also when all of a replica that left come at once; one that hangs up makes room."""
    async with serving(service.parts, notifications_database, streams_max=2) as (_, stub):
        crowded = Service(service.parts, service.db, service.settings, stub, service.tenant)

        async def one_more() -> bool:
            try:
                async with following(crowded) as stream:
                    await service.tell(opened())
                    return len(await take(stream, 1)) == 1
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                return False

        async with contextlib.AsyncExitStack() as stack:
            streams = await asyncio.gather(*(stack.enter_async_context(following(crowded)) for _ in range(10)))
            await service.tell(opened())
            outcomes = await asyncio.gather(*(take(stream, 1) for stream in streams), return_exceptions=True)
            followed = [one for one, outcome in zip(streams, outcomes, strict=True) if isinstance(outcome, list)]
            assert len(followed) == 2
            assert not await one_more()
            followed[0].cancel()
            await eventually(one_more)


@asynccontextmanager
async def as_owner(service: Service, database: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection with the rights of the tables' owner, for the service's tenant."""
    url = service.parts.url(database, f"{database}_owner").set(drivername="postgresql")
    dsn = url.render_as_string(hide_password=False)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as owner:
        await owner.execute("SELECT set_config('florin.tenants', %s, false)", (service.tenant,))
        yield owner


async def age(service: Service, database: str, by: timedelta) -> None:
    """Makes the tenant's events older than they are, as only the owner of the table can."""
    async with as_owner(service, database) as owner:
        changed = await owner.execute(
            "UPDATE events SET create_time = create_time - %s WHERE tenant = %s", (by, service.tenant)
        )
        assert changed.rowcount
