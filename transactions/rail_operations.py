"""What users do with withdrawals and deposits: one function, one use case; what goes on by itself is in rail_worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import audit, iban, money
from meshkit.database import Database
from meshkit.errors import RecordedRefusal, RequestIdReused
from meshkit.identity import Call, Principal
from transactions import deposit_store, errors, listing, rail_answers, store, withdrawal_store
from transactions.model import State, Transfer
from transactions.orders import Order, Orders
from transactions.ports import Ledger
from transactions.rail_accounts import RailAccounts
from transactions.rail_errors import (
    CreditorInside,
    DepositNotFound,
    RailNotConfigured,
    WithdrawalNotFound,
)
from transactions.rail_model import Deposit, DepositState, Withdrawal, WithdrawalState
from transactions.settings import Settings

_RESERVE_SECONDS = 0.5
"""What of a caller's time is left for looking at the withdrawal after its transfer."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What stands under a request_id."""

    withdrawal: Withdrawal
    transfer: Transfer


class Rails:
    """The use cases."""

    def __init__(
        self,
        db: Database,
        orders: Orders,
        ledger: Ledger,
        settings: Settings,
        *,
        on_due: Callable[[], None] = lambda: None,
    ) -> None:
        self._db = db
        self._orders = orders
        self._ledger = ledger
        self._settings = settings
        self._accounts = RailAccounts(ledger, settings)
        self._on_due = on_due

    async def create_withdrawal(self, call: Call, withdrawal: Withdrawal, transfer: Transfer) -> Withdrawal:
        """Records a withdrawal with its transfer, which goes the way of all; gives it as it is shortly before the
        caller's deadline. A copy of a request is answered as its withdrawal is now.

        Raises the refusals of CreateWithdrawal.
        """
        money.exponent(withdrawal.currency)
        for field, reference in (
            ("debit_account", withdrawal.debit_account),
            ("creditor_iban", f"iban:{withdrawal.parties.creditor_iban}"),
        ):
            if reference.startswith("iban:") and not iban.is_valid(reference.removeprefix("iban:")):
                raise errors.IdentifierInvalid(field)
        found = await self._db.run(call.tenant, lambda conn: self._find(conn, withdrawal), read_only=True)
        if found is None:
            withdrawal, transfer = await self._completed(withdrawal, transfer)

        async def begin() -> Order:
            recorded = found or await self._recorded(call, withdrawal, transfer)
            order = Order(transfer, recorded=recorded.transfer)
            self._orders.hand_on([order])
            return order

        # Once it is recorded it goes on to its pass, also when the caller goes away.
        order = await asyncio.shield(asyncio.ensure_future(begin()))
        await self._orders.outcome(order, call.deadline - _RESERVE_SECONDS)
        await rail_answers.follow(self._db, call.tenant, withdrawal_id=withdrawal.id)
        self._on_due()
        return await self.get_withdrawal(call.who, withdrawal.id)

    async def _find(self, conn: AsyncConnection, asked: Withdrawal) -> _Found | None:
        """What stands under the request_id already. Raises RequestIdReused, and the refusal that is stored."""
        found = await withdrawal_store.find(conn, self._db.cipher, asked.tenant, asked.request_key)
        if found is None:
            return None
        if found.fingerprint != asked.fingerprint:
            raise RequestIdReused(found.name)
        transfer = await store.get(conn, self._db.cipher, found.tenant, found.id)
        if transfer is None:
            raise RuntimeError(f"{found.name} has no transfer")
        if transfer.state is State.DECLINED and transfer.refusal is not None:
            raise RecordedRefusal(transfer.refusal)
        return _Found(found, transfer)

    async def _completed(self, withdrawal: Withdrawal, transfer: Transfer) -> tuple[Withdrawal, Transfer]:
        """Both with what the other accounts say. Raises RailNotConfigured, RailAccountMissing, CreditorInside, and
        Unavailable when accounts does not answer."""
        if self._settings.rail_folder is None:
            raise RailNotConfigured
        tenant = withdrawal.tenant
        settlement = await self._accounts.settlement(tenant, withdrawal.currency)
        payer = (tenant, withdrawal.debit_account)
        payee = (tenant, f"iban:{withdrawal.parties.creditor_iban}")
        known = await self._ledger.resolve([payer, payee])
        if payee in known:
            raise CreditorInside
        parties = withdrawal.parties
        # For one that does not exist, or is not the caller's, the transfer is declined.
        who, account = withdrawal.principal, known.get(payer)
        if account is not None and (who.is_staff or who.customer in account.customers):
            told, names = await self._ledger.describe(tenant, account.name)
            parties = replace(parties, debtor_iban=told, debtor_name=", ".join(names))
        (priced,) = await self._orders.priced([replace(transfer, credit_account=settlement.name)])
        return replace(withdrawal, parties=parties), priced

    async def _recorded(self, call: Call, withdrawal: Withdrawal, transfer: Transfer) -> _Found:
        """Both as they are recorded under their request_id, by this call or by a copy of it."""

        async def record(conn: AsyncConnection) -> _Found:
            inserted = await store.insert_intents(
                conn, self._db.cipher, [transfer], self._settings.recovery_lease_seconds
            )
            if not inserted:
                # A copy of the request was faster.
                found = await self._find(conn, withdrawal)
                if found is None:
                    raise errors.TransferExists(transfer.name)
                return found
            await withdrawal_store.insert(conn, self._db.cipher, withdrawal)
            if call.who.is_staff:
                await audit.record(
                    conn,
                    call,
                    action="create_withdrawal",
                    resource=withdrawal.name,
                    before=None,
                    after={
                        "debit_account": withdrawal.debit_account,
                        "amount_minor_units": withdrawal.amount,
                        "currency_code": withdrawal.currency,
                    },
                )
            return _Found(withdrawal, transfer)

        return await self._db.run(call.tenant, record)

    async def get_withdrawal(self, principal: Principal, id_: str) -> Withdrawal:
        """A withdrawal that the caller may see. Raises WithdrawalNotFound."""

        async def read(conn: AsyncConnection) -> Withdrawal | None:
            return await withdrawal_store.get(conn, self._db.cipher, principal.tenant, id_)

        found = await self._db.run(principal.tenant, read, read_only=True)
        if found is None or not found.visible_to(principal):
            raise WithdrawalNotFound(f"withdrawals/{id_}")
        return found

    async def list_withdrawals(
        self,
        principal: Principal,
        *,
        state: WithdrawalState | None,
        sent_before: datetime | None,
        page_size: int,
        page_token: str,
    ) -> tuple[list[Withdrawal], str]:
        """A page of withdrawals, the newest first, and the next page's token. Raises PageTokenInvalid."""
        scope = f"{principal.tenant}\0{principal.customer or ''}\0{state or ''}\0{sent_before or ''}"

        async def read(conn: AsyncConnection, after: listing.Position | None, limit: int) -> list[Withdrawal]:
            return await withdrawal_store.list_page(
                conn,
                self._db.cipher,
                tenant=principal.tenant,
                customer=principal.customer,
                state=state,
                sent_before=sent_before,
                after=after,
                limit=limit,
            )

        return await listing.paged(
            self._db,
            principal.tenant,
            read,
            kind="withdrawals",
            scope=scope,
            page_size=page_size,
            page_token=page_token,
        )

    async def get_deposit(self, principal: Principal, id_: str) -> Deposit:
        """A deposit that the caller may see. Raises DepositNotFound."""

        async def read(conn: AsyncConnection) -> Deposit | None:
            return await deposit_store.get(conn, self._db.cipher, principal.tenant, id_)

        found = await self._db.run(principal.tenant, read, read_only=True)
        if found is None or not found.visible_to(principal):
            raise DepositNotFound(f"deposits/{id_}")
        return found

    async def list_deposits(
        self, principal: Principal, *, state: DepositState | None, page_size: int, page_token: str
    ) -> tuple[list[Deposit], str]:
        """A page of deposits, the newest first, and the next page's token. Raises PageTokenInvalid."""
        scope = f"{principal.tenant}\0{principal.customer or ''}\0{state or ''}"

        async def read(conn: AsyncConnection, after: listing.Position | None, limit: int) -> list[Deposit]:
            return await deposit_store.list_page(
                conn,
                self._db.cipher,
                tenant=principal.tenant,
                customer=principal.customer,
                state=state,
                after=after,
                limit=limit,
            )

        return await listing.paged(
            self._db,
            principal.tenant,
            read,
            kind="deposits",
            scope=scope,
            page_size=page_size,
            page_token=page_token,
        )
