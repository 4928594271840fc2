"""The ledger's store in memory: the functions of accounts/ledger_store.py that posting needs, over dictionaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from accounts.book import Book, BookAccount, Hold, Posted, Stored
from accounts.ledger_store import Facts, OutcomeRow, Wanted
from accounts.model import AccountState, AccountType, HoldState
from meshkit import clock
from meshkit.outbox import Event

Pair = tuple[str, str]


@dataclass
class Ledger:
    """accounts' database. Each call is one durable transaction."""

    accounts: dict[Pair, BookAccount] = field(default_factory=dict)
    outcomes: dict[Pair, bytes] = field(default_factory=dict)
    holds: dict[Pair, Hold] = field(default_factory=dict)
    entries: list[tuple[str, int]] = field(default_factory=list)
    """Account and amount of every entry there is."""
    journals: Counter[str] = field(default_factory=Counter)
    """How many journals each origin has."""
    outbox: list[Event] = field(default_factory=list)

    def add(
        self,
        account: str,
        customer: str = "",
        *,
        type_: AccountType = AccountType.CUSTOMER,
        currency: str = "EUR",
        posted: int = 0,
        overdraft_limit: int = 0,
    ) -> None:
        """Opens an account with money in it."""
        self.accounts["demo", account] = BookAccount(
            tenant="demo",
            id=account,
            type=type_,
            state=AccountState.ACTIVE,
            currency=currency,
            posted=posted,
            held=0,
            overdraft_limit=overdraft_limit,
            sequence=0,
            owners=(customer,) if customer else (),
        )

    def freeze(self, account: str, *, frozen: bool) -> None:
        """As FreezeAccount and UnfreezeAccount do."""
        self.accounts["demo", account].state = AccountState.FROZEN if frozen else AccountState.ACTIVE

    def block(self, account: str, side: str, *, blocked: bool) -> None:
        """As BlockAccount and UnblockAccount do."""
        if side == "DEBITS":
            self.accounts["demo", account].debits_blocked = blocked
        else:
            self.accounts["demo", account].credits_blocked = blocked


async def resolve_identifiers(conn: Ledger, wanted: Collection[Any]) -> dict[Pair, str]:
    """See accounts/ledger_store.py, here and below."""
    return {}


async def hold_accounts(conn: Ledger, holds: Collection[Pair]) -> set[Pair]:
    return {(tenant, conn.holds[tenant, key].account) for tenant, key in holds if (tenant, key) in conn.holds}


async def read_book(
    conn: Ledger, wanted: Wanted, references: dict[Pair, str], *, lock: bool
) -> tuple[Book, dict[Pair, bytes]]:
    book = Book(references=references, database_time=clock.now())
    for pair in wanted.accounts:
        if pair in conn.accounts:
            book.accounts[pair] = replace(conn.accounts[pair], changed=False)
    for pair in wanted.holds:
        if pair in conn.holds:
            book.holds[pair] = conn.holds[pair]
    for pair in wanted.keys:
        if pair in conn.outcomes:
            book.outcomes[pair] = Stored(*pair, conn.outcomes[pair])
    return book, {}


async def write_book(
    conn: Ledger, book: Book, outcomes: Sequence[OutcomeRow], events: Sequence[Event], now: datetime
) -> None:
    for row in outcomes:
        assert (row.tenant, row.key) not in conn.outcomes, "inv_5_one_outcome_per_key"
        conn.outcomes[row.tenant, row.key] = row.data
    for outcome in book.fresh:
        if isinstance(outcome, Posted):
            conn.journals[outcome.origin] += 1
            conn.entries += [(leg.account, leg.amount) for leg in outcome.legs]
    conn.accounts.update({pair: account for pair, account in book.accounts.items() if account.changed})
    conn.holds.update({(hold.tenant, hold.key): hold for hold in book.hold_changes})
    conn.outbox += events


async def facts(conn: Ledger, accounts: Collection[Pair]) -> dict[Pair, Facts]:
    known = [(pair, conn.accounts[pair]) for pair in accounts if pair in conn.accounts]
    return {pair: Facts(account.id, account.currency, account.type, account.owners) for pair, account in known}


async def expired_holds(conn: Ledger, now: datetime, limit: int) -> list[Pair]:
    due = [
        (hold.expire_time, pair)
        for pair, hold in conn.holds.items()
        if hold.state is HoldState.ACTIVE and hold.expire_time is not None and hold.expire_time <= now
    ]
    return [pair for _, pair in sorted(due)[:limit]]
