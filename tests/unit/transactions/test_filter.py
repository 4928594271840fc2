"""The filter's subset of AIP-160: what it understands, and where it says no."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import filters
from meshkit.errors import FilterInvalid
from meshkit.filters import Condition
from transactions.filter import TRANSFERS


def parse(text: str) -> list[Condition]:
    """A filter of ListTransfers."""
    return filters.parse(text, TRANSFERS)


def test_no_filter_is_no_condition() -> None:
    """Empty and blank filters let everything through."""
    assert parse("") == []
    assert parse("  ") == []


def test_terms_are_joined_by_and() -> None:
    """The example of the contract."""
    assert parse('state = COMPLETED AND create_time >= "2026-01-01T00:00:00Z"') == [
        Condition("state", "=", "COMPLETED"),
        Condition("create_time", ">=", datetime(2026, 1, 1, tzinfo=UTC)),
    ]


def test_values_may_be_quoted_with_escapes() -> None:
    """A quote within a value is escaped."""
    assert parse(r'end_to_end_id = "a \"b\""') == [Condition("end_to_end_id", "=", 'a "b"')]


def test_amounts_are_numbers() -> None:
    """Amounts compare as minor units."""
    assert parse("amount.minor_units>=1000 AND amount.minor_units != 2000") == [
        Condition("amount.minor_units", ">=", 1000),
        Condition("amount.minor_units", "<>", 2000),
    ]


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("nothing", 1),
        ("name = x", 1),
        ("state = GONE", 9),
        ("state > COMPLETED", 7),
        ("amount.minor_units = 1.5", 22),
        ("state = COMPLETED OR state = DECLINED", 18),
        ("state = COMPLETED AND", 18),
        ("create_time > yesterday", 15),
        ("create_time > 2026-01-01T00:00:00", 15),
        ('request_id = "open', 1),
    ],
)
def test_a_refusal_names_the_place(text: str, position: int) -> None:
    """Whoever wrote the filter learns where it stops making sense."""
    with pytest.raises(FilterInvalid) as refused:
        parse(text)
    assert refused.value.metadata["position"] == str(position)


@given(st.text(max_size=60))
def test_any_text_is_understood_or_refused(text: str) -> None:
    """Nothing a caller writes makes the parser fail in another way."""
    try:
        conditions = parse(text)
    except FilterInvalid:
        return
    assert all(condition.operator in {"=", "<>", "<", "<=", ">", ">="} for condition in conditions)


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_any_value_survives_quoting(value: str) -> None:
    """A quoted value arrives as it was."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    if "\n" in value:
        return  # a filter is one line
    assert parse(f'request_id = "{quoted}"') == [Condition("request_id", "=", value)]
