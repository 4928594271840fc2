"""Frozen ledgers on a real database: nothing is posted once a freeze is answered, and all goes on when it ends."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from accounts import posting
from accounts.book import Cancel, Leg, Release
from accounts.freezes import FINDINGS_MAX, lock_key
from accounts.model import AccountType
from accounts.orders import Item
from florin.accounts.v1 import account_pb2, freeze_pb2
from florin.accounts.v1 import freeze_service_pb2 as freeze_pb
from florin.accounts.v1 import ledger_service_pb2 as ledger_pb
from florin.accounts.v1.freeze_service_pb2_grpc import FreezeServiceStub
from florin.accounts.v1.ledger_service_pb2_grpc import LedgerServiceStub
from meshkit import lifecycle
from meshkit.database import Database
from tests.integration.accounts.conftest import FUNDER, Ledger, Service, channel, reason, refusal
from tests.support import parts as real

Checker = LedgerServiceStub


@pytest.fixture
async def checker(parts: real.Parts, running: lifecycle.Running) -> AsyncIterator[Checker]:
    """The service as the checker sees it."""
    async with channel(parts, "checker", running.grpc_port) as opened:
        yield LedgerServiceStub(opened)


@pytest.fixture
async def staff(parts: real.Parts, running: lifecycle.Running) -> AsyncIterator[FreezeServiceStub]:
    """The freezes as people see them, through the edge."""
    async with channel(parts, "edge", running.grpc_port) as opened:
        yield FreezeServiceStub(opened)


def asked(
    tenant: str,
    currency: str = "EUR",
    *objects: str,
    sentence: str = "broken",
    ended: int = 0,
) -> ledger_pb.FreezeLedgerRequest:
    """A freeze for findings about objects, of a reading that knew of so many freezes that had ended."""
    found = Timestamp()
    found.GetCurrentTime()
    return ledger_pb.FreezeLedgerRequest(
        tenant=tenant,
        currency_code=currency,
        findings=[
            ledger_pb.FreezeLedgerRequest.Finding(invariant="INV-2", object=name, sentence=sentence, found_time=found)
            for name in objects or ("accounts/a",)
        ],
        ended_freezes=ended,
    )


async def unfreeze(service: Service, staff: FreezeServiceStub, name: str, **values: Any) -> Any:
    """Ends a freeze as the operator."""
    role, note = values.pop("role", "operator"), values.pop("note", "put right")
    request = freeze_pb.UnfreezeLedgerRequest(name=name, note=note, **values)
    return (await staff.UnfreezeLedger(request, metadata=service.token(role), timeout=5)).ledger_freeze


async def state(service: Service, staff: FreezeServiceStub) -> freeze_pb.GetLedgerStateResponse:
    """What is frozen, as the auditor sees it."""
    return await staff.GetLedgerState(freeze_pb.GetLedgerStateRequest(), metadata=service.token("auditor"), timeout=5)


async def told(db: Database, tenant: str, aggregate: str) -> list[str]:
    """The events of an aggregate, in their order."""

    async def work(conn: Any) -> list[str]:
        rows = await conn.exec_driver_sql(
            "SELECT subject FROM outbox WHERE aggregate = %s ORDER BY version", (aggregate,)
        )
        return [row[0].split(".")[2] for row in rows]

    return await db.run(tenant, work)


async def test_a_frozen_currency_takes_nothing_and_the_rest_goes_on(
    ledger: Ledger, second_ledger: Ledger, checker: Checker
) -> None:
    """Journals and holds of the currency are refused without being kept; another currency and another tenant pay on."""
    for one in (ledger, second_ledger):
        await one.open("a", 100, type=AccountType.CUSTOMER)
        await one.open("b")
    await ledger.open("usd", currency="USD")
    await checker.FreezeLedger(asked(ledger.tenant, "USD"), timeout=5)
    (outcome,) = await ledger.apply(ledger.post(("a", -1), ("b", 1)))
    assert outcome.HasField("journal")
    await checker.FreezeLedger(asked(ledger.tenant), timeout=5)
    journal, hold = ledger.post(("a", -1), ("b", 1)), ledger.place("a", 1)
    elsewhere = second_ledger.post(("a", -1), ("b", 1))
    outcomes = await posting.apply_steps(ledger.db, [Item(step) for step in (journal, hold, elsewhere)])
    assert [reason(outcome.refusal) for outcome in outcomes[:2]] == ["LEDGER_FROZEN"] * 2  # type: ignore[union-attr]
    assert outcomes[2].HasField("journal")  # type: ignore[union-attr]
    assert await ledger.rows(f"SELECT 1 FROM step_outcomes WHERE key IN ('{journal.key}', '{hold.key}')") == []
    preview = await posting.preview_steps(ledger.db, [journal])
    assert reason(preview[0].refusal) == "LEDGER_FROZEN"
    assert (await ledger.balance("a")).posted == 99


async def test_what_gives_back_and_what_is_done_already_is_answered_while_frozen(
    ledger: Ledger, checker: Checker
) -> None:
    """A hold is released, a step is cancelled, and the outcome of a step that was done is the same as before."""
    await ledger.open("a", 100, type=AccountType.CUSTOMER)
    await ledger.open("b")
    done, held, never = ledger.post(("a", -1), ("b", 1)), ledger.place("a", 5), str(uuid.uuid4())
    before = await ledger.apply(done, held)
    await checker.FreezeLedger(asked(ledger.tenant, ""), timeout=5)
    assert (await ledger.apply(done))[0] == before[0]
    released, cancelled = await ledger.apply(Release(ledger.tenant, held.key), Cancel(ledger.tenant, never))
    assert released.hold.state != before[1].hold.state
    assert reason(cancelled.refusal) == "STEP_CANCELLED"
    assert (await ledger.balance("a")).held == 0


async def test_nothing_is_posted_after_a_freeze_is_answered(ledger: Ledger, checker: Checker) -> None:
    """Batches run all the while, from two sides; what they posted when the freeze is answered is all they ever post."""
    await ledger.open("a", 10_000, type=AccountType.CUSTOMER)
    await ledger.open("b")
    frozen = asyncio.Event()

    async def pay() -> int:
        late = 0
        while True:
            sent_after = frozen.is_set()
            (outcome,) = await ledger.apply(ledger.post(("a", -1), ("b", 1)))
            if outcome.HasField("refusal"):
                return late
            late += sent_after

    callers = [asyncio.create_task(pay()) for _ in range(4)]
    await asyncio.sleep(0)
    while (await ledger.balance("b")).posted < 20:
        await asyncio.sleep(0)
    await checker.FreezeLedger(asked(ledger.tenant), timeout=5)
    at_the_freeze = (await ledger.balance("b")).posted
    frozen.set()
    assert await asyncio.gather(*callers) == [0] * 4
    assert (await ledger.balance("b")).posted == at_the_freeze
    await ledger.check_books()


async def test_a_freeze_waits_for_the_batch_under_way(ledger: Ledger, checker: Checker, db: Database) -> None:
    """A batch that holds the ledger's lock has not seen the freeze, so it has to commit first."""
    held, let_go = asyncio.Event(), asyncio.Event()

    async def batch(conn: Any) -> None:
        await conn.exec_driver_sql("SELECT pg_advisory_xact_lock_shared(%s, %s)", (0x66727A65, lock_key(ledger.tenant)))
        held.set()
        await let_go.wait()

    under_way = asyncio.create_task(db.run(ledger.tenant, batch))
    await held.wait()
    freezing = asyncio.ensure_future(checker.FreezeLedger(asked(ledger.tenant), timeout=5))
    done, _ = await asyncio.wait({freezing}, timeout=0.3)
    assert not done
    let_go.set()
    await under_way
    assert (await freezing).ledger_freeze


