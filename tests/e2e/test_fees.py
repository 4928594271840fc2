"""Fees through the whole mesh: set by staff, previewed, charged in the payment's journal, held and given back."""

from __future__ import annotations

import json
import secrets

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import decimal_pb2

from florin.accounts.v1 import account_service_pb2 as accounts_pb
from florin.accounts.v1 import journal_pb2
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2, policy_pb2
from florin.transactions.v1 import fee_pb2, transfer_pb2
from florin.transactions.v1 import fee_service_pb2 as pb
from florin.transactions.v1 import transfer_service_pb2 as transfers_pb
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import PROTOCOLS, refused

CREATE, CAPTURE = "TransferService.CreateTransfer", "TransferService.CaptureTransfer"
SET, GET = "FeeService.SetFeeSchedule", "FeeService.GetFeeSchedule"
LIST, VERSIONS = "FeeService.ListFeeSchedules", "FeeService.ListFeeScheduleVersions"


@pytest.fixture
def tenant(mesh: Mesh) -> str:
    """A tenant of its own, without schedules."""
    return mesh.tenant()


def euros(minor_units: int) -> money_pb2.Money:
    """An amount."""
    return money_pb2.Money(currency_code="EUR", minor_units=minor_units)


def posted(mesh: Mesh, tenant: str, *accounts: str) -> list[int]:
    """Posted balances, in minor units."""
    return [mesh.balance(account, tenant=tenant).posted.minor_units for account in accounts]


def charging(mesh: Mesh, tenant: str, **changes: object) -> tuple[str, fee_pb2.FeeSchedule]:
    """A schedule whose fees go to a new account, known to the service; gives both."""
    account = mesh.fee_account(tenant=tenant)
    made = mesh.set_fees(account, tenant=tenant, **changes)
    kind = {"authorize_only": made.kind == fee_pb2.FEE_KIND_AUTHORIZATION}
    probe = mesh.transfer(mesh.account(funds=1_00, tenant=tenant), mesh.account(tenant=tenant), 1, **kind)
    probe.validate_only = True
    wait_until(lambda: mesh.call(CREATE, probe, tenant=tenant).transfer.fee.schedule_version == made.version)
    return account, made


def test_a_payment_is_charged_as_its_preview_said(mesh: Mesh, tenant: str) -> None:
    """One journal with four legs; the payer's fee is an entry of its own, and the transfer names what priced it."""
    fees, schedule = charging(mesh, tenant)
    customer = mesh.customer(tenant=tenant)
    debit, credit = mesh.account(customer, funds=100_00, tenant=tenant), mesh.account(tenant=tenant)
    own = {"customer": customer, "tenant": tenant}
    request = mesh.transfer(debit, credit, 40_00)
    request.validate_only = True
    preview = mesh.call(CREATE, request, "customer", **own)
    assert [(leg.account, leg.amount.minor_units) for leg in preview.preview.legs] == [
        (debit, -40_00),
        (credit, 40_00),
        (debit, -1_10),
        (fees, 1_10),
    ]
    assert [leg.balance_after.minor_units for leg in preview.preview.legs] == [60_00, 0, 58_90, 0]
    request.validate_only = False
    made = mesh.call(CREATE, request, "customer", **own).transfer
    assert made.fee == preview.transfer.fee
    assert (made.fee.amount, made.fee.schedule, made.fee.schedule_version) == (euros(1_10), schedule.name, 1)
    assert posted(mesh, tenant, debit, credit, fees) == [58_90, 40_00, 1_10]
    journal = accounts_pb.GetJournalRequest(name=made.journal)
    assert len(mesh.call("AccountService.GetJournal", journal, tenant=tenant).journal.entries) == 4
    listing = accounts_pb.ListEntriesRequest(account=debit)
    entries = mesh.call("AccountService.ListEntries", listing, "customer", **own).entries
    mine = [entry.amount.minor_units for entry in entries if entry.origin == made.name]
    assert sorted(mine) == [-40_00, -1_10]
    # Without enough for both, neither moves.
    refusal = refused(lambda: mesh.call(CREATE, mesh.transfer(debit, credit, 58_00), "customer", **own))
    assert refusal.is_for("FAILED_PRECONDITION", "INSUFFICIENT_FUNDS")
    assert posted(mesh, tenant, debit, fees) == [58_90, 1_10]


