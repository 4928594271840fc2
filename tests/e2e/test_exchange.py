"""Foreign exchange through the whole mesh: rates, positions, quotes, and transfers between two currencies."""

from __future__ import annotations

import json
import secrets
from collections import Counter

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import decimal_pb2

from florin.accounts.v1 import account_service_pb2 as accounts_pb
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2, policy_pb2
from florin.transactions.v1 import exchange_pb2, fee_pb2, transfer_pb2
from florin.transactions.v1 import exchange_service_pb2 as pb
from florin.transactions.v1 import transfer_service_pb2 as transfers_pb
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import PROTOCOLS, refused

CREATE, QUOTE, GET_QUOTE = "TransferService.CreateTransfer", "ExchangeService.CreateQuote", "ExchangeService.GetQuote"
IMPORT, GET_RATE = "ExchangeService.ImportExchangeRates", "ExchangeService.GetExchangeRate"
SET_POSITION, REVERSE = "ExchangeService.SetPositionAccount", "TransferService.ReverseTransfer"


@pytest.fixture
def tenant(mesh: Mesh) -> str:
    """A tenant of its own, without rates."""
    return mesh.tenant()


def money(currency: str, minor_units: int) -> money_pb2.Money:
    """An amount."""
    return money_pb2.Money(currency_code=currency, minor_units=minor_units)


def asking(amount: money_pb2.Money, other: str, *, credit: bool = False) -> pb.CreateQuoteRequest:
    """A request for a quote of what is paid, or of what is got."""
    request = pb.CreateQuoteRequest(other_currency_code=other, request_id=secrets.token_hex(8))
    (request.credit_amount if credit else request.debit_amount).CopyFrom(amount)
    return request


def using(mesh: Mesh, quote: exchange_pb2.Quote, debit: str, credit: str) -> transfers_pb.CreateTransferRequest:
    """The transfer that a quote was asked for."""
    amount = quote.debit_amount
    return mesh.transfer(debit, credit, amount.minor_units, currency=amount.currency_code, quote=quote.name)


def posted(mesh: Mesh, tenant: str, *accounts: str) -> list[int]:
    """Posted balances, in minor units of each account's currency."""
    return [mesh.balance(account, tenant=tenant).posted.minor_units for account in accounts]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_customer_changes_money_as_it_was_quoted(mesh: Mesh, tenant: str, protocol: str) -> None:
    """Quoted, previewed, transferred through the positions in one journal, and moved back whole at the rate of then."""
    positions = mesh.set_rate("1.1", tenant=tenant, spread_percent=decimal_pb2.Decimal(value="1"))
    customer = mesh.customer(tenant=tenant)
    debit, credit = mesh.account(customer, funds=100_00, tenant=tenant), mesh.account(currency="USD", tenant=tenant)
    own = {"customer": customer, "tenant": tenant, "protocol": protocol}
    quote = mesh.call(QUOTE, asking(money("EUR", 10_00), "USD"), "customer", **own).quote
    assert (quote.credit_amount, quote.rate.value) == (money("USD", 10_89), "1.089")
    assert (quote.exchange_rate, quote.exchange_rate_version) == ("exchangeRates/eur-usd", 1)
    request = using(mesh, quote, debit, credit)
    request.validate_only = True
    preview = mesh.call(CREATE, request, "customer", **own).preview
    legs = [(leg.account, leg.amount.currency_code, leg.amount.minor_units) for leg in preview.legs]
    assert legs == [
        (debit, "EUR", -10_00),
        (credit, "USD", 10_89),
        (positions["EUR"], "EUR", 10_00),
        (positions["USD"], "USD", -10_89),
    ]
    assert [leg.HasField("balance_after") for leg in preview.legs] == [True, False, False, False]
    request.validate_only = False
    made = mesh.call(CREATE, request, "customer", **own).transfer
    assert made.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    assert (made.exchange.quote, made.exchange.credit_amount) == (quote.name, money("USD", 10_89))
    everything = (debit, credit, positions["EUR"], positions["USD"])
    assert posted(mesh, tenant, *everything) == [90_00, 10_89, 10_00, -10_89]
    shown = mesh.call(GET_QUOTE, pb.GetQuoteRequest(name=quote.name), "customer", **own).quote
    assert shown.transfer == made.name
    again = using(mesh, quote, debit, credit)
    assert refused(lambda: mesh.call(CREATE, again, "customer", **own)).is_for("FAILED_PRECONDITION", "QUOTE_USED")
    mesh.set_rate("2", tenant=tenant)
    part = transfers_pb.ReverseTransferRequest(
        name=made.name, reason="error", request_id=secrets.token_hex(8), amount=money("EUR", 1_00)
    )
    refusal = refused(lambda: mesh.call(REVERSE, part, tenant=tenant))
    assert refusal.is_for("FAILED_PRECONDITION", "EXCHANGE_INDIVISIBLE")
    whole = transfers_pb.ReverseTransferRequest(name=made.name, reason="error", request_id=secrets.token_hex(8))
    back = mesh.call(REVERSE, whole, tenant=tenant).reversal
    assert (back.amount, back.exchange.credit_amount) == (money("USD", 10_89), money("EUR", 10_00))
    assert posted(mesh, tenant, *everything) == [100_00, 0, 0, 0]


