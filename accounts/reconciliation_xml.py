"""Reads a bank's statement in ISO 20022 camt.053, whole or not at all, as a stream; it must not judge whose it is.

There is no schema here: what is needed is looked for where the standard has it, and refused where it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from typing import IO

from lxml import etree

from accounts.reconciliation_model import BankEntry, Head, references
from meshkit import money, safe_xml
from meshkit.errors import CurrencyUnknown
from meshkit.safe_xml import FileRefused

_FAMILY = "urn:iso:std:iso:20022:tech:xsd:"
VERSIONS = ("camt.053.001.02", "camt.053.001.08")
"""They differ in what is read here by the form of an entry's status alone."""
_PLACES = {
    "GrpHdr": ["BkToCstmrStmt", "Document"],
    "Stmt": ["BkToCstmrStmt", "Document"],
    "Ntry": ["Stmt", "BkToCstmrStmt", "Document"],
}
"""What encloses what a stream is read by, from the inside: supplementary data may hold elements of the same names."""
_BYTES_BETWEEN_MAX = 1024 * 1024
"""Between the ends of two of these, about: what stands there is in memory at once. A batch of a thousand fits."""
_ID_MAX, _REFERENCE_MAX, _DESCRIPTION_MAX = 35, 140, 500
_SIZE_MAX = 10**9  # of a batch; more is no number that anything is compared with
_AMOUNT = re.compile(r"[0-9]{1,18}(\.[0-9]{1,5})?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_REFERENCES = ("MsgId", "AcctSvcrRef", "PmtInfId", "InstrId", "EndToEndId", "UETR", "TxId", "ClrSysRef")
_SIGNS = {"CRDT": 1, "DBIT": -1}
_BOOKED, _NOT_BOOKED = "BOOK", ("PDNG", "INFO", "FUTR")


class StatementWrong(FileRefused):
    """The statement contradicts itself, or is not what is read here."""


def stream(
    file: IO[bytes], *, elements_max: int, pause: Callable[[], None] = lambda: None
) -> Iterator[BankEntry | Head]:
    """The booked entries of a statement in their order, and at last its head, once all of it was held against them.

    Raises FileRefused: forbidden, malformed, another kind, pages, more than one statement, sums.
    """
    namespaces: list[str] = []
    safe_xml.check(file, None, elements_max=elements_max, accept=lambda tag: _check_root(tag, namespaces), pause=pause)
    reading = _Reading(f"{{{namespaces[0]}}}")
    tags, limit = [reading.ns + name for name in _PLACES], _BYTES_BETWEEN_MAX
    for element in safe_xml.elements(
        file, tags, reading.is_in_place, each="an entry", bytes_between_max=limit, pause=pause
    ):
        yield from reading.take(element)
    yield reading.head()


def _check_root(tag: str, namespaces: list[str]) -> None:
    name = etree.QName(tag)
    namespace = name.namespace or ""
    version = namespace.removeprefix(_FAMILY)
    if name.localname != "Document" or not namespace.startswith(_FAMILY) or version not in VERSIONS:
        found = version or "no ISO 20022 namespace"
        raise StatementWrong(f"it is {name.localname} of {found}; {' and '.join(VERSIONS)} are what is read here")
    namespaces.append(namespace)


def _name(element: etree._Element) -> str:
    return etree.QName(element).localname


class _Reading:
    """Where the reader is, and what the entries came to."""

    def __init__(self, ns: str) -> None:
        self.ns = ns
        self._paths: dict[str, str] = {}
        self._references_tags = frozenset(ns + name for name in _REFERENCES)
        self._message_id, self._header_line = "", 0
        self._head: Head | None = None
        self._sum = 0
        self._currencies: dict[str, int] = {}
        """Of account, balances and entries, each with the line of the first that has it."""
        self._ended = False

    def is_in_place(self, element: etree._Element) -> bool:
        """Whether an element stands where the standard has it."""
        return [one.tag for one in element.iterancestors()] == [self.ns + name for name in _PLACES[_name(element)]]

    def take(self, element: etree._Element) -> Iterator[BankEntry]:
        """What the end of an element completes."""
        name, parent = _name(element), element.getparent()
        if name == "GrpHdr":
            if self._header_line:
                raise StatementWrong("it has more than one group header", line=_line(element))
            self._message_id, self._header_line = self._short(element, "MsgId", _ID_MAX), _line(element)
            element.clear()
        elif name == "Ntry" and parent is not None:
            if self._head is None:
                self._head = self._statement(parent)
            elif self._ended:
                raise self._second(element)
            entry = self._entry(element)
            # What follows is in the tree already, as far as it stands in the same chunk.
            while (before := element.getprevious()) is not None:
                parent.remove(before)
            parent.remove(element)
            if entry is not None:
                self._sum += entry.amount
                yield entry
        else:
            if self._ended:
                raise self._second(element)
            self._head = self._head or self._statement(element)
            self._check(self._head, _line(element))
            self._ended = True
            element.clear()

    def head(self) -> Head:
        """The head, after the end of the file."""
        if self._head is None or not self._ended:
            raise StatementWrong("it holds no statement")
        return self._head

    def _second(self, element: etree._Element) -> StatementWrong:
        return StatementWrong("it holds more than one statement; import one at a time", line=_line(element))

    def _check(self, head: Head, line: int) -> None:
        """The entries against the balances, once all have come."""
        if head.first > head.last:
            raise StatementWrong(f"it opens on {head.first} and closes on {head.last}, before that", line=line)
        if len(self._currencies) != 1:
            told = " and ".join(sorted(self._currencies))
            raise StatementWrong(f"it is in {told}, not in one currency", line=max(self._currencies.values()))
        if head.opening + self._sum != head.closing:
            told = ", ".join(
                money.format_minor(figure, head.currency) for figure in (head.opening, self._sum, head.closing)
            )
            raise StatementWrong(
                f"its opening balance, the sum of its booked entries and its closing balance are {told}: the first two"
                " do not come to the third",
                line=line,
            )

    def _statement(self, element: etree._Element) -> Head:
        """What stands before the entries."""
        self._check_whole(element)
        opening, first = self._balance(element, "OPBD")
        closing, last = self._balance(element, "CLBD")
        number = self._text(element, "ElctrncSeqNb") or self._text(element, "LglSeqNb") or "0"
        if not re.fullmatch("[0-9]{1,18}", number):
            raise StatementWrong(f"its number {number[:40]!r} is none", line=_line(element))
        return Head(
            message_id=self._message_id,
            statement_id=self._required(element, "Id"),
            bank_number=int(number),
            identifier=self._identifier(element),
            currency=self._currency(element),
            first=first,
            last=last,
            opening=opening,
            closing=closing,
        )

    def _check_whole(self, element: etree._Element) -> None:
        page, is_last = self._text(element, "StmtPgntn/PgNb"), self._text(element, "StmtPgntn/LastPgInd")
        if page and (page.lstrip("0") != "1" or is_last not in ("true", "1")):
            raise StatementWrong("it is a page of a statement; import statements that are whole", line=_line(element))

    def _identifier(self, element: etree._Element) -> str:
        iban = self._text(element, "Acct/Id/IBAN")
        if iban:
            return f"iban:{iban.upper()[:34]}"
        return f"local:{self._required(element, 'Acct/Id/Othr/Id', length=34)}"

    def _currency(self, element: etree._Element) -> str:
        """That of the account and its balances, which the entries have to have too."""
        for balance in self._all(element, "Bal"):
            self._currencies.setdefault(self._amount(balance)[1], _line(balance))
        named = self._text(element, "Acct/Ccy")
        if named:
            self._currencies.setdefault(named[:3], _line(element))
        return next(iter(self._currencies))

    def _balance(self, element: etree._Element, code: str) -> tuple[int, date]:
        """The balance of a code with its day; what closed before opens as well."""
        found = [one for one in self._all(element, "Bal") if self._text(one, "Tp/CdOrPrtry/Cd") == code]
        if not found and code == "OPBD":
            amount, day = self._balance(element, "PRCD")
            return amount, day + timedelta(days=1)
        if len(found) != 1:
            raise StatementWrong(f"it has {len(found)} balances {code}, not one", line=_line(element))
        return self._amount(found[0])[0], self._day(found[0], "Dt")

    def _entry(self, element: etree._Element) -> BankEntry | None:
        """An entry; None where it is not booked, or nothing."""
        status = self._text(element, "Sts/Cd") or self._text(element, "Sts")
        if status in _NOT_BOOKED:
            return None
        if status != _BOOKED:
            raise StatementWrong(f"the status {status[:40]!r} of an entry is not known", line=_line(element))
        amount, currency = self._amount(element)
        if not amount:
            return None
        self._currencies.setdefault(currency, _line(element))
        booked = self._day(element, "BookgDt")
        batches, details = self._all(element, "NtryDtls/Btch"), self._all(element, "NtryDtls/TxDtls")
        servicer_reference = self._short(element, "AcctSvcrRef", _REFERENCE_MAX)
        return BankEntry(
            line=_line(element),
            amount=amount,
            value_day=self._day(element, "ValDt") if element.find(self._path("ValDt")) is not None else booked,
            entry_reference=self._short(element, "NtryRef", _REFERENCE_MAX),
            servicer_reference=servicer_reference,
            references=references([servicer_reference, *self._references(batches, details)]),
            batch_size=self._batch_size(element, batches, details),
            description=self._description(element, details),
        )

    def _references(self, batches: Sequence[etree._Element], details: Sequence[etree._Element]) -> Iterator[str]:
        """What an entry's batches and transactions are called, whoever called them so."""
        for named in [*batches, *(refs for one in details for refs in self._all(one, "Refs"))]:
            for child in named:
                if child.tag in self._references_tags:
                    yield self._checked(child, _stripped(child.text))
        for one in details:
            for given in self._all(one, "RmtInf/Strd/CdtrRefInf/Ref"):
                yield self._checked(given, _stripped(given.text))

    def _batch_size(
        self, element: etree._Element, batches: Sequence[etree._Element], details: Sequence[etree._Element]
    ) -> int | None:
        if not batches:
            return len(details) if len(details) > 1 else None
        stated = [self._text(batch, "NbOfTxs") for batch in batches]
        if any(not re.fullmatch("[0-9]{0,9}", one) for one in stated):
            raise StatementWrong("the number of a batch's transactions is none", line=_line(element))
        return min(sum(int(one) for one in stated), _SIZE_MAX) if all(stated) else len(details)

    def _description(self, element: etree._Element, details: Sequence[etree._Element]) -> str:
        told = [self._text(element, "AddtlNtryInf")]
        told += [_stripped(one.text) for of in details for one in self._all(of, "RmtInf/Ustrd")]
        return " ".join(text for text in told if text)[:_DESCRIPTION_MAX]

    def _amount(self, element: etree._Element) -> tuple[int, str]:
        """Signed minor units and their currency."""
        amounts, sign = self._all(element, "Amt"), _SIGNS.get(self._text(element, "CdtDbtInd"))
        if len(amounts) != 1 or sign is None:
            raise StatementWrong(f"{_name(element)} has no amount, or no side of one", line=_line(element))
        text, currency = _stripped(amounts[0].text), amounts[0].get("Ccy", "")
        try:
            if not _AMOUNT.fullmatch(text):
                raise ValueError(f"{text[:40]!r} is not an amount")
            return sign * money.parse(text, currency), currency
        except CurrencyUnknown:
            raise StatementWrong(f"the currency {currency[:10]!r} is not known", line=_line(element)) from None
        except ValueError as error:
            raise StatementWrong(str(error), line=_line(element)) from None

    def _day(self, element: etree._Element, name: str) -> date:
        text = self._text(element, f"{name}/Dt") or self._text(element, f"{name}/DtTm")
        try:
            if not _DAY.fullmatch(text[:10]):
                raise ValueError(text)
            found = date.fromisoformat(text[:10])
            if not date.min.year < found.year < date.max.year:
                raise ValueError(text)  # days beside the first and the last one cannot be reckoned with
            return found
        except ValueError:
            raise StatementWrong(f"{name} {text[:40]!r} of {_name(element)} is no day", line=_line(element)) from None

    def _all(self, element: etree._Element, path: str) -> list[etree._Element]:
        return element.findall(self._path(path))

    def _text(self, element: etree._Element, path: str) -> str:
        """The text at a path; empty where there is none."""
        return _stripped(element.findtext(self._path(path)))

    def _path(self, path: str) -> str:
        """A path of names with their namespace; kept, since every entry is asked for the same ones."""
        found = self._paths.get(path)
        if found is None:
            found = self._paths[path] = "/".join(self.ns + name for name in path.split("/"))
        return found

    def _short(self, element: etree._Element, name: str, length: int) -> str:
        text = self._text(element, name)
        if len(text) > length:
            raise StatementWrong(f"{name} has more than {length} letters", line=_line(element))
        return text

    def _checked(self, element: etree._Element, text: str) -> str:
        if len(text) > _REFERENCE_MAX:
            raise StatementWrong(f"{_name(element)} has more than {_REFERENCE_MAX} letters", line=_line(element))
        return text

    def _required(self, element: etree._Element, path: str, *, length: int = _ID_MAX) -> str:
        text = self._text(element, path)
        if not text or len(text) > length:
            raise StatementWrong(f"{path} is missing, or has more than {length} letters", line=_line(element))
        return text


def _stripped(text: str | None) -> str:
    return (text or "").strip()


def _line(element: etree._Element) -> int:
    line: int | None = element.sourceline  # type: ignore[assignment]  # the stubs leave its type out
    return line or 0
