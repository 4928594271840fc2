"""Exact amounts: parsing and formatting lose nothing and refuse what the currency cannot hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import money
from meshkit.errors import CurrencyUnknown


@given(st.integers(money.INT64_MIN, money.INT64_MAX), st.sampled_from(sorted(money.EXPONENTS)))
def test_formatting_and_parsing_are_inverse(minor: int, currency: str) -> None:
    """What is written out is read back to the same minor units, for every currency."""
    assert money.parse(money.format_minor(minor, currency), currency) == minor


@pytest.mark.parametrize(("currency", "places"), [("EUR", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4), ("IQD", 3)])
def test_exponents_are_those_of_iso_4217(currency: str, places: int) -> None:
    """The standard's decimal places are used, where common locale data differ too."""
    assert money.exponent(currency) == places


@pytest.mark.parametrize("text", ["1.005", "NaN", "Infinity", "1e400", "ten", "", "92233720368547758.08"])
def test_an_amount_that_does_not_fit_is_refused(text: str) -> None:
    """Too many places, no number, or too large: a ValueError, never a rounded amount."""
    with pytest.raises(ValueError, match=r".+"):
        money.parse(text, "EUR")


def test_an_unknown_currency_is_refused_by_name() -> None:
    """The refusal names the code that was given."""
    with pytest.raises(CurrencyUnknown, match="XQQ"):
        money.exponent("XQQ")
