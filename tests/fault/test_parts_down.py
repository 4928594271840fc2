"""What holds while a part is down, row by row of the table in ARCHITECTURE.md: held down, looked at, brought back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from florin.accounts.v1 import account_pb2, account_service_pb2
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2
from florin.notifications.v1 import notification_service_pb2
from florin.transactions.v1 import transfer_pb2, transfer_service_pb2
from local import demo_listener
from local.client import Refused, Session, connect, refusal
from local.demo_listener import Listener
from local.state import SERVICES
from tests.support import faults
from tests.support.history import History
from tests.support.load import Load
from tests.support.mesh import Mesh
from tests.support.parts import eventually, wait_until

COMPLETED = transfer_pb2.TRANSFER_STATE_COMPLETED
ACCEPTED = transfer_pb2.TRANSFER_STATE_ACCEPTED
BACK_SECONDS = 30.0  # what was on its way to a killed consumer comes again after 8 s (its ack_wait)
"""In which what waited has to be finished once the part is there again."""

LOCK_SECONDS = 5.5
"""How long a transaction that stands still may hold its locks: a quarter more than a statement, and a little."""

Down = Callable[..., AbstractContextManager[None]]
both_ways = pytest.mark.parametrize("down", [faults.dead, faults.stopped], ids=["dead", "stopped"])
"""Gone: connections are refused. Stopped: connections stand and nothing answers, which is the harder case."""


@dataclass(frozen=True, slots=True)
class Bank:
    """Two accounts, people who use them, and what they are told."""

    debit: str
    credit: str
    teller: Session
    officer: Session
    operator: Session
    load: Load
    listener: Listener

    async def pay(self, seconds: float = 6.0) -> transfer_pb2.Transfer:
        """One payment in one attempt; the contract gives it five seconds. Raises Refused."""
        request = transfer_service_pb2.CreateTransferRequest(
            debit_account=self.debit,
            credit_account=self.credit,
            amount=money_pb2.Money(currency_code="EUR", minor_units=1_00),
            request_id=secrets.token_hex(8),
        )
        made = await attempt(self.teller, self.teller.transfers.CreateTransfer, request, seconds)
        transfer: transfer_pb2.Transfer = made.transfer
        return transfer

    async def state(self, name: str) -> int:
        """A transfer's state, in one attempt. Raises Refused."""
        request = transfer_service_pb2.GetTransferRequest(name=name)
        made = await attempt(self.teller, self.teller.transfers.GetTransfer, request)
        state: int = made.transfer.state
        return state

    async def read_accounts(self) -> None:
        """A balance, and the entries behind it. Raises Refused."""
        teller = self.teller
        await attempt(teller, teller.accounts.GetBalance, account_service_pb2.GetBalanceRequest(name=self.debit))
        await attempt(teller, teller.accounts.ListEntries, account_service_pb2.ListEntriesRequest(account=self.debit))

    async def read_transfers(self) -> None:
        """The history of transfers. Raises Refused."""
        request = transfer_service_pb2.ListTransfersRequest(page_size=5)
        await attempt(self.teller, self.teller.transfers.ListTransfers, request)

    async def read_cases(self) -> None:
        """The cases of compliance. Raises Refused."""
        await attempt(
            self.officer, self.officer.compliance.ListCases, compliance_service_pb2.ListCasesRequest(page_size=5)
        )

    async def read_webhooks(self) -> None:
        """The endpoints of notifications. Raises Refused."""
        request = notification_service_pb2.ListWebhookEndpointsRequest(page_size=5)
        await attempt(self.operator, self.operator.notifications.ListWebhookEndpoints, request)

    def reads(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """A read of each service."""
        reads = (self.read_accounts, self.read_transfers, self.read_cases, self.read_webhooks)
        return dict(zip(SERVICES, reads, strict=True))

    async def until_completed(self, names: Sequence[str]) -> None:
        """Waits until transfers are completed."""
        for name in names:

            async def completed(name: str = name) -> bool:
                with contextlib.suppress(Refused):
                    return await self.state(name) == COMPLETED
                return False

            await eventually(completed, BACK_SECONDS)

    async def until_told(self, names: Sequence[str]) -> None:
        """Waits until the stream and the webhook told of each transfer that it was accepted and completed."""
        steps = {"florin.transactions.transfer_accepted.v1", "florin.transactions.transfer_completed.v1"}

        async def told() -> bool:
            streamed = {(event.subject, event.type) for event in self.load.told}
            posted = {(event.subject, event.type) for event in self.listener.events.values()}
            return all({(name, step) for step in steps} <= streamed & posted for name in names)

        await eventually(told, BACK_SECONDS)

    def lives(self, names: Sequence[str]) -> dict[str, list[str]]:
        """What the stream told of each transfer, in order."""
        return {name: [event.type.split(".")[2] for event in self.load.told if event.subject == name] for name in names}


async def attempt(session: Session, method: Any, request: Any, seconds: float = 5.0) -> Any:
    """One attempt through the edge, as a caller without patience makes it. Raises Refused."""
    try:
        return await method(request, timeout=seconds, metadata=session.metadata())
    except grpc.aio.AioRpcError as error:
        raise refusal(error) from None


@pytest.fixture(scope="module")
async def bank(mesh: Mesh, seed: int) -> AsyncIterator[Bank]:
    """Two accounts with money, a webhook, and a follower of the stream."""
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(connect(mesh.state, f"localhost:{mesh.port}"))
        listener = await stack.enter_async_context(demo_listener.listening())
        teller, officer, operator = (edge.session(role) for role in ("teller", "compliance", "operator"))
        load = Load(edge, "demo", seed, History(opening={}))
        await demo_listener.register(operator, listener)
        await stack.enter_async_context(load.attended())
        debit = await asyncio.to_thread(mesh.account, funds=1_000_00)
        credit = await asyncio.to_thread(mesh.account)
        await asyncio.wait_for(load.following.wait(), 20)
        made = Bank(debit, credit, teller, officer, operator, load, listener)
        # Both sides of a payment are known from here on, as they are to any bank that is not new.
        assert (await made.pay()).state == COMPLETED
        yield made


def _is_unavailable(refused: Refused) -> bool:
    """Whether a refusal is UNAVAILABLE, with its reason, and says when to try again."""
    retry = any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in refused.status.details)
    return refused.code is grpc.StatusCode.UNAVAILABLE and refused.reason == "UNAVAILABLE" and retry


