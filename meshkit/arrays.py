"""Lists as PostgreSQL arrays, a column at a time: the set-based statements send dozens, and psycopg writes a value at a
time.

One kind of value is always sent as one type, integers as bigint, whose casts are the statement's: for psycopg a list of
small numbers makes another statement than one of large numbers, to be prepared for itself. What the server reads
slowly as text goes in its binary form.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import repeat
from types import NoneType
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import AdaptContext, DumperKey
from psycopg.adapt import PyFormat
from psycopg.types.array import BaseListDumper, ListDumper

_NUL = "\0"  # what PostgreSQL's text cannot hold, so it can stand between values
_HEAD = struct.Struct("!IIIII")  # dimensions, whether there are nulls, type of a value, values, number of the first
_NULL = b"\xff\xff\xff\xff"
_NUMBER = struct.Struct("!iq")  # with its length in front
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _numbers(values: Iterable[int]) -> Iterable[bytes]:
    return map(_NUMBER.pack, repeat(8), values)


def _times(values: Iterable[datetime]) -> Iterable[bytes]:
    return _numbers((value - _EPOCH) // _MICROSECOND for value in values)


def _uuids(values: Iterable[uuid.UUID]) -> Iterable[bytes]:
    return (b"\0\0\0\x10" + value.int.to_bytes(16) for value in values)


def _binaries(values: Iterable[bytes]) -> Iterable[bytes]:
    return (len(value).to_bytes(4) + value for value in values)


_BINARY: dict[type, tuple[int, int, Any]] = {
    int: (20, 1016, _numbers),
    datetime: (1184, 1185, _times),
    uuid.UUID: (2950, 2951, _uuids),
    bytes: (17, 1001, _binaries),
}
"""OIDs of a value's type and of its array's, and what writes values: PostgreSQL's pg_type.dat."""


def _kind(values: list[Any]) -> type | None:
    """The one type of all values that are not None; None where there are several, or none."""
    kinds = set(map(type, values))
    kinds.discard(NoneType)
    return kinds.pop() if len(kinds) == 1 else None


class ColumnDumper(ListDumper):
    """What is registered for lists: finds the dumper for the kind of values; psycopg's own for an unusual one."""

    def get_key(self, obj: list[Any], format: PyFormat) -> DumperKey:  # noqa: A002 - psycopg's name
        """One dumper for each kind of values."""
        kind = _kind(obj)
        # Not (list, kind): that is psycopg's own for lists of lists of the kind.
        return (ColumnDumper, kind) if kind is str or kind in _BINARY else super().get_key(obj, format)

    def upgrade(self, obj: list[Any], format: PyFormat) -> BaseListDumper:  # noqa: A002
        """The dumper for the kind of values that `obj` has."""
        kind = _kind(obj)
        if kind is str:
            return _TextsDumper(self.cls, self._tx)
        if kind in _BINARY:
            return _BinariesDumper(self.cls, self._tx, kind)
        return ListDumper(self.cls, self._tx).upgrade(obj, format)


class _TextsDumper(ListDumper):
    """Texts, without a type: they may be cast to what can only be written as text."""

    def dump(self, obj: list[Any]) -> bytes:
        """The array's text. Raises psycopg.DataError for a NUL in a value."""
        texts = [value for value in obj if value is not None]
        joined = _NUL.join(texts)
        if joined.count(_NUL) != len(texts) - 1:
            raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        if "\\" in joined:
            joined = joined.replace("\\", "\\\\")
        if '"' in joined:
            joined = joined.replace('"', '\\"')
        if len(texts) == len(obj):
            array = joined.replace(_NUL, '","')
            return f'{{"{array}"}}'.encode()
        written = iter(joined.split(_NUL))
        return f"{{{','.join('NULL' if value is None else f'"{next(written)}"' for value in obj)}}}".encode()


class _BinariesDumper(BaseListDumper):
    format = pq.Format.BINARY

    def __init__(self, cls: type, context: AdaptContext | None, kind: type) -> None:
        super().__init__(cls, context)
        self._value_oid, self.oid, self._write = _BINARY[kind]

    def dump(self, obj: list[Any]) -> bytes:
        """The array as array_recv reads it. Raises NumericValueOutOfRange for what no bigint holds, and DataError for
        a time without a time zone."""
        values = [value for value in obj if value is not None]
        has_nulls = len(values) < len(obj)
        head = _HEAD.pack(1, has_nulls, self._value_oid, len(obj), 1)
        try:
            written = self._write(values)
            if has_nulls:
                each = iter(written)
                written = (_NULL if value is None else next(each) for value in obj)
            return head + b"".join(written)
        except TypeError:
            raise psycopg.DataError("a time without a time zone is no moment") from None
        except struct.error:
            raise psycopg.errors.NumericValueOutOfRange("a number is out of range for bigint") from None


def register(context: AdaptContext) -> None:
    """Makes a connection, or whatever else holds adapters, write lists by columns."""
    context.adapters.register_dumper(list, ColumnDumper)
