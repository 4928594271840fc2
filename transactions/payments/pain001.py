"""Reads an ISO 20022 pain.001.001.09 file, whole or not at all; it must not judge single payments."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from lxml import etree

from meshkit import safe_xml
from meshkit.safe_xml import SchemaBroken
from transactions.payments.errors import ControlSumWrong, MessageIdMissing, SchemaWrong

VERSION = "pain.001.001.09"
_FAMILY = "urn:iso:std:iso:20022:tech:xsd:"
NAMESPACE = _FAMILY + VERSION
_N = f"{{{NAMESPACE}}}"
_DEPTHS = {"CstmrCdtTrfInitn": 1, "GrpHdr": 2, "PmtInf": 2, "CdtTrfTxInf": 3}
"""How many elements enclose what a stream is read by."""
_BYTES_BETWEEN_MAX = 1024 * 1024
"""Between the ends of two of these, about: what stands there is in memory at once, and a payment is a few kilobytes."""


@dataclass(frozen=True, slots=True)
class Payment:
    """One credit transfer (CdtTrfTxInf), as the file has it."""

    line: int
    instruction_id: str
    end_to_end_id: str
    amount: Decimal | None
    """In units of the currency; absent when the file gives an equivalent amount in another currency instead."""
    currency_code: str
    creditor_name: str
    creditor_account: str
    """"iban:…" or "local:…"; empty when the file names none."""
    remittance: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """Payments of one debtor on one day (PmtInf)."""

    line: int
    id: str
    method: str
    """TRF for transfers; CHK and TRA exist and are not paid here."""
    execution_date: date
    debtor_name: str
    debtor_account: str
    debtor_currency_code: str
    payments: tuple[Payment, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself, before its payments."""

    message_id: str
    initiating_party: str


@dataclass(frozen=True, slots=True)
class PaymentFile:
    """A customer credit transfer initiation."""

    message_id: str
    initiating_party: str
    instructions: tuple[Instruction, ...]

    @property
    def payments(self) -> tuple[Payment, ...]:
        """All payments in the order of the file."""
        return tuple(payment for instruction in self.instructions for payment in instruction.payments)


def read(path: Path) -> PaymentFile:
    """Reads a file from disk, never more of it than may be read. Raises FileRefused and OSError."""
    with path.open("rb") as handle:
        return parse(handle.read(safe_xml.BYTES_MAX + 1))


def parse(data: bytes) -> PaymentFile:
    """Reads a file. Raises FileRefused: too large, forbidden, malformed, wrong version, schema, sums."""
    root = safe_xml.parse(data)
    _check_version(root)
    _check_schema(root)
    header = _child(root, "CstmrCdtTrfInitn", "GrpHdr")
    blocks = root.findall(f"{_N}CstmrCdtTrfInitn/{_N}PmtInf")
    file = PaymentFile(
        message_id=_id(header, "MsgId"),
        initiating_party=_text(header, "InitgPty", "Nm"),
        instructions=tuple(_instruction(block) for block in blocks),
    )
    _check_sums(header, "the group header", file.payments)
    for block, instruction in zip(blocks, file.instructions, strict=True):
        _check_sums(block, f"payment information {instruction.id}", instruction.payments)
    return file


@functools.cache
def _schema() -> etree.XMLSchema:
    """The schema as the wheel `sepaxml` ships it; found without importing the package."""
    found = importlib.util.find_spec("sepaxml")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("the package sepaxml, which ships the schema, is not installed")
    path = Path(found.origin).parent / "schemas" / f"{VERSION}.xsd"
    return etree.XMLSchema(etree.fromstring(path.read_bytes(), etree.XMLParser(no_network=True)))


def _check_root(tag: str) -> None:
    _check_name(etree.QName(tag), None)


def _check_version(root: etree._Element) -> None:
    _check_name(etree.QName(root), _line(root))


def _check_name(name: etree.QName, line: int | None) -> None:
    if name.namespace == NAMESPACE and name.localname == "Document":
        return
    found = (name.namespace or "").removeprefix(_FAMILY) or "no ISO 20022 namespace"
    raise SchemaWrong(f"it is {name.localname} of {found}; {VERSION} is what is read here", line=line)