def test_limits_are_about_what_is_paid_and_not_about_its_fee(mesh: Mesh, tenant: str) -> None:
    """Exactly the limit passes, with a fee on top of it."""
    fees, _ = charging(mesh, tenant)
    limit = policy_pb2.Limit(kind=policy_pb2.LIMIT_KIND_PER_DAY, maximum=euros(10_00))
    set_limit = compliance_service_pb2.SetLimitRequest(limit=limit)
    mesh.call("ComplianceService.SetLimit", set_limit, "operator", tenant=tenant)
    debit, credit = mesh.account(funds=100_00, tenant=tenant), mesh.account(tenant=tenant)
    mesh.call(CREATE, mesh.transfer(debit, credit, 10_00), tenant=tenant)
    assert posted(mesh, tenant, debit, fees) == [88_98, 1_02]
    assert refused(lambda: mesh.call(CREATE, mesh.transfer(debit, credit, 1), tenant=tenant)).reason == "LIMIT_EXCEEDED"


def test_an_authorization_holds_its_fee_and_captures_are_charged_their_part(mesh: Mesh, tenant: str) -> None:
    """The last one is charged what is left; one that is voided pays nothing."""
    fees, _ = charging(mesh, tenant, kind=fee_pb2.FEE_KIND_AUTHORIZATION)
    debit, credit = mesh.account(funds=200_00, tenant=tenant), mesh.account(tenant=tenant)
    request = mesh.transfer(debit, credit, 100_00, authorize_only=True)
    made = mesh.call(CREATE, request, tenant=tenant).transfer
    assert (made.state, made.fee.amount) == (transfer_pb2.TRANSFER_STATE_AUTHORIZED, euros(1_25))
    assert mesh.balance(debit, tenant=tenant).held == euros(101_25)
    for amount, fee in ((40_00, 1_10), (0, 15)):
        wanted = transfers_pb.CaptureTransferRequest(name=made.name, request_id=secrets.token_hex(8))
        if amount:
            wanted.amount.CopyFrom(euros(amount))
        capture = mesh.call(CAPTURE, wanted, tenant=tenant).capture
        assert capture.fee.amount == euros(fee)
    assert posted(mesh, tenant, debit, credit, fees) == [98_75, 100_00, 1_25]
    assert mesh.balance(debit, tenant=tenant).held == euros(0)
    other = mesh.call(CREATE, mesh.transfer(debit, credit, 50_00, authorize_only=True), tenant=tenant).transfer
    mesh.call("TransferService.VoidTransfer", transfers_pb.VoidTransferRequest(name=other.name), tenant=tenant)
    assert mesh.balance(debit, tenant=tenant).available == euros(98_75)


@pytest.mark.parametrize("return_fee", [False, True])
def test_a_reversal_gives_the_fee_back_on_request(mesh: Mesh, tenant: str, return_fee: bool) -> None:
    """The journal is of the kind of reversals, so that nobody needs a right to debit the fee account."""
    fees, _ = charging(mesh, tenant)
    debit, credit = mesh.account(funds=100_00, tenant=tenant), mesh.account(tenant=tenant)
    made = mesh.call(CREATE, mesh.transfer(debit, credit, 40_00), tenant=tenant).transfer
    back = transfers_pb.ReverseTransferRequest(
        name=made.name, reason="a mistake", request_id=secrets.token_hex(8), return_fee=return_fee
    )
    reversal = mesh.call("TransferService.ReverseTransfer", back, tenant=tenant).reversal
    assert not reversal.HasField("fee")
    assert reversal.returned_fee == (made.fee if return_fee else fee_pb2.TransferFee())
    assert posted(mesh, tenant, debit, credit, fees) == ([100_00, 0, 0] if return_fee else [98_90, 0, 1_10])
    journal = accounts_pb.GetJournalRequest(name=reversal.journal)
    assert mesh.call("AccountService.GetJournal", journal, tenant=tenant).journal.kind == (
        journal_pb2.JOURNAL_KIND_REVERSAL
    )