@both_ways
async def test_without_notifications_payments_go_on_and_are_told_of_later(mesh: Mesh, bank: Bank, down: Down) -> None:
    """Callers see nothing; the stream and the webhook bring each event once, when notifications is back."""
    before = bank.listener.repeated
    with down(mesh, *faults.replicas(mesh, "notifications")):
        paid = [await bank.pay() for _ in range(5)]
        assert [transfer.state for transfer in paid] == [COMPLETED] * 5
        for service in ("accounts", "transactions", "compliance"):
            await bank.reads()[service]()
        names = [transfer.name for transfer in paid]
        assert bank.lives(names) == {name: [] for name in names}
    await bank.until_told(names)
    assert bank.lives(names) == {name: ["transfer_accepted", "transfer_completed"] for name in names}
    assert bank.listener.repeated == before


@both_ways
async def test_without_the_broker_payments_and_reads_go_on_and_events_come_late_in_order(
    mesh: Mesh, bank: Bank, down: Down
) -> None:
    """Events wait in the outboxes, and then come once each, in the order of each transfer."""
    with down(mesh, "nats"):
        paid = [await bank.pay() for _ in range(5)]
        assert [transfer.state for transfer in paid] == [COMPLETED] * 5
        for read in bank.reads().values():
            await read()
        names = [transfer.name for transfer in paid]
        assert bank.lives(names) == {name: [] for name in names}
    await bank.until_told(names)
    assert bank.lives(names) == {name: ["transfer_accepted", "transfer_completed"] for name in names}


