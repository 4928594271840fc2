"""HTTP out: sends webhooks, to public addresses alone; it must not follow, retry or decide anything.

SSRF is stopped at three places: the URL's text, every address its host resolves to (`PublicResolver`), and the very
address that a socket is about to connect to (`_socket_to`), which no later change of DNS can replace.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from meshkit import clock, logs
from meshkit.errors import Unavailable
from notifications.addresses import check_url, is_allowed
from notifications.errors import EndpointUrlForbidden
from notifications.model import Reply
from notifications.settings import Settings

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port → numeric addresses. Raises socket.gaierror."""

_RESOLVE_SECONDS = 1.0  # half of CreateWebhookEndpoint's deadline
_KEEPALIVE_SECONDS = 4.0  # below what servers commonly keep (5 s and more), so that they seldom close first
_RETRY_AFTER_STATUSES = (429, 503)
_RETRY_AFTER_DIGITS = 9  # some thirty years; more digits mean no more

_log = logs.get(__name__)


class AddressForbidden(OSError):
    """A host resolved to an address that webhooks may not go to."""


@contextmanager
def system_resolver(threads: int) -> Iterator[Resolve]:
    """The system's resolver, with so many lookups at once.

    A lookup holds its thread until the system gives up, long after nobody waits for it. The loop's own few threads
    would soon all belong to names whose servers do not answer, and the names of all other receivers would wait.
    """
    pool = ThreadPoolExecutor(threads, "resolve")

    async def resolve(host: str, port: int) -> Sequence[str]:
        look = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(pool, look)
        return [str(entry[4][0]) for entry in found]

    try:
        yield resolve
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class PublicResolver(AbstractResolver):
    """Refuses a host as soon as one of its addresses may not be connected to."""

    def __init__(self, resolve: Resolve, *, allow_loopback: bool) -> None:
        self._resolve = resolve
        self._allow_loopback = allow_loopback

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """The host's addresses. Raises AddressForbidden or socket.gaierror."""
        found = await self._resolve(host, port)
        if not all(is_allowed(address, allow_loopback=self._allow_loopback) for address in found):
            raise AddressForbidden("the address is not a public one")
        return found

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """What aiohttp connects to."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self.addresses(host, port)
            if family in (socket.AF_UNSPEC, socket.AF_INET6 if ":" in address else socket.AF_INET)
        ]

    async def close(self) -> None:
        """Nothing is kept open."""


class WebhookSender:
    """Sends over one pool of connections."""

    def __init__(self, session: aiohttp.ClientSession, resolver: PublicResolver, *, allow_loopback: bool) -> None:
        self._session = session
        self._resolver = resolver
        self._allow_loopback = allow_loopback

    @staticmethod
    @asynccontextmanager
    async def open(settings: Settings, resolve: Resolve | None = None) -> AsyncIterator[WebhookSender]:
        """A sender, by the system's resolver if no other is given; at the end, closes its connections."""
        if resolve is None:
            with system_resolver(settings.webhook_concurrency_max) as system:
                async with WebhookSender.open(settings, system) as sender:
                    yield sender
            return
        allow_loopback = settings.webhook_allow_loopback
        if allow_loopback:
            _log.warning("webhooks may go to loopback addresses; this is for local use only")
        resolver = PublicResolver(resolve, allow_loopback=allow_loopback)
        authorities = None if settings.webhook_ca_file is None else str(settings.webhook_ca_file)
        tls = ssl.create_default_context(cafile=authorities)
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        connector = aiohttp.TCPConnector(
            resolver=resolver,
            socket_factory=_socket_to(allow_loopback=allow_loopback),
            ssl=tls,
            limit=settings.webhook_concurrency_max,
            keepalive_timeout=_KEEPALIVE_SECONDS,
        )
        timeout = aiohttp.ClientTimeout(
            total=settings.webhook_timeout_seconds, sock_connect=settings.webhook_connect_timeout_seconds
        )
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            # Nothing of the environment or of an earlier answer may steer a request.
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        ) as session:
            yield WebhookSender(session, resolver, allow_loopback=allow_loopback)

    async def check_url(self, url: str) -> None:
        """Raises EndpointUrlForbidden, or Unavailable when the host cannot be resolved just now."""
        host, port = check_url(url, allow_loopback=self._allow_loopback)
        try:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                await self._resolver.addresses(host, port)
        except AddressForbidden:
            raise EndpointUrlForbidden("its address is not a public one") from None
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise Unavailable("name resolution") from None
            raise EndpointUrlForbidden("its host does not resolve") from None
        except UnicodeError:
            raise EndpointUrlForbidden("its host is no name") from None
        except TimeoutError:
            raise Unavailable("name resolution") from None

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """One POST. Whatever goes wrong is in the reply."""
        start_time, started = clock.now(), time.monotonic()
        status, error, retry_after = 0, "", 0.0
        try:
            # Checked again: the rules, or whether loopback is allowed, can be others than when it was stored.
            check_url(url, allow_loopback=self._allow_loopback)
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                # The body is not read: the status is the answer, and it could be endless.
                status, error = answer.status, _refusal(answer.status)
                retry_after = retry_after_s(status, answer.headers.get("retry-after", ""), clock.machine_now())
        except EndpointUrlForbidden as forbidden:
            error = forbidden.message
        except (aiohttp.ClientError, OSError, UnicodeError, ValueError) as failure:
            error = _sentence(failure)
        return Reply(start_time, status, error, int((time.monotonic() - started) * 1000), retry_after)


