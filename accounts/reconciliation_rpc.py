"""ReconciliationService over gRPC: message → operation → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import (
    reconciliation_match_store,
    reconciliation_messages,
    reconciliation_operations,
    reconciliation_store,
)
from accounts.reconciliation_import import BankStatements
from accounts.reconciliation_model import Match, Side, compared, item_in
from accounts.reconciliation_store import Filter
from florin.accounts.v1 import reconciliation_pb2
from florin.accounts.v1 import reconciliation_service_pb2 as pb
from florin.accounts.v1 import reconciliation_service_pb2_grpc as pb_grpc
from meshkit import idempotency, identity, pages
from meshkit.database import Database
from meshkit.errors import PageTokenInvalid, RequestInvalid

_NEWEST = 2**62


class ReconciliationService(pb_grpc.ReconciliationServiceServicer):
    """Statements of banks, open items and matches, for staff."""

    def __init__(self, db: Database, imports: BankStatements) -> None:
        self._db = db
        self._imports = imports

    async def ImportBankStatement(
        self, requests: AsyncIterator[pb.ImportBankStatementRequest], context: Any
    ) -> pb.ImportBankStatementResponse:
        """Takes a statement of a bank."""
        statement, was_there = await self._imports.import_statement(identity.current(), requests)
        return pb.ImportBankStatementResponse(
            bank_statement=reconciliation_messages.bank_statement(statement), already_imported=was_there
        )

    async def GetBankStatement(self, request: pb.GetBankStatementRequest, context: Any) -> pb.GetBankStatementResponse:
        """Shows a statement."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.GetBankStatementResponse:
            found = await reconciliation_operations.get_bank_statement(conn, call, request.name)
            return pb.GetBankStatementResponse(bank_statement=reconciliation_messages.bank_statement(found))

        return await self._db.run(call.tenant, work, read_only=True)

    async def ListBankStatements(
        self, request: pb.ListBankStatementsRequest, context: Any
    ) -> pb.ListBankStatementsResponse:
        """Lists the statements of an account, the newest first."""
        call, size = identity.current(), pages.size(request.page_size)
        filter_text = f"{call.tenant}\0{request.account}"
        key = pages.decode("bankStatements", filter_text, request.page_token, [int])

        async def work(conn: AsyncConnection) -> pb.ListBankStatementsResponse:
            account = await reconciliation_operations.known_account(conn, call, request.account)
            found = await reconciliation_store.list_statements(
                conn, call.tenant, account.id, before=int(key[0]) if key else _NEWEST, limit=size + 1
            )
            token = pages.encode("bankStatements", filter_text, [found[size - 1].number]) if len(found) > size else ""
            return pb.ListBankStatementsResponse(
                bank_statements=[reconciliation_messages.bank_statement(one) for one in found[:size]],
                next_page_token=token,
            )

        return await self._db.run(call.tenant, work, read_only=True)

    async def ListOpenItems(self, request: pb.ListOpenItemsRequest, context: Any) -> pb.ListOpenItemsResponse:
        """Lists what has no counterpart."""
        call, size = identity.current(), pages.size(request.page_size)
        asked = Filter(side=Side(request.side) if request.side else None, reference=compared(request.reference))
        told = (request.account, str(int(request.side)), str(request.age_days_min), asked.reference)
        filter_text = "\0".join([call.tenant, *told])
        key = _place(pages.decode("openItems", filter_text, request.page_token, [int, int]))

        async def work(conn: AsyncConnection) -> pb.ListOpenItemsResponse:
            account, today, found = await reconciliation_operations.list_open_items(
                conn, call, request.account, asked, age_days=request.age_days_min, after=key, limit=size + 1
            )
            last = found[size - 1] if len(found) > size else None
            return pb.ListOpenItemsResponse(
                items=[
                    reconciliation_messages.item(one, account, self._db.cipher, today=today) for one in found[:size]
                ],
                next_page_token=""
                if last is None
                else pages.encode("openItems", filter_text, [last.side.value, last.number]),
            )

        return await self._db.run(call.tenant, work, read_only=True)

    async def GetReconciliation(
        self, request: pb.GetReconciliationRequest, context: Any
    ) -> pb.GetReconciliationResponse:
        """Shows how the bank and the ledger differ."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.GetReconciliationResponse:
            account, summary = await reconciliation_operations.get_reconciliation(
                conn, call, request.name.removesuffix("/reconciliation")
            )
            return pb.GetReconciliationResponse(reconciliation=reconciliation_messages.reconciliation(account, summary))

        return await self._db.run(call.tenant, work, read_only=True)

    async def MatchItems(self, request: pb.MatchItemsRequest, context: Any) -> pb.MatchItemsResponse:
        """Proposes that open items belong together."""
        call = identity.current()
        ledger = _numbers("ledger_items", request.account, request.ledger_items)
        bank = _numbers("bank_items", request.account, request.bank_items)

        async def work(conn: AsyncConnection) -> Match:
            return await reconciliation_operations.match_items(
                conn, call, request.account, ledger=ledger, bank=bank, note=request.note
            )

        return await self._changed(pb.MatchItemsResponse, work)

    async def ResolveItem(self, request: pb.ResolveItemRequest, context: Any) -> pb.ResolveItemResponse:
        """Proposes that nothing is to come for an open item."""
        call = identity.current()
        account, side, number = item_in(request.name)

        async def work(conn: AsyncConnection) -> Match:
            return await reconciliation_operations.resolve_item(
                conn, call, f"accounts/{account}", side=side, number=number, note=request.note
            )

        return await self._changed(pb.ResolveItemResponse, work)

    async def UndoItemMatch(self, request: pb.UndoItemMatchRequest, context: Any) -> pb.UndoItemMatchResponse:
        """Proposes to undo a match that holds."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> Match:
            return await reconciliation_operations.undo_item_match(conn, call, name=request.name, note=request.note)

        return await self._changed(pb.UndoItemMatchResponse, work)

    async def ApproveItemMatch(self, request: pb.ApproveItemMatchRequest, context: Any) -> pb.ApproveItemMatchResponse:
        """Does what waits for a second person."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> Match:
            return await reconciliation_operations.approve_item_match(conn, call, name=request.name)

        return await self._changed(pb.ApproveItemMatchResponse, work)

    async def RejectItemMatch(self, request: pb.RejectItemMatchRequest, context: Any) -> pb.RejectItemMatchResponse:
        """Leaves what waits for a second person undone."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> Match:
            return await reconciliation_operations.reject_item_match(
                conn, call, name=request.name, reason=request.reason
            )

        return await self._changed(pb.RejectItemMatchResponse, work)

    async def GetItemMatch(self, request: pb.GetItemMatchRequest, context: Any) -> pb.GetItemMatchResponse:
        """Shows a match with its items."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.GetItemMatchResponse:
            found = await reconciliation_operations.get_item_match(conn, call, request.name)
            return pb.GetItemMatchResponse(item_match=await _shown(conn, found))

        return await self._db.run(call.tenant, work, read_only=True)

    async def ListItemMatches(self, request: pb.ListItemMatchesRequest, context: Any) -> pb.ListItemMatchesResponse:
        """Lists the matches of an account, the newest first."""
        call, size = identity.current(), pages.size(request.page_size)
        filter_text = f"{call.tenant}\0{request.account}\0{int(request.state)}"
        before = pages.id_in(pages.decode("itemMatches", filter_text, request.page_token, [str]))

        async def work(conn: AsyncConnection) -> pb.ListItemMatchesResponse:
            account = await reconciliation_operations.known_account(conn, call, request.account)
            found = await reconciliation_match_store.list_matches(
                conn, call.tenant, account.id, state=int(request.state), before=before, limit=size + 1
            )
            token = pages.encode("itemMatches", filter_text, [found[size - 1].id]) if len(found) > size else ""
            return pb.ListItemMatchesResponse(
                item_matches=[
                    reconciliation_messages.item_match(one, account.currency, with_items=False) for one in found[:size]
                ],
                next_page_token=token,
            )

        return await self._db.run(call.tenant, work, read_only=True)

    async def _changed[A: Any](self, response: type[A], work: Callable[[AsyncConnection], Awaitable[Match]]) -> A:
        """The answer with the match that a change gave."""
        call = identity.current()

        async def answer(conn: AsyncConnection) -> A:
            made: A = response(item_match=await _shown(conn, await work(conn)))
            return made

        return await idempotency.answer(self._db, call, response, answer)


async def _shown(conn: AsyncConnection, match: Match) -> reconciliation_pb2.ItemMatch:
    currency = await reconciliation_store.currency(conn, match.tenant, match.account)
    return reconciliation_messages.item_match(match, currency)


def _numbers(field: str, account: str, names: Sequence[str]) -> list[int]:
    """The numbers of items, whose form the contract has checked. Raises RequestInvalid for another account's."""
    wrong = [
        (f"{field}[{at}]", f"is not of {account}")
        for at, name in enumerate(names)
        if f"accounts/{item_in(name)[0]}" != account
    ]
    if wrong:
        raise RequestInvalid(wrong)
    return [item_in(name)[2] for name in names]


def _place(key: list[str | int] | None) -> tuple[Side, int] | None:
    """The item in a page token; None for the first page. Raises PageTokenInvalid when a made-up one has none."""
    if key is None:
        return None
    try:
        return Side(int(key[0])), int(key[1])
    except ValueError:
        raise PageTokenInvalid from None
