"""Payment files through the edge: what is wrong with a payment is said of that payment, and a file twice pays once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from florin.accounts.v1 import account_pb2
from florin.accounts.v1 import account_service_pb2 as accounts_pb
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2, policy_pb2
from local import client, pay
from local.pay import Fate
from meshkit.safe_xml import FileRefused
from tests.support import payment_files
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from transactions.payments import pain001
from transactions.payments.plan import plan

PAYER = "AT611904300234573201"
"""The debtor of the files that tests.support.payment_files writes."""
TODAY = date(2026, 1, 15)


@dataclass(frozen=True, slots=True)
class Bank:
    """A tenant with the payer of the files, 1,000.00 EUR on its account, and payees in every state."""

    tenant: str
    payer: str
    ibans: Mapping[str, str]
    """What it stands for → IBAN."""


def iban(number: int) -> str:
    """A German IBAN with right check digits."""
    account = f"{number:018d}"
    return f"DE{98 - int(f'{account}131400') % 97:02d}{account}"


def open_account(mesh: Mesh, tenant: str, number: str, currency: str = "EUR", *, verified: bool = True) -> str:
    """An account with an IBAN, active if its owner is verified."""
    request = accounts_pb.CreateAccountRequest(
        customers=[mesh.customer(tenant=tenant, verified=verified)],
        type=account_pb2.ACCOUNT_TYPE_CUSTOMER,
        currency_code=currency,
        identifiers=[account_pb2.AccountIdentifier(iban=number)],
    )
    name: str = mesh.call("AccountService.CreateAccount", request, tenant=tenant).account.name
    get = accounts_pb.GetAccountRequest(name=name)
    state = account_pb2.ACCOUNT_STATE_ACTIVE if verified else account_pb2.ACCOUNT_STATE_PENDING
    wait_until(lambda: mesh.call("AccountService.GetAccount", get, tenant=tenant).account.state == state, 20)
    return name


@pytest.fixture(scope="module")
def bank(mesh: Mesh) -> Bank:
    """Such a bank; payments above 500.00 EUR are above its limit."""
    tenant = mesh.tenant()
    kinds = ("sound", "dollars", "yen", "pending", "frozen", "closed", "nobody's")
    ibans = {kind: iban(secrets.randbelow(10**17)) for kind in kinds}
    payer = open_account(mesh, tenant, PAYER)
    mesh.fund(payer, 1_000_00, tenant=tenant)
    open_account(mesh, tenant, ibans["sound"])
    open_account(mesh, tenant, ibans["dollars"], "USD")
    open_account(mesh, tenant, ibans["yen"], "JPY")
    open_account(mesh, tenant, ibans["pending"], verified=False)
    frozen = accounts_pb.FreezeAccountRequest(name=open_account(mesh, tenant, ibans["frozen"]), reason="for the test")
    mesh.call("AccountService.FreezeAccount", frozen, tenant=tenant)
    closed = accounts_pb.CloseAccountRequest(name=open_account(mesh, tenant, ibans["closed"]))
    mesh.call("AccountService.CloseAccount", closed, tenant=tenant)
    maximum = money_pb2.Money(currency_code="EUR", minor_units=500_00)
    limit = policy_pb2.Limit(kind=policy_pb2.LIMIT_KIND_PER_PAYMENT, maximum=maximum)
    set_limit = compliance_service_pb2.SetLimitRequest(limit=limit)
    mesh.call("ComplianceService.SetLimit", set_limit, "operator", tenant=tenant)
    return Bank(tenant, payer, ibans)


def import_file(mesh: Mesh, bank: Bank, data: bytes) -> list[tuple[str, Fate, str]]:
    """Reads, plans and pays a file as the teller; EndToEndId, fate and reason of each payment, in the file's order."""

    async def paid() -> Any:
        async with client.connect(mesh.state, f"localhost:{mesh.port}") as edge:
            session = edge.session("teller", tenant=bank.tenant)
            return await pay.pay(session, plan(pain001.parse(data), today=TODAY), patience_seconds=30)

    return [(outcome.end_to_end_id, outcome.fate, outcome.reason) for outcome in asyncio.run(paid())]


def document(*payments: str) -> bytes:
    """A file of its own: its message's identification is in the request_ids."""
    return payment_files.document(*payments).replace(b"MSG-1", f"MSG-{secrets.token_hex(6)}".encode())


