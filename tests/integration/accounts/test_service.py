"""The service over gRPC with real mTLS and tokens: what callers see, and each refusal in its documented order."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from florin.accounts.v1 import account_pb2, journal_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from florin.accounts.v1 import ledger_service_pb2 as ledger_pb
from florin.common.v1 import money_pb2, principal_pb2
from meshkit.database import Database
from tests.integration.accounts.conftest import Service, reason, refusal

SETTLEMENT = account_pb2.ACCOUNT_TYPE_SETTLEMENT
INTERNAL = account_pb2.ACCOUNT_TYPE_INTERNAL


async def test_money_enters_and_is_read(service: Service) -> None:
    """Fund an account, read it in every way, and find both sides of the journal."""
    await service.account("bank", type_=SETTLEMENT)
    await service.account("main", type_=INTERNAL)
    journal = (await service.call("FundAccount", service.fund("main", 1050, "f1", reference="line 7"))).journal
    assert [entry.amount.minor_units for entry in journal.entries] == [-1050, 1050]
    assert (journal.kind, journal.origin) == (journal_pb2.JOURNAL_KIND_FUNDING, "funding/line 7")
    balance = (await service.call("GetBalance", pb.GetBalanceRequest(name="accounts/main"))).balance
    assert (balance.posted.minor_units, balance.available.minor_units, balance.sequence) == (1050, 1050, 1)
    account = (await service.call("GetAccount", pb.GetAccountRequest(name="accounts/main"))).account
    assert account.balance == balance
    assert (await service.call("GetJournal", pb.GetJournalRequest(name=journal.name))).journal == journal
    entries = (await service.call("ListEntries", pb.ListEntriesRequest(account="accounts/main"))).entries
    assert [entry.balance_after.minor_units for entry in entries] == [1050]


async def test_one_request_id_funds_once(service: Service) -> None:
    """INV-5: fifty copies at once are one journal; another payload is refused; so is the replay of a refusal."""
    await service.account("bank", type_=SETTLEMENT)
    await service.account("main", type_=INTERNAL)
    request = service.fund("main", 5, "same")
    answers = await asyncio.gather(*(service.call("FundAccount", request) for _ in range(50)))
    assert all(answer == answers[0] for answer in answers)
    balance = (await service.call("GetBalance", pb.GetBalanceRequest(name="accounts/main"))).balance
    assert balance.posted.minor_units == 5
    assert await refusal(service.call("FundAccount", service.fund("main", 6, "same"))) == "REQUEST_ID_REUSED"
    assert await refusal(service.call("FundAccount", service.fund("later", 6, "r"))) == "ACCOUNT_NOT_FOUND"
    await service.account("later", type_=INTERNAL)
    assert await refusal(service.call("FundAccount", service.fund("later", 6, "r"))) == "ACCOUNT_NOT_FOUND"


async def test_funding_is_refused_in_the_documented_order(service: Service) -> None:
    """Each request breaks one rule and one that stands after it."""
    await service.account("bank", type_=SETTLEMENT)
    await service.account("main", type_=INTERNAL)
    await service.account("usd", type_=INTERNAL, currency_code="USD")
    await service.customer("acme")
    await service.account("waiting", "acme")
    await service.account("ice", type_=INTERNAL)
    await service.call("FreezeAccount", pb.FreezeAccountRequest(name="accounts/ice", reason="test"), "teller")
    await service.account("gone", type_=INTERNAL)
    await service.call("CloseAccount", pb.CloseAccountRequest(name="accounts/gone"), "teller")
    await service.call("FundAccount", service.fund("main", 2**63 - 1 - 10**15, "full"))
    cases = [
        ("CURRENCY_UNKNOWN", service.fund("nobody", 1, "1", currency_code="XXX")),
        ("REQUEST_ID_REUSED", service.fund("nobody", 1, "full")),
        ("ACCOUNT_NOT_FOUND", service.fund("nobody", 1, "3", settlement="main")),
        ("ACCOUNT_TYPE_WRONG", service.fund("usd", 1, "4", settlement="main")),
        ("CURRENCY_MISMATCH", service.fund("waiting", 1, "5", currency_code="USD")),
        ("ACCOUNT_PENDING", service.fund("waiting", 1, "6")),
        ("ACCOUNT_FROZEN", service.fund("ice", 1, "7")),
        ("ACCOUNT_CLOSED", service.fund("gone", 1, "8")),
        ("AMOUNT_OVERFLOW", service.fund("main", 1, "9")),
    ]
    found = [await refusal(service.call("FundAccount", request)) for _, request in cases]
    assert found == [expected for expected, _ in cases]


async def test_opening_an_account_is_refused_in_the_documented_order(service: Service) -> None:
    """Each request breaks one rule and some that stand after it."""
    await service.customer("acme")
    iban = [account_pb2.AccountIdentifier(iban="AT483200000012345864")]
    wrong = [account_pb2.AccountIdentifier(iban="AT493200000012345864")]
    await service.account("main", "acme", identifiers=iban)
    assert await refusal(service.account("x", "acme", currency_code="XXX", identifiers=wrong)) == "CURRENCY_UNKNOWN"
    assert await refusal(service.account("main", "nobody", identifiers=wrong)) == "IDENTIFIER_INVALID"
    assert await refusal(service.account("main", "nobody")) == "ACCOUNT_EXISTS"
    assert await refusal(service.account("x", "nobody", identifiers=iban)) == "CUSTOMER_NOT_FOUND"
    assert await refusal(service.account("x", "acme", identifiers=iban)) == "IDENTIFIER_TAKEN"
    request = pb.CreateAccountRequest(type=INTERNAL, currency_code="XXX")
    assert await refusal(service.call("CreateAccount", request, "teller", tenant="nowhere")) == "TENANT_NOT_FOUND"
    assert await refusal(service.account("x", type_=1)) == "REQUEST_INVALID"
    assert await refusal(service.customer("acme")) == "CUSTOMER_EXISTS"


async def test_a_customer_sees_own_accounts_alone(service: Service) -> None:
    """Foreign is as absent: same reason and same text."""
    for name in ("acme", "other"):
        await service.customer(name)
        await service.account(f"of-{name}", name)
    as_acme = {"role": "customer", "customer": "customers/acme"}
    listed = await service.call("ListAccounts", pb.ListAccountsRequest(), **as_acme)
    assert [account.name for account in listed.accounts] == ["accounts/of-acme"]
    foreign = await service.call("ListAccounts", pb.ListAccountsRequest(customer="customers/other"), **as_acme)
    assert list(foreign.accounts) == []
    for method, request in [
        ("GetAccount", pb.GetAccountRequest(name="accounts/of-other")),
        ("GetBalance", pb.GetBalanceRequest(name="accounts/of-other")),
        ("ListEntries", pb.ListEntriesRequest(account="accounts/of-other")),
    ]:
        assert await refusal(service.call(method, request, **as_acme)) == "ACCOUNT_NOT_FOUND"
    other = pb.GetCustomerRequest(name="customers/other")
    assert await refusal(service.call("GetCustomer", other, **as_acme)) == "CUSTOMER_NOT_FOUND"
    own = await service.call("GetCustomer", pb.GetCustomerRequest(name="customers/acme"), **as_acme)
    assert own.customer.display_name == "Acme"
    assert await refusal(service.call("GetAccount", pb.GetAccountRequest(name="accounts/of-acme"), tenant="demo")) == (
        "ACCOUNT_NOT_FOUND"
    )


async def test_lists_page_through_everything_once(service: Service) -> None:
    """Keyset pages, bound to their list."""
    for number in range(5):
        await service.account(f"a{number}", type_=INTERNAL)
    names: list[str] = []
    token = ""
    while True:
        page = await service.call("ListAccounts", pb.ListAccountsRequest(page_size=2, page_token=token))
        names += [account.name for account in page.accounts]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"accounts/a{number}" for number in range(5)]
    first = await service.call("ListAccounts", pb.ListAccountsRequest(page_size=2))
    mixed = pb.ListCustomersRequest(page_token=first.next_page_token)
    assert await refusal(service.call("ListCustomers", mixed)) == "PAGE_TOKEN_INVALID"


async def test_an_account_is_frozen_closed_and_changed_by_the_rules(service: Service) -> None:
    """The life of an account, with its refusals, etags and idempotent verbs."""
    await service.customer("acme")
    await service.account("bank", type_=SETTLEMENT)
    await service.account("main", type_=INTERNAL)
    await service.account("waiting", "acme")
    freeze = pb.FreezeAccountRequest(name="accounts/main", reason="test")
    frozen = (await service.call("FreezeAccount", freeze, "teller")).account
    assert (frozen.state, frozen.freeze_reason) == (account_pb2.ACCOUNT_STATE_FROZEN, "test")
    assert (await service.call("FreezeAccount", freeze, "teller")).account == frozen
    close = pb.CloseAccountRequest(name="accounts/main")
    assert await refusal(service.call("CloseAccount", close, "teller")) == "ACCOUNT_FROZEN"
    unfreeze = pb.UnfreezeAccountRequest(name="accounts/main", reason="done")
    assert (await service.call("UnfreezeAccount", unfreeze, "teller")).account.state == 2
    waiting = pb.FreezeAccountRequest(name="accounts/waiting", reason="test")
    assert await refusal(service.call("FreezeAccount", waiting, "teller")) == "ACCOUNT_PENDING"
    await service.call("FundAccount", service.fund("main", 5, "f"))
    assert await refusal(service.call("CloseAccount", close, "teller")) == "ACCOUNT_NOT_EMPTY"

    def update(*paths: str, **values: Any) -> Any:
        account = account_pb2.Account(**{"name": "accounts/main", **values})
        request = pb.UpdateAccountRequest(account=account, update_mask=FieldMask(paths=paths))
        return service.call("UpdateAccount", request, "teller")

    assert await refusal(update("balance")) == "UPDATE_MASK_INVALID"
    assert await refusal(update("display_name", name="accounts/nobody")) == "ACCOUNT_NOT_FOUND"
    assert await refusal(update("display_name", etag="1")) == "ETAG_MISMATCH"
    assert await refusal(update("overdraft_limit_minor_units", overdraft_limit_minor_units=1)) == "ACCOUNT_TYPE_WRONG"
    changed = (await update("display_name", display_name="Main", etag="3")).account
    assert (changed.display_name, changed.etag) == ("Main", "4")
    named = pb.CloseAccountRequest(name="accounts/waiting")
    assert (await service.call("CloseAccount", named, "teller")).account.state == account_pb2.ACCOUNT_STATE_CLOSED
    assert await refusal(update("display_name", name="accounts/waiting")) == "ACCOUNT_CLOSED"


async def test_a_request_id_gives_the_same_answer(service: Service) -> None:
    """The same key and payload: the same customer; another payload: refused by name."""
    request = pb.CreateCustomerRequest(display_name="Acme", request_id="c1")
    first = await service.call("CreateCustomer", request, "teller")
    assert await service.call("CreateCustomer", request, "teller") == first
    changed = pb.CreateCustomerRequest(display_name="Other", request_id="c1")
    assert await refusal(service.call("CreateCustomer", changed, "teller")) == "REQUEST_ID_REUSED"


def journal_step(service: Service, *legs: tuple[str, int], key: str = "", customer: str = "") -> Any:
    """A journal as transactions asks for it."""
    return ledger_pb.JournalStep(
        key=key or str(uuid.uuid4()),
        principal=principal_pb2.Principal(
            tenant=service.tenant, subject="s", customer=customer, scopes=["transfers:write"]
        ),
        kind=journal_pb2.JOURNAL_KIND_TRANSFER,
        origin="transfers/t",
        legs=[
            ledger_pb.JournalLeg(account=name, amount=money_pb2.Money(currency_code="EUR", minor_units=amount))
            for name, amount in legs
        ],
    )


async def test_the_ledger_serves_transactions_alone(service: Service) -> None:
    """mTLS decides: the edge cannot reach the ledger, transactions cannot use users' methods."""
    request = ledger_pb.CancelStepsRequest(
        steps=[ledger_pb.CancelStepsRequest.StepKey(tenant=service.tenant, key=str(uuid.uuid4()))]
    )
    assert await refusal(service.edge_on_internal.CancelSteps(request)) == "CALLER_NOT_ALLOWED"
    get = pb.GetAccountRequest(name="accounts/x")
    call = service.transactions_on_public.GetAccount(get, metadata=service.token("operator"))
    assert await refusal(call) == "CALLER_NOT_ALLOWED"
    outcome = (await service.internal.CancelSteps(request)).outcomes[0]
    assert reason(outcome.refusal) == "STEP_CANCELLED"


