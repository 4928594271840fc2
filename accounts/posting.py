"""Ledger use cases: batches of steps, each batch one database transaction; funding; resolving references.

It awaits no other service, and answers a step that was done before from the store.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import errors, events, ledger, ledger_store, moments, outcomes, store
from accounts.book import Actor, Book, Expire, Held, Leg, Place, Post, Posted, Refused, Release, Step
from accounts.ledger_store import Facts, OutcomeRow, Wanted
from accounts.model import Identifier, JournalKind, account_id_in, identifier_in
from florin.accounts.v1 import ledger_service_pb2 as pb
from meshkit import audit, clock
from meshkit.database import Database, Raced, until_not_raced
from meshkit.errors import RecordedRefusal, RequestIdReused
from meshkit.idempotency import NAMESPACE
from meshkit.identity import Call

_KEY_CONSTRAINTS = frozenset({"inv_5_one_outcome_per_key", "journals_pk", "holds_pk"})


@dataclass(frozen=True, slots=True)
class Item:
    """A step on its way through a batch; `funding` is the call that asked, where it is audited."""

    step: Step
    funding: Call | None = None


async def apply_steps(db: Database, items: Sequence[Item]) -> list[pb.StepOutcome | BaseException]:
    """Applies a batch in one transaction and gives each item's outcome, or the refusal of its call alone."""
    tenants = {item.step.tenant for item in items}
    return await until_not_raced(_KEY_CONSTRAINTS, lambda: db.run(tenants, lambda conn: _apply(conn, items)))


async def preview_steps(db: Database, steps: Sequence[Step]) -> list[pb.StepOutcome]:
    """What the steps would come to now. Locks nothing, writes nothing and promises nothing."""

    async def work(conn: AsyncConnection) -> list[pb.StepOutcome]:
        book, _ = await _open_book(conn, steps, lock=False)
        return [outcomes.to_message(outcome) for outcome in ledger.apply(book, steps, clock.now())]

    return await db.run({step.tenant for step in steps}, work, read_only=True)


async def _apply(conn: AsyncConnection, items: Sequence[Item]) -> list[pb.StepOutcome | BaseException]:
    steps = [item.step for item in items]
    asked = clock.now()  # before the database is, so that waiting looks like no difference
    book, fingerprints = await _open_book(conn, steps, lock=True)
    moments.check_clock(asked, book.database_time)
    now = clock.now()
    results = ledger.apply(book, steps, now)
    fresh = {id(outcome): outcomes.to_message(outcome) for outcome in book.fresh}
    answers: list[pb.StepOutcome | BaseException] = []
    audited: list[tuple[Call, Post, Posted]] = []
    for item, result in zip(items, results, strict=True):
        place = (item.step.tenant, item.step.key)
        if item.funding is not None:
            known = fingerprints.get(place)
            if known is None:
                fingerprints[place] = item.funding.fingerprint
                if isinstance(result, Posted) and isinstance(item.step, Post):
                    audited.append((item.funding, item.step, result))
            elif known != item.funding.fingerprint:
                answers.append(RequestIdReused(f"journals/{ledger.journal_id(*place)}"))
                continue
        answers.append(fresh.get(id(result)) or outcomes.to_message(result))
    rows = [_row(outcome, fresh[id(outcome)], fingerprints) for outcome in book.fresh]
    await ledger_store.write_book(conn, book, rows, events.of_batch(book), now)
    for call, step, posted in audited:
        await _audit_funding(conn, call, step, posted)
    return answers


def _row(
    outcome: Posted | Held | Refused, message: pb.StepOutcome, fingerprints: dict[tuple[str, str], bytes]
) -> OutcomeRow:
    tenant = outcome.hold.tenant if isinstance(outcome, Held) else outcome.tenant
    return OutcomeRow(tenant, message.key, message.SerializeToString(), fingerprints.get((tenant, message.key)))


async def _open_book(
    conn: AsyncConnection, steps: Sequence[Step], *, lock: bool
) -> tuple[Book, dict[tuple[str, str], bytes]]:
    """Resolves references, locks the accounts, and reads what stands under the keys."""
    wanted = _wanted(steps)
    references = await _resolve(conn, wanted.references)
    wanted.accounts.update((tenant, account) for (tenant, _), account in references.items())
    wanted.accounts |= await ledger_store.hold_accounts(conn, wanted.released)
    book, fingerprints = await ledger_store.read_book(conn, wanted, references, lock=lock)
    for place in wanted.released:
        hold = book.holds.get(place)
        if hold is not None and (hold.tenant, hold.account) not in book.accounts:
            # It was placed after we had asked where it stands.
            raise Raced
    return book, fingerprints


