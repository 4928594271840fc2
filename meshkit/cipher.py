"""Encrypts personal data at rest (AES-256-GCM); it must not be used for anything that is searched by."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12  # NIST SP 800-38D: 96 bits
_KEY_ID_BYTES = 4


class Cipher:
    """One or more keys; the first encrypts, all of them decrypt, so that keys can be rotated.

    A ciphertext is key id (4 bytes) ‖ nonce (12) ‖ sealed text and tag. `purpose` is bound to it as associated
    data: a ciphertext moved to another column or row's purpose does not open.
    """

    def __init__(self, *keys: bytes) -> None:
        if not keys or any(len(key) != 32 for key in keys):
            raise ValueError("an encryption key has exactly 32 bytes")
        self._keys = {key_id(key): AESGCM(key) for key in keys}
        self._first = key_id(keys[0])

    @staticmethod
    def from_file(path: Path) -> Cipher:
        """Keys from a file, one a line, base64url, the one to encrypt with first."""
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        return Cipher(*(base64.urlsafe_b64decode(line + "=" * (-len(line) % 4)) for line in lines))

    def encrypt(self, text: str, purpose: str) -> bytes:
        """Seals a text; the empty text becomes empty bytes."""
        if not text:
            return b""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[self._first].encrypt(nonce, text.encode(), purpose.encode())
        return self._first + nonce + sealed

    def decrypt(self, data: bytes, purpose: str) -> str:
        """Opens what `encrypt` sealed for the same purpose. Raises ValueError if the key or purpose is another."""
        if not data:
            return ""
        data = bytes(data)
        aead = self._keys.get(data[:_KEY_ID_BYTES])
        if aead is None:
            raise ValueError("no key for this ciphertext; was a key removed before its data was sealed anew?")
        nonce = data[_KEY_ID_BYTES : _KEY_ID_BYTES + _NONCE_BYTES]
        try:
            return aead.decrypt(nonce, data[_KEY_ID_BYTES + _NONCE_BYTES :], purpose.encode()).decode()
        except InvalidTag:
            raise ValueError(f"this ciphertext was not sealed for {purpose}") from None


def key_id(key: bytes) -> bytes:
    """Names a key without telling it."""
    return hashlib.sha256(b"florin key id" + key).digest()[:_KEY_ID_BYTES]