async def test_journals_are_posted_by_name_and_iban(service: Service) -> None:
    """References are resolved; a cancelled key is refused; validate_only leaves no trace."""
    await service.account("bank", type_=SETTLEMENT)
    iban = account_pb2.AccountIdentifier(iban="DE89370400440532013000")
    await service.customer("acme")
    await service.account("main", "acme", identifiers=[iban], overdraft_limit_minor_units=100)
    question = ledger_pb.ResolveAccountsRequest(
        references=[
            {"tenant": service.tenant, "reference": reference}
            for reference in ("iban:DE89370400440532013000", "accounts/nobody")
        ]
    )
    facts = (await service.internal.ResolveAccounts(question)).accounts
    assert [(one.account, list(one.customers)) for one in facts] == [("accounts/main", ["customers/acme"]), ("", [])]
    step = journal_step(service, ("iban:DE89370400440532013000", -5), ("accounts/bank", 5))
    for validate_only in (True, False):
        request = ledger_pb.PostJournalsRequest(steps=[step], validate_only=validate_only)
        outcome = (await service.internal.PostJournals(request)).outcomes[0]
        assert reason(outcome.refusal) == "ACCOUNT_PENDING"
    foreign = journal_step(service, ("accounts/main", -5), ("accounts/bank", 5), customer="customers/other")
    outcome = (await service.internal.PostJournals(ledger_pb.PostJournalsRequest(steps=[foreign]))).outcomes[0]
    assert reason(outcome.refusal) == "ACCOUNT_NOT_FOUND"


