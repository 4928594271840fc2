"""Accounts that are followed: what a client receives, where it goes on after a break, and how a stream ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from accounts import entry_store, posting
from accounts.app import build
from accounts.book import Release
from accounts.model import AccountType, Balance, Entry
from accounts.posting import Item
from accounts.settings import Settings
from accounts.watches import Watches
from florin.accounts.v1 import account_pb2
from florin.accounts.v1 import account_service_pb2 as account_pb
from florin.accounts.v1 import balance_service_pb2 as pb
from florin.accounts.v1.account_service_pb2_grpc import AccountServiceStub
from florin.accounts.v1.balance_service_pb2_grpc import BalanceServiceStub
from local import issuer
from meshkit import lifecycle
from meshkit.database import Database
from meshkit.errors import Overloaded, TokenInvalid
from meshkit.identity import Call, Principal
from tests.integration.accounts.conftest import FUNDER, Ledger, Service, channel, refusal
from tests.integration.accounts.test_limits import funded
from tests.support.parts import eventually

Stream = Any
"""A call that gives what changes."""


@asynccontextmanager
async def following(
    service: Service, name: str = "main", after: int | None = None, stub: Any = None, **who: Any
) -> AsyncIterator[Stream]:
    """A stream whose position is fixed; hung up on at the end."""
    request = pb.WatchAccountRequest(name=f"accounts/{name}")
    if after is not None:
        request.after_sequence = after
    metadata = service.token(who.pop("role", "auditor"), **who)
    call: Stream = (stub or service.balances).WatchAccount(request, metadata=metadata)
    try:
        await asyncio.wait_for(call.initial_metadata(), 10)
        yield call
    finally:
        call.cancel()


async def take(stream: Stream) -> pb.WatchAccountResponse:
    """The next message of a stream."""
    message = await asyncio.wait_for(stream.read(), 10)
    assert message is not grpc.aio.EOF
    return message  # type: ignore[no-any-return]


async def entries(stream: Stream, count: int) -> list[int]:
    """The amounts of the next entries, in however many messages they come."""
    found: list[int] = []
    while len(found) < count:
        message = await take(stream)
        found += [entry.amount.minor_units for entry in message.entries]
        assert not message.entries or message.sequence == message.entries[-1].sequence
        assert not message.HasField("balance") or message.balance.sequence == message.sequence
    return found


async def fund(service: Service, *amounts: int) -> None:
    """Credits "main", one after the other."""
    for amount in amounts:
        await service.call("FundAccount", service.fund("main", amount, f"f{amount}"))


async def test_a_stream_begins_with_the_balance_and_gives_every_entry(service: Service, db: Database) -> None:
    """Nothing from before, everything after, with the balance after it."""
    await funded(service, db)
    async with following(service) as stream:
        first = await take(stream)
        assert (list(first.entries), first.balance.posted.minor_units, first.sequence) == ([], 100, 1)
        await fund(service, 5)
        news = await take(stream)
        assert [entry.amount.minor_units for entry in news.entries] == [5]
        assert (news.balance.posted.minor_units, news.balance.sequence, news.sequence) == (105, 2, 2)
        await fund(service, 6, 7)
        assert await entries(stream, 2) == [6, 7]


async def test_a_stream_goes_on_after_its_sequence_wherever_the_break_was(service: Service, db: Database) -> None:
    """No entry is lost and none comes twice, over any number of messages; 0 is from the first on."""
    await funded(service, db)
    amounts = list(range(1, 8))
    await fund(service, *amounts)
    everything = [100, *amounts]
    for after in (0, 3, 7):
        async with following(service, after=after) as stream:
            assert await entries(stream, 8 - after) == everything[after:]
    async with following(service, after=8) as stream:
        (quiet,) = [await take(stream)]
        assert (list(quiet.entries), quiet.sequence) == ([], 8)
        await fund(service, 99)
        assert await entries(stream, 1) == [99]


async def test_a_long_history_comes_in_parts_with_the_balance_at_its_end(service: Service, ledger: Ledger) -> None:
    """A message holds 200 entries at most; until the last of them there is no balance."""
    await ledger.open("a", type=AccountType.CUSTOMER)
    steps = [Item(ledger.post(("bank", -1), ("a", 1), actor=FUNDER)) for _ in range(450)]
    await posting.apply_steps(ledger.db, steps)
    async with following(service, "a", 0, tenant=ledger.tenant) as stream:
        messages = [await take(stream) for _ in range(3)]
    assert [len(message.entries) for message in messages] == [200, 200, 50]
    assert [message.HasField("balance") for message in messages] == [False, False, True]
    sequences = [entry.sequence for message in messages for entry in message.entries]
    assert sequences == list(range(1, 451))
    assert messages[2].balance.posted.minor_units == 450


async def test_balances_that_change_without_an_entry_are_told(service: Service, db: Database) -> None:
    """A hold, its release, a limit: the balance comes alone."""
    await funded(service, db)
    held = Ledger(db, service.tenant).place("main", 30)
    async with following(service) as stream:
        await take(stream)
        await posting.apply_steps(db, [Item(held)])  # as another replica does
        message = await take(stream)
        assert (message.balance.held.minor_units, message.balance.available.minor_units) == (30, 70)
        assert (list(message.entries), message.sequence) == ([], 1)
        await posting.apply_steps(db, [Item(Release(service.tenant, held.key))])
        assert (await take(stream)).balance.held.minor_units == 0
        account = account_pb2.Account(name="accounts/main", overdraft_limit_minor_units=7)
        change = account_pb.UpdateAccountRequest(
            account=account, update_mask=FieldMask(paths=["overdraft_limit_minor_units"])
        )
        await service.call("UpdateAccount", change, "teller")
        assert (await take(stream)).balance.available.minor_units == 107


async def test_what_comes_to_an_account_is_read_once_for_all_of_its_streams(
    service: Service, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account that many follow and that never rests would cost the payments their connections and their time."""
    reads: list[tuple[int, int]] = []
    entries_between = entry_store.entries_between

    async def counted(*args: Any, after: int, up_to: int, limit: int) -> list[Entry]:
        reads.append((after, up_to))
        return await entries_between(*args, after=after, up_to=up_to, limit=limit)

    monkeypatch.setattr(entry_store, "entries_between", counted)
    await funded(service, db)
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(following(service)) for _ in range(10)]
        for stream in streams:
            await take(stream)
        for amount in (1, 2, 3):
            await fund(service, amount)
            assert [await entries(stream, 1) for stream in streams] == [[amount]] * 10
    assert reads == [(1, 2), (2, 3), (3, 4)]


