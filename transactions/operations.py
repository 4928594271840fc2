"""What the transactions service does: one function, one use case; the saga's passes are in passes.py."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from google.rpc import status_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import audit, iban, idempotency, logs, money, pages
from meshkit.batching import FEW_ITEMS_MAX, Batcher
from meshkit.database import Database
from meshkit.errors import (
    DeadlineExceeded,
    DomainError,
    PageTokenInvalid,
    RecordedRefusal,
    RequestIdReused,
    StaffOnly,
)
from meshkit.identity import Call, Principal
from transactions import errors, store
from transactions import filter as filters
from transactions.model import State, Transfer
from transactions.passes import Passes, crash
from transactions.ports import Ledger
from transactions.settings import Settings
from transactions.waiters import Waiters

_log = logs.get(__name__)

ANSWER_BEFORE_DEADLINE_SECONDS = 0.05
"""The present state is answered this long before the caller's deadline, so that the answer arrives."""
_PASS_BESIDE_MIN = 24
"""While one pass waits for accounts, compliance can screen the next; a pass of fewer costs nearly as much."""


@dataclass(slots=True)
class Order:
    """A new transfer on its way through the batches."""

    transfer: Transfer
    bulk: bool = False
    """Whether it is one of many."""
    recorded: Transfer | None = None
    """Set as soon as its intent is durable."""
    passed: asyncio.Future[Transfer] | None = None
    """The transfer after a pass, where it was handed on to one."""


