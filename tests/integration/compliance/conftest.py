"""A database and a running compliance service for the tests of this folder, and words to talk to them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_status import rpc_status

from compliance import consumers
from compliance.app import build
from compliance.screening_store import IMBALANCES
from compliance.settings import Settings
from florin.accounts.v1 import events_pb2 as accounts_events
from florin.common.v1 import money_pb2, principal_pb2
from florin.compliance.v1 import compliance_service_pb2 as pb
from florin.compliance.v1 import decision_pb2, policy_pb2
from florin.compliance.v1 import screening_service_pb2 as screening_pb
from florin.compliance.v1.compliance_service_pb2_grpc import ComplianceServiceStub
from florin.compliance.v1.screening_service_pb2_grpc import ScreeningServiceStub
from florin.transactions.v1 import events_pb2 as transactions_events
from local import issuer
from meshkit import clock, lifecycle
from meshkit.database import Database
from meshkit.envelopes import Incoming
from meshkit.errors import error_info
from meshkit.outbox import subject_of
from tests.support import parts as real

ALLOW = decision_pb2.DECISION_OUTCOME_ALLOW
DECLINE = decision_pb2.DECISION_OUTCOME_DECLINE
REVIEW = decision_pb2.DECISION_OUTCOME_REVIEW


@dataclass(slots=True)
class Service:
    """The service as its callers see it, in a tenant of its own."""

    parts: real.Parts
    db: Database
    public: ComplianceServiceStub
    internal: ScreeningServiceStub
    tenant: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:12]}")

    async def call(self, method: str, request: Any, role: str = "operator", **claims: Any) -> Any:
        """Calls a public method as a role."""
        token = issuer.mint(self.parts.state, role, tenant=self.tenant, **claims)
        metadata = (("authorization", f"Bearer {token}"),)
        return await getattr(self.public, method)(request, metadata=metadata, timeout=10)

    def step(self, amount: int = 100, customer: str = "anna", **values: Any) -> screening_pb.ScreeningStep:
        """A step to screen, in EUR; `customer` is who pays, empty for the bank."""
        return screening_pb.ScreeningStep(
            key=values.pop("key", str(uuid.uuid4())),
            principal=principal_pb2.Principal(
                tenant=self.tenant,
                subject=values.pop("subject", "payer"),
                customer=f"customers/{customer}" if customer else "",
            ),
            transfer=values.pop("transfer", f"transfers/{uuid.uuid4()}"),
            debit_account="accounts/from",
            credit_account="accounts/to",
            debit_customers=[f"customers/{customer}"] if customer else [],
            amount=money_pb2.Money(currency_code=values.pop("currency", "EUR"), minor_units=amount),
            **values,
        )

    async def screen(self, *steps: screening_pb.ScreeningStep, validate_only: bool = False) -> list[Any]:
        """The outcomes of steps."""
        request = screening_pb.ScreenTransfersRequest(steps=steps, validate_only=validate_only)
        return list((await self.internal.ScreenTransfers(request, timeout=10)).outcomes)

    async def consume(self, *messages: Message) -> None:
        """Handles events in one transaction, as the kit's consumer does."""
        publisher = subject_of(messages[0]).split(".")[1]
        handle = consumers.on_accounts if publisher == "accounts" else consumers.on_transactions(self.db.cipher)
        events = [incoming(self.tenant, message) for message in messages]
        await self.db.run(self.tenant, lambda conn: handle(conn, events))

    async def end(self, transfer: str, *, completed: bool) -> None:
        """The transfer's own event."""
        kind = transactions_events.TransferCompleted if completed else transactions_events.TransferDeclined
        await self.consume(kind(transfer=transfer))

    async def know(self, *customers: str) -> None:
        """Customers as accounts tells of them."""
        await self.consume(*(accounts_events.CustomerCreated(customer=f"customers/{name}") for name in customers))

    async def verified(self, *customers: str, legal_name: str = "Anna Example") -> None:
        """Customers whose identity a teller handed in and an officer verified."""
        await self.know(*customers)
        for name in customers:
            submission = pb.SubmitKycRequest(customer=f"customers/{name}", legal_name=legal_name, country_code="AT")
            await self.call("SubmitKyc", submission, "teller")
            await self.call("VerifyCustomer", pb.VerifyCustomerRequest(name=f"kycProfiles/{name}"), "compliance")

    async def limit(
        self, kind: policy_pb2.LimitKind.ValueType, maximum: int, customer: str = "", currency: str = "EUR"
    ) -> Any:
        """Sets a limit."""
        limit = policy_pb2.Limit(
            kind=kind,
            customer=f"customers/{customer}" if customer else "",
            maximum=money_pb2.Money(currency_code=currency, minor_units=maximum),
        )
        return (await self.call("SetLimit", pb.SetLimitRequest(limit=limit))).limit

    async def rule(self, expression: str, outcome: policy_pb2.RuleOutcome.ValueType, rule_id: str = "r") -> Any:
        """Sets an enabled rule."""
        rule = policy_pb2.Rule(expression=expression, outcome=outcome, enabled=True)
        return (await self.call("SetRule", pb.SetRuleRequest(rule_id=rule_id, rule=rule))).rule

    async def watchlist(self, sdn: str, alt: str = "", list_id: str = "sdn") -> Any:
        """Imports a watchlist from texts."""
        files = [(pb.ImportWatchlistRequest.FILE_SDN, sdn), (pb.ImportWatchlistRequest.FILE_ALT, alt)]
        requests = [pb.ImportWatchlistRequest(watchlist_id=list_id)]
        for file, text in files:
            data = text.encode()
            requests += [
                pb.ImportWatchlistRequest(
                    chunk=pb.ImportWatchlistRequest.Chunk(file=file, data=data[start : start + 50])
                )
                for start in range(0, len(data), 50)
            ]
        return (await self.call("ImportWatchlist", iter(requests))).watchlist

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of the tenant."""

        async def work(conn: Any) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await conn.exec_driver_sql(sql, tuple(parameters))]

        return await self.db.run(self.tenant, work)

    async def check_usage(self) -> None:
        """INV-8, from the rows."""
        since = (clock.now() - timedelta(days=3)).date()
        assert await self.rows(IMBALANCES, (since, since)) == []

    async def used(self, customer: str = "anna") -> int:
        """What a customer used today, in EUR."""
        rows = await self.rows("SELECT sum(used) FROM limit_usage WHERE customer = %s", (customer,))
        return int(rows[0][0] or 0)

    async def events(self, aggregate: str) -> list[str]:
        """The events that were told of an aggregate, in order."""
        rows = await self.rows("SELECT subject FROM outbox WHERE aggregate = %s ORDER BY version", (aggregate,))
        return [row[0].removeprefix("florin.compliance.").removesuffix(".v1") for row in rows]


def incoming(tenant: str, message: Message) -> Incoming:
    """An event as it arrives."""
    subject = subject_of(message)
    return Incoming(
        id=uuid.uuid4(),
        type=subject,
        source=f"//florin/{subject.split('.')[1]}",
        tenant=tenant,
        aggregate="aggregates/x",
        version=1,
        time=clock.now(),
        traceparent="",
        data=message.SerializeToString(),
        again=False,
    )


@asynccontextmanager
async def refused(reason: str) -> AsyncIterator[dict[str, str]]:
    """Expects the block to be refused for a reason; gives its metadata afterwards."""
    metadata: dict[str, str] = {}
    try:
        yield metadata
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        info = error_info(status) if status is not None else None
        assert info is not None, error
        assert info.reason == reason
        metadata.update(info.metadata)
        return
    raise AssertionError(f"nothing was refused for {reason}")


@asynccontextmanager
async def channel(parts: real.Parts, identity: str, port: int) -> AsyncIterator[grpc.aio.Channel]:
    """A mutually authenticated channel as an identity of the mesh."""
    certificate, key = parts.state.certificate(identity)
    credentials = grpc.ssl_channel_credentials(parts.state.ca.read_bytes(), key.read_bytes(), certificate.read_bytes())
    options = [("grpc.ssl_target_name_override", "compliance")]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as opened:
        yield opened


@pytest.fixture(scope="session")
def compliance_database(parts: real.Parts) -> str:
    """A migrated database of the service."""
    return real.fresh_database(parts, "compliance")


@pytest.fixture(scope="session")
async def backend(parts: real.Parts, compliance_database: str) -> AsyncIterator[Service]:
    """The service, served as in production, on ports picked by the system."""
    settings: Settings = real.settings_for(
        parts, Settings, compliance_database, customer_wait_seconds=0.3, case_poll_seconds=0.1
    )
    async with (
        Database.open(settings) as db,
        lifecycle.running(settings, build) as running,
        channel(parts, "edge", running.grpc_port) as edge,
        channel(parts, "transactions", running.grpc_port) as transactions,
    ):
        yield Service(parts, db, ComplianceServiceStub(edge), ScreeningServiceStub(transactions))


@pytest.fixture
def service(backend: Service) -> Service:
    """The running service in a new tenant."""
    return Service(backend.parts, backend.db, backend.public, backend.internal)
