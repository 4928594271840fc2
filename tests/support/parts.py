"""A real PostgreSQL and a real NATS for the session, and settings for a service on a fresh database of its own."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL

from local import binaries, certs, issuer, nats, processes
from local.postgres import Postgres
from local.processes import Child
from local.state import SERVICES, State, open_state
from meshkit import migrations, policy
from meshkit.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class Parts:
    """What runs for the session."""

    state: State
    postgres: Postgres
    nats_port: int
    broker: Child
    processes: dict[str, subprocess.Popen[bytes]]

    @contextmanager
    def broker_away(self) -> Iterator[None]:
        """Kills the broker, and starts it again when the block ends; it answers a moment later."""
        self.processes["nats"].kill()
        self.processes["nats"].wait(15)
        try:
            yield
        finally:
            self.processes["nats"] = start(self.broker)

    def url(self, database: str, role: str) -> URL:
        """How a role of a test's database connects, with its password."""
        return self.postgres.url(database, role, with_password=True)


@contextmanager
def running() -> Iterator[Parts]:
    """Certificates, an issuer, PostgreSQL and NATS in a folder of their own, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="florin-test-"))
    folder.chmod(0o755)
    state = open_state(folder / "state")
    found = binaries.find()
    certs.ensure(state)
    issuer.ensure(state)
    postgres = Postgres(state, found)
    postgres.prepare()
    port, monitor = processes.free_port(), processes.free_port()
    policies = {service: policy.load(service) for service in SERVICES if _has_policy(service)}
    broker = nats.child(state, found, port, monitor, policies)
    children = [postgres.child(), broker]
    started = {child.name: start(child) for child in children}
    try:
        for child in children:
            asyncio.run(child.wait_ready(30))
        asyncio.run(nats.declare(state, port, policies))
        with psycopg.connect(postgres.admin_dsn("postgres"), autocommit=True) as admin:
            # Its workers would look at a hundred databases that live for seconds, and hold up the horizon of tests.
            admin.execute("ALTER SYSTEM SET autovacuum = off")
            # A password that is slow to guess costs each of thousands of connections milliseconds; these are long.
            admin.execute("ALTER SYSTEM SET scram_iterations = 1")
            admin.execute("SELECT pg_reload_conf()")
        yield Parts(state, postgres, port, broker, started)
    finally:
        # At once: PostgreSQL would otherwise bring a hundred databases to the disk that are deleted the next moment.
        started["postgres"].send_signal(signal.SIGQUIT)
        started["nats"].send_signal(broker.stop_signal)
        for process in started.values():
            process.wait(15)
        shutil.rmtree(folder, ignore_errors=True)


def start(child: Child) -> subprocess.Popen[bytes]:
    """Starts a child outside of an event loop; it dies with the test run."""
    # Without a watcher where the kernel has none: a test run that is killed may leave it behind there.
    watch = "none" if processes.WATCH == "pipe" else processes.WATCH
    command = processes.launched(child.user, child.death_signal, child.program, watch=watch)
    environment = {**processes.environment_for(child.user), **child.environment}
    with child.log.open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def migrate(parts: Parts, service: str, database: str, revision: str = "head") -> None:
    """Brings a database of a service to a revision."""
    directory = migrations.scripts(service)
    upgrade_to = directory._upgrade_revs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(directory), "_upgrade_revs", lambda _, __, present: upgrade_to(revision, present))
        migrations.upgrade(parts.url(database, f"{database}_owner"), service, f"{database}_runtime")


def fresh_database(parts: Parts, service: str, revision: str = "head") -> str:
    """A database of a service at a revision, under a name of its own, with its owner and runtime role.

    It goes away with its server. To drop it, the server would wait for everybody who is connecting to any database,
    for the authentication's whole minute if that is a task of this process, whose loop is not running meanwhile.
    """
    database = f"{service}_{uuid.uuid4().hex[:8]}"
    parts.postgres.create_databases([database])
    migrate(parts, service, database, revision)
    return database


def settings_for(parts: Parts, settings_class: type[Any], database: str, **changes: Any) -> Any:
    """Settings of a service on a test's database, on ports picked by the system."""
    service = settings_class.service
    certificate, key = parts.state.certificate(service)
    values: dict[str, Any] = {
        "grpc_port": 0,
        "health_port": 0,
        "database_url": parts.postgres.url(database, f"{database}_runtime").render_as_string(),
        "database_password_file": parts.postgres.password_file(f"{database}_runtime"),
        "nats_url": f"tls://127.0.0.1:{parts.nats_port}",
        "tls_cert_file": certificate,
        "tls_key_file": key,
        "tls_ca_file": parts.state.ca,
        "jwt_issuer": issuer.ISSUER,
        "jwks_file": parts.state.root / "jwks.json",
        "encryption_key_file": encryption_key(parts.state),
        "grace_seconds": 2.0,
        **changes,
    }
    made: ServiceSettings = settings_class(**values)
    return made


def encryption_key(state: State) -> Path:
    """A key for personal data, made for this session."""
    return state.secret("encryption-test", lambda: base64.urlsafe_b64encode(os.urandom(32)).decode())


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    """Waits for a condition, with a deadline. Raises AssertionError when it does not come true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"not true within {seconds} s")


async def eventually(condition: Any, seconds: float = 10.0) -> Any:
    """Awaits a condition until it gives something true, with a deadline; gives that."""
    deadline = time.monotonic() + seconds
    while True:
        found = await condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {seconds} s")
        await asyncio.sleep(0.02)


def _has_policy(service: str) -> bool:
    return (Path(__file__).resolve().parents[2] / service / "policy.yaml").exists()
