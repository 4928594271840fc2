"""Captures and the end of authorizations, as users ask for them; how they go on is the saga's, in passes.py."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import audit, clock, idempotency
from meshkit.database import Database
from meshkit.errors import StaffOnly, Unavailable
from meshkit.identity import Call, Principal
from transactions import errors, fee_operations, fees, saga, store
from transactions.model import State, Transfer
from transactions.orders import Order, Orders
from transactions.passes import Passes

_RESERVE_SECONDS = 0.5
"""What of a caller's time is left for the own capture when another one is waited for."""


class Authorizations:
    """The use cases. A capture is a transfer of its own, and goes the way of all new transfers."""

    def __init__(self, db: Database, passes: Passes, orders: Orders) -> None:
        self._db = db
        self._passes = passes
        self._orders = orders

    async def capture(self, capture: Transfer, call: Call) -> Transfer:
        """Moves money that an authorization holds, `capture.amount` or all that is left; gives the capture.

        Raises the refusals of CaptureTransfer.
        """

        async def begin() -> Order:
            while True:
                try:
                    recorded = await self._db.run(capture.tenant, lambda conn: self._record(conn, capture))
                except _Busy as busy:
                    await self._finish(busy.live, call)
                    continue
                order = Order(capture, recorded=recorded)
                self._orders.hand_on([order])
                return order

        # Once it is recorded it goes on to its pass, also when the caller goes away.
        order = await asyncio.shield(asyncio.ensure_future(begin()))
        return await self._orders.outcome(order, call.deadline)

    async def void(self, call: Call, id_: str) -> Transfer:
        """Ends an authorization; gives it as it is then. What was captured before stays captured.

        Raises the refusals of VoidTransfer, or Unavailable when accounts does not answer: it is ended later then.
        """
        await idempotency.claim(self._db, call, f"transfers/{id_}")
        # Once it is noted, captures are refused, so the rest has to follow, also when the caller goes away.
        return await asyncio.shield(asyncio.ensure_future(self._void(call, id_)))

    async def _record(self, conn: AsyncConnection, capture: Transfer) -> Transfer:
        """The capture as it is recorded under its request_id, now or before."""

        async def make(found: Transfer | None) -> Transfer:
            authorization = _owned(found, capture.principal, capture.capture_of)
            _check_stands(authorization)
            order = await _priced(conn, authorization, _of(authorization, capture))
            live = await store.live_captures(conn, self._db.cipher, [authorization.place])
            if live:
                raise _Busy(live[0])
            return order

        recorded, _ = await self._orders.record_follower(conn, capture.capture_of, capture, make)
        return recorded

    async def _finish(self, live: Transfer, call: Call) -> None:
        """Brings the capture that is under way to its end. Raises CaptureUnderWay when that takes too long."""
        pause = 0.02
        while time.monotonic() < call.deadline - _RESERVE_SECONDS:
            (live,) = await self._passes.advance([live])
            if live.is_final:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)
        raise errors.CaptureUnderWay(f"transfers/{live.capture_of}", live.name)

    async def _void(self, call: Call, id_: str) -> Transfer:
        async def note(conn: AsyncConnection) -> Transfer:
            found = await store.get(conn, self._db.cipher, call.tenant, id_, lock=True)
            authorization = _owned(found, call.who, id_)
            if authorization.voided:
                return authorization
            _check_stands(authorization)
            await store.void(conn, call.tenant, id_)
            if call.who.is_staff:
                await audit.record(
                    conn,
                    call,
                    action="void_transfer",
                    resource=authorization.name,
                    before={"state": authorization.state, "captured_minor_units": authorization.captured},
                    after=None,
                )
            return replace(authorization, voided=True)

        authorization = await self._db.run(call.tenant, note)
        if not authorization.is_final:
            await self._passes.advance([authorization])
            place = [authorization.place]

            async def read(conn: AsyncConnection) -> Transfer:
                return (await store.present(conn, self._db.cipher, place))[0]

            authorization = await self._db.run(call.tenant, read, read_only=True)
        if not authorization.is_final:
            raise Unavailable("accounts")
        return authorization


class _Busy(Exception):
    """Another capture is under way."""

    def __init__(self, live: Transfer) -> None:
        super().__init__(live.name)
        self.live = live


def _owned(authorization: Transfer | None, who: Principal, id_: str) -> Transfer:
    """An authorization that the caller may capture and end. Raises TransferNotFound, StaffOnly."""
    if authorization is None or not authorization.visible_to(who):
        raise errors.TransferNotFound(f"transfers/{id_}")
    if not who.is_staff and authorization.principal.customer != who.customer:
        raise StaffOnly  # what staff authorized, or another owner, is not this customer's to spend or to end
    return authorization


def _check_stands(authorization: Transfer) -> None:
    """Raises TransferNotAuthorized, AuthorizationEnded."""
    state = authorization.state
    stood = state is State.AUTHORIZED or (authorization.is_final and state is not State.DECLINED)
    if not authorization.is_authorization or not stood:
        raise errors.TransferNotAuthorized(authorization.name, state)
    if authorization.is_final:
        raise errors.AuthorizationEnded(authorization.name, state)
    if authorization.voided:
        raise errors.AuthorizationEnded(authorization.name, State.VOIDED)
    if saga.is_over(authorization, clock.now()):
        raise errors.AuthorizationEnded(authorization.name, State.EXPIRED)


async def _priced(conn: AsyncConnection, authorization: Transfer, capture: Transfer) -> Transfer:
    """The capture with its part of the authorization's fee, by the version that priced that one."""
    fee = authorization.fee
    if fee is None:
        return capture
    schedule = await fee_operations.get_fee_schedule(conn, authorization.tenant, fee.schedule, fee.version)
    return replace(capture, fee=fees.of_capture(schedule, authorization, capture.amount))


def _of(authorization: Transfer, capture: Transfer) -> Transfer:
    """The capture with what it takes from its authorization. Raises CurrencyMismatch, CaptureExceeded."""
    if capture.currency and capture.currency != authorization.currency:
        raise errors.CurrencyMismatch(authorization.debit_account, authorization.currency, capture.currency)
    amount = capture.amount or authorization.left
    if amount > authorization.left:
        raise errors.CaptureExceeded(
            authorization.name, authorization.currency, left=authorization.left, requested=amount
        )
    return replace(
        capture,
        debit_account=authorization.debit_account,
        credit_account=authorization.credit_account,
        currency=authorization.currency,
        amount=amount,
        end_to_end_id=authorization.end_to_end_id,
        customers=authorization.customers,
        final_capture=capture.final_capture or amount == authorization.left,
    )
