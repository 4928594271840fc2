"""One database transaction around one piece of work: tenants set, shielded, tried again where that is safe.

Only this module begins and commits. Work must not await another service.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import psycopg
from psycopg import generators
from sqlalchemy import event
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from meshkit import arrays, logs, telemetry
from meshkit.cipher import Cipher
from meshkit.errors import Contention, Overloaded, Unavailable
from meshkit.settings import ServiceSettings

T = TypeVar("T")

ALL_TENANTS = "*"
"""For background work that spans tenants: recovery, relay, consumers' bookkeeping, purges."""

POOL_WAIT_SECONDS = 2.0
"""Longer waits for a connection mean overload: the caller is better served by a refusal."""
_TRIES_MAX = 4
_RACES_MAX = 5
_SERIALIZATION_FAILURE, _DEADLOCK, _LOCK_TIMEOUT, _QUERY_CANCELED = "40001", "40P01", "55P03", "57014"
_ENDED_BY_THE_SERVER = ("25P03", "25P04")  # idle in transaction for too long, in transaction for too long
_TRANSACTION_TIMEOUT_FROM = 170000  # the first server version that has transaction_timeout

_log = logs.get(__name__)


class Database:
    """The service's own database. `cipher` seals personal data for its rows."""

    def __init__(self, engine: AsyncEngine, probe: AsyncEngine, cipher: Cipher) -> None:
        self.engine = engine
        self.probe = probe
        """One connection beside the pool, for the question whether the database answers: a pool whose connections are
        all in use is busy, and a replica that is called dead for it would only hand its load to the others."""
        self.cipher = cipher
        self.outbox_written = asyncio.Event()
        """Set after a commit that wrote events, so that the relay need not wait for its next poll."""
        self._running: set[asyncio.Task[object]] = set()

    @staticmethod
    @asynccontextmanager
    async def open(settings: ServiceSettings) -> AsyncIterator[Database]:
        """The pool of the service's runtime role; at the end, waits for transactions in flight and closes it."""
        engine = create_engine(settings.runtime_url(), settings)
        probe = create_engine(settings.runtime_url(), settings, connections=1)
        database = Database(engine, probe, Cipher.from_file(settings.encryption_key_file))
        try:
            yield database
        finally:
            if database._running:
                await asyncio.wait(database._running, timeout=settings.grace_seconds)
            await engine.dispose()
            await probe.dispose()

    async def run(
        self,
        tenants: str | Iterable[str],
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        durable: bool = True,
        read_only: bool = False,
        long: bool = False,
    ) -> T:
        """Runs `work` in one transaction that sees the rows of `tenants` alone, and commits.

        A cancelled caller does not stop it: once begun it ends by itself. `durable=False` answers before the commit
        is on disk; only for what can be derived again. A transaction may take a quarter longer than its longest
        statement; `long=True` is for imports, purges and checks of everything, which use no pipeline. `work` may run
        more than once (serialization failure, deadlock, a connection lost), so it must change nothing but the
        database. Raises what `work` raises, or Contention, Overloaded, Unavailable.
        """
        scope = tenants if isinstance(tenants, str) else ",".join(sorted(set(tenants)))
        options = {"durable": durable, "read_only": read_only, "long": long}
        task = asyncio.ensure_future(self._attempts(scope, work, options))
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # read, so that a failure after its caller left is not reported as never retrieved

    async def _attempts(
        self, scope: str, work: Callable[[AsyncConnection], Awaitable[T]], options: dict[str, bool]
    ) -> T:
        for attempt in range(1, _TRIES_MAX + 1):
            try:
                return await self._once(scope, work, **options)
            except (psycopg.Error, sa_exc.DBAPIError, sa_exc.TimeoutError) as error:
                refusal = transient(error)
                if refusal is None:
                    raise
                if attempt == _TRIES_MAX or isinstance(refusal, Overloaded):
                    raise refusal from error
                telemetry.TRANSACTION_RETRIES.labels(type(refusal).__name__).inc()
                # Full jitter, 5 ms doubled: those that met once should not meet again.
                await asyncio.sleep(random.uniform(0, 0.005 * 2**attempt))  # noqa: S311
        raise Contention

    async def _once(
        self,
        scope: str,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        durable: bool,
        read_only: bool,
        long: bool,
    ) -> T:
        conn = self.engine.connect()
        with telemetry.POOL_WAIT.time():
            await conn.start()
        async with contextlib.aclosing(conn):
            conn.info.pop("florin_events", None)
            settings = {
                "florin.tenants": scope,
                "synchronous_commit": "on" if durable else "off",
                "transaction_read_only": "on" if read_only else "off",
            }
            if not long and "transaction_timeout" in conn.info:
                settings["transaction_timeout"] = conn.info["transaction_timeout"]
            try:
                async with _driver(conn).pipelined(wanted=not long):
                    await execute(conn, "BEGIN")
                    await execute(
                        conn,
                        "SELECT " + ", ".join(f"set_config('{name}', %s, true)" for name in settings),
                        tuple(settings.values()),
                    )
                    result = await work(conn)
                    commit = await execute(conn, "COMMIT")
            except psycopg.Error:
                await _notice_lost(conn)
                raise
            if commit.statusmessage != "COMMIT":
                # The driver takes statements for prepared that the rollback has undone.
                await conn.invalidate()
                raise RuntimeError("the work went on after a statement had failed, and was rolled back")
            if conn.info.pop("florin_events", False):
                self.outbox_written.set()
            return result


