"""The fee schedules of all tenants in memory, so that a transfer is priced without asking the database.

What is known is no older than `KNOWN_FOR_SECONDS`. Which version priced a transfer is recorded with it, so that it
makes no difference afterwards which replica did.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from meshkit import logs
from meshkit.database import ALL_TENANTS, Database
from meshkit.errors import DomainError
from transactions import fee_store, fees
from transactions.fees import FeeSchedule, Kind
from transactions.model import Transfer

_log = logs.get(__name__)

KNOWN_FOR_SECONDS = 5.0
"""What was read longer ago prices nothing: it is read again first. The contract of SetFeeSchedule says so."""
_Key = tuple[str, Kind, str]


class Tariffs:
    """What is read again and again by a worker, and by whoever prices where the worker did not come to it."""

    def __init__(self, db: Database, refresh_seconds: float) -> None:
        self._db = db
        self._refresh_seconds = refresh_seconds
        self._versions: dict[_Key, list[FeeSchedule]] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def run(self) -> None:
        """Reads them until it is cancelled."""
        while True:
            try:
                await self.refresh()
            except DomainError as error:  # pricing waits for the database itself where that lasts
                _log.warning("fee schedules cannot be read", cause=error.message)
            await asyncio.sleep(self._refresh_seconds)

    async def refresh(self) -> None:
        """Reads what can price a transfer now. Raises the database's refusals."""
        began = time.monotonic()
        versions: dict[_Key, list[FeeSchedule]] = {}
        for one in await self._db.run(ALL_TENANTS, fee_store.read_in_use, read_only=True):
            versions.setdefault((one.tenant, one.kind, one.currency), []).append(one)
        if began > self._read_at:  # readings may end in another order than they began in
            self._versions, self._read_at = versions, began

    async def priced(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        """New transfers with their fees. Raises the database's refusals where nothing recent is known."""
        if self._is_old():
            async with self._reading:
                if self._is_old():
                    await self.refresh()
        versions = self._versions
        if not versions:
            return list(transfers)
        return [
            transfer
            if (found := versions.get((transfer.tenant, fees.kind_of(transfer), transfer.currency))) is None
            else fees.priced(transfer, found)
            for transfer in transfers
        ]

    def _is_old(self) -> bool:
        return time.monotonic() - self._read_at > KNOWN_FOR_SECONDS
