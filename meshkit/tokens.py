"""Verifies bearer tokens (ES256, EdDSA, RS256); remembers them until they expire or the issuer's keys change."""

from __future__ import annotations

import asyncio
import json
import math
import re
import ssl
import time
from collections import OrderedDict
from typing import Any

import aiohttp
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from meshkit import logs
from meshkit.errors import AudienceWrong, TokenInvalid, Unavailable
from meshkit.identity import Principal
from meshkit.settings import ServiceSettings

_ALGORITHMS = ["ES256", "EdDSA", "RS256"]
_CLOCK_SKEW_SECONDS = 30
_LIFETIME_MAX_SECONDS = 3600  # as at the edge
_REMEMBERED_MAX = 10_000
_REFRESH_SECONDS = 300
_RETRY_SECONDS = 30  # after a refresh that failed
_REFETCH_SECONDS = 5  # an unknown key id makes the keys be fetched again, but not more often than this
_KEYS_BYTES_MAX = 1024 * 1024
_SUBJECT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,255}\Z")  # it stands in logs, rows and audits
_TENANT = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")
_CUSTOMER = re.compile(r"customers/[a-z0-9][a-z0-9-]{0,62}\Z")

_log = logs.get(__name__)


class Verifier:
    """Tokens of one issuer for one audience."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._url = settings.jwks_url
        ca = settings.jwks_ca_file
        self._tls: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca) if ca is not None else True
        self._keys: jwk.KeySet | None = None
        self._fetched_at = float("-inf")
        self._refresh_at = float("inf")
        self._refreshing: asyncio.Task[bool] | None = None
        self._lock = asyncio.Lock()
        self._remembered: OrderedDict[str, tuple[float, Principal]] = OrderedDict()
        if settings.jwks_file is not None:
            self._keys = jwk.KeySet.import_key_set(json.loads(settings.jwks_file.read_text()))

    async def verify(self, authorization: str | None) -> tuple[Principal, float]:
        """The principal in an Authorization header and when its token expires (Unix seconds).

        Raises TokenInvalid, AudienceWrong, or Unavailable when the issuer's keys were never had.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenInvalid
        self._refresh_when_due()
        remembered = self._remembered.get(token)
        now = time.time()
        if remembered is not None and now < remembered[0]:
            return remembered[1], remembered[0]
        claims = await self._claims(token)
        principal = self._principal(claims, now)
        self._remembered[token] = (float(claims["exp"]), principal)
        if len(self._remembered) > _REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return principal, float(claims["exp"])

    async def check(self) -> None:
        """Readiness. Raises Unavailable while the issuer's keys were never had, since no call could be answered."""
        if self._keys is None and not await self._fetch() and self._keys is None:
            raise Unavailable("the token issuer")

    def _refresh_when_due(self) -> None:
        """Fetches the keys anew, beside the calls: a key that the issuer withdrew must not live on in what is
        remembered, and nobody has to wait for it."""
        if time.monotonic() >= self._refresh_at and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._fetch())

    async def _claims(self, token: str) -> dict[str, Any]:
        if self._keys is None:
            await self._fetch()
        for attempt in (1, 2):
            if self._keys is None:
                raise Unavailable("the token issuer")
            try:
                return dict(jwt.decode(token, self._keys, algorithms=_ALGORITHMS).claims)
            except (JoseError, ValueError, KeyError, TypeError):
                # The issuer may have rotated its keys since they were fetched.
                if attempt == 2 or not await self._fetch():
                    raise TokenInvalid from None
        raise TokenInvalid

    def _principal(self, claims: dict[str, Any], now: float) -> Principal:
        expires, issued, begins = claims.get("exp"), claims.get("iat", now), claims.get("nbf", now)
        numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in (expires, issued, begins))
        if claims.get("iss") != self._issuer or not numbers:
            raise TokenInvalid
        if expires + 0 <= now - _CLOCK_SKEW_SECONDS or max(begins, issued) > now + _CLOCK_SKEW_SECONDS:  # type: ignore[operator]
            raise TokenInvalid
        if expires - now > _LIFETIME_MAX_SECONDS + _CLOCK_SKEW_SECONDS:  # type: ignore[operator]
            raise TokenInvalid
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise AudienceWrong
        subject, tenant, customer = claims.get("sub"), claims.get("tenant"), claims.get("customer")
        if not isinstance(subject, str) or not _SUBJECT.match(subject) or not isinstance(tenant, str):
            raise TokenInvalid
        if not _TENANT.match(tenant) or (customer is not None and not _CUSTOMER.match(str(customer))):
            raise TokenInvalid
        scope = claims.get("scope", "")
        scopes = frozenset(scope.split() if isinstance(scope, str) else ())
        return Principal(tenant=tenant, subject=subject, customer=customer, scopes=scopes)

    async def _fetch(self) -> bool:
        """Fetches the issuer's keys, unless that was done just now; whether there are new ones to try."""
        if self._url is None:
            return False
        async with self._lock:
            if time.monotonic() - self._fetched_at < _REFETCH_SECONDS:
                return False
            self._fetched_at = time.monotonic()
            self._refresh_at = self._fetched_at + _RETRY_SECONDS
            try:
                timeout = aiohttp.ClientTimeout(total=2)
                async with (
                    aiohttp.ClientSession(timeout=timeout) as session,
                    # Where the keys are is a setting, not what somebody on the way says.
                    session.get(self._url, ssl=self._tls, allow_redirects=False) as answer,
                ):
                    if answer.status != 200:
                        raise ValueError(f"the issuer answers {answer.status}")
                    self._take(await _read(answer.content))
            except (aiohttp.ClientError, OSError, JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
                # Known keys stay good: the issuer may be down for a while without the mesh being so.
                _log.warning("the issuer's keys cannot be fetched", cause=repr(error))
                return False
            self._refresh_at = self._fetched_at + _REFRESH_SECONDS
            return True

    def _take(self, text: bytes) -> None:
        """Takes a set of keys. Other keys than before end what was remembered: it may be of a withdrawn key."""
        keys = jwk.KeySet.import_key_set(json.loads(text))
        if not keys.keys:
            raise ValueError("the issuer gives no keys")
        if self._keys is not None and _thumbprints(keys) != _thumbprints(self._keys):
            self._remembered.clear()
        self._keys = keys


async def _read(content: aiohttp.StreamReader) -> bytes:
    text = b""
    async for part in content.iter_chunked(65536):
        text += part
        if len(text) > _KEYS_BYTES_MAX:
            raise ValueError("the issuer's answer is too long to be keys")
    return text


def _thumbprints(keys: jwk.KeySet) -> set[str]:
    return {key.thumbprint() for key in keys}
