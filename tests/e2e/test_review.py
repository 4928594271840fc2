"""A payment that a person has to decide: its hold, its case, and what becomes of both."""

from __future__ import annotations

import secrets

import pytest

from florin.accounts.v1 import account_pb2, account_service_pb2
from florin.common.v1 import errors_pb2
from florin.compliance.v1 import compliance_service_pb2 as pb
from florin.compliance.v1 import decision_pb2, policy_pb2
from florin.transactions.v1 import transfer_pb2, transfer_service_pb2
from local import issuer
from local.roles import ROLES
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import refused
from tests.support.tokens import claims

APPROVE = pb.ResolveCaseRequest.RESOLUTION_APPROVE
REJECT = pb.ResolveCaseRequest.RESOLUTION_REJECT
IN_REVIEW = transfer_pb2.TRANSFER_STATE_IN_REVIEW
CREATE = "TransferService.CreateTransfer"


@pytest.fixture(scope="module")
def tenant(mesh: Mesh) -> str:
    """A tenant whose rule sends payments "for review" to a person."""
    name = mesh.tenant()
    rule = policy_pb2.Rule(
        expression='payment.remittance == "for review"', outcome=policy_pb2.RULE_OUTCOME_REVIEW, enabled=True
    )
    mesh.call("ComplianceService.SetRule", pb.SetRuleRequest(rule_id="ask", rule=rule), "operator", tenant=name)
    return name


@pytest.fixture
def pair(mesh: Mesh, tenant: str) -> tuple[str, str]:
    """Two accounts, 100.00 EUR in the first."""
    return mesh.account(funds=100_00, tenant=tenant), mesh.account(tenant=tenant)


def reviewed(mesh: Mesh, tenant: str, pair: tuple[str, str], **options: str) -> transfer_pb2.Transfer:
    """A payment of 30.00 EUR that waits for a person."""
    request = mesh.transfer(*pair, 30_00, remittance="for review")
    made: transfer_pb2.Transfer = mesh.call(CREATE, request, tenant=tenant, **options).transfer
    assert made.state == IN_REVIEW
    return made


def case_of(mesh: Mesh, tenant: str, transfer: transfer_pb2.Transfer) -> decision_pb2.Case:
    """The case of a transfer, as an officer finds it."""
    request = pb.ListCasesRequest(transfer=transfer.name)
    (case,) = mesh.call("ComplianceService.ListCases", request, "compliance", tenant=tenant).cases
    found: decision_pb2.Case = case
    return found


def resolve(mesh: Mesh, tenant: str, case: str, resolution: int, **more: object) -> decision_pb2.Case:
    """An officer's decision."""
    request = pb.ResolveCaseRequest(
        name=case,
        resolution=resolution,  # type: ignore[arg-type]
        reason="looked into it",
        request_id=secrets.token_hex(8),
        **more,  # type: ignore[arg-type]
    )
    resolved: decision_pb2.Case = mesh.call("ComplianceService.ResolveCase", request, "compliance", tenant=tenant).case
    return resolved


def waited(mesh: Mesh, tenant: str, name: str) -> transfer_pb2.Transfer:
    """The transfer once it is final."""
    request = transfer_service_pb2.GetTransferRequest(name=name)
    found = transfer_pb2.Transfer()

    def final() -> bool:
        found.CopyFrom(mesh.call("TransferService.GetTransfer", request, tenant=tenant).transfer)
        return found.state != IN_REVIEW

    wait_until(final, 20)
    return found


def figures(mesh: Mesh, tenant: str, account: str) -> tuple[int, int, int]:
    """Posted, held and available."""
    balance = mesh.balance(account, tenant=tenant)
    return balance.posted.minor_units, balance.held.minor_units, balance.available.minor_units


