"""Opaque keyset page tokens, bound to their list and filter; they carry positions, never data."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import uuid
from collections.abc import Sequence

from meshkit.errors import PageTokenInvalid

DEFAULT_SIZE = 100  # AIP-158 leaves it to the service; the contracts say 100
_TAG_BYTES = 8


def size(page_size: int) -> int:
    """How many items a page has; the contract has bounded `page_size` already."""
    return page_size or DEFAULT_SIZE


def encode(kind: str, filter_text: str, key: Sequence[str | int]) -> str:
    """The token of the page after the item whose keyset values are `key`."""
    body = json.dumps(list(key), separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_tag(kind, filter_text, body) + body).decode().rstrip("=")


def decode(kind: str, filter_text: str, token: str, shape: Sequence[type] | None = None) -> list[str | int] | None:
    """The keyset values in a token; None for the first page. Raises PageTokenInvalid for any other token.

    `shape` gives the types of the values (str or int), so that a made-up token cannot reach the database. A value
    that stands for something else (a time, a UUID) may still be none: whoever converts it refuses it in the same way.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        tag, body = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if tag != _tag(kind, filter_text, body):
            raise PageTokenInvalid
        key = json.loads(body)
    except (binascii.Error, ValueError):
        raise PageTokenInvalid from None
    if not isinstance(key, list) or not all(_storable(part) for part in key):
        raise PageTokenInvalid
    if shape is not None and [type(part) for part in key] != list(shape):
        raise PageTokenInvalid
    return key


def id_in(key: Sequence[str | int] | None) -> str:
    """The UUID in what `decode` gave; empty for the first page. Raises PageTokenInvalid for a made-up token without."""
    if key is None:
        return ""
    try:
        return str(uuid.UUID(str(key[0])))
    except ValueError:
        raise PageTokenInvalid from None


def _storable(part: object) -> bool:
    """Whether a database can be asked with it; tokens can be made up by those who read this file."""
    if isinstance(part, str):
        # JSON can also name halves of surrogate pairs, which no encoding has.
        return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in part)
    return isinstance(part, int) and -(2**63) <= part < 2**63


def _tag(kind: str, filter_text: str, body: bytes) -> bytes:
    # Not a secret: a forged position shows nothing that the caller could not list. It finds mix-ups.
    return hashlib.sha256("\0".join([kind, filter_text]).encode() + b"\0" + body).digest()[:_TAG_BYTES]