def _wanted(steps: Sequence[Step]) -> Wanted:
    wanted = Wanted()
    for step in steps:
        place = (step.tenant, step.key)
        wanted.keys.add(place)
        if isinstance(step, Post):
            wanted.references.update((step.tenant, leg.reference) for leg in step.legs)
            if step.hold_key:
                wanted.holds.add((step.tenant, step.hold_key))
        else:
            wanted.holds.add(place)
        if isinstance(step, Place):
            wanted.references.add((step.tenant, step.reference))
        elif isinstance(step, Release | Expire):
            wanted.released.add(place)
    return wanted


async def _resolve(conn: AsyncConnection, references: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What each reference stands for; a name stands for its id, whether or not there is such an account."""
    resolved: dict[tuple[str, str], str] = {}
    identifiers: list[tuple[str, Identifier]] = []
    for tenant, reference in references:
        account = account_id_in(reference)
        if account is not None:
            resolved[tenant, reference] = account
        elif (identifier := identifier_in(reference)) is not None:
            identifiers.append((tenant, identifier))
    resolved.update(await ledger_store.resolve_identifiers(conn, identifiers))
    return resolved


async def resolve_accounts(db: Database, references: Sequence[tuple[str, str]]) -> list[Facts | None]:
    """What (tenant, reference) pairs stand for, in their order; None for none."""

    async def work(conn: AsyncConnection) -> list[Facts | None]:
        resolved = await _resolve(conn, set(references))
        known = await ledger_store.facts(conn, {(tenant, account) for (tenant, _), account in resolved.items()})
        return [known.get((pair[0], resolved.get(pair, ""))) for pair in references]

    return await db.run({tenant for tenant, _ in references}, work, read_only=True)


async def describe_account(db: Database, tenant: str, name: str) -> tuple[str, list[str]]:
    """The first IBAN of an account, empty where it has none, and its owners' names. Raises AccountNotFound."""

    async def work(conn: AsyncConnection) -> tuple[str, list[str]]:
        found = await store.accounts(conn, tenant, [name.removeprefix("accounts/")])
        if not found:
            raise errors.AccountNotFound(name)
        ibans = [identifier.value for identifier in found[0].identifiers if identifier.kind == "iban"]
        owners = await store.customers(conn, db.cipher, tenant, found[0].owners)
        return (ibans[0] if ibans else ""), [owner.display_name for owner in owners]

    return await db.run(tenant, work, read_only=True)


def funding_step(
    call: Call, *, account: str, settlement_account: str, currency: str, amount: int, reference: str
) -> Post:
    """The step of FundAccount: a settlement account is debited, `account` credited, in minor units.

    Its key comes from the request, so that the same request_id is the same step (INV-5).
    """
    scope = "\0".join([call.tenant, call.who.subject, call.method, call.request_id])
    return Post(
        tenant=call.tenant,
        key=str(uuid.uuid5(NAMESPACE, scope)),
        actor=Actor(customer=None, may_fund=True),
        kind=JournalKind.FUNDING,
        origin=f"funding/{reference}" if reference else "funding",
        legs=(Leg(settlement_account, currency, -amount), Leg(account, currency, amount)),
    )


async def _audit_funding(conn: AsyncConnection, call: Call, step: Post, posted: Posted) -> None:
    credit = posted.legs[-1]
    await audit.record(
        conn,
        call,
        action="fund_account",
        resource=f"accounts/{credit.account}",
        before={"posted_minor_units": credit.balance_after - credit.amount},
        after={
            "posted_minor_units": credit.balance_after,
            "currency_code": credit.currency,
            "journal": f"journals/{posted.journal}",
            "settlement_account": step.legs[0].reference,
        },
        why=step.origin,
    )


def touched(items: Sequence[Item], outcomes_: Sequence[pb.StepOutcome | BaseException]) -> set[tuple[str, str]]:
    """The (tenant, account) pairs that a batch may have changed."""
    found: set[tuple[str, str]] = set()
    for item, outcome in zip(items, outcomes_, strict=True):
        if isinstance(outcome, BaseException):
            continue
        names = outcome.journal.accounts if outcome.HasField("journal") else [outcome.hold.account]
        found.update((item.step.tenant, name.removeprefix("accounts/")) for name in names)
    return found


def journal_in(outcome: pb.StepOutcome) -> str:
    """The journal's name in an outcome. Raises the refusal that the outcome is."""
    if outcome.HasField("refusal"):
        raise RecordedRefusal(outcome.refusal)
    return outcome.journal.journal
