"""Journals that the bank posts itself, over gRPC on a real database: at once, again, all or none, found again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2
from grpc_status import rpc_status

from accounts.journal_rpc import JournalService
from accounts.model import AccountType
from florin.accounts.v1 import account_pb2, events_pb2, journal_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from florin.accounts.v1 import journal_service_pb2 as journal_pb
from florin.accounts.v1 import ledger_service_pb2 as ledger_pb
from florin.common.v1 import money_pb2
from meshkit import clock
from meshkit.database import Database
from meshkit.errors import error_info
from tests.integration.accounts.conftest import Ledger, Service, reason, refusal
from tests.integration.accounts.test_lost_commits import lost

__all__ = ["lost"]

INTERNAL, SETTLEMENT = account_pb2.ACCOUNT_TYPE_INTERNAL, account_pb2.ACCOUNT_TYPE_SETTLEMENT
CUSTOMERS = "bookkeeper"
"""The role that may touch customers' accounts; an operator may post on the bank's own alone."""


@pytest.fixture
async def books(service: Service, db: Database) -> Ledger:
    """The service's tenant with accounts of the bank's own and one of a customer, 50.00 on it."""
    made = Ledger(db, service.tenant)
    await service.account("bank", type_=SETTLEMENT)
    await service.account("expense", type_=INTERNAL)
    await service.account("accrued", type_=INTERNAL)
    await service.account("dollars", type_=INTERNAL, currency_code="USD")
    await made.open("ada", type=AccountType.CUSTOMER)
    await service.call("FundAccount", service.fund("ada", 50_00, "start"))
    return made


def leg(account: str, amount: int, currency: str = "EUR", version: int | None = None) -> Any:
    """A leg."""
    made = journal_pb.PostJournalRequest.Leg(account=f"accounts/{account}")
    made.amount.CopyFrom(money_pb2.Money(currency_code=currency, minor_units=amount))
    if version is not None:
        made.expected_version = version
    return made


def entry(request_id: str, *legs: Any, **values: Any) -> journal_pb.PostJournalRequest:
    """A journal; by default an accrual of 1."""
    return journal_pb.PostJournalRequest(
        legs=legs or (leg("expense", -1), leg("accrued", 1)), reason="month end", request_id=request_id, **values
    )


async def post(service: Service, request: journal_pb.PostJournalRequest, role: str = "operator", **claims: Any) -> Any:
    """Posts one; its journal."""
    return (await service.call("PostJournal", request, role, **claims)).journal


async def batch(
    service: Service, *requests: journal_pb.PostJournalRequest, atomic: bool = False, role: str = "operator"
) -> list[Any]:
    """Posts many; their results."""
    request = journal_pb.BatchPostJournalsRequest(requests=requests, atomic=atomic)
    return list((await service.call("BatchPostJournals", request, role)).results)


def told(results: Sequence[Any]) -> list[str]:
    """What became of each item: the reason that it was refused for, or nothing."""
    return [reason(result.status) if result.HasField("status") else "" for result in results]


async def status_of(call: Any) -> status_pb2.Status:
    """The status that an awaited call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    assert status is not None
    return status


async def entries_of(books: Ledger) -> int:
    """How many entries the bank's own journals made."""
    ((count,),) = await books.rows("SELECT count(*) FROM entries JOIN journals USING (tenant, journal) WHERE kind = 4")
    return int(count)


