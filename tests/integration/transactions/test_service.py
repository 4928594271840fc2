"""The service over gRPC with real identities: bad input, batches, previews, lists, visibility, verdicts by event."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

from florin.common.v1 import money_pb2
from florin.compliance.v1 import decision_pb2
from florin.compliance.v1 import events_pb2 as compliance
from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from local import issuer
from meshkit import clock
from meshkit.database import Database
from meshkit.envelopes import Incoming
from meshkit.errors import error_info
from tests.integration.transactions.conftest import Service, order
from tests.integration.transactions.fakes import TRACE
from tests.support import parts as real
from transactions import consumers


async def create(service: Service, **changes: Any) -> transfer_pb2.Transfer:
    """A transfer by a teller."""
    return (await service.call("CreateTransfer", order(**changes))).transfer


async def test_a_transfer_is_made_read_and_listed(service: Service) -> None:
    """What was created is what is read, and the decision is for compliance alone."""
    made = await create(service, end_to_end_id="E2E", creditor_name="Nord")
    assert made.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    assert made.decision == ""
    request = pb.GetTransferRequest(name=made.name)
    assert (await service.call("GetTransfer", request)).transfer == made
    seen = (await service.call("GetTransfer", request, role="compliance")).transfer
    assert seen.decision.startswith("decisions/")


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"amount": money_pb2.Money(currency_code="XXX", minor_units=1)}, "INVALID_ARGUMENT", "CURRENCY_UNKNOWN"),
        ({"amount": money_pb2.Money(currency_code="EUR", minor_units=0)}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"amount": money_pb2.Money(currency_code="EUR", minor_units=-5)}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"amount": None}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"debit_account": "iban:DE89370400440532013001"}, "INVALID_ARGUMENT", "IDENTIFIER_INVALID"),
        ({"debit_account": "somewhere"}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"creditor_name": "x" * 141}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"request_id": "r" * 129}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"debit_account": "accounts/b"}, "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ({"credit_account": "accounts/nobody"}, "NOT_FOUND", "ACCOUNT_NOT_FOUND"),
    ],
)
async def test_bad_input_has_its_reason(service: Service, changes: dict[str, Any], code: str, reason: str) -> None:
    """Each mistake is refused as what it is, and none as INTERNAL."""
    request = order()
    for field, value in changes.items():
        request.ClearField(field)  # type: ignore[arg-type]
        if isinstance(value, money_pb2.Money):
            request.amount.CopyFrom(value)
        elif value is not None:
            setattr(request, field, value)
    assert await service.refused("CreateTransfer", request) == (code, reason)


async def test_what_is_refused_at_once_leaves_no_trace(service: Service) -> None:
    """An unknown currency is refused before anything is recorded: the request_id is free again."""
    request = order(amount=money_pb2.Money(currency_code="XXX", minor_units=1))
    await service.refused("CreateTransfer", request)
    request.amount.currency_code = "EUR"
    made = await service.call("CreateTransfer", request)
    assert made.transfer.state == transfer_pb2.TRANSFER_STATE_COMPLETED


async def test_a_batch_has_a_result_for_each_item(service: Service) -> None:
    """Good, without request_id, validate_only, unknown currency, unknown account: each for itself, in order."""
    items = [
        order(),
        order(request_id=""),
        order(validate_only=True),
        order(amount=money_pb2.Money(currency_code="XXX", minor_units=1)),
        order(credit_account="accounts/nobody"),
    ]
    answer = await service.call("BatchCreateTransfers", pb.BatchCreateTransfersRequest(requests=items))
    reasons = [getattr(error_info(result.status), "reason", "") for result in answer.results]
    assert reasons == ["", "REQUEST_INVALID", "REQUEST_INVALID", "CURRENCY_UNKNOWN", "ACCOUNT_NOT_FOUND"]
    assert answer.results[4].transfer.state == transfer_pb2.TRANSFER_STATE_DECLINED


async def test_a_batch_of_1001_is_refused_whole(service: Service) -> None:
    """The limit is the contract's."""
    request = pb.BatchCreateTransfersRequest(requests=[order() for _ in range(1001)])
    assert await service.refused("BatchCreateTransfers", request) == ("INVALID_ARGUMENT", "REQUEST_INVALID")


