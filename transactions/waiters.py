"""Wakes calls that wait for a transfer of this process; what other replicas do is not seen here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transactions.model import Transfer


class Waiters:
    """Futures by transfer; each belongs to one waiting call and goes with it."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], set[asyncio.Future[None]]] = {}
        self.drained = False
        """Whether nobody is to wait any more."""

    @contextmanager
    def waiting(self, tenant: str, id_: str) -> Iterator[asyncio.Future[None]]:
        """A future that is done at the transfer's next change."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        key = (tenant, id_)
        self._waiting.setdefault(key, set()).add(future)
        try:
            yield future
        finally:
            waiting = self._waiting[key]
            waiting.discard(future)
            if not waiting:
                del self._waiting[key]

    async def drain(self) -> None:
        """Sends everybody who waits away with what there is: the process ends, and others can be asked."""
        self.drained = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def changed(self, transfers: Sequence[Transfer]) -> None:
        """Tells whoever waits for one of these."""
        for transfer in transfers:
            for future in self._waiting.get((transfer.tenant, transfer.id), ()):
                if not future.done():
                    future.set_result(None)
