"""The mesh on an external PostgreSQL over verified TLS, set up word for word as docs/production.md says."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from florin.transactions.v1 import transfer_pb2
from local import binaries
from local.state import SERVICES
from tests.production.conftest import ADMINISTRATOR, Server
from tests.support import mesh as whole
from tests.support import programs
from tests.support.mesh import Mesh
from tests.support.pages import blocks
from tests.support.parts import wait_until
from tests.support.programs import program

# A server and a second mesh are started for these.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def external(external_databases: Server, mesh: Mesh) -> Iterator[Mesh]:
    """A mesh whose services are all told of the external server, after their migrations."""
    for service in SERVICES:
        done = run(mesh, service, "migrate", **external_databases.environment())
        assert done.returncode == 0, done.stderr
    with whole.running(environment=external_databases.environment()) as started:
        yield started


def run(mesh: Mesh, service: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """`python -m SERVICE …` with the whole environment that such a service has."""
    command = programs.service(service, *arguments)
    told = programs.environment(mesh, programs.replica(service), changes)
    return subprocess.run(command, env=told, capture_output=True, text=True, timeout=60, check=False)


def test_payments_are_made_on_an_external_database_over_tls(external: Mesh, server: Server) -> None:
    """Every connection of every service is encrypted; the books stand there, and not in the local server."""
    debit, credit = external.account(funds=100_00), external.account()
    request = external.transfer(debit, credit, 30_00)
    made = external.stubs().transfers.CreateTransfer(request, metadata=external.metadata(), timeout=5).transfer
    assert made.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    assert external.balance(credit).posted.minor_units == 30_00
    assert server.ask("transactions", "SELECT count(*) FROM transfers WHERE state = 'COMPLETED'") == [(1,)]
    connections = server.ask(
        "postgres",
        "SELECT DISTINCT a.usename, s.ssl FROM pg_stat_activity AS a JOIN pg_stat_ssl AS s USING (pid)"
        " WHERE a.client_addr IS NOT NULL ORDER BY 1",
    )
    assert connections == [(f"{service}_runtime", True) for service in sorted(SERVICES)]


def test_verify_checks_the_databases_that_the_variables_name(
    external: Mesh, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`florin verify` looks where the services write."""
    before = external.florin("verify", "--json")
    assert '"checked": 0' in before.stdout.split("INV-5")[0]
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    debit, credit = external.account(funds=5_00), external.account()
    request = external.transfer(debit, credit, 1_00)
    external.stubs().transfers.CreateTransfer(request, metadata=external.metadata(), timeout=5)
    checked = external.florin("verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "BROKEN" not in checked.stdout
    server.ask("accounts", "UPDATE accounts SET posted = posted + 1 WHERE posted = 400 RETURNING 1")
    broken = external.florin("verify")
    server.ask("accounts", "UPDATE accounts SET posted = posted - 1 WHERE posted = 401 RETURNING 1")
    assert broken.returncode == 1
    assert "INV-2  BROKEN" in broken.stdout


def test_migrating_again_changes_nothing(external: Mesh, server: Server) -> None:
    """The command may be run by every release, and by several at once."""
    done = run(external, "accounts", "migrate", **server.environment())
    assert done.returncode == 0, done.stderr


def test_old_periods_are_archived_by_the_role_that_the_page_makes(external: Mesh, server: Server) -> None:
    """With its SQL, run by the administrator; over verified TLS, as that role and no other."""
    (statements,) = blocks("docs/production.md", "sql", section="The role that archives")
    password = server.password_file("accounts_archiver")
    command = [binaries.find().postgres_bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"]
    command += [f"-varchiver_password={password.read_text()}"]
    command += ["-d", server.dsn("accounts", ADMINISTRATOR, server.password_file(ADMINISTRATOR))]
    made = subprocess.run(command, input=statements, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    told = {
        **server.environment(),
        "ACCOUNTS_ARCHIVER_DATABASE_URL": server.url("accounts", "archiver"),
        "ACCOUNTS_ARCHIVER_DATABASE_PASSWORD_FILE": str(password),
    }
    external.account(funds=5_00)

    def is_archived() -> bool:
        now = datetime.now(UTC).isoformat()
        done = run(external, "accounts", "archive", "--before", now, "--share", "1", **told)
        assert done.returncode == 0, done.stderr
        return server.ask("accounts", "SELECT count(*) FROM journals") == [(0,)]

    wait_until(is_archived, 30)
    assert server.ask("accounts", "SELECT DISTINCT subject FROM audit WHERE action = 'archive_journals'") == [
        ("accounts_archiver",)
    ]
    server.ask("accounts", "DROP OWNED BY accounts_archiver; DROP ROLE accounts_archiver")


@pytest.mark.parametrize(
    ("ca", "more", "said"),
    [("other", "", "SSL error"), ("own", "&host=db.bank.example&hostaddr=127.0.0.1", "does not match")],
    ids=["another authority", "another name"],
)
def test_a_server_that_is_not_the_named_one_is_refused(
    external: Mesh, server: Server, ca: str, more: str, said: str
) -> None:
    """verify-full: signed by the authority, and for that name."""
    authority: Path = server.other_ca if ca == "other" else server.ca
    url = server.url("accounts", "owner", ca=authority, more=more)
    done = run(external, "accounts", "migrate", **{**server.environment(), "ACCOUNTS_OWNER_DATABASE_URL": url})
    assert done.returncode != 0
    assert said in done.stderr


def test_a_service_is_not_ready_while_its_server_is_not_the_named_one(
    mesh: Mesh, server: Server, tmp_path: Path
) -> None:
    """It starts and waits, since a server may be put right; and takes no calls meanwhile."""
    one = programs.replica("accounts")
    changes = {**server.environment(), "ACCOUNTS_DATABASE_URL": server.url("accounts", "runtime", ca=server.other_ca)}
    seen: list[tuple[int, dict[str, str]]] = []

    def has_looked() -> bool:
        answer = ready(one.health_port)
        if answer is not None:
            seen.append(answer)
        return answer is not None and "start" not in answer[1]

    with program(programs.service("accounts"), tmp_path / "accounts.log", programs.environment(mesh, one, changes)):
        wait_until(has_looked, 30)
    assert {status for status, _ in seen} == {503}
    assert "database" in seen[-1][1]


def ready(health_port: int) -> tuple[int, dict[str, str]] | None:
    """What a service says of its readiness: the HTTP status and what is missing; None while it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", health_port, timeout=3)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, json.loads(response.read())["failures"]
    except OSError:
        return None
    finally:
        connection.close()
