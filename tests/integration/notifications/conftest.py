"""A database and a running notifications service for the tests of this folder, and words to talk to them."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_status import rpc_status
from sqlalchemy.ext.asyncio import AsyncConnection

from florin.accounts.v1 import events_pb2 as accounts_events
from florin.notifications.v1 import notification_service_pb2 as pb
from florin.notifications.v1 import webhook_pb2
from florin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from local import issuer
from meshkit import clock, lifecycle
from meshkit.database import ALL_TENANTS, Database
from meshkit.envelopes import Incoming
from meshkit.errors import error_info
from meshkit.outbox import subject_of
from notifications import operations
from notifications.app import build
from notifications.clients import Resolve, WebhookSender
from notifications.delivery import DeliveryWorker
from notifications.settings import Settings
from tests.integration.notifications.listener import Listener, listening
from tests.support import parts as real
from tests.support.parts import eventually
from tests.support.tokens import claims

PENDING = webhook_pb2.Delivery.DELIVERY_STATE_PENDING
DELIVERED = webhook_pb2.Delivery.DELIVERY_STATE_DELIVERED
FAILED = webhook_pb2.Delivery.DELIVERY_STATE_FAILED
ENABLED = webhook_pb2.WebhookEndpoint.ENDPOINT_STATE_ENABLED
DISABLED = webhook_pb2.WebhookEndpoint.ENDPOINT_STATE_DISABLED

ANNA = {"role": "customer", "customer": "customers/anna"}
BEN = {"role": "customer", "customer": "customers/ben"}

ENDPOINTS_MAX = 3
"""How many endpoints a customer may have in these tests."""


@dataclass(slots=True)
class Service:
    """The service as its callers see it, in a tenant of its own, and what its workers do, one at a time."""

    parts: real.Parts
    db: Database
    settings: Settings
    stub: NotificationServiceStub
    tenant: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:12]}")

    def metadata(self, role: str = "operator", *, scopes: str = "", **who: Any) -> tuple[tuple[str, str], ...]:
        """What a call of a role carries, or of a colleague with these scopes alone."""
        if scopes:
            token = issuer.sign(self.parts.state, claims(tenant=self.tenant, scope=scopes))
        else:
            token = issuer.mint(self.parts.state, role, **{"tenant": self.tenant, **who})
        return (("authorization", f"Bearer {token}"),)

    async def call(self, method: str, request: Any, **who: Any) -> Any:
        """Calls a method as a role, the operator if none is named."""
        return await getattr(self.stub, method)(request, metadata=self.metadata(**who), timeout=10)

    async def create(self, url: str, *, who: dict[str, Any] | None = None, **values: Any) -> Any:
        """A new endpoint's answer, with its secret."""
        request = pb.CreateWebhookEndpointRequest(url=url, **values)
        return await self.call("CreateWebhookEndpoint", request, **(who or {}))

    async def endpoint(self, name: str, **who: Any) -> webhook_pb2.WebhookEndpoint:
        """An endpoint as it is shown."""
        found: webhook_pb2.WebhookEndpoint = (
            await self.call("GetWebhookEndpoint", pb.GetWebhookEndpointRequest(name=name), **who)
        ).endpoint
        return found

    async def deliveries(self, endpoint: str, **values: Any) -> list[webhook_pb2.Delivery]:
        """An endpoint's deliveries, the newest first."""
        return list(
            (await self.call("ListDeliveries", pb.ListDeliveriesRequest(endpoint=endpoint, **values))).deliveries
        )

    async def settled(
        self, endpoint: str, state: webhook_pb2.Delivery.DeliveryState.ValueType = DELIVERED, *, attempts: int = 1
    ) -> webhook_pb2.Delivery:
        """The endpoint's only delivery, once it is in a state after so many attempts, the last of which has ended."""

        async def found() -> webhook_pb2.Delivery | None:
            (delivery,) = await self.deliveries(endpoint)
            made = list(delivery.attempts)
            ended = len(made) == attempts and (made[-1].http_status or made[-1].error)
            return delivery if delivery.state == state and ended else None

        delivery: webhook_pb2.Delivery = await eventually(found)
        return delivery

    async def tell(self, *messages: Message, tenant: str = "") -> list[str]:
        """Records events as the consumer does, in one transaction; gives their ids."""
        events = [incoming(tenant or self.tenant, message) for message in messages]
        await self.record(*events)
        return [str(event.id) for event in events]

    async def record(self, *events: Incoming) -> int:
        """Handles events as they come from the bus; gives how many deliveries they made."""
        tenants = {event.tenant for event in events}
        return await self.db.run(tenants, lambda conn: operations.record_events(conn, events))

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a statement gives, over the rows of this tenant."""

        async def work(conn: AsyncConnection) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await conn.exec_driver_sql(sql, tuple(parameters))]

        return await self.db.run(self.tenant, work)

    async def hurry(self) -> None:
        """Makes every pending delivery due now, as if its wait or its lease was over."""
        await self.rows("UPDATE deliveries SET due_time = clock_timestamp() WHERE state = 1 RETURNING 1")

    @asynccontextmanager
    async def sending(self, resolve: Resolve | None = None, **changes: Any) -> AsyncIterator[WebhookSender]:
        """A sender, as a replica has one."""
        async with WebhookSender.open(self.settings.model_copy(update=changes), resolve) as sender:
            yield sender

    @asynccontextmanager
    async def delivering(
        self, sender: operations.Sender | None = None, **changes: Any
    ) -> AsyncIterator[DeliveryWorker]:
        """One replica's delivery worker runs."""
        settings = self.settings.model_copy(update=changes)
        async with contextlib.AsyncExitStack() as stack:
            if sender is None:
                sender = await stack.enter_async_context(self.sending(**changes))
            worker = DeliveryWorker(self.db, sender, settings)
            task = asyncio.create_task(worker.run())
            try:
                yield worker
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def opened(account: str = "a", *customers: str) -> accounts_events.AccountOpened:
    """An event that the named customers may see; Anna, if none is named."""
    names = customers or ("anna",)
    return accounts_events.AccountOpened(
        account=f"accounts/{account}", customers=[f"customers/{name}" for name in names], currency_code="EUR"
    )


