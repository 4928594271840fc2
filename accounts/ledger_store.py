"""The ledger's SQL: set-based driver statements in pipelines, a round trip each to read and to write a batch.

It opens no transaction and decides nothing. Rows are locked in sorted order, so that batches cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import freeze_store, freezes, journal_store
from accounts.book import Book, BookAccount, Hold, Posted, Stored
from accounts.model import AccountState, AccountType, HoldState, Identifier
from meshkit import clock, outbox
from meshkit.database import execute, fetch, flush

Pair = tuple[str, str]
"""A tenant and a key, an account's id or a reference."""

_CLOCK = "SELECT clock_timestamp()"
# No freeze of these tenants' ledgers begins or ends until the transaction ends (freeze_store.py). It is asked for with
# the clock, before the accounts are locked, and in one order: what is frozen is read by a statement after it, which so
# sees every freeze that was begun.
_CLOCK_AND_LEDGERS = (
    _CLOCK  # noqa: S608 - a constant
    + ", (SELECT count(pg_advisory_xact_lock_shared(%s, key)) FROM unnest(%s::integer[]) AS key)"
)
_IDENTIFIERS = (
    "SELECT tenant, kind, value, account FROM account_identifiers"
    " JOIN unnest(%s::text[], %s::text[], %s::text[]) AS k(tenant, kind, value) USING (tenant, kind, value)"
)
_HOLD_ACCOUNTS = (
    "SELECT tenant, account FROM holds JOIN unnest(%s::text[], %s::uuid[]) AS k(tenant, hold) USING (tenant, hold)"
)
_ACCOUNTS = (
    "SELECT a.tenant, a.account, a.type, a.state, a.currency, a.posted, a.held, a.overdraft_limit, a.sequence,"
    " a.recorded_time, a.dating_microseconds, a.minimum_balance, a.debit_block_reason <> '',"
    " a.credit_block_reason <> '',"
    # Read once, not once a row, and empty but for a bad day.
    " (SELECT array_agg(ARRAY[f.tenant, f.currency]) FROM ledger_freezes AS f"
    " WHERE f.tenant = ANY (%s::text[]) AND f.state = 1) FROM accounts AS a"
    " JOIN unnest(%s::text[], %s::text[]) AS k(tenant, account) USING (tenant, account) ORDER BY a.tenant, a.account"
)
# Keys do not change here, so the rows are not locked against the foreign keys of other sessions.
_ACCOUNTS_LOCKED = _ACCOUNTS + " FOR NO KEY UPDATE OF a"
_OWNERS = (
    "SELECT tenant, account, customer FROM account_owners"
    " JOIN unnest(%s::text[], %s::text[]) AS k(tenant, account) USING (tenant, account) ORDER BY customer"
)
_OUTCOMES = (
    "SELECT tenant, key::text, outcome, fingerprint FROM step_outcomes"
    " JOIN unnest(%s::text[], %s::uuid[]) AS k(tenant, key) USING (tenant, key)"
)
_HOLDS = (
    "SELECT tenant, hold::text, account, currency, amount, state, origin, version, create_time, update_time,"
    " expire_time FROM holds JOIN unnest(%s::text[], %s::uuid[]) AS k(tenant, hold) USING (tenant, hold)"
)
_EXPIRED_HOLDS = (
    "SELECT tenant, hold::text FROM holds WHERE state = 1 AND expire_time <= %s ORDER BY expire_time LIMIT %s"
)
_FACTS = (
    "SELECT a.tenant, a.account, a.currency, a.type, ARRAY(SELECT o.customer FROM account_owners AS o"
    " WHERE o.tenant = a.tenant AND o.account = a.account ORDER BY o.customer)"
    " FROM accounts AS a JOIN unnest(%s::text[], %s::text[]) AS k(tenant, account) USING (tenant, account)"
)

