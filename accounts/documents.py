"""A statement's documents, part by part, so that none is ever whole in memory; no I/O.

What is in them comes from the statement and its entries alone, neither of which changes: the same statement is the same
bytes, whenever and wherever they are made. A document has three kinds of parts: `head`, `rows` for all entries in their
order in any number of lots, `tail`.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from accounts import pdf
from accounts.camt053 import Camt053
from accounts.model import Entry
from accounts.statements import Statement, Totals, booking_day, local_day
from florin.accounts.v1 import statement_pb2
from meshkit.money import format_minor

CONTENT_TYPES = {
    statement_pb2.STATEMENT_FORMAT_JSON: "application/json",
    statement_pb2.STATEMENT_FORMAT_CSV: "text/csv; charset=utf-8",
    statement_pb2.STATEMENT_FORMAT_CAMT_053: "application/xml",
    statement_pb2.STATEMENT_FORMAT_PDF: "application/pdf",
}
_FORMULA = re.compile(r'(^|[;\t\n\v\f\r\x85\u2028\u2029])(["\s]*)(?=[=+\-@])')
"""What is before a sign that spreadsheets calculate from (OWASP, CSV injection): the beginning of a cell, or what a
program that was told of other separators takes for the end of one."""


class Document(Protocol):
    """A document on its way."""

    def head(self) -> bytes:
        """Everything before the entries."""

    def rows(self, entries: Sequence[Entry]) -> bytes:
        """The next entries."""

    def tail(self) -> bytes:
        """Everything after them."""


def make(form: int, statement: Statement, totals: Totals) -> Document:
    """A statement's document in a format of the contract."""
    if statement.layout != 1:
        raise RuntimeError(f"{statement.name} has layout {statement.layout}, which this version does not know")
    if form == statement_pb2.STATEMENT_FORMAT_JSON:
        return Json(statement)
    if form == statement_pb2.STATEMENT_FORMAT_CSV:
        return Csv(statement)
    if form == statement_pb2.STATEMENT_FORMAT_CAMT_053:
        return Camt053(statement, totals)
    return Pdf(statement, totals)


class Json:
    """JSON as REST has messages: names in camel case, 64-bit numbers as texts, an entry a line."""

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._before = ""

    def head(self) -> bytes:
        """The statement."""
        one = self._statement
        values = {
            "name": one.name,
            "account": f"accounts/{one.account}",
            "identifier": one.identifier,
            "issuer": one.issuer,
            "number": str(one.number),
            "periodStart": one.period.first.isoformat(),
            "periodEnd": one.period.last.isoformat(),
            "timeZone": one.period.time_zone,
            "startTime": _moment(one.period.start_time),
            "endTime": _moment(one.period.end_time),
            "openingBalance": self._money(one.opening),
            "closingBalance": self._money(one.closing),
            "openingSequence": str(one.opening_sequence),
            "closingSequence": str(one.closing_sequence),
            "entryCount": str(one.entry_count),
            "createTime": _moment(one.create_time),
        }
        return f'{{"statement":{_json(values)},\n"entries":['.encode()

    def rows(self, entries: Sequence[Entry]) -> bytes:
        """Entries."""
        parts = []
        for entry in entries:
            parts.append(self._before + "\n" + self._entry(entry))
            self._before = ","
        return "".join(parts).encode()

    def tail(self) -> bytes:
        """The end."""
        return b"\n]}\n"

    def _entry(self, entry: Entry) -> str:
        zone = self._statement.period.time_zone
        return _json(
            {
                "sequence": str(entry.sequence),
                "journal": f"journals/{entry.journal}",
                "amount": self._money(entry.amount),
                "balanceAfter": self._money(entry.balance_after or 0),
                "bookingDate": booking_day(entry.create_time, self._statement.period).isoformat(),
                "valueDate": local_day(entry.effective_time, zone).isoformat(),
                "createTime": _moment(entry.create_time),
                "effectiveTime": _moment(entry.effective_time),
                "kind": f"JOURNAL_KIND_{entry.kind.name}",
                "origin": entry.origin,
            }
        )

    def _money(self, minor_units: int) -> dict[str, str]:
        return {"currencyCode": self._statement.currency, "minorUnits": str(minor_units)}