def test_each_payment_of_a_file_is_refused_for_its_own_reason(mesh: Mesh, bank: Bank) -> None:
    """Among seventeen payments two are sound: they are paid, one is a replay, the rest moves nothing."""
    one, to = payment_files.payment, bank.ibans
    data = document(
        one("first", "1.00", "EUR", iban=to["sound"]),
        one("zero", "0", "EUR", iban=to["sound"]),
        one("half-a-cent", "0.005", "EUR", iban=to["sound"]),
        one("half-a-yen", "10.5", "JPY", iban=to["yen"]),
        one("no-currency", "1.00", "QQQ", iban=to["sound"]),
        one("payees-currency", "1.00", "EUR", iban=to["dollars"]),
        one("payers-currency", "100", "JPY", iban=to["yen"]),
        one("wrong-iban", "1.00", "EUR", iban="DE89370400440532013001"),
        one("nobody", "1.00", "EUR", iban=to["nobody's"]),
        one("pending", "1.00", "EUR", iban=to["pending"]),
        one("frozen", "1.00", "EUR", iban=to["frozen"]),
        one("closed", "1.00", "EUR", iban=to["closed"]),
        one("to-itself", "1.00", "EUR", iban=PAYER),
        one("above-limit", "500.01", "EUR", iban=to["sound"]),
        one("first", "1.00", "EUR", iban=to["sound"]),
        one("first", "1.01", "EUR", iban=to["sound"]),
        one("last", "2.00", "EUR", iban=to["sound"]),
    )
    expected = [
        ("first", Fate.COMPLETED, ""),
        ("zero", Fate.REFUSED, "REQUEST_INVALID"),
        ("half-a-cent", Fate.REFUSED, "REQUEST_INVALID"),
        ("half-a-yen", Fate.REFUSED, "REQUEST_INVALID"),
        ("no-currency", Fate.REFUSED, "CURRENCY_UNKNOWN"),
        ("payees-currency", Fate.DECLINED, "CURRENCY_MISMATCH"),
        ("payers-currency", Fate.DECLINED, "CURRENCY_MISMATCH"),
        ("wrong-iban", Fate.REFUSED, "IDENTIFIER_INVALID"),
        ("nobody", Fate.DECLINED, "ACCOUNT_NOT_FOUND"),
        ("pending", Fate.DECLINED, "ACCOUNT_PENDING"),
        ("frozen", Fate.DECLINED, "ACCOUNT_FROZEN"),
        ("closed", Fate.DECLINED, "ACCOUNT_CLOSED"),
        ("to-itself", Fate.REFUSED, "REQUEST_INVALID"),
        ("above-limit", Fate.DECLINED, "LIMIT_EXCEEDED"),
        ("first", Fate.REPLAYED, ""),
        ("first", Fate.REFUSED, "REQUEST_ID_REUSED"),
        ("last", Fate.COMPLETED, ""),
    ]
    before = mesh.balance(bank.payer, tenant=bank.tenant).posted.minor_units
    assert import_file(mesh, bank, data) == expected
    assert import_file(mesh, bank, data) == expected
    assert mesh.balance(bank.payer, tenant=bank.tenant).posted.minor_units == before - 3_00


def test_an_amount_that_no_number_holds_is_refused(mesh: Mesh, bank: Bank) -> None:
    """10¹⁷ dinars are 10²⁰ fils, more than 64 bits: refused before it is sent; 10¹⁶ euros are only above the limit."""
    dinars = document(payment_files.payment("dinars", "99999999999999999", "KWD", iban=bank.ibans["sound"]))
    assert import_file(mesh, bank, dinars) == [("dinars", Fate.REFUSED, "REQUEST_INVALID")]
    euros = document(payment_files.payment("euros", "9999999999999999.99", "EUR", iban=bank.ibans["sound"]))
    assert import_file(mesh, bank, euros) == [("euros", Fate.DECLINED, "LIMIT_EXCEEDED")]


def test_a_payer_without_funds_or_account_is_told_so(mesh: Mesh, bank: Bank) -> None:
    """INSUFFICIENT_FUNDS for what the account does not cover, ACCOUNT_NOT_FOUND for a payer that is nobody here."""
    payments = [payment_files.payment(f"p{number}", "490.00", "EUR", iban=bank.ibans["sound"]) for number in range(3)]
    fates = import_file(mesh, bank, document(*payments))
    assert sorted(reason for _, _, reason in fates) == ["", "", "INSUFFICIENT_FUNDS"]
    foreign = document(payments[0]).replace(PAYER.encode(), bank.ibans["nobody's"].encode())
    assert import_file(mesh, bank, foreign) == [("p0", Fate.DECLINED, "ACCOUNT_NOT_FOUND")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<PmtMtd>TRF</PmtMtd>", b"<PmtMtd>XXX</PmtMtd>"),
        (b"<NbOfTxs>1</NbOfTxs>", b"<NbOfTxs>2</NbOfTxs>"),
        (b"</Document>", b""),
        (b'<?xml version="1.0" encoding="UTF-8"?>', b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'),
        (b"pain.001.001.09", b"pain.001.001.03"),
        (b'Ccy="EUR"', b'Ccy="euro"'),
        (b">1.00<", b">-1.00<"),
        (b">1.00<", b">one<"),
        (b"<Nm>Agnes Ahorner</Nm>", b"<Nm>" + b"A" * 141 + b"</Nm>"),
    ],
)
def test_a_file_that_is_broken_moves_nothing(mesh: Mesh, bank: Bank, old: bytes, new: bytes) -> None:
    """It is refused whole with one sentence, before anything of it is sent."""
    data = document(payment_files.payment("only", "1.00", "EUR", iban=bank.ibans["sound"]))
    assert old in data
    before = mesh.balance(bank.payer, tenant=bank.tenant)
    with pytest.raises(FileRefused) as refusal:
        import_file(mesh, bank, data.replace(old, new))
    assert "\n" not in str(refusal.value)
    assert mesh.balance(bank.payer, tenant=bank.tenant) == before
