"""SQL of balances added up; takes a connection, decides nothing.

Each sum is one statement, so it is of one moment: no payment is half in it. A tenant's accounts are found by the key of
accounts, a customer's by the index of owners; no other tenant's row is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.model import AccountType
from meshkit import clock
from meshkit.database import execute, fetch

_SUMS = (
    "a.currency, count(*), sum(a.posted), sum(a.held),"
    " sum(a.posted) - sum(a.held) + sum(a.overdraft_limit) - sum(a.minimum_balance)"
)
_OF_TENANT = "FROM accounts AS a WHERE a.tenant = %s"
_OF_CUSTOMER = (
    "FROM account_owners AS o JOIN accounts AS a USING (tenant, account) WHERE o.tenant = %s AND o.customer = %s"
)
# Customers are picked first, so that a page reads the accounts of its own customers alone. Each has a row at least, and
# of the first one all may stand on the page before: so many customers as rows are wanted, and one more, are enough.
_BY_CUSTOMER = f"""
WITH picked AS MATERIALIZED (
    SELECT DISTINCT customer FROM account_owners WHERE tenant = %s AND customer >= %s ORDER BY customer LIMIT %s
)
SELECT o.customer, {_SUMS} FROM picked
JOIN account_owners AS o ON o.tenant = %s AND o.customer = picked.customer
JOIN accounts AS a ON a.tenant = o.tenant AND a.account = o.account
GROUP BY o.customer, a.currency HAVING (o.customer, a.currency) > (%s, %s)
ORDER BY o.customer, a.currency LIMIT %s
"""  # noqa: S608 - a constant
_BY_ONE_CUSTOMER = (
    f"SELECT o.customer, {_SUMS} {_OF_CUSTOMER}"
    " GROUP BY o.customer, a.currency HAVING (o.customer, a.currency) > (%s, %s) ORDER BY a.currency LIMIT %s"
)


@dataclass(frozen=True, slots=True)
class BalanceSum:
    """What stands on some accounts of one currency together, in its minor units."""

    customer: str
    type: AccountType | None
    currency: str
    count: int
    posted: int
    held: int
    available: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some sums, and the moment at which they were so."""

    sums: tuple[BalanceSum, ...]
    read_time: datetime


async def by_currency(conn: AsyncConnection, tenant: str, *, customer: str | None, after: str, limit: int) -> Page:
    """Sums by currency, from behind `after` on; of one customer if given."""
    owned, whose = _whose(tenant, customer)
    read_time, rows = await _read(
        conn,
        f"SELECT {_SUMS} {owned} AND a.currency > %s GROUP BY a.currency ORDER BY a.currency LIMIT %s",
        (*whose, after, limit),
    )
    return Page(tuple(_sum("", None, row) for row in rows), read_time)


async def by_type(
    conn: AsyncConnection, tenant: str, *, customer: str | None, after: tuple[int, str], limit: int
) -> Page:
    """Sums by type and currency, from behind `after` on; of one customer if given."""
    owned, whose = _whose(tenant, customer)
    read_time, rows = await _read(
        conn,
        f"SELECT a.type, {_SUMS} {owned} AND (a.type, a.currency) > (%s::bigint, %s)"
        " GROUP BY a.type, a.currency ORDER BY a.type, a.currency LIMIT %s",
        (*whose, *after, limit),
    )
    return Page(tuple(_sum("", AccountType(row[0]), row[1:]) for row in rows), read_time)


async def by_customer(
    conn: AsyncConnection, tenant: str, *, customer: str | None, after: tuple[str, str], limit: int
) -> Page:
    """Sums by customer and currency, from behind `after` on; of one customer if given."""
    if customer is None:
        parameters: tuple[object, ...] = (tenant, after[0], limit + 1, tenant, *after, limit)
        read_time, rows = await _read(conn, _BY_CUSTOMER, parameters)
    else:
        read_time, rows = await _read(conn, _BY_ONE_CUSTOMER, (tenant, customer, *after, limit))
    return Page(tuple(_sum(row[0], None, row[1:]) for row in rows), read_time)


async def imbalances(conn: AsyncConnection) -> int:
    """How many pairs of tenant and currency do not sum to zero over all accounts; anything but 0 is an alarm."""
    ((wrong,),) = await fetch(
        conn,
        "SELECT count(*) FROM (SELECT 1 FROM accounts GROUP BY tenant, currency HAVING sum(posted) <> 0) AS wrong",
    )
    return int(wrong)


def _whose(tenant: str, customer: str | None) -> tuple[str, tuple[str, ...]]:
    return (_OF_TENANT, (tenant,)) if customer is None else (_OF_CUSTOMER, (tenant, customer))


async def _read(
    conn: AsyncConnection, statement: str, parameters: tuple[object, ...]
) -> tuple[datetime, list[tuple[Any, ...]]]:
    """The rows of a statement, and the time at which its snapshot was about to be taken."""
    told = await execute(conn, "SELECT clock_timestamp()")
    rows = await fetch(conn, statement, parameters)
    ((read_time,),) = await told.fetchall()
    return clock.of_machine(read_time), rows


def _sum(customer: str, type_: AccountType | None, row: Sequence[Any]) -> BalanceSum:
    currency, count, posted, held, available = row
    return BalanceSum(customer, type_, currency, count, int(posted), int(held), int(available))
