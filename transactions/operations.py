"""What the transactions service does: one function, one use case; new transfers' way is in orders.py, the saga's
passes in passes.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import audit, clock, iban, idempotency, money
from meshkit.database import Database
from meshkit.errors import RecordedRefusal, RequestInvalid, StaffOnly
from meshkit.filters import parse
from meshkit.identity import Call, Principal
from transactions import errors, exchange, exchange_errors, listing, rail_errors, rail_model, store
from transactions import filter as filters
from transactions.authorizations import Authorizations
from transactions.model import RESTING, State, Transfer
from transactions.orders import Order, Orders
from transactions.passes import Passes
from transactions.ports import Ledger
from transactions.settings import Settings
from transactions.tariffs import Tariffs
from transactions.waiters import Waiters

_DATING_MAX = timedelta(days=10 * 366)
"""How far from the present a reversal may count from."""


class Transfers:
    """The use cases; new transfers go their way in `orders`, captures and voids are in `authorizations`."""

    def __init__(
        self, db: Database, passes: Passes, ledger: Ledger, waiters: Waiters, tariffs: Tariffs, settings: Settings
    ) -> None:
        self._db = db
        self._passes = passes
        self._ledger = ledger
        self._waiters = waiters
        self.orders = Orders(db, passes, tariffs, settings)
        self.authorizations = Authorizations(db, passes, self.orders)

    async def reverse(self, original_id: str, reversal: Transfer, call: Call, *, return_fee: bool = False) -> Transfer:
        """Moves a completed transfer's money back, all of it or `reversal.amount`, by a transfer of its own; audited.
        `return_fee` gives its fee back too, all of it.

        Raises RequestIdReused, TransferNotFound, TransferOfARail, TransferNotCompleted, TransferReversed,
        CurrencyMismatch, ReversalExceeded, ExchangeIndivisible.
        """

        async def record(conn: AsyncConnection) -> Transfer:
            async def make(original: Transfer | None) -> Transfer:
                _check_dating(reversal)
                if original is None:
                    raise errors.TransferNotFound(f"transfers/{original_id}")
                if rail_model.is_banks(original) or await store.is_of_a_withdrawal(conn, original.tenant, original.id):
                    raise rail_errors.TransferOfARail(original.name)
                live = await store.live_reversal(conn, self._db.cipher, reversal.tenant, original_id)
                if live is not None:
                    raise errors.TransferReversed(original.name, live.name)
                if original.state is not State.COMPLETED:
                    raise errors.TransferNotCompleted(original.name, original.state)
                return undoing(original, reversal, return_fee=return_fee)

            order, is_new = await self.orders.record_follower(conn, original_id, reversal, make)
            if is_new:
                await audit.record(
                    conn,
                    call,
                    action="reverse_transfer",
                    resource=f"transfers/{original_id}",
                    before={"state": State.COMPLETED},
                    after={
                        "reversal": order.name,
                        "reversed_minor_units": order.amount,
                        "reversed_currency_code": order.currency,
                        "returned_fee_minor_units": order.fee_amount,
                    },
                    why=reversal.remittance,
                )
            return order

        async def begin() -> Order:
            order = Order(reversal, recorded=await self._db.run(reversal.tenant, record))
            self.orders.hand_on([order])
            return order

        # Once it is recorded it goes on to its pass, also when the caller goes away.
        order = await asyncio.shield(asyncio.ensure_future(begin()))
        return await self.orders.outcome(order, call.deadline)

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
        if transfer.capture_of and not call.who.is_staff and transfer.principal.customer != call.who.customer:
            raise StaffOnly  # what somebody else captures is not this customer's to stop
        if transfer.state is State.DECLINED and _was_cancelled(transfer):
            return transfer
        if transfer.is_final or transfer.state is State.AUTHORIZED:
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
        """The transfer as soon as it is final or rests, or as it is after `seconds`. Raises TransferNotFound."""
        deadline, pause = time.monotonic() + seconds, 0.1
        while not self._waiters.drained:
            with self._waiters.waiting(principal.tenant, id_) as changed:
                transfer = await self.get(principal, id_)
                remaining = deadline - time.monotonic()
                if transfer.is_final or transfer.state in RESTING or remaining <= 0:
                    return transfer
                # Another replica may finish it, which nobody tells this one: so it looks again now and then, less often
                # the longer it takes, since a thousand callers may wait for a service that is down.
                await asyncio.wait({changed}, timeout=min(remaining, pause))
                pause = min(pause * 1.5, 1.0)
        return await self.get(principal, id_)

    async def settled(self, tenant: str, ids: Collection[str]) -> dict[str, Transfer]:
        """Those of a tenant's transfers that are final or rest, by id; whoever waits for many asks for all at once."""
        keys = [(tenant, id_) for id_ in ids]
        found = await self._db.run(tenant, lambda conn: store.settled(conn, self._db.cipher, keys), read_only=True)
        return {transfer.id: transfer for transfer in found}

    async def list_page(
        self, principal: Principal, filter_text: str, page_size: int, page_token: str
    ) -> tuple[list[Transfer], str]:
        """A page of transfers, the newest first, and the next page's token. Raises FilterInvalid, PageTokenInvalid."""
        conditions = parse(filter_text, filters.TRANSFERS)
        scope = f"{principal.tenant}\0{principal.customer or ''}\0{filter_text}"

        async def read(conn: AsyncConnection, after: listing.Position | None, limit: int) -> list[Transfer]:
            return await store.list_page(
                conn,
                self._db.cipher,
                tenant=principal.tenant,
                customer=principal.customer,
                conditions=conditions,
                after=after,
                limit=limit,
            )

        return await listing.paged(
            self._db,
            principal.tenant,
            read,
            kind="transfers",
            scope=scope,
            page_size=page_size,
            page_token=page_token,
        )


