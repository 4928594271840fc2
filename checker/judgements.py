"""What is judged in one reading of the databases: rows of a table, journals that were added, a page of a sealed log.

Each judgement can be made again, of the same rows, in a later reading.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from checker import events, rails, rights, schedules, sealed_log, transfers
from checker.findings import Violation
from checker.readings import Readings
from checker.rules import (
    ON_ACCOUNTS,
    ON_ENTRIES,
    ON_JOURNALS,
    ON_MANUAL_JOURNALS,
    RULES,
    of_table,
    told_of,
    violations,
)
from checker.sealed_log import LogWalk
from checker.settings import SERVICES, Settings
from checker.tables import (
    ACCOUNTS,
    DEPOSITS,
    ENTRIES,
    JOURNALS,
    OUTBOXES,
    SCHEDULE_RUNS,
    TRANSFERS,
    Rows,
    Table,
    selected,
)

Look = Callable[[], "Verdict"]
"""Judges in a reading of its own."""

_LOG_PAGE = 500
_SEAL_GRACE_SECONDS = 60.0
_NEW = (
    "SELECT count(*), (array_agg(xid::text ORDER BY xid DESC, journal DESC))[1],"
    " (array_agg(journal ORDER BY xid DESC, journal DESC))[1] FROM (SELECT xid, journal FROM journals"
    " WHERE (xid, journal) > (%(after_xid)s::text::xid8, %(after)s::uuid)"
    " AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, journal LIMIT %(limit)s) AS j"
)
_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
_ADDED = (
    "SELECT {columns} FROM journals AS j WHERE (j.xid, j.journal) > (%(after_xid)s::text::xid8, %(after)s::uuid)"
    " AND (j.xid, j.journal) <= (%(upto_xid)s::text::xid8, %(upto)s::uuid) ORDER BY j.xid, j.journal LIMIT %(limit)s"
)
_NAMED_TRANSFERS = (
    "SELECT {columns} FROM transfers AS t JOIN unnest(%(tenants)s::text[], %(ids)s::text[]) AS k(tenant, id)"
    " USING (tenant, id)"
)
_ENDED = "SELECT tenant, currency, count(*) FROM ledger_freezes WHERE state = 2 GROUP BY tenant, currency"
_ORIGINS = "SELECT tenant, origin FROM {rows} AS j WHERE starts_with(origin, 'transfers/')"


@dataclass(slots=True)
class Verdict:
    """How much was judged, by invariant, and what is or may be wrong."""

    checked: Counter[str] = field(default_factory=Counter)
    wrong: list[Violation] = field(default_factory=list)
    """In one database."""
    suspects: list[Violation] = field(default_factory=list)
    """Across several."""


def rows_of(readings: Readings, settings: Settings, rows: Rows) -> Verdict:
    """Judges some rows by all rules of their table."""
    verdict, table = Verdict(), rows.table
    rules = of_table((*RULES, *told_of(settings.events_hours / 24)), table)
    with readings.reading(table.service) as connections:
        connection = connections[table.service]
        verdict.wrong += violations(connection, rules, rows)
        if table is SCHEDULE_RUNS:
            verdict.wrong += schedules.violations(connection, rows)[1]
        if table is DEPOSITS:
            verdict.wrong += rails.violations(connection, rows)[1]
        if table is JOURNALS and settings.sealing_keys_file is not None:
            verdict.wrong += sealed_log.late(connection, rows, _SEAL_GRACE_SECONDS)
        if table in OUTBOXES.values():
            verdict.wrong += events.violations(connection, rows)
    return verdict


def invariants_of(table: Table) -> set[str]:
    """Those that a table's rows are judged by."""
    found = {rule.invariant for rule in of_table((*RULES, *told_of(1)), table)}
    if table in (SCHEDULE_RUNS, DEPOSITS):
        found.add("INV-5")
    return found | {"INV-7"} if table in OUTBOXES.values() else found


def transfers_of(readings: Readings, settings: Settings, rows: Rows) -> Verdict:
    """Compares some rows of transfers, or the transfers that some journals are of, with the other services. Raises
    Behind."""
    verdict = Verdict()
    with readings.reading("transactions", "accounts", "compliance") as connections:
        if rows.table is TRANSFERS:
            judged = transfers.judge(connections, rows)
            verdict.checked.update(judged.checked)
            verdict.suspects += [one for one in judged.suspects if not one.is_on_its_way]
        else:
            verdict.suspects += transfers.journals_of_others(connections, rows)
        readings.check_follows(connections, settings.settle_seconds / 2)
    return verdict


@dataclass(frozen=True, slots=True)
class Place:
    """The last journal that was looked at, in the order of their transactions."""

    xid: str
    journal: uuid.UUID


