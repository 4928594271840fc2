"""Tokens that nobody should believe, and claims to make odd ones of."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

from joserfc import jwk, jwt

from local import issuer
from local.state import State

Forge = Callable[[State], str]


def claims(**changes: Any) -> dict[str, Any]:
    """Claims that are good but for the changes; None takes one out."""
    now = int(time.time())
    made = {
        "iss": issuer.ISSUER,
        "aud": issuer.AUDIENCE,
        "sub": "mallory",
        "iat": now,
        "nbf": now,
        "exp": now + 600,
        "tenant": "demo",
        "scope": "accounts:read",
        **changes,
    }
    return {key: value for key, value in made.items() if value is not None}


def public_key(state: State) -> dict[str, Any]:
    """The issuer's public key, as everybody can read it."""
    key: dict[str, Any] = json.loads((state.root / "jwks.json").read_text())["keys"][0]
    return key


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _signed(**changes: Any) -> Forge:
    return lambda state: issuer.sign(state, claims(**changes))


def _shifted(**seconds: int) -> Forge:
    """Good but for times that many seconds from now."""
    return lambda state: issuer.sign(
        state, claims(**{name: int(time.time()) + offset for name, offset in seconds.items()})
    )


def _foreign_key(state: State) -> str:
    kid = public_key(state)["kid"]
    key = jwk.ECKey.generate_key("P-256", {"alg": "ES256", "kid": kid})
    return jwt.encode({"alg": "ES256", "kid": kid}, claims(), key)


def _key_in_the_header(state: State) -> str:
    key = jwk.ECKey.generate_key("P-256", {"alg": "ES256"})
    head = {"alg": "ES256", "jwk": key.as_dict(private=False), "jku": "https://evil.example/jwks.json"}
    return jwt.encode(head, claims(), key)


def _no_algorithm(state: State) -> str:
    return f"{_part({'alg': 'none', 'typ': 'JWT', 'kid': public_key(state)['kid']})}.{_part(claims())}."


def _key_confusion(state: State) -> str:
    """HS256 with the public key's bytes as the secret."""
    public = public_key(state)
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT', 'kid': public['kid']})}.{_part(claims())}"
    mac = hmac.new(json.dumps(public).encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def _tampered(state: State) -> str:
    head, _, signature = issuer.sign(state, claims()).split(".")
    return f"{head}.{_part(claims(scope='tenants:write accounts:read'))}.{signature}"


WRONG: dict[str, Forge] = {
    "rubbish": lambda state: "abc",
    "of another key": _foreign_key,
    "with a key of its own": _key_in_the_header,
    "tampered with": _tampered,
    "alg none": _no_algorithm,
    "key confusion": _key_confusion,
    "expired": _shifted(exp=-3600, iat=-7200, nbf=-7200),
    "without an end": _signed(exp=None),
    "not yet valid": _shifted(nbf=3600, exp=3700),
    "too long-lived": _shifted(exp=90_000),
    "of another issuer": _signed(iss="https://evil.example"),
}
"""Each is UNAUTHENTICATED with TOKEN_INVALID, in the same words."""