@both_ways
async def test_without_compliance_payments_wait_and_the_rest_goes_on(mesh: Mesh, bank: Bank, down: Down) -> None:
    """The default posture is closed: a payment is ACCEPTED within its caller's time and finished on recovery."""
    with down(mesh, *faults.replicas(mesh, "compliance")):
        waiting = await _pay_together(bank)
        assert {transfer.state for transfer in waiting} == {ACCEPTED}
        for service in ("accounts", "transactions", "notifications"):
            await bank.reads()[service]()
        assert await bank.state(waiting[0].name) == ACCEPTED
        opened = await _open_account(bank.teller)
        assert opened.state == account_pb2.ACCOUNT_STATE_PENDING
    await bank.until_completed([transfer.name for transfer in waiting])


@both_ways
async def test_without_accounts_new_transfers_are_accepted_and_finish_later(mesh: Mesh, bank: Bank, down: Down) -> None:
    """Callers see a pending transfer; compliance, notifications and the history of transfers go on."""
    with down(mesh, *faults.replicas(mesh, "accounts")):
        waiting = await _pay_together(bank)
        assert {transfer.state for transfer in waiting} == {ACCEPTED}
        for service in ("transactions", "compliance", "notifications"):
            await bank.reads()[service]()
        assert await bank.state(waiting[0].name) == ACCEPTED
    await bank.until_completed([transfer.name for transfer in waiting])


@both_ways
async def test_without_transactions_only_transfers_are_unavailable(mesh: Mesh, bank: Bank, down: Down) -> None:
    """Balances, entries, cases and webhooks go on; a transfer is refused with the time after which to try again."""
    with down(mesh, *faults.replicas(mesh, "transactions")):
        for service in ("accounts", "compliance", "notifications"):
            await bank.reads()[service]()
        await _until_unavailable(bank.pay)
        await _until_unavailable(bank.read_transfers)
        for service in ("accounts", "compliance", "notifications"):
            await bank.reads()[service]()

    async def pays() -> bool:
        with contextlib.suppress(Refused):
            return (await bank.pay()).state == COMPLETED
        return False

    await eventually(pays, BACK_SECONDS)


@pytest.mark.parametrize("service", SERVICES)
async def test_without_its_database_a_service_alone_is_unavailable(mesh: Mesh, bank: Bank, service: str) -> None:
    """The owner says UNAVAILABLE and is not ready; those who own the others go on; afterwards all is as before."""
    reads = bank.reads()
    owners = faults.replicas(mesh, service)
    others = [name for other in SERVICES if other != service for name in faults.replicas(mesh, other)]
    with faults.without_database(mesh, service):
        await _until_unavailable(reads[service])
        await asyncio.to_thread(
            wait_until, lambda: not any(faults.is_ready(mesh.state, name) for name in owners), BACK_SECONDS
        )
        for other in SERVICES:
            if other != service:
                await reads[other]()
        ready = await asyncio.to_thread(lambda: [faults.is_ready(mesh.state, name) for name in others])
        assert all(ready)

    async def answers() -> bool:
        with contextlib.suppress(Refused):
            await reads[service]()
            return (await bank.pay()).state == COMPLETED
        return False

    await eventually(answers, BACK_SECONDS)


@both_ways
async def test_without_one_replica_of_anything_callers_see_nothing(mesh: Mesh, bank: Bank, down: Down) -> None:
    """One of two replicas of each service goes away at once, and no call fails. A payment is pending only where a
    replica that stands still had begun with it, and is finished by the others meanwhile."""
    callers = Callers(bank)
    async with callers.calling():
        await callers.until_each(5)
        gone = time.time()
        with down(mesh, *SERVICES):
            await asyncio.sleep(6)  # long enough for pings and health checks to find out
            await callers.until_each(30)
            await bank.until_completed([name for name, _ in callers.pending])
    assert callers.refused == [], [callers.refused, _failed_at_the_edge(mesh, gone)]
    late = [
        round(begun - gone, 2) for _, begun in callers.pending if down is faults.dead or begun - gone > LOCK_SECONDS
    ]
    assert late == [], f"payments were pending that began so many seconds after the loss: {late}"


