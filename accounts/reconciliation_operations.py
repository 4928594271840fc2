"""What people do with items: propose, approve, reject, look; one function, one use case, one database transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import (
    errors,
    reconciliation_events,
    reconciliation_match_store,
    reconciliation_store,
    reconciliation_summary,
    statement_store,
    statements,
    store,
)
from accounts.account_changes import last_part
from accounts.model import Account, AccountType
from accounts.reconciliation_errors import (
    BankStatementNotFound,
    ItemMatchNotFound,
    ItemMatchStateWrong,
    ItemMatchUnbalanced,
    ReconciliationItemNotFound,
    ReconciliationItemNotOpen,
)
from accounts.reconciliation_matching import places_of
from accounts.reconciliation_model import (
    BankStatement,
    Item,
    ItemState,
    Match,
    MatchState,
    Rule,
    Side,
    item_name,
)
from accounts.reconciliation_store import Filter, Place
from accounts.reconciliation_summary import Summary
from meshkit import audit, clock, idempotency, outbox
from meshkit.errors import FourEyes
from meshkit.identity import Call

_WAITING = (MatchState.PROPOSED, MatchState.UNDO_PROPOSED)


async def match_items(
    conn: AsyncConnection, call: Call, account_name: str, *, ledger: Sequence[int], bank: Sequence[int], note: str
) -> Match:
    """Proposes that open items belong together. Raises AccountNotFound, ReconciliationItemNotFound,
    ReconciliationItemNotOpen, ItemMatchUnbalanced."""
    account = await known_account(conn, call, account_name)
    places = [*((Side.LEDGER, number) for number in sorted(ledger)), *((Side.BANK, number) for number in sorted(bank))]
    found = await _open_items(conn, call, account.id, places)
    ours, theirs = (sum(one.amount for one in found if one.side is side) for side in Side)
    if ours + theirs:
        raise ItemMatchUnbalanced(account.currency, bank=theirs, ledger=ours)
    return await _propose(conn, call, account, Rule.BY_HAND, places, amount=theirs, note=note)


async def resolve_item(
    conn: AsyncConnection, call: Call, account_name: str, *, side: Side, number: int, note: str
) -> Match:
    """Proposes that nothing is to come for an open item. Raises ReconciliationItemNotFound,
    ReconciliationItemNotOpen."""
    place = (side, number)
    accounts = await store.accounts(conn, call.tenant, [last_part(account_name)])
    if not accounts:
        raise ReconciliationItemNotFound(item_name(last_part(account_name), *place))
    (item,) = await _open_items(conn, call, accounts[0].id, [place])
    return await _propose(conn, call, accounts[0], Rule.RESOLVED, [place], amount=item.amount, note=note)


async def undo_item_match(conn: AsyncConnection, call: Call, *, name: str, note: str) -> Match:
    """Proposes to undo a match that holds. Raises ItemMatchNotFound, ItemMatchStateWrong."""
    match = await _locked_match(conn, call, name)
    if match.state is not MatchState.ACTIVE:
        raise ItemMatchStateWrong(name, match.state, "only one that is active can be undone")
    changed = _changed(
        match,
        MatchState.UNDO_PROPOSED,
        undo_proposed_by=call.who.subject,
        undo_note=note,
        undo_decided_by="",
        undo_reason="",
    )
    await _save(conn, call, "propose_undo_item_match", match, changed, why=note)
    return changed


async def approve_item_match(conn: AsyncConnection, call: Call, *, name: str) -> Match:
    """Does what waits for a second person. Raises ItemMatchNotFound, ItemMatchStateWrong, FourEyes."""
    match = await _waiting(conn, call, name)
    undoing = match.state is MatchState.UNDO_PROPOSED
    if call.who.subject == (match.undo_proposed_by if undoing else match.proposed_by):
        raise FourEyes(name)
    if undoing:
        changed = _changed(match, MatchState.UNDONE, undo_decided_by=call.who.subject)
        # Else the rules would make the same match again.
        await _set_items(conn, match, ItemState.OPEN, manual=True)
    else:
        changed = _changed(match, MatchState.ACTIVE, decided_by=call.who.subject)
        await _set_items(conn, match, match.item_state)
    await _save(conn, call, "approve_undo_item_match" if undoing else "approve_item_match", match, changed)
    return changed


async def reject_item_match(conn: AsyncConnection, call: Call, *, name: str, reason: str) -> Match:
    """Leaves what waits for a second person undone. Raises ItemMatchNotFound, ItemMatchStateWrong."""
    match = await _waiting(conn, call, name)
    if match.state is MatchState.UNDO_PROPOSED:
        changed = _changed(match, MatchState.ACTIVE, undo_decided_by=call.who.subject, undo_reason=reason)
    else:
        changed = _changed(match, MatchState.REJECTED, decided_by=call.who.subject, reason=reason)
        await _set_items(conn, match, ItemState.OPEN)
    await _save(conn, call, "reject_item_match", match, changed, why=reason)
    return changed


async def get_item_match(conn: AsyncConnection, call: Call, name: str) -> Match:
    """A match by its name. Raises ItemMatchNotFound."""
    key = _uuid(name)
    found = None if key is None else await reconciliation_match_store.match(conn, call.tenant, key)
    if found is None or found.name != name:
        raise ItemMatchNotFound(name)
    return found


async def get_bank_statement(conn: AsyncConnection, call: Call, name: str) -> BankStatement:
    """A statement by its name. Raises BankStatementNotFound."""
    key = _uuid(name)
    found = None if key is None else await reconciliation_store.statement(conn, call.tenant, key=key)
    if found is None or found.name != name:
        raise BankStatementNotFound(name)
    return found


async def list_open_items(
    conn: AsyncConnection,
    call: Call,
    account_name: str,
    asked: Filter,
    *,
    age_days: int,
    after: Place | None,
    limit: int,
) -> tuple[Account, int, list[Item]]:
    """The account, today as a number of days, and open items from behind `after` on, those of `age_days` or more.
    Raises AccountNotFound."""
    account = await known_account(conn, call, account_name)
    _, time_zone, _ = await statement_store.tenant(conn, call.tenant)
    today = statements.local_day(clock.now(), time_zone)
    if age_days:
        asked = replace(asked, until=today - timedelta(days=age_days))
    place = (after[0].value, after[1]) if after is not None else (0, 0)
    found = await reconciliation_store.open_items(conn, call.tenant, account.id, asked, after=place, limit=limit)
    return account, today.toordinal(), found


async def get_reconciliation(conn: AsyncConnection, call: Call, account_name: str) -> tuple[Account, Summary | None]:
    """How an account and its bank differ; None before the first statement. Raises AccountNotFound, AccountTypeWrong."""
    account = await known_account(conn, call, account_name)
    if account.type is not AccountType.SETTLEMENT:
        raise errors.AccountTypeWrong(account.id, account.type, "only settlement accounts stand for one at a bank")
    return account, await reconciliation_summary.summary(conn, call.tenant, account.id)


async def known_account(conn: AsyncConnection, call: Call, name: str) -> Account:
    """An account of the tenant. Raises AccountNotFound."""
    found = await store.accounts(conn, call.tenant, [last_part(name)])
    if not found or name != f"accounts/{found[0].id}":
        raise errors.AccountNotFound(name)
    return found[0]


async def _open_items(conn: AsyncConnection, call: Call, account: str, places: Sequence[Place]) -> list[Item]:
    """The items, under the lock of their account's row. Raises ReconciliationItemNotFound,
    ReconciliationItemNotOpen."""
    await reconciliation_store.books(conn, call.tenant, account, lock=True)
    found = await reconciliation_store.items(conn, call.tenant, account, places)
    there = {(one.side, one.number) for one in found}
    for place in places:
        if place not in there:
            raise ReconciliationItemNotFound(item_name(account, *place))
    for one in found:
        if one.state is not ItemState.OPEN:
            name = item_name(account, one.side, one.number)
            raise ReconciliationItemNotOpen(name, one.state, f"itemMatches/{one.match}")
    return found


async def _propose(
    conn: AsyncConnection, call: Call, account: Account, rule: Rule, places: Sequence[Place], *, amount: int, note: str
) -> Match:
    now = clock.now()
    match = Match(
        tenant=call.tenant,
        # Not derived from the request: its record stands in this transaction, and is forgotten earlier than this row.
        id=str(idempotency.uuid7()),
        account=account.id,
        rule=rule,
        state=MatchState.PROPOSED,
        ledger=tuple(number for side, number in places if side is Side.LEDGER),
        bank=tuple(number for side, number in places if side is Side.BANK),
        amount=amount,
        proposed_by=call.who.subject,
        note=note,
        create_time=now,
        update_time=now,
    )
    await reconciliation_match_store.add_matches(conn, [match])
    await _set_items(conn, match, ItemState.PROPOSED)
    await audit.record(
        conn,
        call,
        action="propose_resolution" if rule is Rule.RESOLVED else "propose_item_match",
        resource=match.name,
        before=None,
        after=_audited(match),
        why=note,
    )
    await outbox.append(conn, [reconciliation_events.item_match_changed(match, account.currency)])
    return match


async def _waiting(conn: AsyncConnection, call: Call, name: str) -> Match:
    """A match that waits for a second person, under the lock of its account's row."""
    match = await _locked_match(conn, call, name)
    if match.state not in _WAITING:
        raise ItemMatchStateWrong(name, match.state, "nothing waits for a second person")
    return match


