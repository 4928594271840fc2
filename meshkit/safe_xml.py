"""XML from strangers: capped in size, depth and elements, without DTD, entities and network; it knows no schema."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from lxml import etree

BYTES_MAX = 20 * 1024 * 1024
DEPTH_MAX = 40
"""Messages of ISO 20022 go 14 deep; the rest is room for supplementary data."""
ELEMENTS_MAX = 1_000_000

_CHUNK_BYTES = 64 * 1024
_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class FileRefused(Exception):
    """A file of which nothing is taken. Its text is one sentence, with the line where there is one."""

    def __init__(self, sentence: str, *, line: int | None = None) -> None:
        self.line = line
        self.reason = sentence
        super().__init__(f"{f'line {line}: ' if line else ''}{sentence}.")


class FileTooLarge(FileRefused):
    """More bytes than are read at once."""

    def __init__(self, size: int, size_max: int) -> None:
        super().__init__(f"the file has {size:,} bytes; at most {size_max:,} are read")


class FileForbidden(FileRefused):
    """What no message needs and attackers like: a DTD, another encoding, a tower of elements."""


class FileMalformed(FileRefused):
    """The file is not in the form that it has to have, as well-formed XML."""


class SchemaBroken(FileRefused):
    """The file breaks the schema of its kind."""


class _Guard:
    """A parser target that keeps nothing and counts: a hostile document ends here, before a tree is built of it."""

    def __init__(self, elements_max: int | None = None, accept: Callable[[str], None] = lambda _: None) -> None:
        self._accept = accept
        self.elements_max = ELEMENTS_MAX if elements_max is None else elements_max
        self.depth = 0
        self.elements = 0

    def start(self, tag: str | bytes, attributes: Mapping[str | bytes, str | bytes]) -> None:
        """An element begins."""
        del attributes
        if not self.elements:
            self._accept(str(tag))
        self.depth += 1
        self.elements += 1
        if self.depth > DEPTH_MAX:
            raise FileForbidden(f"elements are nested deeper than {DEPTH_MAX}")
        if self.elements > self.elements_max:
            raise FileForbidden(f"there are more than {self.elements_max:,} elements")

    def end(self, tag: str | bytes) -> None:
        """An element ends."""
        del tag
        self.depth -= 1

    def data(self, data: str | bytes) -> None:
        """Text; not kept."""

    def comment(self, text: str | bytes) -> None:
        """A comment; not kept."""

    def doctype(self, name: str, public_id: str | None, system: str | None) -> None:
        """A document type declaration begins."""
        del name, public_id, system
        raise FileForbidden("a document type declaration (DTD) is not allowed")

    def close(self) -> int:
        """How many elements there were."""
        return self.elements


def parse(data: bytes) -> etree._Element:
    """The root of a document. Raises FileTooLarge, FileForbidden or FileMalformed."""
    if len(data) > BYTES_MAX:
        raise FileTooLarge(len(data), BYTES_MAX)
    _check_bytes(data)
    try:
        etree.fromstring(data, _parser(_Guard()))
        root: etree._Element = etree.fromstring(data, _parser(None))
    except etree.XMLSyntaxError as error:
        raise FileMalformed(error.msg or "it is no XML", line=error.lineno or None) from None
    return root


def check(
    file: IO[bytes],
    schema: etree.XMLSchema | None,
    *,
    elements_max: int,
    accept: Callable[[str], None],
    pause: Callable[[], None],
) -> None:
    """As `parse`, of a file of any size that is never whole in memory, without its tree, and by its schema where it has
    one: what passes can be read with `elements`. `accept` is given the name of the root, and raises what is wrong with
    it.

    Raises FileForbidden, FileMalformed or SchemaBroken.
    """
    _check_text(file, pause)
    guard = _Guard(elements_max, accept)
    parser = _parser(guard, schema)
    try:
        for chunk in _chunks(file):
            parser.feed(chunk)
            if _breaks_schema(parser):
                break
            pause()
        else:
            parser.close()
    except etree.XMLSyntaxError as error:
        if not _breaks_schema(parser):
            log = _log_of(parser)
            message = str(log[0].message).rstrip() if len(log) else error.msg
            raise FileMalformed(message or "it is no XML", line=error.lineno or None) from None
    if schema is not None and _breaks_schema(parser):
        raise SchemaBroken(_log_of(parser)[0].message, line=_broken_line(file, schema))


def _breaks_schema(parser: etree.XMLParser) -> bool:
    """Whether the first thing that is wrong is against the schema: what follows from broken XML breaks it too."""
    log = _log_of(parser)
    return bool(len(log)) and str(log[0].domain_name).startswith("SCHEMAS")


def _log_of(parser: etree.XMLParser) -> Any:
    return parser.feed_error_log  # the stubs do not say that it is a sequence


def _broken_line(file: IO[bytes], schema: etree.XMLSchema) -> int | None:
    """The line at which a file breaks its schema: the parser does not know it of what it is fed, so it is fed again, a
    line at a time."""
    parser = _parser(_Guard(), schema)
    file.seek(0)
    line = 1
    while part := file.readline(_CHUNK_BYTES):
        parser.feed(part)
        if _breaks_schema(parser):
            return line
        line += part.endswith(b"\n")
    return None


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    """A file from its beginning."""
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def elements(
    file: IO[bytes],
    tags: Sequence[str],
    is_in_place: Callable[[etree._Element], bool],
    *,
    each: str,
    bytes_between_max: int,
    pause: Callable[[], None],
) -> Iterator[etree._Element]:
    """The elements of these names of a file that passed `check`, as they end, where they are in their place.

    What stands between the ends of two is in memory at once, and is `bytes_between_max` at most, about. Raises
    FileForbidden, which calls what is read `each`.
    """
    parser = etree.XMLPullParser(events=("end",), tag=tags, **_SAFE)
    between = 0
    for chunk in _chunks(file):
        parser.feed(chunk)
        between += len(chunk)
        events: Any = parser.read_events()  # the stubs do not say that an end has an element
        for _, element in events:
            if is_in_place(element):
                between = 0
                yield element
        if between > bytes_between_max:
            raise FileForbidden(f"{each}, or what stands between two, has more than {bytes_between_max:,} bytes")
        pause()


def _check_text(file: IO[bytes], pause: Callable[[], None]) -> None:
    """What `_check_bytes` looks for, with an overlap, so that nothing hides between two chunks."""
    decoder, before, line = codecs.getincrementaldecoder("utf-8")(), b"", 1
    for number, chunk in enumerate(_chunks(file)):
        if number == 0:
            _check_bytes(_without_cut_letter(chunk))
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError:
            raise FileMalformed("it is not UTF-8", line=line + chunk.count(b"\n")) from None
        both = before + chunk
        if b"\x00" in chunk:
            raise FileMalformed("it is no XML in UTF-8", line=line)
        for mark in _MARKS:
            if mark in both:
                raise FileForbidden("a document type declaration (DTD) is not allowed", line=line)
        before, line = chunk[-len(max(_MARKS, key=len)) :], line + chunk.count(b"\n")
        pause()
    if not before:
        raise FileMalformed("it is empty")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise FileMalformed("it is not UTF-8", line=line) from None


def _without_cut_letter(chunk: bytes) -> bytes:
    """A chunk without the bytes of a letter that goes on in the next one."""
    for cut in range(1, min(4, len(chunk)) + 1):
        byte = chunk[-cut]
        if byte >= 0xC0:
            whole = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return chunk[:-cut] if whole > cut else chunk
        if byte < 0x80:
            break
    return chunk


_MARKS = (b"<!DOCTYPE", b"<!ENTITY")
_SAFE: dict[str, Any] = {
    "resolve_entities": False,
    "load_dtd": False,
    "dtd_validation": False,
    "attribute_defaults": False,
    "no_network": True,
    "huge_tree": False,
    "recover": False,
    "remove_comments": True,
    "remove_pis": True,
}


def _parser(target: _Guard | None, schema: etree.XMLSchema | None = None) -> etree.XMLParser:
    return etree.XMLParser(target=target, schema=schema, **_SAFE)


def _check_bytes(data: bytes) -> None:
    """Only UTF-8 goes on, so that what is looked for below cannot hide in another encoding."""
    text = data.removeprefix(_BYTE_ORDER_MARK)
    if not text.strip():
        raise FileMalformed("it is empty")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileMalformed("it is not UTF-8", line=text.count(b"\n", 0, error.start) + 1) from None
    if b"\x00" in text or not text.lstrip().startswith(b"<"):
        raise FileMalformed("it is no XML in UTF-8", line=1)
    declared = _ENCODING.match(text)
    if declared is not None and declared[1].upper() not in (b"UTF-8", b"US-ASCII"):
        raise FileForbidden(f"its encoding is {declared[1].decode()}; ISO 20022 asks for UTF-8", line=1)
    for mark in _MARKS:
        place = text.find(mark)
        if place >= 0:
            raise FileForbidden(
                "a document type declaration (DTD) is not allowed", line=text.count(b"\n", 0, place) + 1
            )
