"""Limits come to a database at work: interrupted, run again, and beside the version before, which still writes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.integration.accounts.test_time_migration import connect
from tests.support import parts as real

OLD = "0006"


def open_account(connection: psycopg.Connection[Any], account: str, *, posted: int, limit: int) -> None:
    """As the version before writes it."""
    connection.execute(
        "INSERT INTO accounts (tenant, account, type, state, currency, display_name, version, create_time, update_time,"
        " posted, overdraft_limit) VALUES ('t', %s, 1, 2, 'EUR', '', 1, now(), now(), %s, %s)",
        (account, posted, limit),
    )


def test_accounts_at_work_get_their_limits(parts: real.Parts) -> None:
    """Overdrafts in use stay; an interrupted run is gone on with; the version before writes before and after it, under
    the same rule; the new rule is checked for old rows too."""
    database = real.fresh_database(parts, "accounts", OLD)
    owner_url = parts.url(database, f"{database}_owner")
    values = {**owner_url.translate_connect_args(username="user", database="dbname"), **owner_url.query}
    with connect(parts, database) as old, psycopg.connect(**values, autocommit=True) as owner:
        old.execute("INSERT INTO tenants VALUES ('t', '', 'UTC', now())")
        open_account(old, "overdrawn", posted=-50, limit=100)
        # As far as a run came that was interrupted.
        owner.execute("ALTER TABLE accounts ADD COLUMN minimum_balance bigint NOT NULL DEFAULT 0")
        real.migrate(parts, "accounts", database)
        open_account(old, "later", posted=10, limit=0)
        old.execute("UPDATE accounts SET posted = posted - 50 WHERE account = 'overdrawn'")
        with pytest.raises(psycopg.errors.CheckViolation, match="inv_3_available_not_negative"):
            old.execute("UPDATE accounts SET posted = posted - 1 WHERE account = 'overdrawn'")
        rows = old.execute(
            "SELECT minimum_balance, debit_block_reason, credit_block_reason FROM accounts ORDER BY account"
        ).fetchall()
        assert rows == [(0, "", "")] * 2
        open_checks = owner.execute(
            "SELECT conname FROM pg_constraint WHERE conrelid = 'accounts'::regclass AND NOT convalidated"
        ).fetchall()
        assert open_checks == []
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            old.execute("DELETE FROM overdraft_changes")
