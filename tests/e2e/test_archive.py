"""Old periods moved out of the ledger of a mesh at work, by the command, and seen through the edge."""

from __future__ import annotations

from datetime import UTC, datetime

from florin.accounts.v1 import account_service_pb2 as pb
from tests.support.mesh import Mesh
from tests.support.parts import wait_until


def test_what_the_command_archives_is_read_as_before(mesh: Mesh) -> None:
    """A tenant's payments so far are moved; balances, pages, journals and what is paid next are as if they were not."""
    tenant = mesh.tenant()
    debit, credit = mesh.account(funds=100_00, tenant=tenant), mesh.account(tenant=tenant)
    made = [
        mesh.call("TransferService.CreateTransfer", mesh.transfer(debit, credit, 1_00), tenant=tenant).transfer
        for _ in range(3)
    ]
    pages, journal = pb.ListEntriesRequest(account=debit, page_size=2), pb.GetJournalRequest(name=made[0].journal)
    before = [
        mesh.call("AccountService.ListEntries", pages, tenant=tenant),
        mesh.call("AccountService.GetJournal", journal, tenant=tenant),
    ]
    moved = 0

    def is_archived() -> bool:
        nonlocal moved
        done = mesh.florin("ledger", "archive", "--before", datetime.now(UTC).isoformat(), "--tenant", tenant)
        assert done.returncode == 0, done.stderr
        moved += int(done.stdout.split()[0])
        return moved == 4  # with the funding; those that are not sealed yet wait for the next run

    wait_until(is_archived, 30)
    after = [
        mesh.call("AccountService.ListEntries", pages, tenant=tenant),
        mesh.call("AccountService.GetJournal", journal, tenant=tenant),
    ]
    assert after == before
    assert mesh.balance(credit, tenant=tenant).posted.minor_units == 3_00
    last = mesh.call("TransferService.CreateTransfer", mesh.transfer(debit, credit, 1_00), tenant=tenant).transfer
    newest = mesh.call("AccountService.ListEntries", pages, tenant=tenant).entries
    assert [one.sequence for one in newest] == [5, 4]
    assert newest[0].journal == last.journal
    refused = mesh.florin("ledger", "archive", "--before", "2999-01-01", "--tenant", tenant)
    assert refused.returncode == 1
    assert "has not come yet" in refused.stderr
    unknown = mesh.florin("ledger", "detach", "1999")
    assert unknown.returncode == 1
    assert "no period 1999" in unknown.stderr
    missing = mesh.florin("ledger", "attach", "1999")
    assert missing.returncode == 1
    assert "no table archived_journals_1999" in missing.stderr
