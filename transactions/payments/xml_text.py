"""Texts from elsewhere as they may stand in XML of ISO 20022; it knows no message."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from xml.sax.saxutils import escape

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(value: str) -> str:
    """A text with what XML cannot hold replaced."""
    return escape(_NOT_XML.sub("?", value))


def limited(value: str, letters: int) -> str:
    """A text as long as the standard lets it be; one of blanks is none, which the standard calls NOTPROVIDED."""
    return text(value[:letters] if value.strip() else "NOTPROVIDED")


def moment(value: datetime) -> str:
    """A moment in UTC."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
