"""Migrations run by several at once, of which one goes first and the others find nothing left to do, and by a version
that is older than the schema."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import psycopg

from meshkit import migrations
from tests.support.parts import Parts, fresh_database

ROOT = Path(__file__).resolve().parents[3]
_UPGRADE = (
    "import sys; from sqlalchemy import make_url; from meshkit import migrations;"
    "migrations.upgrade(make_url(sys.stdin.read()), 'accounts', sys.argv[1])"
)


def test_several_at_once_end_at_the_same_schema(parts: Parts) -> None:
    """Also where an index is built CONCURRENTLY, which waits for everybody who holds a snapshot."""
    database = f"accounts_{uuid.uuid4().hex[:8]}"
    parts.postgres.create_databases([database])
    url = parts.url(database, f"{database}_owner")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _UPGRADE, f"{database}_runtime"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    for process in running:
        if process.stdin is not None:
            process.stdin.write(url.render_as_string(hide_password=False))
            process.stdin.close()
    ended = [(process.wait(120), process.stderr.read() if process.stderr else "") for process in running]
    assert [code for code, _ in ended] == [0, 0, 0], ended
    with psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False), options="-c lock_timeout=1000"
    ) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
            (migrations.head("accounts"),)
        ]


def test_an_earlier_version_leaves_a_newer_schema_alone(parts: Parts) -> None:
    """Its migration runs again when a release goes back, and must not fail on a revision that it does not know."""
    database = fresh_database(parts, "notifications")
    url = parts.url(database, f"{database}_owner")
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    migrations.upgrade(url, "notifications", f"{database}_runtime")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
