"""The life of webhook endpoints over gRPC: made, shown, changed, rotated, removed, each by those it belongs to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from datetime import UTC, timedelta

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from florin.notifications.v1 import notification_service_pb2 as pb
from florin.notifications.v1 import webhook_pb2
from meshkit import clock
from notifications.clients import PublicResolver
from tests.integration.notifications.conftest import (
    ANNA,
    BEN,
    DISABLED,
    ENABLED,
    ENDPOINTS_MAX,
    Service,
    opened,
    refused,
)
from tests.integration.notifications.listener import Listener

URL = "http://127.0.0.1:9/hooks"


async def test_a_secret_is_shown_once(service: Service) -> None:
    """The same request again gives the same endpoint without it; nothing that is read later has it, nor the table."""
    values = {"event_types": ["florin.accounts.*"], "description": "till", "request_id": "one"}
    made = await service.create(URL, who=ANNA, **values)
    assert made.secret.startswith("whsec_")
    shown = made.endpoint
    assert (shown.url, list(shown.event_types), shown.description) == (URL, ["florin.accounts.*"], "till")
    assert (shown.state, shown.customer) == (ENABLED, "customers/anna")
    again = await service.create(URL, who=ANNA, **values)
    assert (again.endpoint, again.secret) == (shown, "")
    assert await service.endpoint(shown.name, **ANNA) == shown
    kept = await service.rows("SELECT secret FROM webhook_endpoints UNION ALL SELECT response FROM requests")
    kept += await service.rows("SELECT convert_to(a::text, 'utf8') FROM audit AS a")
    assert len(kept) == 3
    assert not any(made.secret.encode() in bytes(row[0]) for row in kept)
    async with refused("REQUEST_ID_REUSED"):
        await service.create(URL + "/other", who=ANNA, **values)


async def test_the_same_request_has_the_same_answer_when_its_name_is_gone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a name resolves to is asked for new requests alone; another payload under the key is told from it."""
    made = (await service.create(URL, request_id="one")).endpoint
    wanted = webhook_pb2.WebhookEndpoint(name=made.name, url=URL + "/other")
    change = pb.UpdateWebhookEndpointRequest(endpoint=wanted, request_id="two")
    changed = (await service.call("UpdateWebhookEndpoint", change)).endpoint

    async def gone(*_: object) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(PublicResolver, "addresses", gone)
    assert (await service.create(URL, request_id="one")).endpoint == made
    assert (await service.call("UpdateWebhookEndpoint", change)).endpoint == changed
    async with refused("REQUEST_ID_REUSED"):
        await service.create(URL + "/other", request_id="one")
    for request_id in ("", "three"):
        async with refused("ENDPOINT_URL_FORBIDDEN"):
            await service.create(URL, request_id=request_id)
        change.request_id = request_id
        async with refused("ENDPOINT_URL_FORBIDDEN"):
            await service.call("UpdateWebhookEndpoint", change)
    monkeypatch.undo()
    # The refusal was not the request's answer for good.
    assert (await service.create(URL, request_id="three")).secret


async def test_of_many_equal_requests_at_once_one_is_given_the_secret(service: Service) -> None:
    """Its caller's endpoint signs with that secret; the others get the endpoint alone."""
    made = await asyncio.gather(*(service.create(URL, request_id="many") for _ in range(8)))
    assert len({one.endpoint.name for one in made}) == 1
    assert [bool(one.secret) for one in made].count(True) == 1


async def test_an_id_may_be_chosen_and_is_taken_once_in_a_tenant(service: Service) -> None:
    """Another tenant's endpoint of the same id is another endpoint."""
    made = await service.create(URL, endpoint_id="till")
    assert made.endpoint.name == "webhookEndpoints/till"
    async with refused("ENDPOINT_EXISTS"):
        await service.create(URL, endpoint_id="till")
    elsewhere = Service(service.parts, service.db, service.settings, service.stub)
    async with refused("ENDPOINT_NOT_FOUND"):
        await elsewhere.endpoint("webhookEndpoints/till")
    await elsewhere.create(URL + "/elsewhere", endpoint_id="till")
    assert (await service.endpoint("webhookEndpoints/till")).url == URL


async def test_endpoints_are_listed_by_page(service: Service) -> None:
    """Every one once; a customer's token of a page is none of the whole tenant's list."""
    for name in ("c", "a", "b"):
        await service.create(URL, who=ANNA, endpoint_id=name)
    await service.create(URL, endpoint_id="d")

    async def names(request: pb.ListWebhookEndpointsRequest, **who: str) -> list[str]:
        found: list[str] = []
        while True:
            page = await service.call("ListWebhookEndpoints", request, **who)
            assert len(page.endpoints) <= request.page_size
            found += [one.name.removeprefix("webhookEndpoints/") for one in page.endpoints]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    assert await names(pb.ListWebhookEndpointsRequest(page_size=2)) == ["a", "b", "c", "d"]
    request = pb.ListWebhookEndpointsRequest(page_size=2)
    assert await names(request, **ANNA) == ["a", "b", "c"]
    async with refused("PAGE_TOKEN_INVALID"):
        await service.call("ListWebhookEndpoints", request)