class _Connection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection that knows its open pipeline."""

    open_pipeline: psycopg.AsyncPipeline | None = None

    @asynccontextmanager
    async def pipelined(self, *, wanted: bool) -> AsyncIterator[None]:
        """Whether statements are sent without waiting for the answers to those before them is `wanted`."""
        if not wanted:
            yield
            return
        async with self.pipeline() as pipeline:
            self.open_pipeline = pipeline
            try:
                yield
            except BaseException:
                await self.settle()
                raise
            finally:
                self.open_pipeline = None

    async def sent(self, sending: Awaitable[object]) -> None:
        """Sends a statement. What is raised may be the failure of one before it, which comes in meanwhile."""
        try:
            await sending
        except psycopg.Error:
            await self.settle()
            raise

    async def sync(self) -> None:
        """Awaits the answers to all statements so far. Raises the psycopg.Error of the first that failed."""
        pipeline = self.open_pipeline
        if pipeline is None:
            return
        # psycopg's sync does not send on what the socket did not take at once, and would wait for the answer to it.
        if self.pgconn.flush():
            async with self.lock:
                await self.wait(generators.send(self.pgconn))
        await pipeline.sync()

    async def settle(self) -> None:
        """After a failure: nobody asks any more what became of the statements under way, and those to come, such as a
        rollback to a savepoint, are taken again."""
        with contextlib.suppress(psycopg.Error):
            await self.sync()


class _AwaitedCursor(psycopg.AsyncCursor[tuple[Any, ...]]):
    """SQLAlchemy's: it wants the answer to each statement at once, in a pipeline too."""

    async def execute(self, *args: Any, **options: Any) -> Self:
        await self._answered(super().execute(*args, **options))
        return self

    async def executemany(self, *args: Any, **options: Any) -> None:
        await self._answered(super().executemany(*args, **options))

    async def _answered(self, sending: Awaitable[object]) -> None:
        connection: _Connection = self.connection  # type: ignore[assignment]
        await connection.sent(sending)
        await connection.sync()


def _driver(conn: AsyncConnection) -> _Connection:
    driver: _Connection = conn.info["driver"]
    return driver


async def execute(
    conn: AsyncConnection, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
) -> psycopg.AsyncCursor[tuple[Any, ...]]:
    """Driver SQL in the transaction of `conn`, for what is run often: sent at once, its answer not awaited.

    Where it fails, whatever comes next raises its psycopg.Error: a statement, a `fetch` or `flush`, or the COMMIT.
    """
    driver = _driver(conn)
    cursor = psycopg.AsyncCursor(driver)
    await driver.sent(cursor.execute(statement, parameters))
    return cursor


async def fetch(
    conn: AsyncConnection, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
) -> list[tuple[Any, ...]]:
    """The rows of driver SQL; the answers to all statements before it come in the same round trip."""
    cursor = await execute(conn, statement, parameters)
    await flush(conn)
    return await cursor.fetchall()


async def flush(conn: AsyncConnection) -> None:
    """Awaits the answers to all statements so far, so that their rows can be fetched. Raises the psycopg.Error of the
    first that failed.

    A fetch would do it alone; after this the server knows that it waits for us, and how long it may.
    """
    await _driver(conn).sync()


class Raced(Exception):
    """Work found that another session did something between two of its reads."""


