"""SQL of tenants, customers and accounts; takes a connection, gives model objects.

It opens no transaction and decides nothing; what moves money is in ledger_store, what was moved in entry_store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts.model import (
    Account,
    AccountState,
    AccountType,
    Balance,
    Customer,
    Identifier,
    KycState,
    Tenant,
)
from meshkit.cipher import Cipher

_NAME_PURPOSE = "customers.display_name"
_CUSTOMER = "tenant, customer, display_name, kyc_state, version, create_time, update_time"
_ACCOUNT = """
    a.tenant, a.account, a.type, a.state, a.currency, a.display_name, a.posted, a.held, a.overdraft_limit, a.sequence,
    a.minimum_balance, a.freeze_reason, a.version, a.create_time, a.update_time,
    a.debit_block_reason, a.credit_block_reason,
    ARRAY(SELECT o.customer FROM account_owners AS o
          WHERE o.tenant = a.tenant AND o.account = a.account ORDER BY o.customer),
    ARRAY(SELECT i.kind || ':' || i.value FROM account_identifiers AS i
          WHERE i.tenant = a.tenant AND i.account = a.account ORDER BY i.kind, i.value)
"""


async def tenant_exists(conn: AsyncConnection, tenant: str) -> bool:
    """Whether the tenant was made."""
    found = await conn.execute(text("SELECT 1 FROM tenants WHERE tenant = :tenant"), {"tenant": tenant})
    return found.first() is not None


async def add_tenant(conn: AsyncConnection, tenant: Tenant) -> bool:
    """Adds a tenant; False if it is there. Lets the running transaction see the new tenant's rows too."""
    await conn.execute(
        text(
            "SELECT set_config('florin.tenants',"
            " concat_ws(',', current_setting('florin.tenants'), CAST(:tenant AS text)), true)"
        ),
        {"tenant": tenant.id},
    )
    added = await conn.execute(
        text(
            "INSERT INTO tenants (tenant, display_name, time_zone, create_time)"
            " VALUES (:tenant, :display_name, :time_zone, :create_time) ON CONFLICT DO NOTHING RETURNING 1"
        ),
        {
            "tenant": tenant.id,
            "display_name": tenant.display_name,
            "time_zone": tenant.time_zone,
            "create_time": tenant.create_time,
        },
    )
    return added.first() is not None


async def add_customer(conn: AsyncConnection, cipher: Cipher, customer: Customer) -> bool:
    """Adds a customer; False if the id is taken."""
    added = await conn.execute(
        text(
            f"INSERT INTO customers ({_CUSTOMER}) VALUES"  # noqa: S608 - the columns are a constant
            " (:tenant, :customer, :display_name, :kyc_state, :version, :time, :time)"
            " ON CONFLICT DO NOTHING RETURNING 1"
        ),
        {
            "tenant": customer.tenant,
            "customer": customer.id,
            "display_name": cipher.encrypt(customer.display_name, _NAME_PURPOSE),
            "kyc_state": customer.kyc_state.value,
            "version": customer.version,
            "time": customer.create_time,
        },
    )
    return added.first() is not None


async def customer(
    conn: AsyncConnection, cipher: Cipher, tenant: str, customer_id: str, *, lock: bool = False
) -> Customer | None:
    """One customer, locked for a change if asked."""
    found = await customers(conn, cipher, tenant, [customer_id], lock="FOR NO KEY UPDATE" if lock else "")
    return found[0] if found else None


async def customers(
    conn: AsyncConnection, cipher: Cipher, tenant: str, ids: Collection[str], *, lock: str = ""
) -> list[Customer]:
    """Those of the customers that exist, by id; `lock` is a locking clause, taken in that order."""
    rows = await conn.execute(
        text(
            f"SELECT {_CUSTOMER} FROM customers WHERE tenant = :tenant AND customer = ANY(:ids)"  # noqa: S608
            f" ORDER BY customer {lock}"
        ),
        {"tenant": tenant, "ids": list(ids)},
    )
    return [_to_customer(row, cipher) for row in rows]


async def list_customers(
    conn: AsyncConnection, cipher: Cipher, tenant: str, *, after: str, limit: int
) -> list[Customer]:
    """Customers by id, from behind `after` on."""
    rows = await conn.execute(
        text(
            f"SELECT {_CUSTOMER} FROM customers WHERE tenant = :tenant AND customer > :after"  # noqa: S608
            " ORDER BY customer LIMIT :limit"
        ),
        {"tenant": tenant, "after": after, "limit": limit},
    )
    return [_to_customer(row, cipher) for row in rows]


