"""The secrets of a deployment in containers, and what its broker is told; the same parts as those of `florin up`.

A folder keeps what was made, so that a second run gives the same again. It is not the state of a mesh: nothing runs in
it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path

from local import certs, issuer, nats, services
from local.state import SERVICES, MeshError, State, write_private
from meshkit import policy

_MARKER = "florin-deployment"
_OURS = {"secrets", "certs", "ca.pem", "jwks.json", "sealing-public.pem"}
_ROLES = ("runtime", "owner", "checker")
_LABELS = {"app.kubernetes.io/part-of": "florin"}


def prepare(folder: Path, *, namespace: str, hosts: Sequence[str]) -> State:
    """The folder with everything in it; what is there already stays. Raises MeshError.

    `hosts` are public names of the edge. A folder that lost a key is refused: a new one would open nothing of what the
    databases hold.
    """
    state = State(folder.expanduser().resolve())
    marker = state.root / _MARKER
    try:
        state.root.mkdir(parents=True, exist_ok=True)
        state.root.chmod(0o700)
        if not marker.exists() and (foreign := {path.name for path in state.root.iterdir()} - _OURS):
            raise MeshError(
                f"{state.root} holds other files ({min(foreign)}, …); give --folder an empty or new folder."
            )
        services.ensure_keys(state, first_start=not marker.exists())
        certs.ensure(state, identities(namespace, hosts))
        issuer.ensure(state)
        for name in ("admin", *(f"{service}_{role}" for service in SERVICES for role in _ROLES)):
            state.secret(f"postgres-{name}")
        if not marker.exists():
            write_private(marker, "1\n")  # the last thing: a run that was interrupted is begun again
    except OSError as error:
        raise MeshError(f"{state.root} cannot be used: {error.strerror}.") from None
    return state


def identities(namespace: str, hosts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Every identity of a deployment, with the names it is reached by beside its own."""
    inside = f"{namespace}.svc.cluster.local"
    more = {
        "edge": (f"edge.{namespace}.svc", f"edge.{inside}", *hosts),
        "nats": (f"nats.{namespace}.svc", f"nats.{inside}", f"*.nats-pods.{inside}"),
        "postgres": (f"postgres.{namespace}.svc", f"postgres.{inside}"),
    }
    return {name: more.get(name, ()) for name in (*certs.IDENTITIES, "postgres")}


def secrets(state: State, *, production: bool) -> dict[str, dict[str, Path | str]]:
    """Secret → its keys, each with the file that holds the value, or the value where it is none.

    In production the certificates, the issuer and the databases' administrator are somebody else's.
    """
    made: dict[str, dict[str, Path | str]] = {}
    for service in SERVICES:
        for role, name in zip(_ROLES, ("database", "database-owner", "database-checker"), strict=True):
            password = state.secrets / f"postgres-{service}_{role}"
            made[f"{service}-{name}"] = {"username": f"{service}_{role}", "password": password}
        made[f"{service}-encryption"] = {"keys": Path(services.encryption_key(state, service))}
    made["accounts-sealing"] = {"key.pem": services.ensure_sealing_key(state)}
    made["checker-sealing"] = {"keys.pem": state.sealing_keys}
    if production:
        return made
    for identity in (*certs.IDENTITIES, "postgres"):
        certificate, key = state.certificate(identity)
        made[f"{identity}-tls"] = {"tls.crt": certificate, "tls.key": key, "ca.crt": state.ca}
    made["postgres-admin"] = {"username": "postgres", "password": state.secrets / "postgres-admin"}
    made["issuer-keys"] = {"jwks.json": state.root / "jwks.json"}
    made["issuer-signing"] = {issuer.KEY_FILE: state.secrets / issuer.KEY_FILE}
    return made


def manifests(state: State, namespace: str, *, production: bool) -> str:
    """The secrets as a Kubernetes List, in JSON."""
    items = []
    for name, values in secrets(state, production=production).items():
        kind = "kubernetes.io/tls" if "tls.crt" in values else "Opaque"
        kind = "kubernetes.io/basic-auth" if "username" in values else kind
        data = {
            key: base64.b64encode(value.read_bytes() if isinstance(value, Path) else value.encode()).decode()
            for key, value in values.items()
        }
        metadata = {"name": name, "namespace": namespace, "labels": _LABELS}
        items.append({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data})
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2)


def open_to_containers(state: State) -> None:
    """Lets any user read the files, in a folder that only its owner may enter: Compose mounts each file by itself, with
    the mode that it has here, and the users in the containers are other ones."""
    state.root.chmod(0o700)
    for path in state.root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def broker_users() -> str:
    """The broker's `authorization` for all identities of the mesh; there are no passwords."""
    users: list[dict[str, object]] = [
        {"user": f"spiffe://florin/{name}", "permissions": nats.permissions(policy.load(name))} for name in SERVICES
    ]
    users.append({"user": "spiffe://florin/operator"})
    return f"authorization: {json.dumps({'users': users}, indent=2)}\n"


async def declare_streams(url: str, *, ca: Path, certificate: tuple[Path, Path], replicas: int, seconds: float) -> None:
    """Declares streams and consumers as the operator. Raises MeshError when the broker does not take them in time: a
    cluster refuses them until its nodes have found a leader."""
    import ssl

    import nats as client
    from nats.errors import Error

    from meshkit import bus

    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(*map(str, certificate))
    policies = {name: policy.load(name) for name in SERVICES}
    deadline = time.monotonic() + seconds
    while True:
        try:
            async with asyncio.timeout(15):
                connection = await client.connect(url, tls=context, connect_timeout=5, allow_reconnect=False)
                try:
                    await bus.declare(connection.jetstream(timeout=10), policies, replicas=replicas)
                    return
                finally:
                    await connection.close()
        except (OSError, Error) as error:  # a TimeoutError is an OSError
            if time.monotonic() > deadline:
                raise MeshError(
                    f"The broker at {url} did not take the streams within {seconds:g} s: {error!r}"
                ) from None
            await asyncio.sleep(1)
