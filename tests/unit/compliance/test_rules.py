"""A rule is refused with its place, or gives a bool for any payment."""

from __future__ import annotations

import pytest

from compliance import rules
from compliance.errors import RuleInvalid


@pytest.mark.parametrize(
    "expression",
    [
        'payment.amount_minor_units > 1000000 && debtor.country_code != "AT"',
        "payment.hour < 6 || payment.hour >= 22",
        "debtor.payments_today > 20 && debtor.used_today_minor_units > 100000",
        'payment.remittance.contains("payment.zzz")',
        "1000 / payment.hour > 3",
        "true",
    ],
)
def test_a_sound_rule_is_accepted(expression: str) -> None:
    """All fields of the contract can be used, and strings may look like fields."""
    rules.validate(expression)


@pytest.mark.parametrize(
    ("expression", "place"),
    [
        ("1 +", ("1", "4")),
        ("payment.hour > 1 &&\n  && true", ("2", "3")),
        ("payment.nope > 1", ("1", "9")),
        ("true || debtor.zzz > 1", ("1", "16")),
        ("foo > 1", ("1", "1")),
        ("payment.hour", None),
        ("payment.hour + 1", None),
        ('payment.hour > "a"', None),
        ('payment.creditor_name.matches("(a")', None),
        ("payment.hour / 0 > 1", None),
    ],
)
def test_an_unsound_rule_is_refused_with_its_place(expression: str, place: tuple[str, str] | None) -> None:
    """What does not compile, names what there is not, or gives no bool never becomes a rule."""
    with pytest.raises(RuleInvalid) as refusal:
        rules.validate(expression)
    if place is not None:
        assert (refusal.value.metadata["line"], refusal.value.metadata["column"]) == place


def test_a_rule_that_fails_for_a_payment_is_told_not_raised() -> None:
    """A division by zero in one payment must not stop the batch."""
    verdict = rules.evaluate("1000 / payment.hour > 3", rules.SAMPLES[1])
    assert verdict.error == "ZeroDivisionError" and not verdict.holds
