"""Entries are given their times in a database at work, and while the version before is still writing."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from meshkit import migrations
from tests.support import parts as real

START = datetime(2026, 1, 1, tzinfo=UTC)


def connect(parts: real.Parts, database: str) -> psycopg.Connection[Any]:
    """As the version before: the runtime role, for one tenant."""
    url = parts.url(database, f"{database}_runtime")
    values = url.translate_connect_args(username="user", database="dbname")
    return psycopg.connect(**{**values, **url.query}, options="-c florin.tenants=t -c timezone=UTC", autocommit=True)


def post(connection: psycopg.Connection[Any], sequence: int, created: datetime, effective: datetime) -> None:
    """A journal of one from "b" to "a", as the version before writes it."""
    journal = uuid.uuid4()
    with connection.transaction():
        connection.execute(
            "INSERT INTO journals (tenant, journal, kind, origin, create_time, effective_time)"
            " VALUES ('t', %s, 1, '', %s, %s)",
            (journal, created, effective),
        )
        connection.execute(
            "INSERT INTO entries (tenant, account, sequence, journal, leg, currency, amount, balance_after)"
            " VALUES ('t', 'a', %s, %s, 0, 'EUR', 1, %s), ('t', 'b', %s, %s, 1, 'EUR', -1, %s)",
            (sequence, journal, sequence, sequence, journal, -sequence),
        )
        connection.execute("UPDATE accounts SET sequence = %s", (sequence,))


def test_what_stands_and_what_old_writers_add_have_times_in_order(parts: real.Parts) -> None:
    """Times are those of the journals, but never before the entry before; a second run changes nothing; entries of the
    version before get theirs, and the account knows them."""
    hours = [0, 2, 1, 3]  # a clock was set back
    database = real.fresh_database(parts, "accounts", "0001")
    with connect(parts, database) as old:
        old.execute("INSERT INTO tenants VALUES ('t', '', 'UTC', now())")
        for name in ("a", "b"):
            old.execute(
                "INSERT INTO accounts (tenant, account, type, state, currency, display_name, version, create_time,"
                " update_time) VALUES ('t', %s, 2, 2, 'EUR', '', 1, now(), now())",
                (name,),
            )
        for sequence, hour in enumerate(hours, 1):
            moment = START + timedelta(hours=hour)
            post(old, sequence, moment, moment - timedelta(days=5 if sequence == 1 else 0))
        for _ in range(2):
            migrations.upgrade(parts.url(database, f"{database}_owner"), "accounts", f"{database}_runtime")
        post(old, 5, START + timedelta(hours=1), START + timedelta(hours=1))
        post(old, 6, START + timedelta(hours=9), START)
        rows = old.execute(
            "SELECT create_time, effective_time FROM entries WHERE account = 'a' ORDER BY sequence"
        ).fetchall()
        recorded = [0, 2, 2, 3, 3, 9]
        effective = [-120, 2, 1, 3, 1, 0]
        assert rows == [
            (START + timedelta(hours=at), START + timedelta(hours=counts))
            for at, counts in zip(recorded, effective, strict=True)
        ]
        known = old.execute("SELECT DISTINCT recorded_time, dating_microseconds FROM accounts").fetchall()
        assert known == [(START + timedelta(hours=9), 5 * 86_400 * 1_000_000)]
        dated = old.execute(
            "SELECT count(*) FROM pg_index WHERE indrelid::regclass::text LIKE 'entries_%%' AND NOT indisvalid"
        ).fetchone()
        assert dated == (0,)


def test_holds_are_given_their_ends_though_a_run_was_interrupted(parts: real.Parts) -> None:
    """What a run left behind, an index that is not valid included, is made whole by the next one."""
    database = real.fresh_database(parts, "accounts", "0001")
    owner = parts.url(database, f"{database}_owner")
    values = owner.translate_connect_args(username="user", database="dbname")
    with psycopg.connect(**{**values, **owner.query}, autocommit=True) as connection:
        connection.execute("ALTER TABLE holds ADD COLUMN expire_time timestamptz")
        connection.execute("CREATE INDEX holds_expiry ON holds (hold)")
    with psycopg.connect(parts.postgres.admin_dsn(database), autocommit=True) as admin:
        admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'holds_expiry'::regclass")
    migrations.upgrade(owner, "accounts", f"{database}_runtime")
    with psycopg.connect(**{**values, **owner.query}, autocommit=True) as connection:
        told = connection.execute(
            "SELECT pg_get_indexdef(indexrelid), indisvalid, (SELECT convalidated FROM pg_constraint"
            " WHERE conname = 'holds_state') FROM pg_index WHERE indexrelid = 'holds_expiry'::regclass"
        ).fetchone()
    assert told is not None
    assert ("(expire_time)" in told[0], *told[1:]) == (True, True, True)
