"""Accounts that clients follow: one reader of this replica finds what changed, whoever waits is told; no SQL.

A silent stream costs nothing but its place. The reader looks at all accounts that are followed together: at once when a
batch of this replica touched one, and every few seconds for what other replicas did.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import Gauge

from accounts.model import Balance, Entry
from meshkit.errors import Overloaded, TokenInvalid, Unavailable
from meshkit.identity import Call

Key = tuple[str, str]
"""A tenant and the id of an account of it."""

OPEN = Gauge("florin_account_watches_open", "Streams of accounts that clients follow.")

_GATHER_SECONDS = 0.02
"""Lets what is posted meanwhile join one look, of which there are 50 a second at most; the price is this much delay."""
_READ_MAX = 1000
"""Accounts that one statement looks at."""
_TOKEN_SECONDS = 15.0
"""A silent stream asks this often whether its token still stands; that needs no database."""

Read = Callable[[Sequence[Key]], Awaitable[Sequence[Balance | None]]]


@dataclass(slots=True)
class Followed:
    """An account that streams of this replica follow, as it was seen last."""

    streams: int = 0
    seen: Balance | None = None
    """None until it was looked at."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is seen to be another; the next change has an event of its own."""
    _lot: tuple[int, int, Sequence[Entry]] = (-1, -1, ())
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def show(self, balance: Balance) -> None:
        """Takes what was read, and tells whoever waits if it is new."""
        if balance != self.seen:
            self.seen = balance
            self.tell()

    async def lot(
        self, after: int, up_to: int, read: Callable[[int, int], Awaitable[Sequence[Entry]]]
    ) -> Sequence[Entry]:
        """The next entries behind a sequence, as `read` gives them. The streams of an account are mostly at the same
        place of it: one of them reads, all send what it read."""
        async with self._reading:
            if self._lot[:2] != (after, up_to):
                self._lot = (after, up_to, await read(after, up_to))
            return self._lot[2]

    def tell(self) -> None:
        """Wakes whoever waits, once each."""
        self.changed.set()
        self.changed = asyncio.Event()


class Watches:
    """The accounts that this replica follows for its clients."""

    def __init__(self, read: Read, *, poll_seconds: float, streams_max: int, subject_streams_max: int) -> None:
        self._read = read
        self._poll_seconds = poll_seconds
        self._streams_max = streams_max
        self._subject_streams_max = subject_streams_max
        self._followed: dict[Key, Followed] = {}
        self._touched: set[Key] = set()
        self._wake = asyncio.Event()
        self._subjects: Counter[tuple[str, str]] = Counter()  # streams of each subject of a tenant
        self._draining = False

    @property
    def any(self) -> bool:
        """Whether anybody follows anything: who posts need not say what it touched otherwise."""
        return bool(self._followed)

    def touched(self, keys: Iterable[Key]) -> None:
        """These accounts may have changed; those that are followed are looked at."""
        found = self._followed.keys() & set(keys)
        if found:
            self._touched |= found
            self._wake.set()

    async def drain(self) -> None:
        """Ends every stream with UNAVAILABLE, so that clients go on at another replica."""
        self._draining = True
        for followed in self._followed.values():
            followed.tell()

    @contextmanager
    def place(self, call: Call, account: str) -> Iterator[Followed]:
        """A stream's place, from before its first look. Raises Overloaded.

        All clients of a replica that left may come at the same moment: none is let in before it is counted.
        """
        subject, key = (call.tenant, call.who.subject), (call.tenant, account)
        if self._subjects.total() >= self._streams_max or self._subjects[subject] >= self._subject_streams_max:
            raise Overloaded
        followed = self._followed.setdefault(key, Followed())
        followed.streams += 1
        # Whatever was seen for others may be seconds old: the reader looks anew.
        followed.seen = None
        self.touched([key])
        self._subjects[subject] += 1
        OPEN.set(self._subjects.total())
        try:
            yield followed
        finally:
            self._subjects[subject] -= 1
            if not self._subjects[subject]:
                del self._subjects[subject]
            followed.streams -= 1
            if not followed.streams:
                del self._followed[key]
            OPEN.set(self._subjects.total())

    async def check(self, call: Call) -> None:
        """Whether a stream may go on. Raises Unavailable at a drain, TokenInvalid when the caller's token ended or was
        withdrawn."""
        if self._draining:
            raise Unavailable("this replica")
        if time.time() >= call.token_expires:
            raise TokenInvalid
        await call.token_stands()

    async def next(self, call: Call, followed: Followed, sent: Balance | None) -> Balance:
        """What stands on the account, once that is not what was `sent`. Raises what `check` raises."""
        while True:
            upcoming = followed.changed
            await self.check(call)
            if followed.seen is not None and followed.seen != sent:
                return followed.seen
            seconds = min(_TOKEN_SECONDS, call.token_expires - time.time())
            try:
                async with asyncio.timeout(max(seconds, 0)):
                    await upcoming.wait()
            except TimeoutError:
                continue

    async def run(self) -> None:
        """The reader: looks at what was touched, and at everything that is followed every few seconds."""
        clock = asyncio.get_running_loop().time
        all_again = clock() + self._poll_seconds
        while True:
            try:
                # Where nobody follows anything there is nothing to look for.
                async with asyncio.timeout_at(all_again if self._followed else None):
                    await self._wake.wait()
                await asyncio.sleep(_GATHER_SECONDS)
            except TimeoutError:
                pass
            self._wake.clear()
            if clock() >= all_again:
                self._touched = set()
                keys = list(self._followed)
                all_again = clock() + self._poll_seconds
            else:
                keys, self._touched = list(self._touched), set()
            for start in range(0, len(keys), _READ_MAX):
                await self._look(keys[start : start + _READ_MAX])

    async def _look(self, keys: Sequence[Key]) -> None:
        for key, balance in zip(keys, await self._read(keys), strict=True):
            followed = self._followed.get(key)  # it may have been left meanwhile
            if followed is not None and balance is not None:
                followed.show(balance)