async def test_a_freeze_ends_by_a_person_and_its_findings_do_not_freeze_again(
    service: Service, checker: Checker, staff: FreezeServiceStub, db: Database
) -> None:
    """A finding is recorded once; one that is known freezes nothing, another one does; all is told and audited."""
    first = await checker.FreezeLedger(asked(service.tenant, "EUR", "accounts/a"), timeout=5)
    again = await checker.FreezeLedger(asked(service.tenant, "EUR", "accounts/a", "accounts/b"), timeout=5)
    assert (first.new_findings, again.new_findings) == (1, 1)
    assert first.ledger_freeze == again.ledger_freeze
    (standing,) = (await state(service, staff)).ledger_freezes
    assert (standing.finding_count, standing.reason) == (2, "INV-2 does not hold for accounts/a: broken")
    early = unfreeze(service, staff, standing.name, etag="1")
    assert await refusal(early) == "ETAG_MISMATCH"
    ending = {"etag": standing.etag, "request_id": "u1", "accept_findings": True}
    ended = await unfreeze(service, staff, standing.name, **ending)
    assert (ended.state, ended.ended_by, ended.note) == (
        freeze_pb2.LEDGER_FREEZE_STATE_ENDED,
        "operator",
        "put right",
    )
    assert await unfreeze(service, staff, standing.name, **ending) == ended
    assert await refusal(unfreeze(service, staff, standing.name)) == "LEDGER_FREEZE_ENDED"
    assert not (await state(service, staff)).frozen
    known = await checker.FreezeLedger(asked(service.tenant, "EUR", "accounts/b", "accounts/a", ended=1), timeout=5)
    assert (known.ledger_freeze, known.new_findings) == ("", 0)
    other = await checker.FreezeLedger(asked(service.tenant, "EUR", sentence="other numbers", ended=1), timeout=5)
    assert other.ledger_freeze not in ("", first.ledger_freeze)
    assert await told(db, service.tenant, first.ledger_freeze) == [
        "ledger_frozen",
        "ledger_findings_added",
        "ledger_unfrozen",
    ]

    async def audited(conn: Any) -> list[tuple[Any, ...]]:
        rows = await conn.exec_driver_sql(
            "SELECT subject, action, why FROM audit WHERE resource = %s ORDER BY id", (first.ledger_freeze,)
        )
        return [tuple(row) for row in rows]

    assert await db.run(service.tenant, audited) == [
        ("services/checker", "freeze_ledger", "INV-2 does not hold for accounts/a: broken"),
        ("services/checker", "add_ledger_findings", "INV-2 does not hold for accounts/b: broken"),
        ("operator", "unfreeze_ledger", "put right"),
    ]