@pytest.mark.parametrize(
    ("pair", "rate", "paid", "got"),
    [
        ("JPYKWD", "0.00206", 12345, 25430),
        ("KWDJPY", "485.4", 1234, 598),
        ("KWDUSD", "3.26", 1, None),
        ("EURJPY", "163.5", 1, 1),
        ("JPYEUR", "0.0061", 1, None),
    ],
)
def test_currencies_with_other_decimal_places_lose_less_than_a_minor_unit(
    mesh: Mesh, tenant: str, pair: str, rate: str, paid: int, got: int | None
) -> None:
    """None, two and three; what would be nothing is not offered; each currency of the journal sums to zero."""
    base, counter = pair[:3], pair[3:]
    mesh.set_rate(rate, pair=pair, tenant=tenant)
    asked = asking(money(base, paid), counter)
    if got is None:
        refusal = refused(lambda: mesh.call(QUOTE, asked, tenant=tenant))
        assert refusal.is_for("INVALID_ARGUMENT", "QUOTE_AMOUNT_TOO_SMALL")
        return
    quote = mesh.call(QUOTE, asked, tenant=tenant).quote
    assert quote.credit_amount == money(counter, got)
    debit = mesh.account(currency=base, funds=paid, tenant=tenant)
    made = mesh.call(
        CREATE, using(mesh, quote, debit, mesh.account(currency=counter, tenant=tenant)), tenant=tenant
    ).transfer
    journal = accounts_pb.GetJournalRequest(name=made.journal)
    sums: Counter[str] = Counter()
    for entry in mesh.call("AccountService.GetJournal", journal, tenant=tenant).journal.entries:
        sums[entry.amount.currency_code] += entry.amount.minor_units
    assert sums == {base: 0, counter: 0}


def test_the_positions_show_what_the_bank_has_open(mesh: Mesh, tenant: str) -> None:
    """Whoever names the payee's amount pays rounded up; changed back, what is left is the bank's."""
    positions = mesh.set_rate("1.1", tenant=tenant, spread_percent=decimal_pb2.Decimal(value="1"))
    euros, dollars = mesh.account(funds=100_00, tenant=tenant), mesh.account(currency="USD", tenant=tenant)
    there = mesh.call(QUOTE, asking(money("USD", 20_00), "EUR", credit=True), tenant=tenant).quote
    assert there.debit_amount == money("EUR", 18_37)
    mesh.call(CREATE, using(mesh, there, euros, dollars), tenant=tenant)
    back = mesh.call(QUOTE, asking(money("USD", 20_00), "EUR"), tenant=tenant).quote
    assert back.credit_amount == money("EUR", 18_00)
    mesh.call(CREATE, using(mesh, back, dollars, euros), tenant=tenant)
    assert posted(mesh, tenant, euros, dollars) == [99_63, 0]
    listed = mesh.call("ExchangeService.ListPositionAccounts", pb.ListPositionAccountsRequest(), tenant=tenant)
    found = {one.currency_code: one.account for one in listed.position_accounts}
    assert found == positions
    assert posted(mesh, tenant, found["EUR"], found["USD"]) == [37, 0]