def incoming(tenant: str, message: Message, **changes: Any) -> Incoming:
    """An event as it arrives."""
    subject = subject_of(message)
    event = Incoming(
        id=uuid.uuid4(),
        type=subject,
        source=f"//florin/{subject.split('.')[1]}",
        tenant=tenant,
        aggregate=getattr(message, "account", "") or "aggregates/x",
        version=1,
        time=clock.now(),
        traceparent="",
        data=message.SerializeToString(),
        again=False,
    )
    return replace(event, **changes)


@asynccontextmanager
async def refused(reason: str) -> AsyncIterator[dict[str, str]]:
    """Expects the block to be refused for a reason; gives its metadata afterwards."""
    metadata: dict[str, str] = {}
    try:
        yield metadata
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        info = error_info(status) if status is not None else None
        assert info is not None, error
        assert info.reason == reason
        metadata.update(info.metadata)
        return
    raise AssertionError(f"nothing was refused for {reason}")


@asynccontextmanager
async def started(
    parts: real.Parts, database: str, *, workers: bool = False, **changes: Any
) -> AsyncIterator[tuple[Settings, int]]:
    """A replica, served as in production on ports picked by the system; without `workers` nothing runs by itself."""
    values = {
        "webhook_allow_loopback": True,
        "webhook_ca_file": parts.state.ca,  # the system's hundred authorities take long to read, for every sender
        "webhook_poll_seconds": 0.05,
        "webhook_backoff_base_seconds": 0.02,
        "webhook_endpoints_max": ENDPOINTS_MAX,
        "stream_poll_seconds": 0.05,
        **changes,
    }
    settings: Settings = real.settings_for(parts, Settings, database, **values)

    @asynccontextmanager
    async def built(given: Settings) -> AsyncIterator[lifecycle.Parts]:
        async with build(given) as made:
            yield made if workers else replace(made, workers={})

    async with lifecycle.running(settings, built) as running:
        yield settings, running.grpc_port


@asynccontextmanager
async def connected(parts: real.Parts, port: int) -> AsyncIterator[NotificationServiceStub]:
    """The edge's connection to a replica."""
    certificate, key = parts.state.certificate("edge")
    credentials = grpc.ssl_channel_credentials(parts.state.ca.read_bytes(), key.read_bytes(), certificate.read_bytes())
    options = [("grpc.ssl_target_name_override", "notifications")]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        yield NotificationServiceStub(channel)


@asynccontextmanager
async def serving(
    parts: real.Parts, database: str, **values: Any
) -> AsyncIterator[tuple[Settings, NotificationServiceStub]]:
    """A replica that is `started`, and a connection to it."""
    async with started(parts, database, **values) as (settings, port), connected(parts, port) as stub:
        yield settings, stub


@pytest.fixture(scope="session")
def notifications_database(parts: real.Parts) -> str:
    """A migrated database of the service."""
    return real.fresh_database(parts, "notifications")


@pytest.fixture(scope="session")
async def replica(parts: real.Parts, notifications_database: str) -> AsyncIterator[Service]:
    """The service without its workers: the tests run them when they want."""
    async with serving(parts, notifications_database) as (settings, stub), Database.open(settings) as db:
        yield Service(parts, db, settings, stub)


@pytest.fixture
async def service(replica: Service) -> Service:
    """The service in a new tenant, and no endpoint of another test left: a delivery worker serves all tenants."""

    async def work(conn: AsyncConnection) -> None:
        await conn.exec_driver_sql("DELETE FROM webhook_endpoints")

    await replica.db.run(ALL_TENANTS, work)
    return Service(replica.parts, replica.db, replica.settings, replica.stub)


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    """A webhook receiver on loopback."""
    async with listening() as started:
        yield started
