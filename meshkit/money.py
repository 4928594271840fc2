"""ISO 4217 currencies and exact amounts in minor units; it must never touch a float."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from meshkit.errors import CurrencyUnknown

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)

# ISO 4217 list one (active funds codes left out, since nothing is paid in them). CLDR and Babel give other digits
# for some (IQD, LBP, IRR): the standard's are these.
_EXPONENT_0 = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_EXPONENT_3 = "BHD IQD JOD KWD LYD OMR TND"
_EXPONENT_4 = "CLF UYW"
_EXPONENT_2 = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP
CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR
JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN
NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP
SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
"""

EXPONENTS: dict[str, int] = {
    code: digits
    for digits, codes in ((0, _EXPONENT_0), (2, _EXPONENT_2), (3, _EXPONENT_3), (4, _EXPONENT_4))
    for code in codes.split()
}
"""Decimal places of each currency's minor unit."""


def exponent(currency_code: str) -> int:
    """Decimal places of the currency's minor unit. Raises CurrencyUnknown."""
    try:
        return EXPONENTS[currency_code]
    except KeyError:
        raise CurrencyUnknown(currency_code) from None


def parse(text: str, currency_code: str) -> int:
    """A decimal text as minor units, exactly: "10.50" EUR is 1050.

    Raises CurrencyUnknown, or ValueError when the text is no plain decimal number, has more places than the
    currency, or does not fit 64 bits.
    """
    places = exponent(currency_code)
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(f'"{text}" is not an amount') from None
    if not value.is_finite():
        raise ValueError(f'"{text}" is not an amount')
    minor = value.scaleb(places)
    if minor != minor.to_integral_value():
        raise ValueError(f'"{text}" has more decimal places than {currency_code} has ({places})')
    if not INT64_MIN <= minor <= INT64_MAX:
        raise ValueError(f'"{text}" is too large')
    return int(minor)


def format_minor(minor_units: int, currency_code: str) -> str:
    """Minor units as people write them: 1050 of EUR is "10.50". Raises CurrencyUnknown."""
    places = exponent(currency_code)
    if places == 0:
        return str(minor_units)
    sign, digits = ("-" if minor_units < 0 else ""), str(abs(minor_units)).rjust(places + 1, "0")
    return f"{sign}{digits[:-places]}.{digits[-places:]}"
