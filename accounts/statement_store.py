"""SQL of statements; takes a connection, gives model objects, decides nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import places
from accounts.archive_errors import ArchivedPeriodNotAttached
from accounts.entry_store import entries_between
from accounts.model import Entry
from accounts.places import ALL, LEDGER
from accounts.statements import Period, Statement, Totals
from meshkit import clock
from meshkit.database import fetch

_COLUMNS = (
    "s.tenant, s.statement::text, s.account, s.number, s.period_start, s.period_end, s.time_zone, s.start_time,"
    " s.end_time, s.currency, s.opening, s.closing, s.opening_sequence, s.closing_sequence, s.identifier, s.issuer,"
    " s.layout, s.create_time"
)
_OWNED = (
    "(CAST(:customer AS text) IS NULL OR EXISTS (SELECT 1 FROM account_owners AS o"
    " WHERE o.tenant = s.tenant AND o.account = s.account AND o.customer = :customer))"
)
_TOTALS = (
    "SELECT count(*) FILTER (WHERE amount > 0), coalesce(sum(amount) FILTER (WHERE amount > 0), 0),"
    " count(*) FILTER (WHERE amount < 0), coalesce(-sum(amount) FILTER (WHERE amount < 0), 0)"
    " FROM {entries} WHERE tenant = %s AND account = %s AND sequence > %s AND sequence <= %s"
)


async def tenant(conn: AsyncConnection, tenant_id: str) -> tuple[str, str, datetime]:
    """A tenant's display name and time zone, and the time by the database's clock."""
    found = await conn.execute(
        text("SELECT display_name, time_zone, clock_timestamp() FROM tenants WHERE tenant = :tenant"),
        {"tenant": tenant_id},
    )
    display_name, time_zone, database_time = found.one()
    return display_name, time_zone, clock.of_machine(database_time)


async def seal(conn: AsyncConnection, statement: Statement) -> None:
    """No later entry of the account, whose row is locked, is recorded before the end of the period: whatever the clock
    of the replica says that posts it."""
    await conn.execute(
        text(
            "UPDATE accounts SET recorded_time = :end_time"
            " WHERE tenant = :tenant AND account = :account AND recorded_time < :end_time"
        ),
        {"tenant": statement.tenant, "account": statement.account, "end_time": statement.period.end_time},
    )


async def last_number(conn: AsyncConnection, tenant_id: str, account: str) -> int:
    """The number of the account's last statement; 0 before the first. The account's row is locked."""
    found = await conn.execute(
        text("SELECT coalesce(max(number), 0) FROM statements WHERE tenant = :tenant AND account = :account"),
        {"tenant": tenant_id, "account": account},
    )
    return int(found.scalar_one())


async def add(conn: AsyncConnection, statement: Statement) -> bool:
    """Adds a statement; False if its id is taken."""
    added = await conn.execute(
        text(
            "INSERT INTO statements (tenant, statement, account, number, period_start, period_end, time_zone,"
            " start_time, end_time, currency, opening, closing, opening_sequence, closing_sequence, identifier, issuer,"
            " layout, create_time) VALUES (:tenant, CAST(:statement AS uuid), :account, :number, :period_start,"
            " :period_end, :time_zone, :start_time, :end_time, :currency, :opening, :closing, :opening_sequence,"
            " :closing_sequence, :identifier, :issuer, :layout, :create_time)"
            " ON CONFLICT ON CONSTRAINT statements_pk DO NOTHING RETURNING 1"
        ),
        {
            "tenant": statement.tenant,
            "statement": statement.id,
            "account": statement.account,
            "number": statement.number,
            "period_start": statement.period.first,
            "period_end": statement.period.last,
            "time_zone": statement.period.time_zone,
            "start_time": statement.period.start_time,
            "end_time": statement.period.end_time,
            "currency": statement.currency,
            "opening": statement.opening,
            "closing": statement.closing,
            "opening_sequence": statement.opening_sequence,
            "closing_sequence": statement.closing_sequence,
            "identifier": statement.identifier,
            "issuer": statement.issuer,
            "layout": statement.layout,
            "create_time": statement.create_time,
        },
    )
    return added.first() is not None


async def statement(
    conn: AsyncConnection, tenant_id: str, statement_id: str, *, customer: str | None
) -> Statement | None:
    """A statement by its id, if the account is the customer's where one is given."""
    rows = await conn.execute(
        text(
            f"SELECT {_COLUMNS} FROM statements AS s WHERE s.tenant = :tenant"  # noqa: S608 - a constant
            f" AND s.statement = CAST(:statement AS uuid) AND {_OWNED}"
        ),
        {"tenant": tenant_id, "statement": statement_id, "customer": customer},
    )
    row = rows.first()
    return None if row is None else _to_statement(row)


async def list_statements(
    conn: AsyncConnection, tenant_id: str, account: str, *, before: int, limit: int
) -> list[Statement]:
    """An account's statements, the newest first, with numbers below `before`."""
    rows = await conn.execute(
        text(
            f"SELECT {_COLUMNS} FROM statements AS s WHERE s.tenant = :tenant"  # noqa: S608 - a constant
            " AND s.account = :account AND s.number < :before ORDER BY s.number DESC LIMIT :limit"
        ),
        {"tenant": tenant_id, "account": account, "before": before, "limit": limit},
    )
    return [_to_statement(row) for row in rows]


async def entries(conn: AsyncConnection, of: Statement, *, after: int, limit: int) -> list[Entry]:
    """A statement's entries in their order, from behind the sequence `after` on."""
    return await entries_between(conn, of.tenant, of.account, after=after, up_to=of.closing_sequence, limit=limit)


async def totals(conn: AsyncConnection, of: Statement) -> Totals:
    """How many credits and debits a statement has, and their sums. Raises ArchivedPeriodNotAttached."""
    asked = (of.tenant, of.account, of.opening_sequence, of.closing_sequence)
    ((credit_count, credit_sum, debit_count, debit_sum),) = await fetch(conn, LEDGER.named(_TOTALS), asked)
    if credit_count + debit_count < of.closing_sequence - of.opening_sequence:
        (detached,) = await places.detached_of(conn, [(of.tenant, of.account)])
        for one in detached:
            if one.first_sequence <= of.closing_sequence and one.last_sequence > of.opening_sequence:
                raise ArchivedPeriodNotAttached(one.period, of.name)
        ((credit_count, credit_sum, debit_count, debit_sum),) = await fetch(conn, ALL.named(_TOTALS), asked)
    return Totals(credit_count, int(credit_sum), debit_count, int(debit_sum))


def _to_statement(row: Any) -> Statement:
    tenant_id, statement_id, account, number, first, last, time_zone, start_time, end_time, *rest = row
    return Statement(
        tenant_id, statement_id, account, number, Period(first, last, time_zone, start_time, end_time), *rest
    )
