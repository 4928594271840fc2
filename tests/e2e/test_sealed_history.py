"""The sealed history as an auditor meets it: proofs over every protocol, an export, its check without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from accounts import merkle, signing
from accounts.history import Head, JournalContent, SealedEntry
from florin.accounts.v1 import account_service_pb2 as accounts_pb
from florin.accounts.v1 import audit_service_pb2 as pb
from florin.accounts.v1 import audit_service_pb2_grpc, events_pb2, journal_pb2, sealed_pb2
from florin.notifications.v1 import notification_service_pb2, notification_service_pb2_grpc
from local.binaries import find
from local.postgres import Postgres
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import PROTOCOLS, Refused, refused


@pytest.fixture
def tenant(mesh: Mesh) -> str:
    """A tenant of its own: its log begins with what the test does."""
    return mesh.tenant()


def pay(mesh: Mesh, tenant: str, count: int) -> list[str]:
    """Money in and some payments; gives the names of the payments' journals once all is sealed."""
    debit, credit = mesh.account(funds=100_00, tenant=tenant), mesh.account(tenant=tenant)
    journals = [
        mesh.call("TransferService.CreateTransfer", mesh.transfer(debit, credit, 1), tenant=tenant).transfer.journal
        for _ in range(count)
    ]
    for name in journals:
        wait_sealed(mesh, tenant, name)
    return journals


def wait_sealed(mesh: Mesh, tenant: str, journal: str) -> None:
    """Within the merge delay, and some more for a machine at work."""

    def is_sealed() -> bool:
        try:
            proof(mesh, tenant, journal)
        except Refused as refusal:
            assert refusal.reason in {"JOURNAL_NOT_SEALED", "TREE_HEAD_NOT_FOUND"}
            return False
        return True

    wait_until(is_sealed, 20)


def proof(mesh: Mesh, tenant: str, journal: str, protocol: str = "gRPC", **more: Any) -> pb.GetInclusionProofResponse:
    """A journal's proof."""
    request = pb.GetInclusionProofRequest(journal=journal, **more)
    answer: pb.GetInclusionProofResponse = mesh.call(
        "AuditService.GetInclusionProof", request, "auditor", tenant=tenant, protocol=protocol
    )
    return answer


def head_of(message: sealed_pb2.TreeHead) -> Head:
    """A head as a verifier takes it."""
    time = message.create_time
    return Head(
        message.tenant.removeprefix("tenants/"),
        message.tree_size,
        message.root_hash,
        time.seconds * 1_000_000 + time.nanos // 1000,
        message.key_id,
        message.signature,
    )


def leaf_of(tenant: str, journal: journal_pb2.Journal) -> bytes:
    """A journal's leaf, from what GetJournal shows."""
    return JournalContent(
        tenant,
        journal.name.removeprefix("journals/"),
        journal.kind,
        journal.origin,
        journal.create_time.seconds * 1_000_000 + journal.create_time.nanos // 1000,
        journal.effective_time.seconds * 1_000_000 + journal.effective_time.nanos // 1000,
        tuple(
            SealedEntry(
                entry.account.removeprefix("accounts/"),
                entry.sequence,
                entry.amount.currency_code,
                entry.amount.minor_units,
                entry.balance_after.minor_units,
            )
            for entry in journal.entries
        ),
        tuple(journal.metadata.items()),
    ).leaf()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_auditor_proves_that_a_payment_is_in_the_signed_log(mesh: Mesh, tenant: str, protocol: str) -> None:
    """From the journal as any reader sees it, the proof, the head and the public key; over each protocol."""
    name = pay(mesh, tenant, 3)[1]
    keys = signing.verifying_keys(mesh.state.sealing_keys)
    listed = mesh.call("AuditService.ListSigningKeys", pb.ListSigningKeysRequest(), "auditor", protocol=protocol)
    assert [(key.key_id, key.public_key, key.current) for key in listed.keys] == [(*keys.raw()[0], True)]
    found = proof(mesh, tenant, name, protocol)
    head = head_of(found.tree_head)
    assert head.tenant == tenant
    assert keys.is_signed(head)
    shown = mesh.call("AccountService.GetJournal", accounts_pb.GetJournalRequest(name=name), tenant=tenant).journal
    leaf = leaf_of(tenant, shown)
    assert found.leaf_hash == leaf
    assert merkle.includes(leaf, found.position, head.tree_size, list(found.hashes), head.root_hash)


