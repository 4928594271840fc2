"""Keys of tree heads: Ed25519 from a PEM file, the private one that signs and public ones of before; no other I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from accounts.history import Head, head_bytes

_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class VerifyingKeys:
    """Public keys by their ids, in their order."""

    keys: dict[str, Ed25519PublicKey]

    def is_signed(self, head: Head) -> bool:
        """Whether one of the keys signed the head, the one that it names."""
        key = self.keys.get(head.key_id)
        if key is None:
            return False
        try:
            key.verify(head.signature, head.canonical())
        except (InvalidSignature, ValueError):
            return False
        return True

    def raw(self) -> list[tuple[str, bytes]]:
        """Ids and the keys' 32 bytes."""
        return [(name, raw_bytes(key)) for name, key in self.keys.items()]

    def pem(self) -> str:
        """As a file that `verifying_keys` reads."""
        return "".join(public_pem(key) for key in self.keys.values())


@dataclass(frozen=True, slots=True)
class Signer:
    """The key that signs, and all whose heads there are; the signing one is the first."""

    key_id: str
    known: VerifyingKeys
    _key: Ed25519PrivateKey = field(repr=False)

    def sign(self, tenant: str, tree_size: int, root_hash: bytes, time: int) -> Head:
        """A head, signed. `time` is in microseconds since 1970."""
        data = head_bytes(tenant, tree_size, root_hash, time, self.key_id)
        return Head(tenant, tree_size, root_hash, time, self.key_id, self._key.sign(data))


def signer(path: Path) -> Signer:
    """The keys of a file with one private key and public ones. Raises ValueError when it is no such file."""
    private: list[Ed25519PrivateKey] = []
    public: list[Ed25519PublicKey] = []
    for key in _keys(path):
        if isinstance(key, Ed25519PrivateKey):
            private.append(key)
        else:
            public.append(key)
    if len(private) != 1:
        raise ValueError(f"there must be exactly one private key in it, and there are {len(private)}")
    own = private[0].public_key()
    return Signer(key_id(own), _by_id([own, *public]), private[0])


def verifying_keys(path: Path) -> VerifyingKeys:
    """The public keys of a file, those of private keys in it too. Raises ValueError when there is none."""
    found = [key.public_key() if isinstance(key, Ed25519PrivateKey) else key for key in _keys(path)]
    if not found:
        raise ValueError("there is no key in it")
    return _by_id(found)


def key_id(key: Ed25519PublicKey) -> str:
    """Names a key."""
    return sha256(raw_bytes(key)).digest()[:8].hex()


def raw_bytes(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def public_pem(key: Ed25519PublicKey) -> str:
    """A public key as a PEM block."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def new_private_pem() -> str:
    """A new private key as a PEM block."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _keys(path: Path) -> list[Ed25519PrivateKey | Ed25519PublicKey]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        raise ValueError("the file cannot be read") from None
    found: list[Ed25519PrivateKey | Ed25519PublicKey] = []
    for block in _BLOCK.finditer(text):
        data = block[0].encode()
        try:
            key = load_pem_private_key(data, None) if block[1] == "PRIVATE KEY" else load_pem_public_key(data)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError(f"the block {block[1]} is no key in PEM") from None
        if not isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
            raise ValueError("a key in it is not Ed25519")  # noqa: TRY004 - as all that is wrong with the file
        found.append(key)
    return found


def _by_id(keys: Sequence[Ed25519PublicKey]) -> VerifyingKeys:
    return VerifyingKeys({key_id(key): key for key in keys})
