"""One replica of transactions on a real database, with accounts and compliance in memory."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from florin.transactions.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from florin.transactions.v1.transfer_service_pb2_grpc import TransferServiceStub
from local import issuer
from meshkit import lifecycle
from meshkit.database import ALL_TENANTS, Database
from meshkit.errors import error_info
from meshkit.identity import Call, Principal
from tests.integration.transactions.fakes import FakeLedger, FakeScreening
from tests.support.parts import Parts, fresh_database, settings_for
from tests.unit.transactions.making import TELLER
from transactions import store
from transactions.app import build_with
from transactions.model import Transfer, Verdict
from transactions.operations import Transfers
from transactions.passes import Passes
from transactions.recovery import Recovery
from transactions.scheduler import Scheduler
from transactions.settings import Settings
from transactions.tariffs import Tariffs
from transactions.waiters import Waiters


@dataclass
class Replica:
    """The parts of one replica, wired as app.py does."""

    db: Database
    settings: Settings
    ledger: FakeLedger
    screening: FakeScreening
    waiters: Waiters = field(default_factory=Waiters)

    def __post_init__(self) -> None:
        self.passes = Passes(self.db, self.ledger, self.screening, self.settings, on_change=self.waiters.changed)
        self.tariffs = Tariffs(self.db, self.settings.fee_schedule_refresh_ms / 1000)
        self.transfers = Transfers(self.db, self.passes, self.ledger, self.waiters, self.tariffs, self.settings)
        self.recovery = Recovery(self.db, self.passes, self.settings)
        self.scheduler = Scheduler(self.db, self.transfers.orders, self.settings)

    async def create(self, transfer: Transfer, seconds: float = 5.0) -> Transfer:
        """CreateTransfer with a deadline of some seconds."""
        return await self.transfers.orders.create(transfer, time.monotonic() + seconds)

    async def row(self, transfer: Transfer) -> Transfer:
        """The transfer as it is stored."""
        (found,) = await self.db.run(
            transfer.tenant,
            lambda conn: store.present(conn, self.db.cipher, [(transfer.tenant, transfer.id)]),
            read_only=True,
        )
        return found

    async def verdict(self, transfer: Transfer, verdict: Verdict) -> None:
        """What the consumer does with a CaseResolved."""
        await self.db.run(
            transfer.tenant, lambda conn: store.record_verdict(conn, [(transfer.tenant, transfer.id, verdict)])
        )

    async def query(self, statement: str) -> list[Any]:
        """Rows over all tenants."""

        async def work(conn: Any) -> list[Any]:
            return list(await conn.exec_driver_sql(statement))

        return await self.db.run(ALL_TENANTS, work)

    async def hurry(self) -> None:
        """Makes every open transfer due now, as if its lease was over."""
        await self.query("UPDATE transfers SET due_time = now() WHERE due_time IS NOT NULL RETURNING 1")


def call_of(principal: Principal = TELLER, request_id: str = "", method: str = "/test/Method") -> Call:
    """A call as the interceptor makes it."""
    return Call(method, "edge", principal, request_id, b"f" * 32, time.monotonic() + 5)


@asynccontextmanager
async def serving(replica: Replica) -> AsyncIterator[Replica]:
    """The replica with its batches running and fee schedules read once, and no recovery worker."""
    await replica.tariffs.refresh()
    worker = asyncio.create_task(replica.transfers.orders.run())
    try:
        yield replica
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


@pytest.fixture(scope="session")
def database(parts: Parts) -> str:
    """One database for all tests of the service: they use transfers of their own."""
    return fresh_database(parts, "transactions")


@pytest.fixture
async def replica(parts: Parts, database: str) -> AsyncIterator[Replica]:
    """A replica over an empty table; accounts/a has 10,000.00 EUR, accounts/b nothing."""
    settings = settings_for(
        parts, Settings, database, accounts_target="unused", compliance_target="unused", recovery_lease_ms=2000
    )
    ledger = FakeLedger()
    ledger.open("a", 1_000_000)
    ledger.open("b")
    ledger.open("poor")
    ledger.open("anna", 50_000, customers=("customers/anna",))
    ledger.open("yen", 50_000, currency="JPY")
    async with Database.open(settings) as db:
        made = Replica(db, settings, ledger, FakeScreening())
        await _empty(parts, database)
        async with serving(made):
            yield made


_TABLES = (
    "transfers", "schedules", "schedule_runs", "holiday_calendars", "outbox", "requests", "audit", "fee_schedules",
    "fee_schedule_versions", "exchange_rates", "exchange_rate_versions", "position_accounts", "quotes", "payment_files",
    "payment_file_items", "withdrawals", "rail_messages", "deposits", "rail_exceptions", "rail_files",
)  # fmt: skip
_FULL = " UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})" for table in _TABLES)


async def _empty(parts: Parts, database: str) -> None:
    """Empties those tables that have rows: each costs new files, of it and of its indexes."""
    import psycopg

    url = parts.url(database, f"{database}_owner").set(drivername="postgresql")
    dsn = url.render_as_string(hide_password=False)
    async with await psycopg.AsyncConnection.connect(dsn, options="-c florin.tenants=*") as conn:
        full = [row[0] for row in await (await conn.execute(_FULL)).fetchall()]
        if full:
            await conn.execute(f"TRUNCATE {', '.join(full)}")  # type: ignore[arg-type]


def states(transfers: Sequence[Transfer]) -> list[str]:
    """Their states."""
    return [transfer.state.value for transfer in transfers]


Refusal = tuple[str, str]


@dataclass
class Service:
    """A running service, and calls to it."""

    stubs: tuple[Any, ...]
    channel: grpc.aio.Channel
    state: Any
    ledger: FakeLedger
    screening: FakeScreening
    settings: Settings
    running: lifecycle.Running

    async def call(self, method: str, request: Any, *, role: str = "teller", **who: Any) -> Any:
        """The answer to a call of a role."""
        token = issuer.mint(self.state, role, **{"tenant": "service", **who})
        metadata = (("authorization", f"Bearer {token}"),)
        (stub,) = [stub for stub in self.stubs if hasattr(stub, method)]
        return await getattr(stub, method)(request, metadata=metadata, timeout=5)

    async def refused(self, method: str, request: Any, **who: Any) -> Refusal:
        """The code and reason of a refused call."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, request, **who)
        status = rpc_status.from_call(caught.value)
        info = error_info(status) if status is not None else None
        return caught.value.code().name, info.reason if info is not None else ""


