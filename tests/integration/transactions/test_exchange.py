"""Foreign exchange on a real database: rates in force, quotes used once, exchanges recovered and taken back whole."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from florin.transactions.v1 import events_pb2
from florin.transactions.v1 import exchange_service_pb2 as pb
from meshkit import clock, idempotency
from meshkit.errors import DomainError, RecordedRefusal, RequestIdReused, RequestInvalid
from meshkit.identity import Principal
from tests.integration.transactions.conftest import Replica, call_of
from tests.integration.transactions.test_fees import events, paying, reverse, reversing, set_schedule
from tests.integration.transactions.test_recovery import POINTS, dies, restarted
from tests.unit.transactions.making import ANNA, TELLER
from tests.unit.transactions.test_exchange import rate_of
from transactions import exchange_messages, exchange_operations, exchange_store, quotes, store
from transactions.errors import AccountNotFound, AccountTypeWrong, CurrencyMismatch, ReversalExceeded
from transactions.exchange import ExchangeRate, PositionAccount, Quote, rate_from
from transactions.exchange_errors import (
    ExchangeIndivisible,
    ExchangeRateNotFound,
    ExchangeRateOutdated,
    ExchangeRateStale,
    PositionAccountMissing,
    QuoteAmountTooSmall,
    QuoteExpired,
    QuoteMismatch,
    QuoteNotFound,
    QuoteUsed,
)
from transactions.exchange_operations import Wanted
from transactions.fees import Kind
from transactions.model import AccountType, State, Transfer, Verdict

CREATE_QUOTE = "/florin.transactions.v1.ExchangeService/CreateQuote"
_numbers = itertools.count()


async def import_rates(replica: Replica, *rates: ExchangeRate) -> list[ExchangeRate]:
    """ImportExchangeRates."""
    exchange_operations.check_rates(rates)
    return await replica.db.run("demo", lambda conn: exchange_operations.import_rates(conn, call_of(), rates))


def of_now(base: str, counter: str, rate: str, spread: int = 0, at: datetime | None = None) -> ExchangeRate:
    """A rate that its source gave at a moment, or just now."""
    moment = clock.now()
    return replace(rate_of(base, counter, rate_from(rate), spread), rate_time=at or moment, create_time=moment)


async def set_position(replica: Replica, currency: str, account: str) -> PositionAccount:
    """SetPositionAccount."""
    wanted = PositionAccount("demo", currency, f"accounts/{account}", 0, clock.now(), "operator")
    await exchange_operations.check_position(replica.ledger, wanted)
    return await replica.db.run("demo", lambda conn: exchange_operations.set_position_account(conn, call_of(), wanted))


async def quote(
    replica: Replica, debit: int | None = 1000, credit: int | None = None, *, who: Principal = TELLER, **sides: str
) -> Quote:
    """CreateQuote of an amount of EUR in USD, unless told otherwise."""
    call = call_of(who, f"quote-{next(_numbers)}", CREATE_QUOTE)
    wanted = Wanted(sides.get("of", "EUR"), debit, sides.get("to", "USD"), credit)
    return await replica.db.run(
        call.tenant, lambda conn: exchange_operations.create_quote(conn, call, wanted, replica.settings)
    )


def using(offered: Quote, **changes: Any) -> Transfer:
    """The transfer that a quote was asked for."""
    values = {"amount": offered.debit_amount, "currency": offered.debit_currency, "credit_account": "accounts/dollars"}
    return paying(**{**values, "quote": offered.id, **changes})


def balances(replica: Replica, *names: str) -> list[int]:
    """Posted balances."""
    return [replica.ledger.balances[f"accounts/{name}"] for name in names]


@pytest.fixture
async def replica(replica: Replica) -> Replica:
    """With positions in EUR and USD, and 1.1 USD to the EUR less one percent."""
    replica.ledger.open("dollars", currency="USD")
    replica.ledger.open("fees", type_=AccountType.FEE)
    for name in ("eur", "usd"):
        replica.ledger.open(f"position-{name}", currency=name.upper(), type_=AccountType.INTERNAL)
        await set_position(replica, name.upper(), f"position-{name}")
    await import_rates(replica, of_now("EUR", "USD", "1.1", 10_000))
    return replica


async def test_position_accounts_that_are_set_at_once_are_audited_one_after_the_other(replica: Replica) -> None:
    """What each of them says that it changed is what the one before it left."""
    names = [f"position-eur-{number}" for number in range(8)]
    for name in names:
        replica.ledger.open(name, type_=AccountType.INTERNAL)
    await asyncio.gather(*(set_position(replica, "EUR", name) for name in names))
    rows = await replica.query("SELECT before, after FROM audit WHERE resource = 'positionAccounts/eur'")
    told = sorted(((after["version"], after["account"], before) for before, after in rows), key=lambda row: row[0])
    assert [version for version, _, _ in told] == list(range(1, 10))
    assert [before for _, _, before in told[1:]] == [{"account": account} for _, account, _ in told[:-1]]


async def test_an_amount_becomes_another_currency_as_it_was_quoted(replica: Replica) -> None:
    """Through the positions, in one journal; row and events tell quote, rate and what was got."""
    offered = await quote(replica)
    assert (offered.debit_amount, offered.credit_amount, offered.rate) == (1000, 1089, rate_from("1.089"))
    await import_rates(replica, of_now("EUR", "USD", "2"))
    made = await replica.create(using(offered))
    assert made.state is State.COMPLETED
    assert balances(replica, "a", "dollars", "position-eur", "position-usd") == [999_000, 1089, 1000, -1089]
    assert replica.ledger.journals == {made.name: 1}
    row = await replica.row(made)
    assert (row.quote, row.exchange) == (offered.id, made.exchange)
    for subject, kind in (
        ("transfer_accepted", events_pb2.TransferAccepted),
        ("transfer_completed", events_pb2.TransferCompleted),
    ):
        (told,) = await events(replica, made, subject, kind)
        assert (told.exchange.quote, told.exchange.rate.value) == (offered.name, "1.089")
        assert (told.exchange.credit_amount.currency_code, told.exchange.credit_amount.minor_units) == ("USD", 1089)


async def test_either_side_can_be_named_in_either_direction(replica: Replica) -> None:
    """What is paid is rounded up, what is got down; the inverse of a rate serves where there is no other."""
    assert (await quote(replica, None, 1089)).debit_amount == 1000
    assert (await quote(replica, None, 1090)).debit_amount == 1001
    back = await quote(replica, 1100, of="USD", to="EUR")
    assert (back.credit_amount, back.rate) == (990, rate_from("0.9"))
    await import_rates(replica, of_now("USD", "EUR", "0.8"))
    other = await quote(replica, 1100, of="USD", to="EUR")
    assert (other.credit_amount, other.rate_name, other.rate_version) == (880, "exchangeRates/usd-eur", 1)
    assert (await quote(replica)).rate_name == "exchangeRates/eur-usd"


async def test_a_quote_is_used_once(replica: Replica) -> None:
    """Of twenty transfers at once one is made; the others are told so, and nothing is recorded of them."""
    offered = await quote(replica)
    results = await asyncio.gather(*(replica.create(using(offered)) for _ in range(20)), return_exceptions=True)
    made = [result for result in results if isinstance(result, Transfer)]
    assert len(made) == 1
    assert [type(result) for result in results if not isinstance(result, Transfer)] == [QuoteUsed] * 19
    assert len(await replica.query("SELECT 1 FROM transfers")) == 1
    assert balances(replica, "position-eur", "position-usd") == [1000, -1089]
    batch = await replica.transfers.orders.create_batch([using(offered), paying()], time.monotonic() + 5)
    assert [type(result) for result in batch] == [QuoteUsed, Transfer]


async def test_of_one_batch_one_transfer_uses_a_quote(replica: Replica) -> None:
    """Also across batches that meet with their quotes crossed."""
    offers = [await quote(replica) for _ in range(10)]
    batches = [[using(offered) for offered in order] for order in (offers, offers[::-1], offers + offers)]
    results = await asyncio.gather(
        *(replica.transfers.orders.create_batch(batch, time.monotonic() + 10) for batch in batches)
    )
    flat = [result for batch in results for result in batch]
    made = [result for result in flat if isinstance(result, Transfer)]
    assert sorted(transfer.quote for transfer in made) == sorted(offered.id for offered in offers)
    assert all(isinstance(result, Transfer | QuoteUsed) for result in flat)


async def ending(replica: Replica, seconds: float) -> Quote:
    """A quote that expires so long from now."""
    offered = await quote(replica)
    short = replace(offered, id=f"short-{next(_numbers)}", expire_time=clock.now() + timedelta(seconds=seconds))
    await replica.db.run("demo", lambda conn: exchange_store.add_quote(conn, short))
    return short


async def test_a_copy_of_a_request_is_the_same_transfer_also_when_its_quote_is_over(replica: Replica) -> None:
    """And another payload under its request_id is refused as such."""
    offered = await ending(replica, 1)
    wanted = using(offered, request_id="copied")
    first = await replica.create(wanted)
    await asyncio.sleep(1)
    later = replace(wanted, create_time=clock.now())
    answers = await asyncio.gather(*(replica.create(later) for _ in range(10)))
    assert {answer.name for answer in answers} == {first.name}
    with pytest.raises(RequestIdReused):
        await replica.create(replace(later, fingerprint=b"x" * 32))


async def test_another_payload_under_one_request_id_is_not_refused_for_the_quote_of_the_first(replica: Replica) -> None:
    """In one batch, of which the first could not be recorded."""
    late = using(await ending(replica, 0), request_id="same")
    other = paying(request_id="same", fingerprint=b"x" * 32)
    results = await replica.transfers.orders.create_batch([late, other], time.monotonic() + 5)
    assert [type(result) for result in results] == [QuoteExpired, RequestIdReused]


async def test_what_was_refused_as_too_late_is_not_made_by_a_copy_that_was_stuck(replica: Replica) -> None:
    """Whoever was told that the quote expired pays by another one."""
    offered = await ending(replica, 0.2)
    stuck = using(offered)
    await asyncio.sleep(0.3)
    for copy in (replace(stuck, create_time=clock.now()), stuck):
        with pytest.raises(QuoteExpired):
            await replica.create(copy)
    assert await replica.query("SELECT 1 FROM transfers") == []


async def test_a_copy_that_comes_too_late_waits_for_the_one_that_is_being_recorded(replica: Replica) -> None:
    """It is not told that the quote expired, and the money moved all the same."""
    offered = await ending(replica, 0.5)
    wanted = using(offered)
    copies: list[asyncio.Task[Transfer]] = []

    async def record(conn: AsyncConnection) -> None:
        ready, _, _ = await quotes.applied(conn, replica.db.cipher, [wanted])
        await store.insert_intents(conn, replica.db.cipher, ready, 30)
        await asyncio.sleep(0.6)
        copies.append(asyncio.create_task(replica.create(replace(wanted, create_time=clock.now()))))
        done, _ = await asyncio.wait(copies, timeout=0.3)
        assert not done

    await replica.db.run("demo", record)
    assert (await copies[0]).name == wanted.name


async def test_a_declined_transfer_keeps_its_quote(replica: Replica) -> None:
    """Who was told that another transfer uses it asked for another one, and a copy that was stuck pays nothing more."""
    offered = await quote(replica, 100_000)
    held = await replica.create(using(offered))
    assert held.state is State.IN_REVIEW
    refused = using(offered, debit_account="accounts/a")
    with pytest.raises(QuoteUsed):
        await replica.create(refused)
    await replica.verdict(held, Verdict.REJECTED)
    await replica.hurry()
    await replica.recovery.before_ready()
    assert (await replica.row(held)).state is State.DECLINED
    with pytest.raises(QuoteUsed):
        await replica.create(refused)
    assert balances(replica, "a", "dollars") == [1_000_000, 0]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"quote": "none"}, QuoteNotFound),
        ({"principal": ANNA, "debit_account": "accounts/anna"}, QuoteNotFound),
        ({"amount": 999}, QuoteMismatch),
        ({"currency": "USD"}, QuoteMismatch),
    ],
)
async def test_a_quote_that_does_not_fit_leaves_no_trace(
    replica: Replica, changes: dict[str, Any], refusal: type[DomainError]
) -> None:
    """Missing, another's, of another amount or currency; a batch's other items go on."""
    offered = await quote(replica)
    with pytest.raises(refusal):
        await replica.create(using(offered, **changes))
    assert await replica.query("SELECT 1 FROM transfers") == []
    wrong, right = using(offered, **changes), using(offered)
    results = await replica.transfers.orders.create_batch([wrong, paying(), right], time.monotonic() + 5)
    assert [type(result) for result in results] == [refusal, Transfer, Transfer]


async def test_the_payees_account_has_to_be_in_the_quoted_currency(replica: Replica) -> None:
    """It is known only after the transfer was recorded, which then is declined."""
    offered = await quote(replica)
    with pytest.raises(RecordedRefusal, match="accounts/yen is an account in JPY, not USD"):
        await replica.create(using(offered, credit_account="accounts/yen"))


async def test_the_id_of_another_transfer_is_refused_before_the_quote(replica: Replica) -> None:
    """Also where the quote does not fit."""
    taken = await replica.create(paying(id="taken"))
    offered = await quote(replica)
    for wanted in (using(offered, id="taken"), using(offered, id="taken", amount=5)):
        with pytest.raises(DomainError, match=f"{taken.name} exists"):
            await replica.create(wanted)


@pytest.mark.parametrize("point", POINTS)
async def test_who_recovers_exchanges_what_was_quoted(replica: Replica, point: str) -> None:
    """A process dies, rate and positions change, and another one finishes the transfer as it was accepted, once."""
    offered = await quote(replica)
    wanted = using(offered)
    await dies(replica, point, [wanted])
    await import_rates(replica, of_now("EUR", "USD", "3"))
    replica.ledger.open("other-eur", type_=AccountType.INTERNAL)
    await set_position(replica, "EUR", "other-eur")
    other = restarted(replica)
    await other.hurry()
    await other.recovery.before_ready()
    row = await other.row(wanted)
    assert row.state is State.COMPLETED
    assert row.exchange is not None
    assert row.exchange.amount == 1089
    assert balances(replica, "a", "dollars", "position-eur", "position-usd") == [999_000, 1089, 1000, -1089]
    assert replica.ledger.journals == {row.name: 1}


async def test_a_review_holds_what_is_paid_and_goes_on_as_it_was_quoted(replica: Replica) -> None:
    """Also after the quote expired: it was accepted in time."""
    offered = await quote(replica, 100_000)
    held = await replica.create(using(offered))
    assert held.state is State.IN_REVIEW
    assert replica.ledger.available("accounts/a") == 900_000
    await replica.verdict(held, Verdict.APPROVED)
    await replica.hurry()
    await replica.recovery.before_ready()
    assert balances(replica, "a", "dollars") == [900_000, 108_900]
    assert replica.ledger.active_holds() == 0


async def test_a_reversal_moves_the_same_back_at_the_rate_of_then(replica: Replica) -> None:
    """Through the same positions, whatever they and the rate are by now; a part is refused."""
    made = await replica.create(using(await quote(replica)))
    await import_rates(replica, of_now("EUR", "USD", "5"))
    with pytest.raises(ExchangeIndivisible):
        await reverse(replica, reversing(made, 999, "part"))
    with pytest.raises(ReversalExceeded):
        await reverse(replica, reversing(made, 1001, "more"))
    back = await reverse(replica, reversing(made, 1000))
    assert (back.state, back.currency, back.amount, back.quote) == (State.COMPLETED, "USD", 1089, "")
    assert back.exchange is not None
    assert (back.exchange.currency, back.exchange.amount) == ("EUR", 1000)
    assert balances(replica, "a", "dollars", "position-eur", "position-usd") == [1_000_000, 0, 0, 0]
    row = await replica.row(made)
    assert (row.state, row.reversed) == (State.REVERSED, 1000)
    (told,) = await events(replica, made, "transfer_reversed", events_pb2.TransferReversed)
    assert (told.amount.currency_code, told.amount.minor_units) == ("EUR", 1000)
    with pytest.raises(QuoteUsed):
        await replica.create(replace(using(await _again(replica, made.quote))))


async def _again(replica: Replica, id_: str) -> Quote:
    found = await replica.db.run("demo", lambda conn: exchange_store.read_quotes(conn, [("demo", id_)]))
    return found["demo", id_]


async def test_an_exchange_has_fees_of_its_own_in_the_payers_currency(replica: Replica) -> None:
    """A payment's schedule does not price it; a reversal gives the fee back in the same currency."""
    await set_schedule(replica)
    free = await replica.create(using(await quote(replica)))
    assert free.fee is None
    await set_schedule(replica, kind=Kind.EXCHANGE, fixed=7, millionths=0)
    made = await replica.create(using(await quote(replica)))
    assert (made.fee_amount, balances(replica, "a", "fees")) == (7, [1_000_000 - 2007, 7])
    back = await reverse(replica, reversing(made), return_fee=True)
    assert (back.fee, balances(replica, "a", "fees")) == (made.fee, [1_000_000 - 1000, 0])
    (told,) = await events(replica, back, "transfer_completed", events_pb2.TransferCompleted)
    assert (told.returned_fee.amount.currency_code, told.amount.currency_code) == ("EUR", "USD")


