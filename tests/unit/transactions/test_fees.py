"""What transfers cost: rounding, bounds, versions; captures together cost what one of their sum would."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.money import INT64_MAX
from tests.unit.transactions.making import NOW, TELLER, transfer
from transactions import fees, legs
from transactions.fees import FeeSchedule, Kind, Rounding
from transactions.model import Fee, Transfer

AMOUNTS = st.integers(1, INT64_MAX)
MONEY = st.integers(0, 10**15)


def schedule(**changes: object) -> FeeSchedule:
    """1.00 EUR and a quarter of a percent, at most 5.00 EUR."""
    values: dict[str, object] = {
        "tenant": "demo",
        "kind": Kind.PAYMENT,
        "currency": "EUR",
        "version": 1,
        "fixed": 100,
        "millionths": 2500,
        "rounding": Rounding.HALF_EVEN,
        "minimum": 0,
        "maximum": 500,
        "account": "accounts/fees",
        "enabled": True,
        "start_time": NOW,
        "create_time": NOW,
        "created_by": "operator",
        **changes,
    }
    return FeeSchedule(**values)  # type: ignore[arg-type]


@st.composite
def schedules(draw: st.DrawFn) -> FeeSchedule:
    """Any schedule that the contract lets pass."""
    minimum = draw(MONEY)
    return schedule(
        fixed=draw(MONEY),
        millionths=draw(st.integers(0, 1_000_000)),
        rounding=draw(st.sampled_from(Rounding)),
        minimum=minimum,
        maximum=draw(st.none() | st.integers(minimum, 10**15)),
    )


@pytest.mark.parametrize(
    ("amount", "charged"), [(1, 100), (199, 100), (200, 100), (201, 101), (1_000, 102), (160_000, 500), (10**9, 500)]
)
def test_a_fee_is_what_is_fixed_and_a_part_within_bounds(amount: int, charged: int) -> None:
    """A quarter of a percent of 2.00 EUR is half a cent, which goes to the even one: nothing; 10.00 EUR make 2.5."""
    assert schedule().fee_of(amount) == charged


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        (Rounding.HALF_EVEN, [0, 0, 1, 2, 2, 2]),
        (Rounding.HALF_UP, [0, 1, 1, 2, 2, 3]),
        (Rounding.UP, [0, 1, 1, 2, 2, 3]),
        (Rounding.DOWN, [0, 0, 1, 1, 2, 2]),
    ],
)
def test_halves_go_where_the_schedule_says(rounding: Rounding, expected: list[int]) -> None:
    """Of nothing, a half, one, one and a half, two, two and a half."""
    assert [fees.rounded(number, 2, rounding) for number in range(6)] == expected


@given(st.integers(0, 10**30), st.integers(1, 10**12), st.sampled_from(Rounding))
def test_rounding_goes_to_a_neighbour_and_keeps_whole_numbers(
    numerator: int, denominator: int, rounding: Rounding
) -> None:
    """Less than one away, to the stated side; the nearest where it says so."""
    exact, result = Fraction(numerator, denominator), fees.rounded(numerator, denominator, rounding)
    assert abs(result - exact) < 1
    if exact.denominator == 1:
        assert result == exact
    if rounding is Rounding.DOWN:
        assert result <= exact
    elif rounding is Rounding.UP:
        assert result >= exact
    else:
        assert abs(result - exact) <= Fraction(1, 2)
    if rounding is Rounding.HALF_EVEN:
        assert result == round(exact)


@given(schedules(), AMOUNTS, AMOUNTS)
def test_more_never_costs_less(priced_by: FeeSchedule, one: int, other: int) -> None:
    """And no fee is below the minimum or above the maximum."""
    less, more = sorted((one, other))
    assert priced_by.minimum <= priced_by.fee_of(less) <= priced_by.fee_of(more)
    assert priced_by.maximum is None or priced_by.fee_of(more) <= priced_by.maximum


@given(schedules(), st.lists(st.integers(1, 10**12), min_size=1, max_size=8), st.integers(0, 10**12))
def test_captures_cost_together_what_one_of_their_sum_would(
    priced_by: FeeSchedule, captures: list[int], rest: int
) -> None:
    """None gets anything back, and all of them stay within what is held for them."""
    authorization = transfer(amount=sum(captures) + rest, expire_time=NOW)
    authorization = fees.priced(authorization, [priced_by])
    total = 0
    for amount in captures:
        fee = fees.of_capture(priced_by, authorization, amount)
        assert fee.amount >= 0
        total += fee.amount
        authorization = replace(authorization, captured=authorization.captured + amount)
    assert total == priced_by.fee_of(sum(captures))
    assert total <= authorization.fee_amount


@given(schedules(), AMOUNTS)
def test_amount_and_fee_fit_64_bits_together(priced_by: FeeSchedule, amount: int) -> None:
    """What a hold keeps back is their sum."""
    priced = fees.priced(transfer(amount=amount), [priced_by])
    assert priced.fee is not None
    assert amount + priced.fee_amount <= INT64_MAX


@given(schedules(), st.integers(1, 10**15), st.booleans())
def test_legs_sum_to_zero_and_none_is_zero(priced_by: FeeSchedule, amount: int, is_reversal: bool) -> None:
    """The payer pays amount and fee, the payee gets the amount; of a reversal, all of it goes the other way."""
    paid = fees.priced(transfer(amount=amount), [priced_by])
    if is_reversal:
        back = {"debit_account": paid.credit_account, "credit_account": paid.debit_account, "reversal_of": paid.id}
        paid = replace(paid, **back)  # type: ignore[arg-type]
    moved: dict[str, int] = {}
    for leg in legs.of(paid):
        assert leg.currency == "EUR"
        assert leg.amount != 0
        moved[leg.account] = moved.get(leg.account, 0) + leg.amount
    assert sum(moved.values()) == 0
    sign = -1 if is_reversal else 1
    assert moved["accounts/a"] == -sign * (amount + paid.fee_amount)
    assert moved["accounts/b"] == sign * amount
    assert moved.get("accounts/fees", 0) == sign * paid.fee_amount


def test_the_newest_version_that_has_begun_prices_a_transfer() -> None:
    """One that begins later waits; one that a newer one replaced never counts again; a disabled one ends the fee."""
    later = NOW + timedelta(hours=1)
    first, second = schedule(fixed=1), schedule(version=2, fixed=2, start_time=later)
    assert fees.in_force([first, second], NOW) is first
    assert fees.in_force([second, first], later) is second
    third = schedule(version=3, fixed=3, start_time=NOW + timedelta(minutes=1))
    assert fees.in_force([first, second, third], later) is third
    ended = schedule(version=4, enabled=False, start_time=later)
    assert fees.in_force([first, third, ended], later) is None
    assert fees.in_force([first], NOW - timedelta(seconds=1)) is None


def test_the_banks_own_bookkeeping_costs_nothing() -> None:
    """Who may debit accounts that are no customer's pays no fees with them."""
    bank = replace(TELLER, scopes=TELLER.scopes | {fees.FREE_SCOPE})
    assert fees.priced(transfer(bank), [schedule()]).fee is None
    assert fees.priced(transfer(), [schedule()]).fee == Fee(102, "feeSchedules/payment-eur", 1, "accounts/fees")


def test_a_fee_of_nothing_has_no_legs_and_names_what_priced_it() -> None:
    """A quarter of a percent of 1.00 EUR."""
    priced: Transfer = fees.priced(transfer(amount=100), [schedule(fixed=0)])
    assert priced.fee == Fee(0, "feeSchedules/payment-eur", 1, "accounts/fees")
    assert len(legs.of(priced)) == 2


@given(st.integers(0, 1_000_000))
def test_a_percentage_is_read_as_it_is_shown(millionths: int) -> None:
    """Four decimal places, without zeros at the end."""
    text = fees.millionths_to_percent(millionths)
    assert fees.percent_to_millionths(text) == millionths
    assert Fraction(text) * 10_000 == millionths
    assert not text.endswith(".")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("feeSchedules/payment-eur", (Kind.PAYMENT, "EUR")),
        ("feeSchedules/authorization-kwd", (Kind.AUTHORIZATION, "KWD")),
        ("feeSchedules/gift-eur", None),
    ],
)
def test_a_name_tells_kind_and_currency(name: str, key: tuple[Kind, str] | None) -> None:
    """And no other kind has one."""
    assert fees.key_in(name) == key
    if key is not None:
        assert fees.schedule_name(*key) == name
