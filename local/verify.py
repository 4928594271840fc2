"""Checks the numbered invariants on a running mesh, without stopping it; it reads and changes nothing.

What one database can say is judged in one snapshot of it. What needs two is read again as long as something is not as
it should be: events are on their way between services, and only what every reading of ten seconds finds is a violation.
The rules are the checker's, asked about all rows at once.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import IsolationLevel
from sqlalchemy.engine import URL, make_url

from checker import events, rails, rights, schedules, sealed_log, transfers
from checker.findings import CLAIMS, Violation
from checker.rules import RULES, told_of
from checker.tables import (
    ACCOUNTS,
    DEPOSITS,
    ENTRIES,
    JOURNALS,
    OUTBOXES,
    RESERVATIONS,
    SCHEDULE_RUNS,
    TRANSFERS,
    WITHDRAWALS,
    Rows,
    all_of,
)
from checker.texts import printable
from local import sandbox, verify_archive
from local.binaries import find
from local.postgres import Postgres
from local.reconciliation_invariants import EVENTS, RECONCILIATION
from local.state import SERVICES, MeshError, State

SETTLED_SECONDS = 10
_AGAIN_SECONDS = 0.5
_SHOWN_MAX = 5

_COUNTED = (
    ("INV-1", JOURNALS, "true"),
    ("INV-2", ENTRIES, "true"),
    ("INV-3", ACCOUNTS, "true"),
    ("INV-5", TRANSFERS, "request_id <> ''"),
    ("INV-6", JOURNALS, "kind = 4"),
    ("INV-6", WITHDRAWALS, "true"),
    ("INV-8", RESERVATIONS, "true"),
)

Connection = psycopg.Connection[tuple[Any, ...]]
Connections = dict[str, Connection]


@dataclass(slots=True)
class Finding:
    """One invariant, how much was checked, and what breaks it."""

    name: str
    claim: str
    checked: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, checked: int, violations: Sequence[str]) -> None:
        """Adds what one check found."""
        self.checked += checked
        self.violations.extend(violations)


def verify(state: State, public_key: Path | None = None) -> list[Finding]:
    """Checks all of them on a running mesh. Raises MeshError when none runs in the folder."""
    state.read_description()
    postgres = Postgres(state, find())
    urls = {service: postgres.url(service, f"{service}_owner", with_password=True) for service in SERVICES}
    return verify_databases(urls, public_key or known_key(state, {}), sandbox.ahead(state))


def verify_databases(
    urls: Mapping[str, URL], public_key: Path | None = None, ahead: timedelta = timedelta()
) -> list[Finding]:
    """Checks all of them on the services' databases, as their owners; `public_key` is the file that heads are believed
    by, `ahead` how far a sandbox's time is ahead of the databases'. Raises MeshError when a database cannot be reached
    or the file has no key."""
    from accounts import signing

    try:
        keys = signing.verifying_keys(public_key) if public_key is not None else None
    except ValueError as error:
        raise MeshError(f"{public_key}: {error}.") from None
    findings = {name: Finding(name, claim) for name, claim in CLAIMS.items()}
    connections = {service: _connect(url) for service, url in urls.items()}
    try:
        verify_archive.hold(connections["accounts"])
        for rule in RULES:
            violations = rule.violations(connections[rule.table.service], all_of(rule.table), ahead)
            findings[rule.invariant].add(0, _lines(violations))
        for name, service, text in (*verify_archive.ARCHIVE, *RECONCILIATION):
            findings[name].add(0, [str(row[0]) for row in connections[service].execute(text)])
        for name, table, condition in _COUNTED:
            statement = f"SELECT count(*) FROM {table.name} WHERE {condition}"  # noqa: S608 - constants
            findings[name].checked += _count(connections[table.service], statement)
        for service, connection in connections.items():
            checked, violations = rights.violations(connection, service, f"{service}_runtime")
            findings["INV-4"].add(checked, _lines(violations))
            for rows, checked in _slices(connection, Rows(OUTBOXES[service])):
                findings["INV-7"].add(checked, _lines(events.violations(connection, rows)))
        findings["INV-7"].add(0, [str(row[0]) for row in connections["accounts"].execute(EVENTS, {"ahead": ahead})])
        for rows, _ in _slices(connections["transactions"], Rows(SCHEDULE_RUNS)):
            checked, violations = schedules.violations(connections["transactions"], rows)
            findings["INV-5"].add(checked, _lines(violations))
        for rows, _ in _slices(connections["transactions"], Rows(DEPOSITS)):
            checked, violations = rails.violations(connections["transactions"], rows)
            findings["INV-5"].add(checked, _lines(violations))
        findings["INV-9"].add(*sealed_log.check(connections["accounts"], keys))
        _across(connections, findings, ahead)
    finally:
        for connection in connections.values():
            connection.close()
    return list(findings.values())


def given_databases(environment: Mapping[str, str]) -> dict[str, URL]:
    """The owners' databases that the services' own variables name; none, or all four."""
    urls: dict[str, URL] = {}
    for service in SERVICES:
        text = environment.get(f"{service.upper()}_OWNER_DATABASE_URL")
        password_file = environment.get(f"{service.upper()}_OWNER_DATABASE_PASSWORD_FILE")
        if text is not None:
            password = Path(password_file).read_text().strip() if password_file is not None else None
            urls[service] = make_url(text).set(password=password)
    missing = [service for service in SERVICES if service not in urls]
    if urls and missing:
        raise MeshError(f"The databases are named for some services; set {missing[0].upper()}_OWNER_DATABASE_URL too.")
    return urls


def known_key(state: State, environment: Mapping[str, str]) -> Path | None:
    """The file with the public keys of tree heads that accounts is told of, or else that of the mesh; None for none."""
    named = environment.get("ACCOUNTS_SEALING_KEY_FILE")
    if named:
        return Path(named)
    return state.sealing_keys if state.sealing_keys.exists() else None


def _connect(url: URL) -> Connection:
    """A read-only snapshot of a service's database, as its owner."""
    parameters: dict[str, Any] = {**url.translate_connect_args(username="user", database="dbname"), **url.query}
    try:
        connection = psycopg.connect(**parameters, options="-c florin.tenants=* -c timezone=UTC", connect_timeout=10)
    except psycopg.OperationalError as error:
        raise MeshError(f"The database {url.database} cannot be reached: {str(error).strip()}") from None
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    return connection


