"""Transfers on an open stream, over gRPC with real identities: answers, bounds, bad items, breaks, ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from local import issuer
from meshkit.errors import TokenInvalid, error_info
from tests.integration.transactions.conftest import Replica, Service, call_of, order, served
from tests.support.parts import Parts, eventually
from tests.unit.transactions.making import transfer
from transactions import store, streams
from transactions.streams import Answer, Asked, Streams

COMPLETED = transfer_pb2.TRANSFER_STATE_COMPLETED
METHOD = "/florin.transactions.v1.TransferService/StreamTransfers"


@dataclass
class Client:
    """One open stream, and what came on it."""

    call: Any
    answers: list[pb.StreamTransfersResponse] = field(default_factory=list)

    async def send(self, *requests: pb.CreateTransferRequest, **more: Any) -> None:
        for request in requests:
            await self.call.write(pb.StreamTransfersRequest(transfer=request, **more).SerializeToString())

    async def read(self, count: int = 1) -> list[pb.StreamTransfersResponse]:
        """The next answers."""
        got = [pb.StreamTransfersResponse.FromString(await self.call.read()) for _ in range(count)]
        self.answers += got
        return got

    async def rest(self) -> list[pb.StreamTransfersResponse]:
        """Everything up to the end, which has to be OK."""
        while (data := await self.call.read()) is not grpc.aio.EOF:
            self.answers.append(pb.StreamTransfersResponse.FromString(data))
        assert await self.call.code() is grpc.StatusCode.OK
        return self.answers

    async def refusal(self) -> tuple[str, str, dict[str, str]]:
        """How the stream ended, when its service ended it: code, reason, metadata; what came before is kept."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            while (data := await self.call.read()) is not grpc.aio.EOF:
                self.answers.append(pb.StreamTransfersResponse.FromString(data))
        error = grpc.aio.AioRpcError(
            await self.call.code(),
            await self.call.initial_metadata(),
            await self.call.trailing_metadata(),
            await self.call.details(),
        )
        status = rpc_status.from_call(error)
        info = error_info(status) if status is not None else None
        return error.code().name, info.reason if info else "", dict(info.metadata) if info else {}


@contextlib.asynccontextmanager
async def stream(
    service: Service, *, role: str = "teller", seconds: float | None = 30, **who: Any
) -> AsyncIterator[Client]:
    """A stream of a role; messages go and come as bytes, so that broken ones can be sent."""
    token = issuer.mint(service.state, role, **{"tenant": "service", **who})
    call = service.channel.stream_stream(METHOD)(metadata=(("authorization", f"Bearer {token}"),), timeout=seconds)
    try:
        yield Client(call)
    finally:
        call.cancel()


def reason(answer: pb.StreamTransfersResponse) -> str:
    info = error_info(answer.status) if answer.HasField("status") else None
    return info.reason if info is not None else ""


async def test_each_item_is_answered_once_and_the_stream_ends_after_the_last(service: Service) -> None:
    """Three hundred transfers, all answered under their request_id and place; OK once the client closed its side."""
    requests = [order() for _ in range(300)]
    async with stream(service) as client:
        await client.send(*requests)
        await client.call.done_writing()
        answers = await client.rest()
    assert sorted(answer.position for answer in answers) == list(range(1, 301))
    assert {answer.position: answer.request_id for answer in answers} == {
        number: request.request_id for number, request in enumerate(requests, 1)
    }
    assert {answer.transfer.state for answer in answers} == {COMPLETED}
    assert service.ledger.journals.total() == 300


async def test_an_answer_comes_while_the_stream_stays_open(service: Service) -> None:
    """Nothing waits for the end of the stream, nor for the next message."""
    async with stream(service) as client:
        for _ in range(3):
            await client.send(order())
            (answer,) = await client.read()
            assert answer.transfer.state == COMPLETED


async def test_a_bad_item_is_refused_and_the_others_go_on(service: Service) -> None:
    """Bytes that are no message, broken rules, no request_id, a preview, a stranger's account, no funds: each is told
    so in its place, with a stored refusal's transfer, and the sound ones around them are paid."""
    first, last = order(), order()
    poor = order(debit_account="accounts/b", credit_account="accounts/a", amount=_eur(9_000_000_00))
    async with stream(service) as client:
        await client.send(first)
        await client.call.write(b"\xff\xff\xff")
        await client.call.write(b"")
        await client.send(
            order(amount=_eur(0)),
            order(request_id=""),
            order(validate_only=True),
            order(creditor_name="a\0b"),
            order(debit_account="iban:DE89370400440532013001"),
            order(credit_account="accounts/nobody"),
            poor,
            last,
        )
        await client.call.done_writing()
        answers = {answer.position: answer for answer in await client.rest()}
    assert [reason(answers[number]) for number in range(1, 12)] == [
        "",
        "REQUEST_INVALID",
        "REQUEST_INVALID",
        "REQUEST_INVALID",
        "REQUEST_INVALID",
        "REQUEST_INVALID",
        "REQUEST_INVALID",
        "IDENTIFIER_INVALID",
        "ACCOUNT_NOT_FOUND",
        "PAYMENT_DECLINED",
        "",
    ]
    assert answers[10].transfer.state == transfer_pb2.TRANSFER_STATE_DECLINED
    assert answers[1].transfer.request_id == first.request_id
    assert answers[11].transfer.request_id == last.request_id