def _socket_to(*, allow_loopback: bool) -> Callable[[Any], socket.socket]:
    """Makes sockets for aiohttp, each for one address that it is about to connect to."""

    def make(address: Any) -> socket.socket:
        family, kind, protocol, _, target = address
        if not is_allowed(str(target[0]), allow_loopback=allow_loopback):
            raise AddressForbidden("the address is not a public one")
        return socket.socket(family=family, type=kind, proto=protocol)

    return make


def _refusal(status: int) -> str:
    if 200 <= status <= 299:
        return ""
    if 300 <= status <= 399:
        return f"the receiver answered {status}; redirects are not followed"
    return f"the receiver answered {status}"


def retry_after_s(status: int, value: str, now: datetime) -> float:
    """Seconds that a receiver asks to wait with its Retry-After, in either form of RFC 9110; 0 where it does not."""
    if status not in _RETRY_AFTER_STATUSES:
        return 0.0
    if value.isascii() and value.isdigit():
        return float(value[:_RETRY_AFTER_DIGITS])
    try:
        return max((parsedate_to_datetime(value) - now).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        # It is no date, or one without a zone.
        return 0.0


_SENTENCES: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "the receiver did not answer in time"),
    (aiohttp.ClientConnectorCertificateError, "the receiver's certificate is not trusted"),
    (aiohttp.ClientSSLError, "TLS failed"),
    (aiohttp.ServerDisconnectedError, "the receiver closed the connection without an answer"),
    (AddressForbidden, "the address is not a public one"),
    (socket.gaierror, "the host does not resolve"),
    (ConnectionRefusedError, "connection refused"),
    (ConnectionResetError, "the receiver closed the connection without an answer"),
    (aiohttp.ClientConnectorError, "the host cannot be reached"),
    (aiohttp.InvalidURL, "the URL is malformed"),
    (aiohttp.ClientPayloadError, "the answer is no HTTP"),
    (aiohttp.ClientResponseError, "the answer is no HTTP"),
)


def _sentence(failure: BaseException) -> str:
    """What went wrong, in words of our own: the texts of libraries name addresses and internals."""
    causes = [failure, getattr(failure, "os_error", None), failure.__cause__]
    for kind, sentence in _SENTENCES:
        if any(isinstance(cause, kind) for cause in causes):
            return sentence
    return "the request could not be sent"
