"""A rule is refused with its place, or gives a bool for any payment."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance import rule_costs, rules
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


SOUND_AND_CHEAP = [
    '["ACME", "Initech"].exists(word, payment.creditor_name.contains(word))',
    "payment.remittance.matches('^(?i)(loan|rent) [0-9]+$') || payment.creditor_name.matches(r'^\\d+$')",
    'debtor.country_code in ["AT", "DE", "CH"] && !(payment.creditor_name in ["A", "B"])',
    "[1, 2, 3].all(hour, payment.hour != hour) && [22, 23].exists_one(hour, payment.hour == hour)",
    "payment.remittance.contains('.map(x, x)') // and [1].map(x, x) is a remark",
    "[" + ",".join(f'"word-{number}"' for number in range(150)) + "].exists(w, payment.creditor_name == w)",
]


@pytest.mark.parametrize("expression", SOUND_AND_CHEAP)
def test_lists_and_patterns_can_be_used(expression: str) -> None:
    """What rules are written with in earnest is none of what is refused below."""
    rules.validate(expression)


_LIST = "[" + ",".join(["1"] * 100) + "]"
EXPENSIVE = {
    "conditions within conditions": f"{_LIST}.all(a, {_LIST}.all(b, {_LIST}.all(c, {_LIST}.all(d, a + d > 0))))",
    "two are enough": "[1].exists(a, [1].exists(b, b == a))",
    "by another name": "[1].existsOne(a, [1].existsOne(b, b == a))",
    "with blanks between": "[1] . exists ( a , [1] \n . exists ( b , b == a ) )",
    "lists that grow": "[1].map(a, [a, a]) == []",
    "lists that shrink": "[1].filter(a, true) == []",
    "a long list under a long condition": f"{_LIST}.exists(w, {'||'.join(['w > payment.hour'] * 60)})",
    "a pattern that a payer chooses": "'x'.matches(payment.remittance)",
    "a pattern that is made up": "'x'.matches('a' + payment.remittance)",
    "a pattern in a condition": "['a', 'b'].exists(word, word.matches('a'))",
    "a counted pattern": "payment.remittance.matches(r'\\w{200}')",
    "a long pattern": f"payment.remittance.matches('{'a' * 80}')",
    "many patterns": " || ".join(["payment.remittance.matches('a')"] * 9),
    "a costly pattern": f"payment.remittance.matches(r'{r'\w' * 32}')",
    "a costly pattern that no sample comes to": f"true || payment.remittance.matches(r'{r'\w' * 32}')",
    "hidden behind a raw string": r"r'\' == '' || [1].map(a, a) == [] || '' == '\''",
    "hidden between remarks": "true // '''\n && [1].map(a, a) == []\n // '''",
    "hidden behind another quote": "\"it's\" == '' || [1].map(a, a) == [] || \"it's\" == ''",
    "hidden in a long string's neighbour": "'''it's''' == '' || [1].map(a, a) == [] || '''it's''' == ''",
}


@pytest.mark.parametrize("kind", EXPENSIVE)
def test_a_rule_that_could_hold_up_all_tenants_payments_is_refused(kind: str) -> None:
    """It is refused quickly, too: what could take long is never run."""
    rules.warm()
    started = time.perf_counter()
    with pytest.raises(RuleInvalid):
        rules.validate(EXPENSIVE[kind])
    assert time.perf_counter() - started < 1


@given(st.text(alphabet="[](){}.,'\"\\/rb\n mapexistches1|", max_size=60))
def test_no_text_breaks_the_look_at_a_rules_cost(text: str) -> None:
    """It is a refusal or nothing, and what is blanked out keeps its place."""
    assert len(rule_costs.visible(text)) == len(text)
    with contextlib.suppress(RuleInvalid):
        rule_costs.check_text(text)
