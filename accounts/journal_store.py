"""SQL of journals as they are read and found, and of what is kept beside those that the bank posts itself.

It decides nothing. Journals of payments have no rows in its tables, and are in none of its indexes.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import places
from accounts.archive_errors import ArchivedPeriodNotAttached, raised
from accounts.book import Posted
from accounts.entry_store import ENTRY, to_entry
from accounts.model import Entry, Journal, JournalKind, Metadata
from accounts.places import ALL, LEDGER, Tables
from meshkit import filters
from meshkit.database import fetch
from meshkit.filters import Condition

# Each journal's entries are looked up for themselves: as a plain join the planner may go through all entries for each.
_JOURNALS = (
    f"SELECT {ENTRY}, j.create_time, j.effective_time FROM unnest(%s::uuid[]) AS k(journal)"  # noqa: S608 - constants
    " JOIN {journals} AS j ON j.tenant = %s AND j.journal = k.journal CROSS JOIN LATERAL"
    " (SELECT * FROM {entries} AS e WHERE e.tenant = j.tenant AND e.journal = j.journal OFFSET 0) AS e"
    " ORDER BY e.journal, e.leg"
)
_METADATA = (
    "SELECT m.tenant, m.journal::text, m.key, m.value FROM journal_metadata AS m"
    " JOIN unnest(%s::text[], %s::uuid[]) AS k(tenant, journal) USING (tenant, journal)"
)
_ADD_ACCOUNTS = (
    "INSERT INTO journal_accounts (tenant, account, create_time, journal)"
    " SELECT * FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::uuid[])"
)
_ADD_METADATA = (
    "INSERT INTO journal_metadata (tenant, journal, key, value, create_time)"
    " SELECT * FROM unnest(%s::text[], %s::uuid[], %s::text[], %s::text[], %s::timestamptz[])"
)

_METADATA_FIELD = "metadata."


def _account(value: str) -> str:
    return filters.text(value).removeprefix("accounts/")


FIELDS: filters.Fields = {
    "account": (_account, ("=",)),
    f"{_METADATA_FIELD}*": (filters.text, ("=",)),
    "effective_time": (filters.time, filters.ORDERED),
    "create_time": (filters.time, filters.ORDERED),
}
"""What ListJournals can be filtered by."""


async def journal(conn: AsyncConnection, tenant: str, journal_id: str) -> Journal | None:
    """A journal with its entries in the order of the legs. Raises ArchivedPeriodNotAttached."""
    try:
        found = await journals(conn, tenant, [str(uuid.UUID(journal_id))])
    except ValueError:
        return None
    return raised(found.get(journal_id))


async def journals(
    conn: AsyncConnection, tenant: str, ids: Sequence[str]
) -> dict[str, Journal | ArchivedPeriodNotAttached]:
    """Those of the journals that exist, by id; of one in a period that is not attached the refusal."""
    wanted = list(dict.fromkeys(ids))
    found: dict[str, Journal | ArchivedPeriodNotAttached] = {**await _read(conn, LEDGER, tenant, wanted)}
    # All entries of a journal are in one place, and are moved at once.
    missing = [id_ for id_ in wanted if id_ not in found]
    if missing:
        detached = await places.detached_journals(conn, tenant, missing)
        found |= {id_: ArchivedPeriodNotAttached(period, f"journals/{id_}") for id_, period in detached.items()}
        found |= await _read(conn, ALL, tenant, [id_ for id_ in missing if id_ not in detached])
    return found


async def _read(conn: AsyncConnection, tables: Tables, tenant: str, ids: Sequence[str]) -> dict[str, Journal]:
    entries: dict[str, list[Entry]] = {}
    times: dict[str, tuple[datetime, datetime]] = {}
    for row in await fetch(conn, tables.named(_JOURNALS), (list(ids), tenant)):
        entry = to_entry(row[:-2])
        entries.setdefault(entry.journal, []).append(entry)
        times[entry.journal] = (row[-2], row[-1])
    manual = [(tenant, id_) for id_, legs in entries.items() if legs[0].kind is JournalKind.MANUAL]
    written = await metadata(conn, manual)
    return {
        id_: Journal(id_, legs[0].kind, legs[0].origin, *times[id_], tuple(legs), written.get((tenant, id_), ()))
        for id_, legs in entries.items()
    }


async def metadata(conn: AsyncConnection, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Metadata]:
    """What is written on journals, (tenant, id) each, where anything is."""
    if not wanted:
        return {}
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    columns = [tenant for tenant, _ in wanted], [id_ for _, id_ in wanted]
    for tenant, id_, key, value in await fetch(conn, _METADATA, columns):
        found.setdefault((tenant, id_), []).append((key, value))
    return {place: tuple(sorted(pairs)) for place, pairs in found.items()}


async def list_journals(
    conn: AsyncConnection,
    tenant: str,
    conditions: Sequence[Condition],
    *,
    before: tuple[datetime, str] | None,
    limit: int,
) -> tuple[list[Journal], bool]:
    """So many at most of the journals that the bank posted itself and for which all conditions hold, the newest first,
    from behind a position on, and whether there are more; later ones do not move what comes next. They end before one
    that cannot be read. Raises ArchivedPeriodNotAttached where that is the first."""
    statement, values = _page(conditions, before)
    rows = await conn.execute(text(statement), {**values, "tenant": tenant, "limit": limit + 1})
    ids = [str(row.journal) for row in rows]
    if not ids:
        return [], False
    found = await journals(conn, tenant, ids[:limit])
    shown = [raised(found[ids[0]])]
    for id_ in ids[1:limit]:
        one = found[id_]
        if isinstance(one, ArchivedPeriodNotAttached):
            break
        shown.append(one)
    return shown, len(shown) < len(ids)


def _page(conditions: Sequence[Condition], before: tuple[datetime, str] | None) -> tuple[str, dict[str, Any]]:
    """A page's statement and its values: it goes along one index, in its order, and looks up the rest."""
    values: dict[str, Any] = {}
    for number, one in enumerate(conditions):
        values[f"value_{number}"] = one.value
        if one.field.startswith(_METADATA_FIELD):
            values[f"key_{number}"] = one.field.removeprefix(_METADATA_FIELD)
    times = [(number, one) for number, one in enumerate(conditions) if one.field in ("create_time", "effective_time")]
    others = [(number, one) for number, one in enumerate(conditions) if (number, one) not in times]
    # Metadata lead where there are some: fewer journals have the same than touch the same account.
    others.sort(key=lambda numbered: numbered[1].field == "account")
    lead, source = "j", "journals AS j"
    where = ["j.kind = 4"]
    if others:
        table, condition = _kept("d", *others.pop(0))
        lead, source = "d", f"{table} AS d JOIN journals AS j USING (tenant, journal)"
        where.append(condition)
    for number, one in times:
        # Field and operator come from fixed tables, the value is a parameter.
        row = "j" if one.field == "effective_time" else lead
        where.append(f"{row}.{one.field} {one.operator} :value_{number}")
    for number, one in others:
        table, condition = _kept("o", number, one)
        where.append(
            f"EXISTS (SELECT 1 FROM {table} AS o WHERE o.tenant = {lead}.tenant AND o.journal = {lead}.journal"  # noqa: S608
            f" AND o.create_time = {lead}.create_time AND {condition})"
        )
    if before is not None:
        where.append(f"({lead}.create_time, {lead}.journal) < (:before_time, CAST(:before_journal AS uuid))")
        values["before_time"], values["before_journal"] = before
    statement = (
        f"SELECT {lead}.journal FROM {source} WHERE {lead}.tenant = :tenant AND {' AND '.join(where)}"  # noqa: S608
        f" ORDER BY {lead}.create_time DESC, {lead}.journal DESC LIMIT :limit"
    )
    return statement, values


