"""A small bank for the permission matrix: one customer's things, another's, and who may speak for whom."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from florin.accounts.v1 import audit_service_pb2 as audit_pb
from florin.accounts.v1 import (
    balance_service_pb2,  # noqa: F401 - fills the descriptor pool
    freeze_service_pb2,  # noqa: F401
    journal_service_pb2,  # noqa: F401
    ledger_service_pb2,  # noqa: F401
    overdraft_service_pb2,
    reconciliation_service_pb2,  # noqa: F401
    statement_service_pb2,
)
from florin.common.v1 import money_pb2, policy_pb2
from florin.compliance.v1 import compliance_service_pb2 as compliance_pb
from florin.compliance.v1 import policy_pb2 as compliance_policy_pb
from florin.compliance.v1 import screening_service_pb2  # noqa: F401
from florin.notifications.v1 import notification_service_pb2 as notifications_pb
from florin.transactions.v1 import (
    exchange_service_pb2,
    fee_service_pb2,  # noqa: F401
    schedule_pb2,
    schedule_service_pb2,
)
from tests.support import bank_statements, freezing, rails
from tests.support.csv_payments import document, row, uploaded
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import Refused

IDENTITIES = ("accounts", "transactions", "compliance", "notifications", "checker", "edge", "nats", "operator")
"""Who has a certificate of the mesh."""
SERVICES = {
    "florin.accounts.v1.AccountService": "accounts",
    "florin.accounts.v1.AuditService": "accounts",
    "florin.accounts.v1.BalanceService": "accounts",
    "florin.accounts.v1.FreezeService": "accounts",
    "florin.accounts.v1.JournalService": "accounts",
    "florin.accounts.v1.LedgerService": "accounts",
    "florin.accounts.v1.OverdraftService": "accounts",
    "florin.accounts.v1.ReconciliationService": "accounts",
    "florin.accounts.v1.StatementService": "accounts",
    "florin.transactions.v1.ScheduleService": "transactions",
    "florin.transactions.v1.TransferService": "transactions",
    "florin.transactions.v1.FeeService": "transactions",
    "florin.transactions.v1.ExchangeService": "transactions",
    "florin.transactions.v1.PaymentFileService": "transactions",
    "florin.transactions.v1.RailService": "transactions",
    "florin.compliance.v1.ComplianceService": "compliance",
    "florin.compliance.v1.ScreeningService": "compliance",
    "florin.notifications.v1.NotificationService": "notifications",
}
"""Every gRPC service of the contracts and who serves it."""


def methods() -> Iterator[MethodDescriptor]:
    """Every method of the contracts, internal ones too."""
    for name in SERVICES:
        yield from descriptor_pool.Default().FindServiceByName(name).methods


def policy(method: MethodDescriptor) -> Any:
    """What the contract says of a method."""
    return method.GetOptions().Extensions[policy_pb2.policy]


PUBLIC = [method for method in methods() if policy(method).scopes]
NOBODYS = {
    kind: f"{kind}/nobodys"
    for kind in (
        *("customers", "kycProfiles", "accounts", "transfers", "journals", "webhookEndpoints", "cases", "decisions"),
        *("limits", "rules", "watchlists", "statements", "schedules", "holidayCalendars"),
        *("overdraftChanges", "paymentFiles", "withdrawals", "deposits", "railExceptions", "ledgerFreezes"),
    )
} | {
    "overdraftThresholds": "overdraftThresholds/JPY",
    "unverified": "customers/nobodys",
    "credit_accounts": "accounts/neither",
    "settlement": "accounts/no-settlement",
    "fee_account": "accounts/no-fees",
    "feeSchedules": "feeSchedules/nobodys-eur",
    "exchangeRates": "exchangeRates/eur-jpy",
    "position_account": "accounts/no-position",
    "quotes": "quotes/nobodys",
    **bank_statements.NOBODYS,
}
"""Names of what there is not, for requests that should change nothing even where they are served."""
INTERNAL = [method for method in methods() if not policy(method).scopes]


@dataclass(frozen=True, slots=True)
class Belongings:
    """What one customer has: a resource of each kind by the first part of its name."""

    customer: str
    names: Mapping[str, str]

    def marks(self) -> set[str]:
        """What must not be in an answer to somebody who may not know of this customer: ids that nobody guesses."""
        guessed = {"settlement", "limits", "rules", "watchlists", "holidayCalendars", "overdraftThresholds"}
        kinds = set(self.names) - guessed - {"feeSchedules", "exchangeRates"}
        return {self.names[kind].partition("/")[2] for kind in kinds}


@dataclass(slots=True)
class World:
    """Two customers in one tenant, and another tenant with nothing in it."""

    mesh: Mesh
    tenant: str
    elsewhere: str
    mine: Belongings
    others: Belongings
    _channels: dict[tuple[str, str], grpc.Channel] = field(default_factory=dict)

    def metadata(self, role: str, *, tenant: str = "", subject: str = "") -> list[tuple[str, str]]:
        """A token of a role; a customer's is bound to the first customer."""
        options: dict[str, str] = {"customer": self.mine.customer} if role == "customer" else {}
        return self.mesh.metadata(role, tenant=tenant or self.tenant, subject=subject or None, **options)

    def direct(self, service: str, identity: str) -> grpc.Channel:
        """A channel to a service's own port, past the edge, with the certificate of an identity."""
        known = self._channels.get((service, identity))
        if known is None:
            certificate, key = self.mesh.state.certificate(identity)
            credentials = grpc.ssl_channel_credentials(
                self.mesh.state.ca.read_bytes(), key.read_bytes(), certificate.read_bytes()
            )
            known = self._channels[service, identity] = grpc.secure_channel(self.address(service), credentials)
        return known

    def address(self, service: str) -> str:
        """Where a service answers gRPC by itself."""
        return f"localhost:{self.mesh.description['services'][service]['grpc']}"

    def new_endpoint(self, customer: str) -> str:
        """A webhook endpoint of a customer."""
        request = notifications_pb.CreateWebhookEndpointRequest(url="http://127.0.0.1:9/x")
        options = {"customer": customer, "subject": secrets.token_hex(6)}
        made = self.mesh.call(
            "NotificationService.CreateWebhookEndpoint", request, "customer", tenant=self.tenant, **options
        )
        name: str = made.endpoint.name
        return name

    def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels.values():
            channel.close()


