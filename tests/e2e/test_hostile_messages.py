"""Every public method, every field made hostile in turn: an answer or a documented refusal, never a failure inside."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from florin.accounts.v1 import overdraft_service_pb2, reconciliation_service_pb2, statement_service_pb2
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2, policy_pb2
from florin.notifications.v1 import notification_service_pb2
from florin.transactions.v1 import exchange_service_pb2, schedule_pb2, schedule_service_pb2, transfer_service_pb2
from local import issuer
from local.roles import ROLES
from meshkit import pages
from tests.contract.test_reasons import METHODS
from tests.support import bank_statements, freezing, hostile, rails
from tests.support.csv_payments import document, row, uploaded
from tests.support.mesh import Mesh
from tests.support.protocols import SERVICES, Refused, of, path, raw, refused, web
from tests.support.tokens import claims
from tests.support.world import NOBODYS, PUBLIC

EVERYWHERE = {"REQUEST_INVALID", "TENANT_NOT_FOUND"}
"""Reasons that any method may give to these requests; the others stand in the method's comment."""
CODES = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "PERMISSION_DENIED",
    "OUT_OF_RANGE",
    "ABORTED",
}
UNANSWERED = {
    *("CancelTransfer", "CloseAccount", "GetLimit", "GetRule", "ImportWatchlist", "VerifyCustomer"),
    *("UploadPaymentFile", "ImportBankStatement", "ApproveRailResolution", "RejectRailResolution"),
}
"""Refused although nothing is wrong with the message: by the state of what it names."""
CALLS_PER_SUBJECT = 20
"""The edge lets a subject make 50 administrative calls a second."""


@pytest.fixture(scope="module")
def tenant(mesh: Mesh) -> str:
    """A tenant of its own: some of what is hostile is also valid and changes things."""
    return mesh.tenant()


@pytest.fixture(scope="module")
def names(mesh: Mesh, tenant: str) -> dict[str, str]:
    """A resource of each kind."""
    customer = mesh.customer(tenant=tenant)
    number = rails.new_iban()
    debit, credit = mesh.account(customer, funds=10_00, tenant=tenant, iban=number), mesh.account(tenant=tenant)
    rails.open_accounts(mesh, tenant)
    made = mesh.call("TransferService.CreateTransfer", mesh.transfer(debit, credit, 1), tenant=tenant).transfer
    hook = notification_service_pb2.CreateWebhookEndpointRequest(url="http://127.0.0.1:9/x")
    create = "NotificationService.CreateWebhookEndpoint"
    rule = policy_pb2.Rule(
        expression="payment.remittance == 'ask'", outcome=policy_pb2.RULE_OUTCOME_REVIEW, enabled=True
    )
    set_rule = compliance_service_pb2.SetRuleRequest(rule_id="ask", rule=rule)
    mesh.call("ComplianceService.SetRule", set_rule, "operator", tenant=tenant)
    asked = mesh.transfer(debit, credit, 1, remittance="ask")
    mesh.call("TransferService.CreateTransfer", asked, tenant=tenant)
    open_cases = compliance_service_pb2.ListCasesRequest()
    (case,) = mesh.call("ComplianceService.ListCases", open_cases, "compliance", tenant=tenant).cases
    holds = [mesh.transfer(debit, credit, 100, authorize_only=True) for _ in range(2)]
    held = [mesh.call("TransferService.CreateTransfer", hold, tenant=tenant).transfer.name for hold in holds]
    fee_account = mesh.fee_account(tenant=tenant)
    quote = exchange_service_pb2.CreateQuoteRequest(
        debit_amount=money_pb2.Money(currency_code="EUR", minor_units=10), other_currency_code="USD"
    )
    issue = statement_service_pb2.CreateStatementRequest(
        account=debit, period_start="2026-01-01", period_end="2026-01-31"
    )
    return {
        "customers": customer,
        "unverified": mesh.customer(verified=False, tenant=tenant),
        "kycProfiles": customer.replace("customers", "kycProfiles"),
        "accounts": debit,
        "credit_accounts": credit,
        "settlement": "accounts/settlement-eur",
        "transfers": made.name,
        "paymentFiles": uploaded(mesh, document(row(debit, credit, remittance="ask")), tenant=tenant).name,
        "authorizations": held[0],
        "voidable": held[1],
        "journals": made.journal,
        "webhookEndpoints": mesh.call(create, hook, "operator", tenant=tenant).endpoint.name,
        "cases": case.name,
        "decisions": case.decision,
        "limits": "limits/none",
        "rules": "rules/none",
        "watchlists": "watchlists/none",
        "schedules": mesh.call(
            "ScheduleService.CreateSchedule", mesh.schedule(debit, credit, 1), tenant=tenant
        ).schedule.name,
        "holidayCalendars": mesh.call(
            "ScheduleService.SetHolidayCalendar",
            schedule_service_pb2.SetHolidayCalendarRequest(
                calendar_id="bank", calendar=schedule_pb2.HolidayCalendar(display_name="Bank holidays")
            ),
            "operator",
            tenant=tenant,
        ).calendar.name,
        "feeSchedules": mesh.set_fees(fee_account, tenant=tenant, enabled=False).name,
        "fee_account": fee_account,
        "exchangeRates": "exchangeRates/eur-usd",
        "position_account": mesh.set_rate(tenant=tenant)["EUR"],
        "quotes": mesh.call("ExchangeService.CreateQuote", quote, tenant=tenant).quote.name,
        "statements": mesh.call("StatementService.CreateStatement", issue, tenant=tenant).statement.name,
        "overdraftChanges": mesh.overdraft_change(credit, tenant=tenant),
        "rejectable": mesh.overdraft_change(mesh.account(tenant=tenant), tenant=tenant),
        "overdraftThresholds": "overdraftThresholds/EUR",
        "ledgerFreezes": freezing.freeze(mesh, tenant),
        **rails.belongings(mesh, debit, number, tenant=tenant),
        **bank_statements.reconciled(mesh, tenant=tenant),
    }


