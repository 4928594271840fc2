"""What is sealed: a journal's canonical bytes and a tree head's, as sealed.proto defines them; pure, no I/O.

`florin verify` goes by this module too. It takes values as they stand in rows and files, which somebody may have
changed: what cannot be a journal has no bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from accounts import merkle
from accounts.model import Metadata

MICROSECONDS = "CASE WHEN isfinite({0}) THEN (extract(epoch FROM {0}) * 1000000)::bigint END"
"""SQL of a time as it is sealed; NULL for what the ledger never writes and somebody else might have: infinity."""
_JOURNAL, _HEAD = "florin.accounts.v1.SealedJournal", "florin.accounts.v1.TreeHead"
_JOURNAL_WITH_METADATA = "florin.accounts.v1.SealedJournalWithMetadata"
"""Journals without metadata have the bytes that they had before there were any."""


@dataclass(frozen=True, slots=True)
class SealedEntry:
    """A leg of a journal, in minor units."""

    account: str
    sequence: int
    currency: str
    amount: int
    balance_after: int


@dataclass(frozen=True, slots=True)
class JournalContent:
    """All of a journal that is sealed. Times are microseconds since 1970 in UTC."""

    tenant: str
    journal: str
    """The UUID, in lower case with hyphens."""
    kind: int
    origin: str
    create_time: int
    effective_time: int
    entries: tuple[SealedEntry, ...]
    """In the order of the legs."""
    metadata: Metadata = ()

    def leaf(self) -> bytes:
        """Its hash in the log. Raises ValueError for values that no journal can have."""
        return merkle.leaf_hash(self.canonical())

    def canonical(self) -> bytes:
        """The bytes that are hashed. Raises ValueError for values that no journal can have."""
        parts = [
            _text(_JOURNAL_WITH_METADATA if self.metadata else _JOURNAL),
            _text(self.tenant),
            _text(self.journal),
            _number(self.kind),
            _text(self.origin),
            _number(self.create_time),
            _number(self.effective_time),
            _number(len(self.entries)),
        ]
        for entry in self.entries:
            parts += [
                _text(entry.account),
                _number(entry.sequence),
                _text(entry.currency),
                _number(entry.amount),
                _number(entry.balance_after),
            ]
        if self.metadata:
            parts.append(_number(len(self.metadata)))
            for key, value in sorted(self.metadata, key=_key_bytes):
                parts += [_text(key), _text(value)]
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Head:
    """A signed tree head. `time` is in microseconds since 1970."""

    tenant: str
    tree_size: int
    root_hash: bytes
    time: int
    key_id: str
    signature: bytes

    def canonical(self) -> bytes:
        """The bytes that are signed. Raises ValueError for values that no head can have."""
        return head_bytes(self.tenant, self.tree_size, self.root_hash, self.time, self.key_id)


def head_bytes(tenant: str, tree_size: int, root_hash: bytes, time: int, key_id: str) -> bytes:
    """What the signature of a tree head is over. Raises ValueError for values that no head can have."""
    return b"".join([_text(_HEAD), _text(tenant), _number(tree_size), _sized(root_hash), _number(time), _text(key_id)])


def unbalanced(entries: Sequence[SealedEntry]) -> str | None:
    """The first currency in which a journal's entries do not sum to zero (INV-1); None when all do."""
    sums: dict[str, int] = {}
    for entry in entries:
        sums[entry.currency] = sums.get(entry.currency, 0) + entry.amount
    return next((currency for currency in sorted(sums) if sums[currency]), None)


def _key_bytes(pair: tuple[str, str]) -> bytes:
    return _text(pair[0])[4:]


def _text(value: str) -> bytes:
    if type(value) is not str:
        raise ValueError("not a text")
    return _sized(value.encode())  # UnicodeEncodeError, for half a surrogate pair, is a ValueError


def _sized(value: bytes) -> bytes:
    return len(value).to_bytes(4) + value


def _number(value: int) -> bytes:
    try:
        return struct.pack("!q", value)
    except struct.error:
        raise ValueError("not a whole number of 64 bits") from None
