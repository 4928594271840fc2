"""NATS JetStream: the connection, publishing outbox rows, the streams; it decides nothing about events.

JetStream is a cache of the outboxes, never the record.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import NO_RESPONDERS_STATUS, Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js import api as js_api
from nats.js import errors as js_errors

from meshkit import envelopes, logs, telemetry
from meshkit.errors import Unavailable
from meshkit.outbox import OutboxRow
from meshkit.policy import ServicePolicy
from meshkit.settings import ServiceSettings

_log = logs.get(__name__)

PUBLISH_TIMEOUT_SECONDS = 2.0
DEAD_LETTERS = "deadletters"

# What a broker keeps of each stream: the outboxes keep at least as much, so a lost stream can be filled again.
STREAM_MAX_AGE_SECONDS = 7 * 24 * 3600
_ACK_WAIT_SECONDS = 8  # what a killed consumer had comes again after it: before verify takes what is missing for lost
_CONNECT_SECONDS = 10.0
_MAX_ACK_PENDING = 1024  # messages, of up to a hundred events each


class Bus:
    """The service's connection to NATS. It connects in the background: the service starts without the broker."""

    def __init__(self, client: Client, jetstream: JetStreamContext) -> None:
        self.client = client
        self.jetstream = jetstream
        self.connections = 0
        """Counts reconnections, so that consumers know when to bind again."""
        self._connecting: asyncio.Task[None] | None = None
        self._acknowledgements = _Acknowledgements(client)

    @staticmethod
    @asynccontextmanager
    async def open(settings: ServiceSettings) -> AsyncIterator[Bus]:
        """Connects as the service's identity; drains at the end."""
        client = Client()
        bus = Bus(client, client.jetstream(timeout=PUBLISH_TIMEOUT_SECONDS))

        async def reconnected() -> None:
            bus.connections += 1
            _log.info("the broker is back")

        async def failed(error: Exception) -> None:
            # A forbidden publish shows only here, and as a timeout at its caller.
            _log.warning("the broker reports", cause=repr(error))

        async def disconnected() -> None:
            _log.warning("the broker is away; events wait in the outbox")

        options: dict[str, Any] = {
            "servers": [settings.nats_url],
            "name": settings.service,
            "inbox_prefix": f"_INBOX.{settings.service}".encode(),
            "tls": client_tls(settings),
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.25,
            "connect_timeout": 2,
            "ping_interval": 10,
            "max_outstanding_pings": 2,
            # Nothing is kept for a broker that is away: the outbox is the buffer.
            "pending_size": 8 * 1024 * 1024,
            "error_cb": failed,
            "reconnected_cb": reconnected,
            "disconnected_cb": disconnected,
        }
        connector = _Connector(client, options)
        bus._connecting = connector.start()
        try:
            yield bus
        finally:
            await connector.stop()
            if client.is_connected:
                await client.flush(timeout=1)
            await client.close()

    async def connected(self, seconds: float) -> None:
        """Waits for the first connection. Raises Unavailable when there is none in time."""
        if self._connecting is not None:
            await asyncio.wait([self._connecting], timeout=seconds)
        await self.check()

    async def check(self) -> None:
        """Raises Unavailable when there is no connection."""
        if not self.client.is_connected:
            raise Unavailable("the broker")

    async def publish_rows(
        self, rows: Sequence[OutboxRow], *, replay: bool = False, again_for: str = ""
    ) -> list[Exception | None]:
        """Publishes events at once and waits until the stream has them; gives for each why it may not have it, or None.
        Those of one aggregate must not be among the same `rows`. Raises Unavailable when there is no connection.

        Events of a `replay` are kept even if the stream had them a moment ago; consumers skip what they have seen, but
        for the one that `again_for` names.
        """
        await self.check()
        packed = envelopes.pack(rows, replay=replay, again_for=again_for)
        answers = await self._acknowledgements.publish([(one.subject, one.data, one.headers) for one in packed])
        outcomes: list[Exception | None] = [None] * len(rows)
        for envelope, answer in zip(packed, answers, strict=True):
            for place in envelope.rows:
                outcomes[place] = answer
        for subject, count in Counter(
            row.subject for row, outcome in zip(rows, outcomes, strict=True) if outcome is None
        ).items():
            telemetry.EVENTS_PUBLISHED.labels(subject).inc(count)
        return outcomes


