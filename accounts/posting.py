"""Ledger use cases: batches of steps, each batch one database transaction; resolving references.

It awaits no other service, and answers a step that was done before from the store.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import errors, events, ledger, ledger_store, moments, orders, outcomes, store
from accounts.book import Book, Expire, Held, Place, Post, Posted, Refused, Release, Step
from accounts.ledger_store import Facts, OutcomeRow, Wanted
from accounts.model import Identifier, account_id_in, identifier_in
from accounts.orders import Item
from accounts.together import apply_together
from florin.accounts.v1 import ledger_service_pb2 as pb
from meshkit import audit, clock
from meshkit.database import Database, Raced, until_not_raced
from meshkit.errors import RecordedRefusal, RequestIdReused

_KEY_CONSTRAINTS = frozenset({"inv_5_one_outcome_per_key", "journals_pk", "holds_pk"})


async def apply_steps(
    db: Database, items: Sequence[Item], *, together: bool = False
) -> list[pb.StepOutcome | BaseException]:
    """Applies a batch in one transaction and gives each item's outcome, or the refusal of its call alone.

    `together` is for journals alone that stand or fall together; it raises RequestIdReused for the whole of them.
    """
    tenants = {item.step.tenant for item in items}
    return await until_not_raced(_KEY_CONSTRAINTS, lambda: db.run(tenants, lambda conn: _apply(conn, items, together)))


async def preview_steps(db: Database, steps: Sequence[Step]) -> list[pb.StepOutcome]:
    """What the steps would come to now. Locks nothing, writes nothing and promises nothing."""

    async def work(conn: AsyncConnection) -> list[pb.StepOutcome]:
        book, _ = await _open_book(conn, steps, lock=False)
        states = [_debit_state(book, step) for step in steps]
        answers = [outcomes.to_message(outcome) for outcome in ledger.apply(book, steps, clock.now())]
        for answer, state in zip(answers, states, strict=True):
            if state is not None and answer.HasField("journal"):
                answer.journal.debit_state.CopyFrom(state)
        return answers

    return await db.run({step.tenant for step in steps}, work, read_only=True)


def _debit_state(book: Book, step: Step) -> pb.StepOutcome.DebitState | None:
    """What a step like this one could expect of the account that its first leg is on."""
    account = book.account(step.tenant, step.legs[0].reference) if isinstance(step, Post) else None
    if account is None:
        return None
    return pb.StepOutcome.DebitState(version=account.sequence, available_minor_units=account.available)


async def _apply(conn: AsyncConnection, items: Sequence[Item], together: bool) -> list[pb.StepOutcome | BaseException]:
    steps = [item.step for item in items]
    asked = clock.now()  # before the database is, so that waiting looks like no difference
    book, fingerprints = await _open_book(conn, steps, lock=True)
    moments.check_clock(asked, book.database_time)
    now = clock.now()
    if together:
        _check_fingerprints(items, fingerprints)
        posts = [step for step in steps if isinstance(step, Post)]
        results = apply_together(book, posts, now, outcomes.refusal_reason)
    else:
        results = ledger.apply(book, steps, now)
    fresh = {id(outcome): outcomes.to_message(outcome) for outcome in book.fresh}
    answers: list[pb.StepOutcome | BaseException] = []
    audited: list[tuple[Item, Posted]] = []
    for item, result in zip(items, results, strict=True):
        place = (item.step.tenant, item.step.key)
        if item.asked is not None:
            known = fingerprints.get(place)
            if known is None:
                fingerprints[place] = item.asked.fingerprint
                if isinstance(result, Posted):
                    audited.append((item, result))
            elif known != item.asked.fingerprint:
                answers.append(RequestIdReused(f"journals/{ledger.journal_id(*place)}"))
                continue
        answers.append(fresh.get(id(result)) or outcomes.to_message(result))
    rows = [_row(outcome, fresh[id(outcome)], fingerprints) for outcome in book.fresh]
    await ledger_store.write_book(conn, book, rows, events.of_batch(book), now)
    await audit.record_all(conn, [orders.audited(item, posted) for item, posted in audited])
    return answers


def _check_fingerprints(items: Sequence[Item], stored: dict[tuple[str, str], bytes]) -> None:
    """Each request_id stands for one payload, in the store and among the items. Raises RequestIdReused."""
    known = dict(stored)
    for item in items:
        place = (item.step.tenant, item.step.key)
        if item.asked is not None and known.setdefault(place, item.asked.fingerprint) != item.asked.fingerprint:
            raise RequestIdReused(f"journals/{ledger.journal_id(*place)}")


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