async def test_who_may_get_an_account_may_follow_it_and_nobody_else(service: Service, db: Database) -> None:
    """The owner and staff; to others, and in another tenant, it is not there."""
    await funded(service, db)
    await service.customer("other")
    async with following(service, role="customer", customer="customers/acme") as stream:
        assert (await take(stream)).balance.posted.minor_units == 100
    request = pb.WatchAccountRequest(name="accounts/main")

    async def refused(**who: Any) -> str:
        call = service.balances.WatchAccount(request, metadata=service.token(**who), timeout=5)
        return await refusal(call.read())

    assert await refused(role="customer", customer="customers/other") == "ACCOUNT_NOT_FOUND"
    assert await refused(role="auditor", tenant=f"{service.tenant}x"[:31]) == "ACCOUNT_NOT_FOUND"
    ahead = pb.WatchAccountRequest(name="accounts/main", after_sequence=2)
    call = service.balances.WatchAccount(ahead, metadata=service.token("auditor"), timeout=5)
    assert await refusal(call.read()) == "AS_OF_FUTURE"


async def test_a_stream_ends_with_the_token_of_its_caller(service: Service, db: Database) -> None:
    """Also when nothing happens: who lost the right to see an account must not see one more change."""
    await funded(service, db)
    token = issuer.mint(service.parts.state, "auditor", tenant=service.tenant, lifetime_seconds=2)
    request = pb.WatchAccountRequest(name="accounts/main")
    call: Stream = service.balances.WatchAccount(request, metadata=(("authorization", f"Bearer {token}"),))
    await take(call)
    assert await refusal(take(call)) == "TOKEN_INVALID"


