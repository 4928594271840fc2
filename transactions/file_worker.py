"""Makes the payments of files, a lot at a time, in any number of replicas, with the authority of who uploaded them.

Whatever dies, nothing is lost or doubled: an item is noted as begun before it is asked for, and is the same transfer
however often it is, by a request_id of the file and its place in it. Two replicas at one file would do the same twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from florin.transactions.v1 import transfer_service_pb2
from meshkit import clock, logs, outbox
from meshkit.database import ALL_TENANTS, Database
from meshkit.errors import (
    Contention,
    DeadlineExceeded,
    DeadlineTooShort,
    DomainError,
    Overloaded,
    Unavailable,
)
from meshkit.interceptors import fingerprint
from meshkit.waiting import finished, wait_at_most
from transactions import file_events, file_store, messages, store
from transactions.file_model import ITEM_METHOD, FileState, Item, ItemState, PaymentFile
from transactions.model import RESTING, State, Transfer
from transactions.operations import check
from transactions.orders import Declined, Orders
from transactions.settings import Settings

_LOT_SECONDS = 10.0
"""How long a lot is waited for; what is not answered by then is asked for again, or looked at later."""
_LEASE_SECONDS = 15.0
"""Longer than a lot takes: whoever does not come back by then is dead, and another replica goes on."""
_POLL_SECONDS = 1.0
_AGAIN_SECONDS, _AGAIN_SECONDS_MAX, _LOOK_AGAIN_SECONDS_MAX = 0.25, 5.0, 60.0
"""After a turn in which a file got no further: doubled each time, up to the second while something is asked for, which
an outage holds up, and up to the third while all is under way; a review may take days."""
_PAUSE_SECONDS_MAX = 5.0
_LOOK = 1000
_UNDECIDED = (Unavailable, Overloaded, DeadlineTooShort, DeadlineExceeded, Contention)
"""Refusals that say nothing about the payment: it is asked for again."""
_log = logs.get(__name__)
_rest = asyncio.sleep


@dataclass(frozen=True, slots=True)
class _Lot:
    """What is next for a file."""

    file: PaymentFile
    """As it is now."""
    to_ask: Sequence[Item] = ()
    """Noted as begun; nobody knows a transfer of them yet."""
    waits: bool = False
    """Whether more is to begin after it."""
    cancelled: int = 0


class FileWorker:
    """The worker of one replica."""

    def __init__(self, db: Database, orders: Orders, settings: Settings) -> None:
        self._db = db
        self._orders = orders
        self._settings = settings
        self._due = asyncio.Event()

    def wake(self) -> None:
        """Looks at once: a file came, or was cancelled."""
        self._due.set()

    async def run(self) -> None:
        """Works until it is cancelled; a lot that was begun is finished."""
        while True:
            self._due.clear()
            started, singles = time.monotonic(), self._orders.singles
            if await finished(self.work_once()):
                if self._orders.singles != singles:
                    # Others pay meanwhile: a file leaves them half of the time.
                    await _rest(min(time.monotonic() - started, _PAUSE_SECONDS_MAX))
                continue
            await wait_at_most(self._due, _POLL_SECONDS)

    async def work_once(self) -> bool:
        """One lot of the file that is due for longest; whether there was one."""

        async def take(conn: AsyncConnection) -> PaymentFile | None:
            return await file_store.take_due(conn, self._db.cipher, lease_seconds=_LEASE_SECONDS)

        file = await self._db.run(ALL_TENANTS, take)
        if file is None:
            return False
        lot = await self._db.run(file.tenant, lambda conn: self._next(conn, file))
        if lot.to_ask:
            results = await self._ask(lot.file, lot.to_ask)
            # One that can never be made is no reason not to look at those that were under way before.
            known = results.known if lot.waits else results.known + await self._look(lot.file)
            progressed = bool(results.known) and not results.stuck
            await self._record(lot.file, known, progressed=progressed, again_max=_AGAIN_SECONDS_MAX)
        elif lot.cancelled:
            await self._record(lot.file, (), progressed=True)
        else:
            ended = await self._look(lot.file)
            await self._record(lot.file, ended, progressed=bool(ended))
        return True

    async def _next(self, conn: AsyncConnection, taken: PaymentFile) -> _Lot:
        """What is to be done next, noted as begun under the file's lock, which a cancel takes as well."""
        cipher, limit = self._db.cipher, self._settings.payment_file_lot
        file = await file_store.get(conn, cipher, taken.tenant, taken.id, lock=True)
        if file is None or file.is_done:
            return _Lot(taken)
        if file.state is FileState.CANCELLING:
            cancelled = await file_store.cancel_waiting(conn, file, _LOOK)
            if cancelled:
                return _Lot(file, cancelled=cancelled)
        to_ask = await file_store.items(conn, cipher, file, states=[ItemState.UNDER_WAY], to_ask=True, limit=limit)
        if file.state is FileState.PROCESSING and len(to_ask) < limit:
            waiting = await file_store.items(conn, cipher, file, states=[ItemState.WAITING], limit=limit - len(to_ask))
            if waiting:
                await file_store.begin(conn, file, waiting)
                to_ask += waiting
            return _Lot(file, to_ask, waits=len(waiting) < file.counts[ItemState.WAITING])
        return _Lot(file, to_ask, waits=bool(file.counts[ItemState.WAITING]))

    async def _ask(self, file: PaymentFile, items: Sequence[Item]) -> _Results:
        """Asks for the transfers of items. Where something breaks that is no refusal, halves of them, so that the item
        at fault holds up no others; it is asked for again, and logged, as long as it is so."""
        results = _Results([], False)
        groups = deque([list(items)])
        while groups:
            group = groups.popleft()
            orders = [_order(file, item) for item in group]
            deadline = time.monotonic() + _LOT_SECONDS
            try:
                answers = await self._orders.create_batch(orders, deadline, bulk=True)
            except Exception as error:  # noqa: BLE001 - whatever one payment breaks, the others have to go on
                if isinstance(error, DomainError):
                    results.stuck = True  # everybody's: the queue is full, or this process ends
                elif len(group) == 1:
                    name = file.item_request_id(group[0].number)
                    _log.error("a payment of a file cannot be made", payment=name, exc_info=error)
                    results.stuck = True
                else:
                    middle = len(group) // 2
                    groups.extendleft((group[middle:], group[:middle]))
                continue
            for item, answer in zip(group, answers, strict=True):
                results.add(item, answer)
        return results

    async def _look(self, file: PaymentFile) -> list[Item]:
        """The items whose transfers have ended since they were asked for."""
        ended: list[Item] = []
        after = 0
        while True:

            async def read(conn: AsyncConnection, after: int = after) -> tuple[list[Item], dict[str, Transfer]]:
                items = await file_store.items(
                    conn,
                    self._db.cipher,
                    file,
                    states=[ItemState.UNDER_WAY],
                    to_ask=False,
                    after=after,
                    limit=_LOOK,
                )
                keys = [(file.tenant, item.transfer) for item in items]
                found = await store.present(conn, self._db.cipher, keys) if keys else []
                return items, {transfer.id: transfer for transfer in found}

            items, transfers = await self._db.run(file.tenant, read, read_only=True)
            ended += [
                after_it
                for item in items
                if (after_it := _with_transfer(item, transfers[item.transfer])).state is not ItemState.UNDER_WAY
            ]
            if len(items) < _LOOK or len(ended) >= _LOOK:
                return ended
            after = items[-1].number

    async def _record(
        self,
        taken: PaymentFile,
        items: Sequence[Item],
        *,
        progressed: bool,
        again_max: float = _LOOK_AGAIN_SECONDS_MAX,
    ) -> None:
        """Writes what became of items, and the file's end when it was the last; or when to look at it again."""

        async def work(conn: AsyncConnection) -> None:
            locked = await file_store.get(conn, self._db.cipher, taken.tenant, taken.id, lock=True)
            if locked is None or locked.is_done:
                return  # another worker was faster, after this one's lease: the end stays as it was told
            await file_store.record(conn, taken, sorted(items, key=lambda item: item.number))
            file = await file_store.get(conn, self._db.cipher, taken.tenant, taken.id)
            if file is None or file.is_done:
                return
            if file.counts[ItemState.WAITING] or file.counts[ItemState.UNDER_WAY]:
                seconds = 0.0 if progressed else min(_AGAIN_SECONDS * 2 ** min(file.attempts, 10), again_max)
                await file_store.postpone(conn, file, seconds, progressed=progressed)
                return
            moment = clock.now()
            finished = replace(
                file, state=FileState.FINISHED, version=file.version + 1, update_time=moment, finish_time=moment
            )
            await file_store.change_state(conn, finished)
            await outbox.append(conn, [file_events.of(finished)])

        await self._db.run(taken.tenant, work)