@contextmanager
def made(mesh: Mesh) -> Iterator[World]:
    """Such a world on a mesh."""
    tenant = mesh.tenant()
    rule = compliance_policy_pb.Rule(
        expression="payment.remittance == 'ask'", outcome=compliance_policy_pb.RULE_OUTCOME_REVIEW, enabled=True
    )
    set_rule = compliance_pb.SetRuleRequest(rule_id="ask-first", rule=rule)
    mesh.call("ComplianceService.SetRule", set_rule, "operator", tenant=tenant)
    limit = compliance_policy_pb.Limit(
        kind=compliance_policy_pb.LIMIT_KIND_PER_PAYMENT,
        maximum=money_pb2.Money(currency_code="EUR", minor_units=10**9),
    )
    set_limit = compliance_pb.SetLimitRequest(limit=limit)
    mesh.call("ComplianceService.SetLimit", set_limit, "operator", tenant=tenant)
    set_calendar = schedule_service_pb2.SetHolidayCalendarRequest(
        calendar_id="bank", calendar=schedule_pb2.HolidayCalendar(display_name="Bank holidays")
    )
    mesh.call("ScheduleService.SetHolidayCalendar", set_calendar, "operator", tenant=tenant)
    # In a currency that no request of the matrix sets a threshold for: the other tenant stays without it.
    threshold = overdraft_service_pb2.SetOverdraftThresholdRequest(
        threshold=money_pb2.Money(currency_code="CHF", minor_units=1)
    )
    mesh.call("OverdraftService.SetOverdraftThreshold", threshold, "compliance", tenant=tenant)
    mesh.set_fees(mesh.fee_account(tenant=tenant), tenant=tenant, enabled=False)
    mesh.set_rate(tenant=tenant)
    elsewhere = mesh.tenant()
    for one_tenant in (tenant, elsewhere):
        rails.open_accounts(mesh, one_tenant)
    world = World(mesh, tenant, elsewhere, _belongings(mesh, tenant), _belongings(mesh, tenant))
    for one in (world.mine, world.others):
        one.names["webhookEndpoints"] = world.new_endpoint(one.customer)  # type: ignore[index]
        _wait_sealed(mesh, tenant, one.names["journals"])
    try:
        yield world
    finally:
        world.close()


