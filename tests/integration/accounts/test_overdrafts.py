"""Overdraft limits that need a second person: who asks, who decides, and what happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from accounts import overdraft_operations
from florin.accounts.v1 import account_pb2, overdraft_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from florin.accounts.v1 import overdraft_service_pb2 as overdraft_pb
from florin.common.v1 import money_pb2
from meshkit import clock
from meshkit.database import ALL_TENANTS, Database
from tests.integration.accounts.conftest import Service, refusal
from tests.integration.accounts.test_limits import minimum, sql

PENDING = overdraft_pb2.OVERDRAFT_CHANGE_STATE_PENDING
APPLIED = overdraft_pb2.OVERDRAFT_CHANGE_STATE_APPLIED
REJECTED = overdraft_pb2.OVERDRAFT_CHANGE_STATE_REJECTED
EXPIRED = overdraft_pb2.OVERDRAFT_CHANGE_STATE_EXPIRED
SUPERSEDED = overdraft_pb2.OVERDRAFT_CHANGE_STATE_SUPERSEDED


def eur(minor_units: int) -> money_pb2.Money:
    """An amount."""
    return money_pb2.Money(currency_code="EUR", minor_units=minor_units)


async def threshold(service: Service, minor_units: int, **values: Any) -> Any:
    """Sets the threshold of EUR."""
    request = overdraft_pb.SetOverdraftThresholdRequest(threshold=eur(minor_units), **values)
    return (await service.call("SetOverdraftThreshold", request, "compliance")).overdraft_threshold


async def guarded(service: Service, minor_units: int = 100) -> None:
    """A customer's account "main" in a tenant with a threshold."""
    await service.customer("acme")
    await service.account("main", "acme")
    await threshold(service, minor_units)


def wish(limit: int, **values: Any) -> pb.UpdateAccountRequest:
    """A request for an overdraft limit of "main"."""
    account = account_pb2.Account(
        name="accounts/main", overdraft_limit_minor_units=limit, etag=values.pop("etag", ""), display_name="Main"
    )
    paths = ["overdraft_limit_minor_units", *values.pop("also", ())]
    return pb.UpdateAccountRequest(account=account, update_mask=FieldMask(paths=paths), **values)


async def ask(service: Service, limit: int, **values: Any) -> Any:
    """Asks for a limit as a teller; the answer."""
    return await service.call("UpdateAccount", wish(limit, **values), "teller")


async def limit_of(service: Service) -> int:
    """The limit of "main"."""
    account = (await service.call("GetAccount", pb.GetAccountRequest(name="accounts/main"))).account
    return int(account.overdraft_limit_minor_units)


async def change(service: Service, name: str) -> Any:
    """A change as it is now."""
    request = overdraft_pb.GetOverdraftChangeRequest(name=name)
    return (await service.call("GetOverdraftChange", request, "auditor")).overdraft_change


async def approve(service: Service, name: str, subject: str = "officer", **values: Any) -> Any:
    """Approves a change as a person."""
    request = overdraft_pb.ApproveOverdraftChangeRequest(name=name, **values)
    return await service.call("ApproveOverdraftChange", request, "compliance", subject=subject)


async def reject(service: Service, name: str, subject: str = "officer", **values: Any) -> Any:
    """Rejects a change as a person."""
    request = overdraft_pb.RejectOverdraftChangeRequest(name=name, reason="too much", **values)
    return await service.call("RejectOverdraftChange", request, "compliance", subject=subject)


async def told(db: Database, service: Service, aggregate: str) -> Sequence[str]:
    """The events that were told of an aggregate, in order."""
    rows = await sql(
        db, service, f"SELECT subject, version FROM outbox WHERE aggregate = '{aggregate}' ORDER BY version"
    )
    assert [version for _, version in rows] == list(range(1, len(rows) + 1))
    return [subject.removeprefix("florin.accounts.").removesuffix(".v1") for subject, _ in rows]


