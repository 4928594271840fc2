"""What the service does with statements: one function, one use case, one database transaction."""

from __future__ import annotations

import uuid
from datetime import date, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import errors, events, moments, moments_store, statement_errors, statement_store, statements, store
from accounts.account_changes import last_part
from accounts.model import Account
from accounts.moments import AsOf, Axis, PastBalance
from accounts.operations import customer_of
from accounts.statements import LAYOUT, Statement
from meshkit import audit, clock, idempotency, outbox
from meshkit.errors import RequestIdReused
from meshkit.identity import Call

_MICROSECOND = timedelta(microseconds=1)


async def create_statement(
    conn: AsyncConnection, call: Call, *, account: str, first: date, last: date, entries_max: int
) -> Statement:
    """Issues a statement. Raises AccountNotFound, ClockAhead, StatementPeriodOpen, StatementTooLarge.

    The account's row is locked: batches under way are waited for, and those to come find the end of the period as the
    time before which nothing is recorded any more. So the period's entries are all there, and its numbers have no gap.
    """
    found = await store.accounts(conn, call.tenant, [last_part(account)], lock=True, customer=customer_of(call))
    if not found:
        raise errors.AccountNotFound(account)
    asked = clock.now()
    display_name, time_zone, database_time = await statement_store.tenant(conn, call.tenant)
    moments.check_clock(asked, database_time)
    period, now = statements.period(first, last, time_zone), clock.now()
    if period.end_time > now:
        raise statement_errors.StatementPeriodOpen(found[0].id, period.end_time.isoformat())
    opening, closing = await _balances(conn, found[0], period)
    if closing.sequence - opening.sequence > entries_max:
        raise statement_errors.StatementTooLarge(found[0].id, closing.sequence - opening.sequence, entries_max)
    statement = Statement(
        tenant=call.tenant,
        id=idempotency.derive_id(call),
        account=found[0].id,
        number=await statement_store.last_number(conn, call.tenant, found[0].id) + 1,
        period=period,
        currency=closing.currency,
        opening=opening.posted,
        closing=closing.posted,
        opening_sequence=opening.sequence,
        closing_sequence=closing.sequence,
        identifier=_identifier(found[0]),
        issuer=display_name,
        layout=LAYOUT,
        create_time=now,
    )
    if not await statement_store.add(conn, statement):
        return await _issued(conn, statement)
    await statement_store.seal(conn, statement)
    await audit.record(
        conn, call, action="create_statement", resource=statement.name, before=None, after=_audited(statement)
    )
    await outbox.append(conn, [events.statement_issued(statement, found[0].owners)])
    return statement


async def get_statement(conn: AsyncConnection, call: Call, name: str) -> Statement:
    """A statement; a customer sees those of own accounts alone. Raises StatementNotFound."""
    try:
        wanted = str(uuid.UUID(last_part(name)))
    except ValueError:
        raise statement_errors.StatementNotFound(name) from None
    found = await statement_store.statement(conn, call.tenant, wanted, customer=customer_of(call))
    if found is None or found.name != name:
        raise statement_errors.StatementNotFound(name)
    return found


async def _balances(
    conn: AsyncConnection, account: Account, period: statements.Period
) -> tuple[PastBalance, PastBalance]:
    """What stood before the period and after it. A moment itself is in what is as of it, so each is one before."""
    keys = [
        (account.tenant, account.id, None, AsOf(Axis.RECORDED, moment - _MICROSECOND))
        for moment in (period.start_time, period.end_time)
    ]
    opening, closing = await moments_store.balances(conn, keys)
    if opening is None or closing is None:
        raise errors.AccountNotFound(f"accounts/{account.id}")
    return opening, closing


async def _issued(conn: AsyncConnection, again: Statement) -> Statement:
    """The statement that the same request_id made, though its record was purged. Raises RequestIdReused."""
    issued = await statement_store.statement(conn, again.tenant, again.id, customer=None)
    if issued is None or (issued.account, issued.period) != (again.account, again.period):
        raise RequestIdReused(again.name)
    return issued


def _identifier(account: Account) -> str:
    """What people outside call an account: its IBAN before any other."""
    told = sorted(f"{identifier.kind}:{identifier.value}" for identifier in account.identifiers)
    return told[0] if told else ""


def _audited(statement: Statement) -> dict[str, object]:
    return {
        "account": f"accounts/{statement.account}",
        "number": statement.number,
        "period_start": statement.period.first.isoformat(),
        "period_end": statement.period.last.isoformat(),
    }
