"""NATS with JetStream for the mesh: TLS, identities from certificates, and just the subjects that a policy names."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from local.binaries import Binaries
from local.processes import Child, listens
from local.state import State
from meshkit.policy import ServicePolicy


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
        return await listens(port)

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
    """Creates every stream and durable consumer, as the operator."""
    import ssl

    import nats

    from meshkit import bus

    # nats-py's protocol says to asyncio what only matters without TLS; people would see the warning at every start.
    logging.getLogger("asyncio").addFilter(lambda record: "eof_received" not in record.getMessage())
    certificate, key = state.certificate("operator")
    context = ssl.create_default_context(cafile=str(state.ca))
    context.load_cert_chain(str(certificate), str(key))
    client = await nats.connect(f"tls://127.0.0.1:{port}", tls=context, connect_timeout=5)
    try:
        await bus.declare(client.jetstream(timeout=10), policies)
    finally:
        await client.close()