async def test_an_update_changes_what_its_mask_names(service: Service) -> None:
    """Nothing else, and the etag with it; the same change under a stale etag is refused."""
    made = (await service.create(URL, event_types=["florin.accounts.*"], description="till")).endpoint
    wanted = webhook_pb2.WebhookEndpoint(
        name=made.name, etag=made.etag, url=URL + "/other", state=DISABLED, description="ignored"
    )
    request = pb.UpdateWebhookEndpointRequest(endpoint=wanted, update_mask=FieldMask(paths=["state", "event_types"]))
    changed = (await service.call("UpdateWebhookEndpoint", request)).endpoint
    assert (changed.url, changed.description) == (made.url, made.description)
    assert (changed.state, list(changed.event_types)) == (DISABLED, [])
    assert changed.etag != made.etag
    assert await service.endpoint(made.name) == changed
    async with refused("ETAG_MISMATCH"):
        await service.call("UpdateWebhookEndpoint", request)
    assert await service.endpoint(made.name) == changed


async def test_an_update_without_a_mask_changes_what_is_given(service: Service) -> None:
    """As AIP-134 says: the fields that are not empty."""
    made = (await service.create(URL, event_types=["florin.accounts.*"])).endpoint
    wanted = webhook_pb2.WebhookEndpoint(name=made.name, description="new")
    changed = (await service.call("UpdateWebhookEndpoint", pb.UpdateWebhookEndpointRequest(endpoint=wanted))).endpoint
    assert (changed.description, changed.url, list(changed.event_types)) == ("new", URL, ["florin.accounts.*"])


@pytest.mark.parametrize(
    ("paths", "values", "reason"),
    [
        (["customer"], {"customer": "customers/ben"}, "UPDATE_MASK_INVALID"),
        (["secret"], {}, "UPDATE_MASK_INVALID"),
        (["event_types"], {"event_types": ["florin.nothing.at_all.v1"]}, "EVENT_TYPE_UNKNOWN"),
        (["event_types"], {"event_types": ["florin.accounts.tenant_created.v1"]}, "EVENT_TYPE_UNKNOWN"),
        (["url"], {"url": "https://10.0.0.1/"}, "ENDPOINT_URL_FORBIDDEN"),
        (["state"], {}, "REQUEST_INVALID"),
        (["url"], {}, "REQUEST_INVALID"),
    ],
)
async def test_a_wrong_update_has_its_reason_and_changes_nothing(
    service: Service, paths: list[str], values: dict[str, object], reason: str
) -> None:
    """Also for what is not public, and for what only an output can say."""
    made = (await service.create(URL)).endpoint
    wanted = webhook_pb2.WebhookEndpoint(name=made.name, **values)  # type: ignore[arg-type]
    async with refused(reason):
        request = pb.UpdateWebhookEndpointRequest(endpoint=wanted, update_mask=FieldMask(paths=paths))
        await service.call("UpdateWebhookEndpoint", request)
    assert await service.endpoint(made.name) == made


async def test_a_new_secret_is_shown_once_and_says_how_long_the_old_one_signs(service: Service) -> None:
    """The same request again rotates nothing: the answer is the same, without the secret."""
    made = await service.create(URL)
    request = pb.RotateWebhookSecretRequest(name=made.endpoint.name, request_id="turn")
    before = clock.now()
    rotated = await service.call("RotateWebhookSecret", request)
    assert rotated.secret.startswith("whsec_")
    assert rotated.secret != made.secret
    overlap = rotated.overlap_end_time.ToDatetime(tzinfo=UTC) - before
    assert timedelta(hours=24) <= overlap < timedelta(hours=24, minutes=1)
    etag = (await service.endpoint(made.endpoint.name)).etag
    assert etag != made.endpoint.etag
    again = await service.call("RotateWebhookSecret", request)
    assert (again.secret, again.overlap_end_time) == ("", rotated.overlap_end_time)
    assert (await service.endpoint(made.endpoint.name)).etag == etag


