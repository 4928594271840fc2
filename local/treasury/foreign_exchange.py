"""Foreign exchange: rates, a quote, a payment by it through the bank's positions, and a quote that came too late."""

from __future__ import annotations

from datetime import timedelta

from google.type import decimal_pb2

from florin.accounts.v1 import account_pb2
from florin.common.v1 import money_pb2
from florin.transactions.v1 import exchange_pb2
from florin.transactions.v1 import exchange_service_pb2 as pb
from local.treasury.story import IMPORTER, Story, state_of, text
from meshkit import clock

DOLLARS = "accounts/importer-usd"
_BOUGHT = money_pb2.Money(currency_code="USD", minor_units=54_000_00)
_PAID = 50_251_26
"""54,000.00 USD at 1.08 USD less half a percent to the EUR, rounded up."""


async def import_rates(story: Story) -> None:
    """The day's rate, and an account for the bank's position in each currency."""
    operator = story.bank.operator
    for currency in ("EUR", "USD"):
        name = await story.open_account(f"position-{currency.lower()}", account_pb2.ACCOUNT_TYPE_INTERNAL, currency)
        position = exchange_pb2.PositionAccount(currency_code=currency, account=name)
        request = pb.SetPositionAccountRequest(position_account=position, request_id=f"position-{currency}")
        await operator.call(operator.exchange.SetPositionAccount, request)
    rate = exchange_pb2.ExchangeRate(
        base_currency_code="EUR",
        counter_currency_code="USD",
        rate=decimal_pb2.Decimal(value="1.08"),
        spread_percent=decimal_pb2.Decimal(value="0.5"),
        source="ECB",
        rate_time=clock.timestamp(story.now()),
    )
    imported = pb.ImportExchangeRatesRequest(exchange_rates=[rate], request_id=story.request_id("rates"))
    answer = await operator.call(operator.exchange.ImportExchangeRates, imported)
    (kept,) = answer.exchange_rates
    story.screen.step(f"{kept.name} is {kept.rate.value} by {kept.source}, less {kept.spread_percent.value} %")


async def buy_dollars(story: Story) -> None:
    """A quote for dollars, used once: what it says is paid, through both positions."""
    await story.open_account("importer-usd", account_pb2.ACCOUNT_TYPE_CUSTOMER, "USD", IMPORTER.customer)
    quote = await _quote(story)
    bought = await story.pay(IMPORTER.account, DOLLARS, quote.debit_amount, quote=quote.name)
    story.moved(IMPORTER.account, "accounts/position-eur", _PAID)
    story.moved("accounts/position-usd", DOLLARS, _BOUGHT.minor_units)
    story.expect(
        f"{IMPORTER.name} buys {text(_BOUGHT)} for {text(bought.amount)} at {bought.exchange.rate.value}",
        (state_of(bought), bought.amount.minor_units, bought.exchange.credit_amount),
        ("COMPLETED", _PAID, _BOUGHT),
    )
    with story.expect_refusal("the same quote is not used twice", "QUOTE_USED"):
        await story.pay(IMPORTER.account, DOLLARS, quote.debit_amount, quote=quote.name)


async def miss_a_quote(story: Story) -> None:
    """Another quote, after its time."""
    quote = await _quote(story)
    left = quote.expire_time.ToDatetime() - quote.create_time.ToDatetime()
    await story.advance(by=left + timedelta(seconds=1))
    with story.expect_refusal(f"a quote of {left.seconds} s is no longer paid by", "QUOTE_EXPIRED"):
        await story.pay(IMPORTER.account, DOLLARS, quote.debit_amount, quote=quote.name)


async def _quote(story: Story) -> exchange_pb2.Quote:
    teller = story.bank.teller
    request = pb.CreateQuoteRequest(
        credit_amount=_BOUGHT, other_currency_code="EUR", request_id=story.request_id("quote")
    )
    return (await teller.call(teller.exchange.CreateQuote, request)).quote
