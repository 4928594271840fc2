"""How a settlement account and its bank differ at one moment, and what explains it; read in one statement."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import places
from accounts.archive_errors import ArchivedPeriodNotAttached
from accounts.reconciliation_model import Books
from accounts.reconciliation_store import BOOKS
from meshkit.database import fetch


@dataclass(frozen=True, slots=True)
class Summary:
    """How an account and its bank differ at one moment; counts and sums in minor units."""

    books: Books
    statement: str
    """The id of the last statement."""
    sequence: int
    """Of the account's last entry."""
    ledger_balance: int
    """By the last entry that is an item."""
    open_bank: tuple[int, int]
    open_ledger: tuple[int, int]
    resolved: tuple[int, int]

    @property
    def opening_difference(self) -> int:
        """What explains a difference from the beginning."""
        return self.books.bank_opening + self.books.ledger_opening

    @property
    def difference(self) -> int:
        """What the bank and the ledger come to together: zero where they say the same."""
        return self.books.bank_closing + self.ledger_balance

    @property
    def unexplained(self) -> int:
        """What of it nothing explains: zero, always."""
        explained = self.open_bank[1] + self.open_ledger[1] + self.resolved[1]
        return self.difference - self.opening_difference - explained


# One statement, so that all of it is of one moment. The entry may be archived by now: then, with all of it, anew.
_SUMMARY = (
    f"SELECT {', '.join(f'r.{name}' for name in BOOKS.split(', '))},"  # noqa: S608 - constants
    " (SELECT s.statement::text FROM bank_statements AS s WHERE s.tenant = r.tenant AND s.account = r.account"
    " AND s.number = r.statements), a.sequence,"
    " CASE r.ledger_sequence WHEN 0 THEN 0 ELSE (SELECT e.balance_after FROM {entries} AS e WHERE e.tenant = r.tenant"
    " AND e.account = r.account AND e.sequence = r.ledger_sequence LIMIT 1) END,"
    " o.bank, o.bank_sum, o.ledger, o.ledger_sum, o.number, o.total"
    " FROM reconciliations AS r JOIN accounts AS a USING (tenant, account) CROSS JOIN LATERAL"
    " (SELECT count(*) FILTER (WHERE u.side = 2 AND NOT u.resolved) AS bank,"
    " coalesce(sum(u.amount) FILTER (WHERE u.side = 2 AND NOT u.resolved), 0) AS bank_sum,"
    " count(*) FILTER (WHERE u.side = 1 AND NOT u.resolved) AS ledger,"
    " coalesce(sum(u.amount) FILTER (WHERE u.side = 1 AND NOT u.resolved), 0) AS ledger_sum,"
    " count(*) FILTER (WHERE u.resolved) AS number, coalesce(sum(u.amount) FILTER (WHERE u.resolved), 0) AS total"
    " FROM unmatched_items AS u WHERE u.tenant = r.tenant AND u.account = r.account) AS o"
    " WHERE r.tenant = %s AND r.account = %s"
)

_NAMES = BOOKS.split(", ")
_REACHED, _BALANCE = _NAMES.index("ledger_sequence"), len(_NAMES) + 2
"""The places in a row of the sequence up to which entries are items, and of the balance after it."""


async def summary(conn: AsyncConnection, tenant: str, account: str) -> Summary | None:
    """How an account and its bank differ; None before the first statement. Raises ArchivedPeriodNotAttached."""
    rows = await fetch(conn, _SUMMARY.format(entries="entries"), (tenant, account))
    if not rows:
        return None
    if rows[0][_BALANCE] is None:
        (detached,) = await places.detached_of(conn, [(tenant, account)])
        rows = await fetch(conn, _SUMMARY.format(entries="all_steps"), (tenant, account))
        for one in detached if rows[0][_BALANCE] is None else ():
            if one.first_sequence <= rows[0][_REACHED] <= one.last_sequence:
                raise ArchivedPeriodNotAttached(one.period, f"accounts/{account} at entry {rows[0][_REACHED]}")
    *books_row, statement_id, last, balance, bank, bank_sum, ledger, ledger_sum, resolved, resolved_sum = rows[0]
    return Summary(
        *(Books(*books_row), statement_id, last, balance or 0),
        *((bank, int(bank_sum)), (ledger, int(ledger_sum)), (resolved, int(resolved_sum))),
    )