def test_an_auditor_proves_that_the_log_was_only_added_to(mesh: Mesh, tenant: str) -> None:
    """Between a head that was kept and the newest one."""
    pay(mesh, tenant, 2)
    first = mesh.call("AuditService.GetTreeHead", pb.GetTreeHeadRequest(), "auditor", tenant=tenant).tree_head
    pay(mesh, tenant, 2)
    second = mesh.call("AuditService.GetTreeHead", pb.GetTreeHeadRequest(), "auditor", tenant=tenant).tree_head
    assert second.tree_size > first.tree_size
    request = pb.GetConsistencyProofRequest(first_size=first.tree_size, second_size=second.tree_size)
    for protocol in PROTOCOLS:
        answer = mesh.call("AuditService.GetConsistencyProof", request, "auditor", tenant=tenant, protocol=protocol)
        sizes = first.tree_size, second.tree_size
        assert merkle.is_consistent(*sizes, first.root_hash, second.root_hash, list(answer.hashes))
    again = pb.GetTreeHeadRequest(tree_size=first.tree_size)
    assert mesh.call("AuditService.GetTreeHead", again, "auditor", tenant=tenant).tree_head == first


def test_what_cannot_be_proved_is_refused(mesh: Mesh, tenant: str) -> None:
    """In the order in which the contract lists the reasons."""
    nothing = refused(lambda: mesh.call("AuditService.GetTreeHead", pb.GetTreeHeadRequest(), "auditor", tenant=tenant))
    assert nothing.is_for("NOT_FOUND", "TREE_HEAD_NOT_FOUND")
    unknown = refused(lambda: proof(mesh, tenant, "journals/00000000-0000-0000-0000-000000000000", tree_size=9))
    assert unknown.is_for("NOT_FOUND", "JOURNAL_NOT_FOUND")
    assert refused(lambda: proof(mesh, tenant, "journals/x")).is_for("NOT_FOUND", "JOURNAL_NOT_FOUND")
    name = pay(mesh, tenant, 3)[2]
    assert refused(lambda: proof(mesh, tenant, name, tree_size=999)).is_for("NOT_FOUND", "TREE_HEAD_NOT_FOUND")
    assert refused(lambda: proof(mesh, tenant, name, tree_size=1)).is_for("FAILED_PRECONDITION", "JOURNAL_NOT_SEALED")
    consistency = pb.GetConsistencyProofRequest(first_size=1, second_size=999)
    late = refused(lambda: mesh.call("AuditService.GetConsistencyProof", consistency, "auditor", tenant=tenant))
    assert late.is_for("NOT_FOUND", "TREE_HEAD_NOT_FOUND")
    turned = pb.GetConsistencyProofRequest(first_size=2, second_size=1)
    wrong = refused(lambda: mesh.call("AuditService.GetConsistencyProof", turned, "auditor", tenant=tenant))
    assert wrong.is_for("INVALID_ARGUMENT", "REQUEST_INVALID")
    other = refused(lambda: proof(mesh, mesh.tenant(), name))
    assert other.is_for("NOT_FOUND", "JOURNAL_NOT_FOUND")
    for role, reason in (("teller", "SCOPE_MISSING"), ("operator", "SCOPE_MISSING")):
        refusal = refused(lambda role=role: mesh.call("AuditService.GetTreeHead", pb.GetTreeHeadRequest(), role))  # type: ignore[misc]
        assert refusal.is_for("PERMISSION_DENIED", reason)


def test_the_stream_goes_on_at_any_position(mesh: Mesh, tenant: str) -> None:
    """The rest of the journals and the newest head, that head alone at the end, and a refusal beyond it."""
    pay(mesh, tenant, 4)
    stub = audit_service_pb2_grpc.AuditServiceStub(mesh.channel)

    def stream(start: int) -> list[pb.ExportJournalsResponse]:
        request = pb.ExportJournalsRequest(start_position=start)
        return list(stub.ExportJournals(request, metadata=mesh.metadata("auditor", tenant=tenant), timeout=20))

    whole = stream(0)
    size = whole[-1].tree_head.tree_size
    journals = [one.journal for one in whole if one.HasField("journal")]
    assert [journal.position for journal in journals] == list(range(size))
    assert all(leaf_of(tenant, journal.journal) == journal.leaf_hash for journal in journals)
    for start in range(size + 1):
        rest = stream(start)
        assert [one.journal for one in rest if one.HasField("journal")] == journals[start:]
        assert rest[-1] == whole[-1]
    with pytest.raises(grpc.RpcError) as caught:
        stream(size + 1)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_heads_are_told_to_auditors_alone(mesh: Mesh, tenant: str) -> None:
    """As events, with all that there is to keep; a teller's stream has none."""
    stub = notification_service_pb2_grpc.NotificationServiceStub(mesh.channel)
    type_ = "florin.accounts.tree_head_signed.v1"

    def follow(role: str) -> Iterator[notification_service_pb2.StreamEventsResponse]:
        metadata = mesh.metadata(role, tenant=tenant)
        request = notification_service_pb2.StreamEventsRequest()
        stream = stub.StreamEvents(request, metadata=metadata, timeout=30)
        stream.initial_metadata()
        return stream  # type: ignore[no-any-return]

    auditor, teller = follow("auditor"), follow("teller")
    pay(mesh, tenant, 1)
    event = next(one.event for one in auditor if one.event.type == type_)
    told = events_pb2.TreeHeadSigned()
    assert event.data.Unpack(told)
    request = pb.GetTreeHeadRequest(tree_size=told.tree_head.tree_size)
    head = mesh.call("AuditService.GetTreeHead", request, "auditor", tenant=tenant).tree_head
    assert told.tree_head == head
    assert head.tenant == f"tenants/{tenant}"
    completed = "florin.transactions.transfer_completed.v1"
    seen = []
    for one in teller:
        seen.append(one.event.type)
        if one.event.type == completed:
            break
    assert type_ not in seen