class _Acknowledgements:
    """Publishes to JetStream by the hundred: one subscription for all its answers, and one wait for all of a call.

    The library's publish takes a task, a timer and a request for each message; its publish_async keeps what it set
    aside for a message that could not be sent.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = ""
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._count = 0

    async def publish(self, messages: Sequence[tuple[str, bytes, dict[str, str]]]) -> list[Exception | None]:
        """Publishes (subject, data, headers); gives for each None, once its stream has it, or what went wrong."""
        try:
            await self._subscribe()
        except (nats.errors.Error, OSError) as error:
            return [error] * len(messages)
        loop = asyncio.get_running_loop()
        sent: dict[str, asyncio.Future[Msg]] = {}
        try:
            for subject, data, headers in messages:
                self._count += 1
                token = str(self._count)
                answer = sent[token] = self._waiting[token] = loop.create_future()
                try:
                    await self._client.publish(subject, data, f"{self._inbox}.{token}", headers)
                except (nats.errors.Error, OSError) as error:
                    answer.set_exception(error)
            if sent:
                await asyncio.wait(sent.values(), timeout=PUBLISH_TIMEOUT_SECONDS)
        finally:
            for token, answer in sent.items():
                self._waiting.pop(token, None)
                answer.cancel()
        return [_publish_failure(answer) for answer in sent.values()]

    async def _subscribe(self) -> None:
        if not self._inbox:
            inbox = self._client.new_inbox()
            await self._client.subscribe(f"{inbox}.*", cb=self._arrived)
            self._inbox = inbox

    async def _arrived(self, message: Msg) -> None:
        answer = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if answer is not None and not answer.done():
            answer.set_result(message)


def _publish_failure(answer: asyncio.Future[Msg]) -> Exception | None:
    """What keeps a published message from being in its stream, as its answer tells; None when it is there."""
    if answer.cancelled():
        return nats.errors.TimeoutError()
    if isinstance(error := answer.exception(), Exception):
        return error
    message = answer.result()
    if message.headers and message.headers.get(js_api.Header.STATUS) == NO_RESPONDERS_STATUS:
        return js_errors.NoStreamResponseError()
    try:
        response = json.loads(message.data)
        if "error" in response:
            js_errors.APIError.from_error(response["error"])
        return None if response["stream"] else nats.errors.ProtocolError()
    except js_errors.Error as refusal:
        return refusal
    except (ValueError, TypeError, KeyError):
        return nats.errors.ProtocolError()


def client_tls(settings: ServiceSettings) -> ssl.SSLContext:
    """TLS as the service's identity, trusting the mesh's authority alone."""
    context = ssl.create_default_context(cafile=str(settings.tls_ca_file))
    context.load_cert_chain(str(settings.tls_cert_file), str(settings.tls_key_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _Connector:
    """Keeps trying the first connection; after it, nats-py reconnects by itself."""

    def __init__(self, client: Client, options: dict[str, Any]) -> None:
        self._client = client
        self._options = options
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._connect(), name="bus-connect")
        return self._task

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _connect(self) -> None:
        while True:
            try:
                # A handshake that fails would be waited for without end.
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await self._client.connect(**self._options)
                return
            except (OSError, nats.errors.Error, TimeoutError) as error:
                _log.warning("the broker cannot be reached yet", cause=repr(error))
                await asyncio.sleep(0.5)


async def declare(jetstream: JetStreamContext, policies: Mapping[str, ServicePolicy], *, replicas: int = 1) -> None:
    """Creates or updates every stream and durable consumer that the policies name. Needs an admin's rights."""
    for publisher in policies:
        await _declare_stream(jetstream, publisher, f"florin.{publisher}.>", replicas)
    await _declare_stream(jetstream, DEAD_LETTERS, f"florin.{DEAD_LETTERS}.>", replicas)
    for consumer, policy in policies.items():
        for publisher, subjects in policy.consumes.items():
            await jetstream.add_consumer(
                publisher,
                js_api.ConsumerConfig(
                    durable_name=consumer,
                    ack_policy=js_api.AckPolicy.EXPLICIT,
                    ack_wait=_ACK_WAIT_SECONDS,
                    max_ack_pending=_MAX_ACK_PENDING,
                    deliver_policy=js_api.DeliverPolicy.ALL,
                    filter_subjects=list(subjects),
                ),
            )


async def _declare_stream(jetstream: JetStreamContext, name: str, subjects: str, replicas: int) -> None:
    config = js_api.StreamConfig(
        name=name,
        subjects=[subjects],
        retention=js_api.RetentionPolicy.LIMITS,
        storage=js_api.StorageType.FILE,
        discard=js_api.DiscardPolicy.OLD,
        max_age=0 if name == DEAD_LETTERS else STREAM_MAX_AGE_SECONDS,
        duplicate_window=120,
        num_replicas=replicas,
    )
    try:
        await jetstream.add_stream(config)
    except js_errors.BadRequestError:
        # It exists with another configuration.
        await jetstream.update_stream(config)
