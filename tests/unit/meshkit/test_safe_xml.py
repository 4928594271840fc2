"""XML from strangers: what is not read at all, whole and as a stream, with and without a schema."""

from __future__ import annotations

import io

import pytest
from lxml import etree

from meshkit import safe_xml
from meshkit.safe_xml import FileForbidden, FileMalformed, FileRefused, FileTooLarge, SchemaBroken

SCHEMA = etree.XMLSchema(
    etree.fromstring(
        b'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="a"><xs:complexType><xs:sequence>'
        b'<xs:element name="b" type="xs:int" maxOccurs="unbounded"/></xs:sequence></xs:complexType></xs:element>'
        b"</xs:schema>"
    )
)
HOSTILE: dict[str, tuple[bytes, type[FileRefused]]] = {
    "nothing": (b"", FileMalformed),
    "blanks": (b" \n", FileMalformed),
    "no XML": (b"a", FileMalformed),
    "broken": (b"<a><b>1</a>", FileMalformed),
    "cut off": (b"<a><b>1</b>", FileMalformed),
    "two roots": (b"<a><b>1</b></a><a/>", FileMalformed),
    "another encoding": (b"<a><b>\xff</b></a>", FileMalformed),
    "a half letter at the end": (b"<a><b>1</b></a>\xc3", FileMalformed),
    "a zero byte": (b"<a><b>1</b></a>\x00", FileMalformed),
    "UTF-16": ("<a><b>1</b></a>".encode("utf-16"), FileMalformed),
    "an unknown entity": (b"<a><b>&x;</b></a>", FileMalformed),
    "an encoding that hides": (b'<?xml version="1.0" encoding="UTF-7"?><a><b>1</b></a>', FileForbidden),
    "a file of ours": (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a><b>&x;</b></a>', FileForbidden),
    "a billion laughs": (b'<!DOCTYPE a [<!ENTITY x "1"><!ENTITY y "&x;&x;">]><a><b>&y;</b></a>', FileForbidden),
    "a tower": (b"<a>" * 50 + b"</a>" * 50, FileForbidden),
    "a flood": (b"<a>" + b"<b>1</b>" * 30 + b"</a>", FileForbidden),
}


def checked(data: bytes, schema: etree.XMLSchema | None = None) -> list[str]:
    """Checks a stream of twenty elements at most; gives the roots that it was asked about."""
    roots: list[str] = []
    safe_xml.check(io.BytesIO(data), schema, elements_max=20, accept=roots.append, pause=lambda: None)
    return roots


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["without a schema", "by a schema"])
@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_hostile_is_refused_before_it_is_read(what: str, schema: etree.XMLSchema | None) -> None:
    """As a stream and whole, each for its reason."""
    data, kind = HOSTILE[what]
    # What is wrong against the schema as well may be told first.
    with pytest.raises((kind, SchemaBroken) if schema is not None else kind):
        checked(data, schema)
    if what != "a flood":
        with pytest.raises(kind):
            safe_xml.parse(data)


def test_what_is_sound_passes_and_is_asked_about_by_its_root() -> None:
    """A byte order mark and comments do no harm."""
    for data in (b"<a><b>1</b></a>", b"\xef\xbb\xbf<a><!-- x --><b>1</b></a>\n"):
        assert checked(data) == checked(data, SCHEMA) == ["a"]
        assert [child.tag for child in safe_xml.parse(data)] == ["b"]


def test_what_no_schema_allows_passes_where_there_is_none() -> None:
    """Only who has one is told of it, with the line."""
    data = b"<a>\n<b>1</b>\n<c/></a>"
    assert checked(data) == ["a"]
    with pytest.raises(SchemaBroken) as refused:
        checked(data, SCHEMA)
    assert refused.value.line == 3


def test_a_file_that_is_too_large_is_not_read_at_once() -> None:
    """By its size alone."""
    with pytest.raises(FileTooLarge):
        safe_xml.parse(b" " * (safe_xml.BYTES_MAX + 1))