_ADD_OUTCOMES = (
    "INSERT INTO step_outcomes (tenant, key, outcome, fingerprint, create_time)"
    " SELECT *, %s FROM unnest(%s::text[], %s::uuid[], %s::bytea[], %s::bytea[])"
)
_ADD_JOURNALS = (
    "INSERT INTO journals (tenant, journal, kind, origin, create_time, effective_time)"
    " SELECT * FROM unnest(%s::text[], %s::uuid[], %s::smallint[], %s::text[], %s::timestamptz[], %s::timestamptz[])"
)
_ADD_ENTRIES = (
    "INSERT INTO entries (tenant, account, sequence, journal, leg, currency, amount, balance_after, create_time,"
    " effective_time) SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::uuid[], %s::smallint[],"
    " %s::text[], %s::bigint[], %s::bigint[], %s::timestamptz[], %s::timestamptz[])"
)
_SET_BALANCES = (
    "UPDATE accounts AS a SET posted = n.posted, held = n.held, sequence = n.sequence,"
    " recorded_time = n.recorded_time, dating_microseconds = n.dating_microseconds"
    " FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::timestamptz[], %s::bigint[])"
    " AS n(tenant, account, posted, held, sequence, recorded_time, dating_microseconds)"
    " WHERE a.tenant = n.tenant AND a.account = n.account"
)
_ADD_HOLDS = (
    "INSERT INTO holds (tenant, hold, account, currency, amount, state, origin, version, create_time, update_time,"
    " expire_time)"
    " SELECT * FROM unnest(%s::text[], %s::uuid[], %s::text[], %s::text[], %s::bigint[], %s::smallint[], %s::text[],"
    " %s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[])"
)
_SET_HOLDS = (
    "UPDATE holds AS h SET amount = n.amount, state = n.state, version = n.version, update_time = n.update_time"
    " FROM unnest(%s::text[], %s::uuid[], %s::bigint[], %s::smallint[], %s::bigint[], %s::timestamptz[])"
    " AS n(tenant, hold, amount, state, version, update_time) WHERE h.tenant = n.tenant AND h.hold = n.hold"
)


@dataclass(slots=True)
class Wanted:
    """What a batch has to read."""

    references: set[Pair] = field(default_factory=set)
    accounts: set[Pair] = field(default_factory=set)
    keys: set[Pair] = field(default_factory=set)
    """Keys whose outcomes are read."""
    holds: set[Pair] = field(default_factory=set)
    """Keys whose holds are read."""
    released: set[Pair] = field(default_factory=set)
    """Keys whose holds' accounts are locked too."""


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """An outcome that is to be stored. `fingerprint` is of the request that asked, where one has to be recognised."""

    tenant: str
    key: str
    data: bytes
    fingerprint: bytes | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change in an account's life, and its owners' ids."""

    account: str
    currency: str
    type: AccountType
    owners: tuple[str, ...]


async def resolve_identifiers(conn: AsyncConnection, wanted: Collection[tuple[str, Identifier]]) -> dict[Pair, str]:
    """(tenant, "kind:value") → account's id, for those that exist."""
    if not wanted:
        return {}
    columns = (
        [tenant for tenant, _ in wanted],
        [identifier.kind for _, identifier in wanted],
        [identifier.value for _, identifier in wanted],
    )
    rows = await fetch(conn, _IDENTIFIERS, columns)
    return {(tenant, f"{kind}:{value}"): account for tenant, kind, value, account in rows}


async def hold_accounts(conn: AsyncConnection, holds: Collection[Pair]) -> set[Pair]:
    """The accounts that holds are on; a hold never moves, so nothing needs to be locked to know it."""
    if not holds:
        return set()
    rows = await fetch(conn, _HOLD_ACCOUNTS, _columns(holds))
    return {(tenant, account) for tenant, account in rows}