async def test_a_journal_is_shown_as_it_was_posted(service: Service, books: Ledger) -> None:
    """Several currencies, its times, its metadata and its origin, in the answer, by GetJournal, and in the entries."""
    await service.account("euros-too", type_=INTERNAL, identifiers=[account_pb2.AccountIdentifier(local_number="77")])
    await service.account("more-dollars", type_=INTERNAL, currency_code="USD")
    back = clock.now().replace(microsecond=1) - timedelta(days=90)
    journal = await post(
        service,
        entry(
            "r",
            leg("expense", -7),
            leg("dollars", -3, "USD"),
            leg("more-dollars", 3, "USD"),
            journal_pb.PostJournalRequest.Leg(account="local:77", amount={"currency_code": "EUR", "minor_units": 7}),
            effective_time=back,
            reference="2026-01",
            metadata={"run": "2026-01", "kind": "accrual"},
        ),
    )
    assert (journal.kind, journal.origin) == (journal_pb2.JOURNAL_KIND_MANUAL, "manual/2026-01")
    assert journal.effective_time.ToDatetime(UTC) == back
    assert dict(journal.metadata) == {"run": "2026-01", "kind": "accrual"}
    assert [(one.account, one.amount.minor_units, one.balance_after.minor_units) for one in journal.entries] == [
        ("accounts/expense", -7, -7),
        ("accounts/dollars", -3, -3),
        ("accounts/more-dollars", 3, 3),
        ("accounts/euros-too", 7, 7),
    ]
    assert (await service.call("GetJournal", pb.GetJournalRequest(name=journal.name))).journal == journal
    past = pb.GetBalanceRequest(name="accounts/expense", as_of_effective_time=back)
    assert (await service.call("GetBalance", past)).balance.posted.minor_units == -7
    past.as_of_effective_time.FromDatetime(back - timedelta(microseconds=1))
    assert (await service.call("GetBalance", past)).balance.posted.minor_units == 0
    await books.check_books()


async def test_fifty_copies_at_once_are_one_journal(service: Service, books: Ledger) -> None:
    """INV-5: the same answer to all, alone and as items of batches, one audit row, one event."""
    request = entry("once", metadata={"k": "v"})
    alone = [post(service, request) for _ in range(40)]
    batches = [batch(service, request, request, atomic=number % 2 == 0) for number in range(10)]
    journals = list(await asyncio.gather(*alone))
    for results in await asyncio.gather(*batches):
        journals += [result.journal for result in results]
    assert {journal.SerializeToString(deterministic=True) for journal in journals} == {
        journals[0].SerializeToString(deterministic=True)
    }
    assert await entries_of(books) == 2
    assert await books.rows(
        "SELECT subject, why, before, after->'metadata' FROM audit WHERE action = 'post_journal'"
    ) == [("operator", "month end", {"posted_minor_units": {"accounts/accrued": 0, "accounts/expense": 0}}, {"k": "v"})]
    name = journals[0].name
    ((data,),) = await books.rows(f"SELECT data FROM outbox WHERE aggregate = '{name}'")
    event = events_pb2.JournalPosted.FromString(bytes(data))
    assert (event.kind, event.origin, dict(event.metadata)) == (journal_pb2.JOURNAL_KIND_MANUAL, "manual", {"k": "v"})


@pytest.mark.parametrize("atomic", [None, False, True])
async def test_an_answer_that_was_lost_is_given_again(
    service: Service, books: Ledger, lost: list[str], monkeypatch: pytest.MonkeyPatch, atomic: bool | None
) -> None:
    """The connection is lost at the commit, then all ends before the answer: asked again with the same request_id, it
    says what was done, which is done once."""
    asked = entry("r", leg("expense", -5), leg("accrued", 5))
    refused = entry("s", leg("expense", -5), leg("accrued", 4))

    async def ask() -> list[Any]:
        if atomic is None:
            return [await post(service, asked)]
        return await batch(service, asked, refused, atomic=atomic)

    async def dies(*_: Any) -> dict[str, Any]:
        raise RuntimeError("the process ends here")

    lost.append(service.tenant)
    with monkeypatch.context() as patch:
        patch.setattr(JournalService, "_journals", dies)
        assert await refusal(ask()) == "INTERNAL"
    assert lost == []
    answered = await ask()
    assert await ask() == answered
    assert await entries_of(books) == (0 if atomic else 2)
    assert await books.rows("SELECT count(*) FROM audit WHERE action = 'post_journal'") == [(0 if atomic else 1,)]
    if atomic is not None:
        assert told(answered) == ["JOURNAL_BATCH_ABORTED" if atomic else "", "JOURNAL_UNBALANCED"]


