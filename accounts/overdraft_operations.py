"""What the service does with limits of accounts: overdrafts, those that wait for a second person, minimum balances.

One function, one use case, one database transaction; an account's row is locked before a change that waits on it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import account_changes, balance_errors, errors, events, overdraft_store, store
from accounts.model import Account, AccountState, AccountType, Balance
from accounts.overdrafts import ChangeState, OverdraftChange, Threshold, needs_second_person
from meshkit import audit, clock, idempotency, outbox
from meshkit.errors import EtagMismatch, FourEyes, TenantNotFound
from meshkit.identity import Call


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for an account's limits, in minor units; None is as it is."""

    overdraft_limit: int | None = None
    minimum: int | None = None
    minimum_currency: str = ""
    """The currency of the minimum as it was asked for; empty for the account's."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What a wish comes to: the balance with the limits that apply at once, and the overdraft limit that waits."""

    balance: Balance
    waiting: int | None


async def settle(conn: AsyncConnection, account: Account, wish: Wish) -> Settled:
    """What can be set at once of what is asked for, and what needs a second person; changes nothing.

    Raises AccountTypeWrong, CurrencyMismatch, MinimumBalanceWithOverdraft, OverdraftInUse, MinimumBalanceUncovered.
    """
    present = account.balance
    limit = present.overdraft_limit if wish.overdraft_limit is None else wish.overdraft_limit
    minimum = present.minimum if wish.minimum is None else wish.minimum
    if account.type is not AccountType.CUSTOMER:
        if limit != present.overdraft_limit:
            raise errors.AccountTypeWrong(account.id, account.type, "only customer accounts have an overdraft limit")
        if minimum != present.minimum:
            raise errors.AccountTypeWrong(account.id, account.type, "only customer accounts have a minimum balance")
    if wish.minimum_currency not in ("", account.currency):
        raise errors.CurrencyMismatch(account.id, account.currency, wish.minimum_currency)
    if limit and minimum:
        raise balance_errors.MinimumBalanceWithOverdraft(account.id, overdraft_limit=limit, minimum=minimum)
    waiting = None
    if limit > present.overdraft_limit:
        threshold = await overdraft_store.threshold(conn, account.tenant, account.currency)
        if needs_second_person(present.overdraft_limit, limit, None if threshold is None else threshold.amount):
            waiting, limit = limit, present.overdraft_limit
    after = replace(present, overdraft_limit=limit, minimum=minimum)
    if limit < present.overdraft_limit and present.posted - present.held + limit < 0:
        raise errors.OverdraftInUse(account.id, present)
    # Without a minimum nothing is to be covered: the bank's own accounts stand below zero.
    if minimum and after.available < 0:
        raise balance_errors.MinimumBalanceUncovered(account.id, present, minimum)
    return Settled(after, waiting)


async def request(
    conn: AsyncConnection, call: Call, account: Account, limit: int, *, approval_time: timedelta
) -> OverdraftChange:
    """Has a limit wait for a second person, on an account whose row is locked and on which nothing waits."""
    now = clock.now()
    change = OverdraftChange(
        tenant=call.tenant,
        # Not derived from the request: its record stands in this transaction, and is forgotten earlier than this row.
        id=str(idempotency.uuid7()),
        account=account.id,
        state=ChangeState.PENDING,
        currency=account.currency,
        previous_limit=account.balance.overdraft_limit,
        new_limit=limit,
        requested_by=call.who.subject,
        decided_by="",
        reason="",
        version=1,
        create_time=now,
        expire_time=now + approval_time,
        end_time=None,
    )
    await overdraft_store.add_change(conn, change)
    await audit.record(
        conn,
        call,
        action="request_overdraft_limit",
        resource=change.name,
        before={"account": f"accounts/{account.id}", "overdraft_limit_minor_units": change.previous_limit},
        after={"overdraft_limit_minor_units": limit, "expire_time": change.expire_time.isoformat()},
    )
    await outbox.append(conn, [events.overdraft_change_requested(change)])
    return change


async def supersede(conn: AsyncConnection, call: Call, account: Account) -> None:
    """Ends what waits on an account, whose row is locked, since what it was asked for is no longer so."""
    waiting = await overdraft_store.pending(conn, call.tenant, account.id)
    if waiting is None:
        return
    now = clock.now()
    expired = waiting.state_at(now) is ChangeState.EXPIRED
    ended = _ended(waiting, ChangeState.EXPIRED if expired else ChangeState.SUPERSEDED, now)
    await _save(conn, call, "supersede_overdraft_limit", waiting, ended)


async def approve_overdraft_change(
    conn: AsyncConnection, call: Call, *, name: str, etag: str
) -> tuple[OverdraftChange, Account]:
    """Applies a raise that waits. Raises OverdraftChangeNotFound, OverdraftChangeEnded, EtagMismatch, FourEyes."""
    found = await get_overdraft_change(conn, call, name)
    account = await account_changes.locked_account(conn, call, f"accounts/{found.account}")
    change = await _waiting(conn, call, name, etag)
    balance = account.balance
    if account.state is AccountState.CLOSED or balance.minimum or balance.overdraft_limit != change.previous_limit:
        # Whoever changes these ends what waits; a version that did not know that may have been at work.
        raise balance_errors.OverdraftChangeEnded(name, ChangeState.SUPERSEDED)
    if change.requested_by == call.who.subject:
        raise FourEyes(name)
    ended = _ended(change, ChangeState.APPLIED, clock.now(), decided_by=call.who.subject)
    await _save(conn, call, "approve_overdraft_limit", change, ended)
    raised = replace(account, balance=replace(balance, overdraft_limit=change.new_limit))
    raised = await account_changes.save(conn, call, "raise_overdraft_limit", account, raised, why=change.name)
    return ended, raised