def _eur(minor_units: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code="EUR", minor_units=minor_units)


async def test_a_broken_stream_is_gone_on_with_and_doubles_nothing(service: Service) -> None:
    """A client that lost its stream sends everything again: one journal each, and the same transfers, whichever way
    they were asked for."""
    requests = [order() for _ in range(100)]
    async with stream(service) as broken:
        await broken.send(*requests)
        await broken.read(10)
    async with stream(service) as client:
        await client.send(*requests, requests[0])
        await client.call.done_writing()
        answers = await client.rest()
    assert {answer.transfer.state for answer in answers} == {COMPLETED}
    assert service.ledger.journals.total() == 100
    single = (await service.call("CreateTransfer", requests[0])).transfer
    assert single in [answer.transfer for answer in answers]
    async with stream(service) as other:
        changed = pb.CreateTransferRequest()
        changed.CopyFrom(requests[0])
        changed.amount.minor_units += 1
        await other.send(changed)
        (answer,) = await other.read()
    assert reason(answer) == "REQUEST_ID_REUSED"


async def test_a_client_that_takes_no_answers_is_not_read_any_more(replica: Replica) -> None:
    """With a bound of ten, ten messages are read of a client that takes nothing, and one more for each answer taken."""
    carrying = Streams(replica.transfers, replica.settings.model_copy(update={"stream_in_flight_max": 10}))
    sent = 0

    async def requests() -> AsyncIterator[Asked]:
        nonlocal sent
        for _ in range(30):
            sent += 1
            yield Asked("", transfer(), 5.0)

    answers = carrying.carry(replace(call_of(), deadline=float("inf")), requests(), lambda asked: asked)
    await anext(answers)
    for taken in range(1, 6):
        await asyncio.sleep(0.05)
        assert sent == 10 + taken - 1
        await anext(answers)
    assert len([answer async for answer in answers]) == 30 - 6
    assert replica.ledger.journals.total() == sent == 30


async def test_an_item_is_answered_with_its_present_state_when_its_time_is_over(service: Service) -> None:
    """While accounts is down a transfer is ACCEPTED when its time is over, no sooner; one that has time gets its end
    when accounts is back."""
    service.ledger.faults.down = True
    async with stream(service) as client:
        hasty, patient = pb.StreamTransfersRequest(transfer=order()), pb.StreamTransfersRequest(transfer=order())
        hasty.timeout.FromMilliseconds(300)
        patient.timeout.FromSeconds(20)
        started = time.monotonic()
        await client.call.write(hasty.SerializeToString())
        await client.call.write(patient.SerializeToString())
        (answer,) = await client.read()
        assert (answer.position, answer.transfer.state) == (1, transfer_pb2.TRANSFER_STATE_ACCEPTED)
        assert time.monotonic() - started >= 0.3
        service.ledger.faults.down = False
        (answer,) = await client.read()
        assert (answer.position, answer.transfer.state) == (2, COMPLETED)


async def test_a_customer_pays_from_own_accounts_alone(service: Service) -> None:
    """Who it is is decided once for the stream, what is theirs item by item."""
    async with stream(service, role="customer", customer="customers/anna") as client:
        await client.send(order(debit_account="accounts/anna"), order(debit_account="accounts/a"))
        answers = {answer.position: answer for answer in await client.read(2)}
    assert answers[1].transfer.state == COMPLETED
    assert reason(answers[2]) == "ACCOUNT_NOT_FOUND"


async def test_a_stream_needs_a_token_with_the_scope(service: Service) -> None:
    """An auditor's is refused before anything is read."""
    async with stream(service, role="auditor") as client:
        assert (await client.refusal())[:2] == ("PERMISSION_DENIED", "SCOPE_MISSING")


