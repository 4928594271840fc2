"""What the service does with files of payments: one function, one use case, one database transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from weakref import WeakValueDictionary

from sqlalchemy.ext.asyncio import AsyncConnection

from florin.transactions.v1 import payment_file_service_pb2 as pb
from meshkit import audit, clock, idempotency, outbox, pages, uploads
from meshkit.database import Database
from meshkit.errors import PageTokenInvalid
from meshkit.identity import Call, Principal
from transactions import file_events, file_intake, file_store, listing
from transactions.file_errors import PaymentFileExists, PaymentFileFinished, PaymentFileNotFound
from transactions.file_intake import Content
from transactions.file_model import FileState, Item, ItemState, PaymentFile, Upload, file_id, message_key
from transactions.recurrence import local_day
from transactions.settings import Settings
from transactions.waiters import Waiters

_RECEIVING_MAX, _RECEIVING_PER_TENANT_MAX, _READING_MAX = 8, 2, 2
"""Uploads that a process receives at once, one for each subject, and those that it reads, one for each tenant.
Receiving waits for the sender, who may be slow and is to hold up no others; reading more only makes each other slow."""


class PaymentFiles:
    """The use cases; what makes the payments is `file_worker`."""

    def __init__(
        self, db: Database, waiters: Waiters, settings: Settings, *, on_due: Callable[[], None] = lambda: None
    ) -> None:
        self._db = db
        self._waiters = waiters
        self._settings = settings
        self._on_due = on_due
        self._places = uploads.Places(_RECEIVING_MAX, of_tenant_max=_RECEIVING_PER_TENANT_MAX)
        self._reading = asyncio.Semaphore(_READING_MAX)
        self._reading_tenants: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def upload(self, call: Call, requests: AsyncIterator[pb.UploadPaymentFileRequest]) -> PaymentFile:
        """Takes a file, or finds it. Raises PaymentFileTooLarge, PaymentFileInvalid, PaymentFileExists, Overloaded,
        DeadlineExceeded for a sender that stands still."""
        settings = self._settings
        with self._places.place(call):
            async with (
                file_intake.received(requests, bytes_max=settings.payment_file_bytes_max) as (upload, data),
                self._turn(call.tenant),
            ):
                found = await self._find(call.who, file_id(call.who, upload))
                if found is not None:
                    return found
                today = local_day(clock.now(), settings.business_time_zone)
                items_max = settings.payment_file_items_max
                async with file_intake.read(upload, data, self._db.cipher, today=today, items_max=items_max) as content:
                    file = await self._record(call, _new(call, upload, content), content)
        self._on_due()
        return file

    async def _record(self, call: Call, file: PaymentFile, content: Content) -> PaymentFile:
        """The file with all its items in one transaction, which takes seconds for many; or the one that is there."""

        async def work(conn: AsyncConnection) -> PaymentFile:
            if not await file_store.insert(conn, self._db.cipher, file):
                there = await file_store.get(conn, self._db.cipher, file.tenant, file.id)
                if there is not None:
                    return there
                other = await file_store.find_by_message(conn, file.tenant, file.message_key)
                raise PaymentFileExists(f"paymentFiles/{other}", file.message_id)
            lots = content.lots()
            while (lot := await asyncio.to_thread(next, lots, None)) is not None:
                await file_store.insert_items(conn, file, lot)
            await outbox.append(conn, [file_events.of(file)])
            if call.who.is_staff:
                await audit.record(
                    conn,
                    call,
                    action="upload_payment_file",
                    resource=file.name,
                    before=None,
                    after={"sha256": file.sha256, "payments": file.items},
                )
            return file

        return await self._db.run(call.tenant, work, long=True)

    async def get(self, principal: Principal, id_: str) -> PaymentFile:
        """A file that the caller may see. Raises PaymentFileNotFound."""
        file = await self._find(principal, id_)
        if file is None:
            raise PaymentFileNotFound(f"paymentFiles/{id_}")
        return file

    async def list_page(self, principal: Principal, page_size: int, page_token: str) -> tuple[list[PaymentFile], str]:
        """A page of files, the newest first, and the next page's token. Raises PageTokenInvalid."""
        scope = f"{principal.tenant}\0{principal.customer or ''}"

        async def read(conn: AsyncConnection, after: listing.Position | None, limit: int) -> list[PaymentFile]:
            return await file_store.list_page(
                conn,
                self._db.cipher,
                tenant=principal.tenant,
                customer=principal.customer,
                after=after,
                limit=limit,
            )

        return await listing.paged(
            self._db,
            principal.tenant,
            read,
            kind="payment_files",
            scope=scope,
            page_size=page_size,
            page_token=page_token,
        )

    async def wait(self, principal: Principal, id_: str, seconds: float) -> PaymentFile:
        """The file as soon as it is finished, or as it is after `seconds`. Raises PaymentFileNotFound."""
        deadline, pause = time.monotonic() + seconds, 0.1
        while True:
            with self._waiters.waiting(principal.tenant, f"paymentFiles/{id_}") as drained:
                file = await self.get(principal, id_)
                remaining = deadline - time.monotonic()
                if file.is_done or remaining <= 0 or self._waiters.drained:
                    return file
                # Any replica may finish it, which nobody tells this one.
                await asyncio.wait({drained}, timeout=min(remaining, pause))
                pause = min(pause * 1.5, 1.0)

    async def cancel(self, call: Call, id_: str) -> PaymentFile:
        """Keeps what has not begun of a file from beginning. Raises RequestIdReused, PaymentFileNotFound,
        PaymentFileFinished."""
        await idempotency.claim(self._db, call, f"paymentFiles/{id_}")

        async def work(conn: AsyncConnection) -> PaymentFile:
            file = await file_store.get(conn, self._db.cipher, call.tenant, id_, lock=True)
            if file is None or not file.visible_to(call.who):
                raise PaymentFileNotFound(f"paymentFiles/{id_}")
            if file.was_cancelled:
                return file
            if file.is_done:
                raise PaymentFileFinished(file.name)
            cancelled = replace(
                file,
                state=FileState.CANCELLING,
                version=file.version + 1,
                update_time=clock.now(),
                traceparent=call.traceparent,
            )
            await file_store.change_state(conn, cancelled)
            await outbox.append(conn, [file_events.of(cancelled)])
            if call.who.is_staff:
                await audit.record(
                    conn,
                    call,
                    action="cancel_payment_file",
                    resource=file.name,
                    before={"waiting": file.counts[ItemState.WAITING]},
                    after=None,
                )
            return cancelled

        file = await self._db.run(call.tenant, work)
        self._on_due()
        return file

    async def items(
        self, principal: Principal, id_: str, *, state: ItemState | None, page_size: int, page_token: str
    ) -> tuple[list[Item], str]:
        """A page of a file's items in their order. Raises PaymentFileNotFound, PageTokenInvalid."""
        file = await self.get(principal, id_)
        scope = f"{file.tenant}\0{file.id}\0{state or ''}"
        position = pages.decode("payment_file_items", scope, page_token, shape=(int,))
        after = int(position[0]) if position else 0
        if not 0 <= after < 2**31:
            raise PageTokenInvalid
        limit = pages.size(page_size)
        found = await self.lot(file, after=after, limit=limit + 1, state=state)
        page = found[:limit]
        token = pages.encode("payment_file_items", scope, [page[-1].number]) if len(found) > limit else ""
        return page, token

    async def lot(self, file: PaymentFile, *, after: int, limit: int, state: ItemState | None = None) -> list[Item]:
        """Some of a file's items after a place in it, without their requests."""

        async def read(conn: AsyncConnection) -> list[Item]:
            states = (state,) if state is not None else ()
            return await file_store.items(
                conn, self._db.cipher, file, after=after, limit=limit, states=states, requests=False
            )

        return await self._db.run(file.tenant, read, read_only=True)

    async def _find(self, principal: Principal, id_: str) -> PaymentFile | None:
        async def read(conn: AsyncConnection) -> PaymentFile | None:
            return await file_store.get(conn, self._db.cipher, principal.tenant, id_)

        file = await self._db.run(principal.tenant, read, read_only=True)
        return file if file is not None and file.visible_to(principal) else None

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncIterator[None]:
        """A turn to read what was received, which is waited for as long as the call lives."""
        alone = self._reading_tenants.setdefault(tenant, asyncio.Lock())
        async with alone, self._reading:
            yield


def _new(call: Call, upload: Upload, content: Content) -> PaymentFile:
    moment = clock.now()
    return PaymentFile(
        id=file_id(call.who, upload),
        principal=call.who,
        format=upload.format,
        message_id=content.message_id,
        message_key=message_key(call.who, content.initiating_party, content.message_id),
        initiating_party=content.initiating_party,
        sha256=upload.sha256,
        size_bytes=upload.size_bytes,
        items=content.items,
        counts={state: content.counts[state] for state in ItemState},
        create_time=moment,
        update_time=moment,
        traceparent=call.traceparent,
    )
