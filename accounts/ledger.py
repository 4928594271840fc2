"""The ledger's rules: steps applied in order to a book of locked accounts (INV-1, INV-2, INV-3); no I/O, no messages.

`apply` changes the book it is given and says what each step came to. The caller locked the accounts, put what is
stored into the book, and writes what changed; a refusal changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from accounts import errors, manual
from accounts.book import (
    FUND_SCOPE,
    Actor,
    Book,
    BookAccount,
    Cancel,
    Expire,
    Held,
    Hold,
    Outcome,
    Place,
    Post,
    Posted,
    PostedLeg,
    Refused,
    Release,
    Seen,
    Step,
    Stored,
)
from accounts.freeze_errors import LedgerFrozen
from accounts.freezes import frozen_currency
from accounts.ledger_errors import StateChanged
from accounts.model import OVERDRAFT_LIMIT_MAX, AccountState, AccountType, HoldState, JournalKind
from meshkit.errors import DomainError, RequestInvalid
from meshkit.idempotency import NAMESPACE
from meshkit.money import INT64_MAX, INT64_MIN

POSTED_MAX = INT64_MAX - OVERDRAFT_LIMIT_MAX
"""A balance leaves room for the largest overdraft limit, so that `available` always fits 64 bits."""

DATING_MAX = timedelta(days=11 * 366)
"""How far from the present a journal may count from: a year more than the ten that orders may be dated by, so that what
was taken at the edge is not refused on its way."""

_MICROSECOND = timedelta(microseconds=1)


def apply(book: Book, steps: Sequence[Step], now: datetime) -> list[Outcome]:
    """Applies steps in their order and gives each one's outcome. A key that has an outcome keeps it (INV-5)."""
    return [_apply_one(book, step, now) for step in steps]


def journal_id(tenant: str, key: str) -> str:
    """The id of the journal that a step posts: the same whoever posts it, and whenever."""
    # UUIDv5 (RFC 9562) without the standard library's UUID object, since every journal passes here.
    name = NAMESPACE.bytes + f"{tenant}/journals/{key}".encode()
    digest = bytearray(hashlib.sha1(name, usedforsecurity=False).digest())
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest[:16].hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _apply_one(book: Book, step: Step, now: datetime) -> Outcome:
    place = (step.tenant, step.key)
    if isinstance(step, Release):
        return _release(book, step, now)
    if isinstance(step, Expire):
        return _expire(book, step, now)
    standing = book.outcomes.get(place)
    if standing is not None:
        return _present(book, standing)
    if book.frozen and (refused := _frozen(book, step)) is not None:
        return refused  # and not kept: once the ledger is unfrozen, the step can be done
    outcome: Posted | Held | Refused
    try:
        if isinstance(step, Post):
            outcome = _post(book, step, now)
        elif isinstance(step, Place):
            outcome = _place(book, step, now)
        else:
            outcome = Refused(step.tenant, step.key, errors.StepCancelled(step.key))
    except DomainError as refusal:
        outcome = Refused(step.tenant, step.key, refusal)
    return _keep(book, place, outcome)


def _frozen(book: Book, step: Post | Place | Cancel) -> Refused | None:
    """The refusal of a step that would move or hold something in a frozen ledger. The currencies are those that it asks
    for: in others it would be refused for that."""
    if isinstance(step, Cancel):
        return None
    currencies = [leg.currency for leg in step.legs] if isinstance(step, Post) else [step.currency]
    currency = frozen_currency(book.frozen, step.tenant, currencies)
    return None if currency is None else Refused(step.tenant, step.key, LedgerFrozen(currency))


def _keep(book: Book, place: tuple[str, str], outcome: Posted | Held | Refused) -> Outcome:
    book.outcomes[place] = outcome
    book.fresh.append(outcome)
    return outcome


def _present(book: Book, outcome: Outcome) -> Outcome:
    """A standing outcome as it is answered now: a hold with its present state."""
    if isinstance(outcome, Held):
        return replace(outcome, hold=book.holds[outcome.hold.tenant, outcome.hold.key])
    if isinstance(outcome, Stored):
        return replace(outcome, hold=book.holds.get((outcome.tenant, outcome.key)))
    return outcome


