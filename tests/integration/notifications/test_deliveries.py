"""Webhooks to a real listener: acknowledged, tried again, given up, signed, never sent twice without need."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, timedelta

import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from florin.accounts.v1 import events_pb2 as accounts_events
from florin.notifications.v1 import notification_service_pb2 as pb
from florin.notifications.v1 import webhook_pb2
from notifications.endpoint_store import PREVIOUS_SECRETS_MAX
from tests.integration.notifications.conftest import (
    DELIVERED,
    DISABLED,
    ENABLED,
    FAILED,
    PENDING,
    Service,
    opened,
    refused,
)
from tests.integration.notifications.listener import Answer, Listener
from tests.support.parts import eventually


async def test_an_event_is_sent_signed_and_acknowledged(service: Service, listener: Listener) -> None:
    """A 2xx ends it; the receivers' library verifies the signature and refuses what was changed on the way."""
    made = await service.create(listener.url)
    (event_id,) = await service.tell(opened("a"))
    async with service.delivering():
        (post,) = await listener.received(1)
        delivery = await service.settled(made.endpoint.name)
    event = post.verified(made.secret)
    assert (event["id"], post.id, delivery.event_id) == (event_id,) * 3
    assert (event["specversion"], event["type"], event["source"], event["subject"], event["tenant"]) == (
        "1.0",
        "florin.accounts.account_opened.v1",
        "//florin/accounts",
        "accounts/a",
        service.tenant,
    )
    assert event["data"]["currencyCode"] == "EUR"
    assert post.headers["content-type"].startswith("application/cloudevents+json")
    assert [(attempt.http_status, attempt.error) for attempt in delivery.attempts] == [(204, "")]
    assert not delivery.HasField("next_attempt_time")
    with pytest.raises(WebhookVerificationError):
        type(post)(post.path, post.headers, post.body.replace(b"EUR", b"USD")).verified(made.secret)


async def test_what_fails_is_tried_again_and_every_attempt_is_kept(service: Service, listener: Listener) -> None:
    """The same id and the same body each time; the log says what the receiver answered."""
    listener.answers.extend([Answer(500), Answer(404)])
    made = await service.create(listener.url)
    (event_id,) = await service.tell(opened())
    async with service.delivering():
        delivery = await service.settled(made.endpoint.name, attempts=3)
    assert [(attempt.http_status, attempt.error) for attempt in delivery.attempts] == [
        (500, "the receiver answered 500"),
        (404, "the receiver answered 404"),
        (204, ""),
    ]
    assert {post.id for post in listener.posts} == {event_id}
    assert len({post.body for post in listener.posts}) == 1
    for post in listener.posts:
        post.verified(made.secret)


async def test_after_the_last_attempt_a_delivery_is_given_up_and_told(service: Service, listener: Listener) -> None:
    """It is FAILED, an event says so, and another event to the same endpoint is not held up."""
    listener.answers.extend([Answer(500), Answer(503)])
    made = await service.create(listener.url)
    await service.tell(opened("a"))
    async with service.delivering(webhook_attempts_max=2):
        await service.settled(made.endpoint.name, FAILED, attempts=2)
        await service.tell(opened("b"))
        await listener.received(3)
    assert (await service.endpoint(made.endpoint.name)).state == ENABLED
    told = await service.rows("SELECT subject FROM outbox WHERE tenant = %s", (service.tenant,))
    assert told == [("florin.notifications.delivery_failed.v1",)]


async def test_a_410_ends_the_delivery_and_disables_the_endpoint(service: Service, listener: Listener) -> None:
    """Nothing more is sent or kept for it, until its owner enables it."""
    listener.answers.append(Answer(410))
    made = await service.create(listener.url)
    await service.tell(opened("a"))
    async with service.delivering():
        await service.settled(made.endpoint.name, FAILED)
        shown = await service.endpoint(made.endpoint.name)
        assert shown.state == DISABLED
        assert shown.etag != made.endpoint.etag
        await service.tell(opened("b"))
        assert len(await service.deliveries(made.endpoint.name)) == 1
        shown.state = ENABLED
        await service.call("UpdateWebhookEndpoint", pb.UpdateWebhookEndpointRequest(endpoint=shown))
        (third,) = await service.tell(opened("c"))
        assert (await listener.received(2))[1].id == third


