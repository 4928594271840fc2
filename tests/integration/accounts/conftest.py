"""A database and a running accounts service for the tests of this folder, and words to talk to them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from grpc_status import rpc_status

from accounts import posting, store
from accounts.app import build
from accounts.book import Actor, Leg, Place, Post, Step
from accounts.model import Account, AccountState, AccountType, Balance, JournalKind, Tenant
from accounts.posting import Item
from accounts.settings import Settings
from florin.accounts.v1 import account_service_pb2 as pb
from florin.accounts.v1.account_service_pb2_grpc import AccountServiceStub
from florin.accounts.v1.balance_service_pb2_grpc import BalanceServiceStub
from florin.accounts.v1.journal_service_pb2_grpc import JournalServiceStub
from florin.accounts.v1.ledger_service_pb2_grpc import LedgerServiceStub
from florin.accounts.v1.overdraft_service_pb2_grpc import OverdraftServiceStub
from florin.common.v1 import money_pb2
from local import issuer
from meshkit import clock, lifecycle
from meshkit.database import Database
from meshkit.errors import reason_name, reason_of
from tests.support import parts as real

STAFF = Actor(customer=None, may_fund=False)
FUNDER = Actor(customer=None, may_fund=True)


@pytest.fixture(scope="session")
def database(parts: real.Parts) -> str:
    """A migrated database of the service."""
    return real.fresh_database(parts, "accounts")


@pytest.fixture(scope="session")
def settings(parts: real.Parts, database: str) -> Settings:
    """The service's settings on that database."""
    made: Settings = real.settings_for(parts, Settings, database)
    return made


@pytest.fixture(scope="session")
async def db(settings: Settings) -> AsyncIterator[Database]:
    """The database as the runtime role sees it."""
    async with Database.open(settings) as opened:
        yield opened


