"""What the service does with freezes: the checker begins them, a person ends them.

One function, one use case, one database transaction, all under the tenant's lock.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import account_changes, events, freeze_errors, freeze_store, store
from accounts.freezes import FINDINGS_MAX, Finding, Freeze, FreezeState
from meshkit import audit, clock, idempotency, outbox
from meshkit.errors import TenantNotFound
from meshkit.identity import Call, Principal


async def freeze_ledger(
    conn: AsyncConnection, call: Call, tenant: str, currency: str, findings: Sequence[Finding], ended_freezes: int
) -> tuple[Freeze | None, int]:
    """Freezes a currency of a ledger, or adds findings to the freeze that stands; gives it, and how many were new.

    What a person accepted freezes nothing, nor does what a reading found that knew of `ended_freezes` alone, where more
    have ended: it may be put right by now. None where all is such. Raises TenantNotFound.
    """
    await freeze_store.lock(conn, tenant)
    if not await store.tenant_exists(conn, tenant):
        raise TenantNotFound(tenant)
    standing = await freeze_store.standing(conn, tenant, currency)
    if await freeze_store.ended_count(conn, tenant, currency) > ended_freezes:
        return standing, 0
    distinct = {one.id: one for one in findings}
    known = await freeze_store.known_findings(conn, tenant, list(distinct))
    fresh = [finding for id_, finding in distinct.items() if id_ not in known]
    if standing is not None:
        fresh = fresh[: FINDINGS_MAX - standing.finding_count]
    if not fresh:
        return standing, 0
    now = clock.now()
    frozen = (
        Freeze(
            tenant=tenant,
            id=str(idempotency.uuid7()),
            currency=currency,
            state=FreezeState.ACTIVE,
            reason=fresh[0].reason,
            finding_count=len(fresh),
            version=1,
            create_time=now,
            update_time=now,
        )
        if standing is None
        else replace(
            standing,
            finding_count=standing.finding_count + len(fresh),
            version=standing.version + 1,
            update_time=now,
        )
    )
    if standing is None:
        await freeze_store.add_freeze(conn, frozen)
        await outbox.append(conn, [events.ledger_frozen(frozen)])
    else:
        await freeze_store.save_freeze(conn, frozen)
        await outbox.append(conn, [events.ledger_findings_added(frozen)])
    await freeze_store.add_findings(conn, frozen.id, fresh)
    await audit.record(
        conn,
        _by_itself(call, tenant),
        action="freeze_ledger" if standing is None else "add_ledger_findings",
        resource=frozen.name,
        before=None if standing is None else _audited(standing),
        after=_audited(frozen),
        why=fresh[0].reason,
    )
    return frozen, len(fresh)


async def unfreeze_ledger(
    conn: AsyncConnection, call: Call, *, name: str, note: str, accept_findings: bool, etag: str
) -> Freeze:
    """Ends a freeze. Raises LedgerFreezeNotFound, LedgerFreezeEnded, EtagMismatch."""
    await freeze_store.lock(conn, call.tenant)
    present = await get_ledger_freeze(conn, call, name)
    if present.state is not FreezeState.ACTIVE:
        raise freeze_errors.LedgerFreezeEnded(name, present.ended_by)
    account_changes.check_etag(etag, present.version)
    now = clock.now()
    ended = replace(
        present,
        state=FreezeState.ENDED,
        version=present.version + 1,
        update_time=now,
        ended_by=call.who.subject,
        note=note,
        findings_accepted=accept_findings,
        end_time=now,
    )
    await freeze_store.save_freeze(conn, ended)
    await audit.record(
        conn,
        call,
        action="unfreeze_ledger",
        resource=name,
        before=_audited(present),
        after=_audited(ended),
        why=note,
    )
    await outbox.append(conn, [events.ledger_unfrozen(ended)])
    return ended


async def get_ledger_freeze(conn: AsyncConnection, call: Call, name: str) -> Freeze:
    """A freeze by its name. Raises LedgerFreezeNotFound."""
    try:
        wanted = str(uuid.UUID(account_changes.last_part(name)))
    except ValueError:
        raise freeze_errors.LedgerFreezeNotFound(name) from None
    found = await freeze_store.freeze(conn, call.tenant, wanted)
    if found is None or found.name != name:
        raise freeze_errors.LedgerFreezeNotFound(name)
    return found


def _by_itself(call: Call, tenant: str) -> Call:
    """An internal call has no person behind it: what it does stands in the audit under the name of the service."""
    service = Principal(tenant=tenant, subject=f"services/{call.caller}", customer=None, scopes=frozenset())
    return replace(call, principal=service)


def _audited(freeze: Freeze) -> dict[str, object]:
    return {
        "state": freeze.state.name,
        "currency_code": freeze.currency,
        "finding_count": freeze.finding_count,
        "findings_accepted": freeze.findings_accepted,
    }
