"""The four services and the checker as children: their ports, their environment, how they are probed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from local import issuer
from local.postgres import Postgres
from local.processes import Child, free_port, http_ok
from local.state import SERVICES, MeshError, State, write_private

CHECKER = "checker"


@dataclass(frozen=True, slots=True)
class Replica:
    """One process of a service."""

    service: str
    number: int
    grpc_port: int
    health_port: int

    @property
    def name(self) -> str:
        """The child's name: "transactions", "transactions-2" …"""
        return self.service if self.number == 1 else f"{self.service}-{self.number}"

    @property
    def address(self) -> str:
        """Where it answers gRPC."""
        return f"127.0.0.1:{self.grpc_port}"


def plan(scale: Mapping[str, int]) -> list[Replica]:
    """The replicas of each service, each on ports of its own."""
    return [
        Replica(service, number, free_port(), free_port())
        for service in SERVICES
        for number in range(1, scale.get(service, 1) + 1)
    ]


def addresses(replicas: Sequence[Replica], service: str) -> list[str]:
    """Where a service answers gRPC."""
    return [replica.address for replica in replicas if replica.service == service]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the services are told of the rest of the mesh."""

    state: State
    postgres: Postgres
    replicas: Sequence[Replica]
    nats_port: int
    jwks_port: int
    extra: Mapping[str, str]
    """Variables given on the command line; they go before ours."""
    sandbox: bool = False
    """Whether the services' time can be moved."""

    def environment(self, replica: Replica) -> dict[str, str]:
        """A replica's variables. What the person set in the shell for a service wins."""
        prefix = replica.service.upper()
        certificate, key = self.state.certificate(replica.service)
        runtime, owner = f"{replica.service}_runtime", f"{replica.service}_owner"
        values: dict[str, object] = {
            "GRPC_PORT": replica.grpc_port,
            "HEALTH_PORT": replica.health_port,
            "DATABASE_URL": self.postgres.address(replica.service, runtime),
            "DATABASE_PASSWORD_FILE": self.postgres.password_file(runtime),
            "OWNER_DATABASE_URL": self.postgres.address(replica.service, owner),
            "OWNER_DATABASE_PASSWORD_FILE": self.postgres.password_file(owner),
            "NATS_URL": f"tls://127.0.0.1:{self.nats_port}",
            "TLS_CERT_FILE": certificate,
            "TLS_KEY_FILE": key,
            "TLS_CA_FILE": self.state.ca,
            "JWT_ISSUER": issuer.ISSUER,
            "JWT_AUDIENCE": issuer.AUDIENCE,
            "JWKS_URL": f"http://127.0.0.1:{self.jwks_port}/jwks.json",
            "ENCRYPTION_KEY_FILE": encryption_key(self.state, replica.service),
            "DRAIN_SECONDS": "0.3",
        }
        if self.sandbox:
            values["SANDBOX_CLOCK_FILE"] = self.state.clock
        if replica.service == "accounts":
            values["SEALING_KEY_FILE"] = self.state.secrets / _SEALING_KEY
        if replica.service == "transactions":
            values["ACCOUNTS_TARGET"] = "ipv4:" + ",".join(addresses(self.replicas, "accounts"))
            values["COMPLIANCE_TARGET"] = "ipv4:" + ",".join(addresses(self.replicas, "compliance"))
            values["RAIL_FOLDER"], values["RAIL_BIC"] = self.state.rail, _RAIL_BIC
        if replica.service == "notifications":
            # Only here: a webhook listener on this machine is what people try first.
            values["WEBHOOK_ALLOW_LOOPBACK"] = "true"
        return self._named(prefix, values)

    def checker_environment(self, grpc_port: int, health_port: int) -> dict[str, str]:
        """The checker's variables."""
        certificate, key = self.state.certificate(CHECKER)
        values: dict[str, object] = {
            "GRPC_PORT": grpc_port,
            "HEALTH_PORT": health_port,
            "TLS_CERT_FILE": certificate,
            "TLS_KEY_FILE": key,
            "TLS_CA_FILE": self.state.ca,
            "ACCOUNTS_TARGET": "ipv4:" + ",".join(addresses(self.replicas, "accounts")),
            "SEALING_KEYS_FILE": self.state.sealing_keys,
        }
        if self.sandbox:
            values["SANDBOX_CLOCK_FILE"] = self.state.clock
        for service in SERVICES:
            role = f"{service}_{CHECKER}"
            values[f"{service.upper()}_DATABASE_URL"] = self.postgres.address(service, role)
            values[f"{service.upper()}_DATABASE_PASSWORD_FILE"] = self.postgres.password_file(role)
        return self._named(CHECKER.upper(), values)

    def _named(self, prefix: str, values: Mapping[str, object]) -> dict[str, str]:
        named = {f"{prefix}_{name}": str(value) for name, value in values.items()}
        return {**named, **{name: value for name, value in self.extra.items() if name.startswith(f"{prefix}_")}}

    def child(self, replica: Replica) -> Child:
        """A replica as a child of the supervisor."""
        ports = replica.grpc_port, replica.health_port
        return self._child(replica.name, replica.service, *ports, self.environment(replica))

    def checker(self, health_port: int) -> Child:
        """The checker as a child of the supervisor."""
        grpc_port = free_port()
        return self._child(CHECKER, CHECKER, grpc_port, health_port, self.checker_environment(grpc_port, health_port))

    def _child(
        self, name: str, package: str, grpc_port: int, health_port: int, environment: Mapping[str, str]
    ) -> Child:
        async def ready() -> bool:
            return await http_ok(health_port, "/readyz")

        return Child(
            name=name,
            # -P: a folder that is called accounts where the command is run must not be taken for the service.
            program=[sys.executable, "-P", "-m", package],
            log=self.state.logs / f"{name}.log",
            probe=ready,
            environment={"GRPC_ENABLE_FORK_SUPPORT": "0", **environment},
            port=grpc_port,
        )