async def test_a_stream_does_not_outlive_its_token(service: Service) -> None:
    """It ends with TOKEN_INVALID, what it read before is answered, and nothing more is read."""
    async with stream(service, lifetime_seconds=2) as client:
        await client.send(order())
        assert await client.refusal() == ("UNAUTHENTICATED", "TOKEN_INVALID", {})
    assert [answer.transfer.state for answer in client.answers] == [COMPLETED]


async def test_one_caller_has_few_streams_and_all_together_have_not_many(parts: Parts, database: str) -> None:
    """One more is refused with the number; a place is free again as soon as a stream is gone."""
    async with served(parts, database, streams_per_subject_max=1, streams_max=2) as service:
        async with stream(service) as first:
            await first.call.initial_metadata()
            async with stream(service) as second:
                refused = await second.refusal()
                assert refused == ("RESOURCE_EXHAUSTED", "STREAM_LIMIT_REACHED", {"limit": "1"})
            async with stream(service, subject="another") as third:
                await third.call.initial_metadata()
                async with stream(service, subject="a-third") as fourth:
                    assert (await fourth.refusal())[:2] == ("RESOURCE_EXHAUSTED", "OVERLOADED")

        async def free() -> bool:
            async with stream(service) as again:
                await again.send(order())
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await again.read()
                return len(again.answers) == 1

        await eventually(free, 15)


async def test_an_idle_stream_is_ended(parts: Parts, database: str) -> None:
    """UNAVAILABLE with what was read; an item that is waited for keeps it open."""
    async with served(parts, database, stream_idle_seconds=0.3) as service, stream(service) as client:
        service.ledger.faults.down = True
        slow = pb.StreamTransfersRequest(transfer=order())
        slow.timeout.FromMilliseconds(900)
        await client.call.write(slow.SerializeToString())
        code, why, metadata = await client.refusal()
        assert (code, why, metadata["received"]) == ("UNAVAILABLE", "STREAM_ENDED", "1")
        assert len(client.answers) == 1


async def test_a_drain_answers_what_was_read_and_says_how_to_go_on(parts: Parts, database: str) -> None:
    """A replica that stops reads no further, answers all that it read, and ends with UNAVAILABLE: what was not
    answered can be sent to another one, and nothing is done twice."""
    requests = [order() for _ in range(200)]
    async with served(parts, database, drain_seconds=0, stream_in_flight_max=20) as service, stream(service) as client:
        service.ledger.faults.down = True
        await client.send(*requests)

        async def is_full() -> bool:
            return service.ledger.calls["resolve"] > 0

        await eventually(is_full, 10)
        drain = service.running.parts.on_drain
        assert drain is not None
        await drain()
        code, why, metadata = await client.refusal()
        assert (code, why) == ("UNAVAILABLE", "STREAM_ENDED")
        assert 0 < int(metadata["received"]) == len(client.answers) <= 21
        assert {answer.transfer.state for answer in client.answers} == {transfer_pb2.TRANSFER_STATE_ACCEPTED}
        async with stream(service) as late:
            assert (await late.refusal())[:2] == ("UNAVAILABLE", "STREAM_ENDED")
    answered = {answer.request_id for answer in client.answers}
    async with served(parts, database) as other, stream(other) as again:
        await again.send(*[request for request in requests if request.request_id not in answered])
        await again.call.done_writing()
        assert len(await again.rest()) + len(answered) == 200

        async def all_moved() -> bool:
            return other.ledger.journals.total() == 200

        await eventually(all_moved, 10)


async def test_a_stream_ends_before_its_callers_own_deadline(service: Service) -> None:
    """The items are answered by then, and the status is the service's."""
    service.ledger.faults.down = True
    async with stream(service, seconds=1.5) as client:
        await client.send(order(request_id=uuid.uuid4().hex))
        assert (await client.refusal())[:2] == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert [answer.transfer.state for answer in client.answers] == [transfer_pb2.TRANSFER_STATE_ACCEPTED]