async def test_what_would_be_exchanged_can_be_seen_before(replica: Replica) -> None:
    """validate_only records nothing and uses no quote; one that is used already is told."""
    offered = await quote(replica)
    shown = await replica.transfers.orders.previewed(using(offered))
    assert shown.exchange is not None
    assert await replica.query("SELECT 1 FROM transfers") == []
    await replica.create(using(offered))
    with pytest.raises(QuoteUsed):
        await replica.transfers.orders.previewed(using(offered))


@pytest.mark.parametrize(
    ("sides", "refusal"),
    [
        ({"of": "EUR", "to": "JPY"}, ExchangeRateNotFound),
        ({"of": "GBP", "to": "EUR"}, PositionAccountMissing),
        ({"of": "CHF", "to": "EUR"}, ExchangeRateStale),
        ({"of": "KRW", "to": "EUR"}, QuoteAmountTooSmall),
    ],
)
async def test_nothing_is_offered_that_could_not_be_meant(
    replica: Replica, sides: dict[str, str], refusal: type[DomainError]
) -> None:
    """No rate, no position, an old rate, or nothing left of the amount; the same request is served once it can be."""
    old = clock.now() - timedelta(seconds=replica.settings.exchange_rate_age_max_seconds + 1)
    await import_rates(
        replica, of_now("GBP", "EUR", "1.2"), of_now("CHF", "EUR", "1", at=old), of_now("KRW", "EUR", "0.00000001")
    )
    replica.ledger.open("position-krw", currency="KRW", type_=AccountType.INTERNAL)
    await set_position(replica, "KRW", "position-krw")
    with pytest.raises(refusal):
        await quote(replica, 100, **sides)
    assert await replica.query("SELECT 1 FROM quotes") == []