async def _locked_match(conn: AsyncConnection, call: Call, name: str) -> Match:
    """A match as it is under the lock of its account's row. Raises ItemMatchNotFound."""
    found = await get_item_match(conn, call, name)
    await reconciliation_store.books(conn, call.tenant, found.account, lock=True)
    return await get_item_match(conn, call, name)


async def _set_items(conn: AsyncConnection, match: Match, state: ItemState, *, manual: bool = False) -> None:
    """Gives the items of a match a state; open ones are in none."""
    in_match = None if state is ItemState.OPEN else match.id
    items = await reconciliation_store.items(conn, match.tenant, match.account, places_of(match))
    changed = [(item, in_match) for item in items]
    await reconciliation_store.set_items(conn, match.tenant, match.account, changed, state, manual=manual)


def _changed(match: Match, state: MatchState, **changes: str) -> Match:
    return replace(match, state=state, version=match.version + 1, update_time=clock.now(), **changes)  # type: ignore[arg-type]


async def _save(conn: AsyncConnection, call: Call, action: str, before: Match, after: Match, *, why: str = "") -> None:
    await reconciliation_match_store.save_match(conn, after)
    await audit.record(
        conn,
        call,
        action=action,
        resource=after.name,
        before={"state": before.state.name},
        after=_audited(after),
        why=why,
    )
    currency = await reconciliation_store.currency(conn, after.tenant, after.account)
    await outbox.append(conn, [reconciliation_events.item_match_changed(after, currency)])


def _audited(match: Match) -> Mapping[str, object]:
    return {
        "state": match.state.name,
        "account": f"accounts/{match.account}",
        "rule": match.rule.name,
        "amount_minor_units": match.amount,
        "ledger": list(match.ledger),
        "bank": list(match.bank),
    }


def _uuid(name: str) -> str | None:
    """The id in a name, as the database can be asked for it; None for what is no id."""
    try:
        return str(uuid.UUID(last_part(name)))
    except ValueError:
        return None
