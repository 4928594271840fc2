"""Journals that the bank posts itself, through the whole mesh: over gRPC and REST, as events, and under seal."""

from __future__ import annotations

import secrets

import pytest

from accounts import merkle
from florin.accounts.v1 import account_pb2, audit_service_pb2, events_pb2, journal_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from florin.accounts.v1 import journal_service_pb2 as journal_pb
from florin.common.v1 import money_pb2
from florin.notifications.v1 import notification_service_pb2
from tests.e2e.test_sealed_history import leaf_of
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import Refused, refused

POST, BATCH, LIST = (f"JournalService.{verb}" for verb in ("PostJournal", "BatchPostJournals", "ListJournals"))
POSTED = "florin.accounts.journal_posted.v1"


def account(mesh: Mesh, tenant: str) -> str:
    """An account of the bank's own."""
    request = pb.CreateAccountRequest(type=account_pb2.ACCOUNT_TYPE_INTERNAL, currency_code="EUR")
    name: str = mesh.call("AccountService.CreateAccount", request, "operator", tenant=tenant).account.name
    return name


def entry(debit: str, credit: str, minor_units: int, **values: object) -> journal_pb.PostJournalRequest:
    """A journal with something written on it."""
    request = journal_pb.PostJournalRequest(
        reason="interest of January", request_id=secrets.token_hex(8), metadata={"run": "2026-01"}, **values
    )
    for name, amount in ((debit, -minor_units), (credit, minor_units)):
        leg = request.legs.add(account=name)
        leg.amount.CopyFrom(money_pb2.Money(currency_code="EUR", minor_units=amount))
    return request


@pytest.mark.parametrize("protocol", ["gRPC", "REST"])
def test_interest_is_accrued_paid_seen_and_proved(mesh: Mesh, protocol: str) -> None:
    """Accrued by an operator, paid to a customer by a bookkeeper alone; the customer hears of it; nothing is done
    twice; the list finds both; what was written on it is under the auditor's head."""
    tenant = mesh.tenant()
    options = {"tenant": tenant, "protocol": protocol}
    customer = mesh.customer(tenant=tenant)
    mine, expense, accrued = mesh.account(customer, tenant=tenant), account(mesh, tenant), account(mesh, tenant)
    accrual, interest = entry(expense, accrued, 3_00), entry(accrued, mine, 3_00, reference="interest")
    events = mesh.stubs().notifications.StreamEvents(
        notification_service_pb2.StreamEventsRequest(event_types=[POSTED]),
        metadata=mesh.metadata("customer", tenant=tenant, customer=customer),
        timeout=60,
    )
    events.initial_metadata()
    first = mesh.call(POST, accrual, "operator", **options).journal
    assert mesh.call(POST, accrual, "operator", **options).journal == first
    assert refused(lambda: mesh.call(POST, accrual, **options)).is_for("PERMISSION_DENIED", "SCOPE_MISSING")
    alone = refused(lambda: mesh.call(POST, interest, "operator", **options))
    assert alone.is_for("PERMISSION_DENIED", "JOURNAL_CUSTOMER_ACCOUNT")
    assert alone.metadata["scope"] == "journals:customers"
    bad = entry(accrued, mine, 1, reference="bad")
    bad.legs[0].expected_version = 7
    both = journal_pb.BatchPostJournalsRequest(requests=[interest, bad], atomic=True)
    results = mesh.call(BATCH, both, "bookkeeper", **options).results
    assert [result.WhichOneof("result") for result in results] == ["status", "status"]
    interest.request_id = secrets.token_hex(8)
    both = journal_pb.BatchPostJournalsRequest(requests=[interest], atomic=True)
    (result,) = mesh.call(BATCH, both, "bookkeeper", **options).results
    paid = result.journal
    assert (paid.kind, paid.origin) == (journal_pb2.JOURNAL_KIND_MANUAL, "manual/interest")
    assert mesh.balance(mine, tenant=tenant).posted.minor_units == 3_00
    event = next(iter(events)).event
    told = events_pb2.JournalPosted()
    assert event.data.Unpack(told)
    assert (told.journal, told.origin, dict(told.metadata)) == (paid.name, "manual/interest", {"run": "2026-01"})
    events.cancel()
    query = journal_pb.ListJournalsRequest(filter="metadata.run = 2026-01", page_size=1)
    page = mesh.call(LIST, query, "auditor", **options)
    assert list(page.journals) == [paid]
    query.page_token = page.next_page_token
    assert list(mesh.call(LIST, query, "auditor", **options).journals) == [first]
    shown = mesh.call("AccountService.GetJournal", pb.GetJournalRequest(name=paid.name), **options).journal
    assert dict(shown.metadata) == {"run": "2026-01"}
    _proved(mesh, tenant, shown)


def _proved(mesh: Mesh, tenant: str, journal: journal_pb2.Journal) -> None:
    """Its leaf, with what is written on it, is in the signed tree."""
    request = audit_service_pb2.GetInclusionProofRequest(journal=journal.name)
    proofs: list[audit_service_pb2.GetInclusionProofResponse] = []

    def is_sealed() -> bool:
        try:
            proofs.append(mesh.call("AuditService.GetInclusionProof", request, "auditor", tenant=tenant))
        except Refused as refusal:
            if refusal.reason not in {"JOURNAL_NOT_SEALED", "TREE_HEAD_NOT_FOUND"}:
                raise
        return bool(proofs)

    wait_until(is_sealed)
    (proof,) = proofs
    leaf = leaf_of(tenant, journal)
    assert leaf == proof.leaf_hash
    assert merkle.includes(leaf, proof.position, proof.tree_size, list(proof.hashes), proof.tree_head.root_hash)
