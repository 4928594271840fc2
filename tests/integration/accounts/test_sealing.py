"""Journals are sealed after their commit, each once and in order, whatever dies, runs twice or takes long."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY
from psycopg import sql

from accounts import merkle, seal_store, sealing, signing
from accounts.history import Head
from accounts.model import AccountType
from accounts.sealing import LogDamaged, Sealer
from accounts.settings import Settings
from accounts.signing import Signer
from meshkit.database import Database
from tests.integration.accounts.conftest import FUNDER, Ledger, new_ledger
from tests.support import parts as real

STATEMENTS = 12
"""Of a pass that adds to one tree of three leaves, without BEGIN and COMMIT."""


@pytest.fixture(scope="module")
def own_database(parts: real.Parts) -> str:
    """A database of this module's own: a sealer takes the journals of all tenants."""
    return real.fresh_database(parts, "accounts")


@pytest.fixture(scope="module")
async def sealed_db(parts: real.Parts, own_database: str) -> AsyncIterator[Database]:
    """The database as the service sees it."""
    async with Database.open(real.settings_for(parts, Settings, own_database)) as opened:
        yield opened


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    """A key."""
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    path.write_text(signing.new_private_pem())
    return signing.signer(path)


@pytest.fixture
async def books(sealed_db: Database, signer: Signer) -> Ledger:
    """A new tenant, with all before it sealed."""
    made = await new_ledger(sealed_db)
    await made.open("a")
    await seal_all(sealed_db, signer)
    return made


def owner(parts: real.Parts, database: str) -> psycopg.Connection[Any]:
    """The database's owner, for all tenants, with row-level security in its way."""
    url = parts.url(database, f"{database}_owner")
    return psycopg.connect(
        **dict(url.query), user=url.username, password=url.password, dbname=url.database, options="-c florin.tenants=*"
    )


async def seal_all(db: Database, signer: Signer, **options: Any) -> int:
    """Seals until there is nothing left; gives the number of journals."""
    sealer, total = Sealer(db, signer, every_seconds=0.01, **options), 0
    while True:
        done = await sealer.seal()
        total += done.sealed
        if not done.more:
            return total


async def post(books: Ledger, count: int, amount: int = 5) -> list[str]:
    """Posts journals one after the other; gives their ids."""
    posted = []
    for _ in range(count):
        (outcome,) = await books.apply(books.post(("bank", -amount), ("a", amount), actor=FUNDER))
        posted.append(outcome.journal.journal.removeprefix("journals/"))
    return posted


async def log_of(books: Ledger) -> list[str]:
    """The tenant's sealed journals, in order; fails when its heads, nodes or signatures are not as they have to be."""

    async def work(conn: Any) -> tuple[list[Any], list[Head]]:
        return (
            await seal_store.export(conn, books.tenant, start=0, end=10**9),
            await seal_store.heads(conn, books.tenant, above=0, up_to=10**9),
        )

    rows, heads = await books.db.run(books.tenant, work)
    assert [position for position, *_ in rows] == list(range(len(rows)))
    leaves = [leaf for _, _, leaf, _ in rows]
    assert leaves == [content.leaf() for *_, content in rows if content is not None]
    frontier, made, roots = merkle.Frontier(), [], {}
    for leaf in leaves:
        made += frontier.append(leaf)[1:]
        roots[frontier.size] = frontier.root()
    stored = await books.rows("SELECT level, number, hash FROM tree_nodes")
    assert {((level, number), bytes(value)) for level, number, value in stored} == set(made)
    assert [head.root_hash for head in heads] == [roots[head.tree_size] for head in heads]
    assert (heads[-1].tree_size if heads else 0) == len(rows)
    told = await books.rows("SELECT version FROM outbox WHERE aggregate = 'logs/journals' ORDER BY version")
    numbers = await books.rows("SELECT number FROM tree_heads ORDER BY tree_size")
    assert told == numbers == [(number,) for number in range(1, len(heads) + 1)]
    return [journal for _, journal, _, _ in rows]


