"""Money that comes in, and what can be read of it: balances, entries, journals."""

from __future__ import annotations

import secrets

from florin.accounts.v1 import account_pb2, journal_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from florin.common.v1 import money_pb2
from tests.support.mesh import Mesh
from tests.support.protocols import refused


def entries(mesh: Mesh, account: str, page_size: int = 1000) -> list[journal_pb2.Entry]:
    """All entries of an account, the newest first, read page by page."""
    found: list[journal_pb2.Entry] = []
    request = pb.ListEntriesRequest(account=account, page_size=page_size)
    while True:
        page = mesh.call("AccountService.ListEntries", request)
        found += page.entries
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def settlement(mesh: Mesh, currency: str, tenant: str) -> str:
    """A new settlement account."""
    request = pb.CreateAccountRequest(type=account_pb2.ACCOUNT_TYPE_SETTLEMENT, currency_code=currency)
    name: str = mesh.call("AccountService.CreateAccount", request, "operator", tenant=tenant).account.name
    return name


def test_money_enters_from_a_settlement_account_alone(mesh: Mesh) -> None:
    """Funding debits the settlement account, which may go below zero; only an operator may, and only from such one."""
    tenant = mesh.tenant()
    source, account, other = settlement(mesh, "EUR", tenant), mesh.account(tenant=tenant), mesh.account(tenant=tenant)
    request = pb.FundAccountRequest(
        account=account,
        settlement_account=source,
        amount=money_pb2.Money(currency_code="EUR", minor_units=12_34),
        reference="statement 7, line 3",
        request_id=secrets.token_hex(8),
    )
    fund = "AccountService.FundAccount"
    assert refused(lambda: mesh.call(fund, request, tenant=tenant)).reason == "SCOPE_MISSING"
    journal = mesh.call(fund, request, "operator", tenant=tenant).journal
    assert mesh.call(fund, request, "operator", tenant=tenant).journal == journal
    assert journal.kind == journal_pb2.JOURNAL_KIND_FUNDING
    assert sum(entry.amount.minor_units for entry in journal.entries) == 0
    assert mesh.balance(account, tenant=tenant).posted.minor_units == 12_34
    assert mesh.balance(source, tenant=tenant).posted.minor_units == -12_34
    wrong = pb.FundAccountRequest()
    wrong.CopyFrom(request)
    wrong.settlement_account, wrong.request_id = other, secrets.token_hex(8)
    refusal = refused(lambda: mesh.call(fund, wrong, "operator", tenant=tenant))
    assert refusal.is_for("FAILED_PRECONDITION", "ACCOUNT_TYPE_WRONG")


def test_a_teller_cannot_pay_out_of_the_banks_own_accounts(mesh: Mesh) -> None:
    """A settlement account has no balance rule, so debiting one is making money: it needs ledger:fund."""
    tenant = mesh.tenant()
    source, account = settlement(mesh, "EUR", tenant), mesh.account(tenant=tenant)
    payment = mesh.transfer(source, account, 1_00)
    refusal = refused(lambda: mesh.call("TransferService.CreateTransfer", payment, tenant=tenant))
    assert refusal.is_for("FAILED_PRECONDITION", "ACCOUNT_TYPE_WRONG")
    assert mesh.balance(account, tenant=tenant).posted.minor_units == 0


def test_entries_tell_an_accounts_story_without_a_gap(mesh: Mesh) -> None:
    """Newest first over small pages: sequences run down to 1, each balance is the one before it plus the amount."""
    account, other = mesh.account(funds=10_00), mesh.account()
    for minor_units in (1, 20, 3_00):
        mesh.call("TransferService.CreateTransfer", mesh.transfer(account, other, minor_units))
    story = entries(mesh, account, page_size=3)
    assert [entry.sequence for entry in story] == [4, 3, 2, 1]
    assert [entry.amount.minor_units for entry in story] == [-3_00, -20, -1, 10_00]
    assert [entry.balance_after.minor_units for entry in story] == [6_79, 9_79, 9_99, 10_00]
    assert {entry.account for entry in story} == {account}
    balance = mesh.balance(account)
    assert (balance.posted.minor_units, balance.sequence) == (6_79, 4)


def test_a_customer_sees_both_legs_of_a_journal_and_own_balances_alone(mesh: Mesh) -> None:
    """What the other account comes to is its owner's business; a journal that touches no own account does not exist."""
    me, stranger = mesh.customer(), mesh.customer()
    mine, theirs = mesh.account(me, funds=10_00), mesh.account(funds=5_00)
    name = mesh.call("TransferService.CreateTransfer", mesh.transfer(mine, theirs, 2_00)).transfer.journal
    request = pb.GetJournalRequest(name=name)
    seen = mesh.call("AccountService.GetJournal", request, "customer", customer=me).journal
    shown = {entry.account: entry for entry in seen.entries}
    assert shown[mine].balance_after.minor_units == 8_00
    assert shown[theirs].amount.minor_units == 2_00
    assert not shown[theirs].HasField("balance_after")
    whole = mesh.call("AccountService.GetJournal", request).journal
    assert {entry.balance_after.minor_units for entry in whole.entries} == {8_00, 7_00}
    refusal = refused(lambda: mesh.call("AccountService.GetJournal", request, "customer", customer=stranger))
    assert refusal.is_for("NOT_FOUND", "JOURNAL_NOT_FOUND")