async def test_a_raise_above_the_threshold_is_applied_by_a_second_person(service: Service, db: Database) -> None:
    """Until then the account keeps its limit; everything else in the request applies at once; both are audited."""
    await guarded(service)
    answer = await ask(service, 101, also=["display_name"])
    waiting = answer.overdraft_change
    assert (answer.account.overdraft_limit_minor_units, answer.account.display_name) == (0, "Main")
    assert (waiting.state, waiting.previous_limit, waiting.limit) == (PENDING, eur(0), eur(101))
    assert (waiting.requested_by, waiting.account) == ("teller", "accounts/main")
    hours = (waiting.expire_time.ToDatetime() - waiting.create_time.ToDatetime()) / timedelta(hours=1)
    assert hours == 72
    approved = await approve(service, waiting.name, etag=waiting.etag)
    assert approved.account.overdraft_limit_minor_units == 101
    assert (approved.overdraft_change.state, approved.overdraft_change.decided_by) == (APPLIED, "officer")
    assert await change(service, waiting.name) == approved.overdraft_change
    assert await limit_of(service) == 101
    assert await told(db, service, waiting.name) == ["overdraft_change_requested", "overdraft_change_ended"]
    assert await told(db, service, "accounts/main") == ["account_opened", "account_updated", "account_updated"]
    audited = await sql(
        db,
        service,
        "SELECT action, resource, subject, before, after FROM audit WHERE action LIKE '%%overdraft%%' ORDER BY id",
    )
    assert [row[:3] for row in audited] == [
        ("set_overdraft_threshold", "overdraftThresholds/EUR", "compliance"),
        ("request_overdraft_limit", waiting.name, "teller"),
        ("approve_overdraft_limit", waiting.name, "officer"),
        ("raise_overdraft_limit", "accounts/main", "officer"),
    ]
    assert (audited[3][3]["overdraft_limit_minor_units"], audited[3][4]["overdraft_limit_minor_units"]) == (0, 101)


async def test_what_stays_below_or_is_lowered_applies_at_once(service: Service) -> None:
    """At the threshold too; and where no threshold is set, everything does, as before there were any."""
    await service.customer("acme")
    await service.account("main", "acme")
    assert (await ask(service, 5000)).account.overdraft_limit_minor_units == 5000
    await threshold(service, 100)
    for limit in (4000, 200, 50, 100):
        answer = await ask(service, limit)
        assert (answer.account.overdraft_limit_minor_units, answer.HasField("overdraft_change")) == (limit, False)
    assert (await ask(service, 101)).HasField("overdraft_change")


async def test_an_account_is_opened_without_what_needs_a_second_person(service: Service, db: Database) -> None:
    """Otherwise opening one would be the way around; what waits is raised as any other."""
    await service.customer("acme")
    await threshold(service, 100)
    request = pb.CreateAccountRequest(
        account_id="main",
        customers=["customers/acme"],
        type=account_pb2.ACCOUNT_TYPE_CUSTOMER,
        currency_code="EUR",
        overdraft_limit_minor_units=500,
        request_id="open",
    )
    opened = await service.call("CreateAccount", request, "teller")
    assert opened.account.overdraft_limit_minor_units == 0
    assert await service.call("CreateAccount", request, "teller") == opened
    await approve(service, opened.overdraft_change.name)
    assert await limit_of(service) == 500
    dollars = pb.CreateAccountRequest(
        account_id="usd",
        customers=["customers/acme"],
        type=account_pb2.ACCOUNT_TYPE_CUSTOMER,
        currency_code="USD",
        overdraft_limit_minor_units=500,
    )
    assert (await service.call("CreateAccount", dollars, "teller")).account.overdraft_limit_minor_units == 500


async def test_who_asked_does_not_approve_but_may_take_it_back(service: Service) -> None:
    """Four eyes go by the person, whatever the roles; saying no needs no second one."""
    await guarded(service)
    waiting = (await ask(service, 101)).overdraft_change
    assert await refusal(approve(service, waiting.name, "teller")) == "FOUR_EYES"
    assert await limit_of(service) == 0
    rejected = (await reject(service, waiting.name, "teller")).overdraft_change
    assert (rejected.state, rejected.reason, rejected.decided_by) == (REJECTED, "too much", "teller")
    assert await refusal(approve(service, waiting.name)) == "OVERDRAFT_CHANGE_ENDED"
    assert await limit_of(service) == 0


