"""The composition root: the only module that opens the database and the bus and puts the service together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import (
    consumers,
    ledger_store,
    manual,
    moments_store,
    orders,
    overdraft_operations,
    posting,
    signing,
    store,
    sums_store,
)
from accounts.audit_rpc import AuditService
from accounts.balance_rpc import BalanceService
from accounts.book import Expire
from accounts.freeze_rpc import FreezeService
from accounts.journal_rpc import JournalService, Outcome
from accounts.ledger_rpc import LedgerService
from accounts.model import Balance
from accounts.moments import PastBalance
from accounts.moments_store import PastKey
from accounts.orders import Item
from accounts.overdraft_rpc import OverdraftService
from accounts.reconciliation_import import BankStatements
from accounts.reconciliation_rpc import ReconciliationService
from accounts.reconciliation_worker import Reconciler
from accounts.rpc import AccountService, BalanceKey
from accounts.sealing import Sealer
from accounts.settings import Settings
from accounts.signing import Signer
from accounts.statement_rpc import StatementService
from accounts.watches import Key, Watches
from florin.accounts.v1 import (
    account_service_pb2_grpc,
    audit_service_pb2_grpc,
    balance_service_pb2_grpc,
    freeze_service_pb2_grpc,
    journal_service_pb2_grpc,
    ledger_service_pb2,
    ledger_service_pb2_grpc,
    overdraft_service_pb2_grpc,
    reconciliation_service_pb2_grpc,
    statement_service_pb2_grpc,
)
from meshkit import clock, logs, parts
from meshkit.batching import Batcher
from meshkit.bus import Bus
from meshkit.database import ALL_TENANTS, Database, allow_long_statements
from meshkit.inbox import Consumer
from meshkit.lifecycle import Parts
from meshkit.waiting import wait_at_most

IMBALANCES = Gauge("florin_ledger_imbalances", "Pairs of tenant and currency whose balances do not sum to zero.")

_EXPIRED_AT_ONCE = 500
_OVERDRAFT_EXPIRY_SECONDS = 10.0
_BALANCE_READS_MAX = 4  # batches of balance reads at once; each holds a connection
_PAST_READS_MAX = 2
_GROUPS_MAX = 200  # atomic batches of journals that wait, a second or so each at worst
_PAST_BATCH_MAX = 100  # each takes some dozen looks at an index
_log = logs.get(__name__)


@asynccontextmanager
async def build(settings: Settings) -> AsyncIterator[Parts]:
    """The parts of a running accounts service."""
    async with Database.open(settings) as db, Bus.open(settings) as bus:
        watches = _watches(settings, db)
        ledger, together = _ledger(settings, db, watches), _together(db, watches)
        balances, past_balances = _balances(db), _past_balances(db)
        handle = consumers.compliance_handler(db.cipher)
        consumer = Consumer(bus, db, stream="compliance", durable=settings.service, handle=handle, gap_seconds=None)
        signer = None if settings.sealing_key_file is None else signing.signer(settings.sealing_key_file)
        approval_time = timedelta(hours=settings.overdraft_approval_hours)
        accounts = AccountService(db, ledger, balances, past_balances, approval_time=approval_time)
        steps, overdrafts, sums = LedgerService(db, ledger), OverdraftService(db), BalanceService(db, watches)
        journals = JournalService(db, ledger, together)
        statements = StatementService(db, entries_max=settings.statement_entries_max)
        holds_due, changes_due = asyncio.Event(), asyncio.Event()
        audit, freezes = AuditService(db, signer), FreezeService(db)
        reconciler = Reconciler(db, days=settings.reconciliation_days, every_seconds=settings.reconciliation_seconds)
        reconciliation = ReconciliationService(db, _bank_statements(settings, db, reconciler))
        yield Parts(
            services={
                "florin.accounts.v1.AccountService": lambda server: (
                    account_service_pb2_grpc.add_AccountServiceServicer_to_server(accounts, server)
                ),
                "florin.accounts.v1.AuditService": lambda server: (
                    audit_service_pb2_grpc.add_AuditServiceServicer_to_server(audit, server)
                ),
                "florin.accounts.v1.BalanceService": lambda server: (
                    balance_service_pb2_grpc.add_BalanceServiceServicer_to_server(sums, server)
                ),
                "florin.accounts.v1.FreezeService": lambda server: (
                    freeze_service_pb2_grpc.add_FreezeServiceServicer_to_server(freezes, server)
                ),
                "florin.accounts.v1.JournalService": lambda server: (
                    journal_service_pb2_grpc.add_JournalServiceServicer_to_server(journals, server)
                ),
                "florin.accounts.v1.LedgerService": lambda server: (
                    ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(steps, server)
                ),
                "florin.accounts.v1.OverdraftService": lambda server: (
                    overdraft_service_pb2_grpc.add_OverdraftServiceServicer_to_server(overdrafts, server)
                ),
                "florin.accounts.v1.ReconciliationService": lambda server: (
                    reconciliation_service_pb2_grpc.add_ReconciliationServiceServicer_to_server(reconciliation, server)
                ),
                "florin.accounts.v1.StatementService": lambda server: (
                    statement_service_pb2_grpc.add_StatementServiceServicer_to_server(statements, server)
                ),
            },
            workers={
                **parts.workers(settings, db, bus),
                "ledger": ledger.run,
                "journals-together": together.run,
                "balances": balances.run,
                "past-balances": past_balances.run,
                "compliance-events": consumer.run,
                "hold-expiry": lambda: _expire_holds(db, ledger, settings.hold_expiry_seconds, holds_due),
                "overdraft-expiry": lambda: _expire_overdraft_changes(db, changes_due),
                "reconciler": reconciler.run,
                "watches": watches.run,
                "imbalance": lambda: _watch_balance(db, settings.imbalance_check_seconds),
                **_sealing(settings, db, signer),
            },
            checks=parts.checks(settings, db),
            on_drain=watches.drain,
            on_clock_move=(holds_due.set, changes_due.set),
        )


def _sealing(settings: Settings, db: Database, signer: Signer | None) -> dict[str, Callable[[], Awaitable[None]]]:
    """The worker that seals; none without a key."""
    if signer is None:
        _log.warning("journals are not sealed, since ACCOUNTS_SEALING_KEY_FILE is not set")
        return {}
    return {"sealer": Sealer(db, signer, every_seconds=settings.seal_seconds).run}


def _bank_statements(settings: Settings, db: Database, reconciler: Reconciler) -> BankStatements:
    return BankStatements(
        db,
        bytes_max=settings.bank_statement_bytes_max,
        entries_max=settings.bank_statement_entries_max,
        on_imported=reconciler.wake,
    )


def _ledger(settings: Settings, db: Database, watches: Watches) -> Batcher[Item, ledger_service_pb2.StepOutcome]:
    async def process(items: Sequence[Item]) -> Sequence[ledger_service_pb2.StepOutcome | BaseException]:
        outcomes = await posting.apply_steps(db, items)
        if watches.any:
            watches.touched(posting.touched(items, outcomes))
        return outcomes

    # One at a time: a second batch would wait for the first one's row locks, and make the batches smaller.
    return Batcher(
        "ledger",
        process,
        batch_max=settings.ledger_batch_max,
        queue_max=settings.ledger_queue_max,
        concurrency=1,
        weigh=orders.weight,
        weight_max=manual.LEGS_MAX,
    )


def _together(db: Database, watches: Watches) -> Batcher[Sequence[Item], Sequence[Outcome]]:
    async def process(groups: Sequence[Sequence[Item]]) -> Sequence[Sequence[Outcome]]:
        (items,) = groups
        outcomes = await posting.apply_steps(db, items, together=True)
        if watches.any:
            watches.touched(posting.touched(items, outcomes))
        return [outcomes]

    # A transaction each, beside those of single steps: a group is as large as a batch, and no other must fail with it.
    return Batcher("journals_together", process, batch_max=1, queue_max=_GROUPS_MAX)


def _balances(db: Database) -> Batcher[BalanceKey, Balance | None]:
    async def process(keys: Sequence[BalanceKey]) -> Sequence[Balance | BaseException | None]:
        return await db.run({key[0] for key in keys}, lambda conn: store.balances(conn, keys), read_only=True)

    return Batcher("balances", process, concurrency=_BALANCE_READS_MAX)


def _watches(settings: Settings, db: Database) -> Watches:
    async def read(keys: Sequence[Key]) -> Sequence[Balance | None]:
        wanted = [(tenant, account, None) for tenant, account in keys]
        return await db.run({key[0] for key in keys}, lambda conn: store.balances(conn, wanted), read_only=True)

    return Watches(
        read,
        poll_seconds=settings.watch_poll_seconds,
        streams_max=settings.watches_max,
        subject_streams_max=settings.watches_per_subject_max,
    )


async def _expire_overdraft_changes(db: Database, due: asyncio.Event) -> None:
    """Ends the changes whose time is over. They are no longer approved from then on, whether or not this was quick."""

    async def work(conn: AsyncConnection) -> int:
        return await overdraft_operations.expire_overdraft_changes(conn, clock.now(), limit=_EXPIRED_AT_ONCE)

    while True:
        due.clear()
        if await db.run(ALL_TENANTS, work) < _EXPIRED_AT_ONCE:
            await wait_at_most(due, _OVERDRAFT_EXPIRY_SECONDS)


async def _expire_holds(
    db: Database, ledger: Batcher[Item, ledger_service_pb2.StepOutcome], every_seconds: float, due_now: asyncio.Event
) -> None:
    """Ends the holds whose time is over. They are no longer consumed from then on, whether or not this was quick."""

    async def expired(conn: AsyncConnection) -> list[tuple[str, str]]:
        return await ledger_store.expired_holds(conn, clock.now(), _EXPIRED_AT_ONCE)

    while True:
        due_now.clear()
        due = await db.run(ALL_TENANTS, expired, read_only=True)
        outcomes = await ledger.submit_all([Item(Expire(tenant, key)) for tenant, key in due], bulk=True)
        for failure in (outcome for outcome in outcomes if isinstance(outcome, BaseException)):
            raise failure  # the worker is started again
        if len(due) < _EXPIRED_AT_ONCE:
            await wait_at_most(due_now, every_seconds)


def _past_balances(db: Database) -> Batcher[PastKey, PastBalance | None]:
    """Of its own: a balance of the past takes longer, and the present one must not wait for it."""

    async def process(keys: Sequence[PastKey]) -> Sequence[PastBalance | BaseException | None]:
        return await db.run(
            {key[0] for key in keys}, lambda conn: moments_store.each_balance(conn, keys), read_only=True
        )

    return Batcher("past_balances", process, batch_max=_PAST_BATCH_MAX, concurrency=_PAST_READS_MAX)


async def _watch_balance(db: Database, every_seconds: float) -> None:
    """INV-1 over whole tenants: an alarm that constraints make impossible, and so worth having."""

    async def work(conn: AsyncConnection) -> int:
        await allow_long_statements(conn)
        return await sums_store.imbalances(conn)

    while True:
        wrong = await db.run(ALL_TENANTS, work, read_only=True, long=True)
        IMBALANCES.set(wrong)
        if wrong:
            _log.error("the ledger does not balance", pairs_of_tenant_and_currency=wrong)
        await asyncio.sleep(every_seconds)