def _post(book: Book, step: Post, now: datetime) -> Posted:
    if step.effective_time is not None:
        _check_dating(step, step.effective_time, now)
    accounts = _journal_accounts(book, step)
    if step.expected_versions:
        manual.check_versions(step, accounts)
    if step.seen is not None:
        _check_seen(accounts[0], step.seen)
    hold, taken = _consumable(book, step, accounts, now) if step.hold_key else (None, 0)
    _check_blocks(step, accounts, hold)
    legs = _legs_after(step, accounts, hold, taken)
    # Clocks are set back, and those of replicas differ; the rows of the accounts are what all of them see. So each
    # account's entries are recorded in the order of their sequence, and a journal's in one moment.
    create_time = max(now, *(account.recorded_time for account in accounts))
    effective_time = step.effective_time or create_time
    dating = abs(effective_time - create_time) // _MICROSECOND
    # Nothing is changed before this line, nothing is refused after it.
    if hold is not None and taken < hold.amount:
        _change_hold(book, hold, now, amount=hold.amount - taken)
    elif hold is not None:
        _change_hold(book, hold, now, state=HoldState.CONSUMED)
    owners: set[str] = set()
    debit_owners: set[str] = set()
    for account, leg in zip(accounts, legs, strict=True):
        account.posted = leg.balance_after
        account.sequence = leg.sequence
        account.recorded_time = create_time
        account.dating_microseconds = max(account.dating_microseconds, dating)
        account.changed = True
        owners.update(account.owners)
        if leg.amount < 0:
            debit_owners.update(account.owners)
    return Posted(
        tenant=step.tenant,
        key=step.key,
        journal=journal_id(step.tenant, step.key),
        kind=step.kind,
        origin=step.origin,
        legs=tuple(legs),
        owners=tuple(sorted(owners)),
        debit_owners=tuple(sorted(debit_owners)),
        create_time=create_time,
        effective_time=effective_time,
        metadata=step.metadata,
    )


def _check_dating(step: Post, effective_time: datetime, now: datetime) -> None:
    if step.kind is JournalKind.MANUAL:
        manual.check_effective_time(effective_time, now)
    elif abs(effective_time - now) > DATING_MAX:
        raise RequestInvalid([("effective_time", f"must be within {DATING_MAX.days} days of the present")])


def _journal_accounts(book: Book, step: Post) -> list[BookAccount]:
    """The legs' accounts, once all that can be refused without looking at balances is seen not to be."""
    accounts: list[BookAccount] = []
    for leg in step.legs:
        is_own = leg.amount < 0 and not leg.position
        account = _debitable(book, step, leg.reference) if is_own else book.account(step.tenant, leg.reference)
        if account is None:
            raise errors.AccountNotFound(leg.reference)
        accounts.append(account)
    debited = {account.id for account, leg in zip(accounts, step.legs, strict=True) if leg.amount < 0}
    for account, leg in zip(accounts, step.legs, strict=True):
        if leg.amount > 0 and account.id in debited:
            raise errors.AccountsIdentical(account.id)
    if step.kind is JournalKind.MANUAL:
        manual.check_types(step, accounts)
    else:
        _check_types(step, accounts)
    totals: dict[str, int] = {}
    for account, leg in zip(accounts, step.legs, strict=True):
        if account.currency != leg.currency:
            raise errors.CurrencyMismatch(account.id, account.currency, leg.currency)
        totals[leg.currency] = totals.get(leg.currency, 0) + leg.amount
    for leg in step.legs:
        if totals[leg.currency] != 0 or leg.amount == 0:
            raise errors.JournalUnbalanced(leg.currency, totals[leg.currency])
    _check_states(accounts)
    return accounts


def _debitable(book: Book, step: Post | Place, reference: str) -> BookAccount | None:
    """The account, unless the actor is a customer and it is not an own one: a foreign account is as good as none."""
    account = book.account(step.tenant, reference)
    customer = step.actor.customer
    if account is not None and customer is not None and customer not in account.owners:
        return None
    return account


def _check_types(step: Post, accounts: Sequence[BookAccount]) -> None:
    for account, leg in zip(accounts, step.legs, strict=True):
        if leg.position:
            _check_position(account)
        elif leg.amount < 0:
            _check_type(account, step.kind, step.actor)


