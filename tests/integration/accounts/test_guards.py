"""What the database itself refuses: changing the past, foreign rows, unbalanced journals, overdrafts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from accounts.model import AccountType
from meshkit import policy
from tests.integration.accounts.conftest import Ledger
from tests.support import parts as real


@pytest.fixture
def connection(parts: real.Parts, database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the runtime role, without any tenant."""
    url = parts.url(database, f"{database}_runtime").set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as opened:
        yield opened
        opened.rollback()


def as_tenant(connection: psycopg.Connection[Any], tenant: str) -> None:
    """Lets the transaction see a tenant."""
    connection.execute("SELECT set_config('florin.tenants', %s, true)", (tenant,))


async def busy(ledger: Ledger) -> None:
    """Puts rows into every table of the ledger."""
    await ledger.open("a", 100, type=AccountType.CUSTOMER)
    await ledger.open("b")
    await ledger.apply(ledger.post(("a", -10), ("b", 10)), ledger.place("a", 5))


@pytest.mark.parametrize("table", policy.load("accounts").append_only)
@pytest.mark.parametrize("change", ["UPDATE {} SET tenant = tenant", "DELETE FROM {}", "TRUNCATE {}"])
def test_the_runtime_role_cannot_change_what_is_append_only(
    connection: psycopg.Connection[Any], table: str, change: str
) -> None:
    """INV-4: the role has no right to, whatever the code does."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(change.format(table))


@pytest.mark.parametrize("table", ["accounts", "customers", "holds"])
def test_the_runtime_role_cannot_delete_what_ends_by_its_state(connection: psycopg.Connection[Any], table: str) -> None:
    """Accounts, customers and holds end, their rows stay."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"DELETE FROM {table}")


async def test_rows_of_other_tenants_do_not_exist(ledger: Ledger, connection: psycopg.Connection[Any]) -> None:
    """Row-level security shows a tenant's rows to that tenant, and none while no tenant is set."""
    await busy(ledger)
    tables = ["tenants", "accounts", "journals", "entries", "holds", "step_outcomes", "outbox"]
    for setting, visible in (("", False), ("another", False), (ledger.tenant, True)):
        if setting:
            as_tenant(connection, setting)
        for table in tables:
            found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            assert found is not None
            assert (found[0] > 0) == visible, (table, setting)


async def test_rows_cannot_be_written_for_another_tenant(ledger: Ledger, connection: psycopg.Connection[Any]) -> None:
    """The policy holds for writes too."""
    as_tenant(connection, "another")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("INSERT INTO journals VALUES (%s, %s, 1, 'x', now(), now())", (ledger.tenant, uuid.uuid4()))


def test_a_partition_cannot_be_read_by_its_own_name(connection: psycopg.Connection[Any]) -> None:
    """The way around the parent table's policy is closed."""
    as_tenant(connection, "*")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT 1 FROM entries_0")


async def test_an_unbalanced_journal_cannot_be_written(ledger: Ledger, connection: psycopg.Connection[Any]) -> None:
    """INV-1: the trigger refuses the statement, also for a journal that stands."""
    await busy(ledger)
    as_tenant(connection, ledger.tenant)
    journal = connection.execute("SELECT journal FROM journals LIMIT 1").fetchone()
    assert journal is not None
    with pytest.raises(psycopg.errors.CheckViolation, match="inv_1"):
        connection.execute(
            "INSERT INTO entries (tenant, account, sequence, journal, leg, currency, amount, balance_after)"
            " VALUES (%s, 'a', 99, %s, 0, 'EUR', 5, 5)",
            (ledger.tenant, journal[0]),
        )


async def test_a_sequence_cannot_be_given_twice(ledger: Ledger, connection: psycopg.Connection[Any]) -> None:
    """INV-2: one entry per account and sequence."""
    await busy(ledger)
    as_tenant(connection, ledger.tenant)
    with pytest.raises(psycopg.errors.UniqueViolation, match="duplicate key"):
        connection.execute(
            "INSERT INTO entries (tenant, account, sequence, journal, leg, currency, amount, balance_after)"
            " SELECT tenant, account, sequence, journal, leg, currency, amount, balance_after FROM entries"
        )


@pytest.mark.parametrize(
    ("change", "invariant"),
    [
        ("posted = -1", "inv_3_available_not_negative"),
        ("held = 101", "inv_3_available_not_negative"),
        ("held = -1", "inv_3_held_not_negative"),
        ("state = 4", "accounts_closed_at_zero"),
    ],
)
async def test_an_account_cannot_be_written_below_its_limit(
    ledger: Ledger, connection: psycopg.Connection[Any], change: str, invariant: str
) -> None:
    """INV-3: the row itself refuses, should the code ever be wrong."""
    await busy(ledger)
    as_tenant(connection, ledger.tenant)
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        connection.execute(f"UPDATE accounts SET {change} WHERE account = 'a'")
    assert caught.value.diag.constraint_name == invariant


async def test_names_of_customers_are_not_readable_in_rows(service: Any, connection: psycopg.Connection[Any]) -> None:
    """Personal data is sealed at rest, in the answers kept for request_ids too."""
    await service.customer("acme", "Wilhelmine Testperson")
    as_tenant(connection, service.tenant)
    for sql in ("SELECT display_name FROM customers", "SELECT coalesce(response, '') FROM requests"):
        for (data,) in connection.execute(sql):
            assert b"Wilhelmine" not in bytes(data)
            assert b"Wilhelmine".hex().encode() not in bytes(data)