def order(**changes: Any) -> pb.CreateTransferRequest:
    """A request for 10.00 EUR."""
    values = {
        "debit_account": "accounts/a",
        "credit_account": "accounts/b",
        "amount": money_pb2.Money(currency_code="EUR", minor_units=1000),
        "request_id": uuid.uuid4().hex,
        **changes,
    }
    return pb.CreateTransferRequest(**values)


@asynccontextmanager
async def served(parts: Parts, database: str, **changes: Any) -> AsyncIterator[Service]:
    """The whole service on the test's database, on a port of its own; `changes` are settings."""
    settings = settings_for(
        parts, Settings, database, accounts_target="unused", compliance_target="unused", recovery_poll_ms=20, **changes
    )
    ledger, screening = FakeLedger(), FakeScreening()
    ledger.open("a", 1_000_000)
    ledger.open("b")
    ledger.open("anna", 50_000, customers=("customers/anna",))

    @asynccontextmanager
    async def build(given: Settings) -> AsyncIterator[lifecycle.Parts]:
        async with build_with(given, ledger, screening) as made:
            yield made

    async with lifecycle.running(settings, build) as running:
        certificate, key = parts.state.certificate("edge")
        credentials = grpc.ssl_channel_credentials(
            parts.state.ca.read_bytes(), key.read_bytes(), certificate.read_bytes()
        )
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{running.grpc_port}", credentials, options=[("grpc.ssl_target_name_override", "transactions")]
        ) as channel:
            stubs = (TransferServiceStub(channel), ScheduleServiceStub(channel))
            yield Service(stubs, channel, parts.state, ledger, screening, settings, running)


@pytest.fixture
async def service(parts: Parts, database: str) -> AsyncIterator[Service]:
    """The whole service with the usual settings."""
    async with served(parts, database) as made:
        yield made
