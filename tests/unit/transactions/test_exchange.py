"""Foreign exchange: rounding in the bank's favour, less than a minor unit of it; no currency is made or lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from meshkit.errors import DomainError
from meshkit.money import EXPONENTS, INT64_MAX
from tests.unit.transactions.making import ANNA, NOW, TELLER, transfer
from transactions import exchange, fees, legs
from transactions.exchange import RATE_PLACES, ExchangeRate, Quote
from transactions.exchange_errors import (
    AmountOverflow,
    QuoteAmountTooSmall,
    QuoteExpired,
    QuoteMismatch,
    QuoteNotFound,
)
from transactions.model import AccountType, Exchange, Fee, Transfer

ONE = 10**RATE_PLACES
CURRENCIES = st.sampled_from(["JPY", "EUR", "KWD", "USD", "CLF"])
"""Of 0, 2, 3, 2 and 4 decimal places."""
PAIRS = st.tuples(CURRENCIES, CURRENCIES).filter(lambda pair: pair[0] != pair[1])
RATES = st.integers(1, 10**6 * ONE)
SPREADS = st.integers(0, 500_000)
AMOUNTS = st.integers(1, 10**15)


def rate_of(base: str, counter: str, rate: int, spread: int = 0) -> ExchangeRate:
    """A rate of now."""
    return ExchangeRate("demo", base, counter, 1, rate, spread, "ECB", NOW, NOW, "operator")


def quote(**changes: object) -> Quote:
    """10.00 EUR for 11.00 USD, for half a minute."""
    made = Quote(
        tenant="demo",
        id="q",
        customer="",
        debit_currency="EUR",
        debit_amount=1000,
        credit_currency="USD",
        credit_amount=1100,
        rate=ONE * 11 // 10,
        rate_name="exchangeRates/eur-usd",
        rate_version=1,
        rate_time=NOW,
        debit_position="accounts/position-eur",
        credit_position="accounts/position-usd",
        expire_time=NOW + timedelta(seconds=30),
        create_time=NOW,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def units(amount: int, currency: str) -> Fraction:
    """Minor units as units."""
    return Fraction(amount, 10 ** EXPONENTS[currency])


def middle(rate: ExchangeRate, debit: str) -> Fraction:
    """What one unit of the debit currency is worth in the other, exactly and without a spread."""
    worth = Fraction(rate.rate, ONE)
    return worth if rate.base == debit else 1 / worth


@given(PAIRS, RATES, SPREADS, st.booleans())
def test_a_quoted_rate_is_the_rate_less_the_spread_rounded_down(
    pair: tuple[str, str], rate: int, spread: int, is_inverse: bool
) -> None:
    """By less than its last decimal place, in both directions."""
    debit, credit = pair
    stated = rate_of(credit, debit, rate, spread) if is_inverse else rate_of(debit, credit, rate, spread)
    exact = middle(stated, debit) * Fraction(1_000_000 - spread, 1_000_000)
    assert 0 <= exact - Fraction(exchange.quoted_rate(stated, debit), ONE) < Fraction(1, ONE)


@given(PAIRS, RATES, AMOUNTS)
def test_what_the_payee_gets_is_the_amount_times_the_rate_rounded_down(
    pair: tuple[str, str], rate: int, amount: int
) -> None:
    """By less than a minor unit, whatever the currencies' decimal places; nothing is no offer."""
    debit, credit = pair
    exact = units(amount, debit) * Fraction(rate, ONE)
    try:
        got = exchange.credit_for(amount, rate, debit, credit)
    except QuoteAmountTooSmall:
        assert exact < units(1, credit)
        return
    except AmountOverflow:
        assert exact > units(INT64_MAX, credit)
        return
    assert 0 <= exact - units(got, credit) < units(1, credit)


@given(PAIRS, RATES, AMOUNTS)
def test_what_is_to_be_paid_is_the_amount_divided_by_the_rate_rounded_up(
    pair: tuple[str, str], rate: int, amount: int
) -> None:
    """By less than a minor unit; the payer never pays nothing."""
    debit, credit = pair
    exact = units(amount, credit) / Fraction(rate, ONE)
    try:
        paid = exchange.debit_for(amount, rate, debit, credit)
    except AmountOverflow:
        assert exact > units(INT64_MAX, debit)
        return
    assert paid > 0
    assert 0 <= units(paid, debit) - exact < units(1, debit)


@given(PAIRS, RATES, SPREADS, AMOUNTS)
def test_changing_there_and_back_never_gains(pair: tuple[str, str], rate: int, spread: int, amount: int) -> None:
    """The same rate serves both directions, and each rounding is the bank's."""
    debit, credit = pair
    stated = rate_of(debit, credit, rate, spread)
    there, back = exchange.quoted_rate(stated, debit), exchange.quoted_rate(stated, credit)
    try:
        got = exchange.credit_for(amount, there, debit, credit)
        returned = exchange.credit_for(got, back, credit, debit)
    except DomainError:
        assume(False)  # nothing was offered
        return
    assert returned <= amount