def test_an_export_verifies_without_a_server_and_is_gone_on_with(mesh: Mesh, tenant: str, tmp_path: Path) -> None:
    """`florin export journals` and `florin verify --offline`, with nothing but the file and a public key."""
    file, key = tmp_path / "journals.jsonl", tmp_path / "key.pem"
    key.write_bytes(mesh.state.sealing_keys.read_bytes())
    nothing = mesh.florin("export", "journals", str(file), "--tenant", tenant)
    assert nothing.returncode == 1
    assert "TREE_HEAD_NOT_FOUND" in nothing.stderr
    assert not file.exists()
    pay(mesh, tenant, 2)
    first = mesh.florin("export", "journals", str(file), "--tenant", tenant)
    assert first.returncode == 0, first.stderr
    assert offline(mesh, file, key) == (0, [])
    before = file.read_bytes()
    pay(mesh, tenant, 2)
    file.write_bytes(before + b'{"position":')  # as if it had been killed while it wrote
    assert mesh.florin("export", "journals", str(file), "--tenant", tenant).returncode == 0
    after = file.read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)
    assert offline(mesh, file, key) == (0, [])
    assert mesh.florin("export", "journals", str(file), "--tenant", tenant).stdout.startswith("0 journals added")
    assert file.read_bytes() == after
    other = tmp_path / "other.pem"
    other.write_text(signing.new_private_pem())
    code, violations = offline(mesh, file, other)
    assert code == 1
    assert all("is not signed" in one for one in violations)
    without = mesh.florin("verify", "--offline", str(file))
    assert without.returncode == 1
    assert "--public-key" in without.stderr


def test_a_change_by_a_superuser_is_found_and_named(mesh: Mesh, tenant: str, tmp_path: Path) -> None:
    """On the running mesh, and in an export of afterwards; put back, all holds again."""
    name = pay(mesh, tenant, 3)[1]
    found = proof(mesh, tenant, name)
    wanted = f"{tenant}: position {found.position}, {name}: the journal is not what was sealed"
    change = "UPDATE journals SET create_time = create_time + interval '{} second' WHERE journal = %s"
    superuser = Postgres(mesh.state, find()).admin_dsn("accounts")
    journal = name.removeprefix("journals/")
    with psycopg.connect(superuser, autocommit=True) as root:
        root.execute(change.format(1), (journal,))  # type: ignore[arg-type]
        try:
            said = mesh.florin("verify", "--json")
            file = tmp_path / "journals.jsonl"
            assert mesh.florin("export", "journals", str(file), "--tenant", tenant).returncode == 0
        finally:
            root.execute(change.format(-1), (journal,))  # type: ignore[arg-type]
    assert said.returncode == 1
    broken = {one["name"]: one["violations"] for one in json.loads(said.stdout)["invariants"] if one["violations"]}
    assert broken["INV-9"] == [wanted]
    assert broken.keys() == {"INV-2", "INV-9"}  # its entries have another time than it now
    assert offline(mesh, file, mesh.state.sealing_keys) == (1, [wanted])
    assert mesh.florin("verify").returncode == 0


def offline(mesh: Mesh, file: Path, key: Path) -> tuple[int, list[str]]:
    """Exit code and violations of `florin verify --offline`."""
    said = mesh.florin("verify", "--offline", str(file), "--public-key", str(key), "--json")
    (finding,) = json.loads(said.stdout)["invariants"]
    assert finding["checked"] > 0
    violations: list[str] = finding["violations"]
    return said.returncode, violations
