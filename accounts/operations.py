"""What the service does with tenants, customers and accounts: one function, one use case, one database transaction.

Every function takes the connection of a transaction that the kit opened; none awaits another service.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import entry_store, errors, events, journal_store, moments, moments_store, overdraft_operations, store
from accounts.account_changes import audited, check_etag, last_part, locked_account, save
from accounts.model import (
    Account,
    AccountState,
    AccountType,
    Balance,
    Customer,
    Entry,
    Identifier,
    Journal,
    KycState,
    PostingSide,
    Tenant,
    opening_state,
    without_balances,
)
from accounts.moments import AsOf, Axis
from accounts.overdraft_operations import Wish
from accounts.overdrafts import OverdraftChange
from meshkit import audit, clock, idempotency, outbox
from meshkit.cipher import Cipher
from meshkit.identity import Call


async def create_tenant(
    conn: AsyncConnection, call: Call, *, tenant_id: str, display_name: str, time_zone: str
) -> Tenant:
    """Makes a tenant. Raises TenantExists."""
    tenant = Tenant(tenant_id, display_name, time_zone, clock.now())
    if not await store.add_tenant(conn, tenant):
        raise errors.TenantExists(tenant_id)
    await audit.record(
        conn,
        call,
        action="create_tenant",
        resource=f"tenants/{tenant_id}",
        before=None,
        after={"time_zone": time_zone},
    )
    await outbox.append(conn, [events.tenant_created(tenant)])
    return tenant


async def create_customer(
    conn: AsyncConnection, cipher: Cipher, call: Call, *, customer_id: str, display_name: str
) -> Customer:
    """Records a customer, under the id that the caller chose or one of ours. Raises CustomerExists."""
    now = clock.now()
    customer = Customer(
        tenant=call.tenant,
        id=customer_id or idempotency.derive_id(call),
        display_name=display_name,
        kyc_state=KycState.PENDING,
        version=1,
        create_time=now,
        update_time=now,
    )
    if not await store.add_customer(conn, cipher, customer):
        raise errors.CustomerExists(customer.id)
    await _audit_customer(conn, call, "create_customer", None, customer)
    await outbox.append(conn, [events.customer_created(customer)])
    return customer


async def get_customer(conn: AsyncConnection, cipher: Cipher, call: Call, name: str) -> Customer:
    """A customer; a customer's token sees itself alone. Raises CustomerNotFound."""
    own = call.who.is_staff or call.who.customer == name
    customer = await store.customer(conn, cipher, call.tenant, last_part(name)) if own else None
    if customer is None:
        raise errors.CustomerNotFound(name)
    return customer


async def update_customer(
    conn: AsyncConnection, cipher: Cipher, call: Call, *, name: str, etag: str, display_name: str
) -> Customer:
    """Changes a customer's display name. Raises CustomerNotFound, EtagMismatch."""
    customer = await store.customer(conn, cipher, call.tenant, last_part(name), lock=True)
    if customer is None or name != f"customers/{customer.id}":
        raise errors.CustomerNotFound(name)
    check_etag(etag, customer.version)
    changed = replace(customer, display_name=display_name, version=customer.version + 1, update_time=clock.now())
    await store.save_customer(conn, cipher, changed)
    await _audit_customer(conn, call, "update_customer", customer, changed)
    await outbox.append(conn, [events.customer_updated(changed)])
    return changed


async def create_account(
    conn: AsyncConnection,
    cipher: Cipher,
    call: Call,
    *,
    account_id: str,
    owners: Collection[str],
    type_: AccountType,
    currency: str,
    identifiers: Sequence[Identifier],
    overdraft_limit: int,
    display_name: str,
    approval_time: timedelta,
) -> tuple[Account, OverdraftChange | None]:
    """Opens an account; gives it and the overdraft limit that waits for a second person, if one does.

    Raises AccountExists, CustomerNotFound, CustomerRejected, IdentifierTaken.
    """
    now = clock.now()
    chosen = account_id or idempotency.derive_id(call)
    if await store.accounts(conn, call.tenant, [chosen]):
        raise errors.AccountExists(chosen)
    # Shared locks: a verification that comes at the same time waits, and then finds this account.
    known = await store.customers(conn, cipher, call.tenant, owners, lock="FOR SHARE")
    missing = set(owners) - {customer.id for customer in known}
    if missing:
        raise errors.CustomerNotFound(f"customers/{min(missing)}")
    for customer in known:
        if customer.kyc_state is KycState.REJECTED:
            raise errors.CustomerRejected(customer.id)
    account = Account(
        tenant=call.tenant,
        id=chosen,
        type=type_,
        state=opening_state([customer.kyc_state for customer in known]),
        currency=currency,
        display_name=display_name,
        balance=Balance(currency, 0, 0, 0, 0),
        freeze_reason="",
        version=1,
        create_time=now,
        update_time=now,
        owners=tuple(sorted(owners)),
        identifiers=tuple(dict.fromkeys(identifiers)),
    )
    settled = await overdraft_operations.settle(conn, account, Wish(overdraft_limit))
    account = replace(account, balance=settled.balance)
    if not await store.add_account(conn, account):
        raise errors.AccountExists(chosen)
    taken = await store.add_identifiers(conn, account)
    if taken:
        raise errors.IdentifierTaken(taken[0])
    await audit.record(
        conn, call, action="create_account", resource=f"accounts/{account.id}", before=None, after=audited(account)
    )
    await outbox.append(conn, [events.account_opened(account)])
    return account, await _request(conn, call, account, settled.waiting, approval_time)