async def reject_overdraft_change(
    conn: AsyncConnection, call: Call, *, name: str, etag: str, why: str
) -> OverdraftChange:
    """Ends a raise that waits. Raises OverdraftChangeNotFound, OverdraftChangeEnded, EtagMismatch."""
    change = await _waiting(conn, call, name, etag)
    ended = _ended(change, ChangeState.REJECTED, clock.now(), decided_by=call.who.subject, reason=why)
    await _save(conn, call, "reject_overdraft_limit", change, ended, why=why)
    return ended


async def get_overdraft_change(conn: AsyncConnection, call: Call, name: str, *, lock: bool = False) -> OverdraftChange:
    """A change by its name. Raises OverdraftChangeNotFound."""
    try:
        wanted = str(uuid.UUID(account_changes.last_part(name)))
    except ValueError:
        raise balance_errors.OverdraftChangeNotFound(name) from None
    found = await overdraft_store.change(conn, call.tenant, wanted, lock=lock)
    if found is None or found.name != name:
        raise balance_errors.OverdraftChangeNotFound(name)
    return found


async def expire_overdraft_changes(conn: AsyncConnection, now: datetime, *, limit: int) -> int:
    """Ends changes whose time is over, of all tenants that the transaction sees; gives their number."""
    overdue = await overdraft_store.overdue(conn, now, limit)
    ended = [_ended(change, ChangeState.EXPIRED, now) for change in overdue]
    for change in ended:
        await overdraft_store.save_change(conn, change)
    await outbox.append(conn, [events.overdraft_change_ended(change) for change in ended])
    return len(ended)


async def set_overdraft_threshold(
    conn: AsyncConnection, call: Call, *, currency: str, amount: int, etag: str
) -> Threshold:
    """Sets the highest limit in a currency that one person may set, in minor units.

    Raises TenantNotFound, EtagMismatch.
    """
    if not await store.tenant_exists(conn, call.tenant):
        raise TenantNotFound(call.tenant)
    first = Threshold(call.tenant, currency, amount, call.who.subject, 1, clock.now())
    if not etag and await overdraft_store.add_threshold(conn, first):
        await _threshold_changed(conn, call, None, first)
        return first
    before = await overdraft_store.threshold(conn, call.tenant, currency, lock=True)
    if before is None:
        raise EtagMismatch("")
    account_changes.check_etag(etag, before.version)
    if before.amount == amount:
        return before
    changed = replace(first, version=before.version + 1)
    await overdraft_store.save_threshold(conn, changed)
    await _threshold_changed(conn, call, before, changed)
    return changed


async def get_overdraft_threshold(conn: AsyncConnection, call: Call, name: str) -> Threshold:
    """A threshold by its name. Raises OverdraftThresholdNotFound."""
    found = await overdraft_store.threshold(conn, call.tenant, account_changes.last_part(name))
    if found is None:
        raise balance_errors.OverdraftThresholdNotFound(name)
    return found


async def _waiting(conn: AsyncConnection, call: Call, name: str, etag: str) -> OverdraftChange:
    """The change, locked, while it waits. Raises OverdraftChangeNotFound, OverdraftChangeEnded, EtagMismatch."""
    change = await get_overdraft_change(conn, call, name, lock=True)
    state = change.state_at(clock.now())
    if state is not ChangeState.PENDING:
        raise balance_errors.OverdraftChangeEnded(name, state)
    account_changes.check_etag(etag, change.version)
    return change


def _ended(
    change: OverdraftChange, state: ChangeState, now: datetime, *, decided_by: str = "", reason: str = ""
) -> OverdraftChange:
    return replace(change, state=state, decided_by=decided_by, reason=reason, version=change.version + 1, end_time=now)


async def _save(
    conn: AsyncConnection, call: Call, action: str, before: OverdraftChange, after: OverdraftChange, *, why: str = ""
) -> None:
    await overdraft_store.save_change(conn, after)
    await audit.record(
        conn,
        call,
        action=action,
        resource=after.name,
        before={"state": before.state.name},
        after={
            "state": after.state.name,
            "account": f"accounts/{after.account}",
            "overdraft_limit_minor_units": after.new_limit,
        },
        why=why,
    )
    await outbox.append(conn, [events.overdraft_change_ended(after)])


async def _threshold_changed(conn: AsyncConnection, call: Call, before: Threshold | None, after: Threshold) -> None:
    await audit.record(
        conn,
        call,
        action="set_overdraft_threshold",
        resource=after.name,
        before=None if before is None else {"threshold_minor_units": before.amount},
        after={"threshold_minor_units": after.amount},
    )
    await outbox.append(conn, [events.overdraft_threshold_changed(after)])
