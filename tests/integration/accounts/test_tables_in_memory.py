"""The simulation's ledger beside the real one: the same random steps leave the same rows, and come to the same."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any
from unittest import mock

import pytest

from accounts import ledger_store, posting
from accounts.book import Actor, Book, Cancel, Expire, Leg, Place, Post, Release, Seen, Step
from accounts.ledger_store import Wanted
from accounts.model import AccountState, AccountType, JournalKind
from accounts.settings import Settings
from meshkit import clock
from meshkit.database import Database
from tests.integration.accounts.conftest import Ledger, new_ledger
from tests.simulation import ledger_tables
from tests.support import parts as real_parts
from tests.support.seeds import SEED

BATCHES = 40
NAMES = ("a", "b", "c")
_CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("state = 3, freeze_reason = 'x'", {"state": AccountState.FROZEN}),
    ("state = 2, freeze_reason = ''", {"state": AccountState.ACTIVE}),
    ("debit_block_reason = 'x', credit_block_reason = 'x'", {"debits_blocked": True, "credits_blocked": True}),
    ("debit_block_reason = '', credit_block_reason = ''", {"debits_blocked": False, "credits_blocked": False}),
]
"""What is done to an account beside postings: in SQL, and to its twin."""


@pytest.fixture(scope="module")
async def own_db(parts: real_parts.Parts) -> AsyncIterator[Database]:
    """A database without a service at work, which would end the holds of the past."""
    settings = real_parts.settings_for(parts, Settings, real_parts.fresh_database(parts, "accounts"))
    async with Database.open(settings) as opened:
        yield opened


@pytest.fixture
async def ledger(own_db: Database) -> Ledger:
    """A new tenant with a settlement account "bank"."""
    return await new_ledger(own_db)


class Twins:
    """One tenant's ledger, and the tables that stand for it."""

    def __init__(self, ledger: Ledger, chance: Random) -> None:
        self.ledger = ledger
        self.chance = chance
        self.tables = ledger_tables.Ledger()
        self.now = clock.now() - timedelta(days=1)
        self.keys = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(80)]

    async def begin(self) -> None:
        """Three accounts with money."""
        for name in NAMES:
            await self.ledger.open(name, 100, type=AccountType.CUSTOMER)
        self.tables.accounts.update((await self.book()).accounts)
        self.tables.entries += [(name, 100) for name in NAMES]
        tenant, actor = self.ledger.tenant, Actor(None, may_fund=False)
        legs = (Leg("accounts/a", "EUR", -1), Leg("accounts/b", "EUR", 1))
        post = Post(tenant, self.keys[1], actor, JournalKind.TRANSFER, "transfers/first", legs)
        real, twin = await self.do([post, Place(tenant, self.keys[0], actor, "transfers/held", "accounts/c", "EUR", 1)])
        assert real == twin

    async def book(self) -> Book:
        """All that stands in the real one."""
        tenant = self.ledger.tenant
        every = {(tenant, key) for key in self.keys}
        wanted = Wanted(accounts={(tenant, name) for name in NAMES}, keys=every, holds=every)

        async def read(conn: Any) -> Book:
            return (await ledger_store.read_book(conn, wanted, {}, lock=False))[0]

        return await self.ledger.db.run(tenant, read, read_only=True)

    async def do(self, steps: list[Step]) -> tuple[list[Any], list[Any]]:
        """The same batch here and there, at the same moment."""
        self.now += timedelta(seconds=self.chance.choice([0, 1, 30]))
        with mock.patch.object(clock, "now", lambda: self.now):
            real = await self.ledger.apply(*steps)
            with mock.patch.object(posting, "ledger_store", ledger_tables):
                twin = await posting.apply_steps(_AtOnce(self.tables), [posting.Item(step) for step in steps])  # type: ignore[arg-type]
        return real, twin

    def step(self) -> Step:
        """Any, under a key that may have been used, for this or for something else."""
        chance, tenant = self.chance, self.ledger.tenant
        key, other = chance.choice(self.keys), chance.choice(self.keys)
        debit, credit = chance.sample(NAMES, 2)
        amount, actor = chance.choice([1, 30, 80]), Actor("nobody" if chance.random() < 0.1 else None, may_fund=False)
        held = [place[1] for place in self.tables.holds]
        match chance.choice(["post", "post", "place", "place", "release", "expire", "cancel"]):
            case "post":
                there = self.tables.accounts[tenant, debit]
                seen = chance.choice([None, None, Seen(there.sequence, there.available), Seen(there.sequence, 1)])
                hold_key = chance.choice([*held, other]) if chance.random() < 0.4 else ""
                legs = (Leg(f"accounts/{debit}", "EUR", -amount), Leg(f"accounts/{credit}", "EUR", amount))
                kind, keep, origin = JournalKind.TRANSFER, chance.random() < 0.5, f"transfers/{key}"
                return Post(tenant, key, actor, kind, origin, legs, hold_key, keep_hold=keep, seen=seen)
            case "place":
                until = chance.choice([None, self.now + timedelta(seconds=20)])
                return Place(tenant, key, actor, f"transfers/{other}", f"accounts/{debit}", "EUR", amount, until)
            case "expire" if held:
                return Expire(tenant, chance.choice(held))
            case "cancel":
                return Cancel(tenant, key)
        return Release(tenant, chance.choice([*held, key]))

    async def change(self) -> None:
        """Something is done to an account, beside what is posted."""
        name, (sql, fields) = self.chance.choice(NAMES), self.chance.choice(_CHANGES)
        await self.ledger.rows(f"UPDATE accounts SET {sql} WHERE account = '{name}' RETURNING 1")
        place = self.ledger.tenant, name
        self.tables.accounts[place] = replace(self.tables.accounts[place], **fields)


class _AtOnce:
    """As Database, of the tables."""

    def __init__(self, conn: ledger_tables.Ledger) -> None:
        self._conn = conn

    async def run(self, _tenants: Any, work: Callable[[Any], Awaitable[Any]], **_options: Any) -> Any:
        return await work(self._conn)


@pytest.mark.parametrize("run", range(3))
async def test_the_same_steps_leave_the_same_rows(ledger: Ledger, run: int) -> None:
    """Journals, holds, ends and cancellations under few keys, on accounts that are frozen and blocked now and then."""
    twins = Twins(ledger, Random(f"{SEED}/{run}"))
    await twins.begin()
    for number in range(BATCHES):
        where = f"seed {SEED}, run {run}, batch {number}"
        if twins.chance.random() < 0.3:
            await twins.change()
        real, twin = await twins.do([twins.step() for _ in range(twins.chance.randint(1, 4))])
        assert real == twin, where
        book, tables = await twins.book(), twins.tables
        assert book.accounts == {place: replace(one, changed=False) for place, one in tables.accounts.items()}, where
        assert book.holds == tables.holds, where
        assert {place: one.data for place, one in book.outcomes.items()} == tables.outcomes, where  # type: ignore[union-attr]
    entries = await ledger.rows("SELECT account, amount FROM entries WHERE account <> 'bank'")
    assert Counter(entries) == Counter(tables.entries)
    origins = await ledger.rows("SELECT origin FROM journals WHERE origin <> 'transfers/t'")
    assert Counter(origin for (origin,) in origins) == tables.journals
    until = twins.now + timedelta(seconds=60)

    async def due(conn: Any) -> list[Any]:
        return await ledger_store.expired_holds(conn, until, 100)

    found = await ledger.db.run(ledger.tenant, due, read_only=True)
    assert sorted(found) == sorted(await ledger_tables.expired_holds(tables, until, 100))
    assert tables.journals and tables.holds