async def test_a_deleted_endpoint_takes_its_deliveries_along(service: Service, listener: Listener) -> None:
    """What waited is not sent, and the endpoint is not found; the same request again is answered as the first."""
    gone, stays = await service.create(listener.url + "/gone"), await service.create(listener.url + "/stays")
    await service.tell(opened())
    request = pb.DeleteWebhookEndpointRequest(name=gone.endpoint.name, request_id="away")
    for _ in range(2):
        await service.call("DeleteWebhookEndpoint", request)
    async with service.delivering():
        await service.settled(stays.endpoint.name)
    assert [post.path for post in listener.posts] == ["/hooks/stays"]
    assert await service.rows("SELECT endpoint FROM deliveries") == [
        (stays.endpoint.name.removeprefix("webhookEndpoints/"),)
    ]
    async with refused("ENDPOINT_NOT_FOUND"):
        await service.endpoint(gone.endpoint.name)
    async with refused("ENDPOINT_NOT_FOUND"):
        await service.call("DeleteWebhookEndpoint", pb.DeleteWebhookEndpointRequest(name=gone.endpoint.name))


async def test_a_customer_reaches_its_own_endpoints_alone(service: Service) -> None:
    """Another customer's, and the whole tenant's, are not there for it, in the words of one that never was."""
    anna, everybody = await service.create(URL, who=ANNA), await service.create(URL)
    for name in (anna.endpoint.name, everybody.endpoint.name, "webhookEndpoints/never"):
        wanted = webhook_pb2.WebhookEndpoint(name=name, state=DISABLED)
        for method, request in (
            ("GetWebhookEndpoint", pb.GetWebhookEndpointRequest(name=name)),
            ("UpdateWebhookEndpoint", pb.UpdateWebhookEndpointRequest(endpoint=wanted)),
            ("DeleteWebhookEndpoint", pb.DeleteWebhookEndpointRequest(name=name)),
            ("RotateWebhookSecret", pb.RotateWebhookSecretRequest(name=name)),
            ("ListDeliveries", pb.ListDeliveriesRequest(endpoint=name)),
            ("ReplayDeliveries", pb.ReplayDeliveriesRequest(endpoint=name, delivery="deliveries/x")),
        ):
            async with refused("ENDPOINT_NOT_FOUND") as metadata:
                await service.call(method, request, **BEN)
            assert metadata == {"name": name}
    assert not (await service.call("ListWebhookEndpoints", pb.ListWebhookEndpointsRequest(), **BEN)).endpoints
    assert await service.endpoint(anna.endpoint.name) == anna.endpoint
    assert await service.endpoint(everybody.endpoint.name) == everybody.endpoint


async def test_a_customer_may_have_so_many_endpoints_and_staff_more(service: Service) -> None:
    """Also when they are asked for at once; one that is deleted makes room."""
    requests = (service.create(f"{URL}/{number}", who=ANNA) for number in range(ENDPOINTS_MAX + 3))
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    made = [outcome.endpoint.name for outcome in outcomes if isinstance(outcome, pb.CreateWebhookEndpointResponse)]
    refusals = [outcome.code() for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert (len(made), refusals) == (ENDPOINTS_MAX, [grpc.StatusCode.RESOURCE_EXHAUSTED] * 3)
    async with refused("ENDPOINT_LIMIT_REACHED") as metadata:
        await service.create(URL, who=ANNA)
    assert metadata["limit"] == str(ENDPOINTS_MAX)
    await service.create(URL, who=BEN)
    for _ in range(ENDPOINTS_MAX + 1):
        await service.create(URL)
    await service.call("DeleteWebhookEndpoint", pb.DeleteWebhookEndpointRequest(name=made[0]), **ANNA)
    await service.create(URL, who=ANNA)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "ftp://hooks.example/",
        "https://user:secret@hooks.example/",
        "https://hooks.example/#part",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fd00::1]/",
    ],
)
async def test_a_forbidden_url_makes_no_endpoint(service: Service, url: str) -> None:
    """What is inside, or is written so that readers disagree about it."""
    async with refused("ENDPOINT_URL_FORBIDDEN"):
        await service.create(url)
    assert await service.rows("SELECT endpoint FROM webhook_endpoints") == []


async def test_an_endpoint_gets_what_its_owner_may_see_and_asks_for(service: Service) -> None:
    """A customer's gets that customer's events; a filter's types alone; a disabled one nothing."""
    anna = await service.create(URL, who=ANNA)
    tenant = await service.create(URL)
    filtered = await service.create(URL, event_types=["florin.transactions.*"])
    off = await service.create(URL)
    wanted = webhook_pb2.WebhookEndpoint(name=off.endpoint.name, state=DISABLED)
    await service.call("UpdateWebhookEndpoint", pb.UpdateWebhookEndpointRequest(endpoint=wanted))
    ids = await service.tell(opened("a", "anna"), opened("b", "ben"), opened("c", "ben", "anna"))
    await service.tell(opened("d"), tenant=f"{service.tenant}x")
    got = {
        name: {one.event_id for one in await service.deliveries(name)}
        for name in (anna.endpoint.name, tenant.endpoint.name, filtered.endpoint.name, off.endpoint.name)
    }
    assert list(got.values()) == [{ids[0], ids[2]}, set(ids), set(), set()]
