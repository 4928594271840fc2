"""Reads watchlist files in OFAC's SDN format (SDN.CSV, ALT.CSV, ADD.CSV); it must not keep or match anything.

The files have no header. A field that is absent reads "-0-". OFAC ends its files with a control-Z.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from compliance.errors import WatchlistInvalid
from compliance.model import ListedName

_NULL = "-0-"
_END = "\x1a"
# Columns as OFAC documents them; SDN.CSV has twelve, of which the number, the name and the type are used here.
_SDN_COLUMNS, _ALT_COLUMNS, _ADD_COLUMNS = 12, 5, 6
NAME_LENGTH_MAX = 400
"""The longest name that is taken; OFAC allows 350."""
LINE_BYTES_MAX = 64 * 1024
"""OFAC's longest lines have some 2 KB."""
ENTRIES_MAX = 500_000
"""More names than this are no watchlist; the largest public ones have a tenth."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the files of one import hold."""

    entry_count: int
    names: tuple[ListedName, ...]


def parse(sdn: BinaryIO, alt: BinaryIO | None, add: BinaryIO | None) -> Parsed:
    """Reads the files of one list: entries, their aliases, their addresses (of which the first country is kept).

    Raises WatchlistInvalid with the file and line of the first mistake: a list is taken whole or not at all.
    """
    entries: dict[str, ListedName] = {}
    for line, row in _rows("SDN.CSV", sdn, _SDN_COLUMNS):
        entry = _number("SDN.CSV", line, row[0], "entry number")
        if entry in entries:
            raise WatchlistInvalid("SDN.CSV", line, f"entry {entry} stands there twice")
        entries[entry] = ListedName(entry, _name("SDN.CSV", line, row[1]), alias=False)
        if len(entries) > ENTRIES_MAX:
            raise WatchlistInvalid("SDN.CSV", line, f"a list has at most {ENTRIES_MAX} entries")
    if not entries:
        raise WatchlistInvalid("SDN.CSV", 0, "the file has no entries")
    aliases: list[ListedName] = []
    for line, row in _rows("ALT.CSV", alt, _ALT_COLUMNS):
        entry = _known("ALT.CSV", line, row[0], entries)
        aliases.append(ListedName(entry, _name("ALT.CSV", line, row[3]), alias=True))
        if len(aliases) > ENTRIES_MAX:
            raise WatchlistInvalid("ALT.CSV", line, f"a list has at most {ENTRIES_MAX} aliases")
    countries: dict[str, str] = {}
    for line, row in _rows("ADD.CSV", add, _ADD_COLUMNS):
        entry, country = _known("ADD.CSV", line, row[0], entries), _text(row[4])
        if country:
            countries.setdefault(entry, country)
    names = [replace(name, country=countries.get(name.entry, "")) for name in (*entries.values(), *aliases)]
    return Parsed(len(entries), tuple(names))


def _rows(file: str, data: BinaryIO | None, columns: int) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file with the line that each ends on."""
    if data is None:
        return
    data.seek(0)
    reader = csv.reader(_lines(file, data), strict=True)
    try:
        for row in reader:
            if not row or row == [_END]:
                continue
            if len(row) != columns:
                raise WatchlistInvalid(file, reader.line_num, f"{len(row)} columns where {columns} belong")
            if any("\x00" in value for value in row):
                raise WatchlistInvalid(file, reader.line_num, "a NUL character")
            yield reader.line_num, row
    except csv.Error as error:
        raise WatchlistInvalid(file, max(reader.line_num, 1), str(error)) from None


def _lines(file: str, data: BinaryIO) -> Iterator[str]:
    """A file's lines, decoded one by one so that a mistake is found on its own line, and none too long for memory."""
    number = 0
    while line := data.readline(LINE_BYTES_MAX):
        number += 1
        if len(line) == LINE_BYTES_MAX:
            raise WatchlistInvalid(file, number, f"the line is longer than {LINE_BYTES_MAX} bytes")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise WatchlistInvalid(file, number, "bytes that are not UTF-8") from None


def _text(value: str) -> str:
    stripped = value.strip()
    return "" if stripped == _NULL else stripped


def _number(file: str, line: int, value: str, what: str) -> str:
    digits = value.strip()
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise WatchlistInvalid(file, line, f"the {what} is no number")
    return str(int(digits))


def _known(file: str, line: int, value: str, entries: dict[str, ListedName]) -> str:
    entry = _number(file, line, value, "entry number")
    if entry not in entries:
        raise WatchlistInvalid(file, line, f"SDN.CSV has no entry {entry}")
    return entry


def _name(file: str, line: int, value: str) -> str:
    name = _text(value)
    if not name:
        raise WatchlistInvalid(file, line, "the name is missing")
    if len(name) > NAME_LENGTH_MAX:
        raise WatchlistInvalid(file, line, f"the name is longer than {NAME_LENGTH_MAX} characters")
    return name
