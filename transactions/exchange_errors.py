"""Every refusal of foreign exchange, in the order in which they go before each other."""

from __future__ import annotations

from datetime import datetime

import grpc

from florin.common.v1 import errors_pb2
from meshkit import money
from meshkit.errors import DomainError


class ExchangeRateNotFound(DomainError):
    """No rate between the currencies, in either direction; or no such version of it."""

    code = grpc.StatusCode.NOT_FOUND
    reason = errors_pb2.REASON_EXCHANGE_RATE_NOT_FOUND
    definitive = False  # it may be imported later

    def __init__(self, base: str, counter: str, version: int = 0) -> None:
        of_version = f" of version {version}" if version else ""
        super().__init__(
            f"There is no exchange rate between {base} and {counter}{of_version}.",
            metadata={"currency_code": base, "other_currency_code": counter, "version": str(version)},
        )


class ExchangeRateOutdated(DomainError):
    """A rate must not take the place of a later one."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_EXCHANGE_RATE_OUTDATED

    def __init__(self, name: str, present: datetime, brought: datetime) -> None:
        super().__init__(
            f"{name} in force is of {present.isoformat()}; one of {brought.isoformat()} is older.",
            metadata={
                "exchange_rate": name,
                "present_rate_time": present.isoformat(),
                "rate_time": brought.isoformat(),
            },
        )


class ExchangeRateStale(DomainError):
    """Nothing is offered at a rate that may be wrong by now."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_EXCHANGE_RATE_STALE
    definitive = False  # a newer one may be imported

    def __init__(self, name: str, rate_time: datetime, age_max_seconds: int) -> None:
        super().__init__(
            f"{name} is of {rate_time.isoformat()}; no rate is used that is older than {age_max_seconds} seconds."
            " Ask again when a newer one is imported.",
            metadata={
                "exchange_rate": name,
                "rate_time": rate_time.isoformat(),
                "age_max_seconds": str(age_max_seconds),
            },
        )


class PositionAccountMissing(DomainError):
    """The bank does not change this currency, or nobody said through which account."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_POSITION_ACCOUNT_MISSING
    definitive = False  # it may be set later

    def __init__(self, currency: str) -> None:
        super().__init__(
            f"No position account is set for {currency}; staff sets it with SetPositionAccount.",
            metadata={"currency_code": currency},
        )


class QuoteAmountTooSmall(DomainError):
    """Less than a minor unit in the other currency."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_QUOTE_AMOUNT_TOO_SMALL
    definitive = False  # the rate may change

    def __init__(self, currency: str) -> None:
        super().__init__(f"The amount is too small to be anything in {currency}.", metadata={"currency_code": currency})


class AmountOverflow(DomainError):
    """The amount in the other currency would not fit into 64 bits."""

    code = grpc.StatusCode.OUT_OF_RANGE
    reason = errors_pb2.REASON_AMOUNT_OVERFLOW
    definitive = False  # the rate may change

    def __init__(self, currency: str) -> None:
        super().__init__(f"The amount in {currency} would exceed 64 bits.", metadata={"currency_code": currency})


class QuoteNotFound(DomainError):
    """No such quote, or not the caller's: the same words for both."""

    code = grpc.StatusCode.NOT_FOUND
    reason = errors_pb2.REASON_QUOTE_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"quote": name})


class QuoteExpired(DomainError):
    """The bank does not stand by it any more."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_QUOTE_EXPIRED

    def __init__(self, name: str, expire_time: datetime) -> None:
        super().__init__(
            f"{name} expired at {expire_time.isoformat()}; ask for a new one.",
            metadata={"quote": name, "expire_time": expire_time.isoformat()},
        )


class QuoteMismatch(DomainError):
    """The transfer's amount is not the quoted one."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_QUOTE_MISMATCH

    def __init__(self, name: str, currency: str, amount: int) -> None:
        super().__init__(
            f"{name} is for {money.format_minor(amount, currency)} {currency}; ask for a quote of what is to be paid.",
            metadata={"quote": name, "field": "amount", "currency_code": currency, "minor_units": str(amount)},
        )


class QuoteUsed(DomainError):
    """One transfer alone may use a quote."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_QUOTE_USED

    def __init__(self, quote: str) -> None:
        super().__init__(
            f"Another transfer uses quotes/{quote}; ask for a new one.", metadata={"quote": f"quotes/{quote}"}
        )


class ExchangeIndivisible(DomainError):
    """A part of what was changed is no whole number of minor units of the other currency."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_EXCHANGE_INDIVISIBLE

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} changed its amount into another currency and is reversed whole; leave the amount out.",
            metadata={"name": name, "field": "amount"},
        )