async def test_what_is_posted_is_sealed_in_its_order(books: Ledger, sealed_db: Database, signer: Signer) -> None:
    """Each journal once, with heads that its key signed; a second look finds nothing new and signs nothing."""
    posted = await post(books, 3)
    assert await seal_all(sealed_db, signer) == 3
    posted += await post(books, 5)
    assert await seal_all(sealed_db, signer) == 5
    assert await log_of(books) == posted
    assert await seal_all(sealed_db, signer) == 0
    heads = await sealed_db.run(books.tenant, lambda conn: seal_store.heads(conn, books.tenant, above=0, up_to=99))
    assert [head.tree_size for head in heads] == [3, 8]
    assert all(signer.known.is_signed(head) for head in heads)


async def test_a_refusal_and_a_hold_are_not_sealed(books: Ledger, sealed_db: Database, signer: Signer) -> None:
    """The log is of journals."""
    await books.apply(books.place("a", 1), books.post(("nobody", -1), ("a", 1)))
    assert await seal_all(sealed_db, signer) == 0


async def test_batches_and_tenants_share_a_pass(books: Ledger, sealed_db: Database, signer: Signer) -> None:
    """One pass takes several tenants and cuts in the middle of a batch: what is left comes with the next one."""
    other = await new_ledger(sealed_db)
    await other.open("a")
    await books.apply(*[books.post(("bank", -1), ("a", 1), actor=FUNDER) for _ in range(7)])
    await other.apply(*[other.post(("bank", -1), ("a", 1), actor=FUNDER) for _ in range(7)])
    assert await seal_all(sealed_db, signer, batch=3) == 14
    assert len(await log_of(books)) == len(await log_of(other)) == 7


async def test_a_journal_that_commits_late_is_neither_skipped_nor_out_of_order(
    books: Ledger, parts: real.Parts, own_database: str, sealed_db: Database, signer: Signer
) -> None:
    """While a transaction that began earlier is open nothing that began later is sealed; then all of it is."""
    late = str(uuid.uuid4())
    with owner(parts, own_database) as slow:
        add_journal(slow, books.tenant, late)
        early = await post(books, 2)
        assert await seal_all(sealed_db, signer) == 0
        slow.commit()
    assert await seal_all(sealed_db, signer) == 3
    assert await log_of(books) == [late, *early]


async def test_the_delay_is_told_while_nothing_is_sealed(
    books: Ledger, parts: real.Parts, own_database: str, sealed_db: Database, signer: Signer
) -> None:
    """It grows while a transaction holds all others back, and is 0 again when nothing waits."""

    def delay() -> float:
        return REGISTRY.get_sample_value("florin_seal_delay_seconds") or 0.0

    with owner(parts, own_database) as slow:
        slow.execute("SELECT pg_current_xact_id()")
        await post(books, 1)
        await asyncio.sleep(0.5)
        assert await seal_all(sealed_db, signer) == 0
        before = delay()
        assert before >= 0.5
        await asyncio.sleep(0.2)
        assert await seal_all(sealed_db, signer) == 0
        assert delay() >= before + 0.2
        slow.rollback()
    assert await seal_all(sealed_db, signer) == 1
    assert await seal_all(sealed_db, signer) == 0
    assert delay() == 0


async def test_a_journal_that_is_rolled_back_leaves_nothing(
    books: Ledger, parts: real.Parts, own_database: str, sealed_db: Database, signer: Signer
) -> None:
    """What was waited for and never came is no gap."""
    with owner(parts, own_database) as slow:
        add_journal(slow, books.tenant, str(uuid.uuid4()))
        posted = await post(books, 1)
        assert await seal_all(sealed_db, signer) == 0
        slow.rollback()
    assert await seal_all(sealed_db, signer) == 1
    assert await log_of(books) == posted


def add_journal(connection: psycopg.Connection[Any], tenant: str, journal: str) -> None:
    """A journal without entries, in an open transaction."""
    connection.execute(
        "INSERT INTO journals (tenant, journal, kind, origin, create_time, effective_time)"
        " VALUES (%s, %s, 1, 'late', now(), now())",
        (tenant, journal),
    )


