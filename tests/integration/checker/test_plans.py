"""What the checker asks of the databases finds its rows by an index, under row-level security, however many."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from checker import events
from checker.readings import Readings
from checker.rules import ON_ENTRIES, ON_MANUAL_JOURNALS
from checker.tables import ENTRIES, JOURNALS, LIMIT_USAGE, OUTBOXES, Rows, Table
from tests.integration.checker.conftest import Bank


def plan(bank: Bank, table: Table, text: str) -> list[str]:
    """How a statement about a slice is carried out for the checker's role."""
    readings = Readings(bank.settings)
    try:
        with readings.reading(table.service) as connections:
            rows = Rows(table, upto=tuple(_greatest(type_) for _, type_ in table.key))
            parameters: dict[str, Any] = {**rows.parameters(), "ahead": None}
            found = connections[table.service].execute(f"EXPLAIN {rows.statement(text)}", parameters)
            return [str(row[0]).strip() for row in found]
    finally:
        readings.close()


def _greatest(type_: str) -> Any:
    return {"text": "~", "bigint": 2**62, "uuid": "f" * 32, "date": "2999-01-01", "smallint": 2**15 - 1}[type_]


@pytest.mark.parametrize(
    ("table", "text", "conditions"),
    [
        *((ENTRIES, rule.statement, ("sequence = e.before",)) for rule in ON_ENTRIES if "e.before" in rule.statement),
        (OUTBOXES["accounts"], events._EVENTS, ("version = e.before", "version < e.version")),
        (JOURNALS, ON_MANUAL_JOURNALS[1].statement, ("resource = ('journals/'::text || (j.journal)::text)",)),
        (LIMIT_USAGE, "SELECT 1 FROM limit_usage WHERE {slice}", ("day <= '2999-01-01'::date",)),
    ],
)
def test_what_a_row_is_compared_with_is_found_by_an_index(
    bank: Bank, table: Table, text: str, conditions: tuple[str, ...]
) -> None:
    """An account of a million entries, a log of a million heads: the one before is one row, not all of them."""
    with bank.superuser() as root:  # which index is the better one can be seen only where there are some rows
        root.execute(
            "INSERT INTO audit (tenant, subject, caller, method, request_id, action, resource, why)"
            " SELECT 'many', '', '', '', '', 'post_journal', 'journals/' || g, '' FROM generate_series(1, 2000) AS g"
        )
    lines = plan(bank, table, text)
    by_index = [line for line in lines if line.startswith("Index Cond:")]
    for condition in conditions:
        assert any(condition in line for line in by_index), "\n".join(lines)
    assert not any("Seq Scan" in line or "Workers" in line for line in lines), "\n".join(lines)


def test_a_slice_that_grew_is_bounded_all_the_same(bank: Bank) -> None:
    """Whatever was put in between its keys since: the rest is the next sweep's."""
    with bank.superuser() as root:
        root.execute(
            "INSERT INTO outbox (tenant, partition, event_id, subject, aggregate, version, time, traceparent, data)"
            " SELECT 'grown', 0, gen_random_uuid(), 'x', 'a', g, now(), '', '' FROM generate_series(1, 4005) AS g"
        )
    readings = Readings(bank.settings)
    try:
        with readings.reading("accounts") as connections:
            table = OUTBOXES["accounts"]
            rows = Rows(table, upto=("grown", "a", 2**62))
            found = connections["accounts"].execute(
                rows.statement("SELECT count(*) FROM {rows} AS r"), rows.parameters()
            )
            assert found.fetchone() == (2 * table.at_once,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connections["accounts"].execute("SELECT * FROM outbox")
    finally:
        readings.close()
