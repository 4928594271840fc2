"""Readings of the services' databases: a short REPEATABLE READ transaction each, as roles that may only read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import IsolationLevel

from checker.settings import SERVICES, Settings

Connection = psycopg.Connection[tuple[Any, ...]]

_LOCK_CLASS, _LOCK = 0x6368656B, 0  # "chek": one checker works on a mesh

# As the services have it (meshkit/database.py): every statement has its index, and without statistics, or with old
# ones, a plan might read a table whole. To compile a statement costs more here than it saves, and nothing is to be done
# sooner at the price of more processes of the server.
_PLANS = (
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off"
    " -c max_parallel_workers_per_gather=0"
)

# A host that is gone is noticed from both sides within half a minute, so that another checker can take over.
_ALIVE = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=20000"
_ALIVE_HERE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20000}

_TRANSACTION_TIMEOUT_FROM = 170000  # the first server version that has it


class Behind(Exception):
    """A replica's database has not shown for a while that it follows its primary."""


TOOK_TOO_LONG = (psycopg.errors.QueryCanceled, psycopg.errors.TransactionTimeout)
"""What ends a reading by this process's own bounds."""


class Lost(Exception):
    """There is no connection, or none any more: behind the next one may be another server, or the same one as it was
    earlier."""


class Readings:
    """Connections that are opened when they are needed, and again after they were lost. For one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[str, Connection] = {}
        self._leader: Connection | None = None

    @contextmanager
    def reading(self, *services: str) -> Iterator[Mapping[str, Connection]]:
        """New snapshots of some databases, each taken by its first statement. Raises psycopg.Error, Lost."""
        used = services or SERVICES
        try:
            for service in used:
                if service not in self._open:
                    self._open[service] = self._connected(service)
            yield {service: self._open[service] for service in used}
            for service in used:
                self._open[service].rollback()
        except BaseException as error:
            broken = [service for service in used if not self._ended(service)]
            for service in broken:
                self._forget(service)
            if broken and not isinstance(error, TOOK_TOO_LONG):
                raise Lost(str(error)) from error
            raise

    def check_follows(self, services: Mapping[str, Connection], seconds: float) -> None:
        """Raises Behind where a database is a replica that replayed nothing of the last `seconds`: what is compared
        with it may be newer. Of an idle primary nothing is new, but that cannot be told from one that is cut off."""
        for connection in services.values():
            row = connection.execute(
                "SELECT pg_is_in_recovery(), extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())"
            ).fetchone()
            if row and row[0] and (row[1] is None or row[1] > seconds):
                raise Behind

    def lead(self) -> bool:
        """Whether this is the checker that works: it is as long as its connection stands."""
        try:
            if self._leader is None or self._leader.closed:
                self._leader = self._connect("accounts")
                self._leader.isolation_level = None
                self._leader.autocommit = True
                row = self._leader.execute("SELECT pg_try_advisory_lock(%s, %s)", (_LOCK_CLASS, _LOCK)).fetchone()
                if not (row and row[0]):
                    self._close_leader()
                    return False
            self._leader.execute("SELECT 1")
        except psycopg.Error:
            self._close_leader()
            raise
        return True

    def close(self) -> None:
        """Gives everything back."""
        for service in list(self._open):
            self._forget(service)
        self._close_leader()

    def _ended(self, service: str) -> bool:
        """Ends a transaction that failed; whether its connection still stands."""
        try:
            if service in self._open:
                self._open[service].rollback()
        except psycopg.Error:
            return False
        return True

    def _connected(self, service: str) -> Connection:
        try:
            return self._connect(service)
        except psycopg.OperationalError as error:
            raise Lost(str(error)) from error

    def _connect(self, service: str) -> Connection:
        timeout = self._settings.statement_timeout_ms
        options = (
            f"-c florin.tenants=* -c timezone=UTC -c statement_timeout={timeout} -c lock_timeout={timeout // 4}"
            f" -c idle_in_transaction_session_timeout={timeout * 2} {_PLANS} {_ALIVE}"
        )
        connection: Connection = psycopg.connect(
            **{**self._settings.connection(service), **_ALIVE_HERE},
            options=options,
            application_name="florin-checker",
            connect_timeout=3,
            # Slices are planned with their values.
            prepare_threshold=None,
        )
        if connection.info.server_version >= _TRANSACTION_TIMEOUT_FROM:
            connection.autocommit = True
            connection.execute(f"SET transaction_timeout = {timeout * 4}")
            connection.autocommit = False
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        return connection

    def _forget(self, service: str) -> None:
        connection = self._open.pop(service, None)
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def _close_leader(self) -> None:
        if self._leader is not None:
            with contextlib.suppress(psycopg.Error):
                self._leader.close()
            self._leader = None
