"""One PostgreSQL server for the mesh: made at first start, a database with an owner and a runtime role per service."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL

from local.binaries import Binaries
from local.processes import Child
from local.state import MeshError, State, reachable, unprivileged_user

ADMIN = "florin_admin"
PORT = 5432
"""Names the socket; nothing listens on TCP."""

# A laptop's share: the mesh has one small server. fsync stays on: what was acknowledged is on disk.
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "128MB",
    "max_connections": "120",
    "max_wal_size": "1GB",
    "wal_compression": "on",
    "autovacuum_naptime": "15s",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
    "log_line_prefix": "%m %u@%d ",
}


class Postgres:
    """The server of one state folder."""

    def __init__(self, state: State, binaries: Binaries) -> None:
        self.state = state
        self.user = unprivileged_user()
        self.folder = state.root / "postgres"
        self.data = self.folder / "data"
        self.socket = state.socket_folder()
        self._binaries = binaries

    def prepare(self) -> None:
        """Makes the cluster at first start. Raises MeshError when the data folder is none of a fitting version."""
        self.folder.mkdir(exist_ok=True)
        for path in (self.folder, self.socket):
            path.mkdir(exist_ok=True)
            path.chmod(0o711 if path == self.folder else 0o700)
            self._give(path)
        version = self.data / "PG_VERSION"
        if version.exists():
            self._check_version(version.read_text().strip())
            return
        if self.data.exists() and any(self.data.iterdir()):
            raise MeshError(f"{self.data} is damaged (no PG_VERSION); restore it from a backup or use a new --state.")
        self._initdb()

    def _initdb(self) -> None:
        self.data.mkdir(exist_ok=True)
        self.data.chmod(0o700)
        self._give(self.data)
        password = self.state.secret("postgres-admin").read_text()
        handed = self.folder / "admin-password"
        handed.touch(mode=0o600)
        self._give(handed)
        handed.write_text(password)
        command = [
            *self._as_user(),
            str(self._bin() / "initdb"),
            *("-D", str(self.data), "-U", ADMIN, "-A", "scram-sha-256", "--pwfile", str(handed)),
            *("--encoding", "UTF8", "--locale", "C.UTF-8", "--data-checksums"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        handed.unlink()
        if done.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise MeshError(f"PostgreSQL could not make its data folder: {done.stderr.strip().splitlines()[-1:]}")

    def child(self) -> Child:
        """The server as a child of the supervisor."""
        settings = {**SETTINGS, "unix_socket_directories": str(self.socket), "port": str(PORT)}
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
        password = (self.state.secrets / "postgres-admin").read_text()
        return psycopg.conninfo.make_conninfo(
            host=str(self.socket), port=PORT, user=ADMIN, password=password, dbname=database
        )

    def url(self, database: str, role: str, *, with_password: bool = False) -> URL:
        """How a role connects, as SQLAlchemy writes it; without the password unless asked for."""
        password = (self.state.secrets / f"postgres-{role}").read_text() if with_password else None
        return URL.create(
            "postgresql+psycopg",
            username=role,
            password=password,
            database=database,
            query={"host": str(self.socket), "port": str(PORT)},
        )

    def password_file(self, role: str) -> Path:
        """The file with a role's password; made at first use."""
        return self.state.secret(f"postgres-{role}")

    def create_databases(self, names: Iterable[str]) -> None:
        """A database per name, its owner and its runtime role, and no way in for anybody else. Safe to repeat."""
        with psycopg.connect(self.admin_dsn("postgres"), autocommit=True) as connection:
            present = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
            for name in names:
                for role in (f"{name}_owner", f"{name}_runtime"):
                    self._role(connection, role)
                if name not in present:
                    connection.execute(
                        sql.SQL("CREATE DATABASE {} OWNER {}").format(
                            sql.Identifier(name), sql.Identifier(f"{name}_owner")
                        )
                    )
                connection.execute(
                    sql.SQL("REVOKE ALL ON DATABASE {0} FROM PUBLIC; GRANT CONNECT ON DATABASE {0} TO {1}").format(
                        sql.Identifier(name), sql.Identifier(f"{name}_runtime")
                    )
                )

    def _role(self, connection: psycopg.Connection[tuple[object, ...]], role: str) -> None:
        password = self.password_file(role).read_text()
        exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
        verb = sql.SQL("ALTER ROLE" if exists else "CREATE ROLE")
        connection.execute(
            sql.SQL("{} {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD {}").format(
                verb, sql.Identifier(role), sql.Literal(password)
            )
        )

    def _bin(self) -> Path:
        """Where the binaries are: in place, or, where `nobody` cannot reach them, a copy in the state folder."""
        source = self._binaries.postgres_bin
        root = self._binaries.postgres_root
        if self.user == "-" or root is None or reachable(source):
            return source
        copy = self.folder / "dist"
        target = copy / root.name / source.relative_to(root)
        if not (target / "postgres").exists():
            for tree in (root.name, f"{root.name}.libs"):
                shutil.copytree(root.parent / tree, copy / tree, dirs_exist_ok=True)
        return target

    def _check_version(self, present: str) -> None:
        shown = subprocess.run([str(self._bin() / "postgres"), "--version"], capture_output=True, text=True, check=True)
        major = shown.stdout.split()[2].split(".")[0]
        if present != major:
            raise MeshError(f"{self.data} was made by PostgreSQL {present}; this is {major}: run pg_upgrade first.")

    def _as_user(self) -> list[str]:
        launch = Path(__file__).with_name("launch.py")
        return [sys.executable, "-I", "-S", str(launch), self.user, "SIGKILL"]

    def _give(self, path: Path) -> None:
        if self.user != "-":
            account = pwd.getpwnam(self.user)
            os.chown(path, account.pw_uid, account.pw_gid)
