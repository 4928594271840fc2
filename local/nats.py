"""NATS with JetStream for the mesh: TLS, identities from certificates, and just the subjects that a policy names."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from local.binaries import Binaries
from local.processes import Child, http_ok
from local.state import MeshError, State
from meshkit.policy import ServicePolicy

if TYPE_CHECKING:
    from nats.js import JetStreamContext

_CONNECT_SECONDS = 15.0


def permissions(policy: ServicePolicy) -> dict[str, object]:
    """What a service may do on the broker: its own events, its own durables, its own inbox, its own dead letters."""
    publish = [*policy.publishes, f"florin.deadletters.{policy.service}.>"]
    for stream in policy.consumes:
        publish += [
            f"$JS.API.CONSUMER.INFO.{stream}.{policy.service}",
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{policy.service}",
            f"$JS.ACK.{stream}.{policy.service}.>",
        ]
    return {"publish": {"allow": publish}, "subscribe": {"allow": [f"_INBOX.{policy.service}.>"]}}


def configuration(state: State, port: int, monitor_port: int, policies: Mapping[str, ServicePolicy]) -> str:
    """The server's configuration. A user is the SPIFFE URI of a certificate; there are no passwords."""
    certificate, key = state.certificate("nats")
    users: list[dict[str, object]] = [
        {"user": f"spiffe://florin/{service}", "permissions": permissions(policy)}
        for service, policy in policies.items()
    ]
    # Declares streams and consumers; only the person who runs the mesh has its key.
    users.append({"user": "spiffe://florin/operator"})
    settings = {
        "server_name": "florin-local",
        "listen": f"127.0.0.1:{port}",
        "http": f"127.0.0.1:{monitor_port}",
        "max_payload": 1048576,
        "write_deadline": "5s",
        "tls": {
            "cert_file": str(certificate),
            "key_file": str(key),
            "ca_file": str(state.ca),
            "verify_and_map": True,
            "timeout": 5,
        },
        # By default the broker syncs every two minutes. What it loses of the last second when the machine stops, the
        # relays tell again (meshkit/outbox.py); a disk that is waited for at each event would cost a third of its CPU.
        "jetstream": {"store_dir": str(state.root / "nats"), "sync_interval": "1s", "max_file_store": 10 * 2**30},
        "authorization": {"users": users},
    }
    return json.dumps(settings, indent=2)


def child(
    state: State, binaries: Binaries, port: int, monitor_port: int, policies: Mapping[str, ServicePolicy]
) -> Child:
    """The broker as a child of the supervisor."""
    path = state.root / "nats.conf"
    path.write_text(configuration(state, port, monitor_port, policies))

    async def answers() -> bool:
        # Over the port for watching it: at the other it would log each look as a failed handshake.
        return await http_ok(monitor_port, "/healthz")

    return Child(
        name="nats",
        program=[str(binaries.nats), "--config", str(path)],
        log=state.logs / "nats.log",
        probe=answers,
        # Measured: a quarter less CPU a message than with a scheduler for each core, which look for work in vain.
        environment={"GOMAXPROCS": "1"},
        port=port,
    )


async def declare(state: State, port: int, policies: Mapping[str, ServicePolicy]) -> None:
    """Creates every stream and durable consumer, as the operator. Raises MeshError when the broker does not answer."""
    from meshkit import bus

    async with operator(state, port) as jetstream:
        await bus.declare(jetstream, policies)


def _matters(record: logging.LogRecord) -> bool:
    return "eof_received" not in record.getMessage()


@asynccontextmanager
async def operator(state: State, port: int) -> AsyncIterator[JetStreamContext]:
    """JetStream with the rights of whoever runs the broker. Raises MeshError when the broker does not answer."""
    import ssl

    import nats

    # nats-py's protocol says to asyncio what only matters without TLS; people would see the warning every time.
    logging.getLogger("asyncio").addFilter(_matters)
    certificate, key = state.certificate("operator")
    context = ssl.create_default_context(cafile=str(state.ca))
    context.load_cert_chain(str(certificate), str(key))
    address = f"tls://127.0.0.1:{port}"
    try:
        # A handshake that fails would be waited for without end.
        async with asyncio.timeout(_CONNECT_SECONDS):
            client = await nats.connect(address, tls=context, connect_timeout=5, allow_reconnect=False)
    except (OSError, nats.errors.Error) as error:
        raise MeshError(f"The broker at port {port} does not answer ({error!r}); is the mesh up?") from None
    try:
        yield client.jetstream(timeout=10)
    finally:
        await client.close()
