"""StatementService over gRPC: message → operation → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from google.api import httpbody_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import camt053, documents, messages, operations, statement_operations, statement_store, statements
from accounts.documents import Document
from accounts.statements import Statement, Totals
from florin.accounts.v1 import statement_pb2
from florin.accounts.v1 import statement_service_pb2 as pb
from florin.accounts.v1 import statement_service_pb2_grpc as pb_grpc
from meshkit import idempotency, identity, pages
from meshkit.database import Database
from meshkit.errors import DeadlineExceeded, Overloaded
from meshkit.identity import Call

_LOT_ENTRIES = 200
"""Entries that are read and written at once: a transaction, a message of some dozen kilobytes, a few milliseconds in
which nobody else's call is answered."""
_DOCUMENTS_MAX = 4
"""Documents that a process makes at once, one for each subject: more would only make each other slow, by turns."""
_NUMBER_MAX = 2**63 - 1
_WITH_TOTALS = (statement_pb2.STATEMENT_FORMAT_CAMT_053, statement_pb2.STATEMENT_FORMAT_PDF)
_NO_TOTALS = Totals(0, 0, 0, 0)


class StatementService(pb_grpc.StatementServiceServicer):
    """Statements for users."""

    def __init__(self, db: Database, *, entries_max: int) -> None:
        self._db = db
        self._entries_max = entries_max
        self._turn = asyncio.Lock()
        self._making: set[tuple[str, str]] = set()

    async def CreateStatement(self, request: pb.CreateStatementRequest, context: Any) -> pb.CreateStatementResponse:
        """Issues a statement."""
        call = identity.current()
        first = statements.day(request.period_start, "period_start")
        last = statements.day(request.period_end, "period_end")

        async def work(conn: AsyncConnection) -> pb.CreateStatementResponse:
            statement = await statement_operations.create_statement(
                conn, call, account=request.account, first=first, last=last, entries_max=self._entries_max
            )
            return pb.CreateStatementResponse(statement=messages.statement(statement))

        return await idempotency.answer(self._db, call, pb.CreateStatementResponse, work)

    async def GetStatement(self, request: pb.GetStatementRequest, context: Any) -> pb.GetStatementResponse:
        """Shows a statement."""
        statement = await self._statement(identity.current(), request.name)
        return pb.GetStatementResponse(statement=messages.statement(statement))

    async def ListStatements(self, request: pb.ListStatementsRequest, context: Any) -> pb.ListStatementsResponse:
        """Lists an account's statements, the newest first."""
        call = identity.current()
        size = pages.size(request.page_size)
        filter_text = f"{call.tenant}\0{request.account}"

        async def work(conn: AsyncConnection) -> pb.ListStatementsResponse:
            account = await operations.get_account(conn, call, request.account)
            key = pages.decode("statements", filter_text, request.page_token, [int])
            before = int(key[0]) if key else _NUMBER_MAX
            found = await statement_store.list_statements(conn, call.tenant, account.id, before=before, limit=size + 1)
            token = pages.encode("statements", filter_text, [found[size - 1].number]) if len(found) > size else ""
            return pb.ListStatementsResponse(
                statements=[messages.statement(one) for one in found[:size]], next_page_token=token
            )

        return await self._db.run(call.tenant, work, read_only=True)

    async def GetStatementDocument(
        self, request: pb.GetStatementDocumentRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        """Gives a statement's document in parts; nothing is held while the caller takes one."""
        call = identity.current()
        who = (call.tenant, call.who.subject)
        if len(self._making) >= _DOCUMENTS_MAX or who in self._making:
            raise Overloaded
        self._making.add(who)
        try:
            async for part in self._document(call, request):
                yield part
        finally:
            self._making.discard(who)

    async def _document(
        self, call: Call, request: pb.GetStatementDocumentRequest
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        statement = await self._statement(call, request.name)
        totals = await self._totals(statement) if request.format in _WITH_TOTALS else _NO_TOTALS
        if request.format == statement_pb2.STATEMENT_FORMAT_CAMT_053:
            camt053.check(statement, totals)
        document = documents.make(request.format, statement, totals)
        content_type = documents.CONTENT_TYPES[request.format]
        yield httpbody_pb2.HttpBody(content_type=content_type, data=document.head())
        after = statement.opening_sequence
        while after < statement.closing_sequence:
            if call.remaining_s() <= 0:
                raise DeadlineExceeded
            after, rows = await self._lot(statement, document, after)
            if rows:
                yield httpbody_pb2.HttpBody(data=rows)
        yield httpbody_pb2.HttpBody(data=document.tail())

    async def _statement(self, call: Call, name: str) -> Statement:
        return await self._db.run(
            call.tenant, lambda conn: statement_operations.get_statement(conn, call, name), read_only=True
        )

    async def _lot(self, statement: Statement, document: Document, after: int) -> tuple[int, bytes]:
        """The next entries of a document, and the sequence of the last.

        One lot of all documents at a time, by turns, and a pause as long as it took: documents of any number and length
        leave half of the process to those who pay.
        """
        async with self._turn:
            started = time.perf_counter()
            lot = await self._db.run(
                statement.tenant,
                lambda conn: statement_store.entries(conn, statement, after=after, limit=_LOT_ENTRIES),
                read_only=True,
            )
            if not lot or lot[0].sequence != after + 1:
                raise RuntimeError(f"{statement.name} lacks its entry {after + 1}")
            rows = document.rows(lot)
            await asyncio.sleep(time.perf_counter() - started)
        return lot[-1].sequence, rows

    async def _totals(self, statement: Statement) -> Totals:
        """Read by turns, as entries are: it is all of them once."""
        async with self._turn:
            return await self._db.run(
                statement.tenant, lambda conn: statement_store.totals(conn, statement), read_only=True
            )
