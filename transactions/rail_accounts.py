"""The bank's own accounts that a rail books through, by the settings' names; looked at before anything is booked."""

from __future__ import annotations

from transactions.model import AccountType
from transactions.ports import Account, Ledger
from transactions.rail_errors import RailAccountMissing
from transactions.settings import Settings


class RailAccounts:
    """Settlement and suspense accounts of each tenant and currency."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings

    async def settlement(self, tenant: str, currency: str) -> Account:
        """Where money is on its way out, and comes in. Raises RailAccountMissing, Unavailable."""
        return await self._find(tenant, self._settings.rail_settlement_account, AccountType.SETTLEMENT, currency)

    async def suspense(self, tenant: str, currency: str) -> Account:
        """Where money is that nobody knows the owner of. Raises RailAccountMissing, Unavailable."""
        return await self._find(tenant, self._settings.rail_suspense_account, AccountType.SUSPENSE, currency)

    async def _find(self, tenant: str, template: str, type_: AccountType, currency: str) -> Account:
        place = (tenant, template.format(currency=currency.lower()))
        account = (await self._ledger.resolve([place])).get(place)
        if account is None or account.type is not type_ or account.currency != currency:
            raise RailAccountMissing(place[1], type_, currency)
        return account
