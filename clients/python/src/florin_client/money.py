"""Exact amounts: decimal text to minor units and back; it never touches a float."""

from __future__ import annotations

from decimal import Decimal, Inexact, InvalidOperation, localcontext
from functools import cache
from importlib import resources

from florin.common.v1 import money_pb2

_INT64_MAX = 2**63 - 1


def money(amount: str | Decimal | int, currency_code: str) -> money_pb2.Money:
    """An amount of a currency, exactly: money("10.50", "EUR") has 1050 minor units.

    Raises TypeError for a float, and ValueError when the currency is unknown, the text is no plain decimal number, has
    more decimal places than the currency, or does not fit 64 bits.
    """
    if isinstance(amount, float):
        raise TypeError("a float is not an exact amount; give a text or a Decimal")
    places = exponent(currency_code)
    try:
        with localcontext(prec=100) as context:
            context.traps[Inexact] = context.traps[InvalidOperation] = True
            minor_units = Decimal(amount).scaleb(places)
            if minor_units != minor_units.to_integral_value():
                raise ValueError(f'"{amount}" has more decimal places than {currency_code} has ({places})')
            if not -_INT64_MAX - 1 <= minor_units <= _INT64_MAX:
                raise ValueError(f'"{amount}" is too large')
    except ArithmeticError:
        raise ValueError(f'"{amount}" is not an amount') from None
    return money_pb2.Money(currency_code=currency_code, minor_units=int(minor_units))


def format_money(amount: money_pb2.Money) -> str:
    """The amount as people write it, with its currency: "10.50 EUR". Raises ValueError for an unknown currency."""
    places = exponent(amount.currency_code)
    sign, digits = ("-" if amount.minor_units < 0 else ""), str(abs(amount.minor_units)).rjust(places + 1, "0")
    text = f"{sign}{digits[:-places]}.{digits[-places:]}" if places else f"{sign}{digits}"
    return f"{text} {amount.currency_code}"


def exponent(currency_code: str) -> int:
    """Decimal places of a currency of ISO 4217. Raises ValueError for an unknown one."""
    try:
        return _exponents()[currency_code]
    except KeyError:
        raise ValueError(f'"{currency_code}" is no currency of ISO 4217') from None


@cache
def _exponents() -> dict[str, int]:
    lines = resources.files("florin_client").joinpath("currencies.txt").read_text().splitlines()
    return {code: int(places) for code, places in (line.split() for line in lines)}
