"""ExchangeService over gRPC: message → operation → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from florin.transactions.v1 import exchange_service_pb2 as pb
from florin.transactions.v1 import exchange_service_pb2_grpc as pb_grpc
from meshkit import idempotency, identity, money, pages
from meshkit.database import Database
from transactions import exchange_messages, exchange_operations, exchange_store
from transactions.exchange import ExchangeRate, PositionAccount, Quote
from transactions.ports import Ledger
from transactions.settings import Settings


class ExchangeServicer(pb_grpc.ExchangeServiceServicer):
    """florin.transactions.v1.ExchangeService."""

    def __init__(self, db: Database, ledger: Ledger, settings: Settings) -> None:
        self._db = db
        self._ledger = ledger
        self._settings = settings

    async def ImportExchangeRates(
        self, request: pb.ImportExchangeRatesRequest, context: Any
    ) -> pb.ImportExchangeRatesResponse:
        """See the contract."""
        call = identity.current()
        wanted = [exchange_messages.wanted_rate(rate, call) for rate in request.exchange_rates]
        exchange_operations.check_rates(wanted)

        async def work(conn: AsyncConnection) -> pb.ImportExchangeRatesResponse:
            made = await exchange_operations.import_rates(conn, call, wanted)
            return pb.ImportExchangeRatesResponse(exchange_rates=map(exchange_messages.exchange_rate, made))

        return await idempotency.answer(self._db, call, pb.ImportExchangeRatesResponse, work)

    async def GetExchangeRate(self, request: pb.GetExchangeRateRequest, context: Any) -> pb.GetExchangeRateResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> ExchangeRate:
            return await exchange_operations.get_rate(conn, call.tenant, request.name, request.version)

        rate = await self._db.run(call.tenant, work, read_only=True)
        return pb.GetExchangeRateResponse(exchange_rate=exchange_messages.exchange_rate(rate))

    async def ListExchangeRates(
        self, request: pb.ListExchangeRatesRequest, context: Any
    ) -> pb.ListExchangeRatesResponse:
        """See the contract."""
        call, size = identity.current(), pages.size(request.page_size)
        key = pages.decode("exchange_rates", call.tenant, request.page_token, [str, str])
        after = (str(key[0]), str(key[1])) if key else ("", "")

        async def work(conn: AsyncConnection) -> list[ExchangeRate]:
            return await exchange_store.list_rates(conn, call.tenant, after=after, limit=size + 1)

        found = await self._db.run(call.tenant, work, read_only=True)
        page, token = found[:size], ""
        if len(found) > size:
            token = pages.encode("exchange_rates", call.tenant, [page[-1].base, page[-1].counter])
        return pb.ListExchangeRatesResponse(
            exchange_rates=map(exchange_messages.exchange_rate, page), next_page_token=token
        )

    async def SetPositionAccount(
        self, request: pb.SetPositionAccountRequest, context: Any
    ) -> pb.SetPositionAccountResponse:
        """See the contract."""
        call = identity.current()
        wanted = exchange_messages.wanted_position(request.position_account, call)
        await exchange_operations.check_position(self._ledger, wanted)

        async def work(conn: AsyncConnection) -> pb.SetPositionAccountResponse:
            made = await exchange_operations.set_position_account(conn, call, wanted)
            return pb.SetPositionAccountResponse(position_account=exchange_messages.position_account(made))

        return await idempotency.answer(self._db, call, pb.SetPositionAccountResponse, work)

    async def ListPositionAccounts(
        self, request: pb.ListPositionAccountsRequest, context: Any
    ) -> pb.ListPositionAccountsResponse:
        """See the contract."""
        call, size = identity.current(), pages.size(request.page_size)
        key = pages.decode("position_accounts", call.tenant, request.page_token, [str])
        after = str(key[0]) if key else ""

        async def work(conn: AsyncConnection) -> list[PositionAccount]:
            return await exchange_store.list_positions(conn, call.tenant, after=after, limit=size + 1)

        found = await self._db.run(call.tenant, work, read_only=True)
        page = found[:size]
        token = pages.encode("position_accounts", call.tenant, [page[-1].currency]) if len(found) > size else ""
        return pb.ListPositionAccountsResponse(
            position_accounts=map(exchange_messages.position_account, page), next_page_token=token
        )

    async def CreateQuote(self, request: pb.CreateQuoteRequest, context: Any) -> pb.CreateQuoteResponse:
        """See the contract."""
        call = identity.current()
        wanted = exchange_messages.wanted_quote(request)
        for currency in (wanted.debit_currency, wanted.credit_currency):
            money.exponent(currency)

        async def work(conn: AsyncConnection) -> pb.CreateQuoteResponse:
            quote = await exchange_operations.create_quote(conn, call, wanted, self._settings)
            return pb.CreateQuoteResponse(quote=exchange_messages.quote(quote))

        return await idempotency.answer(self._db, call, pb.CreateQuoteResponse, work)

    async def GetQuote(self, request: pb.GetQuoteRequest, context: Any) -> pb.GetQuoteResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> tuple[Quote, str]:
            return await exchange_operations.get_quote(conn, call.who, request.name)

        quote, transfer = await self._db.run(call.tenant, work, read_only=True)
        return pb.GetQuoteResponse(quote=exchange_messages.quote(quote, transfer))
