"""The mesh's PostgreSQL server: made whole or not at all, started after whatever happened, closed to everybody else."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from local import binaries, postgres
from local.postgres import Postgres
from local.state import MeshError, State, open_state
from tests.support.parts import Parts, start

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")


@pytest.fixture
def state() -> Iterator[State]:
    """A state folder that `nobody` can enter."""
    folder = Path(tempfile.mkdtemp(prefix="florin-postgres-"))
    folder.chmod(0o755)
    yield open_state(folder / "state")
    shutil.rmtree(folder)


def server(state: State) -> Postgres:
    """The server of a state folder, not started."""
    return Postgres(state, binaries.find())


@contextmanager
def running(one: Postgres) -> Iterator[Postgres]:
    """The server, prepared and started, stopped afterwards."""
    one.prepare()
    child = one.child()
    process = start(child)
    try:
        asyncio.run(child.wait_ready(30))
        yield one
    finally:
        process.send_signal(child.stop_signal)
        process.wait(15)


@contextmanager
def somebody(one: Postgres, *arguments: str) -> Iterator[int]:
    """A process of the server's user that lives for a while; gives its id."""
    user = None if one.user == "-" else one.user
    process = subprocess.Popen(["sleep", "60", *arguments], user=user, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait(10)


def test_a_first_start_that_was_interrupted_is_begun_again(state: State) -> None:
    """What initdb had made so far is no cluster, and the password that was handed to it does not stay."""
    one = server(state)
    one.folder.mkdir()
    (one.folder / "data.new").mkdir()
    (one.folder / "data.new" / "PG_VERSION").write_text("18\n")
    (one.folder / "admin-password").write_text("left behind")
    assert not one.is_made
    with running(one):
        assert one.is_made
    assert sorted(path.name for path in one.folder.iterdir() if not path.name.startswith("dist")) == ["data", "run"]


def test_a_lock_file_that_names_somebody_elses_process_keeps_nothing_from_starting(state: State) -> None:
    """After a kill -9 or a restart of the machine the process id in it may be anybody's."""
    one = server(state)
    with running(one):
        lock = (one.data / "postmaster.pid").read_text()
    with somebody(one) as stranger:
        left = one.data / "postmaster.pid"
        left.write_text(f"{stranger}\n{lock.partition(chr(10))[2]}")
        if one.user != "-":
            shutil.chown(left, one.user)
        with running(one):
            assert os.kill(stranger, 0) is None


def test_another_server_on_the_same_data_is_named(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given a while to end, and never worked beside."""
    monkeypatch.setattr(postgres, "_OTHER_SERVER_SECONDS", 0.2)
    one = server(state)
    one.prepare()
    # `sleep` takes the path for a second time to wait and ends at once, so a shell stands in.
    other = subprocess.Popen(["sh", "-c", "read _", str(one.data)], stdin=subprocess.PIPE)
    try:
        (one.data / "postmaster.pid").write_text(f"{other.pid}\n{one.data}\n")
        with pytest.raises(MeshError, match=f"process {other.pid}, still uses"):
            one.prepare()
    finally:
        other.kill()
        other.wait(10)


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("secrets/postgres-admin", "postgres-admin is gone"),
        ("postgres/data/global/pg_control", "is damaged"),
        ("postgres/data/PG_VERSION", "is damaged"),
    ],
)
def test_a_damaged_cluster_is_a_sentence(state: State, gone: str, words: str) -> None:
    """Nothing is made anew in the place of data."""
    one = server(state)
    one.prepare()
    (state.root / gone).unlink()
    with pytest.raises(MeshError, match=words):
        one.prepare()


def test_data_of_another_major_version_is_a_sentence(state: State) -> None:
    """It says which, and what to do."""
    one = server(state)
    one.prepare()
    (one.data / "PG_VERSION").write_text("15\n")
    with pytest.raises(MeshError, match=r"made by PostgreSQL 15; this is \d+: run pg_upgrade"):
        one.prepare()


def test_a_link_in_the_sockets_place_is_not_followed(state: State, tmp_path: Path) -> None:
    """The socket of a long path stands in /tmp, where anybody may have put a link to a folder that is not theirs."""
    target = tmp_path / "somebody"
    target.mkdir(mode=0o755)
    one = server(state)
    one.socket = tmp_path / "florin-socket"
    one.socket.symlink_to(target)
    with pytest.raises(MeshError, match="is not a folder that can be used"):
        one.prepare()
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert target.stat().st_uid == os.geteuid()


@ROOT_ONLY
def test_somebody_elses_folder_in_the_sockets_place_is_refused(state: State, tmp_path: Path) -> None:
    """Whoever owns the folder of a socket can put a socket of their own into it."""
    one = server(state)
    one.socket = tmp_path / "florin-socket"
    one.socket.mkdir()
    shutil.chown(one.socket, pwd.getpwnam("daemon").pw_uid)
    with pytest.raises(MeshError, match="belongs to somebody else"):
        one.prepare()


@ROOT_ONLY
def test_binaries_that_nobody_can_reach_are_copied(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, readable under any umask, and anew for another version."""
    monkeypatch.setattr(postgres, "reachable", lambda _path: False)
    one = server(state)
    if one._binaries.postgres_root is None:
        pytest.skip("the system's own PostgreSQL is in everybody's reach")
    one.folder.mkdir()
    (one.folder / "dist-17.0").mkdir()
    (one.folder / "dist.new").mkdir()
    (one.folder / "dist.new" / "half").touch()
    umask = os.umask(0o077)
    try:
        with running(one):
            copies = [path.name for path in one.folder.glob("dist*")]
    finally:
        os.umask(umask)
    assert copies == [f"dist-{one._version()}"]


def test_passwords_reach_the_server_as_verifiers(parts: Parts) -> None:
    """What a failed statement leaves in the server's log opens nothing."""
    sent: list[str] = []
    with psycopg.connect(parts.postgres.admin_dsn("postgres"), autocommit=True) as admin:
        admin.execute("SET log_min_error_statement = 'panic'")
        parts.postgres._role(admin, "verified_role")
        row = admin.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'verified_role'").fetchone()
        sent.append(row[0] if row else "")
    assert sent[0].startswith("SCRAM-SHA-256$")
    url = parts.postgres.url("postgres", "verified_role", with_password=True)
    assert url.password not in sent[0]


def test_a_role_reaches_its_own_database_alone(parts: Parts) -> None:
    """Neither another service's nor the server's own databases let it in."""
    parts.postgres.create_databases(["mine", "theirs"])
    for database, welcome in (("mine", True), ("theirs", False), ("postgres", False), ("template1", False)):
        url = parts.postgres.url(database, "mine_runtime", with_password=True)
        dsn = psycopg.conninfo.make_conninfo(
            **dict(url.query), user=url.username, password=url.password, dbname=database
        )
        if welcome:
            psycopg.connect(dsn).close()
        else:
            with pytest.raises(psycopg.OperationalError, match="permission denied"):
                psycopg.connect(dsn)


def test_the_servers_log_holds_no_values_of_rows(parts: Parts) -> None:
    """The key of a row that is there already may be an IBAN."""
    with psycopg.connect(parts.postgres.admin_dsn("postgres"), autocommit=True) as admin:
        admin.execute("CREATE TEMPORARY TABLE seen (iban text PRIMARY KEY)")
        admin.execute("INSERT INTO seen VALUES (%s)", ("AT611904300234573201",))
        with pytest.raises(psycopg.errors.UniqueViolation):
            admin.execute("INSERT INTO seen VALUES (%s)", ("AT611904300234573201",))
    log = (parts.state.logs / "postgres.log").read_text()
    assert "seen_pkey" in log
    assert "AT611904300234573201" not in log


def test_more_replicas_have_more_connections(state: State) -> None:
    """The server is asked for what all pools may take; never for less than people and tests need."""
    one = server(state)
    assert "max_connections=400" in one.child(400).program
    assert f"max_connections={postgres.CONNECTIONS_MIN}" in one.child(10).program
