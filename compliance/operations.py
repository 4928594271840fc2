"""What people do with compliance: one function is one use case in the transaction it is given; no screening here."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from compliance import case_store, events, kyc_store, policy_store, screening_store
from compliance.countries import CODES
from compliance.errors import (
    CaseNotFound,
    CaseResolved,
    CustomerNotFound,
    DecisionNotFound,
    FourEyes,
    KycDecided,
    KycProfileNotFound,
    LimitNotFound,
    RuleNotFound,
)
from compliance.model import (
    Case,
    CaseState,
    Decision,
    KycProfile,
    KycState,
    Limit,
    LimitKind,
    ListedName,
    Outcome,
    Rule,
    Watchlist,
)
from meshkit import audit, clock, outbox
from meshkit.cipher import Cipher
from meshkit.errors import EtagMismatch, RequestInvalid
from meshkit.identity import Call


@dataclass(frozen=True, slots=True)
class Submission:
    """An identity that is handed in."""

    customer: str
    legal_name: str
    country_code: str
    birth_date: str


def check_submission(submission: Submission) -> None:
    """What the contract's patterns cannot say. Raises RequestInvalid."""
    violations = []
    if submission.country_code not in CODES:
        violations.append(("country_code", "must be a code of ISO 3166-1 alpha-2"))
    if submission.birth_date and not _is_past_day(submission.birth_date):
        violations.append(("birth_date", "must be a day of the past"))
    if violations:
        raise RequestInvalid(violations)


def _is_past_day(text: str) -> bool:
    try:
        day = date.fromisoformat(text)
    except ValueError:  # the 30th of February
        return False
    return day <= clock.now().date()


def may_see_customer(call: Call, customer: str) -> bool:
    """Whether the caller may act for a customer (its id): staff for all, a customer for itself."""
    return call.who.customer is None or call.who.customer == f"customers/{customer}"


async def submit_kyc(
    conn: AsyncConnection, call: Call, cipher: Cipher, submission: Submission, watchlist_matches: Sequence[str]
) -> KycProfile:
    """Hands in an identity; one that waits for an officer is replaced. Raises CustomerNotFound, KycDecided."""
    customer, name = submission.customer, f"customers/{submission.customer}"
    if not may_see_customer(call, customer) or not await kyc_store.lock_customer(conn, call.tenant, customer):
        raise CustomerNotFound(name)
    before = await kyc_store.read_profile(conn, cipher, call.tenant, customer)
    if before is not None and before.state is KycState.VERIFIED:
        raise KycDecided(before.name, before.state.name)
    now = clock.now()
    after = KycProfile(
        tenant=call.tenant,
        customer=customer,
        legal_name=submission.legal_name,
        country_code=submission.country_code,
        birth_date=submission.birth_date,
        state=KycState.SUBMITTED,
        watchlist_matches=tuple(watchlist_matches),
        submitted_by=call.who.subject,
        decided_by="",
        reason="",
        version=before.version + 1 if before else 1,
        create_time=before.create_time if before else now,
        update_time=now,
    )
    await _save_profile(conn, call, cipher, before, after, "kyc.submit")
    return after


async def get_kyc_profile(conn: AsyncConnection, call: Call, cipher: Cipher, customer: str) -> KycProfile:
    """A profile that the caller may see. Raises KycProfileNotFound."""
    found = await kyc_store.read_profile(conn, cipher, call.tenant, customer)
    if found is None or not may_see_customer(call, customer):
        raise KycProfileNotFound(f"kycProfiles/{customer}")
    return found


async def verify_customer(
    conn: AsyncConnection, call: Call, cipher: Cipher, customer: str, *, etag: str = ""
) -> KycProfile:
    """Accepts a submitted identity. Raises KycProfileNotFound, KycDecided, EtagMismatch, FourEyes."""
    return await _decide_kyc(conn, call, cipher, customer, KycState.VERIFIED, "", etag)


