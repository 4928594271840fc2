"""How accounts are changed other than by postings: locked, compared with what was read, written with audit, told."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import errors, events, store
from accounts.model import Account
from meshkit import audit, clock, outbox
from meshkit.errors import EtagMismatch
from meshkit.identity import Call


def last_part(name: str) -> str:
    """The id in a resource name."""
    return name.rpartition("/")[2]


def check_etag(etag: str, version: int) -> None:
    """What was read must not have changed since. Raises EtagMismatch."""
    if etag and etag != str(version):
        raise EtagMismatch(str(version))


async def locked_account(conn: AsyncConnection, call: Call, name: str) -> Account:
    """The account, locked until the transaction ends. Raises AccountNotFound."""
    found = await store.accounts(conn, call.tenant, [last_part(name)], lock=True)
    if not found or name != f"accounts/{found[0].id}":
        raise errors.AccountNotFound(name)
    return found[0]


async def save(
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
        before=audited(before),
        after=audited(changed),
        why=why,
    )
    await outbox.append(conn, [events.account_updated(changed)])
    return changed


def audited(account: Account) -> dict[str, object]:
    """What an audit row says of an account."""
    return {
        "state": account.state.name,
        "overdraft_limit_minor_units": account.balance.overdraft_limit,
        "minimum_balance_minor_units": account.balance.minimum,
        "debits_blocked": account.debit_block_reason != "",
        "credits_blocked": account.credit_block_reason != "",
        "display_name": account.display_name,
    }
