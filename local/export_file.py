"""The file of an export: JSON lines that say all that a verifier needs but the public key that one trusts.

The first line is `{"format": "florin-journals/1", "tenant": …, "keys": [{"keyId": …, "publicKey": …}]}`. Each line
after it is a journal or a head. Numbers are whole and up to 64 bits long, times are microseconds since 1970, hashes,
keys and signatures are in hexadecimal. A journal that is gone from the ledger has its position, journal and leaf alone.
`docs/sealed-history.md` shows one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from accounts.history import Head, JournalContent, SealedEntry
from accounts.merkle import HASH_BYTES
from accounts.model import Metadata
from florin.accounts.v1 import journal_pb2, sealed_pb2
from local.state import MeshError

FORMAT = "florin-journals/1"
_HEADER = {"format", "tenant", "keys"}
_HEAD = {"treeSize", "rootHash", "time", "keyId", "signature"}
_PLACE = {"position", "leaf", "journal"}
_CONTENT = {"kind", "origin", "createTime", "effectiveTime", "entries", "metadata"}
_ENTRY = {"account", "sequence", "currency", "amount", "balanceAfter"}
_TENANT = re.compile(r"[a-z][a-z0-9-]{0,30}")  # as a token's; what is of this form can stand in a terminal
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LINE_BYTES_MAX = 16 * 1024 * 1024
"""More than the largest message of a journal."""


class LineWrong(Exception):
    """A line that is none of an export's; its text says why."""


@dataclass(frozen=True, slots=True)
class ExportedJournal:
    """A journal's line."""

    position: int
    journal: str
    leaf: bytes
    content: JournalContent | None


def header(tenant: str, keys: list[tuple[str, bytes]]) -> str:
    """The first line."""
    named = [{"keyId": name, "publicKey": key.hex()} for name, key in keys]
    return _line({"format": FORMAT, "tenant": tenant, "keys": named})


def journal_line(sealed: sealed_pb2.SealedJournal) -> str:
    """A journal's line from what the service streamed."""
    line: dict[str, Any] = {
        "position": sealed.position,
        "leaf": sealed.leaf_hash.hex(),
        "journal": sealed.name.removeprefix("journals/"),
    }
    if sealed.HasField("journal"):
        line |= {
            "kind": int(sealed.journal.kind),
            "origin": sealed.journal.origin,
            "createTime": _microseconds(sealed.journal.create_time),
            "effectiveTime": _microseconds(sealed.journal.effective_time),
            "entries": [_entry(entry) for entry in sealed.journal.entries],
        }
        if sealed.journal.metadata:
            line["metadata"] = dict(sorted(sealed.journal.metadata.items()))
    return _line(line)


def head_line(head: sealed_pb2.TreeHead) -> str:
    """A head's line from what the service streamed."""
    return _line(
        {
            "head": {
                "treeSize": head.tree_size,
                "rootHash": head.root_hash.hex(),
                "time": _microseconds(head.create_time),
                "keyId": head.key_id,
                "signature": head.signature.hex(),
            }
        }
    )


def head_of(head: sealed_pb2.TreeHead, tenant: str) -> Head:
    """A head as its line would be read again."""
    return Head(tenant, head.tree_size, head.root_hash, _microseconds(head.create_time), head.key_id, head.signature)


def _entry(entry: journal_pb2.Entry) -> dict[str, Any]:
    return {
        "account": entry.account.removeprefix("accounts/"),
        "sequence": entry.sequence,
        "currency": entry.amount.currency_code,
        "amount": entry.amount.minor_units,
        "balanceAfter": entry.balance_after.minor_units,
    }


