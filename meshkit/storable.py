"""Finds in a request what protobuf lets through and no database keeps; it must not judge anything else.

PostgreSQL's text holds no NUL character, and a Timestamp outside of the years 1 to 9999 is none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Violation = tuple[str, str]
"""(path of the field, what is wrong with it)."""

_TIMESTAMP = Timestamp.DESCRIPTOR.full_name
_SECONDS_MIN, _SECONDS_MAX = -62_135_596_800, 253_402_300_799  # as timestamp.proto has it
_NANOS_MAX = 999_999_999


def violations(message: Message) -> list[Violation]:
    """Every text with a NUL character and every time outside of the calendar, by its path."""
    found: list[Violation] = []
    # A message without a zero byte has no NUL in its texts: that spares all but a few messages the walk.
    if b"\0" in message.SerializeToString():
        found += _walk(message, "", _nul, lambda _: True)
    if _holds_time(message.DESCRIPTOR):
        found += _walk(message, "", _time, _holds_time)
    return found


def _walk(
    message: Message,
    path: str,
    look: Callable[[FieldDescriptor, object], str],
    enter: Callable[[Any], bool],
) -> Iterator[Violation]:
    for field, value in message.ListFields():
        for where, one in _items(field, value):
            here = f"{path}{field.name}{where}"
            wrong = look(field, one)
            if wrong:
                yield here, wrong
            elif isinstance(one, Message) and enter(one.DESCRIPTOR):
                yield from _walk(one, f"{here}.", look, enter)


def _items(field: FieldDescriptor, value: Any) -> Iterator[tuple[str, object]]:
    """What a field holds, each with its place in it: keys and values of a map, items of a list, or the one value."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        for number, (key, one) in enumerate(value.items()):
            yield f"[{number}].key", key
            yield f"[{number}].value", one
    elif field.is_repeated:
        yield from ((f"[{index}]", one) for index, one in enumerate(value))
    else:
        yield "", value


def _nul(_field: FieldDescriptor, value: object) -> str:
    return "holds a NUL character" if isinstance(value, str) and "\0" in value else ""


def _time(_field: FieldDescriptor, value: object) -> str:
    if not isinstance(value, Timestamp):
        return ""
    sound = _SECONDS_MIN <= value.seconds <= _SECONDS_MAX and 0 <= value.nanos <= _NANOS_MAX
    return "" if sound else "is not a time between the years 1 and 9999"


@functools.cache
def _holds_time(descriptor: Descriptor) -> bool:
    """Whether a Timestamp stands somewhere below; requests are trees, so this ends."""
    if descriptor.full_name == _TIMESTAMP:
        return True
    return any(_holds_time(field.message_type) for field in descriptor.fields if field.message_type is not None)
