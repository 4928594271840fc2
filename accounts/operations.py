"""What the service does with tenants, customers and accounts: one function, one use case, one database transaction.

Every function takes the connection of a transaction that the kit opened; none awaits another service.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import errors, events, moments, moments_store, store
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
    Tenant,
    opening_state,
    without_balances,
)
from accounts.moments import AsOf, Axis
from meshkit import audit, clock, idempotency, outbox
from meshkit.cipher import Cipher
from meshkit.errors import EtagMismatch
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
    _check_etag(etag, customer.version)
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
) -> Account:
    """Opens an account. Raises AccountExists, CustomerNotFound, CustomerRejected, IdentifierTaken."""
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
        balance=Balance(currency, 0, 0, overdraft_limit, 0),
        freeze_reason="",
        version=1,
        create_time=now,
        update_time=now,
        owners=tuple(sorted(owners)),
        identifiers=tuple(dict.fromkeys(identifiers)),
    )
    if not await store.add_account(conn, account):
        raise errors.AccountExists(chosen)
    taken = await store.add_identifiers(conn, account)
    if taken:
        raise errors.IdentifierTaken(taken[0])
    await audit.record(
        conn, call, action="create_account", resource=f"accounts/{account.id}", before=None, after=_audited(account)
    )
    await outbox.append(conn, [events.account_opened(account)])
    return account


async def get_account(conn: AsyncConnection, call: Call, name: str) -> Account:
    """An account with its balance; a customer sees own ones alone. Raises AccountNotFound."""
    found = await store.accounts(conn, call.tenant, [last_part(name)], customer=customer_of(call))
    if not found:
        raise errors.AccountNotFound(name)
    return found[0]


async def recorded_by(conn: AsyncConnection, call: Call, name: str, as_of: AsOf | None) -> int:
    """The sequence of the last of an account's entries recorded by a moment, or by now. Raises AccountNotFound,
    AsOfFuture."""
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
    """Entries as of a moment, or all, with sequences below `before`; `recorded` is what `recorded_by` gave."""
    account = last_part(name)
    if as_of is not None and as_of.axis is Axis.EFFECTIVE:
        return await moments_store.entries_effective_by(
            conn, call.tenant, account, as_of, recorded=recorded, before=before, limit=limit
        )
    if as_of is not None:
        before = min(before, recorded + 1)
    return await store.list_entries(conn, call.tenant, account, before=before, limit=limit)


async def get_journal(conn: AsyncConnection, call: Call, name: str) -> Journal:
    """A journal; a customer sees those that touch own accounts, and balances of these. Raises JournalNotFound."""
    journal = await store.journal(conn, call.tenant, last_part(name))
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
    conn: AsyncConnection, call: Call, *, name: str, etag: str, display_name: str | None, overdraft_limit: int | None
) -> Account:
    """Changes what is not None. Raises AccountNotFound, EtagMismatch, AccountClosed, AccountTypeWrong, OverdraftInUse.

    `overdraft_limit` is in minor units.
    """
    account = await _locked_account(conn, call, name)
    _check_etag(etag, account.version)
    if account.state is AccountState.CLOSED:
        raise errors.AccountClosed(account.id)
    balance = account.balance
    if overdraft_limit is not None and overdraft_limit != balance.overdraft_limit:
        if account.type is not AccountType.CUSTOMER:
            raise errors.AccountTypeWrong(account.id, account.type, "only customer accounts have an overdraft limit")
        balance = replace(balance, overdraft_limit=overdraft_limit)
        if balance.available < 0:
            raise errors.OverdraftInUse(account.id, account.balance)
    changed = replace(account, balance=balance)
    if display_name is not None:
        changed = replace(changed, display_name=display_name)
    return await _save(conn, call, "update_account", account, changed)


async def freeze_account(conn: AsyncConnection, call: Call, *, name: str, why: str) -> Account:
    """Stops debits and credits. Raises AccountNotFound, AccountClosed, AccountPending."""
    account = await _locked_account(conn, call, name)
    if account.state is AccountState.FROZEN:
        return account
    _check_open(account)
    frozen = replace(account, state=AccountState.FROZEN, freeze_reason=why)
    return await _save(conn, call, "freeze_account", account, frozen, why=why)


async def unfreeze_account(conn: AsyncConnection, call: Call, *, name: str, why: str) -> Account:
    """Lets debits and credits go on. Raises AccountNotFound, AccountClosed, AccountPending."""
    account = await _locked_account(conn, call, name)
    if account.state is AccountState.ACTIVE:
        return account
    _check_open(account)
    active = replace(account, state=AccountState.ACTIVE, freeze_reason="")
    return await _save(conn, call, "unfreeze_account", account, active, why=why)


async def close_account(conn: AsyncConnection, call: Call, *, name: str) -> Account:
    """Closes an account at zero. Raises AccountNotFound, AccountFrozen, AccountHasHolds, AccountNotEmpty."""
    account = await _locked_account(conn, call, name)
    if account.state is AccountState.CLOSED:
        return account
    if account.state is AccountState.FROZEN:
        raise errors.AccountFrozen(account.id)
    if account.balance.held:
        raise errors.AccountHasHolds(account.id, account.balance)
    if account.balance.posted:
        raise errors.AccountNotEmpty(account.id, account.balance)
    return await _save(conn, call, "close_account", account, replace(account, state=AccountState.CLOSED))


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


def last_part(name: str) -> str:
    """The id in a resource name."""
    return name.rpartition("/")[2]


def customer_of(call: Call) -> str | None:
    """The id of the customer that the token is bound to; None for staff."""
    return None if call.who.customer is None else last_part(call.who.customer)


async def _locked_account(conn: AsyncConnection, call: Call, name: str) -> Account:
    found = await store.accounts(conn, call.tenant, [last_part(name)], lock=True)
    if not found or name != f"accounts/{found[0].id}":
        raise errors.AccountNotFound(name)
    return found[0]


def _check_open(account: Account) -> None:
    if account.state is AccountState.CLOSED:
        raise errors.AccountClosed(account.id)
    if account.state is AccountState.PENDING:
        raise errors.AccountPending(account.id)


def _check_etag(etag: str, version: int) -> None:
    if etag and etag != str(version):
        raise EtagMismatch(str(version))


async def _save(
    conn: AsyncConnection, call: Call, action: str, before: Account, after: Account, *, why: str = ""
) -> Account:
    """Writes a change with its audit row and its event; a change that changes nothing is none."""
    if after == before:
        return before
    changed = replace(after, version=before.version + 1, update_time=clock.now())
    await store.save_accounts(conn, [changed])
    await audit.record(
        conn,
        call,
        action=action,
        resource=f"accounts/{before.id}",
        before=_audited(before),
        after=_audited(changed),
        why=why,
    )
    await outbox.append(conn, [events.account_updated(changed)])
    return changed


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


def _audited(account: Account) -> dict[str, object]:
    return {
        "state": account.state.name,
        "overdraft_limit_minor_units": account.balance.overdraft_limit,
        "display_name": account.display_name,
    }