def _check_type(account: BookAccount, kind: JournalKind, actor: Actor) -> None:
    """Money enters from accounts without a balance rule; only those who may fund let it. Raises AccountTypeWrong."""
    if kind == JournalKind.FUNDING and account.type != AccountType.SETTLEMENT:
        raise errors.AccountTypeWrong(account.id, account.type, "funds come from a settlement account")
    # A reversal gives back what came in by a transfer that stands; it lets nothing enter.
    if kind != JournalKind.REVERSAL and account.type != AccountType.CUSTOMER and not actor.may_fund:
        raise errors.AccountTypeWrong(account.id, account.type, f"debiting it needs the scope {FUND_SCOPE}")


def _check_position(account: BookAccount) -> None:
    """What the bank changes between currencies goes through accounts of its own. Raises AccountTypeWrong."""
    if account.type is not AccountType.INTERNAL:
        raise errors.AccountTypeWrong(account.id, account.type, "a position is an internal account")


def _check_states(accounts: Sequence[BookAccount]) -> None:
    if all(account.state is AccountState.ACTIVE for account in accounts):
        return
    for state, refusal in errors.STATE_REFUSALS.items():
        for account in accounts:
            if account.state is state:
                raise refusal(account.id)


def _check_seen(account: BookAccount, seen: Seen) -> None:
    """Whether the account is still as it was seen. Raises StateChanged."""
    if seen.version != account.sequence:
        raise StateChanged(account.id, "BALANCE", available=account.available)
    if seen.available not in (None, account.available):
        raise StateChanged(account.id, "AVAILABLE", available=account.available)


def _consumable(book: Book, step: Post, accounts: Sequence[BookAccount], now: datetime) -> tuple[Hold, int]:
    """The hold that the journal consumes, and how much of it is kept back no longer.

    Raises HoldNotFound, HoldNotActive, HoldExceeded.
    """
    hold = book.holds.get((step.tenant, step.hold_key))
    debits = [(account.id, -leg.amount) for account, leg in zip(accounts, step.legs, strict=True) if leg.amount < 0]
    if hold is None or hold.account not in dict(debits):
        raise errors.HoldNotFound(step.hold_key)
    if not hold.stands(now):
        state = HoldState.EXPIRED if hold.state is HoldState.ACTIVE else hold.state
        raise errors.HoldNotActive(hold.key, state.name)
    if not step.keep_hold:
        return hold, hold.amount
    taken = sum(amount for account, amount in debits if account == hold.account)
    if taken > hold.amount:
        raise errors.HoldExceeded(hold.key, hold.currency, kept=hold.amount, requested=taken)
    return hold, taken


def _check_blocks(step: Post, accounts: Sequence[BookAccount], hold: Hold | None) -> None:
    """A blocked side takes nothing, but what was held before debits were blocked and promised to somebody.

    A journal that takes from a hold of another origin, a capture from its authorization, keeps such a promise. A
    payment that was held while it was looked at promised nothing: its hold has its own origin.

    Raises AccountDebitsBlocked, AccountCreditsBlocked.
    """
    for account in accounts:
        if account.debits_blocked or account.credits_blocked:
            break
    else:
        return  # every journal passes here, and nearly none has such an account
    debits: dict[str, int] = {}
    for account, leg in zip(accounts, step.legs, strict=True):
        if leg.amount < 0:
            debits[account.id] = debits.get(account.id, 0) - leg.amount
    for account in accounts:
        promised = 0
        if hold is not None and hold.account == account.id and hold.origin != step.origin:
            promised = hold.amount
        if account.debits_blocked and debits.get(account.id, 0) > promised:
            raise errors.AccountDebitsBlocked(account.id)
    for account in accounts:
        if account.credits_blocked and account.id not in debits:
            raise errors.AccountCreditsBlocked(account.id)


