"""Webhooks reach public addresses alone, also when names change what they resolve to between check and connection."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshkit.errors import Unavailable
from notifications import clients
from notifications.errors import EndpointUrlForbidden
from tests.integration.notifications.conftest import FAILED, Service, opened
from tests.integration.notifications.listener import Listener

PUBLIC, LOOPBACK = "93.184.215.14", "127.0.0.1"


class Names:
    """A resolver that says what it is told, in turn; the last of it from then on."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


@asynccontextmanager
async def counting() -> AsyncIterator[tuple[int, list[str]]]:
    """A port on loopback, and a list that grows with every connection to it."""
    connections: list[str] = []

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append("one")
        writer.close()

    server = await asyncio.start_server(connected, LOOPBACK, 0)
    async with server:
        yield server.sockets[0].getsockname()[1], connections


async def aim(service: Service, url: str) -> str:
    """An endpoint whose URL was allowed when it was made; gives its name."""
    made = await service.create("http://127.0.0.1:9/")
    await service.rows("UPDATE webhook_endpoints SET url = %s RETURNING 1", (url,))
    await service.tell(opened())
    return str(made.endpoint.name)


@pytest.mark.parametrize("then", [[LOOPBACK], [PUBLIC, LOOPBACK], ["10.0.0.5"], ["::1"]])
async def test_a_name_that_turns_inwards_after_its_check_is_not_connected_to(service: Service, then: list[str]) -> None:
    """DNS rebinding: public when the URL is checked, inside when it is sent to. One address inside is enough."""
    names = Names([PUBLIC], then)
    async with counting() as (port, connections):
        url = f"https://hooks.example:{port}/"
        async with service.sending(names, webhook_allow_loopback=False) as sender:
            await sender.check_url(url)
            name = await aim(service, url)
            async with service.delivering(sender, webhook_attempts_max=1):
                delivery = await service.settled(name, FAILED)
        assert names.asked == 2
        assert [one.error for one in delivery.attempts] == ["the address is not a public one"]
        assert connections == []


async def test_the_socket_itself_refuses_what_the_resolver_let_pass(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last guard stands alone: the very address that is about to be connected to is judged once more."""

    async def unchecked(resolver: clients.PublicResolver, host: str, port: int) -> Sequence[str]:
        return [LOOPBACK]

    monkeypatch.setattr(clients.PublicResolver, "addresses", unchecked)
    async with counting() as (port, connections):
        name = await aim(service, f"https://hooks.example:{port}/")
        async with service.delivering(webhook_allow_loopback=False, webhook_attempts_max=1):
            delivery = await service.settled(name, FAILED)
        assert delivery.attempts[0].error == "the address is not a public one"
        assert connections == []


async def test_what_was_allowed_once_is_judged_by_the_rules_of_now(service: Service, listener: Listener) -> None:
    """An endpoint on loopback from a replica that allowed it gets nothing from one that does not."""
    made = await service.create(listener.url)
    await service.tell(opened())
    async with service.delivering(webhook_allow_loopback=False, webhook_attempts_max=1):
        delivery = await service.settled(made.endpoint.name, FAILED)
    assert delivery.attempts[0].http_status == 0
    assert "https://" in delivery.attempts[0].error
    assert listener.posts == []


async def test_names_whose_servers_do_not_answer_do_not_hold_up_the_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup that nobody waits for any more still holds a thread; there are more than an endpoint can hold."""
    silent = threading.Event()
    asked: list[str] = []

    system = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *others: Any, **options: Any) -> Any:
        if not host.endswith(".example"):
            return system(host, port, *others, **options)
        asked.append(host)
        if host == "silent.example":
            silent.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    lost = min(32, (os.cpu_count() or 1) + 4)  # as many as the loop has threads of its own
    try:
        async with service.sending(webhook_allow_loopback=False, webhook_concurrency_max=lost + 1) as sender:
            checks = [asyncio.create_task(sender.check_url("https://silent.example/")) for _ in range(lost)]
            await sender.check_url("https://hooks.example/")
            assert asked.count("silent.example") == lost
    finally:
        silent.set()
    await asyncio.gather(*checks, return_exceptions=True)


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        ([LOOPBACK], EndpointUrlForbidden),
        ([PUBLIC, "192.168.1.1"], EndpointUrlForbidden),
        (["::ffff:10.0.0.1"], EndpointUrlForbidden),
        (socket.gaierror(socket.EAI_NONAME, "no such name"), EndpointUrlForbidden),
        (socket.gaierror(socket.EAI_AGAIN, "no answer"), Unavailable),
    ],
)
async def test_a_name_is_checked_by_what_it_resolves_to(
    service: Service, answer: Sequence[str] | OSError, refusal: type[Exception]
) -> None:
    """Inside is forbidden, and so is nothing at all; a resolver that is away is no answer about the name."""
    async with service.sending(Names(answer), webhook_allow_loopback=False) as sender:
        with pytest.raises(refusal) as caught:
            await sender.check_url("https://hooks.example/")
    assert "192.168" not in str(caught.value)
    assert LOOPBACK not in str(caught.value)


async def test_a_receiver_must_have_a_certificate_of_its_name_from_a_trusted_authority(service: Service) -> None:
    """Nothing is sent to one whose authority is unknown, nor to one whose certificate is for another name."""
    certificate, key = service.parts.state.certificate("edge")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(str(certificate), str(key))
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, LOOPBACK, 0, ssl=context)
    port, ca = server.sockets[0].getsockname()[1], service.parts.state.ca
    async with server:
        for host, authority, error in (
            ("edge", None, "the receiver's certificate is not trusted"),
            ("hooks.example", ca, "the receiver's certificate is not trusted"),
            ("edge", ca, ""),
        ):
            async with service.sending(Names([LOOPBACK]), webhook_ca_file=authority) as sender:
                reply = await sender.send(f"https://{host}:{port}/", {"webhook-id": "one"}, b"{}")
            assert (reply.error, reply.http_status) == (error, 0 if error else 204)
    assert len(requests) == 1
