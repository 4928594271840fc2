"""The calls that a load is made of; each gives how many items it did, or raises what the edge said."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from bench.load import World
from florin.accounts.v1 import account_service_pb2, account_service_pb2_grpc
from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_pb2, transfer_service_pb2, transfer_service_pb2_grpc

CURRENCY = "EUR"
_TIMEOUT_SECONDS = 10.0
_BATCH_TIMEOUT_SECONDS = 30.0

Call = Callable[[int], Awaitable[int]]
"""Makes one call for the caller of a number."""


class Unfinished(Exception):
    """The answer was good and the transfer is not completed; its text is the state, or the reason."""


class _Stream:
    """A stream of transfers, whose answers find who asked."""

    def __init__(
        self, stub: transfer_service_pb2_grpc.TransferServiceStub, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        self._asked: asyncio.Queue[transfer_service_pb2.StreamTransfersRequest] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[transfer_service_pb2.StreamTransfersResponse]] = {}
        # The stubs are typed as blocking ones; the channel makes them asynchronous.
        self._call: Any = stub.StreamTransfers(self._messages(), metadata=metadata)  # type: ignore[arg-type]
        self._reader = asyncio.create_task(self._read())

    @property
    def is_over(self) -> bool:
        """Whether it was ended."""
        return self._reader.done()

    async def ask(
        self, request: transfer_service_pb2.CreateTransferRequest
    ) -> transfer_service_pb2.StreamTransfersResponse:
        """The answer to one item. Raises what ended the stream."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting[request.request_id] = answer
        self._asked.put_nowait(transfer_service_pb2.StreamTransfersRequest(transfer=request))
        made: transfer_service_pb2.StreamTransfersResponse = await answer
        return made

    async def _messages(self) -> AsyncIterator[transfer_service_pb2.StreamTransfersRequest]:
        while True:
            yield await self._asked.get()

    async def _read(self) -> None:
        error: BaseException = Unfinished("the stream ended")
        try:
            async for answer in self._call:
                waiting = self._waiting.pop(answer.request_id, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except grpc.aio.AioRpcError as failure:
            error = failure
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)


class Calls:
    """Calls over one channel, between accounts drawn at random."""

    def __init__(self, world: World, channel: grpc.aio.Channel, chance: random.Random) -> None:
        self._accounts, self._names = world.accounts, world.names
        self._chance = chance
        self._metadata = [(("authorization", f"Bearer {token}"),) for token in world.tokens]
        self._transfers = transfer_service_pb2_grpc.TransferServiceStub(channel)
        self._balances = account_service_pb2_grpc.AccountServiceStub(channel)
        # A request_id is used once, also by the next process.
        self._run, self._numbers = secrets.token_hex(6), itertools.count()
        self._stream: _Stream | None = None

    def of(self, kind: str, batch: int) -> Call:
        """The calls of a kind."""
        kinds: dict[str, Call] = {
            "transfer": lambda caller: self._transfer(caller, hot=False),
            "hot": lambda caller: self._transfer(caller, hot=True),
            "batch": lambda caller: self._batch(caller, batch),
            "stream": self._streamed,
            "balance": self._balance,
            "empty": self._balance,
        }
        return kinds[kind]

    async def _transfer(self, caller: int, *, hot: bool) -> int:
        response = await self._transfers.CreateTransfer(
            self._request(hot=hot), timeout=_TIMEOUT_SECONDS, metadata=self._of(caller)
        )
        if response.transfer.state != transfer_pb2.TRANSFER_STATE_COMPLETED:
            raise Unfinished(transfer_pb2.TransferState.Name(response.transfer.state))
        return 1

    async def _batch(self, caller: int, count: int) -> int:
        request = transfer_service_pb2.BatchCreateTransfersRequest(
            requests=[self._request(hot=False) for _ in range(count)]
        )
        response = await self._transfers.BatchCreateTransfers(
            request, timeout=_BATCH_TIMEOUT_SECONDS, metadata=self._of(caller)
        )
        for result in response.results:
            if result.transfer.state != transfer_pb2.TRANSFER_STATE_COMPLETED:
                raise Unfinished(result.status.message or transfer_pb2.TransferState.Name(result.transfer.state))
        return count

    async def _streamed(self, _caller: int) -> int:
        """One of those in flight on the one stream of this process."""
        if self._stream is None or self._stream.is_over:
            self._stream = _Stream(self._transfers, self._of(0))
        answer = await self._stream.ask(self._request(hot=False))
        if answer.transfer.state != transfer_pb2.TRANSFER_STATE_COMPLETED:
            raise Unfinished(answer.status.message or transfer_pb2.TransferState.Name(answer.transfer.state))
        return 1

    async def _balance(self, caller: int) -> int:
        request = account_service_pb2.GetBalanceRequest(name=self._chance.choice(self._accounts))
        await self._balances.GetBalance(request, timeout=_TIMEOUT_SECONDS, metadata=self._of(caller))
        return 1

    def _request(self, *, hot: bool) -> transfer_service_pb2.CreateTransferRequest:
        """A payment between two accounts; a hot one always debits the first."""
        debit = 0 if hot else self._chance.randrange(len(self._accounts))
        credit = (debit + self._chance.randrange(1, len(self._accounts))) % len(self._accounts)
        return transfer_service_pb2.CreateTransferRequest(
            debit_account=self._accounts[debit],
            credit_account=self._accounts[credit],
            amount=money_pb2.Money(currency_code=CURRENCY, minor_units=self._chance.randrange(1, 500)),
            creditor_name=self._names[credit],
            remittance="Invoice 2025-001",
            request_id=f"{self._run}-{next(self._numbers)}",
        )

    def _of(self, caller: int) -> tuple[tuple[str, str], ...]:
        return self._metadata[caller % len(self._metadata)]