@pytest.mark.parametrize("dies_at", range(1, STATEMENTS + 2))
async def test_a_sealer_that_dies_at_any_statement_leaves_all_or_nothing(
    books: Ledger, sealed_db: Database, signer: Signer, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """The next one seals the same journals at the same positions, once."""
    first = await post(books, 3)
    await seal_all(sealed_db, signer)
    posted = await post(books, 4)
    calls = 0

    class Killed(BaseException):
        """Nothing that anybody catches."""

    def deadly(real_one: Any) -> Any:
        async def statement(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == dies_at:
                raise Killed
            return await real_one(*arguments)

        return statement

    with monkeypatch.context() as patch:
        for module, name in ((seal_store, "fetch"), (seal_store, "execute"), (sealing.outbox, "execute")):
            patch.setattr(module, name, deadly(getattr(module, name)))
        if dies_at > STATEMENTS:
            await Sealer(sealed_db, signer, every_seconds=1).seal()
        else:
            with pytest.raises(Killed):
                await Sealer(sealed_db, signer, every_seconds=1).seal()
    assert calls == min(dies_at, STATEMENTS)
    assert await log_of(books) == (first + posted if dies_at > STATEMENTS else first)
    assert await seal_all(sealed_db, signer) == (0 if dies_at > STATEMENTS else 4)
    assert await log_of(books) == first + posted


async def test_a_lost_answer_to_the_commit_seals_nothing_twice(
    books: Ledger, sealed_db: Database, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass runs again and finds that all is done."""
    posted = await post(books, 2)
    once, lost = Database._once, []

    async def lossy(self: Database, *arguments: Any, **options: Any) -> Any:
        result = await once(self, *arguments, **options)
        if not lost:
            lost.append(result)
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Database, "_once", lossy)
        assert (await Sealer(sealed_db, signer, every_seconds=1).seal()).sealed == 0
    assert lost[0].sealed == 2
    assert await log_of(books) == posted


async def test_two_sealers_at_once_seal_each_journal_once(books: Ledger, sealed_db: Database, signer: Signer) -> None:
    """While journals are posted, two replicas seal as fast as they can."""
    stop = asyncio.Event()

    async def replica() -> int:
        sealer, total = Sealer(sealed_db, signer, every_seconds=0, batch=5), 0
        while not stop.is_set():
            total += (await sealer.seal()).sealed
        return total

    replicas = [asyncio.create_task(replica()) for _ in range(2)]
    posted: list[str] = []
    for _ in range(15):
        outcomes = await books.apply(*[books.post(("bank", -1), ("a", 1), actor=FUNDER) for _ in range(4)])
        posted += [outcome.journal.journal.removeprefix("journals/") for outcome in outcomes]
    await real.eventually(lambda: _is_sealed(books, len(posted)))
    stop.set()
    assert sum(await asyncio.gather(*replicas)) == len(posted)
    assert sorted(await log_of(books)) == sorted(posted)


async def _is_sealed(books: Ledger, count: int) -> bool:
    return await books.rows("SELECT count(*) FROM sealed_journals") == [(count,)]


async def test_two_replicas_sign_no_more_often_than_one(books: Ledger, sealed_db: Database, signer: Signer) -> None:
    """What a replica signed a moment ago is enough for the others; after a while the next one goes on."""
    await post(books, 1)
    await seal_all(sealed_db, signer)
    await post(books, 1)
    second = Sealer(sealed_db, signer, every_seconds=1)
    assert (await second.seal(rest_seconds=60)).sealed == 0
    await real.eventually(lambda: _sealed_by(second, 0.2))
    assert await _is_sealed(books, 2)


async def _sealed_by(sealer: Sealer, rest_seconds: float) -> bool:
    return (await sealer.seal(rest_seconds=rest_seconds)).sealed == 1


async def test_nothing_is_signed_over_a_tree_that_was_changed(
    books: Ledger, parts: real.Parts, own_database: str, sealed_db: Database, signer: Signer
) -> None:
    """The tree has to be what the last head says; after it is restored, sealing goes on."""
    await post(books, 2)
    await seal_all(sealed_db, signer)
    posted = await post(books, 1)
    change = "UPDATE tree_nodes SET hash = sha256(hash) WHERE tenant = %s RETURNING hash"
    with owner(parts, own_database) as connection:
        (before,) = connection.execute("SELECT hash FROM tree_nodes WHERE tenant = %s", (books.tenant,)).fetchone()  # type: ignore[misc]
        connection.execute(change, (books.tenant,))
    with pytest.raises(LogDamaged, match=books.tenant):
        await seal_all(sealed_db, signer)
    with owner(parts, own_database) as connection:
        connection.execute("UPDATE tree_nodes SET hash = %s WHERE tenant = %s", (before, books.tenant))
    assert await seal_all(sealed_db, signer) == 1
    assert (await log_of(books))[-1:] == posted


async def test_a_journal_that_cannot_be_sealed_is_named(
    books: Ledger, parts: real.Parts, own_database: str, sealed_db: Database, signer: Signer
) -> None:
    """It holds all others back, so whoever is on duty has to know which it is."""
    (journal,) = await post(books, 1)
    change = "UPDATE journals SET create_time = %s WHERE tenant = %s AND journal = %s"
    with owner(parts, own_database) as connection:
        connection.execute(change, ("infinity", books.tenant, journal))
    with pytest.raises(LogDamaged, match=f"tenant {books.tenant}, journals/{journal} cannot be sealed"):
        await seal_all(sealed_db, signer)
    with owner(parts, own_database) as connection:
        connection.execute(change, ("2026-01-01 00:00:00+00", books.tenant, journal))
    assert await seal_all(sealed_db, signer) == 1


async def test_rows_beyond_the_last_head_are_a_damaged_log(
    books: Ledger, parts: real.Parts, own_database: str, sealed_db: Database, signer: Signer
) -> None:
    """Of the log itself, or events of heads that are gone: named by the key that they are in the way of."""
    await post(books, 2)
    await seal_all(sealed_db, signer)
    await post(books, 1)
    await seal_all(sealed_db, signer)
    with owner(parts, own_database) as connection:
        connection.execute("DELETE FROM tree_heads WHERE tenant = %s AND number = 2", (books.tenant,))
    await post(books, 1)
    with pytest.raises(LogDamaged, match=f"inv_9_.*{books.tenant}"):
        await seal_all(sealed_db, signer)
    with owner(parts, own_database) as connection:
        connection.execute("DELETE FROM sealed_journals WHERE tenant = %s AND position = 2", (books.tenant,))
    with pytest.raises(LogDamaged, match=f"inv_7_.*{books.tenant}"):
        await seal_all(sealed_db, signer)
    with owner(parts, own_database) as connection:
        connection.execute("DELETE FROM outbox WHERE tenant = %s AND version = 2", (books.tenant,))
    assert await seal_all(sealed_db, signer) == 2


async def test_a_sealer_notices_that_a_log_lost_what_it_signed(
    books: Ledger, parts: real.Parts, own_database: str, sealed_db: Database, signer: Signer
) -> None:
    """Without the key a log can be cut, and whoever starts anew signs another one; who signed it does not."""
    sealer = Sealer(sealed_db, signer, every_seconds=1)
    for count in (2, 1):
        await post(books, count)
        assert (await sealer.seal()).sealed == count
    kept = "tenant = %s AND {}"
    with owner(parts, own_database) as connection:
        for table, condition in (
            ("sealed_journals", "position >= 2"),
            ("tree_heads", "number = 2"),
            ("outbox", "aggregate = 'logs/journals' AND version = 2"),
        ):
            connection.execute(f"DELETE FROM {table} WHERE {kept.format(condition)}", (books.tenant,))  # type: ignore[arg-type]
    await post(books, 1)
    with pytest.raises(LogDamaged, match=f"tenant {books.tenant} is of size 2, and one of size 3 "):
        await sealer.seal()
    await seal_all(sealed_db, signer)
    await post(books, 1)
    assert (await sealer.seal()).sealed == 1
    newest = "tenant = %s AND number = (SELECT max(number) FROM tree_heads AS h WHERE h.tenant = tree_heads.tenant)"
    with owner(parts, own_database) as connection:
        select = f"SELECT root_hash FROM tree_heads WHERE {newest}"
        (root,) = connection.execute(select, (books.tenant,)).fetchone()  # type: ignore[arg-type,misc]
        change = f"UPDATE tree_heads SET root_hash = %s WHERE {newest}"
        connection.execute(change, (b"x" * 32, books.tenant))  # type: ignore[arg-type]
    await post(books, 1)
    with pytest.raises(LogDamaged, match="was signed"):
        await sealer.seal()
    with owner(parts, own_database) as connection:
        connection.execute(change, (root, books.tenant))  # type: ignore[arg-type]
    assert (await sealer.seal()).sealed == 1


async def test_a_database_with_journals_is_migrated_and_they_are_sealed(parts: real.Parts, signer: Signer) -> None:
    """Those of before the log come first, and entries of new ones after them."""
    database = real.fresh_database(parts, "accounts", "0001")
    before = [str(uuid.uuid4()) for _ in range(5)]
    with owner(parts, database) as connection:
        connection.execute("INSERT INTO tenants VALUES ('old', '', 'UTC', now())")
        for journal in before:
            add_journal(connection, "old", journal)
    real.migrate(parts, "accounts", database)
    async with Database.open(real.settings_for(parts, Settings, database)) as db:
        books = Ledger(db, "old")
        await books.open("bank", type=AccountType.SETTLEMENT)
        await books.open("a")
        posted = await post(books, 2)
        assert await seal_all(db, signer, batch=3) == 7
        assert await log_of(books) == sorted(before) + posted


async def test_the_last_sealed_transaction_is_the_one_with_the_greatest_number(parts: real.Parts) -> None:
    """As numbers are ordered, not texts: what was sealed at 999 is before what was at 1000."""
    database = real.fresh_database(parts, "accounts")
    async with Database.open(real.settings_for(parts, Settings, database)) as db:
        with owner(parts, database) as connection:
            for number, (era, xid) in enumerate(((1, 999), (1, 1000), (2, 9), (2, 10)), 1):
                connection.execute(
                    "INSERT INTO tree_heads VALUES ('demo', %s, %s, %s, now(), '', %s, %s, 1, %s::text::xid8, %s)",
                    (number, number, bytes(32), bytes(64), era, xid, uuid.uuid4()),
                )
                connection.commit()
                found, _ = await db.run("*", seal_store.cursor, read_only=True)
                assert (found.era, found.server, found.xid) == (era, 1, str(xid))


@pytest.mark.parametrize("ahead", [10**12, 60], ids=["for long", "until it was passed unseen"])
async def test_a_database_restored_on_a_server_that_counts_lower_is_sealed_on(
    parts: real.Parts, signer: Signer, ahead: int
) -> None:
    """A dump brings the numbers of another server's transactions. They are larger than those here will be for long, or
    until more was posted than they were ahead while nobody sealed."""
    database = real.fresh_database(parts, "accounts")
    async with Database.open(real.settings_for(parts, Settings, database)) as db:
        books = await new_ledger(db)
        await books.open("a")
        posted = await post(books, 4)
        await seal_all(db, signer)
        tail = await post(books, 3)
        with owner(parts, database) as connection:
            # As if all of it had been posted and sealed far on, and had come here by a dump.
            moved = "(({0}::text::bigint + %s)::text)::xid8"
            for table, column in (("journals", "xid"), ("tree_heads", "last_xid")):
                connection.execute(
                    sql.SQL("UPDATE {} SET {} = " + moved.format(column)).format(  # type: ignore[arg-type]
                        sql.Identifier(table), sql.Identifier(column)
                    ),
                    (ahead,),
                )
            connection.execute("UPDATE tree_heads SET server = server - 1")
        new = await post(books, 3 if ahead > 60 else 100)
        assert await seal_all(db, signer, batch=2) == len(tail + new)
        assert sorted(await log_of(books)) == sorted(posted + tail + new)
        if ahead > 60:
            assert await log_of(books) == posted + tail + new
        before = await log_of(books)
        new += await post(books, 2)
        assert await seal_all(db, signer) == 2
        assert await log_of(books) == before + new[-2:]
        assert await books.rows("SELECT max(era) FROM tree_heads") == [(2,)]