async def reject_customer(
    conn: AsyncConnection, call: Call, cipher: Cipher, customer: str, why: str, *, etag: str = ""
) -> KycProfile:
    """Refuses a submitted identity. Raises KycProfileNotFound, KycDecided, EtagMismatch, FourEyes."""
    return await _decide_kyc(conn, call, cipher, customer, KycState.REJECTED, why, etag)


async def _decide_kyc(
    conn: AsyncConnection, call: Call, cipher: Cipher, customer: str, state: KycState, why: str, etag: str
) -> KycProfile:
    name = f"kycProfiles/{customer}"
    await kyc_store.lock_customer(conn, call.tenant, customer)
    before = await kyc_store.read_profile(conn, cipher, call.tenant, customer, lock=True)
    if before is None:
        raise KycProfileNotFound(name)
    if before.state is not KycState.SUBMITTED:
        raise KycDecided(name, before.state.name)
    if etag and etag != before.etag:
        raise EtagMismatch(before.etag)  # submitted anew since it was looked at
    if before.submitted_by == call.who.subject:
        raise FourEyes(name)
    after = replace(
        before,
        state=state,
        decided_by=call.who.subject,
        reason=why,
        version=before.version + 1,
        update_time=clock.now(),
    )
    await _save_profile(conn, call, cipher, before, after, f"kyc.{state.name.lower()}", why)
    return after


async def _save_profile(
    conn: AsyncConnection,
    call: Call,
    cipher: Cipher,
    before: KycProfile | None,
    after: KycProfile,
    action: str,
    why: str = "",
) -> None:
    await kyc_store.save_profile(conn, cipher, after)
    await outbox.append(conn, [events.kyc_changed(after)])
    await audit.record(
        conn, call, action=action, resource=after.name, before=_kyc_facts(before), after=_kyc_facts(after), why=why
    )


def _kyc_facts(profile: KycProfile | None) -> Mapping[str, object] | None:
    """What an audit row may hold of a profile: no personal data."""
    if profile is None:
        return None
    return {
        "state": profile.state.name,
        "country_code": profile.country_code,
        "version": profile.version,
        "submitted_by": profile.submitted_by,
        "matches": [match.split(" ", 1)[0] for match in profile.watchlist_matches],
    }


async def set_limit(
    conn: AsyncConnection, call: Call, kind: LimitKind, currency: str, customer: str, maximum: int
) -> Limit:
    """Sets a limit (minor units); `customer` is an id, empty for the tenant's default."""
    before = await policy_store.lock_limit(conn, call.tenant, kind, currency, customer)
    after = Limit(
        tenant=call.tenant,
        kind=kind,
        currency=currency,
        customer=customer,
        maximum=maximum,
        version=before.version + 1 if before else 1,
        update_time=clock.now(),
        updated_by=call.who.subject,
    )
    await policy_store.save_limit(conn, after)
    await outbox.append(conn, [events.limit_changed(after)])
    await audit.record(
        conn,
        call,
        action="limit.set",
        resource=after.name,
        before={"maximum": before.maximum} if before else None,
        after={"maximum": after.maximum},
    )
    return after


async def get_limit(conn: AsyncConnection, call: Call, name: str) -> Limit:
    """A limit. Raises LimitNotFound."""
    found = await policy_store.read_limit(conn, call.tenant, name.removeprefix("limits/"))
    if found is None:
        raise LimitNotFound(name)
    return found


async def set_rule(
    conn: AsyncConnection,
    call: Call,
    rule_id: str,
    *,
    expression: str,
    outcome: Outcome,
    enabled: bool,
    description: str,
) -> Rule:
    """A new version of a rule; the expression has been validated."""
    before = await policy_store.read_rule(conn, call.tenant, rule_id)
    after = Rule(
        tenant=call.tenant,
        id=rule_id,
        version=await policy_store.next_rule_version(conn, call.tenant, rule_id),
        expression=expression,
        outcome=outcome,
        enabled=enabled,
        description=description,
        update_time=clock.now(),
        updated_by=call.who.subject,
    )
    await policy_store.add_rule_version(conn, after)
    await outbox.append(conn, [events.rule_changed(after)])
    await audit.record(
        conn,
        call,
        action="rule.set",
        resource=after.name,
        before=_rule_facts(before) if before else None,
        after=_rule_facts(after),
    )
    return after


