"""BalanceService over gRPC: message → operation → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import balance_errors, entry_store, errors, messages, operations, sums_store
from accounts.account_changes import last_part
from accounts.model import Balance, Entry
from accounts.sums_store import BalanceSum, Page
from accounts.watches import Followed, Watches
from florin.accounts.v1 import balance_service_pb2 as pb
from florin.accounts.v1 import balance_service_pb2_grpc as pb_grpc
from meshkit import clock, identity, pages
from meshkit.database import Database
from meshkit.identity import Call
from meshkit.money import INT64_MAX, INT64_MIN

_SUMS_MAX = 2
"""Roll-ups at once: each may read all of a tenant's accounts, and holds a connection meanwhile."""
_LOT_ENTRIES = 200
"""Entries in one message of a stream: a transaction, some dozen kilobytes."""
_LOTS_MAX = 2
"""Lots that are read at once for all streams; the other connections are for those who pay."""


class BalanceService(pb_grpc.BalanceServiceServicer):
    """Balances added up, and balances as they change."""

    def __init__(self, db: Database, watches: Watches) -> None:
        self._db = db
        self._watches = watches
        self._sums = asyncio.Semaphore(_SUMS_MAX)
        self._lots = asyncio.Semaphore(_LOTS_MAX)

    async def RollUpBalances(self, request: pb.RollUpBalancesRequest, context: Any) -> pb.RollUpBalancesResponse:
        """Adds balances up; a customer gets own ones, and none of others."""
        call, size = identity.current(), pages.size(request.page_size)
        filter_text = f"{call.tenant}\0{int(request.key)}\0{request.customer}\0{call.who.customer or ''}"
        shape = [str] if request.key == pb.ROLL_UP_KEY_CURRENCY else [_first_of(request.key), str]
        key = pages.decode("sums", filter_text, request.page_token, shape)
        if not call.who.is_staff and request.customer not in ("", call.who.customer):
            return pb.RollUpBalancesResponse(read_time=clock.timestamp(clock.now()))
        customer = operations.customer_of(call) or last_part(request.customer) or None
        async with self._sums:
            page = await self._page(call, request.key, customer, key, size + 1)
        shown = page.sums[:size]
        token = ""
        if len(page.sums) > size:
            token = pages.encode("sums", filter_text, _place(request.key, shown[-1]))
        return pb.RollUpBalancesResponse(
            sums=[_sum(one) for one in shown], next_page_token=token, read_time=clock.timestamp(page.read_time)
        )

    async def _page(
        self, call: Call, by: pb.RollUpKey.ValueType, customer: str | None, key: list[Any] | None, limit: int
    ) -> Page:
        async def work(conn: AsyncConnection) -> Page:
            if by == pb.ROLL_UP_KEY_CURRENCY:
                after = key[0] if key else ""
                return await sums_store.by_currency(conn, call.tenant, customer=customer, after=after, limit=limit)
            if by == pb.ROLL_UP_KEY_ACCOUNT_TYPE:
                place = (key[0], key[1]) if key else (0, "")
                return await sums_store.by_type(conn, call.tenant, customer=customer, after=place, limit=limit)
            owner = (key[0], key[1]) if key else ("", "")
            return await sums_store.by_customer(conn, call.tenant, customer=customer, after=owner, limit=limit)

        return await self._db.run(call.tenant, work, read_only=True)

    async def WatchAccount(
        self, request: pb.WatchAccountRequest, context: Any
    ) -> AsyncIterator[pb.WatchAccountResponse]:
        """Follows an account. The initial metadata are sent as soon as the position is fixed: what happens after a
        client has them is in its stream."""
        call, name = identity.current(), last_part(request.name)
        with self._watches.place(call, name) as followed:
            # Owners of an account never change: who may Get it now may always.
            present = (await self._account(call, request.name)).balance
            position = request.after_sequence if request.HasField("after_sequence") else present.sequence
            if position > present.sequence:
                raise errors.AsOfFuture(name, "sequence", str(position), str(present.sequence))
            await context.send_initial_metadata(())
            balance: Balance | None = None
            while True:
                balance = await self._watches.next(call, followed, balance)
                # What was seen just before the stream began can be older than what the stream begins with.
                if balance.sequence >= position:
                    async for message in self._news(call, followed, name, position, balance):
                        yield message
                    position = balance.sequence

    async def _account(self, call: Call, name: str) -> Any:
        return await self._db.run(call.tenant, lambda conn: operations.get_account(conn, call, name), read_only=True)

    async def _news(
        self, call: Call, followed: Followed, account: str, position: int, balance: Balance
    ) -> AsyncIterator[pb.WatchAccountResponse]:
        """The entries behind a position up to those of a balance, and with the last of them the balance."""
        read = partial(self._lot, call.tenant, account)
        while position < balance.sequence:
            entries = await followed.lot(position, balance.sequence, read)
            position = entries[-1].sequence
            yield pb.WatchAccountResponse(
                entries=[messages.entry(one) for one in entries],
                balance=messages.balance(balance) if position == balance.sequence else None,
                sequence=position,
            )
            if position == balance.sequence:
                return
            await self._watches.check(call)
        yield pb.WatchAccountResponse(balance=messages.balance(balance), sequence=position)

    async def _lot(self, tenant: str, account: str, after: int, up_to: int) -> list[Entry]:
        """The next entries; where one is missing that was seen, the stream must not go on over it."""

        async def work(conn: AsyncConnection) -> list[Entry]:
            return await entry_store.entries_between(
                conn, tenant, account, after=after, up_to=up_to, limit=_LOT_ENTRIES
            )

        async with self._lots:
            started = time.perf_counter()
            lot = await self._db.run(tenant, work, read_only=True)
            if len(lot) == _LOT_ENTRIES:
                # A pause as long as it took: who catches up on a long history leaves the process to those who pay.
                await asyncio.sleep(time.perf_counter() - started)
        if [entry.sequence for entry in lot[:1]] != [after + 1]:
            raise RuntimeError(f"accounts/{account} lacks its entry {after + 1}")
        return lot


def _first_of(by: pb.RollUpKey.ValueType) -> type:
    return int if by == pb.ROLL_UP_KEY_ACCOUNT_TYPE else str


def _place(by: pb.RollUpKey.ValueType, last: BalanceSum) -> list[str | int]:
    """Where the page after a sum begins."""
    if by == pb.ROLL_UP_KEY_CURRENCY:
        return [last.currency]
    if by == pb.ROLL_UP_KEY_ACCOUNT_TYPE:
        return [int(last.type or 0), last.currency]
    return [last.customer, last.currency]


def _sum(one: BalanceSum) -> pb.BalanceSum:
    """A sum as users see it. Raises SumOverflow."""
    if not all(INT64_MIN <= total <= INT64_MAX for total in (one.posted, one.held, one.available)):
        raise balance_errors.SumOverflow(one.currency)
    return pb.BalanceSum(
        customer=f"customers/{one.customer}" if one.customer else "",
        account_type=(one.type or 0),  # type: ignore[arg-type]
        currency_code=one.currency,
        account_count=one.count,
        posted=messages.money(one.currency, one.posted),
        held=messages.money(one.currency, one.held),
        available=messages.money(one.currency, one.available),
    )