async def test_who_may_not_approve_is_refused(service: Service) -> None:
    """The scope decides: neither those who may ask, nor customers, nor those who read."""
    await guarded(service)
    waiting = (await ask(service, 101)).overdraft_change
    request = overdraft_pb.ApproveOverdraftChangeRequest(name=waiting.name)
    for role in ("teller", "operator", "auditor"):
        assert await refusal(service.call("ApproveOverdraftChange", request, role, subject="x")) == "SCOPE_MISSING"
    get = overdraft_pb.GetOverdraftChangeRequest(name=waiting.name)
    as_customer = {"role": "customer", "customer": "customers/acme"}
    assert await refusal(service.call("GetOverdraftChange", get, **as_customer)) == "STAFF_ONLY"
    await service.call("CreateTenant", pb.CreateTenantRequest(tenant_id=f"{service.tenant[:20]}x"))
    elsewhere = service.call("GetOverdraftChange", get, "teller", tenant=f"{service.tenant[:20]}x")
    assert await refusal(elsewhere) == "OVERDRAFT_CHANGE_NOT_FOUND"


async def test_deciding_is_refused_in_the_documented_order(service: Service) -> None:
    """Not found, ended, changed since it was looked at, the same person."""
    await guarded(service)
    waiting = (await ask(service, 101)).overdraft_change
    for unknown in ("overdraftChanges/nobody", "overdraftChanges/" + "0" * 32, waiting.name.replace("-", "")):
        assert await refusal(approve(service, unknown)) == "OVERDRAFT_CHANGE_NOT_FOUND"
    assert await refusal(approve(service, waiting.name, "teller", etag="9")) == "ETAG_MISMATCH"
    assert await refusal(approve(service, waiting.name, "teller", etag=waiting.etag)) == "FOUR_EYES"
    await approve(service, waiting.name)
    assert await refusal(approve(service, waiting.name, "teller", etag="9")) == "OVERDRAFT_CHANGE_ENDED"
    assert await refusal(reject(service, waiting.name)) == "OVERDRAFT_CHANGE_ENDED"


async def test_an_approval_has_one_effect_however_often_it_is_asked_for(service: Service) -> None:
    """INV-5: copies of the request have its answer; other people who decide at the same moment are told it is done."""
    await guarded(service)
    waiting = (await ask(service, 101, request_id="a1")).overdraft_change
    assert (await ask(service, 101, request_id="a1")).overdraft_change == waiting
    copies = await asyncio.gather(*(approve(service, waiting.name, request_id="r1") for _ in range(5)))
    assert all(answer == copies[0] for answer in copies)
    waiting = (await ask(service, 202)).overdraft_change
    deciding = [approve(service, waiting.name, f"officer-{number}") for number in range(5)]
    deciding += [reject(service, waiting.name, f"other-{number}") for number in range(5)]
    outcomes = await asyncio.gather(*deciding, return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    ended = await change(service, waiting.name)
    assert ended.state in (APPLIED, REJECTED)
    assert await limit_of(service) == (202 if ended.state == APPLIED else 101)


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param(wish(50), id="set at once"),
        pytest.param(wish(0), id="left as it is"),
        pytest.param(wish(300), id="asked for anew"),
    ],
)
async def test_whoever_names_the_limit_replaces_what_waits(service: Service, meanwhile: Any, db: Database) -> None:
    """The latest wish counts: what was asked for before can no longer be approved."""
    await guarded(service)
    waiting = (await ask(service, 101)).overdraft_change
    answer = await service.call("UpdateAccount", meanwhile, "teller", subject="another")
    assert (await change(service, waiting.name)).state == SUPERSEDED
    assert await refusal(approve(service, waiting.name)) == "OVERDRAFT_CHANGE_ENDED"
    assert await told(db, service, waiting.name) == ["overdraft_change_requested", "overdraft_change_ended"]
    if answer.HasField("overdraft_change"):
        await approve(service, answer.overdraft_change.name, "teller")
        assert await limit_of(service) == 300