async def test_what_was_not_accepted_freezes_again_unless_it_was_found_before(
    service: Service, checker: Checker, staff: FreezeServiceStub
) -> None:
    """A repair that was none is found again; a finding on its way while it was put right does not undo the end."""
    first = await checker.FreezeLedger(asked(service.tenant), timeout=5)
    await unfreeze(service, staff, first.ledger_freeze)
    late = await checker.FreezeLedger(asked(service.tenant, sentence="other words"), timeout=5)
    assert (late.ledger_freeze, late.new_findings) == ("", 0)
    elsewhere = await checker.FreezeLedger(asked(service.tenant, "USD"), timeout=5)
    assert elsewhere.new_findings == 1
    again = await checker.FreezeLedger(asked(service.tenant, ended=1), timeout=5)
    assert again.new_findings == 1
    assert again.ledger_freeze not in ("", first.ledger_freeze)


async def test_freezes_and_findings_are_listed_in_pages(
    service: Service, checker: Checker, staff: FreezeServiceStub
) -> None:
    """The newest freeze first; a page token is of its own list."""
    for currency in ("EUR", "USD", ""):
        objects = [f"accounts/{number}" for number in range(3)]
        await checker.FreezeLedger(asked(service.tenant, currency, *objects, sentence=f"of {currency}"), timeout=5)
    metadata = service.token("auditor")
    listed: list[Any] = []
    request = freeze_pb.ListLedgerFreezesRequest(page_size=2, state=freeze_pb2.LEDGER_FREEZE_STATE_ACTIVE)
    while True:
        page = await staff.ListLedgerFreezes(request, metadata=metadata, timeout=5)
        listed += page.ledger_freezes
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert [one.currency_code for one in listed] == ["", "USD", "EUR"]
    findings = freeze_pb.ListLedgerFindingsRequest(parent=listed[0].name, page_size=2)
    pages = [await staff.ListLedgerFindings(findings, metadata=metadata, timeout=5)]
    findings.page_token = pages[0].next_page_token
    pages.append(await staff.ListLedgerFindings(findings, metadata=metadata, timeout=5))
    names = [finding.object for page in pages for finding in page.ledger_findings]
    assert sorted(names) == ["accounts/0", "accounts/1", "accounts/2"]
    request.page_token = findings.page_token
    assert await refusal(staff.ListLedgerFreezes(request, metadata=metadata, timeout=5)) == "PAGE_TOKEN_INVALID"
    got = freeze_pb.GetLedgerFreezeRequest(name=listed[0].name)
    assert (await staff.GetLedgerFreeze(got, metadata=metadata, timeout=5)).ledger_freeze == listed[0]


async def test_a_freeze_keeps_a_thousand_findings(service: Service, checker: Checker, db: Database) -> None:
    """Who changed more rows than that does not fill the database with words about them."""
    for start in range(0, FINDINGS_MAX + 100, 100):
        objects = [f"accounts/{number}" for number in range(start, start + 100)]
        answer = await checker.FreezeLedger(asked(service.tenant, "EUR", *objects), timeout=5)
    assert (bool(answer.ledger_freeze), answer.new_findings) == (True, 0)