def test_debits_that_were_blocked_meanwhile_stop_an_approved_payment(
    mesh: Mesh, tenant: str, pair: tuple[str, str]
) -> None:
    """Who approves it may not know of the block. What it held is given back, and stays on the account."""
    made = reviewed(mesh, tenant, pair)
    block = account_service_pb2.BlockAccountRequest(
        name=pair[0], side=account_pb2.POSTING_SIDE_DEBIT, reason="a court's order"
    )
    mesh.call("AccountService.BlockAccount", block, tenant=tenant)
    resolve(mesh, tenant, case_of(mesh, tenant, made).name, APPROVE)
    ended = waited(mesh, tenant, made.name)
    assert ended.state == transfer_pb2.TRANSFER_STATE_DECLINED
    assert ended.refusal.reason == errors_pb2.REASON_ACCOUNT_DEBITS_BLOCKED
    wait_until(lambda: figures(mesh, tenant, pair[0]) == (100_00, 0, 100_00), 20)


def test_a_preview_does_not_tip_off(mesh: Mesh, tenant: str, pair: tuple[str, str]) -> None:
    """That a person will look at a payment is told before it is made to who sees decisions, and to nobody else."""
    request = mesh.transfer(*pair, 30_00, remittance="for review", validate_only=True)
    plain = mesh.call(CREATE, request, tenant=tenant).preview
    told = mesh.call(CREATE, request, "operator", tenant=tenant).preview
    assert (plain.state, told.state) == (transfer_pb2.TRANSFER_STATE_COMPLETED, IN_REVIEW)
    assert len(plain.legs) == 2 and not plain.HasField("decision") and told.decision.checks
    request.validate_only, request.state_token = False, plain.state_token
    assert mesh.call(CREATE, request, tenant=tenant).transfer.state == IN_REVIEW


def test_an_approved_payment_uses_its_hold(mesh: Mesh, tenant: str, pair: tuple[str, str]) -> None:
    """Held while it waits, so that it cannot be spent twice, and moved when an officer approves; the trace says why."""
    made = reviewed(mesh, tenant, pair)
    assert figures(mesh, tenant, pair[0]) == (100_00, 30_00, 70_00)
    over = mesh.transfer(*pair, 70_01)
    assert refused(lambda: mesh.call(CREATE, over, tenant=tenant)).reason == "INSUFFICIENT_FUNDS"
    close = account_service_pb2.CloseAccountRequest(name=pair[0])
    assert refused(lambda: mesh.call("AccountService.CloseAccount", close, tenant=tenant)).reason == "ACCOUNT_HAS_HOLDS"
    case = case_of(mesh, tenant, made)
    assert (case.state, case.requested_by) == (decision_pb2.CASE_STATE_OPEN, "teller")
    decision = pb.GetDecisionRequest(name=case.decision)
    trace = mesh.call("ComplianceService.GetDecision", decision, "auditor", tenant=tenant).decision.trace
    asked = {check.check: check.version for check in trace.checks if check.outcome == 3}
    assert asked == {"rule:rules/ask": 1}
    assert resolve(mesh, tenant, case.name, APPROVE).state == decision_pb2.CASE_STATE_APPROVED
    assert waited(mesh, tenant, made.name).state == transfer_pb2.TRANSFER_STATE_COMPLETED
    assert figures(mesh, tenant, pair[0]) == (70_00, 0, 70_00)
    assert figures(mesh, tenant, pair[1])[0] == 30_00
    again = pb.ResolveCaseRequest(name=case.name, resolution=REJECT, reason="changed my mind")
    late = refused(lambda: mesh.call("ComplianceService.ResolveCase", again, "compliance", tenant=tenant))
    assert late.is_for("FAILED_PRECONDITION", "CASE_RESOLVED")


def test_a_rejected_payment_gives_its_hold_back_and_tells_the_customer_nothing(
    mesh: Mesh, tenant: str, pair: tuple[str, str]
) -> None:
    """PAYMENT_DECLINED is all that the payer learns; whoever may read compliance finds the decision."""
    made = reviewed(mesh, tenant, pair)
    resolve(mesh, tenant, case_of(mesh, tenant, made).name, REJECT)
    declined = waited(mesh, tenant, made.name)
    assert declined.state == transfer_pb2.TRANSFER_STATE_DECLINED
    assert declined.refusal.reason == errors_pb2.REASON_PAYMENT_DECLINED
    assert (declined.decision, "looked into it" in str(declined)) == ("", False)
    assert figures(mesh, tenant, pair[0]) == (100_00, 0, 100_00)
    request = transfer_service_pb2.GetTransferRequest(name=made.name)
    to_auditor = mesh.call("TransferService.GetTransfer", request, "auditor", tenant=tenant).transfer
    assert to_auditor.decision.startswith("decisions/")


