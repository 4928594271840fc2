"""New transfers on their way: recorded in one batch, passed on in another, answered before their callers' deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from google.rpc import status_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import logs
from meshkit.batching import FEW_ITEMS_MAX, Batcher
from meshkit.database import Database
from meshkit.errors import DeadlineExceeded, DomainError, RecordedRefusal, RequestIdReused
from transactions import errors, exchange_errors, quotes, store
from transactions.model import RESTING, State, Transfer
from transactions.passes import Passes
from transactions.settings import Settings
from transactions.state_tokens import StateTokens
from transactions.tariffs import Tariffs

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


class Orders:
    """Callers at the same time share the commits and the steps: two batchers, one after the other, so that a step which
    hangs holds up no intent."""

    def __init__(self, db: Database, passes: Passes, tariffs: Tariffs, settings: Settings) -> None:
        self._db = db
        self._passes = passes
        self._tariffs = tariffs
        self._settings = settings
        self.state_tokens = StateTokens(db.cipher, settings.state_token_seconds)
        self.singles = 0
        """How many payments came so far, by calls and on streams, that are not of the bulk: whoever has many looks
        whether others pay meanwhile."""
        most, at_once = settings.batch_max, settings.passes_in_flight
        self._intents: Batcher[Order, Transfer] = Batcher(
            "intents", self._record_orders, batch_max=most, concurrency=at_once
        )
        self._under_way: Batcher[Transfer, Transfer] = Batcher(
            "passes", self._pass_on, batch_max=most, concurrency=at_once, beside_min=_PASS_BESIDE_MIN
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
        self.singles += 1
        async with _InTime(deadline):
            await self._intents.submit(order, deadline=deadline)
            return _or_raise(await self._passed(order))
        return _or_raise(present(order))

    def begin(self, order: Order, deadline: float) -> asyncio.Future[Transfer]:
        """Puts an order among those that are recorded next, for who goes on meanwhile: what comes of it is `present`,
        once this is done and, where the order has one by then, its pass. Raises Overloaded, Unavailable."""
        self.singles += not order.bulk
        return self._intents.enqueue([order], deadline=deadline, bulk=order.bulk)[0]

    async def outcome(self, order: Order, deadline: float) -> Transfer:
        """As `create`, of an order that is recorded and was handed on."""
        async with _InTime(deadline):
            return _or_raise(await self._passed(order))
        return _or_raise(present(order))

    async def create_batch(
        self, transfers: Sequence[Transfer | DomainError], deadline: float, *, bulk: bool | None = None
    ) -> list[Transfer | DomainError]:
        """As `create`, for many; a refusal stands in its item's place. Their number says whether they are `bulk` where
        the caller does not."""
        items = [item for item in transfers if isinstance(item, Transfer)]
        bulk = len(items) > FEW_ITEMS_MAX if bulk is None else bulk
        results = iter(await self._settle([Order(item, bulk) for item in items], deadline, bulk=bulk))
        return [next(results) if isinstance(item, Transfer) else item for item in transfers]

    async def _settle(self, orders: Sequence[Order], deadline: float, *, bulk: bool) -> list[Transfer | DomainError]:
        async with _InTime(deadline):
            answers = await self._intents.submit_all(orders, deadline=deadline, bulk=bulk)
            return [
                await self._passed(order) if isinstance(answer, Transfer) else _refused(answer)
                for order, answer in zip(orders, answers, strict=True)
            ]
        return [present(order) for order in orders]

    async def _record_orders(self, orders: Sequence[Order]) -> list[Transfer | DomainError]:
        """A batch's intents in one durable transaction. What is not final goes on from here, whoever waits for it."""
        priced = await self._tariffs.priced([order.transfer for order in orders])
        results = await self._record_intents(priced)
        for order, result in zip(orders, results, strict=True):
            if isinstance(result, Transfer):
                order.recorded = result
        self.hand_on(orders)
        return results

    async def priced(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        """New transfers with their fees, for whoever records them with something of its own."""
        return await self._tariffs.priced(transfers)

    async def previewed(self, transfer: Transfer) -> Transfer:
        """A transfer that is not to be recorded, with its fee and with what its quote makes of it.

        Raises QuoteNotFound, QuoteExpired, QuoteMismatch, QuoteUsed.
        """
        (priced,) = await self._tariffs.priced([transfer])
        if not priced.quote:
            return priced
        return await self._db.run(priced.tenant, lambda conn: quotes.previewed(conn, priced), read_only=True)

    async def record_follower(
        self,
        conn: AsyncConnection,
        original_id: str,
        follower: Transfer,
        make: Callable[[Transfer | None], Awaitable[Transfer]],
    ) -> tuple[Transfer, bool]:
        """Records a transfer that belongs to another one, which is locked. Gives it as it stands under its request_id,
        and whether it is new. `make` fills it in from the original, and is not asked for a copy of a request, which is
        answered whenever it comes.

        Raises RequestIdReused, and what `make` raises.
        """
        cipher = self._db.cipher
        # Locked first: copies of a request that come at once are answered one after the other.
        original = await store.get(conn, cipher, follower.tenant, original_id, lock=True)
        asked = [(follower.tenant, follower.request_key, follower.id)]
        made = await store.find_by_request(conn, cipher, asked)
        if made:
            return _same_request(made[0], follower), False
        order = await make(original)
        if not await store.insert_intents(conn, cipher, [order], self._settings.recovery_lease_seconds):
            # The same request_id was used on another original since we looked: there was no lock to wait for.
            return _same_request((await store.find_by_request(conn, cipher, asked))[0], follower), False
        return order, True

    def hand_on(self, orders: Sequence[Order]) -> None:
        """Puts those recorded orders among the ones that wait for a pass whose transfers can go on."""
        open_ = [
            (order, order.recorded)
            for order in orders
            if order.recorded is not None and not order.recorded.is_final and order.recorded.state not in RESTING
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
        return present(order)

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

        refused: dict[tuple[str, uuid.UUID], DomainError] = {}

        async def work(conn: AsyncConnection) -> list[Transfer]:
            refused.clear()
            ready, known = new, list[Transfer]()
            if any(transfer.quote for transfer in new):
                ready, known, found = await quotes.applied(conn, self._db.cipher, new)
                refused.update(found)
            if any(transfer.state_token is not None for transfer in ready):
                ready, again, found = await self.state_tokens.applied(conn, ready)
                known += again
                refused.update(found)
            inserted = await store.insert_intents(conn, self._db.cipher, ready, self._settings.recovery_lease_seconds)
            known += [transfer for transfer in ready if (transfer.tenant, transfer.request_key) in inserted]
            missing = [transfer for transfer in ready if (transfer.tenant, transfer.request_key) not in inserted]
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
            request = (transfer.tenant, str(transfer.request_key))
            recorded = by_request.get(request)
            tried = recorded or first[request]
            if tried.fingerprint != transfer.fingerprint:
                results.append(RequestIdReused(tried.name))
            else:
                results.append(recorded or _unrecorded(transfer, by_id, refused))
        return results


def _unrecorded(
    transfer: Transfer,
    by_id: Mapping[tuple[str, str], Transfer],
    refused: Mapping[tuple[str, uuid.UUID], DomainError],
) -> DomainError:
    """Why a transfer was not recorded: its id is another's, its quote or state token does not fit, or another one uses
    that quote."""
    if transfer.place in by_id:
        return errors.TransferExists(transfer.name)
    return refused.get((transfer.tenant, transfer.request_key)) or exchange_errors.QuoteUsed(transfer.quote)


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


class _InTime:
    """Ends what is inside when an answer must be sent to be there before `deadline`. Where what is inside returns, what
    follows is reached then alone."""

    def __init__(self, deadline: float) -> None:
        self._limit = asyncio.timeout(max(deadline - time.monotonic() - ANSWER_BEFORE_DEADLINE_SECONDS, 0))

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            await self._limit.__aexit__(kind, error, trace)
        except TimeoutError:  # the limit's own; any other is `error`, and goes on
            return True
        return False


def present(order: Order) -> Transfer | DomainError:
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


def _same_request(recorded: Transfer, asked: Transfer) -> Transfer:
    """What stands under a request_id. Raises RequestIdReused where it was made by another payload."""
    if recorded.fingerprint != asked.fingerprint:
        raise RequestIdReused(recorded.name)
    return recorded


def _refused(answer: BaseException) -> DomainError:
    if isinstance(answer, DomainError):
        return answer
    raise answer
