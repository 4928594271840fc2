"""Between the contract's messages of foreign exchange and the model; no decisions."""

from __future__ import annotations

from datetime import UTC

from google.type import decimal_pb2

from florin.common.v1 import money_pb2
from florin.transactions.v1 import exchange_pb2, exchange_service_pb2
from meshkit import clock
from meshkit.identity import Call
from transactions import exchange, fees
from transactions.exchange import ExchangeRate, PositionAccount, Quote
from transactions.exchange_operations import Wanted
from transactions.model import Exchange


def wanted_rate(message: exchange_pb2.ExchangeRate, call: Call) -> ExchangeRate:
    """The rate that a request brings; its version is given when it is written."""
    return ExchangeRate(
        tenant=call.tenant,
        base=message.base_currency_code,
        counter=message.counter_currency_code,
        version=0,
        rate=exchange.rate_from(message.rate.value),
        spread=fees.percent_to_millionths(message.spread_percent.value) if message.HasField("spread_percent") else 0,
        source=message.source,
        rate_time=message.rate_time.ToDatetime(tzinfo=UTC),
        create_time=clock.now(),
        created_by=call.who.subject,
    )


def exchange_rate(model: ExchangeRate) -> exchange_pb2.ExchangeRate:
    """A version of a rate as it is shown."""
    return exchange_pb2.ExchangeRate(
        name=model.name,
        base_currency_code=model.base,
        counter_currency_code=model.counter,
        rate=_rate(model.rate),
        spread_percent=decimal_pb2.Decimal(value=fees.millionths_to_percent(model.spread)),
        source=model.source,
        rate_time=clock.timestamp(model.rate_time),
        version=model.version,
        create_time=clock.timestamp(model.create_time),
    )


def wanted_position(message: exchange_pb2.PositionAccount, call: Call) -> PositionAccount:
    """The position account that a request asks for; its version is given when it is written."""
    return PositionAccount(
        tenant=call.tenant,
        currency=message.currency_code,
        account=message.account,
        version=0,
        update_time=clock.now(),
        updated_by=call.who.subject,
    )


def position_account(model: PositionAccount) -> exchange_pb2.PositionAccount:
    """A position account as it is shown."""
    return exchange_pb2.PositionAccount(
        name=model.name,
        currency_code=model.currency,
        account=model.account,
        version=model.version,
        update_time=clock.timestamp(model.update_time),
    )


def wanted_quote(request: exchange_service_pb2.CreateQuoteRequest) -> Wanted:
    """What a quote is asked for."""
    if request.HasField("debit_amount"):
        amount = request.debit_amount
        return Wanted(amount.currency_code, amount.minor_units, request.other_currency_code, None)
    amount = request.credit_amount
    return Wanted(request.other_currency_code, None, amount.currency_code, amount.minor_units)


def quote(model: Quote, transfer: str = "") -> exchange_pb2.Quote:
    """A quote as it is shown; `transfer` is the id of the one that uses it."""
    return exchange_pb2.Quote(
        name=model.name,
        debit_amount=money_pb2.Money(currency_code=model.debit_currency, minor_units=model.debit_amount),
        credit_amount=money_pb2.Money(currency_code=model.credit_currency, minor_units=model.credit_amount),
        rate=_rate(model.rate),
        exchange_rate=model.rate_name,
        exchange_rate_version=model.rate_version,
        rate_time=clock.timestamp(model.rate_time),
        expire_time=clock.timestamp(model.expire_time),
        create_time=clock.timestamp(model.create_time),
        transfer=f"transfers/{transfer}" if transfer else "",
    )


def transfer_exchange(model: Exchange, quote_id: str) -> exchange_pb2.TransferExchange:
    """How a transfer's amount becomes another currency, as it is shown."""
    return exchange_pb2.TransferExchange(
        quote=f"quotes/{quote_id}" if quote_id else "",
        credit_amount=money_pb2.Money(currency_code=model.currency, minor_units=model.amount),
        rate=_rate(model.rate),
    )


def _rate(rate: int) -> decimal_pb2.Decimal:
    return decimal_pb2.Decimal(value=exchange.rate_text(rate))
