"""Journals of the bank's own come to a database at work: interrupted, run again, beside the version before."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from tests.integration.accounts.test_time_migration import connect
from tests.support import parts as real

OLD = "0007"


def add(connection: psycopg.Connection[Any], kind: int) -> uuid.UUID:
    """A journal, as a service writes it."""
    journal = uuid.uuid4()
    connection.execute(
        "INSERT INTO journals (tenant, journal, kind, origin, create_time, effective_time)"
        " VALUES ('t', %s, %s, '', now(), now())",
        (journal, kind),
    )
    return journal


def test_a_ledger_at_work_gets_the_kind_and_what_it_is_found_by(parts: real.Parts) -> None:
    """The version before writes before and after; what an interrupted run left is made anew; what is written on a
    journal stays, and no other kind is let in."""
    database = real.fresh_database(parts, "accounts", OLD)
    owner_url = parts.url(database, f"{database}_owner")
    values = {**owner_url.translate_connect_args(username="user", database="dbname"), **owner_url.query}
    with connect(parts, database) as old, psycopg.connect(**values, autocommit=True) as owner:
        old.execute("INSERT INTO tenants VALUES ('t', '', 'UTC', now())")
        add(old, 1)
        with pytest.raises(psycopg.errors.CheckViolation, match="journals_kind"):
            add(old, 4)
        # As far as a run came that was interrupted.
        owner.execute("CREATE INDEX journals_manual ON journals (tenant, create_time, journal) WHERE kind = 4")
        with psycopg.connect(parts.postgres.admin_dsn(database), autocommit=True) as admin:
            admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'journals_manual'::regclass")
        real.migrate(parts, "accounts", database)
        add(old, 2)
        journal = add(old, 4)
        with pytest.raises(psycopg.errors.CheckViolation, match="journals_kind"):
            add(old, 5)
        invalid = owner.execute("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid").fetchall()
        unchecked = owner.execute(
            "SELECT conname FROM pg_constraint WHERE conrelid = 'journals'::regclass AND NOT convalidated"
        ).fetchall()
        assert (invalid, unchecked) == ([], [])
        old.execute("INSERT INTO journal_metadata VALUES ('t', %s, 'k', 'v', now())", (journal,))
        for statement in ("UPDATE journal_metadata SET value = 'x'", "DELETE FROM journal_accounts"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                old.execute(statement)
