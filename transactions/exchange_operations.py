"""What staff does with rates and position accounts, and quotes for users: one function, one use case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import audit, clock, idempotency, money, outbox
from meshkit.errors import RequestIdReused, RequestInvalid
from meshkit.identity import Call, Principal
from transactions import errors, events, exchange, exchange_errors, exchange_store
from transactions.exchange import ExchangeRate, PositionAccount, Quote
from transactions.model import AccountType
from transactions.ports import Ledger
from transactions.settings import Settings

_CLOCKS_APART_MAX = timedelta(minutes=1)
"""A source's clock may be ahead of ours by as much."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a quote is asked for: the amount of one side, in minor units; the other side's is None."""

    debit_currency: str
    debit_amount: int | None
    credit_currency: str
    credit_amount: int | None

    def is_of(self, quote: Quote) -> bool:
        """Whether a quote is what is asked for."""
        return (
            (self.debit_currency, self.credit_currency) == (quote.debit_currency, quote.credit_currency)
            and self.debit_amount in (None, quote.debit_amount)
            and self.credit_amount in (None, quote.credit_amount)
        )


def check_rates(rates: Sequence[ExchangeRate]) -> None:
    """What can be refused before anything is written. Raises CurrencyUnknown, RequestInvalid."""
    for number, rate in enumerate(rates):
        money.exponent(rate.base)
        money.exponent(rate.counter)
        if rate.rate_time > rate.create_time + _CLOCKS_APART_MAX:
            raise RequestInvalid([(f"exchange_rates[{number}].rate_time", "must not be in the future")])


async def import_rates(conn: AsyncConnection, call: Call, rates: Sequence[ExchangeRate]) -> list[ExchangeRate]:
    """New versions of rates, all of them or none, in the order in which they are given; audited.

    Raises ExchangeRateOutdated.
    """
    made: dict[tuple[str, str], ExchangeRate] = {}
    # In one order, so that two imports at once wait for each other and not in a circle.
    for wanted in sorted(rates, key=lambda rate: (rate.base, rate.counter)):
        version = await exchange_store.next_rate_version(conn, call.tenant, wanted.base, wanted.counter)
        before = await exchange_store.read_rate(conn, call.tenant, wanted.base, wanted.counter)
        if before is not None and wanted.rate_time < before.rate_time:
            raise exchange_errors.ExchangeRateOutdated(before.name, before.rate_time, wanted.rate_time)
        after = replace(wanted, version=version)
        await exchange_store.add_rate(conn, after)
        await audit.record(
            conn,
            call,
            action="import_exchange_rate",
            resource=after.name,
            before=_facts(before) if before is not None else None,
            after=_facts(after),
            why=after.source,
        )
        made[after.base, after.counter] = after
    await outbox.append(conn, [events.exchange_rate_imported(rate) for rate in made.values()])
    return [made[rate.base, rate.counter] for rate in rates]


async def get_rate(conn: AsyncConnection, tenant: str, name: str, version: int = 0) -> ExchangeRate:
    """A version of a rate, the one in force for 0. Raises ExchangeRateNotFound."""
    base, counter = exchange.pair_in(name)
    found = await exchange_store.read_rate(conn, tenant, base, counter, version)
    if found is None:
        raise exchange_errors.ExchangeRateNotFound(base, counter, version)
    return found


async def check_position(ledger: Ledger, position: PositionAccount) -> None:
    """What can be refused before anything is written.

    Raises CurrencyUnknown, AccountNotFound, CurrencyMismatch, AccountTypeWrong, or Unavailable when accounts does not
    answer.
    """
    money.exponent(position.currency)
    place = (position.tenant, position.account)
    account = (await ledger.resolve([place])).get(place)
    if account is None:
        raise errors.AccountNotFound(position.account)
    if account.currency != position.currency:
        raise errors.CurrencyMismatch(account.name, account.currency, position.currency)
    if account.type is not AccountType.INTERNAL:
        raise errors.AccountTypeWrong(account.name, account.type, "a position is an internal account")


async def set_position_account(conn: AsyncConnection, call: Call, wanted: PositionAccount) -> PositionAccount:
    """Sets the account through which a currency is changed, which `check_position` let pass; audited."""
    found = await exchange_store.read_positions(conn, call.tenant, [wanted.currency], lock=True)
    before = found.get(wanted.currency)
    after = await exchange_store.save_position(conn, wanted)
    await outbox.append(conn, [events.position_account_changed(after)])
    await audit.record(
        conn,
        call,
        action="set_position_account",
        resource=after.name,
        before={"account": before.account} if before is not None else None,
        after={"account": after.account, "version": after.version},
    )
    return after


async def create_quote(conn: AsyncConnection, call: Call, wanted: Wanted, settings: Settings) -> Quote:
    """Offers to change an amount at the rate in force.

    Raises RequestIdReused, ExchangeRateNotFound, ExchangeRateStale, PositionAccountMissing, QuoteAmountTooSmall,
    AmountOverflow.
    """
    debit, credit = wanted.debit_currency, wanted.credit_currency
    place = (call.tenant, idempotency.derive_id(call))
    made = (await exchange_store.read_quotes(conn, [place])).get(place)
    if made is not None:  # under the same request_id, whose record was purged
        if not wanted.is_of(made):
            raise RequestIdReused(made.name)
        return made
    found = await exchange_store.read_rate(conn, call.tenant, debit, credit)
    found = found or await exchange_store.read_rate(conn, call.tenant, credit, debit)
    if found is None:
        raise exchange_errors.ExchangeRateNotFound(debit, credit)
    moment = clock.now()
    if moment - found.rate_time > timedelta(seconds=settings.exchange_rate_age_max_seconds):
        raise exchange_errors.ExchangeRateStale(found.name, found.rate_time, settings.exchange_rate_age_max_seconds)
    positions = await exchange_store.read_positions(conn, call.tenant, [debit, credit])
    for currency in (debit, credit):
        if currency not in positions:
            raise exchange_errors.PositionAccountMissing(currency)
    rate = exchange.quoted_rate(found, debit)
    if wanted.debit_amount is not None:
        debit_amount = wanted.debit_amount
        credit_amount = exchange.credit_for(debit_amount, rate, debit, credit)
    else:
        credit_amount = wanted.credit_amount or 0
        debit_amount = exchange.debit_for(credit_amount, rate, debit, credit)
    quote = Quote(
        tenant=call.tenant,
        id=place[1],
        customer=call.who.customer or "",
        debit_currency=debit,
        debit_amount=debit_amount,
        credit_currency=credit,
        credit_amount=credit_amount,
        rate=rate,
        rate_name=found.name,
        rate_version=found.version,
        rate_time=found.rate_time,
        debit_position=positions[debit].account,
        credit_position=positions[credit].account,
        expire_time=moment + timedelta(seconds=settings.quote_valid_seconds),
        create_time=moment,
    )
    await exchange_store.add_quote(conn, quote)
    await outbox.append(conn, [events.quote_created(quote)])
    return quote


async def get_quote(conn: AsyncConnection, who: Principal, name: str) -> tuple[Quote, str]:
    """A quote that the caller may see, and the id of the transfer that uses it, if one does. Raises QuoteNotFound."""
    place = (who.tenant, name.removeprefix("quotes/"))
    quote = (await exchange_store.read_quotes(conn, [place])).get(place)
    if quote is None or not quote.visible_to(who):
        raise exchange_errors.QuoteNotFound(name)
    return quote, (await exchange_store.users_of(conn, [place])).get(place, "")


def _facts(rate: ExchangeRate) -> dict[str, object]:
    return {
        "version": rate.version,
        "rate": exchange.rate_text(rate.rate),
        "spread_millionths": rate.spread,
        "rate_time": rate.rate_time.isoformat(),
    }