def tokens(mesh: Mesh, tenant: str) -> Iterator[list[tuple[str, str]]]:
    """Metadata of subjects that have every scope, each for a few calls."""
    scopes = " ".join(sorted({scope for given in ROLES.values() for scope in given}))
    while True:
        token = issuer.sign(mesh.state, claims(sub=secrets.token_hex(6), tenant=tenant, scope=scopes))
        yield from [[("authorization", f"Bearer {token}")]] * CALLS_PER_SUBJECT


@pytest.mark.parametrize("service", SERVICES)
def test_no_message_makes_a_service_fail(mesh: Mesh, tenant: str, names: Mapping[str, str], service: str) -> None:
    """NUL, towers of text, numbers and times at their ends, enums that are none: refused for a reason of the method."""
    who, wrong, answered = tokens(mesh, tenant), [], set()
    methods = descriptor_pool.Default().FindServiceByName(SERVICES[service]).methods
    for method in sorted(methods, key=lambda one: (one.name.startswith("Delete"), one.index)):
        documented = EVERYWHERE | set(METHODS[f"{service}/{method.name}"][1])
        sound = hostile.sound_request(method, names)
        call = raw(mesh.channel, method)
        for what, message in [("nothing", sound), *hostile.variants(sound)]:
            hostile.refresh(message)
            try:
                call(message.SerializeToString(), next(who))
                answered |= {method.name} if what == "nothing" else set()
            except grpc.RpcError as error:
                refusal = of(error)
                if refusal.code not in CODES or refusal.reason not in documented:
                    wrong.append(f"{method.name}: {what}: {refusal.code} {refusal.reason} {refusal.message[:80]}")
    assert wrong == []
    # The requests are sound but for what was done to them: what refuses them stands behind the contract's own rules.
    assert {method.name for method in methods} - answered == UNANSWERED & {method.name for method in methods}


@pytest.mark.parametrize("method", [one for one in PUBLIC if not one.client_streaming], ids=lambda one: one.name)
def test_no_method_fails_at_a_deadline_of_a_millisecond(mesh: Mesh, tenant: str, method: MethodDescriptor) -> None:
    """DEADLINE_EXCEEDED, or what it says when it was quick enough; never a failure."""
    message = hostile.sound_request(method, NOBODYS).SerializeToString()
    name, metadata = f"{method.containing_service.name}.{method.name}", next(tokens(mesh, tenant))
    token = metadata[0][1].removeprefix("Bearer ")
    for _ in range(3):
        try:
            mesh.channel.unary_stream(path(name))(message, metadata=metadata, timeout=0.001).initial_metadata()
        except grpc.RpcError as error:
            assert error.code().name in {*CODES, "DEADLINE_EXCEEDED"}, error
        if not method.server_streaming:
            try:
                web(mesh, name, message, token, {"grpc-timeout": "1m"})
            except Refused as refusal:
                assert refusal.code in {*CODES, "DEADLINE_EXCEEDED"}, refusal


LISTS: dict[str, tuple[str, Any, str, str, list[Any]]] = {
    "transfers after no time": (
        "TransferService.ListTransfers",
        transfer_service_pb2.ListTransfersRequest(),
        "transfers",
        "{tenant}\0\0",
        ["yesterday", "x"],
    ),
    "transfers after a time of nowhere": (
        "TransferService.ListTransfers",
        transfer_service_pb2.ListTransfersRequest(),
        "transfers",
        "{tenant}\0\0",
        ["2026-01-01T00:00:00", "x"],
    ),
    "cases after the end of time": (
        "ComplianceService.ListCases",
        compliance_service_pb2.ListCasesRequest(),
        "cases",
        "0 ",
        [2**62, "00000000-0000-0000-0000-000000000000"],
    ),
    "cases after none": (
        "ComplianceService.ListCases",
        compliance_service_pb2.ListCasesRequest(),
        "cases",
        "0 ",
        [0, "none"],
    ),
    "overdraft changes before none": (
        "OverdraftService.ListOverdraftChanges",
        overdraft_service_pb2.ListOverdraftChangesRequest(),
        "overdraftChanges",
        "{tenant}\0\0" + "0",
        ["none"],
    ),
    "open items of no side": (
        "ReconciliationService.ListOpenItems",
        reconciliation_service_pb2.ListOpenItemsRequest(account="accounts/settlement-eur"),
        "openItems",
        "{tenant}\0accounts/settlement-eur\0" + "0\0" + "0\0",
        [9, 1],
    ),
    "deliveries before the end of time": (
        "NotificationService.ListDeliveries",
        notification_service_pb2.ListDeliveriesRequest(),
        "deliveries",
        "{endpoint} 0",
        [2**62, 1],
    ),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_made_up_page_token_is_refused(mesh: Mesh, tenant: str, case: str) -> None:
    """The tag of a token is no secret: one made for its list, around a position that is none, is refused as well."""
    method, asked, kind, scope, key = LISTS[case]
    endpoint = ""
    if "endpoint" in asked.DESCRIPTOR.fields_by_name:
        new = notification_service_pb2.CreateWebhookEndpointRequest(url="http://127.0.0.1:9/x")
        made = mesh.call("NotificationService.CreateWebhookEndpoint", new, "operator", tenant=tenant)
        asked.endpoint = endpoint = made.endpoint.name
    asked.page_token = pages.encode(kind, scope.format(tenant=tenant, endpoint=endpoint), key)
    refusal = refused(lambda: mesh.call(method, asked, "operator", tenant=tenant))
    assert refusal.is_for("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