async def test_one_request_id_stands_for_one_payload(service: Service, books: Ledger) -> None:
    """Of a person: another payload is refused by name, also as an item; an atomic batch with one is refused whole."""
    journal = await post(service, entry("r"))
    other = entry("r", leg("expense", -2), leg("accrued", 2))
    status = await status_of(post(service, other))
    info = error_info(status)
    assert info is not None
    assert (info.reason, info.metadata["name"]) == ("REQUEST_ID_REUSED", journal.name)
    assert told(await batch(service, entry("a"), other, entry("b"), entry("b"))) == ["", "REQUEST_ID_REUSED", "", ""]
    for requests in ((entry("c"), other), (entry("d"), entry("d", metadata={"a": "b"}))):
        assert await refusal(batch(service, *requests, atomic=True)) == "REQUEST_ID_REUSED"
    assert await entries_of(books) == 6
    assert told(await batch(service, entry("c"), entry("d"), atomic=True)) == ["", ""]
    assert (await post(service, other, subject="somebody-else")).name != journal.name


async def test_refusals_are_kept_too(service: Service, books: Ledger) -> None:
    """Refused for its version, asked again when it would fit: the same answer; a new request_id is posted."""
    request = entry("r", leg("expense", -1, version=1), leg("accrued", 1))
    first = await status_of(post(service, request))
    info = error_info(first)
    assert info is not None
    assert (info.reason, dict(info.metadata)) == (
        "ACCOUNT_VERSION_MISMATCH",
        {"account": "accounts/expense", "expected_version": "1", "actual_version": "0"},
    )
    await post(service, entry("s"))
    assert await status_of(post(service, request)) == first
    assert told(await batch(service, request)) == ["ACCOUNT_VERSION_MISMATCH"]
    request.request_id = "t"
    await post(service, request)


async def test_of_all_that_expect_one_version_one_is_posted(service: Service, books: Ledger) -> None:
    """Read, decide, post: nobody decides on what somebody else has changed; the version is the balance's sequence."""
    await post(service, entry("before"))
    balance = (await service.call("GetBalance", pb.GetBalanceRequest(name="accounts/expense"))).balance
    requests = [
        entry(f"r{number}", leg("expense", -1, version=balance.sequence), leg("accrued", 1)) for number in range(50)
    ]
    one_by_one, together = requests[:25], requests[25:]
    outcomes = await asyncio.gather(
        *(batch(service, request) for request in one_by_one),
        *(batch(service, request, atomic=True) for request in together),
    )
    reasons = [told(results)[0] for results in outcomes]
    assert sorted(reasons) == ["", *["ACCOUNT_VERSION_MISMATCH"] * 49]
    assert (await books.balance("expense")).sequence == balance.sequence + 1
    await books.check_books()


async def test_an_atomic_batch_with_one_bad_item_changes_nothing(service: Service, books: Ledger) -> None:
    """Not a row: neither entries, nor balances, nor events, nor audit; asked again, the answer is the same."""

    async def state() -> list[Any]:
        tables = ("journals", "entries", "journal_metadata", "journal_accounts", "outbox", "audit")
        counts = [await books.rows(f"SELECT count(*) FROM {table}") for table in tables]
        return [*counts, await books.rows("SELECT account, posted, sequence, recorded_time FROM accounts ORDER BY 1")]

    before = await state()
    requests = [entry(f"r{number}", metadata={"run": "x"}) for number in range(20)]
    requests.insert(11, entry("bad", leg("expense", -1), leg("nowhere", 1)))
    wanted = ["JOURNAL_BATCH_ABORTED"] * 11 + ["ACCOUNT_NOT_FOUND"] + ["JOURNAL_BATCH_ABORTED"] * 9
    results = await batch(service, *requests, atomic=True)
    assert told(results) == wanted
    info = error_info(results[0].status)
    assert info is not None
    assert dict(info.metadata) == {"position": "11", "reason": "ACCOUNT_NOT_FOUND"}
    assert await state() == before
    assert await batch(service, *requests, atomic=True) == results
    assert told(await batch(service, requests[0])) == ["JOURNAL_BATCH_ABORTED"]
    good = [entry(f"s{number}") for number in range(20)]
    assert told(await batch(service, *good, atomic=True)) == [""] * 20
    times = await books.rows("SELECT DISTINCT create_time FROM journals WHERE kind = 4")
    assert len(times) == 1


