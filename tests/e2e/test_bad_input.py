"""Payments that cannot be made, over every protocol: each is refused for its documented reason, and no money moves."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from florin.accounts.v1 import account_pb2
from florin.accounts.v1 import account_service_pb2 as accounts_pb
from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from local.verify import verify
from meshkit.errors import reason_name, reason_of
from tests.support import protocols
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import PROTOCOLS, Refused, refused

CREATE = "TransferService.CreateTransfer"
INT64_MAX = 2**63 - 1
BALANCE_MAX = INT64_MAX - 10**15
"""The ledger keeps room for the largest overdraft limit, so that what is available fits as well."""


@dataclass(frozen=True, slots=True)
class Bank:
    """Accounts in every state; the first two are sound."""

    tenant: str
    customer: str
    debit: str
    credit: str
    foreign: str
    dollars: str
    pending: str
    frozen: str
    closed: str
    rich: str
    francs: str


@pytest.fixture(scope="module")
def bank(mesh: Mesh) -> Iterator[Bank]:
    """A tenant with such accounts. Whatever the tests do: at their end the sound ones stand where they stood."""
    tenant = mesh.tenant()
    customer = mesh.customer(tenant=tenant)
    pending = accounts_pb.CreateAccountRequest(
        customers=[mesh.customer(tenant=tenant, verified=False)],
        type=account_pb2.ACCOUNT_TYPE_CUSTOMER,
        currency_code="EUR",
    )
    made = Bank(
        tenant=tenant,
        customer=customer,
        debit=mesh.account(customer, funds=100_00, tenant=tenant),
        credit=mesh.account(tenant=tenant),
        foreign=mesh.account(funds=100_00, tenant=tenant),
        dollars=mesh.account(currency="USD", tenant=tenant),
        pending=mesh.call("AccountService.CreateAccount", pending, tenant=tenant).account.name,
        frozen=mesh.account(tenant=tenant),
        closed=mesh.account(tenant=tenant),
        rich=mesh.account(currency="CHF", tenant=tenant),
        francs=mesh.account(currency="CHF", funds=10, tenant=tenant),
    )
    freeze = accounts_pb.FreezeAccountRequest(name=made.frozen, reason="for the test")
    mesh.call("AccountService.FreezeAccount", freeze, tenant=tenant)
    mesh.call("AccountService.CloseAccount", accounts_pb.CloseAccountRequest(name=made.closed), tenant=tenant)
    # As many francs as an account can hold, from a settlement account of their own.
    settlement = accounts_pb.CreateAccountRequest(type=account_pb2.ACCOUNT_TYPE_SETTLEMENT, currency_code="CHF")
    source = mesh.call("AccountService.CreateAccount", settlement, "operator", tenant=tenant).account.name
    fund = accounts_pb.FundAccountRequest(
        account=made.rich,
        settlement_account=source,
        amount=money_pb2.Money(currency_code="CHF", minor_units=BALANCE_MAX),
        request_id="all-of-it",
    )
    mesh.call("AccountService.FundAccount", fund, "operator", tenant=tenant)
    yield made
    assert mesh.balance(made.debit, tenant=tenant).posted.minor_units == 100_00
    assert mesh.balance(made.debit, tenant=tenant).held.minor_units == 0
    assert mesh.balance(made.credit, tenant=tenant).posted.minor_units == 0
    assert mesh.balance(made.foreign, tenant=tenant).posted.minor_units == 100_00


def request(bank: Bank, **changes: object) -> pb.CreateTransferRequest:
    """A payment of 1.00 EUR that is good but for the changes; `minor_units` and `currency` stand for the amount."""
    made = pb.CreateTransferRequest(
        debit_account=bank.debit,
        credit_account=bank.credit,
        amount=money_pb2.Money(currency_code="EUR", minor_units=1_00),
        request_id=secrets.token_hex(8),
    )
    for name, value in changes.items():
        if name == "minor_units":
            made.amount.minor_units = value  # type: ignore[assignment]
        elif name == "currency":
            made.amount.currency_code = value  # type: ignore[assignment]
        else:
            setattr(made, name, value)
    return made


Make = Callable[[Bank], pb.CreateTransferRequest]

INVALID: dict[str, tuple[Make, list[str]]] = {
    "nothing at all": (lambda _: pb.CreateTransferRequest(), ["debit_account", "credit_account", "amount"]),
    "no amount": (
        lambda bank: pb.CreateTransferRequest(debit_account=bank.debit, credit_account=bank.credit),
        ["amount"],
    ),
    "malformed names": (
        lambda bank: request(bank, debit_account="accounts/UPPER", credit_account="iban:de12", transfer_id="Nr. 7"),
        ["debit_account", "credit_account", "transfer_id"],
    ),
    "everything too long": (
        lambda bank: request(
            bank,
            creditor_name="n" * 141,
            end_to_end_id="e" * 36,
            remittance="r" * 141,
            request_id="q" * 129,
            transfer_id="t" * 64,
            debit_account=f"accounts/{'a' * 64}",
        ),
        ["debit_account", "creditor_name", "end_to_end_id", "remittance", "request_id", "transfer_id"],
    ),
    "zero": (lambda bank: request(bank, minor_units=0), ["amount"]),
    "negative": (lambda bank: request(bank, minor_units=-1), ["amount"]),
    "the most negative": (lambda bank: request(bank, minor_units=-INT64_MAX - 1), ["amount"]),
    "a currency in lower case": (lambda bank: request(bank, currency="eur"), ["amount.currency_code"]),
    "to itself": (lambda bank: request(bank, credit_account=bank.debit), [""]),
    "a NUL character": (lambda bank: request(bank, end_to_end_id="a\0b"), ["end_to_end_id"]),
    "a line feed in a name": (lambda bank: request(bank, debit_account=f"{bank.debit}\n"), ["debit_account"]),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", INVALID)
def test_what_breaks_the_contract_is_refused_with_every_violation(
    mesh: Mesh, bank: Bank, case: str, protocol: str
) -> None:
    """REQUEST_INVALID, all violations in one answer, each with its field."""
    make, fields = INVALID[case]
    refusal = refused(lambda: mesh.call(CREATE, make(bank), protocol=protocol, tenant=bank.tenant))
    assert refusal.is_for("INVALID_ARGUMENT", "REQUEST_INVALID"), refusal
    assert sorted(refusal.violations) == sorted(fields)
    assert refusal.metadata["violations"] == str(len(fields))


REFUSED: dict[str, tuple[Make, str, str]] = {
    "an unknown payer": (
        lambda bank: request(bank, debit_account="accounts/nobody-has-this"),
        "NOT_FOUND",
        "ACCOUNT_NOT_FOUND",
    ),
    "an unknown payee": (
        lambda bank: request(bank, credit_account="local:NOBODY-HAS-THIS"),
        "NOT_FOUND",
        "ACCOUNT_NOT_FOUND",
    ),
    "a foreign payer": (lambda bank: request(bank, debit_account=bank.foreign), "NOT_FOUND", "ACCOUNT_NOT_FOUND"),
    "an IBAN with wrong check digits": (
        lambda bank: request(bank, credit_account="iban:DE89370400440532013001"),
        "INVALID_ARGUMENT",
        "IDENTIFIER_INVALID",
    ),
    "a currency that is none": (lambda bank: request(bank, currency="QQQ"), "INVALID_ARGUMENT", "CURRENCY_UNKNOWN"),
    "another currency than the payer's": (
        lambda bank: request(bank, currency="JPY"),
        "FAILED_PRECONDITION",
        "CURRENCY_MISMATCH",
    ),
    "another currency than the payee's": (
        lambda bank: request(bank, credit_account=bank.dollars),
        "FAILED_PRECONDITION",
        "CURRENCY_MISMATCH",
    ),
    "a pending payee": (
        lambda bank: request(bank, credit_account=bank.pending),
        "FAILED_PRECONDITION",
        "ACCOUNT_PENDING",
    ),
    "a frozen payee": (lambda bank: request(bank, credit_account=bank.frozen), "FAILED_PRECONDITION", "ACCOUNT_FROZEN"),
    "a closed payee": (lambda bank: request(bank, credit_account=bank.closed), "FAILED_PRECONDITION", "ACCOUNT_CLOSED"),
    "a cent too much": (lambda bank: request(bank, minor_units=100_01), "FAILED_PRECONDITION", "INSUFFICIENT_FUNDS"),
    "more than there is in the world": (
        lambda bank: request(bank, minor_units=BALANCE_MAX),
        "FAILED_PRECONDITION",
        "INSUFFICIENT_FUNDS",
    ),
    "more than an account can hold": (
        lambda bank: request(bank, minor_units=INT64_MAX),
        "OUT_OF_RANGE",
        "AMOUNT_OVERFLOW",
    ),
}


def _wait_for_room(mesh: Mesh, bank: Bank) -> None:
    """What a refused payment reserved of the customer's day is given back by an event; until then there is no room for
    the largest number that there is."""
    largest = request(bank, minor_units=INT64_MAX, validate_only=True)

    def there_is() -> bool:
        refusal = mesh.call(CREATE, largest, tenant=bank.tenant).preview.refusal
        return reason_name(reason_of(refusal)) == "AMOUNT_OVERFLOW"

    wait_until(there_is, 20)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", REFUSED)
def test_a_customers_impossible_payment_is_refused_for_its_reason(
    mesh: Mesh, bank: Bank, case: str, protocol: str
) -> None:
    """The customer who owns the payer's account is told why; the same again is refused the same."""
    make, code, reason = REFUSED[case]
    asked = make(bank)
    as_customer = {"role": "customer", "customer": bank.customer, "tenant": bank.tenant, "protocol": protocol}
    _wait_for_room(mesh, bank)
    for _ in range(2):
        refusal = refused(lambda: mesh.call(CREATE, asked, **as_customer))
        assert refusal.is_for(code, reason), refusal