async def test_a_request_is_the_same_alone_and_in_a_batch(service: Service) -> None:
    """INV-5 holds over both methods, in both directions."""
    single, item = order(), order()
    made = (await service.call("CreateTransfer", single)).transfer
    answer = await service.call("BatchCreateTransfers", pb.BatchCreateTransfersRequest(requests=[single, item]))
    assert answer.results[0].transfer == made
    assert (await service.call("CreateTransfer", item)).transfer == answer.results[1].transfer
    item.amount.minor_units += 1
    assert await service.refused("CreateTransfer", item) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_a_call_that_the_edge_sends_again_is_one_transfer_also_without_a_key(service: Service) -> None:
    """The edge's id of the call stands in for the caller's key; two calls of the same content are two transfers."""
    token = issuer.mint(service.state, "teller", tenant="service")
    request = order(request_id="")

    async def sent_as(edges_id: str) -> transfer_pb2.Transfer:
        metadata = (("authorization", f"Bearer {token}"), ("x-request-id", edges_id))
        transfer: transfer_pb2.Transfer = (
            await service.stubs[0].CreateTransfer(request, metadata=metadata, timeout=5)
        ).transfer
        return transfer

    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    made = await sent_as(first)
    assert made.request_id == ""
    assert await sent_as(first) == made
    assert (await sent_as(second)).name != made.name


async def test_a_preview_tells_and_does_nothing(service: Service) -> None:
    """Legs, balances of own accounts and events; no transfer, no journal, no decision."""
    request = order(debit_account="accounts/anna", validate_only=True)
    who = {"role": "customer", "customer": "customers/anna"}
    answer = await service.call("CreateTransfer", request, **who)
    preview = answer.preview
    assert preview.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    assert [(leg.account, leg.amount.minor_units) for leg in preview.legs] == [
        ("accounts/anna", -1000),
        ("accounts/b", 1000),
    ]
    assert preview.legs[0].balance_after.minor_units == 49_000
    assert not preview.legs[1].HasField("balance_after")
    assert list(preview.events) == [
        "florin.transactions.transfer_accepted.v1",
        "florin.transactions.transfer_completed.v1",
    ]
    poor = order(debit_account="accounts/anna", validate_only=True)
    poor.amount.minor_units = 60_000
    refused = (await service.call("CreateTransfer", poor, **who)).preview
    assert error_info(refused.refusal).reason == "INSUFFICIENT_FUNDS"  # type: ignore[union-attr]
    assert service.ledger.journals == {}
    assert service.screening.outcomes == {}
    assert not (await service.call("ListTransfers", pb.ListTransfersRequest(), **who)).transfers


@pytest.mark.parametrize(("role", "shown"), [("operator", TRACE), ("teller", decision_pb2.DecisionTrace())])
async def test_a_preview_shows_the_decisions_trace_to_who_may_read_it(
    service: Service, role: str, shown: decision_pb2.DecisionTrace
) -> None:
    """compliance:read sees every check, also of a payment that would be declined; others see the outcome alone."""
    for amount in (1000, service.screening.DECLINE_FROM):
        request = order(validate_only=True)
        request.amount.minor_units = amount
        preview = (await service.call("CreateTransfer", request, role=role)).preview
        assert preview.decision == shown
    unknown = order(debit_account="accounts/nobody", validate_only=True)
    preview = (await service.call("CreateTransfer", unknown, role=role)).preview
    assert not preview.HasField("decision")


async def test_a_preview_under_a_used_key_is_of_what_is_asked_now(service: Service) -> None:
    """Not of the payment that the request_id, or the transfer_id, made before."""
    made = await create(service, request_id="used", transfer_id="used")
    assert made.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    poor = order(request_id="used", transfer_id="used", validate_only=True)
    poor.amount.minor_units = 50_000_000
    preview = (await service.call("CreateTransfer", poor)).preview
    assert preview.state == transfer_pb2.TRANSFER_STATE_DECLINED
    assert not preview.legs


async def test_lists_page_through_under_new_transfers(service: Service) -> None:
    """Newest first; a transfer made meanwhile neither repeats nor hides one; a token fits its filter alone."""
    tenant = f"t{uuid.uuid4().hex[:8]}"
    made = [(await service.call("CreateTransfer", order(), tenant=tenant)).transfer.name for _ in range(5)]
    request = pb.ListTransfersRequest(page_size=2, filter="state = COMPLETED")
    found: list[str] = []
    while True:
        page = await service.call("ListTransfers", request, tenant=tenant)
        found += [transfer.name for transfer in page.transfers]
        if not page.next_page_token:
            break
        await service.call("CreateTransfer", order(), tenant=tenant)
        request.page_token = page.next_page_token
    assert found == made[::-1]
    request.page_token, request.filter = request.page_token, "state = DECLINED"
    assert await service.refused("ListTransfers", request, tenant=tenant) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    wrong = pb.ListTransfersRequest(filter="colour = red")
    assert await service.refused("ListTransfers", wrong, tenant=tenant) == ("INVALID_ARGUMENT", "FILTER_INVALID")