async def save_customer(conn: AsyncConnection, cipher: Cipher, customer: Customer) -> None:
    """Writes a customer that was read with a lock."""
    await conn.execute(
        text(
            "UPDATE customers SET display_name = :display_name, kyc_state = :kyc_state, version = :version,"
            " update_time = :update_time WHERE tenant = :tenant AND customer = :customer"
        ),
        {
            "tenant": customer.tenant,
            "customer": customer.id,
            "display_name": cipher.encrypt(customer.display_name, _NAME_PURPOSE),
            "kyc_state": customer.kyc_state.value,
            "version": customer.version,
            "update_time": customer.update_time,
        },
    )


async def add_account(conn: AsyncConnection, account: Account) -> bool:
    """Adds an account with its owners; False if the id is taken. Identifiers are added by `add_identifiers`."""
    added = await conn.execute(
        text(
            "INSERT INTO accounts (tenant, account, type, state, currency, display_name, overdraft_limit, version,"
            " create_time, update_time) VALUES (:tenant, :account, :type, :state, :currency, :display_name,"
            " :overdraft_limit, :version, :time, :time) ON CONFLICT DO NOTHING RETURNING 1"
        ),
        {
            "tenant": account.tenant,
            "account": account.id,
            "type": account.type.value,
            "state": account.state.value,
            "currency": account.currency,
            "display_name": account.display_name,
            "overdraft_limit": account.balance.overdraft_limit,
            "version": account.version,
            "time": account.create_time,
        },
    )
    if added.first() is None:
        return False
    await conn.execute(
        text("INSERT INTO account_owners SELECT :tenant, :account, unnest(CAST(:customers AS text[]))"),
        {"tenant": account.tenant, "account": account.id, "customers": list(account.owners)},
    )
    return True


async def add_identifiers(conn: AsyncConnection, account: Account) -> list[Identifier]:
    """Adds the account's identifiers, in sorted order; gives those that belong to another account."""
    wanted = sorted(account.identifiers, key=lambda identifier: (identifier.kind, identifier.value))
    rows = await conn.execute(
        text(
            "INSERT INTO account_identifiers (tenant, kind, value, account) SELECT :tenant, k.kind, k.value, :account"
            " FROM unnest(CAST(:kinds AS text[]), CAST(:values AS text[])) AS k(kind, value)"
            " ON CONFLICT DO NOTHING RETURNING kind, value"
        ),
        {
            "tenant": account.tenant,
            "account": account.id,
            "kinds": [identifier.kind for identifier in wanted],
            "values": [identifier.value for identifier in wanted],
        },
    )
    added = {Identifier(row.kind, row.value) for row in rows}
    return [identifier for identifier in wanted if identifier not in added]


async def accounts(
    conn: AsyncConnection, tenant: str, ids: Collection[str], *, lock: bool = False, customer: str | None = None
) -> list[Account]:
    """Those of the accounts that exist, and that the customer owns if one is given; locked in order if asked."""
    rows = await conn.execute(
        text(
            f"SELECT {_ACCOUNT} FROM accounts AS a WHERE a.tenant = :tenant AND a.account = ANY(:ids)"  # noqa: S608
            f" AND {_OWNED} ORDER BY a.account {'FOR NO KEY UPDATE OF a' if lock else ''}"
        ),
        {"tenant": tenant, "ids": list(ids), "customer": customer},
    )
    return [_to_account(row) for row in rows]


_OWNED = (
    "(CAST(:customer AS text) IS NULL OR EXISTS (SELECT 1 FROM account_owners AS x"
    " WHERE x.tenant = a.tenant AND x.account = a.account AND x.customer = :customer))"
)


async def list_accounts(
    conn: AsyncConnection, tenant: str, *, customer: str | None, after: str, limit: int
) -> list[Account]:
    """Accounts by id, from behind `after` on; of one customer if given."""
    rows = await conn.execute(
        text(
            f"SELECT {_ACCOUNT} FROM accounts AS a WHERE a.tenant = :tenant AND a.account > :after"  # noqa: S608
            f" AND {_OWNED} ORDER BY a.account LIMIT :limit"
        ),
        {"tenant": tenant, "customer": customer, "after": after, "limit": limit},
    )
    return [_to_account(row) for row in rows]