async def test_atomic_batches_and_payments_on_the_same_accounts_do_not_get_in_each_others_way(
    service: Service, books: Ledger
) -> None:
    """Crosswise and at once: none is lost, none half done, whatever money there is is spent once."""
    names = ["expense", "accrued", "x0", "x1", "x2"]
    for name in names[2:]:
        await service.account(name, type_=INTERNAL)
    order = random.Random(7)

    def cross(number: int) -> list[journal_pb.PostJournalRequest]:
        pairs = [order.sample(names, 2) for _ in range(5)]
        moved = [entry(f"c{number}-{at}", leg(debit, -1), leg(credit, 1)) for at, (debit, credit) in enumerate(pairs)]
        return [*moved, entry(f"m{number}", leg("ada", -10_00), leg(names[number % 5], 10_00))]

    outcomes = await asyncio.gather(
        *(batch(service, *cross(number), atomic=number % 2 == 0, role=CUSTOMERS) for number in range(20))
    )
    for number, results in enumerate(outcomes):
        reasons = told(results)
        if number % 2 == 0:
            assert reasons in ([""] * 6, ["JOURNAL_BATCH_ABORTED"] * 5 + ["INSUFFICIENT_FUNDS"])
        else:
            assert reasons[:5] == [""] * 5
    assert sum(told(results)[5] == "" for results in outcomes) == 5
    assert (await books.balance("ada")).posted == 0
    await books.check_books()


async def test_roles_reach_as_far_as_their_scopes(service: Service, books: Ledger) -> None:
    """Who has none is refused before anything is read; customers' accounts and settlement accounts need more."""
    own, customers = entry("own"), entry("theirs", leg("ada", 1), leg("expense", -1))
    money = entry("money", leg("bank", -1), leg("expense", 1))
    for role in ("teller", "compliance", "auditor"):
        assert await refusal(post(service, own, role)) == "SCOPE_MISSING"
        assert await refusal(batch(service, own, role=role)) == "SCOPE_MISSING"
    customer = {"customer": "customers/ada"}
    assert await refusal(post(service, own, "customer", **customer)) == "SCOPE_MISSING"
    listing = service.call("ListJournals", journal_pb.ListJournalsRequest(), "teller")
    assert await refusal(listing) == "SCOPE_MISSING"
    status = await status_of(post(service, customers, "operator"))
    info = error_info(status)
    assert info is not None
    assert (status.code, info.reason, dict(info.metadata)) == (
        grpc.StatusCode.PERMISSION_DENIED.value[0],
        "JOURNAL_CUSTOMER_ACCOUNT",
        {"account": "accounts/ada", "scope": "journals:customers"},
    )
    assert await refusal(post(service, money, CUSTOMERS)) == "ACCOUNT_TYPE_WRONG"
    for request, role in ((own, "operator"), (own, CUSTOMERS), (customers, CUSTOMERS), (money, "operator")):
        assert (await post(service, request, role)).name
    shown = (await service.call("ListJournals", journal_pb.ListJournalsRequest(), "auditor")).journals
    assert len(shown) == 4
    ((subjects,),) = await books.rows("SELECT array_agg(subject ORDER BY id) FROM audit WHERE action = 'post_journal'")
    assert subjects == ["operator", CUSTOMERS, CUSTOMERS, "operator"]


