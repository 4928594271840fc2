"""What the checker's roles may do, as `python -m checker grant` makes it of whatever they could do before."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from checker import grants, tables
from checker.settings import SERVICES, Settings
from tests.integration.checker.conftest import Bank


def as_owners(bank: Bank) -> Settings:
    """The settings of what gives the rights."""
    told: dict[str, object] = {}
    for service, name in bank.names.items():
        told[f"{service}_owner_database_url"] = bank.parts.postgres.address(name, f"{name}_owner")
        told[f"{service}_owner_database_password_file"] = bank.parts.postgres.password_file(f"{name}_owner")
    return bank.settings.model_copy(update=told)


def rights(bank: Bank, service: str) -> set[tuple[str, str, str]]:
    """Table, column and right of a service's reader."""
    with bank.superuser(service) as root:
        found = root.execute(
            "SELECT table_name, column_name, privilege_type FROM information_schema.column_privileges"
            " WHERE grantee = %s",
            (f"{bank.names[service]}_checker",),
        )
        return {(table, column, right) for table, column, right in found}


def wanted(service: str) -> set[tuple[str, str, str]]:
    """What is read, column by column."""
    return {(table, column, "SELECT") for table, columns in tables.read_columns(service).items() for column in columns}


def test_each_role_may_read_what_is_read_and_nothing_else_any_more(bank: Bank) -> None:
    """What a version before needed, or somebody gave, is taken away; to repeat it changes nothing."""
    for service in SERVICES:
        role = sql.Identifier(f"{bank.names[service]}_checker")
        with bank.superuser(service) as root:
            root.execute(sql.SQL("GRANT INSERT ON outbox TO {}").format(role))
            root.execute(sql.SQL("GRANT SELECT (data) ON outbox TO {}").format(role))
        assert rights(bank, service) > wanted(service)
    for _ in range(2):
        grants.grant(as_owners(bank), 0)
        assert all(rights(bank, service) == wanted(service) for service in SERVICES)


def test_a_schema_that_is_brought_up_meanwhile_is_waited_for(bank: Bank) -> None:
    """A Job of a first installation runs beside the migrations."""
    role, waited = sql.Identifier(f"{bank.names['compliance']}_checker"), []
    with bank.superuser("compliance") as root:
        root.execute("ALTER TABLE reservations RENAME TO reservations_to_come")
        root.execute(sql.SQL("REVOKE ALL ON limit_usage FROM {}").format(role))

    def sleep(seconds: float) -> None:
        assert ("limit_usage", "day", "SELECT") not in rights(bank, "compliance"), "half of it was given"
        waited.append(seconds)
        with bank.superuser("compliance") as root:
            root.execute("ALTER TABLE reservations_to_come RENAME TO reservations")

    grants.grant(as_owners(bank), 60, sleep)
    assert len(waited) == 1
    assert rights(bank, "compliance") == wanted("compliance")


def test_what_cannot_be_granted_is_said_with_its_service(bank: Bank) -> None:
    """A schema that does not come, a role that is not there, an owner that was not told."""
    with bank.superuser("accounts") as root:
        root.execute("ALTER TABLE holds RENAME COLUMN origin TO source")
    try:
        with pytest.raises(grants.Refused, match='accounts: column "origin" of relation "holds" does not exist'):
            grants.grant(as_owners(bank), 0)
    finally:
        with bank.superuser("accounts") as root:
            root.execute("ALTER TABLE holds RENAME COLUMN source TO origin")
    address = bank.parts.postgres.address(bank.names["accounts"], "nobody_checker")
    nobody = as_owners(bank).model_copy(update={"accounts_database_url": address})
    with pytest.raises(grants.Refused, match='accounts: role "nobody_checker" does not exist'):
        grants.grant(nobody, 60)
    with pytest.raises(grants.Refused, match="CHECKER_ACCOUNTS_OWNER_DATABASE_URL is not set"):
        grants.grant(bank.settings, 60)
    assert rights(bank, "accounts") == wanted("accounts")


def test_who_is_no_owner_gives_nothing(bank: Bank) -> None:
    """The reader cannot raise itself."""
    told = {
        f"{service}_owner_database_{of}": getattr(bank.settings, f"{service}_database_{of}")
        for service in SERVICES
        for of in ("url", "password_file")
    }
    with pytest.raises((grants.Refused, psycopg.Error)):
        grants.grant(bank.settings.model_copy(update=told), 0)
    assert rights(bank, "accounts") == wanted("accounts")
