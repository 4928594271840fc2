"""Events as users get them: signed webhooks, their attempts and replays, and streams that go on after a break."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import grpc
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from florin.notifications.v1 import notification_service_pb2 as pb
from florin.notifications.v1 import webhook_pb2
from florin.transactions.v1 import events_pb2
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import of, refused
from tests.support.receiver import Receiver, receiving

CREATE = "TransferService.CreateTransfer"
COMPLETED = "florin.transactions.transfer_completed.v1"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook receiver of its own."""
    with receiving() as started:
        yield started


def endpoint(
    mesh: Mesh, receiver: Receiver, role: str, event_types: list[str], **options: str
) -> tuple[webhook_pb2.WebhookEndpoint, str]:
    """A new endpoint and its secret."""
    request = pb.CreateWebhookEndpointRequest(
        url=receiver.url, event_types=event_types, request_id=secrets.token_hex(8)
    )
    answer = mesh.call("NotificationService.CreateWebhookEndpoint", request, role, **options)
    # The secret is shown once: not in a repeated answer.
    assert mesh.call("NotificationService.CreateWebhookEndpoint", request, role, **options).secret == ""
    return answer.endpoint, answer.secret


def next_event(stream: grpc.Call) -> webhook_pb2.Event:
    """The next event of a stream."""
    event: webhook_pb2.Event = next(iter(stream)).event  # type: ignore[call-overload]
    return event


def test_a_webhook_is_signed_and_carries_the_event(mesh: Mesh, receiver: Receiver) -> None:
    """A CloudEvent with the transfer's id, verified with the endpoint's secret and with no other; no personal data."""
    tenant = mesh.tenant()
    _, secret = endpoint(mesh, receiver, "operator", [COMPLETED], tenant=tenant)
    debit, credit = mesh.account(funds=10_00, tenant=tenant), mesh.account(tenant=tenant)
    request = mesh.transfer(debit, credit, 1_00, creditor_name="Ada Beispiel", remittance="secret matter")
    paid = mesh.call(CREATE, request, tenant=tenant).transfer
    wait_until(lambda: receiver.posts, 20)
    (post,) = receiver.posts
    event = Webhook(secret).verify(post.body, post.headers)
    assert (event["type"], event["subject"]) == (COMPLETED, paid.name)
    assert event["data"]["amount"] == {"currencyCode": "EUR", "minorUnits": "100"}
    assert event["id"] == post.headers["webhook-id"]
    assert b"Ada" not in post.body
    assert b"secret matter" not in post.body
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(post.body.replace(b'"100"', b'"900"'), post.headers)


def test_a_customer_hears_of_own_payments_alone(mesh: Mesh, receiver: Receiver) -> None:
    """An endpoint of a customer is sent what that customer could Get; another's payment passes it by."""
    me = mesh.customer()
    mine, theirs = mesh.account(me, funds=10_00), mesh.account(funds=10_00)
    made, _ = endpoint(mesh, receiver, "customer", [COMPLETED], customer=me)
    assert made.customer == me
    mesh.call(CREATE, mesh.transfer(theirs, mesh.account(), 1))
    own = mesh.call(CREATE, mesh.transfer(mine, theirs, 1_00), "customer", customer=me).transfer
    wait_until(lambda: receiver.posts, 20)
    assert [post.event["subject"] for post in receiver.posts] == [own.name]