@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_that_asks_for_time_gets_it(service: Service, listener: Listener, status: int) -> None:
    """The next attempt is not due before the Retry-After is over, although the backoff would be shorter."""
    listener.answers.append(Answer(status, {"retry-after": "300"}))
    made = await service.create(listener.url)
    await service.tell(opened())
    async with service.delivering():
        delivery = await service.settled(made.endpoint.name, PENDING)
    wait = delivery.next_attempt_time.ToDatetime(tzinfo=UTC) - delivery.attempts[0].create_time.ToDatetime(tzinfo=UTC)
    assert timedelta(seconds=300) <= wait < timedelta(seconds=330)
    assert len(listener.posts) == 1


async def test_a_receiver_that_does_not_answer_is_a_failed_attempt(service: Service, listener: Listener) -> None:
    """After the timeout, in words of our own; the next attempt is made."""
    never = asyncio.Event()
    listener.answers.append(Answer(when=never))
    made = await service.create(listener.url)
    await service.tell(opened())
    async with service.delivering(webhook_timeout_seconds=0.3):
        delivery = await service.settled(made.endpoint.name, attempts=2)
    never.set()
    first = delivery.attempts[0]
    assert (first.http_status, first.error) == (0, "the receiver did not answer in time")
    assert first.duration_ms >= 300


async def test_nobody_listening_is_a_failed_attempt(service: Service) -> None:
    """A refused connection says so, and no address or library text."""
    made = await service.create("http://127.0.0.1:1/hooks")
    await service.tell(opened())
    async with service.delivering(webhook_attempts_max=1):
        delivery = await service.settled(made.endpoint.name, FAILED)
    assert [(attempt.http_status, attempt.error) for attempt in delivery.attempts] == [(0, "connection refused")]


async def test_a_redirect_is_not_followed(service: Service, listener: Listener) -> None:
    """Not even to an allowed place: it is a failed attempt, and nothing reaches the other URL."""
    listener.answers.append(Answer(307, {"location": listener.url + "/elsewhere"}))
    made = await service.create(listener.url)
    await service.tell(opened())
    async with service.delivering(webhook_attempts_max=1):
        delivery = await service.settled(made.endpoint.name, FAILED)
    assert "redirects are not followed" in delivery.attempts[0].error
    assert [post.path for post in listener.posts] == ["/hooks"]


async def test_both_secrets_sign_until_the_overlap_is_over(service: Service, listener: Listener) -> None:
    """A receiver that has not changed yet verifies with the old secret; after the overlap the new one signs alone."""
    made = await service.create(listener.url)
    rotate = pb.RotateWebhookSecretRequest(name=made.endpoint.name)
    rotated = await service.call("RotateWebhookSecret", rotate)
    async with service.delivering():
        await service.tell(opened("a"))
        (during,) = await listener.received(1)
        during.verified(made.secret)
        during.verified(rotated.secret)
        await service.rows(
            "UPDATE webhook_endpoints SET previous_secret_end_times = ARRAY[clock_timestamp()] RETURNING 1"
        )
        await service.tell(opened("b"))
        _, after = await listener.received(2)
    after.verified(rotated.secret)
    with pytest.raises(WebhookVerificationError):
        after.verified(made.secret)


async def test_a_secret_that_was_lost_on_its_way_does_not_end_the_overlap_of_the_one_before(
    service: Service, listener: Listener
) -> None:
    """Who rotates once more has both former secrets signing; of too many the oldest goes."""
    made = await service.create(listener.url)
    rotate = pb.RotateWebhookSecretRequest(name=made.endpoint.name)
    lost = await service.call("RotateWebhookSecret", rotate)
    found = await service.call("RotateWebhookSecret", rotate)
    async with service.delivering():
        await service.tell(opened("a"))
        (first,) = await listener.received(1)
        for secret in (made.secret, lost.secret, found.secret):
            first.verified(secret)
        for _ in range(PREVIOUS_SECRETS_MAX - 1):
            newest = (await service.call("RotateWebhookSecret", rotate)).secret
        await service.tell(opened("b"))
        _, second = await listener.received(2)
    for secret in (lost.secret, found.secret, newest):
        second.verified(secret)
    with pytest.raises(WebhookVerificationError):
        second.verified(made.secret)


