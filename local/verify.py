"""Checks the numbered invariants on a running mesh, without stopping it; it reads and changes nothing.

What one database can say is judged in one snapshot of it. What needs two is read again as long as something is not as
it should be: events are on their way between services, and only what every reading of ten seconds finds is a violation.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import IsolationLevel
from sqlalchemy.engine import URL, make_url

from local import sandbox, verify_rails, verify_schedules
from local.binaries import find
from local.invariants import COUNTS, FEES_OF_CAPTURES, NAMESPACE, SINGLE
from local.postgres import Postgres
from local.reconciliation_invariants import EVENTS, RECONCILIATION
from local.state import SERVICES, MeshError, State
from local.texts import printable

SETTLED_SECONDS = 10
_AGAIN_SECONDS = 0.5
_SHOWN_MAX = 5

# How the services number states in their tables.
_MOVED = ("COMPLETED", "REVERSED")  # by a journal of their own
_NOTHING_MOVED = ("DECLINED", "VOIDED", "EXPIRED")
_COUNTED = (1, 2)  # reservations: live, captured
_RELEASED = 3

Connection = psycopg.Connection[tuple[Any, ...]]


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


CLAIMS = {
    "INV-1": "the entries of a journal sum to zero per currency",
    "INV-2": "a balance is the sum of its entries, numbered without a gap, and differs from the bank's by what is open",
    "INV-3": "no hold or posting makes the available balance negative",
    "INV-4": "the services' roles cannot change or delete what is append-only",
    "INV-5": "one request_id has one effect, a run of a schedule pays once, a deposit is credited once",
    "INV-6": "a transfer has its journal, with fee and exchange, exactly when it completed, and no hold outlives it;"
    " a journal that is no transfer's was audited",
    "INV-7": "every change of state has exactly one event",
    "INV-8": "a limit's use is the sum of its live and captured reservations",
    "INV-9": "every journal is what was sealed, in a signed log that was only added to",
}


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
    from local import verify_history

    try:
        keys = signing.verifying_keys(public_key) if public_key is not None else None
    except ValueError as error:
        raise MeshError(f"{public_key}: {error}.") from None
    findings = {name: Finding(name, claim) for name, claim in CLAIMS.items()}
    connections = {service: _connect(url) for service, url in urls.items()}
    try:
        for name, service, statement in (*SINGLE, *RECONCILIATION):
            violations = [str(row[0]) for row in connections[service].execute(statement)]
            findings[name].add(0, violations)
        for name, service, statement in COUNTS:
            row = connections[service].execute(statement).fetchone()
            findings[name].checked += row[0] if row else 0
        for service, connection in connections.items():
            findings["INV-4"].add(*_append_only(connection, service))
            findings["INV-7"].add(*_event_ids(connection, service))
        findings["INV-5"].add(*verify_schedules.runs(connections["transactions"]))
        findings["INV-5"].add(*verify_rails.deposits(connections["transactions"]))
        findings["INV-6"].add(*verify_rails.withdrawals(connections["transactions"]))
        findings["INV-7"].add(0, verify_schedules.events(connections["transactions"], ahead))
        findings["INV-7"].add(0, verify_rails.events(connections["transactions"], ahead))
        findings["INV-7"].add(0, [str(row[0]) for row in connections["accounts"].execute(EVENTS, {"ahead": ahead})])
        findings["INV-9"].add(*verify_history.check(connections["accounts"], keys))
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


def _append_only(connection: Connection, service: str) -> tuple[int, list[str]]:
    """Whether the service's role lacks the right to change each append-only table of its policy."""
    from meshkit import policy

    tables = policy.load(service).append_only
    role = f"{service}_runtime"
    violations = []
    for table in tables:
        for right in ("UPDATE", "DELETE", "TRUNCATE"):
            row = connection.execute("SELECT has_table_privilege(%s, %s, %s)", (role, table, right)).fetchone()
            if row is None or row[0]:
                violations.append(f"{role} may {right} {table}")
    return len(tables), violations