async def get_account(conn: AsyncConnection, call: Call, name: str) -> Account:
    """An account with its balance; a customer sees own ones alone. Raises AccountNotFound."""
    found = await store.accounts(conn, call.tenant, [last_part(name)], customer=customer_of(call))
    if not found:
        raise errors.AccountNotFound(name)
    return found[0]


async def recorded_by(conn: AsyncConnection, call: Call, name: str, as_of: AsOf | None) -> int:
    """The sequence of the last of an account's entries recorded by a moment, or by now. Raises AccountNotFound,
    ArchivedPeriodNotAttached, AsOfFuture."""
    if as_of is None:
        return (await get_account(conn, call, name)).balance.sequence
    account = last_part(name)
    found = await moments_store.sequence_at(conn, (call.tenant, account, customer_of(call), as_of))
    if found is None:
        raise errors.AccountNotFound(name)
    sequence, last = found
    moments.check(as_of, account, last_sequence=last, now=clock.now())
    return sequence


async def list_entries(
    conn: AsyncConnection, call: Call, name: str, as_of: AsOf | None, *, recorded: int, before: int, limit: int
) -> list[Entry]:
    """Entries as of a moment, or all, with sequences below `before`; `recorded` is what `recorded_by` gave.
    Raises ArchivedPeriodNotAttached."""
    account = last_part(name)
    if as_of is not None and as_of.axis is Axis.EFFECTIVE:
        return await moments_store.entries_effective_by(
            conn, call.tenant, account, as_of, recorded=recorded, before=before, limit=limit
        )
    if as_of is not None:
        before = min(before, recorded + 1)
    return await entry_store.list_entries(conn, call.tenant, account, before=before, limit=limit)


async def get_journal(conn: AsyncConnection, call: Call, name: str) -> Journal:
    """A journal; a customer sees those that touch own accounts, and balances of these. Raises JournalNotFound,
    ArchivedPeriodNotAttached."""
    journal = await journal_store.journal(conn, call.tenant, last_part(name))
    if journal is None:
        raise errors.JournalNotFound(name)
    customer = customer_of(call)
    if customer is None:
        return journal
    touched = {entry.account for entry in journal.entries}
    own = await store.owned_accounts(conn, call.tenant, customer, touched)
    if not own:
        raise errors.JournalNotFound(name)
    return without_balances(journal, own)


async def update_account(
    conn: AsyncConnection,
    call: Call,
    *,
    name: str,
    etag: str,
    display_name: str | None,
    wish: Wish,
    approval_time: timedelta,
) -> tuple[Account, OverdraftChange | None]:
    """Changes what is not None; gives the account and the overdraft limit that waits for a second person, if one does.

    Raises AccountNotFound, EtagMismatch, AccountClosed, and what `overdraft_operations.settle` raises.
    """
    account = await locked_account(conn, call, name)
    check_etag(etag, account.version)
    if account.state is AccountState.CLOSED:
        raise errors.AccountClosed(account.id)
    settled = await overdraft_operations.settle(conn, account, wish)
    if wish.overdraft_limit is not None or wish.minimum:
        await overdraft_operations.supersede(conn, call, account)
    changed = replace(account, balance=settled.balance)
    if display_name is not None:
        changed = replace(changed, display_name=display_name)
    saved = await save(conn, call, "update_account", account, changed)
    return saved, await _request(conn, call, saved, settled.waiting, approval_time)


async def _request(
    conn: AsyncConnection, call: Call, account: Account, limit: int | None, approval_time: timedelta
) -> OverdraftChange | None:
    if limit is None:
        return None
    return await overdraft_operations.request(conn, call, account, limit, approval_time=approval_time)


async def block_account(conn: AsyncConnection, call: Call, *, name: str, side: PostingSide, why: str) -> Account:
    """Stops an account's debits or its credits. Raises AccountNotFound, AccountClosed."""
    account = await locked_account(conn, call, name)
    if account.state is AccountState.CLOSED:
        raise errors.AccountClosed(account.id)
    if side is PostingSide.DEBIT:
        blocked = replace(account, debit_block_reason=account.debit_block_reason or why)
    else:
        blocked = replace(account, credit_block_reason=account.credit_block_reason or why)
    return await save(conn, call, f"block_{side.name.lower()}s", account, blocked, why=why)


