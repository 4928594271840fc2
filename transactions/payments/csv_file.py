"""Reads a CSV file of payments, row by row; it must not judge single payments beyond whether they can be read."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from typing import IO

from meshkit.safe_xml import FileForbidden, FileMalformed
from transactions.payments.pain001 import Instruction, Payment

COLUMNS = ("debit_account", "credit_account", "amount", "currency", "creditor_name", "end_to_end_id", "remittance")
"""The header, in this order."""
_LINE_BYTES_MAX = 8 * 1024
_CURRENCY_LETTERS, _END_TO_END_ID_LETTERS_MAX = 3, 35
_AMOUNT = re.compile(r"[0-9]{1,18}(\.[0-9]{1,5})?\Z")
_PAUSE_ROWS = 200


def stream(
    file: IO[bytes], *, today: date, pause: Callable[[], None] = lambda: None
) -> Iterator[Instruction | Payment]:
    """An instruction and its payment for each row. Raises FileRefused.

    RFC 4180 in UTF-8, with or without a byte order mark: a comma between fields, quotation marks around those that hold
    one, a row a line. `pause` is called after every few milliseconds of work.
    """
    rows = csv.reader(_lines(file), strict=True)
    try:
        head = next(rows, None)
        if head is None:
            raise FileMalformed("it is empty")
        if tuple(head) != COLUMNS:
            raise FileMalformed(f"the header is not {','.join(COLUMNS)}", line=1)
        for row in rows:
            if rows.line_num % _PAUSE_ROWS == 0:
                pause()
            if row:
                yield from _row(row, rows.line_num, today)
    except csv.Error as error:
        raise FileMalformed(f"it is no CSV: {error}", line=rows.line_num) from None


def _row(row: list[str], line: int, today: date) -> Iterator[Instruction | Payment]:
    if len(row) != len(COLUMNS):
        raise FileMalformed(f"it has {len(row)} fields, not {len(COLUMNS)}", line=line)
    debit_account, credit_account, amount, currency, creditor_name, end_to_end_id, remittance = row
    if not _AMOUNT.match(amount):
        # What comes before the sign of an amount may be a letter; nothing of it is guessed.
        raise FileMalformed("the amount is no number such as 1234.50", line=line)
    # Both are kept as they are, and told in reports, also of a payment that is refused.
    if len(currency) > _CURRENCY_LETTERS:
        raise FileMalformed(f"the currency has more than {_CURRENCY_LETTERS} letters", line=line)
    if len(end_to_end_id) > _END_TO_END_ID_LETTERS_MAX:
        raise FileMalformed(f"the end_to_end_id has more than {_END_TO_END_ID_LETTERS_MAX} letters", line=line)
    yield Instruction(line, "", "TRF", today, "", debit_account, "", ())
    yield Payment(line, "", end_to_end_id, Decimal(amount), currency, creditor_name, credit_account, remittance)


def _lines(file: IO[bytes]) -> Iterator[str]:
    file.seek(0)
    number = 0
    while line := file.readline(_LINE_BYTES_MAX + 1):
        number += 1
        if number == 1:
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise FileForbidden("it is UTF-16; UTF-8 is what is read here", line=1)
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > _LINE_BYTES_MAX:
            raise FileMalformed(f"the line has more than {_LINE_BYTES_MAX:,} bytes", line=number)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise FileMalformed("it is not UTF-8", line=number) from None
        if "\0" in text:
            raise FileMalformed("it holds a NUL character", line=number)
        if text.count('"') % 2:
            raise FileMalformed("a quotation mark is open at the end of the line; a row is a line", line=number)
        yield text