def _event_ids(connection: Connection, service: str) -> tuple[int, list[str]]:
    """Whether each kept event has the id that its aggregate and version give, and versions leave no gap."""
    checked, violations = 0, []
    with connection.cursor(name="outbox") as cursor:
        cursor.itersize = 5000
        cursor.execute("SELECT tenant, aggregate, version, event_id FROM outbox ORDER BY tenant, aggregate, version")
        before: tuple[str, str, int] | None = None
        for tenant, aggregate, version, event_id in cursor:
            checked += 1
            if event_id != uuid.uuid5(NAMESPACE, f"{tenant}/{aggregate}#{version}"):
                violations.append(f"{service}: {tenant}/{aggregate} version {version} has another event id")
            if before is not None and before[:2] == (tenant, aggregate) and version != before[2] + 1:
                violations.append(f"{service}: {tenant}/{aggregate} jumps from version {before[2]} to {version}")
            before = (tenant, aggregate, version)
    return checked, violations


def _across(connections: dict[str, Connection], findings: dict[str, Finding], ahead: timedelta) -> None:
    """The checks across services; what does not go away is a violation."""
    from local import verify_history

    checks: tuple[tuple[str, Callable[[dict[str, Connection]], tuple[int, set[str]]]], ...] = (
        ("INV-6", functools.partial(_journals_of_transfers, ahead=ahead)),
        ("INV-6", _legs_of_transfers),
        ("INV-7", functools.partial(_events_of_transfers, ahead=ahead)),
        ("INV-8", _reservations_of_transfers),
        ("INV-9", lambda open_ones: verify_history.unsealed(open_ones["accounts"])),
    )
    for name, check in checks:
        checked, suspects = _afresh(connections, check)
        deadline = time.monotonic() + SETTLED_SECONDS
        while suspects and time.monotonic() < deadline:
            time.sleep(_AGAIN_SECONDS)
            suspects &= _afresh(connections, check)[1]
        findings[name].add(checked, sorted(suspects))


def _afresh(
    connections: dict[str, Connection], check: Callable[[dict[str, Connection]], tuple[int, set[str]]]
) -> tuple[int, set[str]]:
    """Runs a check on new snapshots: transfers first, so that what they name must be in the later ones."""
    for connection in connections.values():
        connection.rollback()
    return check(connections)


def _final(connections: dict[str, Connection]) -> list[tuple[str, str, str, str]]:
    """Every transfer that is final: tenant, id, state, journal."""
    return (
        connections["transactions"]
        .execute(
            "SELECT tenant, id, state, journal FROM transfers"
            " WHERE state IN ('COMPLETED', 'DECLINED', 'REVERSED', 'CAPTURED', 'VOIDED', 'EXPIRED')"
        )
        .fetchall()
    )


def _journals_of_transfers(connections: dict[str, Connection], ahead: timedelta = timedelta()) -> tuple[int, set[str]]:
    transfers = _final(connections)
    posted: dict[tuple[str, str], list[str]] = {}
    for tenant, origin, journal in connections["accounts"].execute(
        "SELECT tenant, origin, journal FROM journals WHERE origin LIKE 'transfers/%'"
    ):
        posted.setdefault((tenant, origin), []).append(f"journals/{journal}")
    holds = {
        (row[0], row[1]) for row in connections["accounts"].execute("SELECT tenant, origin FROM holds WHERE state = 1")
    }
    suspects: set[str] = set()
    for tenant, id_, state, journal in transfers:
        name = f"transfers/{id_}"
        wanted = [journal] if state in _MOVED else []  # an authorization's money is moved by its captures
        found = posted.get((tenant, name), [])
        if found != wanted:
            suspects.add(f"{tenant}/{name} is {state}: journals {found}, expected {wanted}")
        if (tenant, name) in holds:
            suspects.add(f"{tenant}/{name} is {state} and still has a hold")
    return len(transfers), suspects | _holds_of_authorizations(connections, ahead)


def _holds_of_authorizations(connections: dict[str, Connection], ahead: timedelta) -> set[str]:
    """Whether what is left of each standing authorization, and of its fee, is held."""
    held = {
        (row[0], row[1]): row[2]
        for row in connections["accounts"].execute("SELECT tenant, origin, amount FROM holds WHERE state = 1")
    }
    standing = connections["transactions"].execute(
        "SELECT a.tenant, a.id, a.amount - a.captured + coalesce(a.fee, 0) - coalesce(c.fees, 0)"  # noqa: S608
        f" FROM transfers AS a LEFT JOIN ({FEES_OF_CAPTURES}) AS c ON c.tenant = a.tenant AND c.capture_of = a.id"
        " WHERE a.state = 'AUTHORIZED' AND NOT a.voided AND a.expire_time > now() + %s + interval '1 second'",
        (ahead,),
    )
    return {
        f"{tenant}/transfers/{id_} is AUTHORIZED with {left} left, and {held.get((tenant, f'transfers/{id_}'), 0)} held"
        for tenant, id_, left in standing
        if held.get((tenant, f"transfers/{id_}")) != left
    }