def test_a_replayed_delivery_comes_under_the_same_id(mesh: Mesh, receiver: Receiver) -> None:
    """A receiver that missed an event asks for it again; the attempt log shows both, and the id tells they are one."""
    me = mesh.customer()
    mine, theirs = mesh.account(me, funds=10_00), mesh.account()
    as_me = {"role": "customer", "customer": me}
    made, secret = endpoint(mesh, receiver, event_types=[COMPLETED], **as_me)
    mesh.call(CREATE, mesh.transfer(mine, theirs, 1_00), **as_me)
    list_deliveries = pb.ListDeliveriesRequest(endpoint=made.name, state=webhook_pb2.Delivery.DELIVERY_STATE_DELIVERED)

    def deliveries() -> list[webhook_pb2.Delivery]:
        return list(mesh.call("NotificationService.ListDeliveries", list_deliveries, **as_me).deliveries)

    wait_until(deliveries, 20)
    (delivery,) = deliveries()
    assert [attempt.http_status for attempt in delivery.attempts] == [204]
    replay = pb.ReplayDeliveriesRequest(endpoint=made.name, delivery=delivery.name)
    assert mesh.call("NotificationService.ReplayDeliveries", replay, **as_me).replayed_count == 1
    wait_until(lambda: len(receiver.posts) == 2, 20)
    assert {post.headers["webhook-id"] for post in receiver.posts} == {delivery.event_id}
    for post in receiver.posts:
        Webhook(secret).verify(post.body, post.headers)
    wait_until(lambda: len(deliveries()) == 1 and len(deliveries()[0].attempts) == 2, 20)


def test_a_rotated_secret_signs_beside_the_old_one(mesh: Mesh, receiver: Receiver) -> None:
    """For a day both verify, so that no delivery is lost while a receiver changes over."""
    me = mesh.customer()
    mine, theirs = mesh.account(me, funds=10_00), mesh.account()
    as_me = {"role": "customer", "customer": me}
    made, old = endpoint(mesh, receiver, event_types=[COMPLETED], **as_me)
    rotated = mesh.call(
        "NotificationService.RotateWebhookSecret", pb.RotateWebhookSecretRequest(name=made.name), **as_me
    )
    mesh.call(CREATE, mesh.transfer(mine, theirs, 1_00), **as_me)
    wait_until(lambda: receiver.posts, 20)
    for secret in (old, rotated.secret):
        Webhook(secret).verify(receiver.posts[0].body, receiver.posts[0].headers)


def test_a_deleted_endpoint_is_sent_nothing_more(mesh: Mesh, receiver: Receiver) -> None:
    """It is gone for its owner, and never was there for others."""
    me, other = mesh.customer(), mesh.customer()
    made, _ = endpoint(mesh, receiver, "customer", [COMPLETED], customer=me)
    get, delete = pb.GetWebhookEndpointRequest(name=made.name), pb.DeleteWebhookEndpointRequest(name=made.name)
    name = "NotificationService.DeleteWebhookEndpoint"
    foreign = refused(lambda: mesh.call(name, delete, "customer", customer=other))
    assert foreign.is_for("NOT_FOUND", "ENDPOINT_NOT_FOUND")
    mesh.call(name, delete, "customer", customer=me)
    gone = refused(lambda: mesh.call("NotificationService.GetWebhookEndpoint", get, "customer", customer=me))
    assert gone.reason == "ENDPOINT_NOT_FOUND"


@pytest.mark.parametrize(
    "url", ["http://example.com/hooks", "https://10.0.0.1/", "https://169.254.169.254/latest", "ftp://127.0.0.1/"]
)
def test_a_webhook_cannot_be_sent_into_a_private_network(mesh: Mesh, url: str) -> None:
    """ENDPOINT_URL_FORBIDDEN for plain http elsewhere, for private addresses, and for what is not the web."""
    request = pb.CreateWebhookEndpointRequest(url=url)
    refusal = refused(lambda: mesh.call("NotificationService.CreateWebhookEndpoint", request, "operator"))
    assert refusal.is_for("INVALID_ARGUMENT", "ENDPOINT_URL_FORBIDDEN")


