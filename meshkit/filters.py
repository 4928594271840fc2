"""The filters of lists: a subset of AIP-160 as typed conditions; it must not reach the database as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from meshkit.errors import FilterInvalid

Value = str | int | datetime
Fields = Mapping[str, tuple[Callable[[str], Value], tuple[str, ...]]]
"""Field → what reads its values, and the operators that it can be compared with. "metadata.*" stands for all fields
whose names begin so."""

_TERM = re.compile(
    r'\s*(?P<field>[a-z_][a-z0-9_.]*)\s*(?P<operator>!=|<=|>=|=|<|>)\s*(?P<value>"(?:[^"\\]|\\.)*"|[A-Za-z0-9_./:+-]+)'
)
_AND = re.compile(r"\s+AND\s+")
ORDERED = ("=", "!=", "<", "<=", ">", ">=")
EQUAL = ("=", "!=")


@dataclass(frozen=True, slots=True)
class Condition:
    """One term: a field of what is listed, an SQL operator, a value of the field's type."""

    field: str
    operator: str
    value: Value


def parse(text: str, fields: Fields) -> list[Condition]:
    """The terms of a filter over `fields`, all of which have to hold. Raises FilterInvalid with the position."""
    conditions: list[Condition] = []
    position = 0
    while text[position:].strip():
        term = _TERM.match(text, position)
        if term is None:
            raise FilterInvalid(position, 'expected a term such as create_time >= "2026-01-01T00:00:00Z"')
        conditions.append(_condition(term, fields))
        position = term.end()
        if not text[position:].strip():
            break
        separator = _AND.match(text, position)
        if separator is None:
            raise FilterInvalid(position, "terms are joined by AND")
        position = separator.end()
        if not text[position:].strip():
            raise FilterInvalid(position, "a term is missing after AND")
    return conditions


def _condition(term: re.Match[str], fields: Fields) -> Condition:
    field, operator, raw = term["field"], term["operator"], term["value"]
    known = fields.get(field) or fields.get(re.sub(r"\..+", ".*", field))
    if known is None:
        raise FilterInvalid(term.start("field"), f"there is no field {field}; there are {', '.join(fields)}")
    read, operators = known
    if operator not in operators:
        raise FilterInvalid(term.start("operator"), f"{field} can be compared with {' '.join(operators)}")
    value = re.sub(r"\\(.)", r"\1", raw[1:-1]) if raw.startswith('"') else raw
    try:
        return Condition(field, "<>" if operator == "!=" else operator, read(value))
    except ValueError as error:
        raise FilterInvalid(term.start("value"), str(error)) from None


def integer(value: str) -> int:
    """An amount in minor units. Raises ValueError, as the other readers do."""
    if not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise ValueError(f"{value} is no number of minor units")
    return int(value)


def time(value: str) -> datetime:
    """A moment with its time zone."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{value} is no time; write it like 2026-01-01T00:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"{value} has no time zone; end it with Z for UTC")
    return moment


def text(value: str) -> str:
    """What PostgreSQL can keep."""
    if "\0" in value:
        raise ValueError("text cannot hold a zero byte")
    return value