def _check_schema(root: etree._Element) -> None:
    schema = _schema()
    if schema.validate(root):
        return
    log: Any = schema.error_log  # the stubs do not say that it is a sequence
    first = log[0]
    raise SchemaBroken(_told(first.message), line=first.line or None)


def _check_sums(element: etree._Element, where: str, payments: Iterable[Payment]) -> None:
    amounts = [payment.amount for payment in payments]
    stated_count = element.find(f"{_N}NbOfTxs")
    if stated_count is not None and int(stated_count.text or "0") != len(amounts):
        raise ControlSumWrong(
            f"NbOfTxs of {where}",
            stated=stated_count.text or "",
            counted=str(len(amounts)),
            line=_line(stated_count),
        )
    stated_sum = element.find(f"{_N}CtrlSum")
    # The sum of all amounts whatever their currencies, as the standard has it; equivalent amounts count by figure.
    total = sum((amount for amount in amounts if amount is not None), Decimal(0))
    total += _equivalents(element)
    if stated_sum is not None and Decimal(stated_sum.text or "0") != total:
        raise ControlSumWrong(
            f"CtrlSum of {where}", stated=stated_sum.text or "", counted=f"{total:f}", line=_line(stated_sum)
        )


def _equivalents(element: etree._Element) -> Decimal:
    path = f"{_N}CdtTrfTxInf/{_N}Amt/{_N}EqvtAmt/{_N}Amt"
    if etree.QName(element).localname == "GrpHdr":
        path = f"../{_N}PmtInf/{path}"
    return sum((Decimal(amount.text or "0") for amount in element.iterfind(path)), Decimal(0))


def stream(
    file: IO[bytes], *, elements_max: int, pause: Callable[[], None] = lambda: None
) -> Iterator[Header | Instruction | Payment]:
    """Reads a file of any size that is never whole in memory: the header, then each instruction, without its payments,
    and its payments, one by one. `pause` is called after every few milliseconds of work.

    Raises FileRefused as `parse` does, at any time: what was given up to then is not to be used.
    """
    try:
        safe_xml.check(file, _schema(), elements_max=elements_max, accept=_check_root, pause=pause)
    except SchemaBroken as error:
        raise SchemaBroken(_told(error.reason), line=error.line) from None
    reading = _Reading()
    tags, limit = [_N + name for name in _DEPTHS], _BYTES_BETWEEN_MAX
    for element in safe_xml.elements(file, tags, _is_in_place, each="a payment", bytes_between_max=limit, pause=pause):
        yield from reading.take(element)


def _is_in_place(element: etree._Element) -> bool:
    """Whether an element stands where the schema has it. Supplementary data may hold anything, also what looks like a
    payment: no schema was held to it, no sum counts it, and nobody asked for it."""
    return sum(1 for _ in element.iterancestors()) == _DEPTHS[etree.QName(element).localname]


class _Reading:
    """Where the reader of a stream is, and what it counted."""

    def __init__(self) -> None:
        self._instruction: Instruction | None = None
        self._header: _Sums | None = None
        self._block: _Sums | None = None

    def take(self, element: etree._Element) -> Sequence[Header | Instruction | Payment]:
        """What the end of an element completes."""
        name = etree.QName(element).localname
        if name == "CdtTrfTxInf":
            return self._take_payment(element)
        if name == "GrpHdr":
            self._header = _Sums(element, "the group header")
            return [Header(_id(element, "MsgId"), _text(element, "InitgPty", "Nm"))]
        ended = self._block if name == "PmtInf" else self._header
        if ended is not None:
            ended.check()
        if name == "PmtInf":
            self._instruction = self._block = None
            element.clear()
        return []

    def _take_payment(self, element: etree._Element) -> Sequence[Header | Instruction | Payment]:
        block = element.getparent()
        if block is None or self._header is None:
            raise RuntimeError("the schema lets a payment stand outside of its payment information")
        taken: list[Header | Instruction | Payment] = []
        if self._instruction is None or self._block is None:
            self._instruction = _instruction(block, payments=False)
            self._block = _Sums(block, f"payment information {self._instruction.id}")
            taken.append(self._instruction)
        for sums in (self._header, self._block):
            sums.add(element)
        taken.append(_payment(element))
        block.remove(element)
        return taken


