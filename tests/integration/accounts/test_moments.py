"""Balances and entries as of a moment on a real database: exact, while postings run, and without reading histories."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from accounts import errors, moments_store, operations
from accounts import ledger as rules
from accounts.book import NEVER
from accounts.model import Entry
from accounts.moments import AsOf, Axis, PastBalance
from meshkit import clock
from meshkit.database import fetch
from meshkit.identity import Call, Principal
from tests.integration.accounts.conftest import FUNDER, Ledger, reason
from tests.support import parts as real

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = ("a", "b", "c")


def staff(ledger: Ledger) -> Call:
    """A call of staff of the ledger's tenant."""
    return Call("/t", "edge", Principal(ledger.tenant, "s", None, frozenset()), "", b"", float("inf"))


async def past(ledger: Ledger, *keys: tuple[str, AsOf], customer: str | None = None) -> list[PastBalance | None]:
    """Balances as of moments, in one query."""
    wanted = [(ledger.tenant, name, customer, as_of) for name, as_of in keys]
    return await ledger.db.run(ledger.tenant, lambda conn: moments_store.balances(conn, wanted), read_only=True)


async def listed(ledger: Ledger, name: str, as_of: AsOf | None, page: int) -> list[Entry]:
    """All entries as of a moment, read page by page."""
    call, found, before = staff(ledger), list[Entry](), 2**63 - 1

    async def work(conn: Any) -> list[Entry]:
        recorded = await operations.recorded_by(conn, call, f"accounts/{name}", as_of)
        return await operations.list_entries(
            conn, call, f"accounts/{name}", as_of, recorded=recorded, before=before, limit=page
        )

    while True:
        entries = await ledger.db.run(ledger.tenant, work, read_only=True)
        found += entries
        if len(entries) < page:
            return found
        before = entries[-1].sequence


def counts(entry: Entry, as_of: AsOf) -> bool:
    """The definition of what is in a balance as of a moment."""
    if as_of.axis is Axis.SEQUENCE:
        return entry.sequence <= as_of.sequence
    return (entry.create_time if as_of.axis is Axis.RECORDED else entry.effective_time) <= as_of.time


def moments(entries: Sequence[Entry]) -> Iterator[AsOf]:
    """Every moment at which an answer can change, and those a microsecond beside it."""
    times = {time for entry in entries for time in (entry.create_time, entry.effective_time)}
    for time in times:
        for beside in (-1, 0, 1):
            yield AsOf(Axis.RECORDED, time + timedelta(microseconds=beside))
            yield AsOf(Axis.EFFECTIVE, time + timedelta(microseconds=beside))
    for axis in (Axis.RECORDED, Axis.EFFECTIVE):
        yield AsOf(axis, datetime(1, 1, 1, tzinfo=UTC))
        yield AsOf(axis, START + timedelta(days=3000))
    for sequence in range(len(entries) + 1):
        yield AsOf(Axis.SEQUENCE, sequence=sequence)