async def until_not_raced[T](constraints: Collection[str], run: Callable[[], Awaitable[T]]) -> T:
    """Runs a whole transaction again that met another session's at one of the unique constraints, or was Raced: it
    then finds what that one wrote. Raises Contention when they meet again and again."""
    for _ in range(_RACES_MAX):
        try:
            return await run()
        except Raced:
            pass
        except (psycopg.Error, sa_exc.IntegrityError) as error:
            # SQLAlchemy's own statement may be the one that tells of a driver's statement before it.
            cause = getattr(error, "orig", None) or error
            if not isinstance(cause, psycopg.errors.UniqueViolation) or cause.diag.constraint_name not in constraints:
                raise
        telemetry.TRANSACTION_RETRIES.labels("KeyRaced").inc()
    raise Contention


async def _notice_lost(conn: AsyncConnection) -> None:
    """Tells SQLAlchemy that a connection is lost: it learns that from its own statements alone, and then gives up
    every older one, which a server that was away has ended too."""
    if _driver(conn).closed:
        with contextlib.suppress(sa_exc.DBAPIError):
            await conn.exec_driver_sql("SELECT 1")


def create_engine(url: URL, settings: ServiceSettings, *, connections: int | None = None) -> AsyncEngine:
    """An engine with bounded waits: for a connection, a lock, a statement, an idle transaction, a host that is gone.

    A replica that stands still loses its locks. One that stopped inside a pipeline is not idle to the server: that
    takes transaction_timeout, which servers have from version 17 on. It is longer than a statement's time, which the
    server would not watch otherwise; who waits for a lock meanwhile gives up earlier, and tries again. A replica that
    stopped while the server still had more to send than the socket holds keeps its locks until it goes on, or, over
    TCP, until it took nothing for so long that its connection is given up.
    """
    timeout = settings.database_statement_timeout_ms
    options = (
        f"-c statement_timeout={timeout} -c lock_timeout={timeout * 3 // 4} "
        f"-c idle_in_transaction_session_timeout={timeout * 3 // 4} -c timezone=UTC "
        "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=2"
        " -c tcp_user_timeout=15000"
        # Every statement has its index. A plan is kept with its statement, and one made while the tables were small
        # would read them whole for as long as nobody analyzes them, however much comes in meanwhile.
        " -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
    )
    engine = create_async_engine(
        url,
        pool_size=connections or settings.database_pool_size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_use_lifo=True,
        pool_recycle=1800,
        # Errors are logged, and parameters are what customers sent.
        hide_parameters=True,
        # `Database.run` begins and commits.
        isolation_level="AUTOCOMMIT",
        connect_args={
            "async_creator_fn": _Connection.connect,
            "cursor_factory": _AwaitedCursor,
            "options": options,
            "application_name": f"florin-{settings.service}",
            "connect_timeout": 3,
            "prepare_threshold": 2,
        },
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        record.info["driver"] = connection.driver_connection
        arrays.register(connection.driver_connection)
        if connection.driver_connection.info.server_version >= _TRANSACTION_TIMEOUT_FROM:
            record.info["transaction_timeout"] = f"{timeout * 5 // 4}ms"

    return engine


async def allow_long_statements(conn: AsyncConnection) -> None:
    """Lets each statement of a `long` transaction take minutes: for checks that add up what may be millions of rows."""
    await conn.exec_driver_sql("SELECT set_config('statement_timeout', '5min', true)")


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a driver's or SQLAlchemy's error; None when the server said nothing."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlstate", None)


def transient(error: BaseException) -> Contention | Overloaded | Unavailable | None:
    """What an error means to a caller who may try again; None when trying again would not help."""
    if isinstance(error, sa_exc.TimeoutError):
        return Overloaded()
    state = sqlstate(error)
    if state in (_SERIALIZATION_FAILURE, _DEADLOCK, _LOCK_TIMEOUT):
        return Contention()
    if state == _QUERY_CANCELED:
        return Overloaded()
    cause = getattr(error, "orig", None) or error
    # 08: connection, 57P: the server shuts down or starts, 53: out of resources; no state: the connection broke.
    # 25P03, 25P04: this process stood still for so long that the server ended its transaction.
    broken = isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)
    if (
        (broken and state is None)
        or (state is not None and state[:2] in ("08", "53"))
        or (state or "").startswith("57P")
        or state in _ENDED_BY_THE_SERVER
    ):
        return Unavailable("the database")
    return None
