"""XML from strangers: capped in size, depth and elements, without DTD, entities and network; it knows no schema."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lxml import etree

from local.payments.errors import FileForbidden, FileMalformed, FileTooLarge

BYTES_MAX = 20 * 1024 * 1024
DEPTH_MAX = 40
"""pain.001 itself goes 14 deep; the rest is room for supplementary data."""
ELEMENTS_MAX = 1_000_000

_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class _Guard:
    """A parser target that keeps nothing and counts: a hostile document ends here, before a tree is built of it."""

    def __init__(self) -> None:
        self.depth = 0
        self.elements = 0

    def start(self, tag: str | bytes, attributes: Mapping[str | bytes, str | bytes]) -> None:
        """An element begins."""
        del tag, attributes
        self.depth += 1
        self.elements += 1
        if self.depth > DEPTH_MAX:
            raise FileForbidden(f"elements are nested deeper than {DEPTH_MAX}")
        if self.elements > ELEMENTS_MAX:
            raise FileForbidden(f"there are more than {ELEMENTS_MAX:,} elements")

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


def _parser(target: _Guard | None) -> etree.XMLParser:
    return etree.XMLParser(
        target=target,
        resolve_entities=False,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        no_network=True,
        huge_tree=False,
        recover=False,
        remove_comments=True,
        remove_pis=True,
    )


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
    for mark in (b"<!DOCTYPE", b"<!ENTITY"):
        place = text.find(mark)
        if place >= 0:
            raise FileForbidden(
                "a document type declaration (DTD) is not allowed", line=text.count(b"\n", 0, place) + 1
            )