class Csv:
    """CSV of RFC 4180: a header, the opening balance, the entries, the closing balance.

    Amounts have no sign: `side` says whether they are a CREDIT or a DEBIT. A balance can be negative; it is a number
    that is written here, not a text from elsewhere. Texts from elsewhere are in quotation marks, and have an
    apostrophe before what could be taken for the beginning of a formula.
    """

    _NAMES = (
        *("record", "sequence", "booking_date", "value_date", "recorded_at", "side", "amount", "currency"),
        *("balance_after", "kind", "journal", "origin"),
    )

    def __init__(self, statement: Statement) -> None:
        self._statement = statement

    def head(self) -> bytes:
        """The header and the opening balance."""
        one = self._statement
        return self._lines([self._NAMES, self._balance("OPENING", one.period.first.isoformat(), one.opening)])

    def rows(self, entries: Sequence[Entry]) -> bytes:
        """Entries."""
        return self._lines([self._entry(entry) for entry in entries])

    def tail(self) -> bytes:
        """The closing balance."""
        one = self._statement
        return self._lines([self._balance("CLOSING", one.period.last.isoformat(), one.closing)])

    def _balance(self, record: str, day: str, minor_units: int) -> tuple[str, ...]:
        currency = self._statement.currency
        return (record, "", day, "", "", "", "", currency, format_minor(minor_units, currency), "", "", "")

    def _entry(self, entry: Entry) -> tuple[str, ...]:
        zone = self._statement.period.time_zone
        return (
            "ENTRY",
            str(entry.sequence),
            booking_day(entry.create_time, self._statement.period).isoformat(),
            local_day(entry.effective_time, zone).isoformat(),
            _moment(entry.create_time),
            "DEBIT" if entry.amount < 0 else "CREDIT",
            format_minor(abs(entry.amount), entry.currency),
            entry.currency,
            format_minor(entry.balance_after or 0, entry.currency),
            entry.kind.name,
            f"journals/{entry.journal}",
            _cell(entry.origin),
        )

    def _lines(self, rows: Sequence[Sequence[str]]) -> bytes:
        # All cells but those from elsewhere are made of letters and digits.
        return "".join(",".join(row) + "\r\n" for row in rows).encode()


class Pdf:
    """Pages of typewriter text, with the heading of the statement on the first and of the table on each."""

    def __init__(self, statement: Statement, totals: Totals) -> None:
        self._statement = statement
        self._totals = totals
        self._file = pdf.Pdf(f"Statement {statement.number} of accounts/{statement.account}", statement.create_time)
        self._lines: list[str] = []
        self._page = 0

    def head(self) -> bytes:
        """The heading of the first page."""
        one, totals = self._statement, self._totals
        days = f"{one.period.first.isoformat()} to {one.period.last.isoformat()}"
        self._lines = [
            *textwrap.wrap(one.issuer, pdf.LINE_CHARACTERS),
            f"Account statement {one.number}",
            "",
            f"Account          {f'{one.identifier}  ' if one.identifier else ''}accounts/{one.account}",
            f"Period           {days} ({one.period.time_zone})",
            f"Issued           {_moment(one.create_time)}  {one.name}",
            f"Opening balance  {self._amount(one.opening)}",
            f"{totals.credit_count:>9} credits {self._amount(totals.credit_sum)}",
            f"{totals.debit_count:>9} debits  {self._amount(-totals.debit_sum)}",
            f"Closing balance  {self._amount(one.closing)}",
            "",
        ]
        self._table_head()
        return self._file.begin()

    def rows(self, entries: Sequence[Entry]) -> bytes:
        """The pages that the entries fill."""
        for entry in entries:
            self._lines += self._entry(entry)
        return self._full_pages()

    def tail(self) -> bytes:
        """The last page."""
        self._lines += ["", f"Closing balance  {self._amount(self._statement.closing)}"]
        pages = self._full_pages()
        return pages + self._write(self._lines) + self._file.end()

    def _table_head(self) -> None:
        self._lines += [_row("No.", "Booked", "Value", "Kind", "Cause", "Amount", "Balance"), "-" * pdf.LINE_CHARACTERS]

    def _entry(self, entry: Entry) -> list[str]:
        zone = self._statement.period.time_zone
        # A line of the column each; the file writes what is no letter of its fonts as a question mark.
        told = [entry.origin[at : at + _CAUSE] for at in range(0, len(entry.origin), _CAUSE)] or [""]
        first = _row(
            str(entry.sequence),
            booking_day(entry.create_time, self._statement.period).isoformat(),
            local_day(entry.effective_time, zone).isoformat(),
            entry.kind.name.lower(),
            told[0],
            format_minor(entry.amount, entry.currency),
            format_minor(entry.balance_after or 0, entry.currency),
        )
        return [first, *(_row("", "", "", "", more, "", "") for more in told[1:])]

    def _full_pages(self) -> bytes:
        parts = []
        while len(self._lines) > pdf.PAGE_LINES - 2:
            page, rest = self._lines[: pdf.PAGE_LINES - 2], self._lines[pdf.PAGE_LINES - 2 :]
            parts.append(self._write(page))
            self._lines = []
            self._table_head()
            self._lines += rest
        return b"".join(parts)

    def _write(self, lines: Sequence[str]) -> bytes:
        self._page += 1
        below = [""] * (pdf.PAGE_LINES - 1 - len(lines))
        foot = f"{self._statement.name}  page {self._page}"
        return self._file.page([*lines, *below, foot], bold=2 if self._page == 1 else 0)

    def _amount(self, minor_units: int) -> str:
        currency = self._statement.currency
        return f"{format_minor(minor_units, currency):>24} {currency}"


_CAUSE = 46  # characters of the column; "transfers/" and a UUID


def _row(number: str, booked: str, value: str, kind: str, cause: str, amount: str, balance: str) -> str:
    return f"{number:>8} {booked:10} {value:10} {kind:8} {cause:{_CAUSE}} {amount:>21} {balance:>21}"


def _cell(text: str) -> str:
    """A text from elsewhere, always in quotation marks, whatever a program takes for a separator."""
    safe = _FORMULA.sub(r"\1\2'", text)
    if safe.startswith(("\t", "\r")):
        safe = f"'{safe}"
    return f'"{safe.replace(chr(34), chr(34) * 2)}"'


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _moment(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