async def test_one_delivery_is_sent_again_on_request(service: Service, listener: Listener) -> None:
    """Under the same id, and its log goes on; another endpoint's delivery is not found."""
    made, other = await service.create(listener.url), await service.create("http://127.0.0.1:1/")
    (event_id,) = await service.tell(opened())
    async with service.delivering():
        delivery = await service.settled(made.endpoint.name)
        request = pb.ReplayDeliveriesRequest(endpoint=made.endpoint.name, delivery=delivery.name)
        assert (await service.call("ReplayDeliveries", request)).replayed_count == 1
        await service.settled(made.endpoint.name, attempts=2)
    assert [post.id for post in listener.posts] == [event_id, event_id]
    async with refused("DELIVERY_NOT_FOUND"):
        request.endpoint = other.endpoint.name
        await service.call("ReplayDeliveries", request)
    async with refused("DELIVERY_NOT_FOUND"):
        request.endpoint, request.delivery = made.endpoint.name, "deliveries/none"
        await service.call("ReplayDeliveries", request)


async def test_older_events_do_not_follow_an_endpoint_to_where_fewer_may_be_seen(
    service: Service, listener: Listener
) -> None:
    """Whoever may see less and points it to a URL of their own gets neither what waits nor what is replayed."""
    listener.answers.append(Answer(503, {"retry-after": "600"}))
    made = await service.create(listener.url)
    name = made.endpoint.name
    await service.tell(opened("waits"))
    async with service.delivering():
        await service.settled(name, PENDING)
    few = "webhooks:write customers:read"
    wanted = webhook_pb2.WebhookEndpoint(name=name, url=listener.url + "/mine")
    await service.call("UpdateWebhookEndpoint", pb.UpdateWebhookEndpointRequest(endpoint=wanted), scopes=few)
    (seen,) = await service.tell(accounts_events.CustomerCreated(customer="customers/anna"))
    await service.hurry()
    async with service.delivering():
        (waited,) = await eventually(lambda: service.deliveries(name, state=FAILED))
        request = pb.ReplayDeliveriesRequest(endpoint=name, delivery=waited.name)
        await service.call("ReplayDeliveries", request, scopes=few)

        async def refused_again() -> bool:
            (failed,) = await service.deliveries(name, state=FAILED) or [waited]
            return len(failed.attempts) == 3

        await eventually(refused_again)
        await listener.received(2)
    assert [(post.path, post.id) for post in listener.posts][1:] == [("/hooks/mine", seen)]
    assert waited.attempts[-1].error == "the endpoint may not be sent this type of event"


async def test_a_time_range_is_sent_again_once_for_a_request_id(service: Service, listener: Listener) -> None:
    """What came in from its start to before its end, and nothing else; the same request does it once."""
    made = await service.create(listener.url)
    ids = [(await service.tell(opened(f"a{number}")))[0] for number in range(4)]
    async with service.delivering():
        await listener.received(4)
        times = {one.event_id: one.create_time for one in await service.deliveries(made.endpoint.name)}
        await _none_pending(service, made.endpoint.name)
        request = pb.ReplayDeliveriesRequest(
            endpoint=made.endpoint.name, start_time=times[ids[1]], end_time=times[ids[3]], request_id="again"
        )
        for _ in range(2):
            assert (await service.call("ReplayDeliveries", request)).replayed_count == 2
            await _none_pending(service, made.endpoint.name)
    assert Counter(post.id for post in listener.posts) == {ids[0]: 1, ids[1]: 2, ids[2]: 2, ids[3]: 1}


async def test_deliveries_are_listed_by_page_and_state(service: Service, listener: Listener) -> None:
    """The newest first; a token goes on where the page ended, and only for the list it was made for."""
    listener.answers.append(Answer(410))
    made = await service.create(listener.url)
    name = made.endpoint.name
    ids = [(await service.tell(opened(f"a{number}")))[0] for number in range(3)]
    first = await service.call("ListDeliveries", pb.ListDeliveriesRequest(endpoint=name, page_size=2))
    rest = pb.ListDeliveriesRequest(endpoint=name, page_size=2, page_token=first.next_page_token)
    second = await service.call("ListDeliveries", rest)
    assert [one.event_id for one in (*first.deliveries, *second.deliveries)] == ids[::-1]
    assert not second.next_page_token
    rest.state = DELIVERED
    async with refused("PAGE_TOKEN_INVALID"):
        await service.call("ListDeliveries", rest)
    async with service.delivering(webhook_endpoint_concurrency_max=1):
        failed = await eventually(lambda: service.deliveries(name, state=FAILED))
    assert [one.event_id for one in failed] == ids[:1]
    assert {one.event_id for one in await service.deliveries(name, state=PENDING)} == set(ids[1:])


async def _none_pending(service: Service, endpoint: str) -> None:
    async def done() -> bool:
        return not await service.deliveries(endpoint, state=PENDING)

    await eventually(done)