async def test_a_quote_is_made_once_for_a_request(replica: Replica) -> None:
    """Its copies are answered the same at any rate; a refusal for what may come is not kept."""
    call = call_of(TELLER, "once", CREATE_QUOTE)

    async def ask(to: str = "USD") -> str:
        async def work(conn: Any) -> pb.CreateQuoteResponse:
            wanted = Wanted("EUR", 1000, to, None)
            made = await exchange_operations.create_quote(conn, call, wanted, replica.settings)
            return pb.CreateQuoteResponse(quote=exchange_messages.quote(made))

        return (await idempotency.answer(replica.db, call, pb.CreateQuoteResponse, work)).quote.name

    with pytest.raises(ExchangeRateNotFound):
        await ask("JPY")
    first = await ask()
    await import_rates(replica, of_now("EUR", "USD", "2"))
    assert [await ask() for _ in range(3)] == [first] * 3
    assert len(await replica.query("SELECT 1 FROM outbox WHERE subject = 'florin.transactions.quote_created.v1'")) == 1


async def test_a_late_copy_is_answered_with_its_quote_also_when_the_requests_record_is_purged(replica: Replica) -> None:
    """The same quote at any rate, told of once; another payload under its request_id is refused."""
    call = call_of(TELLER, "late", CREATE_QUOTE)

    async def ask(debit: int | None, credit: int | None = None) -> Quote:
        wanted = Wanted("EUR", debit, "USD", credit)
        return await replica.db.run(
            "demo", lambda conn: exchange_operations.create_quote(conn, call, wanted, replica.settings)
        )

    first = await ask(1000)
    await import_rates(replica, of_now("EUR", "USD", "2"))
    assert await ask(1000) == first
    for other in ((1001, None), (None, 1090)):
        with pytest.raises(RequestIdReused):
            await ask(*other)
    assert len(await replica.query("SELECT 1 FROM outbox WHERE subject = 'florin.transactions.quote_created.v1'")) == 1