class Callers:
    """Two callers of each service and two payers, without patience."""

    def __init__(self, bank: Bank) -> None:
        self.refused: list[str] = []
        self.pending: list[tuple[str, float]] = []
        """Transfers that were answered as ACCEPTED, and when they were asked for."""
        self._calls: dict[str, Callable[[], Awaitable[Any]]] = {**bank.reads(), "pay": bank.pay}
        self._done = dict.fromkeys(self._calls, 0)
        self._over = asyncio.Event()

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """They call while the block runs."""
        tasks = [asyncio.create_task(self._call(name)) for name in self._calls for _ in range(2)]
        try:
            yield
        finally:
            self._over.set()
            await asyncio.gather(*tasks)

    async def until_each(self, count: int) -> None:
        """Waits until each call was made so many times."""

        async def done() -> bool:
            return all(number >= count for number in self._done.values())

        await eventually(done, BACK_SECONDS)

    async def _call(self, name: str) -> None:
        while not self._over.is_set():
            begun = time.time()
            try:
                answer = await self._calls[name]()
            except Refused as refused:
                self.refused.append(f"{begun:.2f} {name}: {refused}")
            else:
                if name == "pay" and answer.state != COMPLETED:
                    self.pending.append((answer.name, begun))
            self._done[name] += 1
            await asyncio.sleep(0.02)


def _failed_at_the_edge(mesh: Mesh, since: float) -> list[str]:
    """What the edge noted of calls that failed."""
    failed = []
    for line in (mesh.state.logs / "access.log").read_text().splitlines():
        call = json.loads(line)
        at = datetime.fromisoformat(call["time"]).timestamp() - since
        if at > 0 and call["grpc_status"] not in ("OK", None):
            words = (call[name] for name in ("path", "grpc_status", "flags", "details", "duration_ms", "upstream_host"))
            failed.append(f"{at:.2f} s {' '.join(map(str, words))}")
    return failed


async def _pay_together(bank: Bank) -> list[transfer_pb2.Transfer]:
    """Eight payments that come one after the other and do not wait for each other, with two seconds each."""
    tasks = []
    for _ in range(8):
        tasks.append(asyncio.create_task(bank.pay(seconds=2.0)))
        await asyncio.sleep(0.1)
    return list(await asyncio.gather(*tasks))


async def _open_account(teller: Session) -> account_pb2.Account:
    customer = account_service_pb2.CreateCustomerRequest(display_name="Ada Beispiel", request_id=secrets.token_hex(8))
    made = await attempt(teller, teller.accounts.CreateCustomer, customer)
    account = account_service_pb2.CreateAccountRequest(
        customers=[made.customer.name],
        type=account_pb2.ACCOUNT_TYPE_CUSTOMER,
        currency_code="EUR",
        request_id=secrets.token_hex(8),
    )
    opened: account_pb2.Account = (await attempt(teller, teller.accounts.CreateAccount, account)).account
    return opened


async def _until_unavailable(call: Callable[[], Awaitable[Any]]) -> None:
    """Makes a call until it is UNAVAILABLE with its reason and RetryInfo; until then it may only have been too late."""
    seen: list[str] = []

    async def unavailable() -> bool:
        try:
            await call()
        except Refused as refused:
            seen.append(f"{refused.code.name} {refused}")
            return _is_unavailable(refused)
        seen.append("OK")
        return False

    with contextlib.suppress(AssertionError):
        await eventually(unavailable, 15)
        return
    raise AssertionError(f"never UNAVAILABLE with its reason and RetryInfo: {seen[-3:]}")