def check(transfer: Transfer) -> None:
    """What can be refused before anything is recorded. Raises CurrencyUnknown, IdentifierInvalid, AccountsIdentical."""
    money.exponent(transfer.currency)
    for name, reference in (("debit_account", transfer.debit_account), ("credit_account", transfer.credit_account)):
        if reference.startswith("iban:") and not iban.is_valid(reference.removeprefix("iban:")):
            raise errors.IdentifierInvalid(name)
    if transfer.debit_account == transfer.credit_account:
        raise errors.AccountsIdentical


def _check_dating(reversal: Transfer) -> None:
    """A day that an order counts from is not far from the present. Raises RequestInvalid."""
    effective_time = reversal.effective_time
    if effective_time is not None and abs(effective_time - clock.now()) > _DATING_MAX:
        raise RequestInvalid([("effective_time", "must be within ten years of the present")])


def undoing(original: Transfer, reversal: Transfer, *, return_fee: bool) -> Transfer:
    """The reversal with what it moves back. Raises CurrencyMismatch, ReversalExceeded, ExchangeIndivisible."""
    currency, amount, there = original.currency, _reversible(original, reversal), original.exchange
    if there is not None:
        if amount != original.amount:
            raise exchange_errors.ExchangeIndivisible(original.name)
        currency, amount = there.currency, there.amount
    return replace(
        reversal,
        debit_account=original.credit_account,
        credit_account=original.debit_account,
        currency=currency,
        amount=amount,
        exchange=exchange.back(original, there) if there is not None else None,
        end_to_end_id=original.end_to_end_id,
        customers=original.customers,
        fee=original.fee if return_fee else None,
    )


def _reversible(original: Transfer, reversal: Transfer) -> int:
    """How much a reversal moves back. Raises CurrencyMismatch, ReversalExceeded."""
    if reversal.currency and reversal.currency != original.currency:
        raise errors.CurrencyMismatch(original.debit_account, original.currency, reversal.currency)
    if reversal.amount > original.amount:
        raise errors.ReversalExceeded(
            original.name, original.currency, moved=original.amount, requested=reversal.amount
        )
    return reversal.amount or original.amount


def _was_cancelled(transfer: Transfer) -> bool:
    return transfer.refusal is not None and (
        RecordedRefusal(transfer.refusal).recorded_reason == errors.TransferCancelled.reason
    )
