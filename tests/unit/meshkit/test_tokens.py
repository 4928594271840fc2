"""Tokens in a service: what is accepted, and that nothing outlives its end or the key that signed it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from joserfc import jwk, jws, jwt

from meshkit import identity, interceptors, tokens
from meshkit.errors import AudienceWrong, TokenInvalid, Unavailable
from meshkit.settings import ServiceSettings
from meshkit.tokens import Verifier
from tests.support.parts import eventually

ISSUER = "https://issuer.example"


def new_key(kid: str) -> jwk.ECKey:
    """A signing key of its own."""
    return jwk.ECKey.generate_key("P-256", {"kid": kid, "alg": "ES256", "use": "sig"})


@dataclass
class Issuer:
    """An issuer that answers what a test wants it to."""

    keys: list[jwk.ECKey] = field(default_factory=lambda: [new_key("one")])
    status: int = 200
    body: bytes | None = None
    asked: int = 0
    hold: asyncio.Event | None = None
    url: str = ""

    async def answer(self, _request: web.Request) -> web.Response:
        """The keys, or what was put in their place."""
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        public = {"keys": [key.as_dict(private=False) for key in self.keys]}
        headers = {"location": f"{self.url}/elsewhere"} if self.status == 302 else {}
        return web.Response(body=self.body or json.dumps(public).encode(), status=self.status, headers=headers)

    def token(self, key: jwk.ECKey | None = None, **changes: Any) -> str:
        """A good token but for the changes, as a header; None takes a claim out."""
        key, now = key or self.keys[0], int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": "florin",
            "sub": "ada",
            "tenant": "demo",
            "scope": "accounts:read",
            "iat": now,
            "exp": now + 600,
            **changes,
        }
        good = {name: value for name, value in claims.items() if value is not None}
        return "Bearer " + jws.serialize_compact({"alg": "ES256", "kid": key.kid}, json.dumps(good).encode(), key)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer on loopback."""
    made = Issuer()
    application = web.Application()
    application.router.add_get("/{any:.*}", made.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
def verifier(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> Verifier:
    """A verifier of that issuer's tokens that may ask it as often as it likes."""
    monkeypatch.setattr(tokens, "_REFETCH_SECONDS", 0)
    settings = ServiceSettings.model_construct(
        jwt_issuer=ISSUER, jwt_audience="florin", jwks_url=f"{issuer.url}/keys", jwks_file=None, jwks_ca_file=None
    )
    return Verifier(settings)


def due(verifier: Verifier) -> None:
    """Lets the time of the next refresh come."""
    verifier._refresh_at = time.monotonic()


async def refused(verifier: Verifier, header: str) -> bool:
    """Whether a token is refused."""
    try:
        await verifier.verify(header)
    except TokenInvalid:
        return True
    return False


async def test_a_token_is_verified_once_and_remembered_until_its_end(
    verifier: Verifier, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time costs no signature; after its end, and what clocks may differ by, it is no token any more."""
    header = issuer.token()
    principal, expires = await verifier.verify(header)
    assert (principal.tenant, principal.subject, principal.is_staff) == ("demo", "ada", True)
    with monkeypatch.context() as patch:
        patch.setattr(jwt, "decode", lambda *_arguments, **_options: pytest.fail("it was verified again"))
        assert await verifier.verify(header) == (principal, expires)
    monkeypatch.setattr(time, "time", lambda: expires + 31)
    assert await refused(verifier, header)


async def test_a_withdrawn_keys_tokens_end_with_the_next_refresh(verifier: Verifier, issuer: Issuer) -> None:
    """Also those that were verified before, and although no other token comes that would make the keys be fetched."""
    header = issuer.token()
    await verifier.verify(header)
    issuer.keys = [new_key("two")]
    assert not await refused(verifier, header)
    due(verifier)
    await eventually(lambda: refused(verifier, header))
    assert not await refused(verifier, issuer.token())


async def test_a_call_under_way_can_ask_whether_its_token_still_stands(
    verifier: Verifier, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream lives longer than what was verified at its beginning: it is told when the issuer withdrew the key."""
    monkeypatch.setattr(interceptors, "CHECKS", (interceptors.check_token,))
    monkeypatch.setattr(tokens, "_REFRESH_SECONDS", 0)
    guard = interceptors.Guard({}, verifier, concurrent_calls_max=1)
    method: Any = SimpleNamespace(is_internal=False, name="/x/Watch")
    await guard._admit(interceptors.Exchange(method, None, {"authorization": issuer.token()}, None))
    call = identity.current()
    await call.token_stands()
    issuer.keys = [new_key("two")]

    async def ended() -> bool:
        try:
            await call.token_stands()
        except TokenInvalid:
            return True
        return False

    await eventually(ended)


class Following:
    """The context of a stream; it keeps the reason that the stream ends with."""

    def __init__(self, header: str) -> None:
        self.header = header
        self.message = ""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """What the caller sent."""
        return (("authorization", self.header),)

    async def abort_with_status(self, status: Any) -> None:
        """The end of the call."""
        self.message = status.details


async def test_a_withdrawn_keys_token_ends_what_is_still_sent(
    verifier: Verifier, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long answer in parts, an export of years, is not sent to its end to somebody whose token does not stand."""
    monkeypatch.setattr(interceptors, "CHECKS", (interceptors.check_token,))
    monkeypatch.setattr(tokens, "_REFRESH_SECONDS", 0)

    async def export(_request: Any, _context: Any) -> AsyncIterator[int]:
        for number in range(1000):
            await asyncio.sleep(0.01)
            yield number

    method: Any = SimpleNamespace(is_internal=False, name="/x/Export")
    guard = interceptors.Guard({}, verifier, concurrent_calls_max=1)
    context = Following(issuer.token())
    sent = []
    async for number in guard._stream(method, export, both_ways=False)(None, context):
        sent.append(number)
        issuer.keys = [new_key("two")]
    assert 0 < len(sent) < 1000
    assert context.message == str(TokenInvalid())


async def test_a_refresh_that_brings_the_same_keys_forgets_nothing(
    verifier: Verifier, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second key, announced ahead of its use, or another order: what matters is which keys there are."""
    issuer.keys.append(new_key("two"))
    header = issuer.token()
    await verifier.verify(header)
    issuer.keys.reverse()
    due(verifier)
    await verifier.verify(header)
    assert verifier._refreshing is not None
    assert await verifier._refreshing
    monkeypatch.setattr(jwt, "decode", lambda *_arguments, **_options: pytest.fail("it was forgotten"))
    await verifier.verify(header)


async def test_nobody_waits_for_a_refresh(verifier: Verifier, issuer: Issuer) -> None:
    """While the issuer is slow, calls go on with the keys that are known."""
    await verifier.verify(issuer.token())
    issuer.hold = asyncio.Event()
    due(verifier)
    async with asyncio.timeout(1):
        for number in range(20):
            await verifier.verify(issuer.token(sub=f"caller-{number}"))
    await eventually(lambda: _true(issuer.asked == 2))
    issuer.hold.set()


async def _true(condition: bool) -> bool:
    return condition


async def test_a_new_keys_token_is_accepted_at_once(verifier: Verifier, issuer: Issuer) -> None:
    """A signature that no known key made has the keys fetched."""
    await verifier.verify(issuer.token())
    issuer.keys.append(new_key("two"))
    assert not await refused(verifier, issuer.token(issuer.keys[1]))


async def test_forged_tokens_do_not_flood_the_issuer(
    verifier: Verifier, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes, it is asked once within some seconds."""
    monkeypatch.setattr(tokens, "_REFETCH_SECONDS", 60)
    await verifier.verify(issuer.token())
    stranger = new_key("one")
    for number in range(20):
        assert await refused(verifier, issuer.token(stranger, sub=f"mallory-{number}"))
    assert issuer.asked == 1


WRONG_ANSWERS: dict[str, tuple[int, bytes | None]] = {
    "an error": (500, None),
    "a redirection": (302, None),
    "no JSON": (200, b"<html>"),
    "a list": (200, b"[]"),
    "no keys": (200, b'{"keys": []}'),
    "keys of no kind": (200, b'{"keys": [{"kty": "??"}]}'),
    "too much": (200, b'{"keys": [' + b" " * 2_000_000 + b"]}"),
}


@pytest.mark.parametrize("answer", WRONG_ANSWERS)
async def test_an_issuer_that_fails_takes_no_known_key_away(verifier: Verifier, issuer: Issuer, answer: str) -> None:
    """Its outage is not the mesh's; what it answers meanwhile is not taken for keys."""
    await verifier.verify(issuer.token())
    issuer.status, issuer.body = WRONG_ANSWERS[answer]
    due(verifier)
    await verifier.verify(issuer.token())
    assert verifier._refreshing is not None
    assert not await verifier._refreshing
    assert not await refused(verifier, issuer.token(sub="new"))
    assert verifier._refresh_at < time.monotonic() + tokens._RETRY_SECONDS + 1


async def test_without_keys_nothing_is_decided_and_the_service_is_not_ready(verifier: Verifier, issuer: Issuer) -> None:
    """UNAVAILABLE, not UNAUTHENTICATED: the caller's token may be good. Once there are keys, it is ready for good."""
    issuer.status = 503
    with pytest.raises(Unavailable):
        await verifier.verify(issuer.token())
    with pytest.raises(Unavailable):
        await verifier.check()
    issuer.status = 200
    await verifier.check()
    issuer.status = 503
    await verifier.check()


FAR = 4_000_000_000
REFUSED: dict[str, dict[str, Any]] = {
    "of another issuer": {"iss": "https://evil.example"},
    "without an end": {"exp": None},
    "with an end that is no number": {"exp": "soon"},
    "with an end that is never reached": {"exp": float("nan")},
    "too long-lived": {"exp": FAR},
    "not yet valid": {"nbf": FAR},
    "made in the future": {"iat": FAR},
    "without a subject": {"sub": None},
    "with an empty subject": {"sub": ""},
    "with a subject that no row can hold": {"sub": "a\0b"},
    "with a subject that forges a line": {"sub": "ada\nroot"},
    "with a subject that is no text": {"sub": "\ud800"},
    "with a subject that is too long": {"sub": "a" * 256},
    "without a tenant": {"tenant": None},
    "for all tenants": {"tenant": "*"},
    "for two tenants": {"tenant": "demo,other"},
    "of a customer that is none": {"customer": "accounts/one"},
    "of an empty customer": {"customer": ""},
    "of a list of customers": {"customer": ["customers/a"]},
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_token_that_is_signed_and_wrong_is_refused(verifier: Verifier, issuer: Issuer, kind: str) -> None:
    """A good signature says who made it, not that it means anything."""
    assert await refused(verifier, issuer.token(**REFUSED[kind]))


async def test_a_token_for_somebody_else_is_told_so(verifier: Verifier, issuer: Issuer) -> None:
    """Whether the audience is one or a list."""
    for audience in ("other", ["other", "another"], None, {"florin": 1}):
        with pytest.raises(AudienceWrong):
            await verifier.verify(issuer.token(aud=audience))
    await verifier.verify(issuer.token(aud=["other", "florin"]))


def _without_signature(header: str) -> str:
    return header.rsplit(".", 1)[0] + "."


MALFORMED: dict[str, Callable[[str], str | None]] = {
    "nothing": lambda _header: None,
    "an empty header": lambda _header: "",
    "another scheme": lambda header: header.replace("Bearer", "Basic"),
    "no token": lambda _header: "Bearer ",
    "no parts": lambda _header: "Bearer abc",
    "empty parts": lambda _header: "Bearer ..",
    "no signature": _without_signature,
    "a part too many": lambda header: header + ".e30",
    "no base64": lambda header: header.replace(".", ".é", 1),
    "a list for a head": lambda header: "Bearer W10." + header.split(".", 1)[1],
    "a tower for a head": lambda header: "Bearer " + "W1tb" * 20_000 + "." + header.split(".", 1)[1],
}


@pytest.mark.parametrize("kind", MALFORMED)
async def test_a_header_that_is_no_token_is_refused(verifier: Verifier, issuer: Issuer, kind: str) -> None:
    """One refusal for all of them, never another error."""
    with pytest.raises(TokenInvalid):
        await verifier.verify(MALFORMED[kind](issuer.token()))