def _kept(row: str, number: int, condition: Condition) -> tuple[str, str]:
    """The table beside journals that a condition asks, and the condition on a row of it."""
    if condition.field == "account":
        return "journal_accounts", f"{row}.account = :value_{number}"
    return "journal_metadata", f"{row}.key = :key_{number} AND {row}.value = :value_{number}"


def added(posted: Sequence[Posted]) -> list[tuple[str, tuple[object, ...]]]:
    """The statements that keep what journals are found by, with their parameters; none for journals of payments."""
    manual = [one for one in posted if one.kind is JournalKind.MANUAL]
    if not manual:
        return []
    touched = [(one, account) for one in manual for account in sorted({leg.account for leg in one.legs})]
    written = [(one, key, value) for one in manual for key, value in one.metadata]
    statements: list[tuple[str, tuple[object, ...]]] = [
        (
            _ADD_ACCOUNTS,
            (
                [one.tenant for one, _ in touched],
                [account for _, account in touched],
                [one.create_time for one, _ in touched],
                [one.journal for one, _ in touched],
            ),
        )
    ]
    if written:
        statements.append(
            (
                _ADD_METADATA,
                (
                    [one.tenant for one, _, _ in written],
                    [one.journal for one, _, _ in written],
                    [key for _, key, _ in written],
                    [value for _, _, value in written],
                    [one.create_time for one, _, _ in written],
                ),
            )
        )
    return statements