@asynccontextmanager
async def replica(service: Service, settings: Settings, **changes: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Another replica on the same database, with settings of its own: its stub, and what ends it."""
    async with contextlib.AsyncExitStack() as afterwards:
        life = await afterwards.enter_async_context(contextlib.AsyncExitStack())
        made = settings.model_copy(update=changes)
        running = await life.enter_async_context(lifecycle.running(made, build))
        opened = await afterwards.enter_async_context(channel(service.parts, "edge", running.grpc_port))
        stub = BalanceServiceStub(opened)
        stub.channel = opened  # type: ignore[attr-defined]
        yield stub, life.aclose


async def test_a_drain_ends_streams_so_that_clients_go_on_elsewhere(
    service: Service, db: Database, settings: Settings
) -> None:
    """A silent stream too, at once; at another replica its sequence gives what came meanwhile."""
    await funded(service, db)
    async with (
        replica(service, settings, watch_poll_seconds=600) as (stub, leave),
        following(service, stub=stub) as stream,
    ):
        last = await take(stream)
        ended = asyncio.create_task(take(stream))
        await leave()
        assert await refusal(ended) == "UNAVAILABLE"
    await fund(service, 5)
    async with following(service, after=last.sequence) as stream:
        assert await entries(stream, 1) == [5]


async def test_what_other_replicas_post_comes_with_the_next_look(
    service: Service, db: Database, settings: Settings
) -> None:
    """A replica learns of its own commits at once and of others' by one shared look at what is followed."""
    await funded(service, db)
    async with (
        replica(service, settings, watch_poll_seconds=0.2) as (stub, _),
        following(service, stub=stub) as stream,
        following(service, stub=stub, subject="second") as second,
    ):
        await take(stream)
        await take(second)
        await fund(service, 5)
        assert await entries(stream, 1) == await entries(second, 1) == [5]


async def test_what_this_replica_posts_comes_without_a_look_at_the_clock(
    service: Service, db: Database, settings: Settings
) -> None:
    """Where the shared look is ten minutes away, a posting of the same replica still comes at once."""
    await funded(service, db)
    async with replica(service, settings, watch_poll_seconds=600) as (stub, _), following(service, stub=stub) as stream:
        await take(stream)
        same = AccountServiceStub(stub.channel)
        await same.FundAccount(service.fund("main", 5, "f"), metadata=service.token("operator"), timeout=5)
        assert await entries(stream, 1) == [5]


async def test_a_replica_follows_so_many_accounts_and_no_more(
    service: Service, db: Database, settings: Settings
) -> None:
    """For each subject and for all together, also when all come at once; one that hangs up makes room."""
    await funded(service, db)
    async with replica(service, settings, watches_max=3, watches_per_subject_max=2) as (stub, _):

        async def one_more(subject: str) -> bool:
            try:
                async with following(service, stub=stub, subject=subject) as stream:
                    await take(stream)
                    return True
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                return False

        async with contextlib.AsyncExitStack() as stack:
            streams = await asyncio.gather(
                *(stack.enter_async_context(following(service, stub=stub, subject="a")) for _ in range(6))
            )
            outcomes = await asyncio.gather(*(take(stream) for stream in streams), return_exceptions=True)
            followed = [one for one, got in zip(streams, outcomes, strict=True) if not isinstance(got, BaseException)]
            assert len(followed) == 2
            assert not await one_more("a")
            async with following(service, stub=stub, subject="b") as third:
                await take(third)
                assert not await one_more("c")
            followed[0].cancel()

            async def makes_room() -> bool:
                return await one_more("a")

            await eventually(makes_room)


async def test_nothing_is_lost_or_doubled_while_clients_break_and_money_moves(service: Service, ledger: Ledger) -> None:
    """Streams that are broken off at any message and go on by their sequence put the whole history together."""
    await ledger.open("a", 1000, type=AccountType.CUSTOMER)
    await ledger.open("b")

    async def move() -> None:
        for number in range(60):
            sign = 1 if number % 2 else -1
            await ledger.apply(*(ledger.post(("a", -sign), ("b", sign), actor=FUNDER) for _ in range(3)))

    async def follow() -> list[int]:
        seen: list[int] = []
        while len(seen) < 181:
            position = seen[-1] if seen else 0
            async with following(service, "a", position, tenant=ledger.tenant) as stream:
                for _ in range(3):
                    message = await take(stream)
                    seen += [entry.sequence for entry in message.entries]
                    if len(seen) >= 181:
                        break
        return seen

    _, *clients = await asyncio.gather(move(), follow(), follow())
    assert clients == [list(range(1, 182))] * 2


# --- the reader alone ---------------------------------------------------------------------------------------------


def caller(subject: str = "s", stands: Any = None) -> Call:
    """A call with a token that stands, or of which `stands` tells."""
    options = {} if stands is None else {"token_stands": stands}
    return Call("m", "edge", Principal("t", subject, None, frozenset()), "", b"", float("inf"), **options)


class Looks:
    """What a reader was asked for, and what it finds."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.posted = 0

    async def read(self, keys: Sequence[tuple[str, str]]) -> list[Balance | None]:
        """Answers every account with the same balance."""
        self.asked.append([account for _, account in keys])
        return [Balance("EUR", self.posted, 0, 0, self.posted) for _ in keys]


@asynccontextmanager
async def reading(looks: Looks, **changes: Any) -> AsyncIterator[Watches]:
    """A reader that runs."""
    options = {"poll_seconds": 600.0, "streams_max": 10, "subject_streams_max": 10, **changes}
    watches = Watches(looks.read, **options)
    task = asyncio.create_task(watches.run())
    try:
        yield watches
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_silent_account_costs_no_look(service: Service) -> None:
    """Any number of streams: one look when each comes, then none until something was posted or the shared look is due;
    what nobody follows is never looked at."""
    looks = Looks()
    async with reading(looks) as watches:
        watches.touched([("t", "a")])
        assert not watches.any
        with contextlib.ExitStack() as stack:
            places = [stack.enter_context(watches.place(caller(str(number)), "a")) for number in range(5)]
            seen = [await watches.next(caller(), place, None) for place in places]
            assert looks.asked == [["a"]]
            waiting = [asyncio.create_task(watches.next(caller(), places[0], seen[0])) for _ in range(3)]
            watches.touched([("t", "b"), ("other", "a")])
            looks.posted = 5
            watches.touched([("t", "a"), ("t", "b")])
            assert [balance.posted for balance in await asyncio.gather(*waiting)] == [5, 5, 5]
            assert looks.asked == [["a"], ["a"]]
        assert not watches.any
        watches.touched([("t", "a")])


async def test_a_withdrawn_token_ends_a_stream_at_its_next_look(service: Service) -> None:
    """The issuer may take back the key that signed it, long before the token's own end."""
    stands = [True]

    async def verify() -> None:
        if not stands[0]:
            raise TokenInvalid

    looks = Looks()
    async with reading(looks) as watches:
        call = caller(stands=verify)
        with watches.place(call, "a") as place:
            balance = await watches.next(call, place, None)
            stands[0] = False
            with pytest.raises(TokenInvalid):
                await watches.next(call, place, balance)


async def test_a_reader_that_failed_goes_on_with_all_that_is_followed(service: Service) -> None:
    """The worker is started again; whoever waits gets what it missed with the shared look."""
    looks = Looks()
    watches = Watches(looks.read, poll_seconds=0.05, streams_max=1, subject_streams_max=1)
    with watches.place(caller(), "a") as place:
        with pytest.raises(Overloaded), watches.place(caller(), "b"):
            pass
        task = asyncio.create_task(watches.run())
        first = await watches.next(caller(), place, None)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        looks.posted = 7
        task = asyncio.create_task(watches.run())
        assert (await watches.next(caller(), place, first)).posted == 7
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
