"""Takes the upload of a bank's statement to disk, bounded, and reads it into entries; it records nothing.

Neither the file nor its entries are ever whole in memory. Reading is work for a thread, which pauses as long as it
works: those who pay keep the better half of this process.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from itertools import batched
from typing import IO

from accounts.reconciliation_errors import BankStatementInvalid
from accounts.reconciliation_model import BankEntry, Head
from florin.accounts.v1 import reconciliation_service_pb2 as pb
from meshkit import uploads

LOT = 1000
"""Entries that are written and read at once."""
_ELEMENTS_EACH = 200
"""An entry with one transaction has some fifty elements; a batch has twenty for each of its own."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What was uploaded: for which account, under which key, and the SHA-256 of its bytes."""

    account: str
    request_id: str
    digest: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Content:
    """What stands in a statement: its head, and its entries on disk."""

    head: Head
    digest: bytes
    """SHA-256 of what it says, whatever the bytes that said it."""
    entries: int
    _spool: IO[bytes]

    def lots(self) -> Iterator[list[tuple[BankEntry, bool]]]:
        """The entries in their order, each with whether the statement has its NtryRef before; as often as asked for."""
        self._spool.seek(0)
        for lot in batched(map(_from_line, self._spool), LOT):
            yield list(lot)


@asynccontextmanager
async def received(
    requests: AsyncIterator[pb.ImportBankStatementRequest], *, bytes_max: int
) -> AsyncIterator[tuple[Upload, IO[bytes]]]:
    """The whole of an upload, on disk while the block runs. Raises RequestInvalid for messages in the wrong order,
    BankStatementInvalid, DeadlineExceeded when no message comes for long, Overloaded for a full disk."""
    with uploads.disk_file() as file:
        too_large = BankStatementInvalid(f"a file has {bytes_max:,} bytes at most; ask the bank for shorter periods")
        got = await uploads.receive(requests, file, bytes_max=bytes_max, too_large=too_large)
        yield Upload(got.header.account, got.header.request_id, got.digest, got.size), file


@asynccontextmanager
async def read(file: IO[bytes], *, entries_max: int) -> AsyncIterator[Content]:
    """What stands in a file; its entries are on disk while the block runs. Raises BankStatementInvalid, Overloaded for
    a full disk."""
    with uploads.disk_file() as spool:
        with uploads.disk_errors():
            content = await asyncio.to_thread(_read, file, spool, entries_max)
        yield content


def _read(file: IO[bytes], spool: IO[bytes], entries_max: int) -> Content:
    # Imported here: XML is a tenth of a second that a start need not wait for.
    from accounts import reconciliation_xml
    from meshkit.safe_xml import FileRefused

    digest, count, head, seen = hashlib.sha256(), 0, None, set[str]()
    elements_max = (entries_max + 1000) * _ELEMENTS_EACH
    try:
        for part in reconciliation_xml.stream(file, elements_max=elements_max, pause=uploads.pauses()):
            if isinstance(part, Head):
                head = part
                continue
            count += 1
            if count > entries_max:
                raise BankStatementInvalid(
                    f"a statement has {entries_max:,} entries at most; ask the bank for shorter periods", part.line
                )
            repeated = part.entry_reference != "" and part.entry_reference in seen
            seen.add(part.entry_reference)
            digest.update(_told(part))
            spool.write(_line(part, repeated=repeated))
        spool.flush()
    except FileRefused as refused:
        raise BankStatementInvalid(refused.reason, refused.line) from None
    if head is None:
        raise RuntimeError("a statement was read without its head")
    told = [head.identifier, head.currency, str(head.first), str(head.last), head.opening, head.closing]
    digest.update(json.dumps(told).encode())
    return Content(head, digest.digest(), count, spool)


def _told(entry: BankEntry) -> bytes:
    """What an entry says, wherever it stands in the file and in whatever words."""
    day, own = entry.value_day.isoformat(), (entry.entry_reference, entry.servicer_reference)
    return json.dumps([entry.amount, day, *own, entry.references, entry.batch_size]).encode() + b"\n"


def _line(entry: BankEntry, *, repeated: bool) -> bytes:
    fields = [
        *(entry.line, entry.amount, entry.value_day.isoformat(), entry.entry_reference, entry.servicer_reference),
        *(entry.references, entry.batch_size, entry.description, repeated),
    ]
    return json.dumps(fields).encode() + b"\n"


def _from_line(line: bytes) -> tuple[BankEntry, bool]:
    at, amount, day, entry_reference, servicer_reference, references, batch_size, description, repeated = json.loads(
        line
    )
    entry = BankEntry(
        line=at,
        amount=amount,
        value_day=date.fromisoformat(day),
        entry_reference=entry_reference,
        servicer_reference=servicer_reference,
        references=tuple(references),
        batch_size=batch_size,
        description=description,
    )
    return entry, repeated