def test_a_schedule_is_set_shown_and_listed_over_every_protocol(mesh: Mesh, tenant: str) -> None:
    """What was set is what is shown; versions are numbered, and each stays what it was."""
    account = mesh.fee_account(tenant=tenant)
    for number, protocol in enumerate(PROTOCOLS, 1):
        wanted = fee_pb2.FeeSchedule(
            kind=fee_pb2.FEE_KIND_PAYMENT,
            currency_code="EUR",
            fixed_amount=euros(number),
            percent=decimal_pb2.Decimal(value="1.5"),
            rounding=fee_pb2.FEE_ROUNDING_UP,
            minimum_amount=euros(10),
            maximum_amount=euros(1000),
            fee_account=account,
            enabled=True,
        )
        request = pb.SetFeeScheduleRequest(fee_schedule=wanted, request_id=secrets.token_hex(8))
        made = mesh.call(SET, request, "operator", tenant=tenant, protocol=protocol).fee_schedule
        assert (made.name, made.version, made.etag) == ("feeSchedules/payment-eur", number, str(number))
        assert made.percent.value == "1.5"
        shown = mesh.call(GET, pb.GetFeeScheduleRequest(name=made.name), tenant=tenant, protocol=protocol)
        assert shown.fee_schedule == made
        listed = mesh.call(LIST, pb.ListFeeSchedulesRequest(), "auditor", tenant=tenant, protocol=protocol)
        assert list(listed.fee_schedules) == [made]
    first = mesh.call(GET, pb.GetFeeScheduleRequest(name=made.name, version=1), tenant=tenant).fee_schedule
    assert first.fixed_amount == euros(1)
    page = mesh.call(VERSIONS, pb.ListFeeScheduleVersionsRequest(name=made.name, page_size=2), tenant=tenant)
    assert [one.version for one in page.fee_schedules] == [3, 2]
    rest = pb.ListFeeScheduleVersionsRequest(name=made.name, page_token=page.next_page_token)
    assert [one.version for one in mesh.call(VERSIONS, rest, tenant=tenant).fee_schedules] == [1]


def test_schedules_are_listed_page_by_page(mesh: Mesh, tenant: str) -> None:
    """By kind and currency, each once."""
    for currency in ("EUR", "USD"):
        account = mesh.fee_account(currency=currency, tenant=tenant)
        for kind in (fee_pb2.FEE_KIND_PAYMENT, fee_pb2.FEE_KIND_AUTHORIZATION):
            amount = money_pb2.Money(currency_code=currency, minor_units=5)
            mesh.set_fees(account, tenant=tenant, kind=kind, currency_code=currency, fixed_amount=amount)
    names, token = [], ""
    while True:
        page = mesh.call(LIST, pb.ListFeeSchedulesRequest(page_size=1, page_token=token), tenant=tenant)
        names += [one.name.removeprefix("feeSchedules/") for one in page.fee_schedules]
        token = page.next_page_token
        if not token:
            break
    assert names == ["authorization-eur", "authorization-usd", "payment-eur", "payment-usd"]