async def test_rates_come_all_or_none_and_never_older_than_those_in_force(replica: Replica) -> None:
    """One of the same moment is a correction; a refused import changes nothing."""
    now = clock.now()
    first, second = await import_rates(
        replica, of_now("GBP", "USD", "1.3", at=now), of_now("CHF", "USD", "1.1", at=now)
    )
    assert (first.version, second.version, first.base) == (1, 1, "GBP")
    older = now - timedelta(microseconds=1)
    with pytest.raises(ExchangeRateOutdated):
        await import_rates(replica, of_now("CHF", "USD", "9"), of_now("GBP", "USD", "9", at=older))
    for pair in (("CHF", "USD"), ("GBP", "USD")):
        found = await replica.db.run("demo", lambda conn, pair=pair: exchange_store.read_rate(conn, "demo", *pair))  # type: ignore[misc]
        assert found.version == 1
    (again,) = await import_rates(replica, of_now("GBP", "USD", "1.4", at=now))
    assert again.version == 2
    with pytest.raises(RequestInvalid):
        await import_rates(replica, of_now("GBP", "USD", "1", at=clock.now() + timedelta(minutes=2)))


async def test_imports_at_once_are_versions_one_after_the_other(replica: Replica) -> None:
    """In whichever order each names its rates: they wait for each other, not in a circle."""
    now = clock.now()

    def rates(number: int) -> Sequence[ExchangeRate]:
        both = [of_now("GBP", "USD", "1.3", at=now), of_now("CHF", "USD", "1.1", at=now)]
        return both if number % 2 else both[::-1]

    await asyncio.gather(*(import_rates(replica, *rates(number)) for number in range(10)))
    for table in ("exchange_rate_versions WHERE base IN ('GBP', 'CHF')", "outbox WHERE aggregate ~ '(gbp|chf)-usd'"):
        rows = await replica.query(f"SELECT version FROM {table} ORDER BY version")
        assert [row[0] for row in rows] == [number for number in range(1, 11) for _ in range(2)]
    assert len(await replica.query("SELECT 1 FROM audit WHERE action = 'import_exchange_rate'")) == 21