@given(PAIRS, RATES, AMOUNTS)
def test_both_sides_of_a_quote_agree(pair: tuple[str, str], rate: int, amount: int) -> None:
    """Who asks what is to be paid for what would be got pays no more than who named the amount to be paid."""
    debit, credit = pair
    try:
        got = exchange.credit_for(amount, rate, debit, credit)
        paid = exchange.debit_for(got, rate, debit, credit)
    except DomainError:
        assume(False)
        return
    assert paid <= amount
    assert exchange.credit_for(paid, rate, debit, credit) >= got


def test_a_rate_of_nothing_buys_nothing() -> None:
    """A thousand billion to one, the other way and with a spread, rounds to no rate at all."""
    none = exchange.quoted_rate(rate_of("EUR", "USD", 10**24, 500_000), "USD")
    assert none == 0
    with pytest.raises(QuoteAmountTooSmall):
        exchange.debit_for(1, none, "USD", "EUR")
    with pytest.raises(QuoteAmountTooSmall):
        exchange.credit_for(INT64_MAX, none, "USD", "EUR")


@given(PAIRS, AMOUNTS, AMOUNTS, st.integers(0, 10**6), st.booleans())
def test_each_currency_of_an_exchange_sums_to_zero(
    pair: tuple[str, str], amount: int, other: int, fee: int, is_reversal: bool
) -> None:
    """With its fee, and of its reversal, which moves the same back through the same accounts."""
    debit, credit = pair
    there = Exchange(credit, other, ONE, "accounts/debit-position", "accounts/credit-position")
    charged = Fee(fee, "feeSchedules/exchange", 1, "accounts/fees")
    made = transfer(currency=debit, amount=amount, exchange=there, fee=charged)
    moved = _moved(made)
    if is_reversal:
        back = replace(
            made,
            debit_account=made.credit_account,
            credit_account=made.debit_account,
            currency=credit,
            amount=other,
            exchange=exchange.back(made, there),
            reversal_of=made.id,
        )
        assert _moved(back) == {place: -moved[place] for place in moved}
    assert _sums(moved) == dict.fromkeys(_sums(moved), 0)
    assert moved["accounts/debit-position", debit] == amount
    assert moved["accounts/credit-position", credit] == -other
    assert moved["accounts/a", debit] == -(amount + fee)
    assert moved["accounts/b", credit] == other


def _moved(made: Transfer) -> dict[tuple[str, str], int]:
    moved: Counter[tuple[str, str]] = Counter()
    for leg in legs.of(made):
        assert leg.amount != 0
        assert leg.position == leg.account.endswith("-position")
        moved[leg.account, leg.currency] += leg.amount
    return dict(moved)


def _sums(moved: dict[tuple[str, str], int]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for (_, currency), amount in moved.items():
        sums[currency] += amount
    return dict(sums)


def test_a_transfer_takes_from_its_quote_what_the_payee_gets() -> None:
    """And is priced as an exchange."""
    asked = transfer(quote="q")
    assert fees.kind_of(asked) is fees.Kind.EXCHANGE
    made = exchange.exchanged(asked, quote(), asked.create_time)
    assert made.exchange == Exchange("USD", 1100, ONE * 11 // 10, "accounts/position-eur", "accounts/position-usd")
    assert (made.credit_currency, made.fee_currency) == ("USD", "EUR")


@pytest.mark.parametrize(
    ("asked", "offered", "refusal"),
    [
        (transfer(quote="q"), None, QuoteNotFound),
        (transfer(quote="q"), quote(tenant="other"), QuoteNotFound),
        (transfer(ANNA, quote="q"), quote(), QuoteNotFound),
        (transfer(ANNA, quote="q"), quote(customer="customers/berta"), QuoteNotFound),
        (transfer(quote="q", create_time=NOW + timedelta(seconds=30)), quote(), QuoteExpired),
        (transfer(quote="q", amount=1001), quote(), QuoteMismatch),
        (transfer(quote="q", currency="USD"), quote(), QuoteMismatch),
    ],
)
def test_a_quote_that_does_not_fit_is_refused(
    asked: Transfer, offered: Quote | None, refusal: type[DomainError]
) -> None:
    """Missing, another's, over, of another amount or currency."""
    with pytest.raises(refusal):
        exchange.exchanged(asked, offered, asked.create_time)


def test_a_quote_is_its_customers_and_staffs() -> None:
    """A teller may use what a customer was offered; nobody else's customer sees it."""
    assert quote(customer="customers/anna").visible_to(ANNA)
    assert quote(customer="customers/anna").visible_to(TELLER)
    assert exchange.exchanged(transfer(ANNA, quote="q"), quote(customer="customers/anna"), NOW).exchange is not None
    last = transfer(quote="q", create_time=NOW + timedelta(seconds=30) - timedelta(microseconds=1))
    assert exchange.exchanged(last, quote(), last.create_time).exchange is not None


@given(st.integers(0, 10**24))
def test_a_rate_is_read_as_it_is_shown(rate: int) -> None:
    """Twelve decimal places, without zeros at the end."""
    text = exchange.rate_text(rate)
    assert exchange.rate_from(text) == rate
    assert Fraction(text) * ONE == rate


def test_a_type_of_account_that_is_not_known_yet_is_another_one() -> None:
    """Accounts may be released first: what it has more of must not stop transfers."""
    assert AccountType(4) is AccountType.FEE
    assert AccountType(99) is AccountType.OTHER