class _Sums:
    """A count and a sum that a file states, and those of its payments so far."""

    def __init__(self, element: etree._Element, where: str) -> None:
        self._where, self._line = where, _line(element)
        self._stated_count, self._stated_sum = _text(element, "NbOfTxs"), _text(element, "CtrlSum")
        self._count, self._sum = 0, Decimal(0)

    def add(self, payment: etree._Element) -> None:
        """Counts a payment: by figure, whatever its currency, as the standard has it."""
        figure = _text(payment, "Amt", "InstdAmt") or _text(payment, "Amt", "EqvtAmt", "Amt")
        self._count += 1
        self._sum += Decimal(figure or "0")

    def check(self) -> None:
        """Raises ControlSumWrong."""
        if self._stated_count and int(self._stated_count) != self._count:
            what, counted = f"NbOfTxs of {self._where}", str(self._count)
            raise ControlSumWrong(what, stated=self._stated_count, counted=counted, line=self._line)
        if self._stated_sum and Decimal(self._stated_sum) != self._sum:
            what, counted = f"CtrlSum of {self._where}", f"{self._sum:f}"
            raise ControlSumWrong(what, stated=self._stated_sum, counted=counted, line=self._line)


def _told(message: str) -> str:
    return message.replace(_N, "").rstrip(". ")


def _instruction(block: etree._Element, *, payments: bool = True) -> Instruction:
    return Instruction(
        line=_line(block),
        id=_id(block, "PmtInfId"),
        method=_text(block, "PmtMtd"),
        execution_date=_execution_date(block),
        debtor_name=_text(block, "Dbtr", "Nm"),
        debtor_account=_account(block, "DbtrAcct"),
        debtor_currency_code=_text(block, "DbtrAcct", "Ccy"),
        payments=tuple(_payment(element) for element in block.iterfind(f"{_N}CdtTrfTxInf")) if payments else (),
    )


def _execution_date(block: etree._Element) -> date:
    day = _text(block, "ReqdExctnDt", "Dt") or _text(block, "ReqdExctnDt", "DtTm")
    try:
        return date.fromisoformat(day[:10])
    except ValueError:
        # The schema knows years before Christ and after 9999.
        raise SchemaBroken(f"ReqdExctnDt {day} is no date of a payment", line=_line(block)) from None


def _payment(element: etree._Element) -> Payment:
    instructed = element.find(f"{_N}Amt/{_N}InstdAmt")
    return Payment(
        line=_line(element),
        instruction_id=_text(element, "PmtId", "InstrId"),
        end_to_end_id=_id(element, "PmtId", "EndToEndId"),
        amount=Decimal(instructed.text or "0") if instructed is not None else None,
        currency_code=instructed.get("Ccy", "") if instructed is not None else "",
        creditor_name=_text(element, "Cdtr", "Nm"),
        creditor_account=_account(element, "CdtrAcct"),
        remittance=_remittance(element),
    )


def _remittance(element: etree._Element) -> str:
    lines = [line.text or "" for line in element.iterfind(f"{_N}RmtInf/{_N}Ustrd")]
    return " ".join(line for line in lines if line) or _text(element, "RmtInf", "Strd", "CdtrRefInf", "Ref")


def _account(element: etree._Element, role: str) -> str:
    iban = _text(element, role, "Id", "IBAN")
    if iban:
        return f"iban:{iban.upper()}"
    other = _text(element, role, "Id", "Othr", "Id")
    return f"local:{other}" if other else ""


def _line(element: etree._Element) -> int:
    """Where an element begins in the file, from 1."""
    line: int | None = element.sourceline  # type: ignore[assignment]  # the stubs leave its type out
    return line or 0


def _child(element: etree._Element, *path: str) -> etree._Element:
    """An element that the schema requires."""
    found = element.find("/".join(_N + name for name in path))
    if found is None:
        raise SchemaBroken(f"{'/'.join(path)} is missing", line=_line(element))
    return found


def _text(element: etree._Element, *path: str) -> str:
    """The text at a path; empty where there is none."""
    return (element.findtext("/".join(_N + name for name in path)) or "").strip()


def _id(element: etree._Element, *path: str) -> str:
    """An identification; the schema allows one of blanks, under which nothing could be found again."""
    text = _text(element, *path)
    if not text:
        raise MessageIdMissing(f"{path[-1]} is blank", line=_line(element))
    return text
