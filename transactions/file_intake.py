"""Takes an upload to disk, bounded, and reads it into items; it records nothing and judges no payment beyond its form.

Neither the file nor its items are ever whole in memory. Reading is work for a thread, which pauses as long as it works:
those who pay single payments keep the better half of this process.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from itertools import batched
from typing import IO

from google.rpc import status_pb2

from florin.transactions.v1 import payment_file_pb2
from florin.transactions.v1 import payment_file_service_pb2 as pb
from meshkit import uploads
from meshkit.cipher import Cipher
from meshkit.errors import DomainError, RequestInvalid
from transactions import file_store
from transactions.file_errors import PaymentFileInvalid, PaymentFileTooLarge, PaymentRepeated
from transactions.file_model import FileFormat, Item, ItemState, Upload

LOT = 1000
"""Items that are written and read at once."""
_XML_ELEMENTS_EACH = 60
"""A payment of pain.001 has some twenty elements; a file may have this many for each that it may have."""
_FORMATS = {
    payment_file_pb2.PAYMENT_FILE_FORMAT_PAIN_001: FileFormat.PAIN_001,
    payment_file_pb2.PAYMENT_FILE_FORMAT_CSV: FileFormat.CSV,
}


@dataclass(slots=True)
class Content:
    """What stands in a file: how it calls itself, and its items on disk."""

    message_id: str
    initiating_party: str
    counts: Counter[ItemState] = field(default_factory=Counter)
    _spool: IO[bytes] | None = None

    @property
    def items(self) -> int:
        """How many there are."""
        return self.counts.total()

    def lots(self) -> Iterator[list[Item]]:
        """The items in their order, as often as they are asked for."""
        if self._spool is None:
            return
        self._spool.seek(0)
        for lot in batched(map(_from_line, self._spool), LOT):
            yield list(lot)


@asynccontextmanager
async def received(
    requests: AsyncIterator[pb.UploadPaymentFileRequest], *, bytes_max: int
) -> AsyncIterator[tuple[Upload, IO[bytes]]]:
    """The whole of an upload, on disk while the block runs. Raises RequestInvalid for messages in the wrong order,
    PaymentFileTooLarge, DeadlineExceeded when no message comes for long, Overloaded for a full disk."""
    with uploads.disk_file() as file:
        too_large = PaymentFileTooLarge(bytes_max, "bytes")
        got = await uploads.receive(requests, file, bytes_max=bytes_max, too_large=too_large)
        upload = Upload(_FORMATS[got.header.format], got.header.message_id, got.digest.hex(), got.size)
        if upload.format is FileFormat.CSV and not upload.message_id:
            raise RequestInvalid([("header.message_id", "a CSV file needs one, which is never given twice")])
        yield upload, file


@asynccontextmanager
async def read(
    upload: Upload, file: IO[bytes], cipher: Cipher, *, today: date, items_max: int
) -> AsyncIterator[Content]:
    """What stands in a file; its items are on disk while the block runs. Raises PaymentFileInvalid,
    PaymentFileTooLarge, Overloaded for a full disk."""
    with uploads.disk_file() as spool:
        with uploads.disk_errors():
            content = await asyncio.to_thread(_read, upload, file, spool, cipher, today, items_max)
        yield content


def _read(upload: Upload, file: IO[bytes], spool: IO[bytes], cipher: Cipher, today: date, items_max: int) -> Content:
    # Imported here: XML and its schema are a tenth of a second that a start need not wait for.
    from meshkit.safe_xml import FileRefused
    from transactions.payments import csv_file, pain001

    pause = uploads.pauses()
    try:
        if upload.format is FileFormat.CSV:
            content = Content(upload.message_id, "", _spool=spool)
            parts: Iterator[object] = csv_file.stream(file, today=today, pause=pause)
        else:
            content = Content("", "", _spool=spool)
            parts = pain001.stream(file, elements_max=items_max * _XML_ELEMENTS_EACH, pause=pause)
        _write_items(parts, content, spool, cipher, today, items_max)
        spool.flush()
    except FileRefused as refused:
        raise PaymentFileInvalid(refused.reason, refused.line) from None
    if not content.items:
        raise PaymentFileInvalid("it holds no payment")
    if upload.message_id and upload.message_id != content.message_id:
        raise PaymentFileInvalid(
            f"its MsgId is {content.message_id}, not the message_id {upload.message_id} of the header"
        )
    return content


def _write_items(
    parts: Iterator[object], content: Content, spool: IO[bytes], cipher: Cipher, today: date, items_max: int
) -> None:
    from transactions.payments import plan
    from transactions.payments.pain001 import Header, Instruction, Payment

    instruction: Instruction | None = None
    seen: dict[tuple[str, str], int] = {}
    for part in parts:
        match part:
            case Header():
                content.message_id, content.initiating_party = part.message_id, part.initiating_party
            case Instruction():
                instruction = part
            case Payment() if instruction is not None:
                number = content.items + 1
                if number > items_max:
                    raise PaymentFileTooLarge(items_max, "payments")
                planned = plan.planned_payment(number, instruction, part, request_id="", today=today)
                first = number
                if part.end_to_end_id not in ("", plan.NOT_PROVIDED):
                    first = seen.setdefault((instruction.id, part.end_to_end_id), number)
                refusal: DomainError | None = None
                if planned.request is None:
                    refusal = RequestInvalid([("", planned.refusal)])
                elif first != number:
                    refusal = PaymentRepeated(part.end_to_end_id, first)
                request = planned.request.SerializeToString() if planned.request is not None else b""
                item = Item(
                    number=number,
                    line=part.line,
                    information_id=instruction.id,
                    instruction_id=part.instruction_id,
                    end_to_end_id=part.end_to_end_id,
                    amount=f"{part.amount:f}" if part.amount is not None else "",
                    currency=part.currency_code,
                    state=ItemState.WAITING if refusal is None else ItemState.REFUSED,
                    request=file_store.sealed(cipher, request) if refusal is None else b"",
                    status=refusal.to_status() if refusal is not None else None,
                )
                content.counts[item.state] += 1
                spool.write(_line(item))
            case _:
                raise RuntimeError(f"a payment file gave a {type(part).__name__}")


def _line(item: Item) -> bytes:
    status = item.status.SerializeToString().hex() if item.status is not None else ""
    fields = [
        *(item.number, item.line, item.information_id, item.instruction_id, item.end_to_end_id, item.amount),
        *(item.currency, item.state.value, item.request.hex(), status),
    ]
    return json.dumps(fields).encode() + b"\n"


def _from_line(line: bytes) -> Item:
    number, at, information_id, instruction_id, end_to_end_id, amount, currency, state, request, status = json.loads(
        line
    )
    return Item(
        number=number,
        line=at,
        information_id=information_id,
        instruction_id=instruction_id,
        end_to_end_id=end_to_end_id,
        amount=amount,
        currency=currency,
        state=ItemState(state),
        request=bytes.fromhex(request),
        status=status_pb2.Status.FromString(bytes.fromhex(status)) if status else None,
    )
