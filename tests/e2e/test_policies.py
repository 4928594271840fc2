"""What payments are held against, set while payments run: limits, rules, watchlists."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2 as pb
from florin.compliance.v1 import policy_pb2
from florin.transactions.v1 import transfer_pb2
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import Refused, refused

CREATE = "TransferService.CreateTransfer"
PER_PAYMENT, PER_DAY = policy_pb2.LIMIT_KIND_PER_PAYMENT, policy_pb2.LIMIT_KIND_PER_DAY


def set_limit(
    mesh: Mesh, tenant: str, kind: int, maximum: int, currency: str = "EUR", customer: str = ""
) -> policy_pb2.Limit:
    """Sets a limit as the operator."""
    limit = policy_pb2.Limit(
        kind=kind,  # type: ignore[arg-type]
        customer=customer,
        maximum=money_pb2.Money(currency_code=currency, minor_units=maximum),
    )
    request = pb.SetLimitRequest(limit=limit, request_id=secrets.token_hex(8))
    made: policy_pb2.Limit = mesh.call("ComplianceService.SetLimit", request, "operator", tenant=tenant).limit
    return made


def set_rule(mesh: Mesh, tenant: str, rule_id: str, expression: str, **more: object) -> policy_pb2.Rule:
    """Sets a rule that declines, as the operator."""
    content = {"outcome": policy_pb2.RULE_OUTCOME_DECLINE, "enabled": True, **more}
    rule = policy_pb2.Rule(expression=expression, **content)  # type: ignore[arg-type]
    request = pb.SetRuleRequest(rule_id=rule_id, rule=rule, request_id=secrets.token_hex(8))
    made: policy_pb2.Rule = mesh.call("ComplianceService.SetRule", request, "operator", tenant=tenant).rule
    return made


@pytest.fixture
def tenant(mesh: Mesh) -> str:
    """A tenant of its own, without limits, rules or lists."""
    return mesh.tenant()


def test_a_limit_holds_from_the_next_payment_on(mesh: Mesh, tenant: str) -> None:
    """LIMIT_EXCEEDED names the limit; another currency has its own, and a raised limit lets the payment pass."""
    debit, credit = mesh.account(funds=100_00, tenant=tenant), mesh.account(tenant=tenant)
    limit = set_limit(mesh, tenant, PER_PAYMENT, 10_00)
    assert limit.name == "limits/per-payment-eur"
    refusal = refused(lambda: mesh.call(CREATE, mesh.transfer(debit, credit, 10_01), tenant=tenant))
    assert refusal.is_for("FAILED_PRECONDITION", "LIMIT_EXCEEDED")
    assert limit.name in str(refusal.metadata)
    mesh.call(CREATE, mesh.transfer(debit, credit, 10_00), tenant=tenant)
    yen = [mesh.account(currency="JPY", funds=5000, tenant=tenant), mesh.account(currency="JPY", tenant=tenant)]
    mesh.call(CREATE, mesh.transfer(*yen, 5000, currency="JPY"), tenant=tenant)
    set_limit(mesh, tenant, PER_PAYMENT, 20_00)
    mesh.call(CREATE, mesh.transfer(debit, credit, 10_01), tenant=tenant)


def test_a_days_use_counts_what_was_paid_and_not_what_was_declined(mesh: Mesh, tenant: str) -> None:
    """A declined payment gives its share back; the customer's own limit goes before the tenant's."""
    customer = mesh.customer(tenant=tenant)
    debit, credit = mesh.account(customer, funds=30_00, tenant=tenant), mesh.account(tenant=tenant)
    set_limit(mesh, tenant, PER_DAY, 1_00)
    set_limit(mesh, tenant, PER_DAY, 50_00, customer=customer)
    poor = refused(lambda: mesh.call(CREATE, mesh.transfer(debit, credit, 40_00), tenant=tenant))
    assert poor.reason == "INSUFFICIENT_FUNDS"

    def pays(minor_units: int) -> bool:
        try:
            mesh.call(CREATE, mesh.transfer(debit, credit, minor_units), tenant=tenant)
        except Refused as refusal:
            assert refusal.is_for("FAILED_PRECONDITION", "LIMIT_EXCEEDED"), refusal
            return False
        return True

    # The declined transfer's event gives its 40.00 back; until it comes the limit counts them, to be safe.
    wait_until(lambda: pays(30_00), 20)
    mesh.fund(debit, 100_00, tenant=tenant)
    assert not pays(20_01)
    assert pays(20_00)
    assert not pays(1)


def test_a_rule_declines_from_the_next_payment_on_and_a_disabled_one_does_not(mesh: Mesh, tenant: str) -> None:
    """The payer is told PAYMENT_DECLINED and nothing of the rule; each change is a version."""
    debit, credit = mesh.account(funds=100_00, tenant=tenant), mesh.account(tenant=tenant)
    rule = set_rule(mesh, tenant, "no-lottery", 'payment.remittance.contains("lottery")')
    request = mesh.transfer(debit, credit, 1_00, remittance="lottery ticket")
    refusal = refused(lambda: mesh.call(CREATE, request, tenant=tenant))
    assert refusal.is_for("FAILED_PRECONDITION", "PAYMENT_DECLINED")
    assert "lottery" not in f"{refusal.message} {refusal.metadata}"
    mesh.call(CREATE, mesh.transfer(debit, credit, 1_00, remittance="rent"), tenant=tenant)
    disabled = set_rule(mesh, tenant, "no-lottery", rule.expression, enabled=False)
    assert (rule.version, disabled.version) == (1, 2)
    mesh.call(CREATE, mesh.transfer(debit, credit, 1_00, remittance="lottery ticket"), tenant=tenant)
    # The first one stays declined under its request_id.
    assert refused(lambda: mesh.call(CREATE, request, tenant=tenant)).reason == "PAYMENT_DECLINED"


@pytest.mark.parametrize(
    "expression", ["payment.", "1 + 1", "payment.colour == 'red'", "unknown == 1", "payment.hour > 'x'"]
)
def test_a_rule_that_cannot_work_is_refused(mesh: Mesh, tenant: str, expression: str) -> None:
    """RULE_INVALID when it is set, so that no payment ever meets it."""
    refusal = refused(lambda: set_rule(mesh, tenant, "broken", expression))
    assert refusal.is_for("INVALID_ARGUMENT", "RULE_INVALID")
    assert list(mesh.call("ComplianceService.ListRules", pb.ListRulesRequest(), "auditor", tenant=tenant).rules) == []


def test_a_name_near_a_listed_one_waits_for_a_person(mesh: Mesh, tenant: str) -> None:
    """An imported list holds at once: a creditor spelled almost like an entry is reviewed, others are paid."""
    debit, credit = mesh.account(funds=100_00, tenant=tenant), mesh.account(tenant=tenant)

    def parts(sdn: bytes) -> Iterator[pb.ImportWatchlistRequest]:
        yield pb.ImportWatchlistRequest(watchlist_id="sdn")
        chunk = pb.ImportWatchlistRequest.Chunk(file=pb.ImportWatchlistRequest.FILE_SDN, data=sdn)
        yield pb.ImportWatchlistRequest(chunk=chunk)

    line = b'7001,"FALKENRATH, Ottokar Wendelin","individual","TEST"' + b",-0- " * 8 + b"\r\n"
    metadata, stub = mesh.metadata("operator", tenant=tenant), mesh.stubs().compliance
    made = stub.ImportWatchlist(parts(line), metadata=metadata, timeout=30).watchlist
    assert (made.name, made.version, made.entry_count) == ("watchlists/sdn", 1, 1)
    near = mesh.transfer(debit, credit, 1_00, creditor_name="Ottokar Wendelin Falkenrat")
    held = mesh.call(CREATE, near, tenant=tenant).transfer
    assert held.state == transfer_pb2.TRANSFER_STATE_IN_REVIEW
    other = mesh.transfer(debit, credit, 1_00, creditor_name="Agnes Ahorner")
    assert mesh.call(CREATE, other, tenant=tenant).transfer.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    broken = refused(lambda: stub.ImportWatchlist(parts(b'7001,"half\r\n'), metadata=metadata, timeout=30))
    assert broken.is_for("INVALID_ARGUMENT", "WATCHLIST_INVALID")
    request = pb.ListWatchlistsRequest()
    (kept,) = mesh.call("ComplianceService.ListWatchlists", request, "auditor", tenant=tenant).watchlists
    assert kept == made