def test_a_schedule_that_cannot_be_is_refused_for_its_reason(mesh: Mesh, tenant: str) -> None:
    """Each mistake as what it is, before anything is written; what was asked for once is answered the same."""
    account = mesh.fee_account(tenant=tenant)

    def reason(etag: str = "", **changes: object) -> str:
        values = {
            "kind": fee_pb2.FEE_KIND_PAYMENT,
            "currency_code": "EUR",
            "fee_account": account,
            "fixed_amount": euros(5),
            **changes,
        }
        request = pb.SetFeeScheduleRequest(
            fee_schedule=fee_pb2.FeeSchedule(**values),  # type: ignore[arg-type]
            request_id=secrets.token_hex(8),
            etag=etag,
        )
        return refused(lambda: mesh.call(SET, request, "operator", tenant=tenant)).reason

    none = money_pb2.Money(currency_code="XXX", minor_units=5)
    assert reason(currency_code="XXX", fixed_amount=none) == "CURRENCY_UNKNOWN"
    assert reason(fee_account="accounts/nobodys") == "ACCOUNT_NOT_FOUND"
    assert reason(fee_account=mesh.fee_account(currency="JPY", tenant=tenant)) == "CURRENCY_MISMATCH"
    assert reason(fee_account=mesh.account(tenant=tenant)) == "ACCOUNT_TYPE_WRONG"
    assert reason(etag="7") == "ETAG_MISMATCH"
    for changes in (
        {"percent": decimal_pb2.Decimal(value="1")},
        {"percent": decimal_pb2.Decimal(value="100.0001"), "rounding": fee_pb2.FEE_ROUNDING_UP},
        {"percent": decimal_pb2.Decimal(value="0.12345"), "rounding": fee_pb2.FEE_ROUNDING_UP},
        {"percent": decimal_pb2.Decimal(value="1e2"), "rounding": fee_pb2.FEE_ROUNDING_UP},
        {"percent": decimal_pb2.Decimal(value="1x25"), "rounding": fee_pb2.FEE_ROUNDING_UP},
        {"percent": decimal_pb2.Decimal(), "rounding": fee_pb2.FEE_ROUNDING_UP},
        {"fixed_amount": euros(-1)},
        {"fixed_amount": euros(10**15 + 1)},
        {"fixed_amount": money_pb2.Money(currency_code="USD", minor_units=5)},
        {"minimum_amount": euros(6), "maximum_amount": euros(5)},
        {"kind": fee_pb2.FEE_KIND_UNSPECIFIED},
        {"start_time": Timestamp(seconds=4_102_444_800)},
    ):
        assert reason(**changes) == "REQUEST_INVALID", changes
    missing = pb.GetFeeScheduleRequest(name="feeSchedules/payment-eur")
    assert refused(lambda: mesh.call(GET, missing, tenant=tenant)).reason == "FEE_SCHEDULE_NOT_FOUND"
    versions = pb.ListFeeScheduleVersionsRequest(name="feeSchedules/gift-eur")
    assert refused(lambda: mesh.call(VERSIONS, versions, tenant=tenant)).reason == "FEE_SCHEDULE_NOT_FOUND"
    values = {"kind": fee_pb2.FEE_KIND_PAYMENT, "currency_code": "EUR", "fee_account": account}
    once = pb.SetFeeScheduleRequest(fee_schedule=fee_pb2.FeeSchedule(**values), request_id="once")  # type: ignore[arg-type]
    answers = [mesh.call(SET, once, "operator", tenant=tenant).fee_schedule.version for _ in range(3)]
    assert answers == [1, 1, 1]
    once.fee_schedule.enabled = True
    assert refused(lambda: mesh.call(SET, once, "operator", tenant=tenant)).reason == "REQUEST_ID_REUSED"


def test_books_with_fees_hold(mesh: Mesh, tenant: str) -> None:
    """`florin verify` finds every fee of every journal where it belongs."""
    _, _ = charging(mesh, tenant)
    debit, credit = mesh.account(funds=100_00, tenant=tenant), mesh.account(tenant=tenant)
    batch = transfers_pb.BatchCreateTransfersRequest(requests=[mesh.transfer(debit, credit, n) for n in range(1, 20)])
    results = mesh.call("TransferService.BatchCreateTransfers", batch, tenant=tenant).results
    assert all(result.transfer.state == transfer_pb2.TRANSFER_STATE_COMPLETED for result in results)
    verdict = mesh.florin("verify", "--json")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert json.loads(verdict.stdout)["holds"] is True