_FIRST = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class Added:
    """Journals that were added between two places."""

    count: int
    values: Mapping[str, Any]
    upto: Place

    def journals(self) -> Rows:
        """Their rows."""
        return selected(JOURNALS, _columns(_ADDED, JOURNALS.columns, "j"), dict(self.values))

    def entries(self) -> Rows:
        """Their entries' rows."""
        source = f"SELECT {_prefixed(ENTRIES.columns, 'e')} FROM entries AS e JOIN {self.journals().sql()} AS j"
        return selected(ENTRIES, source + " USING (tenant, journal)", dict(self.values))

    def accounts(self) -> Rows:
        """The rows of the accounts that they changed."""
        source = (
            f"SELECT {_prefixed(ACCOUNTS.columns, 'a')} FROM accounts AS a JOIN (SELECT DISTINCT tenant, account"
            f" FROM {self.entries().sql()} AS e) AS d USING (tenant, account)"
        )
        return selected(ACCOUNTS, source, dict(self.values))


def added(readings: Readings, after: Place | None, limit: int) -> tuple[Place, Added | None]:
    """Where new journals begin: all of transactions that ended are before it. And the journals that come after a place,
    of transactions that nothing can come before any more; None for none."""
    with readings.reading("accounts") as connections:
        (horizon,) = _one(connections["accounts"].execute(_HORIZON))
        if after is None:
            return Place(horizon, _FIRST), None
        values: dict[str, Any] = {"after_xid": after.xid, "after": after.journal, "limit": limit}
        count, xid, journal = _one(connections["accounts"].execute(_NEW, values))
    upto = {"upto_xid": xid, "upto": journal}
    return Place(horizon, _FIRST), Added(count, {**values, **upto}, Place(xid, journal)) if count else None


def journals_added(readings: Readings, new: Added) -> Verdict:
    """Judges new journals, their entries, and the accounts that they changed."""
    verdict = Verdict()
    on_journals = (*ON_JOURNALS, *of_table(ON_MANUAL_JOURNALS, JOURNALS))
    scopes = ((on_journals, new.journals()), (ON_ENTRIES, new.entries()), (ON_ACCOUNTS, new.accounts()))
    with readings.reading("accounts") as connections:
        for rules, rows in scopes:
            verdict.wrong += violations(connections["accounts"], rules, rows)
            for rule in rules:
                verdict.checked[rule.invariant] += new.count
    return verdict


def transfers_added(readings: Readings, settings: Settings, new: Added) -> Verdict:
    """Compares the transfers that new journals are of with the other services. Raises Behind."""
    with readings.reading("accounts") as connections:
        found = connections["accounts"].execute(new.journals().statement(_ORIGINS), new.journals().parameters())
        keys = [(tenant, origin.removeprefix("transfers/")) for tenant, origin in found]
    if not keys:
        return Verdict()
    source = _columns(_NAMED_TRANSFERS, TRANSFERS.columns, "t")
    named = selected(TRANSFERS, source, {"tenants": [key[0] for key in keys], "ids": [key[1] for key in keys]})
    verdict = transfers_of(readings, settings, named)
    others = transfers_of(readings, settings, new.journals())
    verdict.suspects += others.suspects
    return verdict


def log_page(readings: Readings, walk: LogWalk) -> Verdict:
    """Checks the next page of a sealed log."""
    verdict = Verdict()
    with readings.reading("accounts") as connections:
        verdict.checked["INV-9"] = walk.page(connections["accounts"], _LOG_PAGE)
    said = [sentence.removeprefix(f"{walk.tenant}: ") for sentence in walk.report.take()]
    verdict.wrong = [
        Violation("INV-9", walk.tenant, "", sealed_log.LOG, f": {sentence}", is_exact=True) for sentence in said
    ]
    return verdict


def rights_of_roles(readings: Readings, settings: Settings) -> Verdict:
    """Judges what the services' roles may do."""
    verdict = Verdict()
    with readings.reading() as connections:
        for service in SERVICES:
            number, found = rights.violations(connections[service], service, settings.runtime_role(service))
            verdict.checked["INV-4"] += number
            verdict.wrong += found
    return verdict


def ended_freezes(readings: Readings) -> Mapping[tuple[str, str], int]:
    """How many freezes of each tenant's currency have ended; none are where it is not named."""
    with readings.reading("accounts") as connections:
        found = connections["accounts"].execute(_ENDED)
        return {(tenant, currency): count for tenant, currency, count in found}


def same(first: Sequence[Violation], second: Sequence[Violation]) -> list[Violation]:
    """What two readings found alike, as the second has it."""
    keys = {violation.key for violation in first}
    return [violation for violation in second if violation.key in keys]


def _columns(statement: str, columns: Sequence[str], alias: str) -> str:
    return statement.replace("{columns}", _prefixed(columns, alias))


def _prefixed(columns: Sequence[str], alias: str) -> str:
    return ", ".join(f"{alias}.{column}" for column in columns)


def _one(cursor: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] = cursor.fetchone()
    return row
