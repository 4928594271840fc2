"""A transaction whose statements travel together: what fails is told, what is told was written, lost connections go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import psycopg
import pytest
from sqlalchemy import exc as sa_exc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.settings import Settings
from meshkit.database import Database, Raced, execute, fetch, flush, sqlstate, until_not_raced
from meshkit.errors import Contention
from tests.support import parts as real
from tests.support.parts import fresh_database, settings_for

TENANT = "together"
_CLAIM = "INSERT INTO inbox (tenant, source, aggregate, version) VALUES (%s, 'test', %s, 1)"


@pytest.fixture
async def db(parts: real.Parts) -> AsyncIterator[Database]:
    """A fresh database of accounts."""
    async with Database.open(settings_for(parts, Settings, fresh_database(parts, "accounts"))) as opened:
        yield opened


async def _claim(conn: AsyncConnection, aggregate: str) -> None:
    await execute(conn, _CLAIM, (TENANT, aggregate))


async def _claimed(db: Database) -> list[str]:
    rows = await db.run(TENANT, lambda conn: fetch(conn, "SELECT aggregate FROM inbox ORDER BY 1"))
    return [row[0] for row in rows]


async def test_a_statement_whose_answer_nobody_awaited_fails_the_transaction(db: Database) -> None:
    """With its own error; nothing of the transaction stays, and the connection is fit for the next one."""

    async def work(conn: AsyncConnection) -> str:
        await _claim(conn, "one")
        await _claim(conn, "one")
        await _claim(conn, "two")
        return "never told"

    for _ in range(3):
        with pytest.raises(psycopg.errors.UniqueViolation):
            await db.run(TENANT, work)
    assert await _claimed(db) == []
    await db.run(TENANT, lambda conn: _claim(conn, "three"))
    assert await _claimed(db) == ["three"]


async def test_a_failure_that_the_work_swallows_is_no_commit(db: Database) -> None:
    """The server answers such a COMMIT with a rollback and no error."""

    async def work(conn: AsyncConnection) -> None:
        await _claim(conn, "one")
        with contextlib.suppress(psycopg.Error):
            await fetch(conn, "SELECT 1 / 0")

    for _ in range(4):
        with pytest.raises(RuntimeError, match="rolled back"):
            await db.run(TENANT, work)
        assert await _claimed(db) == []


async def test_statements_of_both_kinds_see_each_other_in_their_order(db: Database) -> None:
    """SQLAlchemy's, which wants each answer at once, and the driver's, which wait."""

    async def work(conn: AsyncConnection) -> tuple[int, list[tuple[object, ...]]]:
        await _claim(conn, "one")
        count = (await conn.execute(text("SELECT count(*) FROM inbox"))).scalar_one()
        await conn.execute(text("UPDATE inbox SET version = 2"))
        later = await execute(conn, "SELECT version FROM inbox")
        await flush(conn)
        return count, await later.fetchall()

    assert await db.run(TENANT, work) == (1, [(2,)])


async def test_a_race_is_seen_through_whichever_statement_tells_of_it(db: Database) -> None:
    """A statement of SQLAlchemy may be the first that is told of the driver's before it."""
    await db.run(TENANT, lambda conn: _claim(conn, "one"))
    tries: list[str] = []

    async def told_by_sqlalchemy(conn: AsyncConnection) -> str:
        tries.append("try")
        if len(tries) < 3:
            await _claim(conn, "one")
            await conn.execute(text("SELECT 1"))
        return "found what the other wrote"

    answer = await until_not_raced(["inbox_pk"], lambda: db.run(TENANT, told_by_sqlalchemy))
    assert answer == "found what the other wrote"
    assert len(tries) == 3
    with pytest.raises(psycopg.errors.UniqueViolation):
        await until_not_raced(["another_constraint"], lambda: db.run(TENANT, lambda conn: _claim(conn, "one")))

    async def always(_conn: AsyncConnection) -> None:
        raise Raced

    with pytest.raises(Contention):
        await until_not_raced([], lambda: db.run(TENANT, always))


@pytest.mark.parametrize("kind", ["driver", "sqlalchemy", "fetch"])
async def test_a_failure_inside_a_savepoint_is_the_one_that_is_told(db: Database, kind: str) -> None:
    """Not that of the rollback to the savepoint, which the server refuses until the failure was taken note of."""
    await db.run(TENANT, lambda conn: _claim(conn, "one"))
    tries: list[str] = []

    async def work(conn: AsyncConnection) -> None:
        tries.append("try")
        await conn.execute(text("SELECT 1"))
        async with conn.begin_nested():
            await _claim(conn, "one")
            await asyncio.sleep(0.05)  # the failure is there before the next statement is sent
            match kind:
                case "driver":
                    await _claim(conn, "two")
                case "sqlalchemy":
                    await conn.execute(text("SELECT 2"))
                case _:
                    await fetch(conn, "SELECT 2")

    with pytest.raises((psycopg.Error, sa_exc.DBAPIError)) as caught:
        await db.run(TENANT, work)
    assert sqlstate(caught.value) == "23505"
    assert tries == ["try"]
    assert await _claimed(db) == ["one"]


@pytest.mark.parametrize("failed_before", [False, True])
async def test_what_the_socket_does_not_take_at_once_is_sent_on(db: Database, failed_before: bool) -> None:
    """Megabytes in one statement, also after one that failed; the driver alone would wait for the answer to a part."""
    large = ["x" * 1000] * 5000

    async def work(conn: AsyncConnection) -> int:
        if failed_before:
            await execute(conn, "SELECT 1 / 0")
        rows = await fetch(conn, "SELECT count(*) FROM unnest(%s::text[])", (large,))
        count: int = rows[0][0]
        return count

    async with asyncio.timeout(4):
        if failed_before:
            with pytest.raises(psycopg.errors.DivisionByZero):
                await db.run(TENANT, work)
        else:
            assert await db.run(TENANT, work) == len(large)


async def test_a_failure_in_sqlalchemys_statement_is_its_own(db: Database) -> None:
    """Not taken for a race, and the transaction is gone."""

    async def work(conn: AsyncConnection) -> None:
        await _claim(conn, "one")
        await conn.execute(text("SELECT 1 / 0"))

    with pytest.raises(sa_exc.DataError):
        await db.run(TENANT, work)
    assert await _claimed(db) == []


@pytest.mark.parametrize("wanted_now", [True, False], ids=["fetched", "committed"])
async def test_connections_that_the_server_ended_are_replaced_at_once(
    db: Database, parts: real.Parts, wanted_now: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With the first that fails, and without the pool's complaint about each."""

    async def hold(conn: AsyncConnection, others: int) -> None:
        await fetch(conn, "SELECT 1")
        if others:
            await db.run(TENANT, lambda inner: hold(inner, others - 1))

    await db.run(TENANT, lambda conn: hold(conn, 5))
    with psycopg.connect(parts.postgres.admin_dsn("postgres"), autocommit=True) as admin:
        ended = admin.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
            " AND application_name = 'florin-accounts'",
            (db.engine.url.database,),
        ).fetchone()
    assert ended is not None
    assert ended[0] >= 6

    async def work(conn: AsyncConnection) -> None:
        await _claim(conn, "one")
        if wanted_now:
            await flush(conn)

    await db.run(TENANT, work)
    assert await _claimed(db) == ["one"]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("sqlalchemy")] == []
