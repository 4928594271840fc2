"""Keeps the present versions of the watchlists in memory and matches names with them; it writes nothing."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from compliance import matching, policy_store, rules
from compliance.matching import NameIndex
from compliance.model import ListedName, Match, Watchlist
from compliance.screening import MatchKey, match_keys
from meshkit import logs
from meshkit.database import ALL_TENANTS, Database
from meshkit.errors import Contention

_IndexKey = tuple[str, str, int]

_log = logs.get(__name__)


class Watchlists:
    """Indexes by tenant, list and version. A version that is missing here is read when it is first needed: a payment
    is never screened with fewer names than its decision says."""

    def __init__(self, db: Database, *, score_min: float, cache_size: int, poll_seconds: float) -> None:
        self._db = db
        self._score_min = score_min
        self._cache_size = cache_size
        self._poll_seconds = poll_seconds
        self._indexes: dict[_IndexKey, NameIndex] = {}
        self._loading: dict[_IndexKey, asyncio.Task[NameIndex]] = {}
        # Payers pay the same payees again and again.
        self._cache: OrderedDict[MatchKey, tuple[Match, ...]] = OrderedDict()

    async def match(
        self, wanted: Mapping[str, Iterable[str]], lists: Mapping[str, Sequence[Watchlist]]
    ) -> dict[MatchKey, tuple[Match, ...]]:
        """The matches of each tenant's names with each of its lists.

        Raises Contention when a list changed so often meanwhile that its names could not be read.
        """
        found: dict[MatchKey, tuple[Match, ...]] = {}
        missing: list[tuple[NameIndex, MatchKey]] = []
        for watchlist, key in match_keys(wanted, lists):
            index = await self.load(watchlist)
            cached = self._cached(key)
            if cached is None:
                missing.append((index, key))
            else:
                found[key] = cached
        if missing:
            # Off the loop: a name costs up to milliseconds, and others' calls must go on meanwhile.
            found.update(await asyncio.to_thread(self._match_all, missing))
            self._remember([key for _, key in missing], found)
        return found

    def known(
        self, wanted: Mapping[str, Iterable[str]], lists: Mapping[str, Sequence[Watchlist]]
    ) -> dict[MatchKey, tuple[Match, ...]] | None:
        """As `match`, but None where that would take time."""
        found: dict[MatchKey, tuple[Match, ...]] = {}
        for _, key in match_keys(wanted, lists):
            cached = self._cached(key)
            if cached is None:
                return None
            found[key] = cached
        return found

    def _cached(self, key: MatchKey) -> tuple[Match, ...] | None:
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
        return cached

    def _match_all(self, missing: Sequence[tuple[NameIndex, MatchKey]]) -> dict[MatchKey, tuple[Match, ...]]:
        return {key: index.match(key[3], score_min=self._score_min) for index, key in missing}

    def _remember(self, keys: Sequence[MatchKey], found: Mapping[MatchKey, tuple[Match, ...]]) -> None:
        for key in keys:
            self._cache[key] = found[key]
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    async def load(self, watchlist: Watchlist) -> NameIndex:
        """The index of a version; read and built once, however many wait for it. Raises Contention."""
        key = (watchlist.tenant, watchlist.id, watchlist.version)
        index = self._indexes.get(key)
        if index is not None:
            return index
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._build(key, watchlist))
            task.add_done_callback(lambda _: self._loading.pop(key, None))
        # One caller's deadline must not take the index from the others.
        return await asyncio.shield(task)

    async def _build(self, key: _IndexKey, watchlist: Watchlist) -> NameIndex:
        async def read(conn: AsyncConnection) -> list[ListedName]:
            return await policy_store.watchlist_names(conn, watchlist)

        names = await self._db.run(watchlist.tenant, read, read_only=True)
        if len(names) != watchlist.name_count:
            raise Contention  # a version after the next replaced this one; whoever asks again sees that
        index = self._indexes[key] = await asyncio.to_thread(NameIndex, names)
        _log.info("a watchlist is in memory", watchlist=watchlist.name, version=watchlist.version, names=len(index))
        return index

    async def present(self, tenant: str) -> list[Watchlist]:
        """A tenant's lists in their present versions."""

        async def read(conn: AsyncConnection) -> list[Watchlist]:
            return await policy_store.present_watchlists(conn)

        return await self._db.run(tenant, read, read_only=True)

    async def run(self) -> None:
        """Worker: pays for heavy imports after the start, then follows the lists' versions."""
        await asyncio.to_thread(matching.warm)
        await asyncio.to_thread(rules.warm)
        while True:
            present = await self.present(ALL_TENANTS)
            for watchlist in present:
                await self.load(watchlist)
            keep = {(one.tenant, one.id, one.version) for one in present}
            for key in [key for key in self._indexes if key not in keep]:
                # A batch that is being screened holds what it uses.
                del self._indexes[key]
            for cached in [cached for cached in self._cache if cached[:3] not in keep]:
                del self._cache[cached]
            await asyncio.sleep(self._poll_seconds)