async def read_book(
    conn: AsyncConnection, wanted: Wanted, references: dict[Pair, str], *, lock: bool
) -> tuple[Book, dict[Pair, bytes]]:
    """The book of a batch, and the fingerprints of stored outcomes that have one.

    One round trip. Outcomes and holds are read after the accounts are locked: what another session did to these
    accounts is then committed and seen.
    """
    accounts, keys, holds = _columns(wanted.accounts), _columns(wanted.keys), _columns(wanted.holds)
    tenants = list({tenant for tenant, _ in wanted.keys})
    if lock:
        ledgers = sorted({freezes.lock_key(tenant) for tenant in tenants})
        told = await execute(conn, _CLOCK_AND_LEDGERS, (freeze_store.LOCK_CLASS, ledgers))
    else:
        told = await execute(conn, _CLOCK, ())
    locked = await execute(conn, _ACCOUNTS_LOCKED if lock else _ACCOUNTS, (tenants, *accounts))
    owned = await execute(conn, _OWNERS, accounts)
    stored = await execute(conn, _OUTCOMES, keys)
    held = await execute(conn, _HOLDS, holds)
    await flush(conn)
    book = Book(references=references, database_time=clock.of_machine((await told.fetchall())[0][0]))
    owners: dict[Pair, list[str]] = {}
    for tenant, owned_account, customer in await owned.fetchall():
        owners.setdefault((tenant, owned_account), []).append(customer)
    rows = await locked.fetchall()
    book.frozen = frozenset((tenant, currency) for tenant, currency in rows[0][-1] or ()) if rows else frozenset()
    for row in rows:
        account = _account(row, owners)
        book.accounts[account.tenant, account.id] = account
    for row in await held.fetchall():
        hold = _hold(row)
        book.holds[hold.tenant, hold.key] = hold
    fingerprints: dict[Pair, bytes] = {}
    for tenant, key, data, fingerprint in await stored.fetchall():
        book.outcomes[tenant, key] = Stored(tenant, key, bytes(data))
        if fingerprint is not None:
            fingerprints[tenant, key] = bytes(fingerprint)
    return book, fingerprints


async def write_book(
    conn: AsyncConnection, book: Book, outcomes: Sequence[OutcomeRow], events: Sequence[outbox.Event], now: datetime
) -> None:
    """Writes what a batch changed, with the COMMIT.

    The transaction fails with psycopg's UniqueViolation when another session stored an outcome under one of the keys
    meanwhile; the batch then has to be run again, and finds it.
    """
    # Two sessions with the same new keys meet in this order, not crosswise.
    outcomes = sorted(outcomes, key=lambda row: (row.tenant, row.key))
    statements: list[tuple[str, tuple[object, ...]]] = []
    if outcomes:
        statements.append(
            (
                _ADD_OUTCOMES,
                (
                    now,
                    [row.tenant for row in outcomes],
                    [row.key for row in outcomes],
                    [row.data for row in outcomes],
                    [row.fingerprint for row in outcomes],
                ),
            )
        )
    journals = [outcome for outcome in book.fresh if isinstance(outcome, Posted)]
    if journals:
        statements += [(_ADD_JOURNALS, _journal_columns(journals)), (_ADD_ENTRIES, _entry_columns(journals))]
        statements += journal_store.added(journals)
    changed = [account for account in book.accounts.values() if account.changed]
    if changed:
        statements.append(
            (
                _SET_BALANCES,
                (
                    [account.tenant for account in changed],
                    [account.id for account in changed],
                    [account.posted for account in changed],
                    [account.held for account in changed],
                    [account.sequence for account in changed],
                    [account.recorded_time for account in changed],
                    [account.dating_microseconds for account in changed],
                ),
            )
        )
    statements += _hold_statements(book)
    for statement, parameters in statements:
        await execute(conn, statement, parameters)
    await outbox.append(conn, events)


async def facts(conn: AsyncConnection, accounts: Collection[Pair]) -> dict[Pair, Facts]:
    """What does not change of the accounts that exist."""
    rows = await fetch(conn, _FACTS, _columns(accounts))
    return {
        (tenant, account): Facts(account, currency, AccountType(type_), tuple(owners))
        for tenant, account, currency, type_, owners in rows
    }