def test_nobody_decides_about_a_payment_of_their_own(mesh: Mesh, tenant: str, pair: tuple[str, str]) -> None:
    """The maker is refused with FOUR_EYES whatever the scopes and whatever the decision; another officer is not."""
    scopes = " ".join(sorted({*ROLES["teller"], *ROLES["compliance"]}))
    both = issuer.sign(mesh.state, claims(sub="anna", tenant=tenant, scope=scopes))
    metadata = [("authorization", f"Bearer {both}")]
    request = mesh.transfer(*pair, 1_00, remittance="for review")
    made = mesh.stubs().transfers.CreateTransfer(request, metadata=metadata, timeout=10).transfer
    case = case_of(mesh, tenant, made)
    for resolution in (APPROVE, REJECT):
        own = pb.ResolveCaseRequest(name=case.name, resolution=resolution, reason="mine")
        refusal = refused(lambda own=own: mesh.stubs().compliance.ResolveCase(own, metadata=metadata, timeout=10))
        assert refusal.is_for("PERMISSION_DENIED", "FOUR_EYES")
    assert case_of(mesh, tenant, made).state == decision_pb2.CASE_STATE_OPEN
    assert resolve(mesh, tenant, case.name, APPROVE).resolved_by == "compliance"
    assert waited(mesh, tenant, made.name).state == transfer_pb2.TRANSFER_STATE_COMPLETED


def test_a_cancelled_payment_gives_its_hold_back_and_ends_its_case(
    mesh: Mesh, tenant: str, pair: tuple[str, str]
) -> None:
    """Once CancelTransfer answers the money will not move; the case becomes moot and cannot be approved any more."""
    made = reviewed(mesh, tenant, pair)
    case = case_of(mesh, tenant, made)
    cancel = transfer_service_pb2.CancelTransferRequest(name=made.name, request_id=secrets.token_hex(8))
    for _ in range(2):
        cancelled = mesh.call("TransferService.CancelTransfer", cancel, tenant=tenant).transfer
        assert cancelled.state == transfer_pb2.TRANSFER_STATE_DECLINED
        assert cancelled.refusal.reason == errors_pb2.REASON_TRANSFER_CANCELLED
    assert figures(mesh, tenant, pair[0]) == (100_00, 0, 100_00)
    wait_until(lambda: case_of(mesh, tenant, made).state == decision_pb2.CASE_STATE_MOOT, 20)
    approve = pb.ResolveCaseRequest(name=case.name, resolution=APPROVE, reason="too late")
    late = refused(lambda: mesh.call("ComplianceService.ResolveCase", approve, "compliance", tenant=tenant))
    assert late.is_for("FAILED_PRECONDITION", "CASE_RESOLVED")


def test_an_officer_may_freeze_the_paying_account_with_the_case(mesh: Mesh, tenant: str, pair: tuple[str, str]) -> None:
    """The account is frozen by the case's event, with a reason, and pays nothing more."""
    made = reviewed(mesh, tenant, pair)
    resolve(mesh, tenant, case_of(mesh, tenant, made).name, REJECT, freeze_account=True)

    def state() -> int:
        request = account_service_pb2.GetAccountRequest(name=pair[0])
        found: int = mesh.call("AccountService.GetAccount", request, tenant=tenant).account.state
        return found

    wait_until(lambda: state() == account_pb2.ACCOUNT_STATE_FROZEN, 20)
    payment = mesh.transfer(*pair, 1)
    assert refused(lambda: mesh.call(CREATE, payment, tenant=tenant)).reason == "ACCOUNT_FROZEN"


def test_a_waiting_payment_is_answered_at_once(mesh: Mesh, tenant: str, pair: tuple[str, str]) -> None:
    """WaitTransfer does not wait for people: in review is an answer."""
    made = reviewed(mesh, tenant, pair)
    request = transfer_service_pb2.WaitTransferRequest(name=made.name)
    assert mesh.call("TransferService.WaitTransfer", request, tenant=tenant).transfer.state == IN_REVIEW