async def test_an_account_that_pays_is_described_by_iban_and_names(service: Service) -> None:
    """What another bank is told; an account that does not exist is told of as such."""
    await service.customer("acme", "Acme Example")
    iban = account_pb2.AccountIdentifier(iban="DE89370400440532013000")
    await service.account("main", "acme", identifiers=[iban])
    await service.account("bank", type_=SETTLEMENT)
    for account, told in (("main", ("DE89370400440532013000", ["Acme Example"])), ("bank", ("", []))):
        request = ledger_pb.DescribeAccountRequest(tenant=service.tenant, account=f"accounts/{account}")
        answer = await service.internal.DescribeAccount(request)
        assert (answer.iban, list(answer.owner_names)) == told
    nobody = ledger_pb.DescribeAccountRequest(tenant=service.tenant, account="accounts/nobody")
    assert await refusal(service.internal.DescribeAccount(nobody)) == "ACCOUNT_NOT_FOUND"


async def test_concurrent_balance_reads_answer_each_caller(service: Service) -> None:
    """Reads that travel as one query do not mix up their answers."""
    for number in range(3):
        await service.account(f"a{number}", type_=INTERNAL)
    await service.account("bank", type_=SETTLEMENT)
    for number in range(3):
        await service.call("FundAccount", service.fund(f"a{number}", number + 1, f"f{number}"))
    answers = await asyncio.gather(
        *(service.call("GetBalance", pb.GetBalanceRequest(name=f"accounts/a{number % 3}")) for number in range(60))
    )
    assert [answer.balance.posted.minor_units for answer in answers] == [number % 3 + 1 for number in range(60)]