def test_a_stream_goes_on_where_it_broke_off(mesh: Mesh) -> None:
    """Each event once and in order over a break: the resume token of the last one received brings those after it."""
    me = mesh.customer()
    mine, theirs = mesh.account(me, funds=10_00), mesh.account()
    metadata, stub = mesh.metadata("customer", customer=me), mesh.stubs().notifications
    wanted = pb.StreamEventsRequest(event_types=[COMPLETED])
    stream = stub.StreamEvents(wanted, metadata=metadata, timeout=60)
    stream.initial_metadata()  # the stream's beginning is fixed from here on
    first = mesh.call(CREATE, mesh.transfer(mine, theirs, 1)).transfer
    event = next_event(stream)
    assert (event.subject, event.type) == (first.name, COMPLETED)
    completed = events_pb2.TransferCompleted()
    assert event.data.Unpack(completed)
    assert completed.amount.minor_units == 1
    stream.cancel()
    missed = [mesh.call(CREATE, mesh.transfer(mine, theirs, 1)).transfer.name for _ in range(3)]
    again = pb.StreamEventsRequest(event_types=[COMPLETED], resume_token=event.resume_token)
    stream = stub.StreamEvents(again, metadata=metadata, timeout=60)
    later = [next_event(stream) for _ in range(3)]
    stream.cancel()
    assert [one.subject for one in later] == missed
    assert len({event.id, *(one.id for one in later)}) == 4


def test_a_stream_shows_a_customer_nothing_of_others(mesh: Mesh) -> None:
    """Another customer's payment is passed over, and so are compliance's events, which need a scope."""
    me = mesh.customer()
    mine, theirs = mesh.account(me, funds=10_00), mesh.account(funds=10_00)
    metadata, stub = mesh.metadata("customer", customer=me), mesh.stubs().notifications
    stream = stub.StreamEvents(pb.StreamEventsRequest(), metadata=metadata, timeout=60)
    stream.initial_metadata()
    mesh.call(CREATE, mesh.transfer(theirs, mesh.account(), 1))
    own = mesh.call(CREATE, mesh.transfer(mine, theirs, 1)).transfer
    seen = []
    while not seen or seen[-1].type != COMPLETED:
        seen.append(next_event(stream))
    stream.cancel()
    assert {event.subject for event in seen if event.subject.startswith("transfers/")} == {own.name}
    assert not [event.type for event in seen if event.type.startswith("florin.compliance.decision")]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.StreamEventsRequest(resume_token="made-up"), "RESUME_TOKEN_INVALID"),
        (pb.StreamEventsRequest(event_types=["florin.transactions.nothing.v1"]), "EVENT_TYPE_UNKNOWN"),
        (pb.StreamEventsRequest(event_types=["florin.notifications.delivery_failed.v1"]), "EVENT_TYPE_UNKNOWN"),
    ],
)
def test_a_stream_that_cannot_begin_says_why(mesh: Mesh, request_: pb.StreamEventsRequest, reason: str) -> None:
    """A made-up token, an event that does not exist, an event that is not public."""
    stream = mesh.stubs().notifications.StreamEvents(request_, metadata=mesh.metadata(), timeout=10)
    with pytest.raises(grpc.RpcError) as refusal:
        next_event(stream)
    assert of(refusal.value).is_for("INVALID_ARGUMENT", reason)


def test_a_stream_over_rest_is_a_line_an_event(mesh: Mesh) -> None:
    """GET /v1/events:stream gives newline-delimited JSON; the connection is read as the events come."""
    import http.client
    import json
    import ssl

    me = mesh.customer()
    mine, theirs = mesh.account(me, funds=10_00), mesh.account()
    token = mesh.token("customer", customer=me)
    context = ssl.create_default_context(cafile=str(mesh.state.ca))
    connection = http.client.HTTPSConnection("localhost", mesh.port, context=context, timeout=30)
    try:
        connection.request(
            "GET", f"/v1/events:stream?eventTypes={COMPLETED}", headers={"authorization": f"Bearer {token}"}
        )
        response = connection.getresponse()
        assert response.status == 200
        paid = mesh.call(CREATE, mesh.transfer(mine, theirs, 1)).transfer
        line = json.loads(response.readline())
    finally:
        connection.close()
    assert (line["event"]["type"], line["event"]["subject"]) == (COMPLETED, paid.name)
    assert line["event"]["data"]["@type"] == "type.googleapis.com/florin.transactions.v1.TransferCompleted"