def _journal_columns(journals: Sequence[Posted]) -> tuple[object, ...]:
    return (
        [journal.tenant for journal in journals],
        [journal.journal for journal in journals],
        [journal.kind.value for journal in journals],
        [journal.origin for journal in journals],
        [journal.create_time for journal in journals],
        [journal.effective_time for journal in journals],
    )


def _entry_columns(journals: Sequence[Posted]) -> tuple[object, ...]:
    rows = [(journal, number, leg) for journal in journals for number, leg in enumerate(journal.legs)]
    return (
        [journal.tenant for journal, _, _ in rows],
        [leg.account for _, _, leg in rows],
        [leg.sequence for _, _, leg in rows],
        [journal.journal for journal, _, _ in rows],
        [number for _, number, _ in rows],
        [leg.currency for _, _, leg in rows],
        [leg.amount for _, _, leg in rows],
        [leg.balance_after for _, _, leg in rows],
        [journal.create_time for journal, _, _ in rows],
        [journal.effective_time for journal, _, _ in rows],
    )


def _hold_statements(book: Book) -> list[tuple[str, tuple[object, ...]]]:
    """A hold that was placed and changed in one batch is added as it is then."""
    statements: list[tuple[str, tuple[object, ...]]] = []
    placed = [book.holds[place] for place in sorted(book.placed)]
    if placed:
        statements.append(
            (
                _ADD_HOLDS,
                (
                    [hold.tenant for hold in placed],
                    [hold.key for hold in placed],
                    [hold.account for hold in placed],
                    [hold.currency for hold in placed],
                    [hold.amount for hold in placed],
                    [hold.state.value for hold in placed],
                    [hold.origin for hold in placed],
                    [hold.version for hold in placed],
                    [hold.create_time for hold in placed],
                    [hold.update_time for hold in placed],
                    [hold.expire_time for hold in placed],
                ),
            )
        )
    changed = sorted({(hold.tenant, hold.key) for hold in book.hold_changes} - book.placed)
    if changed:
        holds = [book.holds[place] for place in changed]
        statements.append(
            (
                _SET_HOLDS,
                (
                    [hold.tenant for hold in holds],
                    [hold.key for hold in holds],
                    [hold.amount for hold in holds],
                    [hold.state.value for hold in holds],
                    [hold.version for hold in holds],
                    [hold.update_time for hold in holds],
                ),
            )
        )
    return statements


def _account(row: Sequence[Any], owners: dict[Pair, list[str]]) -> BookAccount:
    tenant, account, type_, state, currency, posted, held, overdraft_limit, sequence, recorded_time, *rest = row
    dating, minimum_balance, debits_blocked, credits_blocked, _frozen = rest
    return BookAccount(
        tenant=tenant,
        id=account,
        type=AccountType(type_),
        state=AccountState(state),
        currency=currency,
        posted=posted,
        held=held,
        overdraft_limit=overdraft_limit,
        sequence=sequence,
        owners=tuple(owners.get((tenant, account), ())),
        recorded_time=recorded_time,
        dating_microseconds=dating,
        minimum_balance=minimum_balance,
        debits_blocked=debits_blocked,
        credits_blocked=credits_blocked,
    )


def _hold(row: Sequence[Any]) -> Hold:
    tenant, key, account, currency, amount, state, *rest = row
    return Hold(tenant, key, account, currency, amount, HoldState(state), *rest)


async def expired_holds(conn: AsyncConnection, now: datetime, limit: int) -> list[Pair]:
    """(tenant, key) of holds that nobody ended yet and whose time is over, the longest overdue first."""
    rows = await fetch(conn, _EXPIRED_HOLDS, (now, limit))
    return [(row[0], row[1]) for row in rows]


def _columns(pairs: Collection[Pair]) -> tuple[list[str], list[str]]:
    return [tenant for tenant, _ in pairs], [value for _, value in pairs]