async def test_customers_see_what_debits_them_and_nothing_else(service: Service) -> None:
    """Made by staff on Anna's account: Anna sees it, Ben and other tenants do not."""
    made = await create(service, debit_account="accounts/anna")
    request = pb.GetTransferRequest(name=made.name)
    anna = {"role": "customer", "customer": "customers/anna"}
    assert (await service.call("GetTransfer", request, **anna)).transfer.name == made.name
    listed = await service.call("ListTransfers", pb.ListTransfersRequest(), **anna)
    assert made.name in [transfer.name for transfer in listed.transfers]
    absent = ("NOT_FOUND", "TRANSFER_NOT_FOUND")
    for who in ({"role": "customer", "customer": "customers/ben"}, {"role": "teller", "tenant": "elsewhere"}):
        assert await service.refused("GetTransfer", request, **who) == absent
        assert await service.refused("WaitTransfer", pb.WaitTransferRequest(name=made.name), **who) == absent
        assert await service.refused("CancelTransfer", pb.CancelTransferRequest(name=made.name), **who) == absent
    reverse = pb.ReverseTransferRequest(name=made.name, reason="no", request_id="r")
    assert await service.refused("ReverseTransfer", reverse, **anna) == ("PERMISSION_DENIED", "STAFF_ONLY")


async def test_a_resolved_case_finishes_its_transfer(service: Service, parts: real.Parts) -> None:
    """The event is noted once, also when it comes again; the running worker posts with the hold."""
    request = order()
    request.amount.minor_units = service.screening.REVIEW_FROM
    held = (await service.call("CreateTransfer", request)).transfer
    assert held.state == transfer_pb2.TRANSFER_STATE_IN_REVIEW
    message = compliance.CaseResolved(case="cases/c", transfer=held.name, state=decision_pb2.CASE_STATE_APPROVED)
    event = Incoming(
        id=uuid.uuid4(),
        type="florin.compliance.case_resolved.v1",
        source="//florin/compliance",
        tenant="service",
        aggregate="cases/c",
        version=2,
        time=clock.now(),
        traceparent="",
        data=message.SerializeToString(),
        again=False,
    )
    async with Database.open(service.settings) as db:
        await db.run("service", lambda conn: consumers.handle(conn, [event, event]))

    async def completed() -> bool:
        answer = await service.call("GetTransfer", pb.GetTransferRequest(name=held.name))
        return bool(answer.transfer.state == transfer_pb2.TRANSFER_STATE_COMPLETED)

    await real.eventually(completed)
    assert service.ledger.active_holds() == 0
    assert service.ledger.journals == {held.name: 1}


async def test_a_reversal_counts_from_a_day_not_far_away(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten years before and after the present; a copy of the request is answered whenever it comes."""
    one = await create(service)
    reverse = pb.ReverseTransferRequest(name=one.name, reason="twice paid", request_id=uuid.uuid4().hex)
    for days in (-3700, 3700, 365 * 5000):
        reverse.effective_time.CopyFrom(clock.timestamp(clock.now() + timedelta(days=days)))
        assert await service.refused("ReverseTransfer", reverse) == ("INVALID_ARGUMENT", "REQUEST_INVALID"), days
    reverse.effective_time.CopyFrom(clock.timestamp(clock.now() - timedelta(days=3600)))
    first = (await service.call("ReverseTransfer", reverse)).reversal
    real_now = clock.now
    monkeypatch.setattr(clock, "now", lambda: real_now() + timedelta(days=200))
    assert (await service.call("ReverseTransfer", reverse)).reversal == first


async def test_cancel_and_reverse_keep_their_request_ids(service: Service) -> None:
    """The same request gives the same answer; its request_id for another transfer is refused."""
    one, two = await create(service), await create(service)
    reverse = pb.ReverseTransferRequest(name=one.name, reason="twice paid", request_id=uuid.uuid4().hex)
    first = (await service.call("ReverseTransfer", reverse)).reversal
    assert (await service.call("ReverseTransfer", reverse)).reversal == first
    assert first.reversal_of == one.name
    reverse.name = two.name
    assert await service.refused("ReverseTransfer", reverse) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    cancel = pb.CancelTransferRequest(name=two.name, request_id=uuid.uuid4().hex)
    assert await service.refused("CancelTransfer", cancel) == ("FAILED_PRECONDITION", "TRANSFER_FINAL")
    cancel.name = one.name
    assert await service.refused("CancelTransfer", cancel) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
