"""Foreign exchange: rates, quotes and their arithmetic in whole numbers, rounded in the bank's favour; pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from meshkit import money
from meshkit.identity import Principal
from transactions import exchange_errors
from transactions.model import Exchange, Transfer

RATE_PLACES = 12
"""Decimal places of rates. A rate is kept as a whole number of units at the last of them."""
_ONE: int = 10**RATE_PLACES
_WHOLE = 1_000_000
"""A spread is counted in millionths: a percentage has four decimal places."""


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """A version of what one unit of `base` was worth in `counter`: units, not minor units."""

    tenant: str
    base: str
    counter: str
    version: int
    rate: int
    """In units of the last decimal place."""
    spread: int
    """What the bank keeps, in millionths."""
    source: str
    rate_time: datetime
    """When the source gave it."""
    create_time: datetime
    created_by: str
    """The subject who brought it."""

    @property
    def name(self) -> str:
        """The resource name, of all versions."""
        return f"exchangeRates/{self.base.lower()}-{self.counter.lower()}"


@dataclass(frozen=True, slots=True)
class PositionAccount:
    """The account through which the bank changes a currency."""

    tenant: str
    currency: str
    account: str
    """ "accounts/…"."""
    version: int
    update_time: datetime
    updated_by: str

    @property
    def name(self) -> str:
        """The resource name."""
        return f"positionAccounts/{self.currency.lower()}"


@dataclass(frozen=True, slots=True)
class Quote:
    """An offer to change an amount of one currency into one of another, in minor units of each. It never changes."""

    tenant: str
    id: str
    customer: str
    """Who asked, "customers/…"; empty for staff."""
    debit_currency: str
    debit_amount: int
    credit_currency: str
    credit_amount: int
    rate: int
    """Units of the credit currency for one of the debit currency, the spread taken off, as ExchangeRate has it."""
    rate_name: str
    """The rate that it is made of, "exchangeRates/…"."""
    rate_version: int
    rate_time: datetime
    debit_position: str
    """Through which accounts it goes: "accounts/…"."""
    credit_position: str
    expire_time: datetime
    create_time: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"quotes/{self.id}"

    def visible_to(self, principal: Principal) -> bool:
        """Whether a caller may see it, and use it."""
        return principal.tenant == self.tenant and (principal.is_staff or principal.customer == self.customer)


def rate_from(text: str) -> int:
    """ "1.0825" in units of the last decimal place; the contract has bounded the text."""
    return int(Decimal(text).scaleb(RATE_PLACES))


def rate_text(rate: int) -> str:
    """The other way, without zeros at the end."""
    whole, rest = divmod(rate, _ONE)
    return f"{whole}.{rest:0{RATE_PLACES}}".rstrip("0").rstrip(".")


def pair_in(name: str) -> tuple[str, str]:
    """The currencies in "exchangeRates/eur-usd"."""
    base, _, counter = name.removeprefix("exchangeRates/").upper().partition("-")
    return base, counter


def quoted_rate(rate: ExchangeRate, debit_currency: str) -> int:
    """What one unit of the debit currency gets in the other one, rounded down, the spread taken off. A rate serves both
    directions."""
    kept = _WHOLE - rate.spread
    if rate.base == debit_currency:
        return rate.rate * kept // _WHOLE
    return _ONE * _ONE * kept // (rate.rate * _WHOLE)


def credit_for(debit_amount: int, rate: int, debit_currency: str, credit_currency: str) -> int:
    """What the payee gets of what is paid, rounded down, in minor units of each. Raises QuoteAmountTooSmall,
    AmountOverflow."""
    amount = debit_amount * rate * _minor_units(credit_currency) // (_ONE * _minor_units(debit_currency))
    return _quotable(amount, credit_currency)


def debit_for(credit_amount: int, rate: int, debit_currency: str, credit_currency: str) -> int:
    """What is to be paid for what the payee gets, rounded up, in minor units of each. Raises QuoteAmountTooSmall,
    AmountOverflow."""
    if rate == 0:
        raise exchange_errors.QuoteAmountTooSmall(credit_currency)  # nothing buys anything
    amount = -(-credit_amount * _ONE * _minor_units(debit_currency) // (rate * _minor_units(credit_currency)))
    return _quotable(amount, debit_currency)


def _minor_units(currency: str) -> int:
    """Of one unit."""
    units: int = 10 ** money.exponent(currency)
    return units


def _quotable(amount: int, currency: str) -> int:
    if amount == 0:
        raise exchange_errors.QuoteAmountTooSmall(currency)
    if amount > money.INT64_MAX:
        raise exchange_errors.AmountOverflow(currency)
    return amount


def exchanged(transfer: Transfer, quote: Quote | None, moment: datetime) -> Transfer:
    """A new transfer with what its quote makes of its amount at a moment.

    Raises QuoteNotFound, QuoteExpired, QuoteMismatch.
    """
    if quote is None or not quote.visible_to(transfer.principal):
        raise exchange_errors.QuoteNotFound(f"quotes/{transfer.quote}")
    if moment >= quote.expire_time:
        raise exchange_errors.QuoteExpired(quote.name, quote.expire_time)
    if (transfer.currency, transfer.amount) != (quote.debit_currency, quote.debit_amount):
        raise exchange_errors.QuoteMismatch(quote.name, quote.debit_currency, quote.debit_amount)
    return transfer.changed(
        exchange=Exchange(
            quote.credit_currency, quote.credit_amount, quote.rate, quote.debit_position, quote.credit_position
        ),
    )


def back(original: Transfer, exchange: Exchange) -> Exchange:
    """The exchange that undoes another one: the same amounts, through the same positions."""
    return Exchange(
        original.currency, original.amount, exchange.rate, exchange.credit_position, exchange.debit_position
    )