@dataclass(slots=True)
class Ledger:
    """A tenant of its own, and steps on its accounts."""

    db: Database
    tenant: str

    async def open(self, name: str, posted: int = 0, **changes: Any) -> None:
        """Opens an active account in EUR, with money on it if asked."""
        now = clock.now()
        values: dict[str, Any] = {"type": AccountType.INTERNAL, "state": AccountState.ACTIVE, "currency": "EUR"}
        values.update(changes)
        account = Account(
            tenant=self.tenant,
            id=name,
            display_name="",
            balance=Balance(values["currency"], 0, 0, values.pop("overdraft_limit", 0), 0),
            freeze_reason="",
            version=1,
            create_time=now,
            update_time=now,
            owners=(),
            identifiers=(),
            **values,
        )

        async def work(conn: Any) -> None:
            await store.add_account(conn, account)

        await self.db.run(self.tenant, work)
        if posted:
            await self.apply(self.post(("bank", -posted), (name, posted), actor=FUNDER))

    def post(self, *legs: tuple[str, int], key: str = "", actor: Actor = STAFF, hold: str = "") -> Post:
        """A journal of (account, amount) legs in EUR."""
        return Post(
            tenant=self.tenant,
            key=key or str(uuid.uuid4()),
            actor=actor,
            kind=JournalKind.TRANSFER,
            origin="transfers/t",
            legs=tuple(Leg(f"accounts/{name}", "EUR", amount) for name, amount in legs),
            hold_key=hold,
        )

    def place(self, name: str, amount: int, key: str = "") -> Place:
        """A hold in EUR."""
        key = key or str(uuid.uuid4())
        return Place(self.tenant, key, STAFF, "transfers/t", f"accounts/{name}", "EUR", amount)

    async def apply(self, *steps: Step) -> list[Any]:
        """Applies the steps in one batch."""
        return list(await posting.apply_steps(self.db, [Item(step) for step in steps]))

    async def balance(self, name: str) -> Balance:
        """What stands on an account."""
        found = await self.db.run(self.tenant, lambda conn: store.balances(conn, [(self.tenant, name, None)]))
        assert found[0] is not None
        return found[0]

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the tenant."""

        async def work(conn: Any) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await conn.exec_driver_sql(sql)]

        return await self.db.run(self.tenant, work)

    async def check_books(self) -> None:
        """INV-1, INV-2 and INV-3, from the rows."""
        unbalanced = await self.rows("SELECT journal FROM entries GROUP BY journal, currency HAVING sum(amount) <> 0")
        drifting = await self.rows(
            "SELECT account FROM accounts AS a LEFT JOIN (SELECT tenant, account, sum(amount) AS total,"
            " count(*) AS number, max(sequence) AS last FROM entries GROUP BY 1, 2) AS e USING (tenant, account)"
            " WHERE a.posted <> coalesce(total, 0) OR a.sequence <> coalesce(number, 0)"
            " OR a.sequence <> coalesce(last, 0)"
        )
        broken = await self.rows(
            "SELECT account, sequence FROM (SELECT account, sequence, balance_after, sum(amount)"
            " OVER (PARTITION BY account ORDER BY sequence) AS running FROM entries) AS e"
            " WHERE running <> balance_after"
        )
        held = await self.rows(
            "SELECT account FROM accounts AS a WHERE held <> (SELECT coalesce(sum(amount), 0) FROM holds AS h"
            " WHERE h.tenant = a.tenant AND h.account = a.account AND h.state = 1)"
        )
        assert (unbalanced, drifting, broken, held) == ([], [], [], [])


async def new_ledger(db: Database, time_zone: str = "UTC") -> Ledger:
    """A new tenant with a settlement account "bank"."""
    made = Ledger(db, f"t{uuid.uuid4().hex[:12]}")

    async def work(conn: Any) -> None:
        await store.add_tenant(conn, Tenant(made.tenant, "", time_zone, clock.now()))

    await db.run(made.tenant, work)
    await made.open("bank", type=AccountType.SETTLEMENT)
    return made


@pytest.fixture
async def ledger(db: Database) -> Ledger:
    """A new tenant with a settlement account "bank"."""
    return await new_ledger(db)


@pytest.fixture
async def second_ledger(db: Database) -> Ledger:
    """Another tenant with a settlement account "bank"."""
    return await new_ledger(db)


@dataclass(slots=True)
class Service:
    """The service as its callers see it: the edge with users' tokens, and transactions."""

    parts: real.Parts
    public: AccountServiceStub
    internal: LedgerServiceStub
    transactions_on_public: AccountServiceStub
    edge_on_internal: LedgerServiceStub
    overdrafts: OverdraftServiceStub
    balances: BalanceServiceStub
    journals: JournalServiceStub
    tenant: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:12]}")

    def token(self, role: str, **claims: Any) -> tuple[tuple[str, str], ...]:
        """The metadata of a role's call."""
        token = issuer.mint(self.parts.state, role, tenant=claims.pop("tenant", self.tenant), **claims)
        return (("authorization", f"Bearer {token}"),)

    async def call(self, method: str, request: Any, role: str = "operator", **claims: Any) -> Any:
        """Calls a public method as a role."""
        stubs = (self.public, self.overdrafts, self.balances, self.journals)
        stub = next(stub for stub in stubs if hasattr(stub, method))
        return await getattr(stub, method)(request, metadata=self.token(role, **claims), timeout=5)

    async def customer(self, name: str, display_name: str = "Acme") -> None:
        """Records a customer."""
        request = pb.CreateCustomerRequest(customer_id=name, display_name=display_name)
        await self.call("CreateCustomer", request, "teller")

    async def account(self, name: str, owner: str = "", type_: int = 1, **values: Any) -> Any:
        """Opens an account in EUR."""
        request = pb.CreateAccountRequest(
            account_id=name,
            customers=[f"customers/{owner}"] if owner else [],
            type=type_,  # type: ignore[arg-type]
            currency_code=values.pop("currency_code", "EUR"),
            **values,
        )
        return (await self.call("CreateAccount", request, "teller")).account

    def fund(self, account: str, amount: int, request_id: str, **values: Any) -> pb.FundAccountRequest:
        """A request to move money in from "bank"."""
        return pb.FundAccountRequest(
            account=f"accounts/{account}",
            settlement_account=f"accounts/{values.pop('settlement', 'bank')}",
            amount=money_pb2.Money(currency_code=values.pop("currency_code", "EUR"), minor_units=amount),
            request_id=request_id,
            **values,
        )


@asynccontextmanager
async def channel(parts: real.Parts, identity: str, port: int) -> AsyncIterator[grpc.aio.Channel]:
    """A mutually authenticated channel as an identity of the mesh."""
    certificate, key = parts.state.certificate(identity)
    credentials = grpc.ssl_channel_credentials(parts.state.ca.read_bytes(), key.read_bytes(), certificate.read_bytes())
    options = [("grpc.ssl_target_name_override", "accounts")]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as opened:
        yield opened


@pytest.fixture(scope="session")
async def running(parts: real.Parts, settings: Settings) -> AsyncIterator[lifecycle.Running]:
    """The service, served as in production, on ports picked by the system."""
    async with lifecycle.running(settings, build) as service:
        yield service


@pytest.fixture
async def service(parts: real.Parts, running: lifecycle.Running) -> AsyncIterator[Service]:
    """The service with a new tenant."""
    async with (
        channel(parts, "edge", running.grpc_port) as edge,
        channel(parts, "transactions", running.grpc_port) as transactions,
    ):
        made = Service(
            parts,
            AccountServiceStub(edge),
            LedgerServiceStub(transactions),
            AccountServiceStub(transactions),
            LedgerServiceStub(edge),
            OverdraftServiceStub(edge),
            BalanceServiceStub(edge),
            JournalServiceStub(edge),
        )
        await made.call("CreateTenant", pb.CreateTenantRequest(tenant_id=made.tenant, time_zone="Europe/Vienna"))
        yield made


def reason(status: status_pb2.Status) -> str:
    """The reason in a status."""
    return reason_name(reason_of(status))


async def refusal(call: Any) -> str:
    """The reason that an awaited call is refused with; fails when it is not."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    return reason(status)
