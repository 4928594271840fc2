"""Carries money to the rail and takes what comes in from there, in any number of replicas.

Whatever dies, the next worker goes on from what is recorded: a message is recorded with its bytes before it is handed
over, what came in is put away after all its effects are, and every effect may be asked for again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock, idempotency, logs
from meshkit.database import ALL_TENANTS, Database
from meshkit.errors import DomainError
from meshkit.waiting import finished, wait_at_most
from transactions import rail_answers, rail_deposits, rail_model, rail_store, withdrawal_store
from transactions.orders import Orders
from transactions.rail_deposits import Deposits
from transactions.rail_model import Message, Withdrawal
from transactions.rails.port import Content, Incoming, OutgoingPayment, Rail
from transactions.settings import Settings

_LOT = 200
"""Answers and entries that one transaction takes."""
_FILES = 50
"""What came in that one turn deals with: deposits and messages are not to wait for all of it."""
_SEND_LEASE_SECONDS = 15.0
_CLAIM_SECONDS = 60.0
"""Longer than what came in takes to be dealt with; who comes after it does the same once more, to no effect."""
_AGAIN_SECONDS = 30.0
_OBSERVE_SECONDS = 5.0
_IDLE_SECONDS = 10.0
"""Between two looks where there is no rail, and only what an earlier one left could be to do."""
_log = logs.get(__name__)

OPEN = Gauge("florin_rail_open", "Withdrawals that are not final, by state.", ["state"])
OLDEST_SECONDS = Gauge(
    "florin_rail_oldest_seconds",
    "Age of the oldest withdrawal that is not final, by state; of those that are SENT since then.",
    ["state"],
)


class RailWorker:
    """The worker of one replica. Without a rail it still brings what was begun to its end."""

    def __init__(self, db: Database, orders: Orders, deposits: Deposits, rail: Rail | None, settings: Settings) -> None:
        self._db = db
        self._orders = orders
        self._deposits = deposits
        self._rail = rail
        self._settings = settings
        self._due = asyncio.Event()
        self._failed: dict[str, float] = {}
        """What came in and could not be dealt with → when to try again."""

    def wake(self) -> None:
        """Looks at once: something is to be done."""
        self._due.set()

    async def run(self) -> None:
        """Works until it is cancelled; a turn that was begun is finished."""
        observe_again = 0.0
        poll_seconds = self._settings.rail_poll_ms / 1000 if self._rail is not None else _IDLE_SECONDS
        while True:
            self._due.clear()
            busy = await finished(self.work_once())
            if time.monotonic() >= observe_again:
                await self._step("observe", self._observe)
                observe_again = time.monotonic() + _OBSERVE_SECONDS
            if not busy:
                await wait_at_most(self._due, poll_seconds)

    async def work_once(self) -> bool:
        """One turn of everything; whether something was done. What fails in one part holds up no other."""
        done = 0
        if self._rail is not None:
            done += await self._step("take what came in", partial(self._take, self._rail))
        done += await self._step("book deposits", self._deposits.work_once)
        done += await self._step("follow withdrawals", partial(rail_answers.follow, self._db))
        if self._rail is not None:
            done += await self._step("form messages", partial(self._form, self._rail))
            done += await self._step("send messages", partial(self._send, self._rail))
        return bool(done)

    async def _step(self, name: str, work: Callable[[], Awaitable[int]]) -> int:
        try:
            return await work()
        except DomainError as error:
            _log.warning("the rail waits", step=name, cause=error.message)
        except Exception as error:  # noqa: BLE001 - a full disk or a fault of ours: the other parts go on
            _log.error("the rail cannot go on", step=name, exc_info=error)
        return 0

    async def _form(self, rail: Rail) -> int:
        """Puts what is booked into messages, one for each tenant and currency."""
        waiting = await self._db.run(ALL_TENANTS, withdrawal_store.waiting_currencies, read_only=True)
        formed = 0
        for tenant, currency in waiting:
            formed += await self._db.run(tenant, partial(self._message, rail=rail, tenant=tenant, currency=currency))
        return formed

    async def _message(self, conn: AsyncConnection, *, rail: Rail, tenant: str, currency: str) -> int:
        """Forms one message of what waits; gives how many payments it has."""
        limit = self._settings.rail_message_payments_max
        taken = await withdrawal_store.take_waiting(conn, self._db.cipher, tenant, currency, limit)
        if not taken:
            return 0  # another replica has them
        id_, moment = rail_model.payment_id(str(idempotency.uuid7())), clock.now()
        data = rail.compose(id_, moment, [_payment(withdrawal) for withdrawal in taken])
        message = Message(tenant, id_, currency, len(taken), data, moment)
        await withdrawal_store.insert_message(conn, self._db.cipher, message, [withdrawal.id for withdrawal in taken])
        return len(taken)

    async def _send(self, rail: Rail) -> int:
        """Hands over what is recorded and was not handed over, one message after the other."""
        sent = 0
        while True:

            async def take(conn: AsyncConnection) -> Message | None:
                return await withdrawal_store.take_message(conn, self._db.cipher, lease_seconds=_SEND_LEASE_SECONDS)

            message = await self._db.run(ALL_TENANTS, take)
            if message is None:
                return sent
            try:
                await asyncio.to_thread(rail.send, message.tenant, message.id, message.data)
            except OSError as error:
                _log.error("a message cannot be handed to the rail", message=message.id, exc_info=error)
                continue
            await rail_answers.note_sent(self._db, message)
            sent += 1

    async def _take(self, rail: Rail) -> int:
        """Deals with what came in, one after the other."""
        now = time.monotonic()
        self._failed = {place: again for place, again in self._failed.items() if again > now}
        found, taken = rail.incoming(frozenset(self._failed)), 0
        while taken < _FILES and (incoming := await asyncio.to_thread(next, found, None)) is not None:
            try:
                taken += await self._deal_with(rail, incoming)
            except Exception as error:  # noqa: BLE001 - whatever one breaks, the others have to go on
                self._failed[incoming.place] = time.monotonic() + _AGAIN_SECONDS
                _log.error(
                    "what came in cannot be dealt with", tenant=incoming.tenant, name=incoming.name, exc_info=error
                )
        return taken

    async def _deal_with(self, rail: Rail, incoming: Incoming) -> bool:
        tenant, digest = incoming.tenant, incoming.digest
        claimed = await self._db.run(
            tenant, lambda conn: rail_store.claim_file(conn, tenant, digest, incoming.name, _CLAIM_SECONDS)
        )
        if claimed is None:
            return False  # another replica is at it
        if claimed:
            try:
                await self._record(incoming)
            except BaseException:
                await self._db.run(tenant, lambda conn: rail_store.release_file(conn, tenant, digest))
                raise
        await asyncio.to_thread(rail.file_away, incoming)
        return True

    async def _record(self, incoming: Incoming) -> None:
        """All effects of what came in, then that they are recorded."""
        tenant, digest, content = incoming.tenant, incoming.digest, incoming.content
        if content is not None:
            await self._record_content(tenant, content)

        async def end(conn: AsyncConnection) -> None:
            if content is None:
                exception = rail_deposits.rejected_file(tenant, digest, incoming.name, incoming.refusal)
                await rail_store.open_exceptions(conn, [exception])
            kind, message_id = (content.kind, content.message_id) if content is not None else ("", "")
            await rail_store.end_file(conn, tenant, digest, kind, message_id, incoming.refusal)

        await self._db.run(tenant, end)
        if content is None:
            _log.warning("what came in is refused", tenant=tenant, name=incoming.name, cause=incoming.refusal)

    async def _record_content(self, tenant: str, content: Content) -> None:
        answers = await rail_answers.expanded(self._db, tenant, content.answers)
        for lot in rail_answers.lots(answers, _LOT):
            await rail_answers.apply(self._db, self._orders, tenant, lot, message_id=content.message_id)
        for start in range(0, len(content.entries), _LOT):
            await rail_deposits.take(self._db, tenant, content.message_id, content.entries[start : start + _LOT])
        if content.notices:
            await rail_deposits.note(self._db, tenant, content.message_id, content.notices)

    async def _observe(self) -> int:
        for state, (count, seconds) in (await self._db.run(ALL_TENANTS, withdrawal_store.ages, read_only=True)).items():
            OPEN.labels(state).set(count)
            OLDEST_SECONDS.labels(state).set(seconds)
        return 0


def _payment(withdrawal: Withdrawal) -> OutgoingPayment:
    parties = withdrawal.parties
    return OutgoingPayment(
        id=rail_model.payment_id(withdrawal.id),
        end_to_end_id=withdrawal.end_to_end_id,
        currency=withdrawal.currency,
        amount=withdrawal.amount,
        debtor_name=parties.debtor_name,
        debtor_iban=parties.debtor_iban,
        debtor_account=withdrawal.debit_account.removeprefix("accounts/"),
        creditor_name=parties.creditor_name,
        creditor_iban=parties.creditor_iban,
        remittance=parties.remittance,
    )