class Transfers:
    """The use cases. Callers at the same time share the commits and the steps: two batchers, one after the other, so
    that a step which hangs holds up no intent."""

    def __init__(self, db: Database, passes: Passes, ledger: Ledger, waiters: Waiters, settings: Settings) -> None:
        self._db = db
        self._passes = passes
        self._ledger = ledger
        self._waiters = waiters
        self._settings = settings
        batches = {"batch_max": settings.batch_max, "concurrency": settings.passes_in_flight}
        self._intents: Batcher[Order, Transfer] = Batcher("intents", self._record_orders, **batches)
        self._under_way: Batcher[Transfer, Transfer] = Batcher(
            "passes", self._pass_on, beside_min=_PASS_BESIDE_MIN, **batches
        )

    async def run(self) -> None:
        """Processes batches until it is cancelled; what was begun is finished."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._intents.run(), name="intents")
            group.create_task(self._under_way.run(), name="passes")

    async def create(self, transfer: Transfer, deadline: float) -> Transfer:
        """Records a transfer and brings it to its end; shortly before `deadline` gives its present state.

        Raises the refusals of CreateTransfer, DeadlineExceeded when not even the intent was recorded in time.
        """
        order = Order(transfer)
        try:
            async with _in_time(deadline) as limit:
                await self._intents.submit(order, deadline=deadline)
                return _or_raise(await self._passed(order))
        except TimeoutError:
            if not limit.expired():
                raise
            return _or_raise(_present(order))

    async def create_batch(
        self, transfers: Sequence[Transfer | DomainError], deadline: float
    ) -> list[Transfer | DomainError]:
        """As `create`, for many; a refusal stands in its item's place."""
        items = [item for item in transfers if isinstance(item, Transfer)]
        bulk = len(items) > FEW_ITEMS_MAX
        results = iter(await self._settle([Order(item, bulk) for item in items], deadline, bulk=bulk))
        return [next(results) if isinstance(item, Transfer) else item for item in transfers]

    async def _settle(self, orders: Sequence[Order], deadline: float, *, bulk: bool) -> list[Transfer | DomainError]:
        try:
            async with _in_time(deadline) as limit:
                answers = await self._intents.submit_all(orders, deadline=deadline, bulk=bulk)
                return [
                    await self._passed(order) if isinstance(answer, Transfer) else _refused(answer)
                    for order, answer in zip(orders, answers, strict=True)
                ]
        except TimeoutError:
            if not limit.expired():
                raise
            return [_present(order) for order in orders]

    async def reverse(self, original_id: str, reversal: Transfer, call: Call) -> Transfer:
        """Moves a completed transfer's money back by a transfer of its own; audited.

        Raises RequestIdReused, TransferNotFound, TransferNotCompleted, TransferReversed.
        """

        async def record(conn: AsyncConnection) -> Transfer:
            # Locked first: copies of a request that come at once are answered one after the other.
            original = await store.get(conn, self._db.cipher, reversal.tenant, original_id, lock=True)
            asked = (reversal.tenant, reversal.request_key, reversal.id)
            made = await store.find_by_request(conn, self._db.cipher, [asked])
            if made:
                return _same_request(made[0], reversal)
            if original is None:
                raise errors.TransferNotFound(f"transfers/{original_id}")
            live = await store.live_reversal(conn, self._db.cipher, reversal.tenant, original_id)
            if live is not None:
                raise errors.TransferReversed(original.name, live.name)
            if original.state is not State.COMPLETED:
                raise errors.TransferNotCompleted(original.name, original.state)
            order = replace(
                reversal,
                debit_account=original.credit_account,
                credit_account=original.debit_account,
                currency=original.currency,
                amount=original.amount,
                end_to_end_id=original.end_to_end_id,
                customers=original.customers,
            )
            if not await store.insert_intents(conn, self._db.cipher, [order], self._lease_seconds):
                # The same request_id reversed another transfer since we looked: there was no lock to wait for.
                return _same_request((await store.find_by_request(conn, self._db.cipher, [asked]))[0], reversal)
            await audit.record(
                conn,
                call,
                action="reverse_transfer",
                resource=original.name,
                before={"state": original.state},
                after={"reversal": order.name},
                why=reversal.remittance,
            )
            return order

        async def begin() -> Order:
            order = Order(reversal, recorded=await self._db.run(reversal.tenant, record))
            self._hand_on([order])
            return order

        # Once it is recorded it goes on to its pass, also when the caller goes away.
        order = await asyncio.shield(asyncio.ensure_future(begin()))
        try:
            async with _in_time(call.deadline) as limit:
                return _or_raise(await self._passed(order))
        except TimeoutError:
            if not limit.expired():
                raise
            return _or_raise(_present(order))

    async def cancel(self, call: Call, id_: str) -> Transfer:
        """Declines a transfer that is not final; once this gives it back, its money will not move.

        Cancelling a cancelled transfer changes nothing, so a request_id needs no record of its answer, only of what
        it was used for. Raises RequestIdReused, TransferNotFound, TransferFinal, StaffOnly for a customer and a
        reversal, or Unavailable when accounts cannot promise it now.
        """
        await idempotency.claim(self._db, call, f"transfers/{id_}")
        # Once the posting is made impossible the rest has to follow, also when the caller goes away.
        return await asyncio.shield(asyncio.ensure_future(self._cancel(call, id_)))

    async def _cancel(self, call: Call, id_: str) -> Transfer:
        transfer = await self.get(call.who, id_)
        if transfer.reversal_of and not call.who.is_staff:
            raise StaffOnly  # who may not reverse may not stop a reversal
        if transfer.state is State.DECLINED and _was_cancelled(transfer):
            return transfer
        if transfer.is_final:
            raise errors.TransferFinal(transfer.name, transfer.state)
        if call.who.is_staff:
            await self._audit_cancel(call, transfer)
        outcome = (await self._ledger.cancel([transfer]))[0]
        if outcome.refusal is None:
            # It was posted; the outcome may not be written yet.
            (transfer,) = await self._passes.advance([transfer])
            raise errors.TransferFinal(transfer.name, State.COMPLETED)
        cancelled = await self._passes.decline_cancelled(transfer)
        if cancelled.state is not State.DECLINED:
            raise errors.TransferFinal(cancelled.name, cancelled.state)
        return cancelled

    async def _audit_cancel(self, call: Call, transfer: Transfer) -> None:
        """Before it is done: whatever fails after it, nothing was done unaudited."""

        async def record(conn: AsyncConnection) -> None:
            await audit.record(
                conn,
                call,
                action="cancel_transfer",
                resource=transfer.name,
                before={"state": transfer.state},
                after=None,
            )

        await self._db.run(call.tenant, record)

    async def get(self, principal: Principal, id_: str) -> Transfer:
        """A transfer that the caller may see. Raises TransferNotFound."""

        async def read(conn: AsyncConnection) -> Transfer | None:
            return await store.get(conn, self._db.cipher, principal.tenant, id_)

        transfer = await self._db.run(principal.tenant, read, read_only=True)
        if transfer is None or not transfer.visible_to(principal):
            raise errors.TransferNotFound(f"transfers/{id_}")
        return transfer

    async def wait(self, principal: Principal, id_: str, seconds: float) -> Transfer:
        """The transfer as soon as it is final or in review, or as it is after `seconds`. Raises TransferNotFound."""
        deadline, pause = time.monotonic() + seconds, 0.1
        while not self._waiters.drained:
            with self._waiters.waiting(principal.tenant, id_) as changed:
                transfer = await self.get(principal, id_)
                remaining = deadline - time.monotonic()
                if transfer.is_final or transfer.state is State.IN_REVIEW or remaining <= 0:
                    return transfer
                # Another replica may finish it, which nobody tells this one: so it looks again now and then, less often
                # the longer it takes, since a thousand callers may wait for a service that is down.
                await asyncio.wait({changed}, timeout=min(remaining, pause))
                pause = min(pause * 1.5, 1.0)
        return await self.get(principal, id_)

    async def list_page(
        self, principal: Principal, filter_text: str, page_size: int, page_token: str
    ) -> tuple[list[Transfer], str]:
        """A page of transfers, the newest first, and the next page's token. Raises FilterInvalid, PageTokenInvalid."""
        conditions = filters.parse(filter_text)
        scope = f"{principal.tenant}\0{principal.customer or ''}\0{filter_text}"
        position = pages.decode("transfers", scope, page_token, shape=(str, str))
        after = _position(position) if position else None
        limit = pages.size(page_size)

        async def read(conn: AsyncConnection) -> list[Transfer]:
            return await store.list_page(
                conn,
                self._db.cipher,
                tenant=principal.tenant,
                customer=principal.customer,
                conditions=conditions,
                after=after,
                limit=limit + 1,
            )

        found = await self._db.run(principal.tenant, read, read_only=True)
        page = found[:limit]
        more = len(found) > limit
        token = pages.encode("transfers", scope, [page[-1].create_time.isoformat(), page[-1].id]) if more else ""
        return page, token

    async def _record_orders(self, orders: Sequence[Order]) -> list[Transfer | DomainError]:
        """A batch's intents in one durable transaction. What is not final goes on from here, whoever waits for it."""
        results = await self._record_intents([order.transfer for order in orders])
        for order, result in zip(orders, results, strict=True):
            if isinstance(result, Transfer):
                order.recorded = result
        crash(self._settings, "after-intent")
        self._hand_on(orders)
        return results

    def _hand_on(self, orders: Sequence[Order]) -> None:
        """Puts those recorded orders among the ones that wait for a pass whose transfers can go on."""
        open_ = [
            (order, order.recorded)
            for order in orders
            if order.recorded is not None
            and not order.recorded.is_final
            and order.recorded.state is not State.IN_REVIEW
        ]
        try:
            passed = self._under_way.enqueue(
                [recorded for _, recorded in open_],
                bulk=any(order.bulk for order, _ in open_),
                traces=[order.transfer.traceparent for order, _ in open_],
            )
        except DomainError as error:  # thousands wait, or the process ends
            _log.warning("transfers are left to recovery", cause=error.message, count=len(open_))
            return
        for (order, _), answer in zip(open_, passed, strict=True):
            order.passed = answer

    async def _passed(self, order: Order) -> Transfer | DomainError:
        """A recorded order's transfer after its pass; as it was recorded where none was made, which recovery does."""
        if order.passed is not None:
            # Not cancelled with us: the pass is made whether or not anybody waits for it.
            with contextlib.suppress(DomainError):
                return _final_answer(await asyncio.shield(order.passed))
        return _present(order)

    async def _pass_on(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        """One pass for a batch; copies of a transfer are passed on once."""
        distinct = {transfer.place: transfer for transfer in transfers}
        try:
            advanced = await self._passes.advance(list(distinct.values()))
        except DomainError as error:
            # The intents are durable: whatever failed here, recovery finishes them.
            _log.warning("a pass is left to recovery", cause=error.message, count=len(distinct))
            return list(transfers)
        distinct.update({transfer.place: transfer for transfer in advanced})
        return [distinct[transfer.place] for transfer in transfers]

    async def _record_intents(self, transfers: Sequence[Transfer]) -> list[Transfer | DomainError]:
        """Each transfer as it is recorded under its request_id, by this call or an earlier one."""
        first: dict[tuple[str, str], Transfer] = {}
        for transfer in transfers:
            first.setdefault((transfer.tenant, str(transfer.request_key)), transfer)
        new = list(first.values())

        async def work(conn: AsyncConnection) -> list[Transfer]:
            inserted = await store.insert_intents(conn, self._db.cipher, new, self._lease_seconds)
            known = [transfer for transfer in new if (transfer.tenant, transfer.request_key) in inserted]
            missing = [transfer for transfer in new if (transfer.tenant, transfer.request_key) not in inserted]
            if missing:
                known += await store.find_by_request(
                    conn, self._db.cipher, [(t.tenant, t.request_key, t.id) for t in missing]
                )
            return known

        known = await self._db.run({transfer.tenant for transfer in transfers}, work)
        by_request = {(t.tenant, str(t.request_key)): t for t in known}
        by_id = {(t.tenant, t.id): t for t in known}
        results: list[Transfer | DomainError] = []
        for transfer in transfers:
            recorded = by_request.get((transfer.tenant, str(transfer.request_key)))
            if recorded is None:
                results.append(errors.TransferExists(by_id[transfer.tenant, transfer.id].name))
            elif recorded.fingerprint != transfer.fingerprint:
                results.append(RequestIdReused(recorded.name))
            else:
                results.append(recorded)
        return results

    @property
    def _lease_seconds(self) -> float:
        return self._settings.recovery_lease_ms / 1000


def check(transfer: Transfer) -> None:
    """What can be refused before anything is recorded. Raises CurrencyUnknown, IdentifierInvalid, AccountsIdentical."""
    money.exponent(transfer.currency)
    for name, reference in (("debit_account", transfer.debit_account), ("credit_account", transfer.credit_account)):
        if reference.startswith("iban:") and not iban.is_valid(reference.removeprefix("iban:")):
            raise errors.IdentifierInvalid(name)
    if transfer.debit_account == transfer.credit_account:
        raise errors.AccountsIdentical


def _position(values: Sequence[str | int]) -> tuple[datetime, str]:
    """Where a page begins. Raises PageTokenInvalid when a made-up token names no time."""
    try:
        moment = datetime.fromisoformat(str(values[0]))
    except ValueError:
        raise PageTokenInvalid from None
    if moment.tzinfo is None:
        raise PageTokenInvalid
    return moment, str(values[1])


def _final_answer(transfer: Transfer) -> Transfer | DomainError:
    """What a caller is told: the transfer, or, when it was declined, its refusal."""
    if transfer.state is State.DECLINED and transfer.refusal is not None:
        return Declined(transfer, transfer.refusal)
    return transfer


class Declined(RecordedRefusal):
    """A transfer's stored refusal, with the transfer for those who answer both."""

    def __init__(self, transfer: Transfer, status: status_pb2.Status) -> None:
        super().__init__(status)
        self.transfer = transfer


def _in_time(deadline: float) -> asyncio.Timeout:
    """Raises TimeoutError when an answer must be sent to be there before `deadline`."""
    return asyncio.timeout(max(deadline - time.monotonic() - ANSWER_BEFORE_DEADLINE_SECONDS, 0))


def _present(order: Order) -> Transfer | DomainError:
    """What is known of an order at this moment."""
    if order.recorded is None:
        return DeadlineExceeded()
    passed = order.passed
    known = passed is not None and passed.done() and not passed.cancelled() and passed.exception() is None
    return _final_answer(passed.result() if passed is not None and known else order.recorded)


def _or_raise(answer: Transfer | DomainError) -> Transfer:
    if isinstance(answer, DomainError):
        raise answer
    return answer


def _refused(answer: BaseException) -> DomainError:
    if isinstance(answer, DomainError):
        return answer
    raise answer


def _same_request(recorded: Transfer, asked: Transfer) -> Transfer:
    if recorded.fingerprint != asked.fingerprint:
        raise RequestIdReused(recorded.name)
    if recorded.state is State.DECLINED and recorded.refusal is not None:
        raise Declined(recorded, recorded.refusal)
    return recorded


def _was_cancelled(transfer: Transfer) -> bool:
    return transfer.refusal is not None and (
        RecordedRefusal(transfer.refusal).recorded_reason == errors.TransferCancelled.reason
    )
