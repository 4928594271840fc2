"""Why a payment file is refused whole; a payment that is refused alone is none of these."""

from __future__ import annotations

from meshkit.safe_xml import FileRefused


class SchemaWrong(FileRefused):
    """The file is another kind of document, or another version of it."""


class MessageIdMissing(FileRefused):
    """An identification consists of blanks, so that the payments below it could not be told apart."""


class ControlSumWrong(FileRefused):
    """A count or a sum that the file states is not that of its payments."""

    def __init__(self, what: str, *, stated: str, counted: str, line: int | None = None) -> None:
        self.stated = stated
        self.counted = counted
        super().__init__(f"{what} says {stated}, but the payments come to {counted}", line=line)