def _rule_facts(rule: Rule) -> Mapping[str, object]:
    return {
        "version": rule.version,
        "expression": rule.expression,
        "outcome": rule.outcome.name,
        "enabled": rule.enabled,
    }


async def get_rule(conn: AsyncConnection, call: Call, name: str) -> Rule:
    """A rule in its present version. Raises RuleNotFound."""
    found = await policy_store.read_rule(conn, call.tenant, name.removeprefix("rules/"))
    if found is None:
        raise RuleNotFound(name)
    return found


async def import_watchlist(
    conn: AsyncConnection, call: Call, watchlist_id: str, *, entry_count: int, names: Sequence[ListedName], sha256: str
) -> Watchlist:
    """Makes the names the list's next version; the same files as the present version's change nothing."""
    before = await policy_store.lock_watchlist(conn, call.tenant, watchlist_id)
    if before is not None and before.sha256 == sha256:
        return before
    after = Watchlist(
        tenant=call.tenant,
        id=watchlist_id,
        version=before.version + 1 if before else 1,
        entry_count=entry_count,
        name_count=len(names),
        sha256=sha256,
        import_time=clock.now(),
    )
    await policy_store.add_watchlist_version(conn, after, names, call.who.subject)
    await outbox.append(conn, [events.watchlist_imported(after)])
    await audit.record(
        conn,
        call,
        action="watchlist.import",
        resource=after.name,
        before={"version": before.version, "sha256": before.sha256} if before else None,
        after={"version": after.version, "sha256": sha256, "entries": entry_count, "names": len(names)},
    )
    return after


async def get_decision(conn: AsyncConnection, call: Call, name: str) -> Decision:
    """A decision with its trace. Raises DecisionNotFound."""
    key = _uuid_in(name)
    found = None if key is None else await screening_store.read_decision(conn, call.tenant, key)
    if found is None:
        raise DecisionNotFound(name)
    return found


async def get_case(conn: AsyncConnection, call: Call, cipher: Cipher, name: str, *, lock: bool = False) -> Case:
    """A case. Raises CaseNotFound."""
    case_id = _uuid_in(name)
    found = None if case_id is None else await case_store.read(conn, cipher, call.tenant, case_id, lock=lock)
    if found is None:
        raise CaseNotFound(name)
    return found


async def resolve_case(
    conn: AsyncConnection, call: Call, cipher: Cipher, name: str, *, approve: bool, why: str, freeze_account: bool
) -> Case:
    """Approves or rejects the payment of an open case. Raises CaseNotFound, CaseResolved, FourEyes."""
    before = await get_case(conn, call, cipher, name, lock=True)
    if before.state is not CaseState.OPEN:
        raise CaseResolved(name, before.state.name)
    if before.requested_by == call.who.subject:
        raise FourEyes(name)
    after = replace(
        before,
        state=CaseState.APPROVED if approve else CaseState.REJECTED,
        resolved_by=call.who.subject,
        reason=why,
        version=before.version + 1,
        resolve_time=clock.now(),
    )
    await case_store.save_resolution(conn, after)
    await outbox.append(conn, [events.case_resolved(after, freeze_account=freeze_account)])
    await audit.record(
        conn,
        call,
        action=f"case.{after.state.name.lower()}",
        resource=name,
        before={"state": before.state.name},
        after={"state": after.state.name, "transfer": after.transfer, "freeze_account": freeze_account},
        why=why,
    )
    return after


async def expire_cases(conn: AsyncConnection, cipher: Cipher, now: datetime, *, limit: int) -> int:
    """Ends open cases whose time has passed, of all tenants the transaction sees; gives their number."""
    expired = await case_store.expire(conn, cipher, now, limit=limit)
    await outbox.append(conn, [events.case_resolved(case) for case in expired])
    return len(expired)


def _uuid_in(name: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(name.partition("/")[2])
    except ValueError:
        return None
