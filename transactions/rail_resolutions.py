"""What people decide about exceptions of the rail: one proposes, another approves; all of it is audited."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import audit, clock
from meshkit.cipher import Cipher
from meshkit.errors import EtagMismatch, FourEyes
from meshkit.identity import Call
from transactions import deposit_store, errors, rail_errors, rail_store
from transactions.model import AccountType
from transactions.ports import Account
from transactions.rail_model import DepositState, ExceptionKind, ExceptionState, RailException


async def propose(
    conn: AsyncConnection,
    cipher: Cipher,
    call: Call,
    *,
    name: str,
    wanted: str,
    account: Account | None,
    reason: str,
    etag: str,
) -> RailException:
    """Says how an exception is to be resolved; `account` is what stands behind `wanted`, where that is not empty.

    Raises RailExceptionNotFound, RailExceptionStateWrong, EtagMismatch, RailResolutionWrong, AccountNotFound,
    AccountTypeWrong, CurrencyMismatch.
    """
    found = await _locked(conn, call, name, etag, ExceptionState.OPEN, ExceptionState.PROPOSED)
    needs_account = found.kind is ExceptionKind.DEPOSIT_SUSPENDED
    if needs_account != bool(wanted):
        raise rail_errors.RailResolutionWrong(name, needs_account=needs_account)
    if needs_account:
        if account is None:
            raise errors.AccountNotFound(wanted)
        if account.type is not AccountType.CUSTOMER:
            why = "a deposit is assigned to a customer account"
            raise errors.AccountTypeWrong(account.name, account.type, why)
        deposit = await deposit_store.get(conn, cipher, call.tenant, found.resource.removeprefix("deposits/"))
        if deposit is not None and account.currency != deposit.currency:
            raise errors.CurrencyMismatch(account.name, account.currency, deposit.currency)
    proposed = found.into(
        ExceptionState.PROPOSED,
        clock.now(),
        proposed_account=account.name if account is not None else "",
        proposed_reason=reason,
        proposed_by=call.who.subject,
        decided_by="",
    )
    await _save(conn, call, "propose_rail_resolution", found, proposed, why=reason)
    return proposed


async def approve(conn: AsyncConnection, cipher: Cipher, call: Call, *, name: str, etag: str) -> RailException:
    """Carries out what was proposed. Raises RailExceptionNotFound, RailExceptionStateWrong, EtagMismatch, FourEyes."""
    found = await _locked(conn, call, name, etag, ExceptionState.PROPOSED)
    if found.proposed_by == call.who.subject:
        raise FourEyes(name)
    moment, state = clock.now(), ExceptionState.RESOLVED
    if found.kind is ExceptionKind.DEPOSIT_SUSPENDED:
        state = ExceptionState.RESOLVING
        id_ = found.resource.removeprefix("deposits/")
        deposit = await deposit_store.get(conn, cipher, call.tenant, id_, lock=True)
        if deposit is None or deposit.state is not DepositState.SUSPENDED:
            raise RuntimeError(f"{name} is proposed, and {found.resource} is not suspended")
        await deposit_store.save(conn, deposit.into(DepositState.ASSIGNING, moment, target=found.proposed_account))
    approved = found.into(state, moment, decided_by=call.who.subject)
    await _save(conn, call, "approve_rail_resolution", found, approved)
    return approved


async def reject(conn: AsyncConnection, call: Call, *, name: str, reason: str, etag: str) -> RailException:
    """Drops what was proposed. Raises RailExceptionNotFound, RailExceptionStateWrong, EtagMismatch."""
    found = await _locked(conn, call, name, etag, ExceptionState.PROPOSED)
    rejected = found.into(ExceptionState.OPEN, clock.now(), decided_by=call.who.subject)
    await _save(conn, call, "reject_rail_resolution", found, rejected, why=reason)
    return rejected


async def get(conn: AsyncConnection, call: Call, name: str, *, lock: bool = False) -> RailException:
    """One exception. Raises RailExceptionNotFound."""
    found = await rail_store.get_exception(conn, call.tenant, name.removeprefix("railExceptions/"), lock=lock)
    if found is None:
        raise rail_errors.RailExceptionNotFound(name)
    return found


async def _locked(conn: AsyncConnection, call: Call, name: str, etag: str, *states: ExceptionState) -> RailException:
    found = await get(conn, call, name, lock=True)
    if found.state not in states:
        raise rail_errors.RailExceptionStateWrong(name, found.state, " or ".join(states))
    if etag and etag != str(found.version):
        raise EtagMismatch(str(found.version))
    return found


async def _save(
    conn: AsyncConnection, call: Call, action: str, before: RailException, after: RailException, *, why: str = ""
) -> None:
    await rail_store.save_exception(conn, after)
    await audit.record(
        conn,
        call,
        action=action,
        resource=after.name,
        before={"state": before.state},
        after={"state": after.state, "resource": after.resource, "account": after.proposed_account},
        why=why,
    )
