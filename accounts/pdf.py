"""Pages of typewriter text as a PDF, written page by page; the same lines are the same bytes, always.

It is written here since libraries put clocks and random ids into their files, compress them as the installed zlib does,
and keep a file whole in memory. What is needed of the format (ISO 32000-1) is small: the fonts that every reader
has, text at places, and a table of where the objects stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

LINE_CHARACTERS = 132
PAGE_LINES = 46

_WIDTH, _HEIGHT = 842, 595  # A4, landscape, in points
_LEFT, _TOP = 56, 548
_LEADING = 11
_SIZE = 9  # a character of Courier is 0.6 of its size wide: 132 of them take 713 points
_FIRST_PAGE = 6  # the number of the first object that belongs to a page


class Pdf:
    """A file on its way: `begin`, then any number of `page`, then `end`; each gives the next bytes."""

    def __init__(self, title: str, create_time: datetime) -> None:
        self._title = title
        self._create_time = create_time
        self._offsets: dict[int, int] = {}
        self._length = 0
        self._pages = 0

    def begin(self) -> bytes:
        """The head of the file, with the fonts."""
        font = "<< /Type /Font /Subtype /Type1 /BaseFont /{} /Encoding /WinAnsiEncoding >>"
        made = f"D:{self._create_time:%Y%m%d%H%M%S}Z"
        # The bytes above 127 tell programs that it is not text.
        parts = [self._counted(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")]
        parts += [self._object(3, font.format("Courier").encode())]
        parts += [self._object(4, font.format("Courier-Bold").encode())]
        information = b"<< /Title (%s) /CreationDate (%s) /Producer (Florin) >>" % (_text(self._title), made.encode())
        return b"".join([*parts, self._object(5, information)])

    def page(self, lines: Sequence[str], bold: int = 0) -> bytes:
        """A page of up to PAGE_LINES lines, the first `bold` of them in bold. What the fonts lack becomes "?"."""
        content = [b"BT /%s %d Tf %d TL %d %d Td" % (b"B" if bold else b"R", _SIZE, _LEADING, _LEFT, _TOP)]
        for number, line in enumerate(lines):
            if bold and number == bold:
                content.append(b"/R %d Tf" % _SIZE)
            content.append(b"(%s) Tj T*" % _text(line))
        stream = b"\n".join([*content, b"ET"])
        at = _FIRST_PAGE + 2 * self._pages
        self._pages += 1
        page = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents %d 0 R"
            b" /Resources << /Font << /R 3 0 R /B 4 0 R >> >> >>" % (_WIDTH, _HEIGHT, at)
        )
        body = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream)
        return self._object(at, body) + self._object(at + 1, page)

    def end(self) -> bytes:
        """The tree of the pages and the table of the objects."""
        kids = " ".join(f"{_FIRST_PAGE + 2 * number + 1} 0 R" for number in range(self._pages))
        parts = [self._object(1, b"<< /Type /Catalog /Pages 2 0 R >>")]
        parts += [self._object(2, f"<< /Type /Pages /Count {self._pages} /Kids [{kids}] >>".encode())]
        count = _FIRST_PAGE + 2 * self._pages
        rows = [f"{self._offsets[number]:010d} 00000 n \n" for number in range(1, count)]
        table = f"xref\n0 {count}\n0000000000 65535 f \n{''.join(rows)}"
        trailer = f"trailer\n<< /Size {count} /Root 1 0 R /Info 5 0 R >>\nstartxref\n{self._length}\n%%EOF\n"
        return b"".join(parts) + (table + trailer).encode()

    def _object(self, number: int, body: bytes) -> bytes:
        self._offsets[number] = self._length
        return self._counted(b"%d 0 obj\n%s\nendobj\n" % (number, body))

    def _counted(self, data: bytes) -> bytes:
        self._length += len(data)
        return data


def _text(line: str) -> bytes:
    shown = "".join(character if character.isprintable() else "?" for character in line)
    data = shown.encode("cp1252", errors="replace")
    return data.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