def test_an_exchange_is_screened_by_what_is_paid_and_costs_its_own_fee(mesh: Mesh, tenant: str) -> None:
    """The limit of the debited currency counts its amount; the fee is in that currency too."""
    mesh.set_rate("1.1", tenant=tenant)
    fees = mesh.fee_account(tenant=tenant)
    mesh.set_fees(fees, tenant=tenant, kind=fee_pb2.FEE_KIND_EXCHANGE)
    for currency, maximum in (("EUR", 10_00), ("USD", 1)):
        limit = policy_pb2.Limit(kind=policy_pb2.LIMIT_KIND_PER_PAYMENT, maximum=money(currency, maximum))
        set_limit = compliance_service_pb2.SetLimitRequest(limit=limit)
        mesh.call("ComplianceService.SetLimit", set_limit, "operator", tenant=tenant)
    debit, credit = mesh.account(funds=100_00, tenant=tenant), mesh.account(currency="USD", tenant=tenant)
    quote = mesh.call(QUOTE, asking(money("EUR", 10_00), "USD"), tenant=tenant).quote
    probe = using(mesh, quote, debit, credit)
    probe.validate_only = True
    wait_until(lambda: mesh.call(CREATE, probe, tenant=tenant).transfer.HasField("fee"))
    made = mesh.call(CREATE, using(mesh, quote, debit, credit), tenant=tenant).transfer
    assert made.fee.amount == money("EUR", 1_02)
    assert posted(mesh, tenant, debit, credit, fees) == [88_98, 11_00, 1_02]
    more = mesh.call(QUOTE, asking(money("EUR", 10_01), "USD"), tenant=tenant).quote
    refusal = refused(lambda: mesh.call(CREATE, using(mesh, more, debit, credit), tenant=tenant))
    assert refusal.reason == "LIMIT_EXCEEDED"


def test_a_quote_is_for_one_customer_one_amount_and_one_time(mesh: Mesh, tenant: str) -> None:
    """Another's looks as if it did not exist; a mismatch names the quoted amount; none is for an authorization. What is
    declined keeps its quote."""
    mesh.set_rate("1.1", tenant=tenant)
    mine, stranger = mesh.customer(tenant=tenant), mesh.customer(tenant=tenant)
    debit, credit = mesh.account(mine, funds=100_00, tenant=tenant), mesh.account(currency="USD", tenant=tenant)
    quote = mesh.call(QUOTE, asking(money("EUR", 10_00), "USD"), "customer", customer=mine, tenant=tenant).quote
    theirs = mesh.account(stranger, funds=100_00, tenant=tenant)
    foreign = using(mesh, quote, theirs, credit)
    as_stranger = {"customer": stranger, "tenant": tenant}
    refusal = refused(lambda: mesh.call(CREATE, foreign, "customer", **as_stranger))
    assert refusal.is_for("NOT_FOUND", "QUOTE_NOT_FOUND")
    get = pb.GetQuoteRequest(name=quote.name)
    assert refused(lambda: mesh.call(GET_QUOTE, get, "customer", **as_stranger)).reason == "QUOTE_NOT_FOUND"
    own = {"customer": mine, "tenant": tenant}
    other = using(mesh, quote, debit, credit)
    other.amount.minor_units += 1
    refusal = refused(lambda: mesh.call(CREATE, other, "customer", **own))
    assert refusal.is_for("FAILED_PRECONDITION", "QUOTE_MISMATCH")
    assert refusal.metadata["minor_units"] == "1000"
    held = using(mesh, quote, debit, credit)
    held.authorize_only = True
    assert refused(lambda: mesh.call(CREATE, held, "customer", **own)).reason == "REQUEST_INVALID"
    wrong = using(mesh, quote, debit, mesh.account(currency="JPY", tenant=tenant))
    assert refused(lambda: mesh.call(CREATE, wrong, "customer", **own)).reason == "CURRENCY_MISMATCH"
    without = mesh.transfer(debit, credit, 10_00)
    assert refused(lambda: mesh.call(CREATE, without, "customer", **own)).reason == "CURRENCY_MISMATCH"
    right = using(mesh, quote, debit, credit)
    assert refused(lambda: mesh.call(CREATE, right, "customer", **own)).reason == "QUOTE_USED"
    right.quote = mesh.call(QUOTE, asking(money("EUR", 10_00), "USD"), "customer", **own).quote.name
    assert mesh.call(CREATE, right, "customer", **own).transfer.exchange.quote == right.quote


