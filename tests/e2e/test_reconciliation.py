"""A bank's statement through the edge: imported by the command, matched, worked off by two people, told of."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from florin.accounts.v1 import events_pb2, reconciliation_pb2
from florin.accounts.v1 import reconciliation_service_pb2 as pb
from florin.notifications.v1 import notification_service_pb2
from tests.support.bank_statements import Booked, document, funded, settlement_account
from tests.support.mesh import Mesh
from tests.support.protocols import PROTOCOLS, refused


def test_a_statement_is_imported_and_what_is_open_is_worked_off(mesh: Mesh, tmp_path: Path) -> None:
    """What came in with a reference is matched, a fee is open until two people resolve it, and the same over every
    protocol; who watches events is told of each change."""
    tenant = mesh.tenant()
    nostro, outside = settlement_account(mesh, tenant=tenant)
    funded(mesh, nostro, mesh.account(tenant=tenant), 25_00, tenant=tenant, reference="INVOICE-4711")
    wanted = notification_service_pb2.StreamEventsRequest(event_types=["florin.accounts.item_match_changed.v1"])
    told = mesh.stubs().notifications.StreamEvents(
        wanted, metadata=mesh.metadata("operator", tenant=tenant), timeout=60
    )
    told.initial_metadata()  # the stream's beginning is fixed from here on
    file = tmp_path / "statement.xml"
    entries = [Booked(25_00, end_to_end_id="invoice 4711"), Booked(-2_50)]
    file.write_bytes(document(entries, day=datetime.now(UTC).date(), account=outside))

    done = mesh.florin("reconcile", "import", str(file), "--account", nostro, "--tenant", tenant)
    assert done.returncode == 0, done.stderr
    assert "number 1: 2 entries" in done.stdout
    assert "-2.50 EUR in 1 open items of the bank, 0.00 EUR in 0 of ours" in done.stdout
    again = mesh.florin("reconcile", "import", str(file), "--account", nostro, "--tenant", tenant)
    assert "it was there already" in again.stdout
    listed = mesh.florin("reconcile", "open", "--account", nostro, "--tenant", tenant, "--json")
    (item,) = json.loads(listed.stdout)
    assert item["amount"] == {"currencyCode": "EUR", "minorUnits": "-250"}

    name = "ReconciliationService"
    resolve = pb.ResolveItemRequest(name=item["name"], note="fee of the bank", request_id="fee")
    proposed = {
        protocol: mesh.call(f"{name}.ResolveItem", resolve, "operator", tenant=tenant, protocol=protocol).item_match
        for protocol in PROTOCOLS
    }
    assert len({one.name for one in proposed.values()}) == 1
    approve = pb.ApproveItemMatchRequest(name=proposed["gRPC"].name)
    refusal = refused(lambda: mesh.call(f"{name}.ApproveItemMatch", approve, "operator", tenant=tenant))
    assert refusal.is_for("PERMISSION_DENIED", "FOUR_EYES")
    mesh.call(f"{name}.ApproveItemMatch", approve, "compliance", tenant=tenant)
    for protocol in PROTOCOLS:
        asked = pb.GetReconciliationRequest(name=f"{nostro}/reconciliation")
        found = mesh.call(f"{name}.GetReconciliation", asked, "auditor", tenant=tenant, protocol=protocol)
        books = found.reconciliation
        assert (books.open_bank.count, books.open_ledger.count, books.resolved.count) == (0, 0, 1)
        assert (books.difference.minor_units, books.unexplained.minor_units) == (-2_50, 0)
    changes = []
    for _ in range(3):
        change = events_pb2.ItemMatchChanged()
        assert next(told).event.data.Unpack(change)
        changes.append((change.rule, change.state))
    told.cancel()
    assert sorted(changes) == [
        (reconciliation_pb2.MATCH_RULE_REFERENCE, reconciliation_pb2.ITEM_MATCH_STATE_ACTIVE),
        (reconciliation_pb2.MATCH_RULE_RESOLVED, reconciliation_pb2.ITEM_MATCH_STATE_PROPOSED),
        (reconciliation_pb2.MATCH_RULE_RESOLVED, reconciliation_pb2.ITEM_MATCH_STATE_ACTIVE),
    ]
    assert refused(lambda: mesh.call(f"{name}.ApproveItemMatch", approve, "auditor", tenant=tenant)).reason == (
        "SCOPE_MISSING"
    )