async def test_what_was_offered_and_at_which_rate_is_never_changed(replica: Replica) -> None:
    """The service has no right to."""
    await quote(replica)
    for table, column in (("quotes", "credit_amount"), ("exchange_rate_versions", "spread")):
        for statement in (f"UPDATE {table} SET {column} = 1", f"DELETE FROM {table}"):
            with pytest.raises(ProgrammingError) as refused:
                await replica.query(f"{statement} RETURNING 1")
            assert isinstance(refused.value.orig, InsufficientPrivilege)


async def test_a_quote_is_shown_to_whom_it_was_made(replica: Replica) -> None:
    """With the transfer that uses it; to others it is as if there were none."""
    offered = await quote(replica, who=ANNA)

    async def get(who: Principal) -> tuple[Quote, str]:
        return await replica.db.run(
            who.tenant, lambda conn: exchange_operations.get_quote(conn, who, offered.name), read_only=True
        )

    assert await get(ANNA) == (offered, "")
    made = await replica.create(using(offered))
    assert await get(TELLER) == (offered, made.id)
    for stranger in (replace(ANNA, customer="customers/berta"), replace(TELLER, tenant="other")):
        with pytest.raises(QuoteNotFound):
            await get(stranger)


@pytest.mark.parametrize(
    ("currency", "account", "refusal"),
    [
        ("EUR", "nobodys", AccountNotFound),
        ("EUR", "position-usd", CurrencyMismatch),
        ("EUR", "b", AccountTypeWrong),
        ("EUR", "fees", AccountTypeWrong),
    ],
)
async def test_a_position_is_an_internal_account_in_its_currency(
    replica: Replica, currency: str, account: str, refusal: type[DomainError]
) -> None:
    """Everybody's transfers debit it: a customer's account must never be one."""
    with pytest.raises(refusal):
        await set_position(replica, currency, account)


async def test_position_accounts_are_versioned_audited_and_told(replica: Replica) -> None:
    """Each change once."""
    replica.ledger.open("other-eur", type_=AccountType.INTERNAL)
    assert (await set_position(replica, "EUR", "other-eur")).version == 2
    rows = await replica.query("SELECT version FROM outbox WHERE aggregate = 'positionAccounts/eur' ORDER BY version")
    assert [row[0] for row in rows] == [1, 2]
    audited = await replica.query("SELECT before FROM audit WHERE resource = 'positionAccounts/eur' ORDER BY id")
    assert [row[0] for row in audited] == [None, {"account": "accounts/position-eur"}]
