"""The development issuer: signs tokens with a key made at first start; production points at its own issuer."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from joserfc import jwk, jwt
from joserfc.errors import JoseError

from local.roles import ROLES
from local.state import MeshError, State, write_private

ISSUER = "https://issuer.florin.local"
AUDIENCE = "florin"
LIFETIME_SECONDS = 1800
KEY_FILE = "issuer-key.json"


def ensure(state: State) -> None:
    """Makes the signing key at first start, and writes what it is verified with."""
    path = state.secrets / KEY_FILE
    if not path.exists():
        key = jwk.ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256", "kid": uuid.uuid4().hex[:16]})
        write_private(path, json.dumps(key.as_dict(private=True)))
    public = _key(state).as_dict(private=False)
    write_private(state.root / "jwks.json", json.dumps({"keys": [public]}))


def mint(
    state: State,
    role: str,
    *,
    tenant: str = "demo",
    subject: str | None = None,
    customer: str | None = None,
    lifetime_seconds: int = LIFETIME_SECONDS,
) -> str:
    """A signed token of a role. Raises MeshError for an unknown role, or a customer's token without a customer."""
    if role not in ROLES:
        raise MeshError(f"There is no role {role}; the roles are {', '.join(ROLES)}.")
    if (role == "customer") != (customer is not None):
        raise MeshError("A customer's token names its customer (--customer), any other token none.")
    if not 0 < lifetime_seconds <= 3600:
        raise MeshError("A token lives from 1 to 3600 seconds; the edge refuses longer ones.")
    now = int(time.time())
    claims: dict[str, object] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject or (f"{role}-{customer.removeprefix('customers/')}" if customer else role),
        "iat": now,
        "nbf": now,
        "exp": now + lifetime_seconds,
        "jti": uuid.uuid4().hex,
        "tenant": tenant,
        "scope": " ".join(ROLES[role]),
    }
    if customer is not None:
        claims["customer"] = customer if customer.startswith("customers/") else f"customers/{customer}"
    return sign(state, claims)


def sign(state: State, claims: dict[str, object], header: dict[str, object] | None = None) -> str:
    """Signs any claims with the issuer's key; tests sign wrong ones too."""
    key = _key(state)
    return jwt.encode({"alg": "ES256", "kid": key.kid, **(header or {})}, claims, key)


def _key(state: State) -> jwk.ECKey:
    try:
        return jwk.ECKey.import_key(json.loads((state.secrets / KEY_FILE).read_text()))
    except FileNotFoundError:
        raise MeshError(
            f"No mesh was started in {state.root} yet, so it has no issuer; run `florin up` first."
        ) from None
    except (ValueError, JoseError):
        path = state.secrets / KEY_FILE
        raise MeshError(f"{path} is damaged; remove it, and the next start makes a new one.") from None


@asynccontextmanager
async def serve(state: State, port: int) -> AsyncIterator[int]:
    """Serves the verification keys on loopback, where the edge and the services fetch them."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            body = (state.root / "jwks.json").read_bytes()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            writer.write(head.encode() + b"connection: close\r\n\r\n" + body)
            await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a caller that says nothing sensible is hung up on
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    async with server:
        yield server.sockets[0].getsockname()[1]