def test_nothing_is_quoted_without_a_rate_of_now_and_positions(mesh: Mesh, tenant: str) -> None:
    """Each with its reason, before anything is written."""

    def reason(other: str = "USD") -> str:
        return refused(lambda: mesh.call(QUOTE, asking(money("EUR", 10_00), other), tenant=tenant)).reason

    def import_rate(counter: str, seconds_ago: int = 0, value: str = "1.1") -> None:
        moment = Timestamp()
        moment.GetCurrentTime()
        moment.seconds -= seconds_ago
        rate = exchange_pb2.ExchangeRate(
            base_currency_code="EUR",
            counter_currency_code=counter,
            rate=decimal_pb2.Decimal(value=value),
            source="test",
            rate_time=moment,
        )
        request = pb.ImportExchangeRatesRequest(exchange_rates=[rate], request_id=secrets.token_hex(8))
        mesh.call(IMPORT, request, "operator", tenant=tenant)

    assert reason("XXX") == "CURRENCY_UNKNOWN"
    assert reason() == "EXCHANGE_RATE_NOT_FOUND"
    import_rate("USD", seconds_ago=2 * 3600)
    assert reason() == "EXCHANGE_RATE_STALE"
    import_rate("USD")
    assert reason() == "POSITION_ACCOUNT_MISSING"
    assert refused(lambda: import_rate("USD", seconds_ago=60)).reason == "EXCHANGE_RATE_OUTDATED"
    for value in ("0", "0.000", "-1", "1e3", "1.1234567890123", ""):
        assert refused(lambda value=value: import_rate("USD", value=value)).reason == "REQUEST_INVALID", value  # type: ignore[misc]
    assert refused(lambda: import_rate("USD", seconds_ago=-3600)).reason == "REQUEST_INVALID"
    assert refused(lambda: import_rate("EUR")).reason == "REQUEST_INVALID"
    newest = mesh.call(GET_RATE, pb.GetExchangeRateRequest(name="exchangeRates/eur-usd"), tenant=tenant).exchange_rate
    assert (newest.version, newest.rate.value) == (2, "1.1")
    customers = mesh.account(tenant=tenant)
    position = exchange_pb2.PositionAccount(currency_code="EUR", account=customers)
    request = pb.SetPositionAccountRequest(position_account=position)
    refusal = refused(lambda: mesh.call(SET_POSITION, request, "operator", tenant=tenant))
    assert refusal.is_for("FAILED_PRECONDITION", "ACCOUNT_TYPE_WRONG")


def test_books_with_exchanges_hold(mesh: Mesh, tenant: str) -> None:
    """`florin verify` finds each currency of every journal in balance, and each exchange as it was quoted."""
    mesh.set_rate("1.1", tenant=tenant)
    debit, credit = mesh.account(funds=100_00, tenant=tenant), mesh.account(currency="USD", tenant=tenant)
    requests = []
    for amount in range(1, 6):
        quote = mesh.call(QUOTE, asking(money("EUR", amount), "USD"), tenant=tenant).quote
        requests.append(using(mesh, quote, debit, credit))
    batch = transfers_pb.BatchCreateTransfersRequest(requests=requests)
    results = mesh.call("TransferService.BatchCreateTransfers", batch, tenant=tenant).results
    assert all(result.transfer.state == transfer_pb2.TRANSFER_STATE_COMPLETED for result in results)
    verdict = mesh.florin("verify", "--json")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert json.loads(verdict.stdout)["holds"] is True
