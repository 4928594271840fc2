"""The rights of the checker's roles: to read what tables.py names, column by column, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
from psycopg import sql

from checker import tables
from checker.settings import SERVICES, Settings
from meshkit import logs

_AGAIN_SECONDS = 1.0
_NOT_THERE_YET = (psycopg.OperationalError, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)
_log = logs.get(__name__)


class Refused(Exception):
    """The rights could not be given; the text says which service's and why."""


def let_read(owner: psycopg.Connection[tuple[object, ...]], service: str, role: str) -> None:
    """Gives a role its rights on a service's tables, as their owner, and takes all others away, in one transaction."""
    name = sql.Identifier(role)
    with owner.transaction():
        owner.execute(sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {}").format(name))
        for table, columns in sorted(tables.read_columns(service).items()):
            owner.execute(
                sql.SQL("GRANT SELECT ({}) ON {} TO {}").format(
                    sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table), name
                )
            )


def grant(settings: Settings, seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Gives every role its rights, as the owners of the schemas, which are waited for so long. Raises Refused."""
    deadline = time.monotonic() + seconds
    for service in SERVICES:
        role = str(settings.connection(service).get("user", ""))
        try:
            told = settings.connection(service, as_owner=True)
        except ValueError as error:
            raise Refused(str(error)) from None
        while True:
            try:
                with psycopg.connect(**told, connect_timeout=10) as owner:
                    let_read(owner, service, role)
                _log.info("may be read", service=service, role=role)
                break
            except _NOT_THERE_YET as error:
                if time.monotonic() >= deadline:
                    raise Refused(f"{service}: {str(error).strip()}") from None
                sleep(_AGAIN_SECONDS)
            except psycopg.Error as error:
                raise Refused(f"{service}: {str(error).strip()}") from None