def _count(connection: Connection, statement: str) -> int:
    row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 0


def _lines(violations: Sequence[Violation]) -> list[str]:
    return [violation.line for violation in violations]


def _slices(connection: Connection, first: Rows) -> Iterator[tuple[Rows, int]]:
    """All rows of a table in bounded memory, with the number of each slice."""
    rows, count = first.bounded(connection)
    while count:
        yield rows, count
        rows, count = Rows(first.table, after=rows.upto).bounded(connection)


def _across(connections: Connections, findings: dict[str, Finding], ahead: timedelta) -> None:
    """The checks across services; what does not go away is a violation."""
    checks: tuple[Callable[[Connections], tuple[Mapping[str, int], set[Violation]]], ...] = (
        functools.partial(_transfers, ahead=ahead),
        _journals_of_others,
        functools.partial(_told_of, ahead=ahead),
        lambda open_ones: ({}, set(sealed_log.unsealed(open_ones["accounts"]))),
    )
    for check in checks:
        checked, suspects = _afresh(connections, check)
        deadline = time.monotonic() + SETTLED_SECONDS
        while suspects and time.monotonic() < deadline:
            time.sleep(_AGAIN_SECONDS)
            suspects &= _afresh(connections, check)[1]
        for name, number in checked.items():
            findings[name].checked += number
        for violation in sorted(suspects, key=lambda one: one.line):
            findings[violation.invariant].violations.append(violation.line)


def _afresh(
    connections: Connections, check: Callable[[Connections], tuple[Mapping[str, int], set[Violation]]]
) -> tuple[Mapping[str, int], set[Violation]]:
    """Runs a check on new snapshots: transfers first, so that what they name must be in the later ones."""
    for connection in connections.values():
        connection.rollback()
    return check(connections)


def _transfers(connections: Connections, ahead: timedelta) -> tuple[Mapping[str, int], set[Violation]]:
    checked: Counter[str] = Counter()
    suspects: set[Violation] = set()
    for rows, _ in _slices(connections["transactions"], Rows(TRANSFERS)):
        judged = transfers.judge(connections, rows, ahead)
        checked.update(judged.checked)
        suspects.update(judged.suspects)
    return checked, suspects


def _journals_of_others(connections: Connections) -> tuple[Mapping[str, int], set[Violation]]:
    suspects: set[Violation] = set()
    for rows, _ in _slices(connections["accounts"], Rows(JOURNALS)):
        suspects.update(transfers.journals_of_others(connections, rows))
    return {}, suspects


def _told_of(connections: Connections, ahead: timedelta) -> tuple[Mapping[str, int], set[Violation]]:
    suspects: set[Violation] = set()
    for rule in told_of(days=1):
        suspects.update(rule.violations(connections[rule.table.service], all_of(rule.table), ahead))
    return {}, suspects


def as_text(findings: Sequence[Finding]) -> str:
    """One line an invariant, and the first violations below it."""
    lines = []
    for finding in findings:
        verdict = "holds" if not finding.violations else f"BROKEN {len(finding.violations)}×"
        lines.append(f"{finding.name}  {verdict:<12} {finding.checked:>9,} checked   {finding.claim}")
        lines += [f"        {violation}" for violation in finding.violations[:_SHOWN_MAX]]
    return "\n".join(printable(line) for line in lines)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """For programs."""
    return {
        "holds": not any(finding.violations for finding in findings),
        "invariants": [
            {"name": f.name, "claim": f.claim, "checked": f.checked, "violations": f.violations} for f in findings
        ],
    }