async def test_blocks_states_and_funds_hold_for_journals_of_the_bank(service: Service, books: Ledger) -> None:
    """A customer's account is no less its owner's for the bank's posting on it itself."""

    async def asked(request_id: str, amount: int) -> list[str]:
        legs = leg("ada", amount), leg("expense", -amount)
        return told(await batch(service, entry(request_id, *legs), role=CUSTOMERS))

    assert await asked("all", -50_01) == ["INSUFFICIENT_FUNDS"]
    await service.call("BlockAccount", pb.BlockAccountRequest(name="accounts/ada", side=1, reason="x"), "teller")
    assert (await asked("b", -1), await asked("c", 1)) == (["ACCOUNT_DEBITS_BLOCKED"], [""])
    await service.call("FreezeAccount", pb.FreezeAccountRequest(name="accounts/expense", reason="x"), "teller")
    assert await asked("d", 1) == ["ACCOUNT_FROZEN"]
    await service.call("CloseAccount", pb.CloseAccountRequest(name="accounts/accrued"), "teller")
    closed = entry("e", leg("accrued", -1), leg("bank", 1))
    assert told(await batch(service, closed)) == ["ACCOUNT_CLOSED"]


async def test_hostile_requests_are_refused_by_name(service: Service, books: Ledger) -> None:
    """Nothing breaks, nothing is posted, and each says which field, or what is wrong with the books."""
    far = clock.now() + timedelta(days=4000)
    most = 2**63 - 1
    cases = {
        "REQUEST_INVALID": [
            journal_pb.PostJournalRequest(reason="x", request_id="no legs"),
            entry("one leg", leg("expense", -1)),
            entry("many legs", *[leg("expense", -1)] * 51, *[leg("accrued", 1)] * 51),
            entry("zero", leg("expense", 0), leg("accrued", 0)),
            entry("currency", leg("expense", -1, "eur"), leg("accrued", 1, "eur")),
            entry("no amount", journal_pb.PostJournalRequest.Leg(account="accounts/expense"), leg("accrued", 1)),
            entry("version", leg("expense", -1, version=-1), leg("accrued", 1)),
            entry("key", metadata={"Key": "v"}),
            entry("long key", metadata={"k" * 41: "v"}),
            entry("empty value", metadata={"k": ""}),
            entry("long value", metadata={"k": "v" * 201}),
            entry("nul", metadata={"k": "v\0"}),
            entry("many", metadata={f"k{number}": "v" for number in range(21)}),
            entry("reference", reference="x" * 101),
            entry("time", effective_time=Timestamp(seconds=2**60)),
            entry(""),
            journal_pb.PostJournalRequest(legs=[leg("expense", -1), leg("accrued", 1)], request_id="no reason"),
        ],
        "JOURNAL_UNBALANCED": [
            entry("unbalanced", leg("expense", -1), leg("accrued", 2)),
            entry("crossed", leg("expense", -1), leg("dollars", 1, "USD")),
            entry("one side", leg("expense", most), leg("accrued", most)),
        ],
        "CURRENCY_MISMATCH": [
            entry("other", leg("expense", -1, "USD"), leg("accrued", 1, "USD")),
            entry("none", leg("expense", -1, "XXX"), leg("accrued", 1, "XXX")),
        ],
        "ACCOUNT_NOT_FOUND": [
            entry("nobody", leg("nobody", -1), leg("accrued", 1)),
            entry("strange", leg("../expense", -1), leg("accrued", 1)),
        ],
        "ACCOUNTS_IDENTICAL": [entry("itself", leg("expense", -1), leg("expense", 1))],
        "AMOUNT_OVERFLOW": [entry("too much", leg("expense", -most), leg("accrued", most))],
        "EFFECTIVE_TIME_OUT_OF_RANGE": [
            entry("future", effective_time=far),
            entry("past", effective_time=datetime(1970, 1, 1, tzinfo=UTC)),
        ],
    }
    for wanted, requests in cases.items():
        for request in requests:
            assert await refusal(post(service, request)) == wanted, request.request_id
            if wanted == "REQUEST_INVALID":
                assert await refusal(batch(service, entry("good"), request)) == wanted, request.request_id
    stored = [request for wanted, requests in cases.items() if wanted != "REQUEST_INVALID" for request in requests]
    reasons = [wanted for wanted, requests in cases.items() if wanted != "REQUEST_INVALID" for _ in requests]
    assert told(await batch(service, *stored)) == reasons
    for many in ([entry(f"n{number}") for number in range(1001)], []):
        assert await refusal(batch(service, *many)) == "REQUEST_INVALID"
    wide = [entry(f"w{number}", *[leg("expense", -1)] * 50, *[leg("accrued", 1)] * 50) for number in range(101)]
    status = await status_of(batch(service, *wide))
    assert "10100 legs" in status.message
    assert await entries_of(books) == 0