def _microseconds(time: Any) -> int:
    return int(time.seconds * 1_000_000 + time.nanos // 1000)


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def read_tenant(line: bytes) -> str:
    """The tenant in a first line. Raises LineWrong."""
    value = _parsed(line)
    if value.get("format") != FORMAT:
        raise LineWrong(f'it does not begin with "format": "{FORMAT}"')
    _only(value, _HEADER)
    tenant = _text(value, "tenant")
    if _TENANT.fullmatch(tenant) is None:
        raise LineWrong("its tenant is none")
    return tenant


def read_item(line: bytes, tenant: str) -> ExportedJournal | Head:
    """A line after the first. Raises LineWrong."""
    value = _parsed(line)
    if "head" in value:
        head = value["head"]
        if not isinstance(head, dict):
            raise LineWrong("its head is no object")
        _only(value, {"head"})
        _only(head, _HEAD)
        return Head(
            tenant,
            _number(head, "treeSize"),
            _hash(head, "rootHash"),
            _number(head, "time"),
            _text(head, "keyId"),
            _bytes(head, "signature"),
        )
    _only(value, _PLACE | _CONTENT)
    position, journal, leaf = _number(value, "position"), _journal(value), _hash(value, "leaf")
    if not _CONTENT.intersection(value):
        return ExportedJournal(position, journal, leaf, None)
    content = JournalContent(
        tenant,
        journal,
        _number(value, "kind"),
        _text(value, "origin"),
        _number(value, "createTime"),
        _number(value, "effectiveTime"),
        _entries(value),
        _metadata(value),
    )
    return ExportedJournal(position, journal, leaf, content)


def lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file with their ends, none longer than a journal's may be: of such a one its beginning alone."""
    while line := file.readline(_LINE_BYTES_MAX):
        yield line
        while len(line) == _LINE_BYTES_MAX and not line.endswith(b"\n"):
            line = file.readline(_LINE_BYTES_MAX)


@dataclass(slots=True)
class ExportEnd:
    """Where an export that was begun ends."""

    next_position: int
    head: Head | None
    """The last head in it."""
    length: int
    """Its whole lines, in bytes."""


def find_end(path: Path, tenant: str) -> ExportEnd | None:
    """Where a begun export is to go on; None for no file or an empty one. Raises MeshError for another file."""
    if not path.exists() or not path.stat().st_size:
        return None
    end = ExportEnd(0, None, 0)
    with path.open("rb") as file:
        for line in lines(file):
            try:
                if not end.length:
                    found = read_tenant(line)
                    if found != tenant:
                        raise MeshError(f"{path} is an export of tenant {found}; name another file.")
                elif not line.endswith(b"\n"):
                    break  # it was being written
                else:
                    item = read_item(line, tenant)
                    if isinstance(item, Head):
                        end.head = item
                    else:
                        end.next_position = item.position + 1
            except LineWrong as wrong:
                raise MeshError(
                    f"{path} is no export that could be gone on with ({wrong}); name another file."
                ) from None
            end.length += len(line)
    return end


def open_at(path: Path, end: ExportEnd | None) -> IO[bytes]:
    """Opens a file to add to it after its whole lines; a new one can be read by its owner alone."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    file = os.fdopen(descriptor, "r+b")
    file.truncate(end.length if end is not None else 0)
    file.seek(0, os.SEEK_END)
    return file


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise LineWrong("it is no JSON") from None
    if not isinstance(value, dict):
        raise LineWrong("it is no object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Programs differ in which of two values of one name they take: such a line could mean two things."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise LineWrong("it has a name twice")
    return value


def _only(value: dict[str, Any], names: Set[str]) -> None:
    if not value.keys() <= names:
        raise LineWrong("it has names that do not belong into it")


def _number(value: dict[str, Any], name: str) -> int:
    found = value.get(name)
    if type(found) is not int or not -(2**63) <= found < 2**63:
        raise LineWrong(f"its {name} is no whole number of 64 bits")
    return found


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise LineWrong(f"its {name} is no text")
    return found


def _journal(value: dict[str, Any]) -> str:
    found = _text(value, "journal")
    if _UUID.fullmatch(found) is None:
        raise LineWrong("its journal is no UUID in lower case")
    return found


def _hash(value: dict[str, Any], name: str) -> bytes:
    found = _bytes(value, name)
    if len(found) != HASH_BYTES:
        raise LineWrong(f"its {name} is not of {HASH_BYTES} bytes")
    return found


def _bytes(value: dict[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(_text(value, name))
    except ValueError:
        raise LineWrong(f"its {name} is not in hexadecimal") from None


def _metadata(value: dict[str, Any]) -> Metadata:
    found = value.get("metadata", {})
    if not isinstance(found, dict):
        raise LineWrong("its metadata is no object")
    return tuple((key, _text(found, key)) for key in found)


def _entries(value: dict[str, Any]) -> tuple[SealedEntry, ...]:
    found = value.get("entries")
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise LineWrong("its entries are no list of objects")
    for one in found:
        _only(one, _ENTRY)
    return tuple(
        SealedEntry(
            _text(one, "account"),
            _number(one, "sequence"),
            _text(one, "currency"),
            _number(one, "amount"),
            _number(one, "balanceAfter"),
        )
        for one in found
    )