def _legs_of_transfers(connections: dict[str, Connection]) -> tuple[int, set[str]]:
    """Whether the journal of each transfer moved its fee and its exchange too, from whom and to whom it should, and
    nothing else."""
    transfers = connections["transactions"].execute(
        "SELECT tenant, journal, id, nullif(fee, 0), fee_account, amount, credit_amount, debit_position,"
        " credit_position, reversal_of <> '', debit_account, credit_account FROM transfers"
        " WHERE state IN ('COMPLETED', 'REVERSED')"
    )
    moved: dict[tuple[str, str], list[tuple[str, int]]] = {}
    # The first two legs are payer's and payee's.
    for tenant, journal, account, amount in connections["accounts"].execute(
        "SELECT tenant, 'journals/' || journal, 'accounts/' || account, amount FROM entries JOIN journals"
        " USING (tenant, journal) WHERE leg >= 2 AND origin LIKE 'transfers/%' ORDER BY leg"
    ):
        moved.setdefault((tenant, journal), []).append((account, amount))
    checked, suspects = 0, set()
    for tenant, journal, id_, fee, fee_account, paid, got, debit_position, credit_position, *sides in transfers:
        is_reversal, debit, credit = sides
        wanted = [(debit_position, paid), (credit_position, -got)] if got is not None else []
        if fee is not None:
            payer, payee = (fee_account, credit) if is_reversal else (debit, fee_account)
            wanted += [(payer, -fee), (payee, fee)]
        found = moved.get((tenant, journal), [])
        checked += bool(wanted)
        if found != wanted:
            suspects.add(f"{tenant}/transfers/{id_}: its journal's other legs are {found}, expected {wanted}")
    return checked, suspects


def _events_of_transfers(connections: dict[str, Connection], ahead: timedelta) -> tuple[int, set[str]]:
    rows = connections["transactions"].execute(
        "SELECT t.tenant || '/transfers/' || t.id || ' has version ' || t.version || ' and events up to '"
        " || coalesce(max(o.version), 0) FROM transfers AS t LEFT JOIN outbox AS o"
        " ON o.tenant = t.tenant AND o.aggregate = 'transfers/' || t.id"
        " WHERE t.update_time > now() + %s - interval '1 day'"
        " GROUP BY t.tenant, t.id, t.version HAVING t.version <> coalesce(max(o.version), 0)",
        (ahead,),
    )
    return 0, {row[0] for row in rows}


def _reservations_of_transfers(connections: dict[str, Connection]) -> tuple[int, set[str]]:
    transfers = _final(connections)
    reservations = {
        (row[0], row[1]): (row[2], row[3])
        for row in connections["compliance"].execute("SELECT tenant, transfer, state, amount FROM reservations")
    }
    captured = (
        connections["transactions"]
        .execute("SELECT tenant, id, captured FROM transfers WHERE state = 'CAPTURED'")
        .fetchall()
    )
    suspects: set[str] = set()
    for tenant, id_, state, _ in transfers:
        reservation, _ = reservations.get((tenant, f"transfers/{id_}"), (None, 0))
        if state in _NOTHING_MOVED and reservation in _COUNTED:
            suspects.add(f"{tenant}/transfers/{id_} is {state} and its reservation still counts")
        if state not in _NOTHING_MOVED and reservation == _RELEASED:
            suspects.add(f"{tenant}/transfers/{id_} is {state} and its reservation was given back")
    for tenant, id_, moved in captured:
        state, amount = reservations.get((tenant, f"transfers/{id_}"), (None, 0))
        if state in _COUNTED and amount != moved:
            suspects.add(f"{tenant}/transfers/{id_} captured {moved}, its reservation counts {amount}")
    return len(transfers), suspects


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