async def test_a_stream_ends_when_its_token_is_withdrawn(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """The issuer may withdraw a key before its tokens end: a stream asks now and then, and answers what it read."""
    monkeypatch.setattr(streams, "_TOKEN_SECONDS", 0.02)
    withdrawn = asyncio.Event()

    async def stands() -> None:
        if withdrawn.is_set():
            raise TokenInvalid

    async def requests() -> AsyncIterator[Asked]:
        for _ in range(3):
            yield Asked("", transfer(), 5.0)
        withdrawn.set()
        await asyncio.sleep(60)

    call = replace(call_of(), deadline=float("inf"), token_stands=stands)
    answers: list[Answer] = []
    with pytest.raises(TokenInvalid):
        async for answer in Streams(replica.transfers, replica.settings).carry(call, requests(), lambda asked: asked):
            answers += [answer]
    assert len(answers) == replica.ledger.journals.total() == 3


async def test_a_client_that_sends_and_never_reads_loses_its_place(
    parts: Parts, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers do not fit into the connection's window: it is idle once all is done, and given up soon after."""
    monkeypatch.setattr(streams, "_TAKEN_SECONDS", 0.2)
    async with (
        served(parts, database, stream_idle_seconds=1.0, streams_per_subject_max=1) as service,
        stream(service) as silent,
    ):
        await silent.send(*[order(remittance="x" * 140) for _ in range(1000)])

        async def all_paid() -> bool:
            return service.ledger.journals.total() == 1000

        await eventually(all_paid, 20)

        async def free() -> bool:
            async with stream(service) as other:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await other.send(order())
                    await other.read()
                return len(other.answers) == 1

        assert not await free()
        await eventually(free, 15)


async def test_a_stream_whose_token_ended_is_given_up_where_nothing_is_taken(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes the answers is cancelled where it is stuck, not before the time for it is over."""
    monkeypatch.setattr(streams, "_TAKEN_SECONDS", 0.3)

    async def requests() -> AsyncIterator[Asked]:
        for _ in range(3):
            yield Asked("", transfer(), 5.0)
        await asyncio.sleep(60)

    call = replace(call_of(), deadline=float("inf"), token_expires=time.time() + 0.2)
    carrying = Streams(replica.transfers, replica.settings)

    async def take_one() -> None:
        async for _ in carrying.carry(call, requests(), lambda asked: asked):
            await asyncio.sleep(60)

    started = time.monotonic()
    taking = asyncio.create_task(take_one())
    await asyncio.wait({taking}, timeout=5)
    assert taking.cancelled()
    assert 0.45 <= time.monotonic() - started < 5


async def test_a_tenant_leaves_places_to_the_others(parts: Parts, database: str) -> None:
    """However many callers it has."""
    async with (
        served(parts, database, streams_per_tenant_max=1, streams_max=2) as service,
        stream(service) as first,
    ):
        await first.call.initial_metadata()
        async with stream(service, subject="another") as second:
            assert (await second.refusal())[:2] == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        async with stream(service, tenant="elsewhere") as third:
            await third.call.initial_metadata()
            assert not third.call.done()


async def test_what_an_outage_leaves_open_is_looked_at_all_at_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three hundred transfers, copies of each other among them, wait for accounts with two statements a second between
    them, and are answered with their ends when it is back."""
    looks: list[int] = []
    settled, get = store.settled, store.get

    async def counted(conn: Any, cipher: Any, keys: Any) -> Any:
        looks.append(len(keys))
        return await settled(conn, cipher, keys)

    async def counted_one(*args: Any, **more: Any) -> Any:
        looks.append(1)
        return await get(*args, **more)

    monkeypatch.setattr(store, "settled", counted)
    monkeypatch.setattr(store, "get", counted_one)
    service.ledger.faults.down = True
    requests = [order() for _ in range(299)]
    async with stream(service) as client:
        for request in [*requests, requests[0]]:
            message = pb.StreamTransfersRequest(transfer=request)
            message.timeout.FromSeconds(20)
            await client.call.write(message.SerializeToString())
        await client.call.done_writing()

        async def all_wait() -> bool:
            return 299 in looks

        await eventually(all_wait, 10)
        before = len(looks)
        await asyncio.sleep(2)
        assert 1 <= len(looks) - before <= 5
        service.ledger.faults.down = False
        answers = await client.rest()
    assert sorted(answer.position for answer in answers) == list(range(1, 301))
    assert {answer.transfer.state for answer in answers} == {COMPLETED}
    names = {answer.transfer.name for answer in answers}
    assert len(names) == 299
    assert {service.ledger.journals[name] for name in names} == {1}


@pytest.mark.parametrize(("few_max", "counted"), [(100, 5), (0, 0)])
async def test_the_payments_of_a_stream_count_among_those_that_a_file_rests_for(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, few_max: int, counted: int
) -> None:
    """As single calls do, unless so many are in flight that they are bulk themselves."""
    monkeypatch.setattr(streams, "FEW_ITEMS_MAX", few_max)

    async def requests() -> AsyncIterator[Asked]:
        for _ in range(5):
            yield Asked("", transfer(), 5.0)

    carrying = Streams(replica.transfers, replica.settings)
    call = replace(call_of(), deadline=float("inf"))
    assert len([answer async for answer in carrying.carry(call, requests(), lambda asked: asked)]) == 5
    assert replica.transfers.orders.singles == counted