async def test_a_full_batch_is_answered_item_by_item(service: Service, books: Ledger) -> None:
    """A thousand, every tenth of them bad; both ways, and the books hold."""
    requests = [
        entry(f"r{number}", leg("expense", -1), leg("nobody" if number % 10 == 0 else "accrued", 1))
        for number in range(1000)
    ]
    assert told(await batch(service, *requests)) == ["ACCOUNT_NOT_FOUND" if n % 10 == 0 else "" for n in range(1000)]
    assert (await books.balance("accrued")).posted == 900
    assert told(await batch(service, *(entry(f"s{number}") for number in range(1000)), atomic=True)) == [""] * 1000
    assert (await books.balance("accrued")).posted == 1900
    await books.check_books()


async def test_the_ledgers_own_door_does_not_let_such_journals_in(service: Service, books: Ledger) -> None:
    """What is not audited is not posted: transactions cannot ask for the kind."""
    request = ledger_pb.PostJournalsRequest()
    request.steps.add(kind=journal_pb2.JOURNAL_KIND_MANUAL, origin="manual", key="0193d5a0-0000-7000-8000-000000000001")
    for amount in (-1, 1):
        request.steps[0].legs.add(account="accounts/expense").amount.CopyFrom(leg("x", amount).amount)
    request.steps[0].principal.tenant, request.steps[0].principal.subject = service.tenant, "s"
    assert await refusal(service.internal.PostJournals(request)) == "REQUEST_INVALID"


