"""Lists reach PostgreSQL as they are: whatever a column holds, and where something is missing."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.settings import Settings
from meshkit.database import Database, fetch
from tests.support import parts as real
from tests.support.parts import fresh_database, settings_for

_TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.sampled_from(
    ["", "NULL", "null", "{", "}", ",", '"', "\\", '\\"', "a b", "\n", "ü", "🏦"]
)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": _TEXTS,
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "boolean": st.booleans(),
    "uuid": st.uuids(),
    "bytea": st.binary(max_size=50),
    "timestamptz": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001
    "date": st.dates(),
}


@pytest.fixture(scope="module")
async def db(parts: real.Parts) -> AsyncIterator[Database]:
    """A database, of which no table is used."""
    async with Database.open(settings_for(parts, Settings, fresh_database(parts, "accounts"))) as opened:
        yield opened


async def _back(db: Database, type_: str, values: list[Any]) -> list[Any]:
    rows = await db.run("t", lambda conn: fetch(conn, f"SELECT * FROM unnest(%s::{type_}[])", (values,)))
    return [row[0] for row in rows]


@pytest.mark.parametrize("type_", _VALUES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_every_list_comes_back_as_it_was(db: Database, type_: str, data: st.DataObject) -> None:
    """With nulls in it, of nulls alone, and empty too."""
    values = data.draw(st.lists(_VALUES[type_] | st.none(), max_size=20))
    assert await _back(db, type_, values) == values


async def test_lists_of_lists_are_the_drivers_own(db: Database) -> None:
    """Beside a flat list of the same kind too."""
    key = uuid.uuid4()
    query = "SELECT %s::text[], %s::text[], %s::uuid[], %s::uuid[]"
    columns = (["a"], [["b", "c"]], [key], [[key], [key]])
    assert await db.run("t", lambda conn: fetch(conn, query, columns)) == [columns]


async def test_texts_are_cast_to_what_the_statement_says(db: Database) -> None:
    """A list of texts has no type of its own."""
    day = date(2026, 2, 28)
    key = uuid.uuid4()
    assert await _back(db, "date", [str(day)]) == [day]
    assert await _back(db, "uuid", [str(key), None]) == [key, None]


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("text", ["fine", "with \0"]),
        ("text", ["a", 1]),
        ("bigint", [1, 2**63]),
        ("smallint", [2**15]),
        ("timestamptz", [datetime(2026, 1, 1)]),  # noqa: DTZ001
    ],
)
async def test_what_a_column_cannot_hold_is_a_data_error(db: Database, type_: str, values: list[Any]) -> None:
    """Which is the item's fault, not the batch's, and never something else in the table."""
    with pytest.raises(psycopg.DataError):
        await _back(db, type_, values)
