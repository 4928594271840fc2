"""Customers who pay each other at random and readers who look at all balances, through the edge; they write a history.

What they choose comes from a seed. It is bounded in count and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from florin.accounts.v1 import account_pb2, account_service_pb2
from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_service_pb2
from local.client import Edge, Patience, Refused, Session, is_transient
from meshkit.errors import reason_name
from tests.support.bank_history import MOVED, NOT_MOVED, UNKNOWN, Asked, BankFinal, BankHistory, Entry, Reading, Stands
from tests.support.load import state_of

PAYERS = 6
READERS = 2
PAYMENTS_MAX = 6000
READ_SECONDS = 3.0
_PAGE = 1000
_PATIENCE_SECONDS = 25.0
_PAST = timedelta(seconds=7)
"""A moment that nothing is recorded at any more: a transaction may take five seconds, and clocks differ a little."""
_REMEMBERED = 20
"""How many of the moments that were asked for last are asked for again."""


class Bank:
    """A fixed set of accounts, and those who use them."""

    def __init__(self, edge: Edge, tenant: str, seed: int, history: BankHistory) -> None:
        self.history = history
        self._edge = edge
        self._tenant = tenant
        self._seed = seed
        self._accounts = sorted(history.opening)
        self._started = time.monotonic()
        self._over = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Payers and readers while the block runs; they finish what they have begun."""
        tasks = [asyncio.create_task(self._pay(f"payer-{number}")) for number in range(PAYERS)]
        tasks += [asyncio.create_task(self._read(f"reader-{number}")) for number in range(READERS)]
        tasks.append(asyncio.create_task(self._read_past("historian")))
        try:
            yield
        finally:
            self._over.set()
            await asyncio.gather(*tasks)

    def seconds(self) -> float:
        """Since the bank was made; one clock for all callers."""
        return time.monotonic() - self._started

    def _session(self) -> Session:
        return self._edge.session("teller", tenant=self._tenant)

    async def _pay(self, caller: str) -> None:
        chance, session = random.Random(f"{self._seed}-{caller}"), self._session()
        for number in range(PAYMENTS_MAX // PAYERS):
            if self._over.is_set():
                return
            debit, credit = chance.sample(self._accounts, 2)
            request = transfer_service_pb2.CreateTransferRequest(
                debit_account=debit,
                credit_account=credit,
                # Now and then more than anybody has.
                amount=money_pb2.Money(currency_code="EUR", minor_units=chance.choice([1, 7, 50, 300, 2_000])),
                end_to_end_id=f"{caller}-{number}",
                request_id=f"{caller}-{number}",
            )
            # One of three does not come back when it hears nothing.
            patience = chance.choice([0.2, _PATIENCE_SECONDS, _PATIENCE_SECONDS])
            await self._ask(caller, session, request, patience)
            await asyncio.sleep(chance.uniform(0, 0.03))

    async def _ask(
        self, caller: str, session: Session, request: transfer_service_pb2.CreateTransferRequest, seconds: float
    ) -> None:
        begun, answer, reason = self.seconds(), UNKNOWN, ""
        try:
            made = await session.call(session.transfers.CreateTransfer, request, patience=Patience(seconds))
            state = state_of(made.transfer)
            if state in (MOVED, NOT_MOVED):
                answer, reason = state, reason_name(made.transfer.refusal.reason) if state == NOT_MOVED else ""
        except Refused as refused:
            silent = refused.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if not silent and not is_transient(refused.reason) and refused.code is not grpc.StatusCode.CANCELLED:
                answer, reason = NOT_MOVED, refused.reason or refused.code.name
        self.history.asked.append(
            Asked(
                caller,
                request.request_id,
                request.debit_account,
                request.credit_account,
                request.amount.minor_units,
                begun,
                self.seconds(),
                answer,
                reason,
            )
        )

    async def _read(self, caller: str) -> None:
        """All accounts on one page, which is one statement, and so one snapshot."""
        session = self._session()
        while not self._over.is_set():
            await self._note(caller, lambda: self._page(session))
            await asyncio.sleep(0.05)

    async def _read_past(self, caller: str) -> None:
        """Balances as of one moment of the past, of each account by a call of its own, and what balances were after
        entries that were seen; both again and again."""
        chance, session = random.Random(f"{self._seed}-{caller}"), self._session()
        moments: deque[datetime] = deque(maxlen=_REMEMBERED)
        first = datetime.now(UTC)
        while not self._over.is_set():
            await asyncio.sleep(0.1)
            moment = datetime.now(UTC) - _PAST
            if moment > first:
                moments.append(moment)
                for one in {moment, chance.choice(moments)}:
                    await self._note(caller, lambda one=one: self._as_of(session, one), one.isoformat())  # type: ignore[misc]
            if self.history.readings:
                seen = chance.choice(self.history.readings)
                account = chance.choice(self._accounts)
                if account in seen.balances:
                    sequence = seen.balances[account][1]
                    await self._note(
                        caller,
                        lambda a=account, s=sequence: self._after(session, a, s),  # type: ignore[misc]
                        f"sequence {sequence} of {account}",
                    )

    async def _note(
        self, caller: str, read: Callable[[], Awaitable[dict[str, tuple[int, int]]]], as_of: str = ""
    ) -> None:
        """One reading, or none where the mesh does not answer."""
        begun = self.seconds()
        with contextlib.suppress(grpc.aio.AioRpcError):
            balances = await read()
            self.history.readings.append(Reading(caller, begun, self.seconds(), balances, as_of))

    async def _page(self, session: Session) -> dict[str, tuple[int, int]]:
        asked = account_service_pb2.ListAccountsRequest(page_size=_PAGE)
        page = await session.accounts.ListAccounts(asked, timeout=READ_SECONDS, metadata=session.metadata())
        return {
            one.name: (one.balance.posted.minor_units, one.balance.sequence)
            for one in page.accounts
            if one.type == account_pb2.ACCOUNT_TYPE_CUSTOMER
        }

    async def _as_of(self, session: Session, moment: datetime) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for account in self._accounts:
            asked = account_service_pb2.GetBalanceRequest(name=account)
            asked.as_of_recorded_time.FromDatetime(moment)
            found[account] = await self._balance(session, asked)
        return found

    async def _after(self, session: Session, account: str, sequence: int) -> dict[str, tuple[int, int]]:
        asked = account_service_pb2.GetBalanceRequest(name=account, as_of_sequence=sequence)
        return {account: await self._balance(session, asked)}

    async def _balance(self, session: Session, asked: account_service_pb2.GetBalanceRequest) -> tuple[int, int]:
        answer = await session.accounts.GetBalance(asked, timeout=READ_SECONDS, metadata=session.metadata())
        return answer.balance.posted.minor_units, answer.balance.sequence

    async def read_opening(self) -> dict[str, tuple[int, int]]:
        """All balances and sequences. Raises Refused."""
        session = self._session()
        page = await session.call(
            session.accounts.ListAccounts, account_service_pb2.ListAccountsRequest(page_size=_PAGE)
        )
        of_customers = [one for one in page.accounts if one.type == account_pb2.ACCOUNT_TYPE_CUSTOMER]
        return {one.name: (one.balance.posted.minor_units, one.balance.sequence) for one in of_customers}

    async def unfinished(self) -> int:
        """How many transfers are not final. Raises Refused."""
        session, count = self._session(), 0
        for state in ("ACCEPTED", "SCREENED", "IN_REVIEW"):
            asked = transfer_service_pb2.ListTransfersRequest(filter=f"state = {state}", page_size=_PAGE)
            count += len((await session.call(session.transfers.ListTransfers, asked)).transfers)
        return count

    async def read_final(self) -> BankFinal:
        """All transfers, and all entries since the opening. Raises Refused."""
        session = self._session()
        transfers = [
            Stands(
                one.name,
                one.end_to_end_id,
                one.debit_account,
                one.credit_account,
                one.amount.minor_units,
                state_of(one),
                one.journal,
            )
            for one in await self._all(
                session.transfers.ListTransfers, transfer_service_pb2.ListTransfersRequest, "transfers"
            )
        ]
        entries = []
        for account, (_, opened) in self.history.opening.items():
            found = await self._all(
                session.accounts.ListEntries, account_service_pb2.ListEntriesRequest, "entries", account=account
            )
            entries += [
                Entry(account, e.sequence, e.amount.minor_units, e.balance_after.minor_units, e.journal, e.origin)
                for e in found
                if e.sequence > opened
            ]
        return BankFinal(transfers, entries)

    async def _all(self, method: Any, request: Any, field: str, **about: str) -> list[Any]:
        """Every page of a list."""
        session, token, found = self._session(), "", []
        while True:
            page = await session.call(method, request(page_size=_PAGE, page_token=token, **about))
            found += getattr(page, field)
            token = page.next_page_token
            if not token:
                return found
