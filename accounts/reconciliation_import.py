"""Takes the statements of settlement banks: one statement, one database transaction, whole or not at all."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import (
    errors,
    moments_store,
    reconciliation_events,
    reconciliation_intake,
    reconciliation_store,
    statement_store,
    statements,
    store,
)
from accounts.account_changes import last_part
from accounts.model import Account, AccountType
from accounts.moments import AsOf, Axis
from accounts.reconciliation_errors import (
    BankStatementAccountWrong,
    BankStatementExists,
    BankStatementNotContinuous,
)
from accounts.reconciliation_intake import Content
from accounts.reconciliation_model import (
    BankEntry,
    BankStatement,
    Books,
    Head,
    Item,
    ItemState,
    Side,
    StatementState,
    notices,
)
from florin.accounts.v1 import reconciliation_service_pb2 as pb
from meshkit import audit, clock, idempotency, outbox, uploads
from meshkit.cipher import Cipher
from meshkit.database import Database
from meshkit.identity import Call

DESCRIPTION = "reconciliation_items.description"
"""The purpose that what the bank says about an entry is sealed for."""
_RECEIVING_MAX = 4
"""Uploads that a process receives at once, one for each subject; it reads one at a time."""
_MICROSECOND = timedelta(microseconds=1)


class BankStatements:
    """Imports; what matches the items is `reconciliation_worker`."""

    def __init__(
        self, db: Database, *, bytes_max: int, entries_max: int, on_imported: Callable[[], None] = lambda: None
    ) -> None:
        self._db = db
        self._bytes_max = bytes_max
        self._entries_max = entries_max
        self._on_imported = on_imported
        self._places = uploads.Places(_RECEIVING_MAX, of_tenant_max=_RECEIVING_MAX)
        self._reading = asyncio.Lock()

    async def import_statement(
        self, call: Call, requests: AsyncIterator[pb.ImportBankStatementRequest]
    ) -> tuple[BankStatement, bool]:
        """A statement as it is now, and whether it was there already.

        Raises BankStatementInvalid, RequestIdReused, AccountNotFound, AccountTypeWrong, BankStatementAccountWrong,
        BankStatementExists, BankStatementNotContinuous; Overloaded, DeadlineExceeded for a sender that stands still.
        """
        with self._places.place(call):
            async with (
                reconciliation_intake.received(requests, bytes_max=self._bytes_max) as (upload, file),
                self._reading,
                reconciliation_intake.read(file, entries_max=self._entries_max) as content,
            ):
                keyed = replace(call, request_id=upload.request_id, fingerprint=upload.digest)
                await idempotency.claim(self._db, keyed, upload.account)

                async def work(conn: AsyncConnection) -> tuple[BankStatement, bool]:
                    return await add_statement(conn, keyed, self._db.cipher, upload.account, content)

                statement, was_there = await self._db.run(call.tenant, work, long=True)
        if not was_there:
            self._on_imported()
        return statement, was_there


async def add_statement(
    conn: AsyncConnection, call: Call, cipher: Cipher, account_name: str, content: Content
) -> tuple[BankStatement, bool]:
    """Records a statement with all its entries as items, or finds it. Raises as `import_statement`.

    Who imports another one of the account meanwhile is waited for, before anything is looked at.
    """
    account, head = await _settlement_account(conn, call, account_name), content.head
    _check_account(account, head)
    begun = await _locked_books(conn, call, account, head)
    there = await reconciliation_store.statement(conn, call.tenant, account=account.id, statement_id=head.statement_id)
    if there is not None:
        if there.content != content.digest:
            raise BankStatementExists(there.name, head.statement_id)
        return there, True
    last = await _last(conn, begun, head)
    statement = BankStatement(
        tenant=call.tenant,
        id=str(uuid.uuid5(idempotency.NAMESPACE, "\0".join([call.tenant, account.id, head.statement_id]))),
        account=account.id,
        number=begun.statements + 1,
        head=head,
        content=content.digest,
        entry_count=content.entries,
        first_entry=begun.bank_entries + 1,
        duplicate_count=0,
        notices=(),
        state=StatementState.IMPORTED,
        imported_by=call.who.subject,
        create_time=clock.now(),
        match_time=None,
    )
    duplicates = await _add_entries(conn, cipher, statement, content)
    told = notices(begun if last is not None else None, head, duplicates)
    statement = replace(statement, duplicate_count=duplicates, notices=told)
    await reconciliation_store.add_statement(conn, statement)
    books = replace(
        begun,
        bank_closing=head.closing,
        period_end=head.last,
        bank_number=head.bank_number,
        statements=statement.number,
        bank_entries=begun.bank_entries + content.entries,
    )
    await reconciliation_store.save_books(conn, books)
    await audit.record(
        conn, call, action="import_bank_statement", resource=statement.name, before=None, after=_audited(statement)
    )
    await outbox.append(conn, [reconciliation_events.bank_statement_imported(statement)])
    return statement, False


async def _settlement_account(conn: AsyncConnection, call: Call, name: str) -> Account:
    found = await store.accounts(conn, call.tenant, [last_part(name)])
    if not found:
        raise errors.AccountNotFound(name)
    if found[0].type is not AccountType.SETTLEMENT:
        raise errors.AccountTypeWrong(found[0].id, found[0].type, "only settlement accounts stand for one at a bank")
    return found[0]


def _check_account(account: Account, head: Head) -> None:
    ours = sorted(f"{one.kind}:{one.value}" for one in account.identifiers)
    if head.identifier not in ours or head.currency != account.currency:
        told = f"{', '.join(ours)} in {account.currency}" if ours else ""
        raise BankStatementAccountWrong(account.id, ours=told, stated=f"{head.identifier} in {head.currency}")


async def _locked_books(conn: AsyncConnection, call: Call, account: Account, head: Head) -> Books:
    """The reconciliation of the account, locked; begun if this is its first statement."""
    found = await reconciliation_store.books(conn, call.tenant, account.id, lock=True)
    if found is not None:
        return found
    # What was recorded before the statement's first day is what it opens with.
    _, time_zone, _ = await statement_store.tenant(conn, call.tenant)
    begin = statements.period(head.first, head.first, time_zone).start_time - _MICROSECOND
    (opening,) = await moments_store.balances(conn, [(call.tenant, account.id, None, AsOf(Axis.RECORDED, begin))])
    if opening is None:
        raise errors.AccountNotFound(f"accounts/{account.id}")
    first = Books(
        tenant=call.tenant,
        account=account.id,
        bank_opening=head.opening,
        ledger_opening=opening.posted,
        opening_sequence=opening.sequence,
        bank_closing=head.opening,
        period_end=head.first,
        bank_number=0,
        statements=0,
        bank_entries=0,
        ledger_sequence=opening.sequence,
        matched_statements=0,
        matched_sequence=opening.sequence,
    )
    if await reconciliation_store.add_books(conn, first):
        return first
    found = await reconciliation_store.books(conn, call.tenant, account.id, lock=True)
    if found is None:
        raise RuntimeError(f"the reconciliation of {account.id} was begun and is not there")
    return found


async def _last(conn: AsyncConnection, books: Books, head: Head) -> BankStatement | None:
    """The last statement; None before the first. Raises BankStatementNotContinuous."""
    found = await reconciliation_store.list_statements(
        conn, books.tenant, books.account, before=books.statements + 1, limit=1
    )
    if not found:
        return None
    if books.bank_closing != head.opening:
        raise BankStatementNotContinuous(
            found[0].name,
            head.currency,
            closing=books.bank_closing,
            opening=head.opening,
            period_end=books.period_end.isoformat(),
            start=head.first.isoformat(),
        )
    return found[0]


async def _add_entries(conn: AsyncConnection, cipher: Cipher, statement: BankStatement, content: Content) -> int:
    """Adds all entries as items; gives how many look like ones that were stated before."""
    number, duplicates = statement.first_entry, 0
    lots = content.lots()
    while (lot := await asyncio.to_thread(next, lots, None)) is not None:
        items = [_item(cipher, statement, number + at, entry, repeated) for at, (entry, repeated) in enumerate(lot)]
        stated = await reconciliation_store.stated(conn, statement.tenant, statement.account, items)
        stated |= _stated_within(items)
        items = [replace(item, manual=True, duplicate=True) if at in stated else item for at, item in enumerate(items)]
        await reconciliation_store.add_items(conn, statement.tenant, statement.account, items)
        number += len(items)
        duplicates += sum(item.duplicate for item in items)
    return duplicates


def _stated_within(items: list[Item]) -> set[int]:
    """The places of those items that look like ones before them."""
    seen: set[tuple[str, int, tuple[str, ...]]] = set()
    found = set()
    for at, item in enumerate(items):
        key = (item.servicer_reference, item.amount, item.references)
        if item.servicer_reference and key in seen:
            found.add(at)
        seen.add(key)
    return found


def _item(cipher: Cipher, statement: BankStatement, number: int, entry: BankEntry, repeated: bool) -> Item:
    return Item(
        side=Side.BANK,
        number=number,
        amount=entry.amount,
        value_day=entry.value_day,
        references=entry.references,
        state=ItemState.OPEN,
        match=None,
        manual=repeated,
        duplicate=repeated,
        batch_size=entry.batch_size,
        statement=statement.id,
        entry_reference=entry.entry_reference,
        servicer_reference=entry.servicer_reference,
        description=cipher.encrypt(entry.description, DESCRIPTION) if entry.description else b"",
    )


def _audited(statement: BankStatement) -> dict[str, object]:
    return {
        "account": f"accounts/{statement.account}",
        "statement_id": statement.head.statement_id,
        "period_end": statement.head.last.isoformat(),
        "closing_minor_units": statement.head.closing,
        "entries": statement.entry_count,
        "duplicates": statement.duplicate_count,
    }