async def random_history(ledger: Ledger, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches whose clocks stand still, go on and are set back, of entries dated back, forward and not at all."""
    for name in NAMES:
        await ledger.open(name)
    now = START
    for _ in range(chance.randint(1, 8)):
        now += chance.choice([timedelta(0), timedelta(microseconds=1), timedelta(hours=5), -timedelta(hours=7)])
        monkeypatch.setattr(clock, "now", lambda now=now: now)
        steps = []
        for _ in range(chance.randint(1, 5)):
            debit, credit = chance.sample(NAMES, 2)
            amount = chance.randint(1, 99)
            dated = chance.choice(
                [None, now, now - timedelta(days=1), now - timedelta(hours=5), now + timedelta(hours=5)]
            )
            step = ledger.post((debit, -amount), (credit, amount), actor=FUNDER)
            steps.append(replace(step, effective_time=dated))
        await ledger.apply(*steps)
    # The transaction that reads must not be in the past.
    monkeypatch.setattr(clock, "now", lambda: START + timedelta(days=4000))


@pytest.mark.parametrize("seed", range(12))
async def test_as_of_is_what_adding_up_gives(ledger: Ledger, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over random histories, at every moment of each kind: the balance is the sum of the entries that count, and the
    list is those entries, the newest first, over pages of any size."""
    chance = random.Random(seed)
    await random_history(ledger, chance, monkeypatch)
    for name in NAMES:
        entries = await listed(ledger, name, None, 1000)
        asked = list(moments(entries))
        found = await past(ledger, *((name, as_of) for as_of in asked))
        for as_of, balance in zip(asked, found, strict=True):
            expected = [entry for entry in entries if counts(entry, as_of)]
            assert balance is not None
            assert balance.posted == sum(entry.amount for entry in expected), (seed, name, as_of)
            assert balance.last_sequence == len(entries)
            last = len(entries) if as_of.axis is Axis.EFFECTIVE else len(expected)
            assert balance.sequence == last, (seed, name, as_of)
            if chance.random() < 0.2:
                assert await listed(ledger, name, as_of, chance.randint(1, 4)) == expected, (seed, name, as_of)


async def test_recorded_times_follow_sequences_though_clocks_do_not(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replicas whose clocks are up to an hour behind post at once: no entry is recorded before the one before it, and
    the balances of all accounts as of any moment sum to zero."""
    for name in NAMES:
        await ledger.open(name)
    chance = random.Random(7)
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + timedelta(seconds=chance.uniform(-3600, 0)))

    async def writer() -> None:
        for _ in range(12):
            debit, credit = chance.sample(NAMES, 2)
            await ledger.apply(ledger.post((debit, -1), (credit, 1), actor=FUNDER))

    await asyncio.gather(*(writer() for _ in range(6)))
    early = await ledger.rows(
        "SELECT account, sequence FROM (SELECT account, sequence, create_time < lag(create_time) OVER"
        " (PARTITION BY account ORDER BY sequence) AS early FROM entries) AS e WHERE early"
    )
    assert early == []
    split = await ledger.rows(
        "SELECT journal FROM entries AS e JOIN journals AS j USING (tenant, journal)"
        " WHERE e.create_time <> j.create_time"
    )
    assert split == []
    for (time,) in await ledger.rows("SELECT DISTINCT create_time FROM journals"):
        found = await past(ledger, *((name, AsOf(Axis.RECORDED, time)) for name in NAMES))
        assert sum(balance.posted for balance in found if balance is not None) == 0


async def test_as_of_while_postings_run(ledger: Ledger) -> None:
    """Every answer is one that stood: the balance after the entry it names. An answer for a sequence never changes, and
    one for a time that passed is what adding up gives afterwards."""
    for name in NAMES:
        await ledger.open(name)
    done = asyncio.Event()
    seen: list[tuple[str, AsOf, PastBalance]] = []

    async def writer(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(25):
            debit, credit = chance.sample(NAMES, 2)
            step = ledger.post((debit, -3), (credit, 3), actor=FUNDER)
            dated = clock.now() - timedelta(seconds=chance.choice([0, 0, 3600]))
            await ledger.apply(replace(step, effective_time=dated))

    async def reader() -> None:
        while not done.is_set():
            keys = [(name, AsOf(Axis.RECORDED, clock.now())) for name in NAMES]
            keys += [(name, AsOf(Axis.EFFECTIVE, clock.now() - timedelta(minutes=30))) for name in NAMES]
            for (name, as_of), balance in zip(keys, await past(ledger, *keys), strict=True):
                assert balance is not None
                seen.append((name, as_of, balance))

    reading = asyncio.create_task(reader())
    await asyncio.gather(*(writer(seed) for seed in range(4)))
    done.set()
    await reading
    assert len(seen) > 20
    entries = {name: await listed(ledger, name, None, 1000) for name in NAMES}
    for name, as_of, balance in seen:
        story = [entry for entry in entries[name] if entry.sequence <= balance.sequence]
        if as_of.axis is Axis.EFFECTIVE:
            story = [entry for entry in story if entry.effective_time <= as_of.time]
        assert balance.posted == sum(entry.amount for entry in story)
    for name in NAMES:
        pinned = AsOf(Axis.SEQUENCE, sequence=len(entries[name]) // 2)
        found = await past(ledger, (name, pinned))
        assert found[0] is not None
        assert found[0].posted == sum(entry.amount for entry in entries[name] if counts(entry, pinned))


async def test_absent_and_foreign_accounts_have_no_past(ledger: Ledger, second_ledger: Ledger) -> None:
    """What a customer does not own is as good as none, and so is what another tenant has."""
    await ledger.open("mine", posted=5)
    as_of = AsOf(Axis.SEQUENCE, sequence=0)
    assert await past(ledger, ("nobody", as_of)) == [None]
    assert await past(ledger, ("mine", as_of), customer="stranger") == [None]
    assert await past(second_ledger, ("mine", as_of)) == [None]
    assert await past(ledger, ("mine", as_of)) == [PastBalance("EUR", 0, 0, 1)]


def entries_read(plan: dict[str, Any]) -> int:
    """How many entries the nodes of a plan gave or threw away."""
    own = 0
    if str(plan.get("Relation Name", plan.get("Index Name", ""))).startswith("entries"):
        thrown_away = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
        own = int((plan["Actual Rows"] + thrown_away) * plan["Actual Loops"])
    return own + sum(entries_read(one) for one in plan.get("Plans", ()))


def index_entries_read(plan: dict[str, Any], index: str) -> int:
    """How many entries a plan took from an index whose name ends so."""
    own = int(plan["Actual Rows"] * plan["Actual Loops"]) if str(plan.get("Index Name", "")).endswith(index) else 0
    return own + sum(index_entries_read(one, index) for one in plan.get("Plans", ()))


async def explained(ledger: Ledger, sql: str, parameters: tuple[object, ...]) -> dict[str, Any]:
    """The plan of a statement that was run."""

    async def explain(conn: Any) -> Any:
        return await fetch(conn, "EXPLAIN (ANALYZE, FORMAT JSON) " + sql, parameters)

    plan = (await ledger.db.run(ledger.tenant, explain))[0][0]
    found: dict[str, Any] = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    return found


def analyze(parts: real.Parts, database: str) -> None:
    """Has the planner know what is in the tables."""
    url = parts.url(database, f"{database}_owner")
    values = url.translate_connect_args(username="user", database="dbname")
    with psycopg.connect(**{**values, **url.query}, autocommit=True) as connection:
        connection.execute("ANALYZE accounts, entries, journals")


async def test_no_history_is_read_for_what_is_asked_of_the_past(
    ledger: Ledger, parts: real.Parts, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account with 10,000 entries, of which one in a hundred is dated: a balance takes some two dozen looks at
    entries, one for each halving and one for each entry that is dated across the moment; no question but that for an
    effective time looks at dated ones; and a page takes those dated across and its own."""
    await ledger.open("busy")
    for number in range(10):
        now = START + timedelta(minutes=number)
        monkeypatch.setattr(clock, "now", lambda now=now: now)
        steps = [ledger.post(("bank", -1), ("busy", 1), actor=FUNDER) for _ in range(1000)]
        dated = now - timedelta(seconds=30)
        steps[::100] = [replace(step, effective_time=dated) for step in steps[::100]]
        await ledger.apply(*steps)
    analyze(parts, database)
    middle = START + timedelta(minutes=4, seconds=-10)  # ten are dated across it
    for as_of in (AsOf(Axis.RECORDED, middle), AsOf(Axis.EFFECTIVE, middle), AsOf(Axis.SEQUENCE, sequence=4_321)):
        columns = moments_store._columns([(ledger.tenant, "busy", None, as_of)])
        plan = await explained(ledger, moments_store._BALANCES, columns)
        assert 0 < entries_read(plan) < 40, json.dumps(plan, indent=1)
        if as_of.axis is not Axis.EFFECTIVE:
            assert index_entries_read(plan, "_dated") == 0, json.dumps(plan, indent=1)
    for limit in (2, 101, 1001):
        asked: tuple[object, ...] = (middle, ledger.tenant, "busy", 2**63 - 1, limit)
        plan = await explained(ledger, moments_store._DATED_BACK, asked)
        assert plan["Actual Rows"] == min(10, limit)
        assert entries_read(plan) < 20, json.dumps(plan, indent=1)
        asked = (ledger.tenant, "busy", 4_001, middle, limit)
        plan = await explained(ledger, moments_store._RECORDED_BY_THEN, asked)
        assert limit <= entries_read(plan) < limit + 40, json.dumps(plan, indent=1)


@pytest.mark.parametrize("year", [1, 1871, 2200, 9998])
async def test_an_entry_dated_by_centuries_spoils_no_answer(
    ledger: Ledger, year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused; where the version before let it in, every question about its accounts is answered, at
    whatever moment."""
    await ledger.open("far")
    now, far = clock.now(), datetime(year, 1, 1, tzinfo=UTC)
    step = replace(ledger.post(("bank", -1), ("far", 1), actor=FUNDER), effective_time=far)
    (refused,) = await ledger.apply(replace(step, key=str(uuid.uuid4())))
    assert reason(refused.refusal) == "REQUEST_INVALID"
    monkeypatch.setattr(rules, "DATING_MAX", timedelta.max)
    assert (await ledger.apply(step))[0].HasField("journal")
    for time in (datetime(1, 1, 1, tzinfo=UTC), now - timedelta(days=1), datetime(9998, 6, 1, tzinfo=UTC)):
        for axis, counted in ((Axis.RECORDED, now), (Axis.EFFECTIVE, far)):
            as_of = AsOf(axis, time)
            found = (await past(ledger, ("far", as_of)))[0]
            assert found is not None
            assert found.posted == (1 if counted <= time else 0), (axis, time)
            if time < now:
                assert len(await listed(ledger, "far", as_of, 2)) == found.posted


async def test_an_account_without_entries_was_never_recorded(ledger: Ledger) -> None:
    """The schema's default is the model's: a time before any."""
    await ledger.open("new")
    assert await ledger.rows("SELECT recorded_time FROM accounts WHERE account = 'new'") == [(NEVER,)]
    assert await listed(ledger, "new", None, 9) == []


async def test_a_clock_that_is_ahead_records_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of a process whose clock is ahead of the database's is refused whole, and its account keeps its time; the
    same step is done once the clock is right. Some seconds are let pass."""
    await ledger.open("main")
    real_now = clock.now
    step = ledger.post(("bank", -1), ("main", 1), actor=FUNDER)
    for ahead in (timedelta(seconds=8), timedelta(days=36_500)):
        monkeypatch.setattr(clock, "now", lambda ahead=ahead: real_now() + ahead)
        with pytest.raises(errors.ClockAhead, match="clock is ahead of its database's"):
            await ledger.apply(step)
    assert await ledger.rows("SELECT recorded_time FROM accounts WHERE account = 'main'") == [(NEVER,)]
    monkeypatch.setattr(clock, "now", lambda: real_now() + timedelta(seconds=3))
    assert (await ledger.apply(step))[0].HasField("journal")