def _legs_after(step: Post, accounts: Sequence[BookAccount], hold: Hold | None, taken: int) -> list[PostedLeg]:
    """The entries with their balances and sequences; `taken` of the hold is kept back no longer.

    Raises AmountOverflow, InsufficientFunds.
    """
    posted: dict[str, int] = {}
    sequences: dict[str, int] = {}
    legs: list[PostedLeg] = []
    for account, leg in zip(accounts, step.legs, strict=True):
        after = posted[account.id] = posted.get(account.id, account.posted) + leg.amount
        sequence = sequences[account.id] = sequences.get(account.id, account.sequence) + 1
        if after > POSTED_MAX or after - account.held < INT64_MIN:
            raise errors.AmountOverflow(account.id)
        legs.append(PostedLeg(account.id, account.currency, leg.amount, after, sequence))
    for account, leg in zip(accounts, step.legs, strict=True):
        if leg.amount > 0 or account.type is not AccountType.CUSTOMER:
            continue
        # What this journal takes of the hold is there for it.
        back = taken if hold is not None and hold.account == account.id else 0
        available = account.available + back
        requested = account.posted - posted[account.id]
        if requested > available:
            raise errors.InsufficientFunds(
                account.id, account.currency, available=available, requested=requested, held=account.held - back
            )
    return legs


def _place(book: Book, step: Place, now: datetime) -> Held:
    account = _debitable(book, step, step.reference)
    if account is None:
        raise errors.AccountNotFound(step.reference)
    _check_type(account, JournalKind.TRANSFER, step.actor)
    if account.currency != step.currency:
        raise errors.CurrencyMismatch(account.id, account.currency, step.currency)
    _check_states([account])
    if step.seen is not None:
        _check_seen(account, step.seen)
    if account.debits_blocked:
        raise errors.AccountDebitsBlocked(account.id)
    if account.held + step.amount > INT64_MAX or account.posted - account.held - step.amount < INT64_MIN:
        raise errors.AmountOverflow(account.id)
    if account.type is AccountType.CUSTOMER and step.amount > account.available:
        raise errors.InsufficientFunds(
            account.id, account.currency, available=account.available, requested=step.amount, held=account.held
        )
    account.held += step.amount
    account.changed = True
    hold = Hold(
        tenant=step.tenant,
        key=step.key,
        account=account.id,
        currency=account.currency,
        amount=step.amount,
        state=HoldState.ACTIVE,
        origin=step.origin,
        version=1,
        create_time=now,
        update_time=now,
        expire_time=step.expire_time,
    )
    book.holds[step.tenant, step.key] = hold
    book.placed.add((step.tenant, step.key))
    book.hold_changes.append(hold)
    return Held(hold, account.owners)


def _release(book: Book, step: Release, now: datetime) -> Outcome:
    place = (step.tenant, step.key)
    hold = book.holds.get(place)
    if hold is None:
        standing = book.outcomes.get(place)
        if standing is not None:
            return standing  # the hold was refused or cancelled: nothing is kept back, and nothing will be
        return _keep(book, place, Refused(step.tenant, step.key, errors.StepCancelled(step.key)))
    if hold.state is HoldState.CONSUMED:
        return Refused(step.tenant, step.key, errors.HoldNotActive(hold.key, hold.state.name))
    if hold.state is HoldState.ACTIVE:
        hold = _change_hold(book, hold, now, state=HoldState.RELEASED if hold.stands(now) else HoldState.EXPIRED)
    return Held(hold, book.accounts[step.tenant, hold.account].owners)


def _expire(book: Book, step: Expire, now: datetime) -> Outcome:
    hold = book.holds[step.tenant, step.key]  # what asks found it in the table
    if hold.state is HoldState.ACTIVE and not hold.stands(now):
        hold = _change_hold(book, hold, now, state=HoldState.EXPIRED)
    return Held(hold, book.accounts[step.tenant, hold.account].owners)


def _change_hold(
    book: Book, hold: Hold, now: datetime, *, state: HoldState = HoldState.ACTIVE, amount: int | None = None
) -> Hold:
    """Ends a hold, or has it keep back less: `amount`."""
    account = book.accounts[hold.tenant, hold.account]
    account.held -= hold.amount - (amount or 0)
    account.changed = True
    changed = replace(
        hold, state=state, amount=hold.amount if amount is None else amount, version=hold.version + 1, update_time=now
    )
    book.holds[hold.tenant, hold.key] = changed
    book.hold_changes.append(changed)
    return changed