async def listed(service: Service, filter_: str = "", page_size: int = 0, **claims: Any) -> list[str]:
    """The references of all journals that a filter finds, the newest first, page by page."""
    found: list[str] = []
    request = journal_pb.ListJournalsRequest(filter=filter_, page_size=page_size)
    while True:
        page = await service.call("ListJournals", request, "auditor", **claims)
        found += [journal.origin.removeprefix("manual/") for journal in page.journals]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_journals_are_found_by_what_is_written_on_them(service: Service, books: Ledger) -> None:
    """By metadata, account and both times, together and alone; payments' journals and other tenants' are not among
    them."""
    await post(service, entry("0", reference="plain"))
    january = datetime(2026, 1, 15, tzinfo=UTC)
    marked = entry("1", reference="marked", metadata={"run": 'a "b" \\', "kind": "x"}, effective_time=january)
    await post(service, marked)
    await post(
        service, entry("2", leg("ada", 1), leg("expense", -1), reference="ada", metadata={"kind": "x"}), CUSTOMERS
    )
    middle = clock.now()
    await post(service, entry("3", leg("bank", 1), leg("accrued", -1), reference="late", metadata={"run": "c"}))
    cases = {
        "": ["late", "ada", "marked", "plain"],
        "metadata.kind = x": ["ada", "marked"],
        r'metadata.run = "a \"b\" \\"': ["marked"],
        "metadata.kind = x AND metadata.run = c": [],
        "metadata.kind = x AND account = accounts/ada": ["ada"],
        "account = accounts/accrued AND metadata.kind = x": ["marked"],
        "account = accounts/expense": ["ada", "marked", "plain"],
        "account = accounts/expense AND account = accounts/accrued": ["marked", "plain"],
        'effective_time <= "2026-01-15T00:00:00Z"': ["marked"],
        'effective_time < "2026-01-15T00:00:00Z"': [],
        'account = accounts/accrued AND effective_time > "2026-02-01T00:00:00Z"': ["late", "plain"],
        f'create_time >= "{middle.isoformat()}"': ["late"],
        f'metadata.kind = x AND create_time < "{middle.isoformat()}"': ["ada", "marked"],
        "metadata.absent = x": [],
        "account = nobody": [],
    }
    for filter_, wanted in cases.items():
        assert await listed(service, filter_) == wanted, filter_
        assert await listed(service, filter_, 1) == wanted, filter_
    for filter_ in ("metadata = x", "metadata. = x", "metadata.kind != x", "account > a", "state = x", "run = x"):
        assert await refusal(listed(service, filter_)) == "FILTER_INVALID", filter_
    other = f"{service.tenant}x"
    await service.call("CreateTenant", pb.CreateTenantRequest(tenant_id=other, time_zone="UTC"))
    assert await listed(service, tenant=other) == []


async def test_pages_are_not_moved_by_what_is_posted_meanwhile(service: Service, books: Ledger) -> None:
    """What was there when the list began comes once each, whatever comes in; a token is of its own filter alone."""
    for number in range(7):
        await post(service, entry(f"r{number}", reference=str(number), metadata={"run": "x"}))
    for filter_ in ("", "metadata.run = x", "account = accounts/expense"):
        request = journal_pb.ListJournalsRequest(filter=filter_, page_size=2)
        seen: list[str] = []
        while True:
            page = await service.call("ListJournals", request)
            seen += [journal.origin.removeprefix("manual/") for journal in page.journals]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
            await post(service, entry(f"{filter_}{len(seen)}", reference="new", metadata={"run": "x"}))
        assert [one for one in seen if one != "new"] == [str(number) for number in reversed(range(7))]
        first = await service.call("ListJournals", journal_pb.ListJournalsRequest(filter=filter_, page_size=2))
        for token in (first.next_page_token[:-4], "AAAA"):
            request.page_token = token
            assert await refusal(service.call("ListJournals", request)) == "PAGE_TOKEN_INVALID"
        wrong = journal_pb.ListJournalsRequest(filter="account = accounts/x", page_token=first.next_page_token)
        assert await refusal(service.call("ListJournals", wrong)) == "PAGE_TOKEN_INVALID"


async def test_an_owner_sees_the_journal_without_others_balances(service: Service, books: Ledger) -> None:
    """As every journal that touches an own account; what is written on it is for its owner too."""
    await service.customer("bob")
    await service.account("bobs", "bob")
    await books.rows("UPDATE accounts SET state = 2 WHERE account = 'bobs' RETURNING 1")
    request = entry("r", leg("expense", -5), leg("bobs", 5), metadata={"run": "x"})
    journal = await post(service, request, CUSTOMERS)
    get = pb.GetJournalRequest(name=journal.name)
    seen = (await service.call("GetJournal", get, "customer", customer="customers/bob")).journal
    assert [one.HasField("balance_after") for one in seen.entries] == [False, True]
    assert dict(seen.metadata) == {"run": "x"}
    assert await refusal(service.call("GetJournal", get, "customer", customer="customers/eve")) == "JOURNAL_NOT_FOUND"