async def test_a_refused_update_leaves_what_waits(service: Service) -> None:
    """Only what is done replaces it."""
    await guarded(service)
    waiting = (await ask(service, 101)).overdraft_change
    assert await refusal(ask(service, 50, etag="77")) == "ETAG_MISMATCH"
    renamed = pb.UpdateAccountRequest(
        account=account_pb2.Account(name="accounts/main", display_name="New"),
        update_mask=FieldMask(paths=["display_name"]),
    )
    await service.call("UpdateAccount", renamed, "teller")
    freeze = pb.BlockAccountRequest(name="accounts/main", side=account_pb2.POSTING_SIDE_DEBIT, reason="x")
    await service.call("BlockAccount", freeze, "teller")
    assert (await approve(service, waiting.name)).account.overdraft_limit_minor_units == 101


async def test_closing_the_account_or_setting_a_minimum_ends_what_waits(service: Service, db: Database) -> None:
    """Neither leaves an account that could have the limit."""
    await guarded(service)
    await service.account("bank", type_=account_pb2.ACCOUNT_TYPE_SETTLEMENT)
    await sql(db, service, "UPDATE accounts SET state = 2 WHERE account = 'main' RETURNING 1")
    await service.call("FundAccount", service.fund("main", 10, "f"))
    first = (await ask(service, 101)).overdraft_change
    await service.call("UpdateAccount", minimum(10), "teller")
    await service.call("UpdateAccount", minimum(None), "teller")
    assert (await change(service, first.name)).state == SUPERSEDED
    await service.account("second", "acme")
    account = account_pb2.Account(name="accounts/second", overdraft_limit_minor_units=101)
    mask = FieldMask(paths=["overdraft_limit_minor_units"])
    request = pb.UpdateAccountRequest(account=account, update_mask=mask)
    second = (await service.call("UpdateAccount", request, "teller")).overdraft_change
    await service.call("CloseAccount", pb.CloseAccountRequest(name="accounts/second"), "teller")
    assert (await change(service, second.name)).state == SUPERSEDED
    assert await refusal(approve(service, second.name)) == "OVERDRAFT_CHANGE_ENDED"


async def test_a_change_of_a_version_that_knew_nothing_of_it_is_not_overwritten(service: Service, db: Database) -> None:
    """While two versions run side by side, the older one ends nothing that waits; the limit it set stays."""
    await guarded(service)
    waiting = (await ask(service, 101)).overdraft_change
    await sql(db, service, "UPDATE accounts SET overdraft_limit = 70 WHERE account = 'main' RETURNING 1")
    assert await refusal(approve(service, waiting.name)) == "OVERDRAFT_CHANGE_ENDED"
    assert await limit_of(service) == 70


async def test_a_change_expires_and_is_told_once(service: Service, db: Database) -> None:
    """From its time on it cannot be approved, whether or not the worker was there; two workers end it once."""
    await guarded(service)
    waiting = (await ask(service, 101)).overdraft_change
    later = clock.now() + timedelta(hours=73)

    async def expire() -> int:
        return await db.run(
            ALL_TENANTS, lambda conn: overdraft_operations.expire_overdraft_changes(conn, later, limit=500)
        )

    await sql(
        db, service, "UPDATE overdraft_changes SET expire_time = create_time + interval '1 microsecond' RETURNING 1"
    )
    assert await refusal(approve(service, waiting.name)) == "OVERDRAFT_CHANGE_ENDED"
    assert sorted(await asyncio.gather(expire(), expire()))[0] == 0
    ended = await change(service, waiting.name)
    assert (ended.state, ended.decided_by) == (EXPIRED, "")
    assert await told(db, service, waiting.name) == ["overdraft_change_requested", "overdraft_change_ended"]
    assert (await ask(service, 101)).overdraft_change.state == PENDING


async def test_requests_and_approvals_at_once_leave_one_truth(service: Service) -> None:
    """However wishes, approvals and rejections meet, the limit is that of the last change that was applied or set."""
    await guarded(service)
    in_force: list[tuple[int, int]] = []

    async def ask_and_decide(number: int) -> None:
        try:
            answer = await service.call("UpdateAccount", wish(200 + number), "teller", subject=f"t{number}")
            if not answer.HasField("overdraft_change"):  # a higher one was approved before: a lower one needs nobody
                in_force.append(
                    (answer.account.update_time.ToNanoseconds(), answer.account.overdraft_limit_minor_units)
                )
                return
            await approve(service, answer.overdraft_change.name, f"o{number}")
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error

    await asyncio.gather(*(ask_and_decide(number) for number in range(8)))
    listed = await service.call("ListOverdraftChanges", overdraft_pb.ListOverdraftChangesRequest(), "auditor")
    changes = listed.overdraft_changes
    assert sum(one.state == PENDING for one in changes) <= 1
    in_force += [(one.end_time.ToNanoseconds(), one.limit.minor_units) for one in changes if one.state == APPLIED]
    assert await limit_of(service) == max(in_force)[1]


