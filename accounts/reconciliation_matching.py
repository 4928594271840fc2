"""Brings items and rules together: one function, one lot, one database transaction, which locks the account's row.

Each lot is right by itself, so whatever dies between two of them, the next pass goes over what is open and comes to the
same end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import (
    entry_store,
    reconciliation_events,
    reconciliation_match_store,
    reconciliation_rules,
    reconciliation_store,
    statement_store,
    statements,
)
from accounts.model import Entry
from accounts.reconciliation_model import (
    Books,
    Item,
    ItemState,
    Match,
    MatchState,
    Rule,
    Side,
    Window,
    ledger_references,
)
from accounts.reconciliation_rules import PARTS_MAX
from meshkit import clock, idempotency, outbox

LOT = 500
"""Items that are looked at in one transaction."""
BATCH_LOT = 50
"""The same where each may have a thousand candidates."""
ENTRIES_LOT = 1000


async def take_entries(conn: AsyncConnection, tenant: str, account: str, *, up_to: int) -> int:
    """Makes items of the next entries of ours, up to a sequence that was seen; gives how many."""
    books = await locked(conn, tenant, account)
    entries = await entry_store.entries_between(
        conn, tenant, account, after=books.ledger_sequence, up_to=up_to, limit=ENTRIES_LOT
    )
    if not entries:
        return 0
    if entries[-1].sequence - books.ledger_sequence != len(entries):
        raise RuntimeError(f"entries of {account} after {books.ledger_sequence} have a gap")
    _, time_zone, _ = await statement_store.tenant(conn, tenant)
    await reconciliation_store.add_items(conn, tenant, account, [_item(entry, time_zone) for entry in entries])
    await reconciliation_store.save_books(conn, replace(books, ledger_sequence=entries[-1].sequence))
    return len(entries)


async def match_by_reference(conn: AsyncConnection, tenant: str, account: str, after: int) -> int | None:
    """The next lot by reference and amount; gives the number to go on after, None at the end."""
    books = await locked(conn, tenant, account)
    lot = await reconciliation_match_store.open_bank(conn, tenant, account, after=after, limit=LOT, referring=True)
    if not lot:
        return None
    edges = await reconciliation_match_store.same_reference(conn, tenant, account, Side.BANK, lot)
    back = await reconciliation_match_store.same_reference(conn, tenant, account, Side.LEDGER, _ledger(edges))
    await _record_pairs(conn, books, Rule.REFERENCE, edges, back)
    return lot[-1]


async def match_by_amount(conn: AsyncConnection, tenant: str, account: str, after: int, window: Window) -> int | None:
    """The next lot by amount and date; as above."""
    books = await locked(conn, tenant, account)
    lot = await reconciliation_match_store.open_bank(conn, tenant, account, after=after, limit=LOT)
    if not lot:
        return None
    edges = await reconciliation_match_store.same_amount(conn, tenant, account, Side.BANK, lot, window=window)
    back = await reconciliation_match_store.same_amount(
        conn, tenant, account, Side.LEDGER, _ledger(edges), window=window
    )
    await _record_pairs(conn, books, Rule.AMOUNT_AND_DATE, edges, back, until=window.until)
    return lot[-1]


async def match_batches(conn: AsyncConnection, tenant: str, account: str, after: int) -> int | None:
    """The next lot of entries that refer to several of ours; as above."""
    books = await locked(conn, tenant, account)
    lot = await reconciliation_match_store.open_bank(
        conn, tenant, account, after=after, limit=BATCH_LOT, referring=True
    )
    if not lot:
        return None
    groups: list[tuple[int, tuple[int, ...]]] = []
    for bank, (amount, size, candidates) in (
        await reconciliation_match_store.referred(conn, tenant, account, lot)
    ).items():
        if len(candidates) < 2:
            continue
        edges = [(bank, ledger) for ledger in candidates]
        others = await reconciliation_match_store.referred_elsewhere(conn, tenant, account, edges)
        found = reconciliation_rules.batch(amount, candidates, size=size, others=others)
        if found:
            groups.append((bank, found))
    await _record(conn, books, Rule.BATCH_BY_REFERENCE, groups)
    return lot[-1]


async def match_batches_of_a_day(
    conn: AsyncConnection, tenant: str, account: str, after: date, window: Window
) -> date | None:
    """The batches of the next day that has some; gives the day, None at the end."""
    books = await locked(conn, tenant, account)
    day = await reconciliation_match_store.batch_day(conn, tenant, account, after=after)
    if day is not None and day <= window.until:
        batches, parts, alike = await reconciliation_match_store.batches_of_day(
            conn, tenant, account, day, days=window.days
        )
        # One more than the rules go by was asked for: with more there is no certainty.
        if len(batches) <= PARTS_MAX and len(parts) <= 2 * PARTS_MAX:
            found = reconciliation_rules.batches_of_a_day(batches, parts)
            certain = sorted((bank, ledger) for bank, ledger in found.items() if bank not in alike)
            await _record(conn, books, Rule.BATCH_BY_DATE, certain)
    return day


async def finish(conn: AsyncConnection, tenant: str, account: str, *, statements_seen: int, sequence: int) -> None:
    """Notes that the rules went over so many statements, and over entries of ours up to a sequence."""
    books = await locked(conn, tenant, account)
    ended = await reconciliation_store.end_statements(
        conn, tenant, account, after=books.matched_statements, up_to=statements_seen, now=clock.now()
    )
    done = replace(
        books,
        matched_statements=max(books.matched_statements, statements_seen),
        matched_sequence=max(books.matched_sequence, sequence),
    )
    await reconciliation_store.save_books(conn, done)
    await outbox.append(conn, [reconciliation_events.bank_statement_matched(one) for one in ended])


async def locked(conn: AsyncConnection, tenant: str, account: str) -> Books:
    """The reconciliation of an account that has one, locked."""
    books = await reconciliation_store.books(conn, tenant, account, lock=True)
    if books is None:
        raise RuntimeError(f"{account} has no reconciliation")
    return books


async def _record_pairs(
    conn: AsyncConnection,
    books: Books,
    rule: Rule,
    edges: Sequence[tuple[int, int]],
    back: Sequence[tuple[int, int]],
    *,
    until: date = date.max,
) -> None:
    found = reconciliation_rules.pairs([*edges, *((bank, ledger) for ledger, bank in back)])
    await _record(conn, books, rule, [(bank, (ledger,)) for bank, ledger in found], until=until)


async def _record(
    conn: AsyncConnection,
    books: Books,
    rule: Rule,
    groups: Sequence[tuple[int, tuple[int, ...]]],
    *,
    until: date = date.max,
) -> None:
    """Writes matches of one of the bank's and some of ours each, with their events, where all of them may be taken;
    `until` is the last value day of ours that may."""
    if not groups:
        return
    places = [
        place for bank, ledger in groups for place in ((Side.BANK, bank), *((Side.LEDGER, one) for one in ledger))
    ]
    items = {
        (item.side, item.number): item
        for item in await reconciliation_store.items(conn, books.tenant, books.account, places)
    }
    # What is only there to make others uncertain is taken by nobody.
    groups = [
        (bank, ledger)
        for bank, ledger in groups
        if _may_be_taken(items[Side.BANK, bank])
        and all(_may_be_taken(items[Side.LEDGER, one], until) for one in ledger)
    ]
    if not groups:
        return
    now, made = clock.now(), []
    for bank, ledger in groups:
        amount = items[Side.BANK, bank].amount
        if amount + sum(items[Side.LEDGER, one].amount for one in ledger):
            raise RuntimeError(f"{rule.name} matched bank-{bank} of {books.account} with what does not come to it")
        match = Match(
            tenant=books.tenant,
            id=str(idempotency.uuid7()),
            account=books.account,
            rule=rule,
            state=MatchState.ACTIVE,
            ledger=ledger,
            bank=(bank,),
            amount=amount,
            proposed_by="",
            note="",
            create_time=now,
            update_time=now,
        )
        made.append(match)
    await reconciliation_match_store.add_matches(conn, made)
    matched = [(items[place], match.id) for match in made for place in places_of(match)]
    await reconciliation_store.set_items(conn, books.tenant, books.account, matched, ItemState.MATCHED)
    currency = await reconciliation_store.currency(conn, books.tenant, books.account)
    await outbox.append(conn, [reconciliation_events.item_match_changed(match, currency) for match in made])


def _may_be_taken(item: Item, until: date = date.max) -> bool:
    return item.state is ItemState.OPEN and not item.manual and item.value_day <= until


def places_of(match: Match) -> list[tuple[Side, int]]:
    """The items of a match, those of the ledger first."""
    return [*((Side.LEDGER, number) for number in match.ledger), *((Side.BANK, number) for number in match.bank)]


def _ledger(edges: Sequence[tuple[int, int]]) -> list[int]:
    return sorted({ledger for _, ledger in edges})


def _item(entry: Entry, time_zone: str) -> Item:
    return Item(
        side=Side.LEDGER,
        number=entry.sequence,
        amount=entry.amount,
        value_day=statements.local_day(entry.effective_time, time_zone),
        references=ledger_references(entry.journal, entry.origin),
        state=ItemState.OPEN,
        match=None,
        manual=False,
        journal=entry.journal,
    )