@dataclass(slots=True)
class _Results:
    """What asking for a lot came to."""

    known: list[Item]
    """What is known of: ended, or on its way under its transfer."""
    stuck: bool
    """Whether some could not be decided, or stand still: no more are begun at once."""

    def add(self, item: Item, answer: Transfer | DomainError) -> None:
        """Notes one answer."""
        if isinstance(answer, Transfer):
            self.known.append(_with_transfer(item, answer))
            self.stuck = self.stuck or not (answer.is_final or answer.state in RESTING)
        elif isinstance(answer, Declined):
            self.known.append(_with_transfer(item, answer.transfer))
        elif isinstance(answer, _UNDECIDED):
            self.stuck = True
        else:
            self.known.append(replace(item, state=ItemState.REFUSED, status=answer.to_status(), request=b""))


def _order(file: PaymentFile, item: Item) -> Transfer | DomainError:
    """The transfer of an item, the same each time, or its refusal."""
    request = transfer_service_pb2.CreateTransferRequest.FromString(item.request)
    request.request_id = file.item_request_id(item.number)
    order = messages.order(request, file.principal, fingerprint(request), request.request_id, ITEM_METHOD)
    try:
        check(order)
    except DomainError as refusal:
        return refusal
    return order


def _with_transfer(item: Item, transfer: Transfer) -> Item:
    """An item as its transfer has it."""
    known = replace(item, transfer=transfer.id, request=b"")
    match transfer.state:
        case State.COMPLETED | State.REVERSED:
            return replace(known, state=ItemState.COMPLETED)
        case State.DECLINED:
            return replace(known, state=ItemState.DECLINED, status=transfer.refusal)
        case _:
            return replace(known, state=ItemState.UNDER_WAY)