def _wait_sealed(mesh: Mesh, tenant: str, journal: str) -> None:
    """Journals are sealed a moment after they are posted."""
    request = audit_pb.GetInclusionProofRequest(journal=journal)

    def is_sealed() -> bool:
        try:
            mesh.call("AuditService.GetInclusionProof", request, "auditor", tenant=tenant)
        except Refused as refused:
            if refused.reason not in {"JOURNAL_NOT_SEALED", "TREE_HEAD_NOT_FOUND"}:
                raise
            return False
        return True

    wait_until(is_sealed)


def _belongings(mesh: Mesh, tenant: str) -> Belongings:
    """A customer with two accounts, a payment between them, and one that waits for a person."""
    customer = mesh.customer(tenant=tenant)
    number = rails.new_iban()
    debit = mesh.account(customer, funds=100_00, tenant=tenant, iban=number)
    credit = mesh.account(customer, tenant=tenant)
    # Made by the customer: what staff authorizes is not the customer's to capture.
    own = {"customer": customer, "tenant": tenant}
    paid = mesh.call("TransferService.CreateTransfer", mesh.transfer(debit, credit, 1), "customer", **own).transfer
    asked = mesh.transfer(debit, credit, 1, remittance="ask")
    waiting = mesh.call("TransferService.CreateTransfer", asked, tenant=tenant).transfer
    cases = compliance_pb.ListCasesRequest(transfer=waiting.name)
    (case,) = mesh.call("ComplianceService.ListCases", cases, "compliance", tenant=tenant).cases
    issue = statement_service_pb2.CreateStatementRequest(
        account=debit, period_start="2026-01-01", period_end="2026-01-31"
    )
    issued = mesh.call("StatementService.CreateStatement", issue, tenant=tenant).statement
    scheduled = mesh.call("ScheduleService.CreateSchedule", mesh.schedule(debit, credit, 1), "customer", **own).schedule
    quote = exchange_service_pb2.CreateQuoteRequest(
        debit_amount=money_pb2.Money(currency_code="EUR", minor_units=10), other_currency_code="USD"
    )
    names = {
        "customers": customer,
        "unverified": customer,
        "kycProfiles": customer.replace("customers", "kycProfiles"),
        "accounts": debit,
        "credit_accounts": credit,
        "settlement": "accounts/settlement-eur",
        "transfers": paid.name,
        "journals": paid.journal,
        "cases": case.name,
        "decisions": case.decision,
        "limits": "limits/per-payment-eur",
        "rules": "rules/ask-first",
        "watchlists": "watchlists/hostile",
        "statements": issued.name,
        "schedules": scheduled.name,
        "holidayCalendars": "holidayCalendars/bank",
        "overdraftChanges": mesh.overdraft_change(credit, tenant=tenant),
        "overdraftThresholds": "overdraftThresholds/CHF",
        "feeSchedules": "feeSchedules/payment-eur",
        "fee_account": mesh.fee_account(tenant=tenant),
        "exchangeRates": "exchangeRates/eur-usd",
        "position_account": mesh.position_account(tenant=tenant),
        "ledgerFreezes": freezing.freeze(mesh, tenant),
        "quotes": mesh.call("ExchangeService.CreateQuote", quote, "customer", **own).quote.name,
        "paymentFiles": uploaded(mesh, document(row(debit, credit, remittance="ask")), role="customer", **own).name,
        **rails.belongings(mesh, debit, number, role="customer", **own),
        **bank_statements.reconciled(mesh, tenant=tenant),
    }
    return Belongings(customer, names)
