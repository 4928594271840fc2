"""The composition root of the transactions service: the only module that builds its parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from florin.transactions.v1 import (
    exchange_service_pb2_grpc,
    fee_service_pb2_grpc,
    payment_file_service_pb2_grpc,
    rail_service_pb2_grpc,
    schedule_service_pb2_grpc,
    transfer_service_pb2_grpc,
)
from meshkit import channels
from meshkit import parts as kit
from meshkit.bus import Bus
from meshkit.database import Database
from meshkit.inbox import Consumer, Handler
from meshkit.lifecycle import Parts
from transactions import consumers
from transactions.clients import LedgerClient, ScreeningClient
from transactions.exchange_rpc import ExchangeServicer
from transactions.fee_rpc import FeeServicer
from transactions.file_operations import PaymentFiles
from transactions.file_rpc import PaymentFileServicer
from transactions.file_worker import FileWorker
from transactions.operations import Transfers
from transactions.passes import Passes
from transactions.ports import Ledger, Screening
from transactions.rail_deposits import Deposits
from transactions.rail_operations import Rails
from transactions.rail_rpc import RailServicer
from transactions.rail_worker import RailWorker
from transactions.rails.port import Rail
from transactions.recovery import Recovery
from transactions.rpc import TransferServicer
from transactions.schedule_rpc import ScheduleServicer
from transactions.scheduler import Scheduler
from transactions.settings import Settings
from transactions.streams import Streams
from transactions.tariffs import Tariffs
from transactions.waiters import Waiters


@asynccontextmanager
async def build(settings: Settings) -> AsyncIterator[Parts]:
    """The parts with the real accounts and compliance."""
    timeout_s = settings.step_timeout_ms / 1000
    async with (
        channels.connect(settings, settings.accounts_target, "accounts") as accounts,
        channels.connect(settings, settings.compliance_target, "compliance") as compliance,
        build_with(settings, LedgerClient(accounts, timeout_s), ScreeningClient(compliance, timeout_s)) as parts,
    ):
        yield parts


@asynccontextmanager
async def build_with(settings: Settings, ledger: Ledger, screening: Screening) -> AsyncIterator[Parts]:
    """The parts with any ledger and screening; tests bring their own."""
    async with Database.open(settings) as db, Bus.open(settings) as bus:
        waiters = Waiters()
        passes = Passes(db, ledger, screening, settings, on_change=waiters.changed)
        recovery = Recovery(db, passes, settings)
        tariffs = Tariffs(db, settings.fee_schedule_refresh_ms / 1000)
        transfers = Transfers(db, passes, ledger, waiters, tariffs, settings)
        scheduler = Scheduler(db, transfers.orders, settings)
        streams = Streams(transfers, settings)
        file_worker = FileWorker(db, transfers.orders, settings)
        file_servicer = PaymentFileServicer(PaymentFiles(db, waiters, settings, on_due=file_worker.wake))
        servicer = TransferServicer(transfers, streams, ledger, screening)
        schedules = ScheduleServicer(db, ledger, settings, on_change=scheduler.wake)
        fees = FeeServicer(db, ledger)
        exchange = ExchangeServicer(db, ledger, settings)
        deposits = Deposits(db, transfers.orders, ledger, settings)
        rail_worker = RailWorker(db, transfers.orders, deposits, _rail(settings), settings)
        rails = Rails(db, transfers.orders, ledger, settings, on_due=rail_worker.wake)
        rail_servicer = RailServicer(db, rails, ledger, rail_worker)
        cases = _consumer(bus, db, recovery, "compliance", consumers.handle)
        ledgers = _consumer(bus, db, recovery, "accounts", consumers.handle_accounts)

        async def drain() -> None:
            await waiters.drain()
            await streams.drain()

        yield Parts(
            services={
                "florin.transactions.v1.TransferService": lambda server: (
                    transfer_service_pb2_grpc.add_TransferServiceServicer_to_server(servicer, server)
                ),
                "florin.transactions.v1.ScheduleService": lambda server: (
                    schedule_service_pb2_grpc.add_ScheduleServiceServicer_to_server(schedules, server)
                ),
                "florin.transactions.v1.FeeService": lambda server: (
                    fee_service_pb2_grpc.add_FeeServiceServicer_to_server(fees, server)
                ),
                "florin.transactions.v1.ExchangeService": lambda server: (
                    exchange_service_pb2_grpc.add_ExchangeServiceServicer_to_server(exchange, server)
                ),
                "florin.transactions.v1.PaymentFileService": lambda server: (
                    payment_file_service_pb2_grpc.add_PaymentFileServiceServicer_to_server(file_servicer, server)
                ),
                "florin.transactions.v1.RailService": lambda server: (
                    rail_service_pb2_grpc.add_RailServiceServicer_to_server(rail_servicer, server)
                ),
            },
            workers={
                **kit.workers(settings, db, bus),
                "transfers": transfers.orders.run,
                "fee-schedules": tariffs.run,
                "recovery": recovery.run,
                "schedules": scheduler.run,
                "payment-files": file_worker.run,
                "rail": rail_worker.run,
                "accounts-events": ledgers.run,
                "compliance-events": cases.run,
            },
            checks=kit.checks(settings, db),
            recover=recovery.before_ready,
            on_drain=drain,
            on_clock_move=(recovery.wake, scheduler.wake),
        )


def _rail(settings: Settings) -> Rail | None:
    """The rail that is set up, if one is."""
    if settings.rail_folder is None:
        return None
    # Imported here: XML is a tenth of a second that a start without a rail need not wait for.
    from transactions.rails.folder import FolderRail

    return FolderRail(
        settings.rail_folder, settings.rail_bic, settings.business_time_zone, settings.rail_settle_seconds
    )


def _consumer(bus: Bus, db: Database, recovery: Recovery, stream: str, handle: Handler) -> Consumer:
    """A consumer of events that make transfers due; the latest event of an aggregate tells it all."""
    return Consumer(
        bus,
        db,
        stream=stream,
        durable="transactions",
        handle=handle,
        gap_seconds=None,
        after_commit=recovery.wake,
    )
