"""Check digits of IBANs: published examples, every wrong digit, and forms that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.iban import is_valid, with_check_digits


@pytest.mark.parametrize("iban", ["AT483200000012345864", "DE89370400440532013000", "GB82WEST12345698765432"])
def test_a_valid_iban_is_accepted(iban: str) -> None:
    """Published examples pass."""
    assert is_valid(iban)


@given(st.sampled_from("0123456789"), st.integers(4, 19))
def test_one_wrong_digit_is_found(digit: str, position: int) -> None:
    """MOD 97-10 finds every single wrong digit."""
    right = "AT483200000012345864"
    wrong = right[:position] + digit + right[position + 1 :]
    assert is_valid(wrong) == (wrong == right)


@pytest.mark.parametrize(
    "iban",
    ["", "AT48", "at483200000012345864", "AT48 3200000012345864", "AT003200000012345864"],
)
def test_a_malformed_iban_is_refused(iban: str) -> None:
    """Form and range of the check digits count too."""
    assert not is_valid(iban)


@given(st.text("0123456789", min_size=11, max_size=30))
def test_digits_that_are_made_are_right(account: str) -> None:
    """Whatever the national number."""
    assert is_valid(with_check_digits("AT", account))
