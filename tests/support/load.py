"""Callers who pay, cancel, reverse, review, read and follow events through the edge, and write a history of it.

What they choose comes from a seed; what the mesh makes of it decides nothing here. It is bounded in count and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.rpc import status_pb2

from florin.accounts.v1 import account_pb2, account_service_pb2
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2, decision_pb2
from florin.notifications.v1 import notification_service_pb2
from florin.transactions.v1 import transfer_pb2, transfer_service_pb2
from local.client import Edge, Patience, Refused, is_transient, refusal
from meshkit.errors import error_info, reason_name
from tests.support.history import Answer, Final, History, Operation, Payment, Reading, Settled, Told

PAYERS = 8
PAYMENTS_MAX = 6000
REVIEW_ABOVE = 470_00
"""Payments above this many minor units are reviewed by a rule of the tenant; AMOUNT_MAX is a little more."""
AMOUNT_MAX = 500_00
_PATIENCE_SECONDS = 20.0
_PAGE = 1000
_SILENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_STATES = {value: name.removeprefix("TRANSFER_STATE_") for name, value in transfer_pb2.TransferState.items()}


class Load:
    """The callers of one tenant."""

    def __init__(self, edge: Edge, tenant: str, seed: int, history: History) -> None:
        self.history = history
        self.told: list[Told] = []
        self.following = asyncio.Event()
        """Set with the first event that came, of whatever kind: from then on none is missed."""
        self._seed = seed
        self._accounts = tuple(history.opening)
        self._teller = edge.session("teller", tenant=tenant)
        self._officer = edge.session("compliance", tenant=tenant)
        self._started = time.monotonic()
        self._over = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Payers and a reader while the block runs; they finish what they have begun."""
        self._over.clear()
        self._accounts = tuple(self.history.opening)
        tasks = [asyncio.create_task(self._pay(number)) for number in range(PAYERS)]
        tasks.append(asyncio.create_task(self._read()))
        try:
            yield
        finally:
            self._over.set()
            await asyncio.gather(*tasks)

    @asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        """An officer who resolves cases, and somebody who follows the events, while the block runs."""
        tasks = [asyncio.create_task(self._review()), asyncio.create_task(self._follow())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    def seconds(self) -> float:
        """Since the load was made."""
        return time.monotonic() - self._started

    async def _pay(self, number: int) -> None:
        """One payer: now and then impatient, without a key, with a batch, or changing its mind."""
        chance = random.Random(f"{self._seed}-payer-{number}")
        for count in range(PAYMENTS_MAX // PAYERS):
            if self._over.is_set():
                return
            tag = f"p{number}-{count}"
            way = chance.random()
            if way < 0.05:
                payment = self._draw(chance, tag, keyed=False)
                await self._once(payment, seconds=chance.choice([0.05, 2.0]))
            elif way < 0.2:
                await self._once(self._draw(chance, tag), seconds=chance.choice([0.03, 0.2, 1.0]))
            elif way < 0.3:
                await self._batch([self._draw(chance, f"{tag}-{item}") for item in range(5)])
            else:
                await self._patiently(self._draw(chance, tag), chance)
            await asyncio.sleep(chance.uniform(0, 0.02))

    def _draw(self, chance: random.Random, tag: str, *, keyed: bool = True) -> Payment:
        """A payment between two accounts; the first account is in every third one."""
        debit, credit = chance.sample(self._accounts, 2)
        if chance.random() < 0.2 and self._accounts[0] not in (debit, credit):
            debit = self._accounts[0]
        payment = Payment(tag, debit, credit, chance.randint(1, AMOUNT_MAX), tag if keyed else "")
        self.history.payments[tag] = payment
        return payment

    async def _once(self, payment: Payment, *, seconds: float) -> None:
        """One attempt of a caller who does not wait long and does not come back."""

        async def call() -> Answer:
            create = self._teller.transfers.CreateTransfer
            try:
                made = await create(request(payment), timeout=seconds, metadata=self._teller.metadata())
            except grpc.aio.AioRpcError as error:
                raise refusal(error) from None
            return of_transfer(made.transfer)

        await self._note("pay", payment.tag, call)

    async def _patiently(self, payment: Payment, chance: random.Random) -> None:
        session, patience = self._teller, Patience(_PATIENCE_SECONDS)
        second = chance.random()

        async def call() -> Answer:
            made = await session.call(session.transfers.CreateTransfer, request(payment), patience=patience)
            return of_transfer(made.transfer)

        answer = await self._note("pay", payment.tag, call)
        if answer.state in ("ACCEPTED", "SCREENED", "IN_REVIEW") and second < 0.3:
            await self._cancel(answer.transfer)
        elif answer.state == "COMPLETED" and second < 0.05:
            await self._reverse(answer.transfer)

    async def _cancel(self, name: str) -> None:
        session = self._teller
        asked = transfer_service_pb2.CancelTransferRequest(name=name, request_id=f"cancel-{name}")

        async def call() -> Answer:
            made = await session.call(session.transfers.CancelTransfer, asked, patience=Patience(_PATIENCE_SECONDS))
            return of_transfer(made.transfer, refused=False)

        await self._note("cancel", name, call)

    async def _reverse(self, name: str) -> None:
        session = self._teller
        asked = transfer_service_pb2.ReverseTransferRequest(
            name=name, reason="paid in error", request_id=f"reverse-{name}"
        )

        async def call() -> Answer:
            made = await session.call(session.transfers.ReverseTransfer, asked, patience=Patience(_PATIENCE_SECONDS))
            return of_transfer(made.reversal)

        await self._note("reverse", name, call)

    async def _batch(self, payments: Sequence[Payment]) -> None:
        begun = self.seconds()
        try:
            answers = await self.ask_again(payments)
        except Refused as refused:
            answers = dict.fromkeys((payment.tag for payment in payments), of_refusal(refused.code, refused.status))
        self.history.operations += [Operation("pay", tag, begun, self.seconds(), a) for tag, a in answers.items()]

    async def ask_again(self, payments: Sequence[Payment]) -> dict[str, Answer]:
        """One batch of payments, asked until it is answered. Raises Refused."""
        session = self._teller
        asked = transfer_service_pb2.BatchCreateTransfersRequest(requests=[request(payment) for payment in payments])
        patience = Patience(_PATIENCE_SECONDS)
        made = await session.call(session.transfers.BatchCreateTransfers, asked, seconds=10, patience=patience)
        return {payment.tag: _of_result(result) for payment, result in zip(payments, made.results, strict=True)}

    async def _note(self, kind: str, about: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        begun = self.seconds()
        try:
            answer = await call()
        except Refused as refused:
            answer = of_refusal(refused.code, refused.status)
        self.history.operations.append(Operation(kind, about, begun, self.seconds(), answer))
        return answer

    async def _read(self) -> None:
        """All balances on one page, which is one statement: a consistent reading, or none."""
        while not self._over.is_set():
            begun = self.seconds()
            with contextlib.suppress(grpc.aio.AioRpcError):
                page = await self._teller.accounts.ListAccounts(
                    account_service_pb2.ListAccountsRequest(page_size=_PAGE),
                    timeout=2,
                    metadata=self._teller.metadata(),
                )
                of_customers = [a for a in page.accounts if a.type == account_pb2.ACCOUNT_TYPE_CUSTOMER]
                posted = [account.balance.posted.minor_units for account in of_customers]
                available = [account.balance.available.minor_units for account in of_customers]
                self.history.readings.append(Reading(begun, self.seconds(), sum(posted), min(available)))
            await asyncio.sleep(0.1)

    async def _review(self) -> None:
        """An officer who approves three of four."""
        session = self._officer
        while True:
            with contextlib.suppress(Refused):
                open_cases = compliance_service_pb2.ListCasesRequest(state=decision_pb2.CASE_STATE_OPEN, page_size=50)
                page = await session.call(session.compliance.ListCases, open_cases, patience=Patience(2))
                for case in page.cases:
                    await self._resolve(case)
            await asyncio.sleep(0.2)

    async def _resolve(self, case: decision_pb2.Case) -> None:
        session = self._officer
        kinds = compliance_service_pb2.ResolveCaseRequest
        approve = random.Random(f"{self._seed}-{case.transfer}").random() < 0.75
        asked = kinds(
            name=case.name,
            resolution=kinds.RESOLUTION_APPROVE if approve else kinds.RESOLUTION_REJECT,
            reason="looked at",
            request_id=f"resolve-{case.name}",
        )

        async def call() -> Answer:
            await session.call(session.compliance.ResolveCase, asked, patience=Patience(_PATIENCE_SECONDS))
            return Answer(transfer=case.transfer)

        await self._note("approve" if approve else "reject", case.transfer, call)

    async def _follow(self) -> None:
        """Reads the stream of events, and goes on where it broke off."""
        token = ""
        while True:
            asked = notification_service_pb2.StreamEventsRequest(resume_token=token)
            with contextlib.suppress(grpc.aio.AioRpcError):
                metadata = self._teller.metadata()
                async for response in self._teller.notifications.StreamEvents(asked, metadata=metadata):
                    event = response.event
                    token = event.resume_token
                    self.following.set()
                    if event.type.startswith("florin.transactions."):
                        self.told.append(Told(event.id, event.type, event.subject, event.sequence))
            await asyncio.sleep(0.1)

    async def open_transfers(self) -> int:
        """How many transfers are not final."""
        session, count = self._teller, 0
        for state in ("ACCEPTED", "SCREENED", "IN_REVIEW"):
            asked = transfer_service_pb2.ListTransfersRequest(filter=f"state = {state}", page_size=_PAGE)
            page = await session.call(session.transfers.ListTransfers, asked)
            count += len(page.transfers)
        return count

    async def read_final(self) -> Final:
        """All that stands when nothing is asked for any more. Raises Refused."""
        transfers = [settled(transfer) for transfer in await self._all_transfers()]
        session = self._teller
        page = await session.call(
            session.accounts.ListAccounts, account_service_pb2.ListAccountsRequest(page_size=_PAGE)
        )
        balances = {a.name: (a.balance.posted.minor_units, a.balance.held.minor_units) for a in page.accounts}
        made = {transfer.tag for transfer in transfers}
        known = [p for p in self.history.payments.values() if p.request_id and p.tag in made]
        replays: dict[str, Answer] = {}
        for start in range(0, len(known), 500):
            replays |= await self.ask_again(known[start : start + 500])
        return Final(transfers, balances, replays, self.told)

    async def _all_transfers(self) -> list[transfer_pb2.Transfer]:
        session, token = self._teller, ""
        found: list[transfer_pb2.Transfer] = []
        while True:
            asked = transfer_service_pb2.ListTransfersRequest(page_size=_PAGE, page_token=token)
            page = await session.call(session.transfers.ListTransfers, asked)
            found += page.transfers
            token = page.next_page_token
            if not token:
                return found


def request(payment: Payment) -> transfer_service_pb2.CreateTransferRequest:
    """A payment as it is asked for, the same each time."""
    return transfer_service_pb2.CreateTransferRequest(
        debit_account=payment.debit,
        credit_account=payment.credit,
        amount=money_pb2.Money(currency_code="EUR", minor_units=payment.minor_units),
        end_to_end_id=payment.tag,
        request_id=payment.request_id,
    )


def of_transfer(transfer: transfer_pb2.Transfer, *, refused: bool = True) -> Answer:
    """A transfer as an answer; its refusal is one, unless that is what was asked for."""
    state = _STATES[transfer.state]
    reason = reason_name(transfer.refusal.reason) if state == "DECLINED" and refused else ""
    return Answer(transfer.name, state, transfer.journal, reason)


def of_refusal(code: grpc.StatusCode | int, status: status_pb2.Status) -> Answer:
    """A refusal as an answer; silence where it says nothing about what happened."""
    info = error_info(status)
    reason = info.reason if info is not None else ""
    if code in _SILENT or is_transient(reason):
        return Answer()
    transfer = info.metadata.get("transfer", "") if info is not None else ""
    return Answer(transfer, "DECLINED" if transfer else "", reason=reason or str(code))


def _of_result(result: Any) -> Answer:
    if result.HasField("transfer"):
        return of_transfer(result.transfer)
    return of_refusal(result.status.code, result.status)


def state_of(transfer: transfer_pb2.Transfer) -> str:
    """A transfer's state by its name."""
    return _STATES[transfer.state]


def settled(transfer: transfer_pb2.Transfer) -> Settled:
    """A transfer as the checker looks at it."""
    declined = transfer.state == transfer_pb2.TRANSFER_STATE_DECLINED
    return Settled(
        name=transfer.name,
        tag=transfer.end_to_end_id,
        debit=transfer.debit_account,
        credit=transfer.credit_account,
        minor_units=transfer.amount.minor_units,
        state=_STATES[transfer.state],
        reason=reason_name(transfer.refusal.reason) if declined else "",
        journal=transfer.journal,
        reversal_of=transfer.reversal_of,
    )