async def unblock_account(conn: AsyncConnection, call: Call, *, name: str, side: PostingSide, why: str) -> Account:
    """Lets an account's debits or its credits go on. Raises AccountNotFound, AccountClosed."""
    account = await locked_account(conn, call, name)
    if account.state is AccountState.CLOSED:
        raise errors.AccountClosed(account.id)
    if side is PostingSide.DEBIT:
        free = replace(account, debit_block_reason="")
    else:
        free = replace(account, credit_block_reason="")
    return await save(conn, call, f"unblock_{side.name.lower()}s", account, free, why=why)


async def freeze_account(conn: AsyncConnection, call: Call, *, name: str, why: str) -> Account:
    """Stops debits and credits. Raises AccountNotFound, AccountClosed, AccountPending."""
    account = await locked_account(conn, call, name)
    if account.state is AccountState.FROZEN:
        return account
    _check_open(account)
    frozen = replace(account, state=AccountState.FROZEN, freeze_reason=why)
    return await save(conn, call, "freeze_account", account, frozen, why=why)


async def unfreeze_account(conn: AsyncConnection, call: Call, *, name: str, why: str) -> Account:
    """Lets debits and credits go on. Raises AccountNotFound, AccountClosed, AccountPending."""
    account = await locked_account(conn, call, name)
    if account.state is AccountState.ACTIVE:
        return account
    _check_open(account)
    active = replace(account, state=AccountState.ACTIVE, freeze_reason="")
    return await save(conn, call, "unfreeze_account", account, active, why=why)


async def close_account(conn: AsyncConnection, call: Call, *, name: str) -> Account:
    """Closes an account at zero. Raises AccountNotFound, AccountFrozen, AccountHasHolds, AccountNotEmpty."""
    account = await locked_account(conn, call, name)
    if account.state is AccountState.CLOSED:
        return account
    if account.state is AccountState.FROZEN:
        raise errors.AccountFrozen(account.id)
    if account.balance.held:
        raise errors.AccountHasHolds(account.id, account.balance)
    if account.balance.posted:
        raise errors.AccountNotEmpty(account.id, account.balance)
    await overdraft_operations.supersede(conn, call, account)
    return await save(conn, call, "close_account", account, replace(account, state=AccountState.CLOSED))


async def set_kyc_states(conn: AsyncConnection, cipher: Cipher, tenant: str, states: dict[str, KycState]) -> set[str]:
    """Follows compliance's verdicts on customers, and activates accounts that waited for them.

    Gives the ids of customers that do not exist.
    """
    now = clock.now()
    known = await store.customers(conn, cipher, tenant, states, lock="FOR NO KEY UPDATE")
    changed = [
        replace(customer, kyc_state=states[customer.id], version=customer.version + 1, update_time=now)
        for customer in known
        if customer.kyc_state is not states[customer.id]
    ]
    for customer in changed:
        await store.save_customer(conn, cipher, customer)
    verified = [customer.id for customer in changed if customer.kyc_state is KycState.VERIFIED]
    waiting = await store.waiting_accounts(conn, tenant, verified) if verified else []
    active = [
        replace(account, state=AccountState.ACTIVE, version=account.version + 1, update_time=now) for account in waiting
    ]
    await store.save_accounts(conn, active)
    await outbox.append(
        conn,
        [events.customer_updated(customer) for customer in changed]
        + [events.account_updated(account) for account in active],
    )
    return set(states) - {customer.id for customer in known}


async def freeze_for_case(conn: AsyncConnection, call: Call, *, account: str, why: str) -> bool:
    """Freezes an account because a case says so; False if it is not there, or is closed or pending."""
    try:
        await freeze_account(conn, call, name=account, why=why)
    except (errors.AccountNotFound, errors.AccountClosed, errors.AccountPending):
        return False
    return True


def customer_of(call: Call) -> str | None:
    """The id of the customer that the token is bound to; None for staff."""
    return None if call.who.customer is None else last_part(call.who.customer)


def _check_open(account: Account) -> None:
    if account.state is AccountState.CLOSED:
        raise errors.AccountClosed(account.id)
    if account.state is AccountState.PENDING:
        raise errors.AccountPending(account.id)


async def _audit_customer(
    conn: AsyncConnection, call: Call, action: str, before: Customer | None, after: Customer
) -> None:
    """Names are personal, so an audit row has versions in their place."""
    await audit.record(
        conn,
        call,
        action=action,
        resource=f"customers/{after.id}",
        before=None if before is None else {"version": before.version},
        after={"version": after.version},
    )