@pytest.mark.parametrize("time_zone", ["Mars/Olympus", "../etc/passwd"])
async def test_a_tenant_needs_a_time_zone_that_exists(service: Service, time_zone: str) -> None:
    """Daily limits go by it, so a wrong one is refused at once; a tenant is made once."""
    request = pb.CreateTenantRequest(tenant_id="other", time_zone=time_zone)
    assert await refusal(service.call("CreateTenant", request)) == "REQUEST_INVALID"
    again = pb.CreateTenantRequest(tenant_id=service.tenant)
    assert await refusal(service.call("CreateTenant", again)) == "TENANT_EXISTS"


async def test_what_staff_opens_and_changes_is_audited_without_names(service: Service, db: Database) -> None:
    """Who let a customer in, changed one, and opened an account with an overdraft."""
    await service.customer("acme", "Wilhelmine Testperson")
    change = pb.UpdateCustomerRequest(update_mask=FieldMask(paths=["display_name"]))
    change.customer.name, change.customer.display_name = "customers/acme", "Wilhelmine Another"
    await service.call("UpdateCustomer", change, "teller")
    await service.account("main", "acme", overdraft_limit_minor_units=500)

    async def work(conn: Any) -> list[Any]:
        rows = await conn.exec_driver_sql("SELECT action, resource, before, after FROM audit ORDER BY id")
        return [tuple(row) for row in rows]

    audited = [row for row in await db.run(service.tenant, work, read_only=True) if row[0] != "create_tenant"]
    assert [row[:2] for row in audited] == [
        ("create_customer", "customers/acme"),
        ("update_customer", "customers/acme"),
        ("create_account", "accounts/main"),
    ]
    assert audited[1][2:] == ({"version": 1}, {"version": 2})
    assert audited[2][3]["overdraft_limit_minor_units"] == 500
    assert "Wilhelmine" not in str(audited)