async def test_changes_are_listed_by_account_and_state_in_pages(service: Service) -> None:
    """The newest first, each once; a page token belongs to its filter."""
    await guarded(service)
    await service.account("other", "acme")
    names = [(await ask(service, 101 + number)).overdraft_change.name for number in range(4)]
    account = account_pb2.Account(name="accounts/other", overdraft_limit_minor_units=999)
    mask = FieldMask(paths=["overdraft_limit_minor_units"])
    request = pb.UpdateAccountRequest(account=account, update_mask=mask)
    other = (await service.call("UpdateAccount", request, "teller")).overdraft_change.name

    async def pages(**filters: Any) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            listing = overdraft_pb.ListOverdraftChangesRequest(page_size=2, page_token=token, **filters)
            page = await service.call("ListOverdraftChanges", listing, "compliance")
            found += [one.name for one in page.overdraft_changes]
            token = page.next_page_token
            if not token:
                return found

    assert await pages() == [other, *reversed(names)]
    assert await pages(account="accounts/main") == list(reversed(names))
    assert await pages(state=PENDING) == [other, names[-1]]
    assert await pages(account="accounts/main", state=SUPERSEDED) == list(reversed(names[:3]))
    first = await service.call(
        "ListOverdraftChanges", overdraft_pb.ListOverdraftChangesRequest(page_size=1), "compliance"
    )
    mixed = overdraft_pb.ListOverdraftChangesRequest(page_token=first.next_page_token, state=PENDING)
    assert await refusal(service.call("ListOverdraftChanges", mixed, "compliance")) == "PAGE_TOKEN_INVALID"


async def test_a_threshold_is_set_read_and_listed(service: Service, db: Database) -> None:
    """A change of it is told once, the same value is none; its etag keeps two people from overwriting each other."""
    get = overdraft_pb.GetOverdraftThresholdRequest(name="overdraftThresholds/EUR")
    assert await refusal(service.call("GetOverdraftThreshold", get, "teller")) == "OVERDRAFT_THRESHOLD_NOT_FOUND"
    assert await refusal(threshold(service, 5, etag="1")) == "ETAG_MISMATCH"
    outcomes = await asyncio.gather(*(threshold(service, 100) for _ in range(5)))
    assert {one.etag for one in outcomes} == {"1"}
    assert (outcomes[0].threshold, outcomes[0].set_by) == (eur(100), "compliance")
    changed = await threshold(service, 200, etag="1")
    assert changed.etag == "2"
    assert await refusal(threshold(service, 300, etag="1")) == "ETAG_MISMATCH"
    assert (await service.call("GetOverdraftThreshold", get, "teller")).overdraft_threshold == changed
    listing = overdraft_pb.ListOverdraftThresholdsRequest(page_size=1)
    listed = await service.call("ListOverdraftThresholds", listing, "teller")
    assert (list(listed.overdraft_thresholds), listed.next_page_token) == ([changed], "")
    assert await told(db, service, "overdraftThresholds/EUR") == ["overdraft_threshold_changed"] * 2
    unknown = overdraft_pb.SetOverdraftThresholdRequest(threshold=money_pb2.Money(currency_code="XXX", minor_units=1))
    assert await refusal(service.call("SetOverdraftThreshold", unknown, "compliance")) == "CURRENCY_UNKNOWN"
    assert await refusal(threshold(service, -1)) == "REQUEST_INVALID"
    request = overdraft_pb.SetOverdraftThresholdRequest(threshold=eur(1))
    nowhere = service.call("SetOverdraftThreshold", request, "compliance", tenant="nowhere")
    assert await refusal(nowhere) == "TENANT_NOT_FOUND"
    assert await refusal(service.call("SetOverdraftThreshold", request, "teller")) == "SCOPE_MISSING"