_POOL_SIZE = 8  # as in meshkit/settings.py, which costs half a second to import


_SEALING_KEY = "sealing-accounts"
_RAIL_BIC = "FLORATWWXXX"
"""Of no bank: for the counterparty that `florin bank` plays."""


def _key_name(service: str) -> str:
    return f"encryption-{service}"


def encryption_key(state: State, service: str) -> str:
    """The file with a service's key for personal data; made at first use."""
    path = state.secret(_key_name(service), lambda: base64.urlsafe_b64encode(os.urandom(32)).decode())
    return str(path)


def ensure_keys(state: State, *, first_start: bool) -> None:
    """Makes the services' keys for personal data before there is any.

    Raises MeshError when one is gone later: a new one would open nothing of what the databases hold.
    """
    for service in SERVICES:
        path = state.secrets / _key_name(service)
        if not first_start and not path.exists():
            raise MeshError(f"{path} is gone, and nothing else opens the personal data of {service}; restore the file.")
        encryption_key(state, service)
    ensure_sealing_key(state)


def ensure_sealing_key(state: State) -> Path:
    """The file with the key that signs tree heads; made at first use, and anew when it is gone.

    The public keys stay in a file that users copy, the present one first: what an earlier one signed can still be
    verified.
    """
    from accounts import signing

    path = state.secrets / _SEALING_KEY
    if not path.exists():
        before = state.sealing_keys.read_text() if state.sealing_keys.exists() else ""
        write_private(path, signing.new_private_pem() + before)
    try:
        public = signing.signer(path).known.pem()
    except ValueError as error:
        raise MeshError(f"{path}: {error}; restore it, or delete it and a new one is made.") from None
    if not state.sealing_keys.exists() or state.sealing_keys.read_text() != public:
        state.sealing_keys.write_text(public)
    return path


def connections(replicas: Sequence[Replica]) -> int:
    """What PostgreSQL is asked for: each replica's pool and its probe, and some for the checker, migrations,
    `florin verify` and people."""
    asked = (os.environ.get(f"{one.service.upper()}_DATABASE_POOL_SIZE", "") for one in replicas)
    return sum((int(size) if size.isdigit() else _POOL_SIZE) + 1 for size in asked) + 40


def overrides() -> dict[str, str]:
    """Variables of the services that the person set in the shell."""
    prefixes = tuple(f"{name.upper()}_" for name in (*SERVICES, CHECKER))
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes)}


@asynccontextmanager
async def preparation(state: State, postgres: Postgres, nats_port: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Gives what brings the schemas up and declares the streams, to be called once PostgreSQL and NATS answer.

    All in one process, which imports what it needs while those two start. Raises MeshError when it fails.
    """
    plan_ = {
        "state": str(state.root),
        "nats_port": nats_port,
        "databases": {service: postgres.address(service, f"{service}_owner") for service in SERVICES},
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "local.migrate", json.dumps(plan_)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        # Ctrl-C in the terminal is the supervisor's to answer: half a migration must not be what is left of it.
        start_new_session=True,
    )

    async def prepare() -> None:
        _, said = await process.communicate(b"begin\n")
        if process.returncode != 0:
            raise MeshError(
                f"The schemas and streams could not be brought up:\n{said.decode(errors='replace')[-2000:]}"
            )

    try:
        yield prepare
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
