"""Why a payment file is refused whole; a payment that is refused alone is none of these."""

from __future__ import annotations


class PaymentFileRefused(Exception):
    """A file of which nothing is paid. Its text is one sentence, with the line where there is one."""

    def __init__(self, sentence: str, *, line: int | None = None) -> None:
        self.line = line
        self.reason = sentence
        super().__init__(f"{f'line {line}: ' if line else ''}{sentence}.")


class FileTooLarge(PaymentFileRefused):
    """More bytes than a payment file may have."""

    def __init__(self, size: int, size_max: int) -> None:
        super().__init__(f"the file has {size:,} bytes; at most {size_max:,} are read")


class FileForbidden(PaymentFileRefused):
    """What no payment file needs and attackers like: a DTD, another encoding, a tower of elements."""


class FileMalformed(PaymentFileRefused):
    """The file is no well-formed XML."""


class SchemaWrong(PaymentFileRefused):
    """The file is another kind of document, or another version of it."""


class SchemaBroken(PaymentFileRefused):
    """The file breaks the schema of pain.001.001.09."""


class MessageIdMissing(PaymentFileRefused):
    """An identification consists of blanks, so that the payments below it could not be told apart."""


class ControlSumWrong(PaymentFileRefused):
    """A count or a sum that the file states is not that of its payments."""

    def __init__(self, what: str, *, stated: str, counted: str, line: int | None = None) -> None:
        self.stated = stated
        self.counted = counted
        super().__init__(f"{what} says {stated}, but the payments come to {counted}", line=line)