@pytest.mark.parametrize(
    ("state", "reason"),
    # Who is not verified is declined by compliance, which is asked before the ledger.
    [("pending", "PAYMENT_DECLINED"), ("frozen", "ACCOUNT_FROZEN"), ("closed", "ACCOUNT_CLOSED")],
)
def test_an_account_that_is_not_active_pays_nothing(mesh: Mesh, bank: Bank, state: str, reason: str) -> None:
    """The payer's state goes before its funds."""
    asked = request(bank, debit_account=getattr(bank, state))
    refusal = refused(lambda: mesh.call(CREATE, asked, tenant=bank.tenant))
    assert refusal.is_for("FAILED_PRECONDITION", reason)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_balance_that_would_not_fit_is_refused(mesh: Mesh, bank: Bank, protocol: str) -> None:
    """One rappen more than an account can hold is AMOUNT_OVERFLOW, and stays where it was."""
    asked = request(bank, debit_account=bank.francs, credit_account=bank.rich, currency="CHF", minor_units=1)
    refusal = refused(lambda: mesh.call(CREATE, asked, protocol=protocol, tenant=bank.tenant))
    assert refusal.is_for("OUT_OF_RANGE", "AMOUNT_OVERFLOW")
    assert mesh.balance(bank.francs, tenant=bank.tenant).posted.minor_units == 10
    assert mesh.balance(bank.rich, tenant=bank.tenant).posted.minor_units == BALANCE_MAX


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_id_stands_for_one_payload(mesh: Mesh, bank: Bank, protocol: str) -> None:
    """Another payload under a used request_id is refused and names what the first one made; so is a used id."""
    used = request(bank, minor_units=100_01)
    refused(lambda: mesh.call(CREATE, used, tenant=bank.tenant, protocol=protocol))
    other = request(bank, request_id=used.request_id, remittance="something else")
    refusal = refused(lambda: mesh.call(CREATE, other, tenant=bank.tenant, protocol=protocol))
    assert refusal.is_for("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    found = pb.GetTransferRequest(name=refusal.metadata["name"])
    first = mesh.call("TransferService.GetTransfer", found, tenant=bank.tenant).transfer
    assert (first.state, first.request_id) == (transfer_pb2.TRANSFER_STATE_DECLINED, used.request_id)
    named = request(bank, transfer_id=first.name.removeprefix("transfers/"))
    taken = refused(lambda: mesh.call(CREATE, named, tenant=bank.tenant, protocol=protocol))
    assert taken.is_for("ALREADY_EXISTS", "TRANSFER_EXISTS")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_of_1001_is_refused_whole(mesh: Mesh, bank: Bank, protocol: str) -> None:
    """REQUEST_INVALID for the list, and none of the thousand that would have been allowed is made."""
    marked = secrets.token_hex(8)
    batch = pb.BatchCreateTransfersRequest(requests=[request(bank, end_to_end_id=marked) for _ in range(1001)])
    name = "TransferService.BatchCreateTransfers"
    refusal = refused(lambda: mesh.call(name, batch, tenant=bank.tenant, protocol=protocol))
    assert refusal.is_for("INVALID_ARGUMENT", "REQUEST_INVALID")
    assert refusal.violations == ["requests"]
    listed = pb.ListTransfersRequest(filter=f"end_to_end_id = {marked}")
    assert list(mesh.call("TransferService.ListTransfers", listed, tenant=bank.tenant).transfers) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_of_broken_items_still_gets_its_refusal(mesh: Mesh, bank: Bank, protocol: str) -> None:
    """3,000 violations do not fit into an answer: it has the first ones and their number, and it arrives."""
    batch = pb.BatchCreateTransfersRequest(requests=[pb.CreateTransferRequest()] * 1000)
    name = "TransferService.BatchCreateTransfers"
    refusal = refused(lambda: mesh.call(name, batch, tenant=bank.tenant, protocol=protocol))
    assert refusal.is_for("INVALID_ARGUMENT", "REQUEST_INVALID")
    assert refusal.metadata["violations"] == "3000"
    assert refusal.violations[:3] == [f"requests[0].{field}" for field in ("debit_account", "credit_account", "amount")]


@pytest.mark.parametrize(
    "body",
    [
        b'{"debitAccount": "accounts/a',
        b"[]",
        b"\xff\xfe",
        b'{"amount": {"currencyCode": "EUR", "minorUnits": "9223372036854775808"}}',
        b'{"amount": {"currencyCode": "EUR", "minorUnits": "1.5"}}',
        b'{"amount": {"currencyCode": "EUR", "minorUnits": 0.1}}',
        b'{"amount": 5}',
        b'{"debitAccount": {"a": 1}}',
        b'{"debitAccount": "\\ud800"}',
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
    ids=[
        "cut off",
        "a list",
        "no text",
        "too large a number",
        "a fraction",
        "a float",
        "a bare number",
        "an object",
        "half a character",
        "a tower",
    ],
)
def test_json_that_cannot_be_read_is_an_invalid_request(mesh: Mesh, body: bytes) -> None:
    """400 with REQUEST_INVALID as problem+json."""
    headers = {"content-type": "application/json"}
    answer = mesh.http("POST", "/v1/transfers", body=body, token=mesh.token(), headers=headers)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json["reason"] == "REQUEST_INVALID"


@pytest.mark.parametrize("message", [b"\xff" * 20, b"\x0a\xff", b"\x0a\x02\xff\xfe", b"\x0b" * 200])
def test_bytes_that_are_no_message_are_an_invalid_request(mesh: Mesh, message: bytes) -> None:
    """Over gRPC and gRPC-Web: INVALID_ARGUMENT with its reason, without a word of what failed inside."""
    stub = mesh.channel.unary_unary(protocols.path(CREATE))
    direct = refused(lambda: stub(message, metadata=mesh.metadata(), timeout=5))
    web = refused(lambda: protocols.web(mesh, CREATE, message, mesh.token()))
    for refusal in (direct, web):
        assert refusal.is_for("INVALID_ARGUMENT", "REQUEST_INVALID")
        assert "Error" not in refusal.message


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_message_above_four_mebibytes_is_refused(mesh: Mesh, bank: Bank, protocol: str) -> None:
    """REQUEST_INVALID from the edge, before any service has it."""
    asked = request(bank, remittance="r" * (5 * 1024 * 1024))
    refusal = refused(lambda: mesh.call(CREATE, asked, tenant=bank.tenant, protocol=protocol))
    assert refusal.is_for("INVALID_ARGUMENT", "REQUEST_INVALID")


def test_fifty_copies_at_once_are_one_transfer(mesh: Mesh) -> None:
    """Over all protocols, by request_id and Idempotency-Key: each caller gets the same answer, the money moves once."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    asked, token = mesh.transfer(debit, credit, 1_00), mesh.token()

    def pay(number: int) -> str:
        copy, headers = pb.CreateTransferRequest(), {}
        copy.CopyFrom(asked)
        if number % 6 == 1:
            headers["idempotency-key"] = copy.request_id
            copy.ClearField("request_id")
        protocol = PROTOCOLS[number % 3]
        made = protocols.call(mesh, protocol, CREATE, copy, token=token, headers=headers).transfer
        assert made.state == transfer_pb2.TRANSFER_STATE_COMPLETED
        return str(made.name)

    with ThreadPoolExecutor(50) as pool:
        names = set(pool.map(pay, range(50)))
    assert len(names) == 1
    assert mesh.balance(debit).posted.minor_units == 9_00
    assert mesh.balance(credit).posted.minor_units == 1_00


def test_fifty_copies_of_a_funding_fund_once(mesh: Mesh) -> None:
    """The same holds where another record keeps the answer: all callers get one journal, the money comes in once."""
    account = mesh.account(funds=1)  # makes the settlement account as well
    asked = accounts_pb.FundAccountRequest(
        account=account,
        settlement_account="accounts/settlement-eur",
        amount=money_pb2.Money(currency_code="EUR", minor_units=5_00),
        request_id=secrets.token_hex(8),
    )

    def fund(number: int) -> str:
        protocol = PROTOCOLS[number % 3]
        name: str = mesh.call("AccountService.FundAccount", asked, "operator", protocol=protocol).journal.name
        return name

    with ThreadPoolExecutor(50) as pool:
        assert len(set(pool.map(fund, range(50)))) == 1
    assert mesh.balance(account).posted.minor_units == 5_01


@pytest.mark.parametrize("protocol", ["gRPC", "gRPC-Web"])
def test_a_deadline_of_a_millisecond_is_kept_and_harms_nobody(mesh: Mesh, protocol: str) -> None:
    """DEADLINE_EXCEEDED, or an answer that was quick enough; asked again with time, the payment was made once."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    asked = mesh.transfer(debit, credit, 1_00)
    headers = {"grpc-timeout": "1m"} if protocol == "gRPC-Web" else {}
    seconds = 0.001 if protocol == "gRPC" else 10.0
    outcomes = set()
    for _ in range(20):
        try:
            protocols.call(mesh, protocol, CREATE, asked, token=mesh.token(), seconds=seconds, headers=headers)
        except Refused as refusal:
            assert refusal.code == "DEADLINE_EXCEEDED", refusal
            outcomes.add(refusal.reason)
    # A caller's own gRPC library may end the call first, and then without details.
    assert outcomes <= {"DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT"} | ({""} if protocol == "gRPC" else set())
    made = mesh.call(CREATE, asked).transfer
    assert made.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    assert mesh.balance(debit).posted.minor_units == 9_00


@pytest.mark.parametrize("timeout", ["soon", "-1m", "999999999S", "1"])
def test_a_deadline_that_says_nothing_is_none(mesh: Mesh, timeout: str) -> None:
    """A malformed grpc-timeout is dropped: the contract's deadline holds, and nothing fails inside."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    asked, headers = mesh.transfer(debit, credit, 1_00), {"grpc-timeout": timeout}
    made = protocols.call(mesh, "gRPC-Web", CREATE, asked, token=mesh.token(), headers=headers).transfer
    assert made.state == transfer_pb2.TRANSFER_STATE_COMPLETED


def test_the_books_balance_after_all_of_it(mesh: Mesh) -> None:
    """What `florin verify` checks holds on the mesh that was asked all of the above."""
    findings = verify(mesh.state)
    assert {finding.name: finding.violations for finding in findings if finding.violations} == {}
