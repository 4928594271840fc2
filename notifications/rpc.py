"""gRPC in: message to operation to message; it must not hold SQL or decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import grpc
from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncConnection

from florin.notifications.v1 import notification_service_pb2 as pb
from florin.notifications.v1 import notification_service_pb2_grpc as pb_grpc
from florin.notifications.v1 import webhook_pb2
from meshkit import clock, idempotency, identity, pages
from meshkit.database import Database
from meshkit.errors import DomainError, PageTokenInvalid, RequestInvalid, UpdateMaskInvalid
from notifications import operations
from notifications.model import Delivery, Endpoint, EndpointChange
from notifications.settings import Settings
from notifications.streams import Streams

_State = webhook_pb2.WebhookEndpoint.EndpointState
_MUTABLE = ("url", "event_types", "state", "description")
_FIRST_DELIVERY = (datetime.max.replace(tzinfo=UTC), 2**63 - 1)


class NotificationService(pb_grpc.NotificationServiceServicer):
    """florin.notifications.v1.NotificationService."""

    def __init__(self, db: Database, sender: operations.Sender, streams: Streams, settings: Settings) -> None:
        self._db = db
        self._sender = sender
        self._streams = streams
        self._settings = settings

    async def CreateWebhookEndpoint(
        self, request: pb.CreateWebhookEndpointRequest, context: object
    ) -> pb.CreateWebhookEndpointResponse:
        """See the contract."""
        call = identity.current()
        operations.check_event_types(request.event_types)
        forbidden = await self._refusal_of(request.url)
        new = operations.NewEndpoint(request.endpoint_id, request.url, tuple(request.event_types), request.description)
        minted = _Minted()

        async def work(conn: AsyncConnection) -> pb.CreateWebhookEndpointResponse:
            if forbidden is not None:
                raise forbidden
            endpoint, secret = await operations.create_webhook_endpoint(
                conn, call, self._db.cipher, new, endpoints_max=self._settings.webhook_endpoints_max
            )
            return minted.keep(pb.CreateWebhookEndpointResponse(endpoint=_endpoint(endpoint)), secret)

        answer = await idempotency.answer(self._db, call, pb.CreateWebhookEndpointResponse, work)
        answer.secret = minted.secret_of(answer)
        return answer

    async def GetWebhookEndpoint(
        self, request: pb.GetWebhookEndpointRequest, context: object
    ) -> pb.GetWebhookEndpointResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> Endpoint:
            return await operations.get_webhook_endpoint(conn, call, request.name)

        endpoint = await self._db.run(call.tenant, work, read_only=True)
        return pb.GetWebhookEndpointResponse(endpoint=_endpoint(endpoint))

    async def ListWebhookEndpoints(
        self, request: pb.ListWebhookEndpointsRequest, context: object
    ) -> pb.ListWebhookEndpointsResponse:
        """See the contract."""
        call, size = identity.current(), pages.size(request.page_size)
        whose = call.who.customer or ""
        key = pages.decode("webhookEndpoints", whose, request.page_token, [str])

        async def work(conn: AsyncConnection) -> list[Endpoint]:
            after = str(key[0]) if key else ""
            return await operations.list_webhook_endpoints(conn, call, after=after, limit=size + 1)

        found = await self._db.run(call.tenant, work, read_only=True)
        answer = pb.ListWebhookEndpointsResponse(endpoints=[_endpoint(one) for one in found[:size]])
        if len(found) > size:
            answer.next_page_token = pages.encode("webhookEndpoints", whose, [found[size - 1].id])
        return answer

    async def UpdateWebhookEndpoint(
        self, request: pb.UpdateWebhookEndpointRequest, context: object
    ) -> pb.UpdateWebhookEndpointResponse:
        """See the contract."""
        call = identity.current()
        change = _change(request)
        operations.check_event_types(change.event_types or ())
        forbidden = None if change.url is None else await self._refusal_of(change.url)

        async def work(conn: AsyncConnection) -> pb.UpdateWebhookEndpointResponse:
            if forbidden is not None:
                raise forbidden
            name, etag = request.endpoint.name, request.endpoint.etag
            endpoint = await operations.update_webhook_endpoint(conn, call, name, change, etag)
            return pb.UpdateWebhookEndpointResponse(endpoint=_endpoint(endpoint))

        return await idempotency.answer(self._db, call, pb.UpdateWebhookEndpointResponse, work)

    async def DeleteWebhookEndpoint(
        self, request: pb.DeleteWebhookEndpointRequest, context: object
    ) -> pb.DeleteWebhookEndpointResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.DeleteWebhookEndpointResponse:
            await operations.delete_webhook_endpoint(conn, call, request.name)
            return pb.DeleteWebhookEndpointResponse()

        return await idempotency.answer(self._db, call, pb.DeleteWebhookEndpointResponse, work)

    async def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, context: object
    ) -> pb.RotateWebhookSecretResponse:
        """See the contract."""
        call = identity.current()
        overlap = timedelta(hours=self._settings.secret_overlap_hours)
        minted = _Minted()

        async def work(conn: AsyncConnection) -> pb.RotateWebhookSecretResponse:
            secret, overlap_end = await operations.rotate_webhook_secret(
                conn, call, self._db.cipher, request.name, overlap=overlap
            )
            return minted.keep(pb.RotateWebhookSecretResponse(overlap_end_time=clock.timestamp(overlap_end)), secret)

        answer = await idempotency.answer(self._db, call, pb.RotateWebhookSecretResponse, work)
        answer.secret = minted.secret_of(answer)
        return answer

    async def ListDeliveries(self, request: pb.ListDeliveriesRequest, context: object) -> pb.ListDeliveriesResponse:
        """See the contract."""
        call, size = identity.current(), pages.size(request.page_size)
        filter_text = f"{request.endpoint} {int(request.state)}"

        async def work(conn: AsyncConnection) -> list[Delivery]:
            # First whether there is such an endpoint, then the page token: the contract's order of precedence.
            endpoint = await operations.get_webhook_endpoint(conn, call, request.endpoint)
            key = pages.decode("deliveries", filter_text, request.page_token, [int, int])
            before = _FIRST_DELIVERY if key is None else _position(int(key[0]), int(key[1]))
            return await operations.list_deliveries(
                conn, endpoint, state=int(request.state), before=before, limit=size + 1
            )

        found = await self._db.run(call.tenant, work, read_only=True)
        answer = pb.ListDeliveriesResponse(deliveries=[_delivery(one) for one in found[:size]])
        if len(found) > size:
            last = found[size - 1]
            answer.next_page_token = pages.encode(
                "deliveries", filter_text, [clock.microseconds(last.create_time), last.position]
            )
        return answer

    async def ReplayDeliveries(
        self, request: pb.ReplayDeliveriesRequest, context: object
    ) -> pb.ReplayDeliveriesResponse:
        """See the contract."""
        call = identity.current()
        start, end = _range(request)

        async def work(conn: AsyncConnection) -> pb.ReplayDeliveriesResponse:
            if request.delivery:
                count = await operations.replay_delivery(conn, call, request.endpoint, request.delivery)
            else:
                at_most = self._settings.webhook_replay_max
                count = await operations.replay_time_range(conn, call, request.endpoint, start, end, at_most=at_most)
            return pb.ReplayDeliveriesResponse(replayed_count=count)

        return await idempotency.answer(self._db, call, pb.ReplayDeliveriesResponse, work)

    async def StreamEvents(
        self, request: pb.StreamEventsRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        """See the contract. The initial metadata are sent as soon as the position is fixed: what happens after a
        client has them is in its stream."""
        call = identity.current()
        operations.check_event_types(request.event_types)
        with self._streams.place():
            position = await self._streams.begin(call, request.resume_token)
            await context.send_initial_metadata(())
            async for response in self._streams.follow(call, position, request.event_types):
                yield response

    async def _refusal_of(self, url: str) -> DomainError | None:
        """Why a URL cannot be used now. It is raised where the request is new: the same request again has the same
        answer, also when the name has come to resolve to something else or to nothing."""
        try:
            await self._sender.check_url(url)
        except DomainError as refusal:
            return refusal
        return None


class _Minted:
    """Keeps a new secret beside its answer: the stored answer has none, and a repeated one must not get this one."""

    def __init__(self) -> None:
        self._answer: Message | None = None
        self._secret = ""

    def keep[M: Message](self, answer: M, secret: str) -> M:
        """Remembers the secret that belongs to an answer; the last one counts, since work may run again."""
        self._answer = type(answer).FromString(answer.SerializeToString())
        self._secret = secret
        return answer

    def secret_of(self, answer: Message) -> str:
        """The secret, if this call made the answer."""
        return self._secret if self._answer == answer else ""


def _change(request: pb.UpdateWebhookEndpointRequest) -> EndpointChange:
    """What an update sets: the fields of its mask, or without one, those that are not empty (AIP-134)."""
    endpoint = request.endpoint
    paths: Sequence[str] = request.update_mask.paths
    if not request.HasField("update_mask"):
        paths = [field.name for field, _ in endpoint.ListFields() if field.name in _MUTABLE]
    for path in paths:
        if path not in _MUTABLE:
            raise UpdateMaskInvalid(path, _MUTABLE)
    if "url" in paths and not endpoint.url:
        raise RequestInvalid([("endpoint.url", "an endpoint has a url")])
    if "state" in paths and endpoint.state == _State.ENDPOINT_STATE_UNSPECIFIED:
        raise RequestInvalid([("endpoint.state", "an endpoint is either enabled or disabled")])
    return EndpointChange(
        url=endpoint.url if "url" in paths else None,
        event_types=tuple(endpoint.event_types) if "event_types" in paths else None,
        enabled=endpoint.state == _State.ENDPOINT_STATE_ENABLED if "state" in paths else None,
        description=endpoint.description if "description" in paths else None,
    )


def _range(request: pb.ReplayDeliveriesRequest) -> tuple[datetime, datetime]:
    now = clock.now()
    if request.delivery:
        return now, now
    end = request.end_time.ToDatetime(tzinfo=UTC) if request.HasField("end_time") else now
    return request.start_time.ToDatetime(tzinfo=UTC), end


def _endpoint(endpoint: Endpoint) -> webhook_pb2.WebhookEndpoint:
    state = _State.ENDPOINT_STATE_ENABLED if endpoint.enabled else _State.ENDPOINT_STATE_DISABLED
    return webhook_pb2.WebhookEndpoint(
        name=endpoint.name,
        url=endpoint.url,
        event_types=endpoint.event_types,
        state=state,
        customer=endpoint.customer,
        description=endpoint.description,
        create_time=clock.timestamp(endpoint.create_time),
        update_time=clock.timestamp(endpoint.update_time),
        etag=endpoint.etag,
    )


def _delivery(delivery: Delivery) -> webhook_pb2.Delivery:
    message = webhook_pb2.Delivery(
        name=f"deliveries/{delivery.id}",
        endpoint=f"webhookEndpoints/{delivery.endpoint}",
        event_id=str(delivery.event_id),
        event_type=delivery.event_type,
        state=webhook_pb2.Delivery.DeliveryState.ValueType(int(delivery.state)),
        create_time=clock.timestamp(delivery.create_time),
        attempts=[
            webhook_pb2.Delivery.Attempt(
                create_time=clock.timestamp(attempt.create_time),
                http_status=attempt.http_status,
                error=attempt.error,
                duration_ms=attempt.duration_ms,
            )
            for attempt in delivery.attempts
        ],
    )
    if delivery.due_time is not None:
        message.next_attempt_time.CopyFrom(clock.timestamp(delivery.due_time))
    return message


def _position(micros: int, number: int) -> tuple[datetime, int]:
    """Where a page begins. Raises PageTokenInvalid when a made-up token names no time."""
    try:
        return clock.from_microseconds(micros), number
    except OverflowError:
        raise PageTokenInvalid from None