async def test_only_the_checker_freezes_and_only_a_scope_of_its_own_unfreezes(
    service: Service, checker: Checker, staff: FreezeServiceStub
) -> None:
    """Neither transactions nor the edge freeze; who reads does not unfreeze; the checker moves no money."""
    for stub in (service.internal, service.edge_on_internal):
        assert await refusal(stub.FreezeLedger(asked(service.tenant), timeout=5)) == "CALLER_NOT_ALLOWED"
    step = ledger_pb.CancelStepsRequest.StepKey(tenant=service.tenant, key=str(uuid.uuid4()))
    assert await refusal(checker.CancelSteps(ledger_pb.CancelStepsRequest(steps=[step]))) == "CALLER_NOT_ALLOWED"
    name = (await checker.FreezeLedger(asked(service.tenant), timeout=5)).ledger_freeze
    for role in ("auditor", "teller", "compliance"):
        assert await refusal(unfreeze(service, staff, name, role=role)) == "SCOPE_MISSING"
    elsewhere = service.token("operator", tenant="elsewhere")
    request = freeze_pb.UnfreezeLedgerRequest(name=name, note="x")
    assert await refusal(staff.UnfreezeLedger(request, metadata=elsewhere, timeout=5)) == "LEDGER_FREEZE_NOT_FOUND"
    for unknown in ("ledgerFreezes/none", f"ledgerFreezes/{uuid.uuid4()}"):
        assert await refusal(unfreeze(service, staff, unknown)) == "LEDGER_FREEZE_NOT_FOUND"
    missing = checker.FreezeLedger(asked("nobody"), timeout=5)
    assert await refusal(missing) == "TENANT_NOT_FOUND"


async def test_funding_is_refused_while_frozen_and_done_under_the_same_request_id_afterwards(
    service: Service, checker: Checker, staff: FreezeServiceStub
) -> None:
    """The refusal is nobody's answer for good."""
    await service.account("bank", type_=account_pb2.ACCOUNT_TYPE_SETTLEMENT)
    await service.account("own", type_=account_pb2.ACCOUNT_TYPE_INTERNAL)
    name = (await checker.FreezeLedger(asked(service.tenant), timeout=5)).ledger_freeze
    request = service.fund("own", 10, "f1")
    assert await refusal(service.call("FundAccount", request)) == "LEDGER_FROZEN"
    await unfreeze(service, staff, name)
    assert (await service.call("FundAccount", request)).journal


async def test_journals_that_stand_or_fall_together_are_done_later_where_one_is_frozen(
    ledger: Ledger, checker: Checker, staff: FreezeServiceStub, service: Service
) -> None:
    """None is posted, and no refusal is kept: asked again after the freeze, all are."""
    for name in ("a", "b"):
        await ledger.open(name)
        await ledger.open(f"{name}-usd", currency="USD")
    frozen = (await checker.FreezeLedger(asked(ledger.tenant, "USD"), timeout=5)).ledger_freeze
    euros, dollars = ledger.post(("bank", -1), ("b", 1), actor=FUNDER), ledger.post(("a", -2), ("b", 2), actor=FUNDER)
    legs = (Leg("accounts/a-usd", "USD", -2), Leg("accounts/b-usd", "USD", 2))
    steps = [Item(euros), Item(replace(dollars, legs=legs))]
    refused = await posting.apply_steps(ledger.db, steps, together=True)
    reasons = [reason(outcome.refusal) for outcome in refused]  # type: ignore[union-attr]
    assert reasons == ["JOURNAL_BATCH_ABORTED", "LEDGER_FROZEN"]
    assert await ledger.rows(f"SELECT 1 FROM step_outcomes WHERE key IN ('{euros.key}', '{dollars.key}')") == []
    service.tenant = ledger.tenant
    await unfreeze(service, staff, frozen)
    posted = await posting.apply_steps(ledger.db, steps, together=True)
    assert all(outcome.HasField("journal") for outcome in posted)  # type: ignore[union-attr]
    await ledger.check_books()


async def test_two_batches_of_the_same_tenants_take_their_locks_in_one_order(
    ledger: Ledger, second_ledger: Ledger, checker: Checker
) -> None:
    """Batches over both ledgers, from many sides, while both are frozen: none waits for another in a circle."""
    for one in (ledger, second_ledger):
        await one.open("a", 1000, type=AccountType.CUSTOMER)
        await one.open("b")

    async def batch(number: int) -> list[Any]:
        sides = (ledger, second_ledger) if number % 2 else (second_ledger, ledger)
        steps = [Item(side.post(("a", -1), ("b", 1))) for side in sides]
        return list(await posting.apply_steps(ledger.db, steps))

    freezing = [checker.FreezeLedger(asked(one.tenant), timeout=5) for one in (ledger, second_ledger)]
    outcomes, *_ = await asyncio.gather(asyncio.gather(*(batch(number) for number in range(40))), *freezing)
    assert all(
        outcome.HasField("journal") or reason(outcome.refusal) == "LEDGER_FROZEN"
        for both in outcomes
        for outcome in both
    )
    await ledger.check_books()


def test_a_refusal_by_grpc_is_what_callers_do_not_try_again() -> None:
    """FAILED_PRECONDITION is what neither the edge nor a client repeats by itself."""
    from accounts.freeze_errors import LedgerFrozen

    assert LedgerFrozen("EUR").code is grpc.StatusCode.FAILED_PRECONDITION