async def waiting_accounts(conn: AsyncConnection, tenant: str, customers_: Collection[str]) -> list[Account]:
    """PENDING accounts of the customers whose owners are all verified by now; locked in order."""
    # Locked before the owners are looked at: whoever verifies the other owner of one waits here, and then sees this
    # verdict. Each would otherwise find the other's owner unverified, and nobody would activate the account.
    locked = await conn.execute(
        text(
            "SELECT account FROM accounts WHERE tenant = :tenant AND state = 1"
            " AND account IN (SELECT o.account FROM account_owners AS o"
            " WHERE o.tenant = :tenant AND o.customer = ANY(:customers)) ORDER BY account FOR NO KEY UPDATE"
        ),
        {"tenant": tenant, "customers": list(customers_)},
    )
    rows = await conn.execute(
        text(
            f"SELECT {_ACCOUNT} FROM accounts AS a WHERE a.tenant = :tenant AND a.account = ANY(:accounts)"  # noqa: S608
            " AND NOT EXISTS (SELECT 1 FROM account_owners AS o JOIN customers AS c USING (tenant, customer)"
            " WHERE o.tenant = a.tenant AND o.account = a.account AND c.kyc_state <> 2) ORDER BY a.account"
        ),
        {"tenant": tenant, "accounts": [row.account for row in locked]},
    )
    return [_to_account(row) for row in rows]


async def save_accounts(conn: AsyncConnection, changed: Sequence[Account]) -> None:
    """Writes state and terms of accounts that were read with a lock; balances are the ledger's alone."""
    for account in changed:
        await conn.execute(
            text(
                "UPDATE accounts SET state = :state, display_name = :display_name, overdraft_limit = :overdraft_limit,"
                " minimum_balance = :minimum_balance, freeze_reason = :freeze_reason,"
                " debit_block_reason = :debit_block_reason, credit_block_reason = :credit_block_reason,"
                " version = :version, update_time = :update_time"
                " WHERE tenant = :tenant AND account = :account"
            ),
            {
                "tenant": account.tenant,
                "account": account.id,
                "state": account.state.value,
                "display_name": account.display_name,
                "overdraft_limit": account.balance.overdraft_limit,
                "minimum_balance": account.balance.minimum,
                "freeze_reason": account.freeze_reason,
                "debit_block_reason": account.debit_block_reason,
                "credit_block_reason": account.credit_block_reason,
                "version": account.version,
                "update_time": account.update_time,
            },
        )


async def balances(conn: AsyncConnection, wanted: Sequence[tuple[str, str, str | None]]) -> list[Balance | None]:
    """Balances of (tenant, account, customer or None for staff), in their order; None for absent and foreign ones."""
    rows = await conn.execute(
        text(
            "SELECT k.position, a.currency, a.posted, a.held, a.overdraft_limit, a.sequence,"
            " a.minimum_balance FROM"
            " unnest(CAST(:tenants AS text[]), CAST(:accounts AS text[]), CAST(:customers AS text[])) WITH ORDINALITY"
            " AS k(tenant, account, customer, position) JOIN accounts AS a USING (tenant, account)"
            " WHERE k.customer IS NULL OR EXISTS (SELECT 1 FROM account_owners AS o"
            " WHERE o.tenant = a.tenant AND o.account = a.account AND o.customer = k.customer)"
        ),
        {
            "tenants": [tenant for tenant, _, _ in wanted],
            "accounts": [account for _, account, _ in wanted],
            "customers": [customer for _, _, customer in wanted],
        },
    )
    found: list[Balance | None] = [None] * len(wanted)
    for position, *values in rows:
        found[position - 1] = Balance(*values)
    return found


async def owned_accounts(conn: AsyncConnection, tenant: str, customer: str, ids: Collection[str]) -> set[str]:
    """Those of the accounts that the customer owns."""
    rows = await conn.execute(
        text(
            "SELECT account FROM account_owners WHERE tenant = :tenant AND customer = :customer AND account = ANY(:ids)"
        ),
        {"tenant": tenant, "customer": customer, "ids": list(ids)},
    )
    return {row.account for row in rows}


def _to_customer(row: Any, cipher: Cipher) -> Customer:
    tenant, customer_id, display_name, kyc_state, version, create_time, update_time = row
    name = cipher.decrypt(display_name, _NAME_PURPOSE)
    return Customer(tenant, customer_id, name, KycState(kyc_state), version, create_time, update_time)


def _to_account(row: Any) -> Account:
    tenant, account_id, type_, state, currency, display_name, posted, held, overdraft_limit, sequence = row[:10]
    minimum, freeze_reason, version, create_time, update_time, debit_block, credit_block, owners, identifiers = row[10:]
    return Account(
        tenant=tenant,
        id=account_id,
        type=AccountType(type_),
        state=AccountState(state),
        currency=currency,
        display_name=display_name,
        balance=Balance(currency, posted, held, overdraft_limit, sequence, minimum),
        freeze_reason=freeze_reason,
        version=version,
        create_time=create_time,
        update_time=update_time,
        owners=tuple(owners),
        identifiers=tuple(Identifier(*identifier.split(":", 1)) for identifier in identifiers),
        debit_block_reason=debit_block,
        credit_block_reason=credit_block,
    )
