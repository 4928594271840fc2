"""The folder of a rail: what is put out is whole and never another's, what is taken in is not followed anywhere."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import pytest

from local import counterparty
from local.counterparty import Credit
from transactions.rails.folder import FolderRail
from transactions.rails.port import Incoming, OutgoingPayment

MOMENT = datetime(2026, 3, 2, 23, 30, tzinfo=UTC)
CREDIT = Credit("AT611904300234573201", "12.50", "EUR", "Otto Example", "DE89370400440532013000")


@pytest.fixture
def rail(tmp_path: Path) -> FolderRail:
    """A rail whose folder is there."""
    (tmp_path / "demo").mkdir()
    return FolderRail(tmp_path, "FLORATWWXXX", "Europe/Vienna", settle_seconds=60)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def put(folder: Path, name: str = "a.xml", reference: str = "R") -> Path:
    (folder / "in").mkdir(parents=True, exist_ok=True)
    path = folder / "in" / name
    path.write_bytes(counterparty.notification(CREDIT, message_id="M", reference=reference, moment=MOMENT))
    return path


def came_in(rail: FolderRail) -> list[Incoming]:
    return list(rail.incoming(frozenset()))


def test_a_message_is_whole_under_its_name_and_readable_by_few(rail: FolderRail, tmp_path: Path) -> None:
    """Sent again, it is the same file; another one under its name is refused, and stays unwritten."""
    rail.send("demo", "m1", b"one")
    rail.send("demo", "m1", b"one")
    out = tmp_path / "demo" / "out"
    assert names(out) == ["m1.xml"]
    assert (out / "m1.xml").stat().st_mode & 0o007 == 0
    with pytest.raises(FileExistsError):
        rail.send("demo", "m1", b"two")
    assert (out / "m1.xml").read_bytes() == b"one"


def test_a_failed_write_leaves_nothing_and_what_a_dead_process_left_goes(rail: FolderRail, tmp_path: Path) -> None:
    """A full disk: no file of that name, no part of one; the next attempt also clears what a killed one left."""
    out = tmp_path / "demo" / "out"
    with mock.patch("transactions.rails.folder.os.fsync", side_effect=OSError(28, "full")), pytest.raises(OSError):
        rail.send("demo", "m1", b"one")
    assert names(out) == []
    (out / ".m1.0000.part").write_bytes(b"on")
    rail.send("demo", "m1", b"one")
    assert names(out) == ["m1.xml"]


def test_a_file_is_taken_out_before_it_is_read(rail: FolderRail, tmp_path: Path) -> None:
    """What is put in later under its name is another file, and both are put away."""
    put(tmp_path / "demo")
    (first,) = came_in(rail)
    put(tmp_path / "demo", reference="S")
    assert first.content is not None
    rail.file_away(first)
    (second,) = came_in(rail)
    rail.file_away(second)
    rail.file_away(second)  # another replica was faster
    assert first.digest != second.digest
    assert len(names(tmp_path / "demo" / "processed")) == 2
    assert names(tmp_path / "demo" / "claimed") == []


def test_a_link_in_the_way_of_a_reason_is_replaced_and_not_followed(rail: FolderRail, tmp_path: Path) -> None:
    """Nobody has the service write elsewhere."""
    folder = tmp_path / "demo"
    put(folder).write_bytes(b"<a/>")
    (refused,) = came_in(rail)
    target = tmp_path / "target"
    target.write_text("mine")
    reason = folder / "rejected" / f"{Path(refused.place).name}.reason.txt"
    reason.symlink_to(target)
    rail.file_away(refused)
    assert target.read_text() == "mine"
    assert "pacs.002.001.10" in reason.read_text()


def test_names_are_made_safe_and_folders_that_are_no_tenants_are_left(rail: FolderRail, tmp_path: Path) -> None:
    """Whatever a file is called, what is told of it is plain; a folder that is called as no tenant is not looked at."""
    put(tmp_path / "demo", "ä\n$(x) .xml")
    put(tmp_path / "No Tenant")
    (found,) = came_in(rail)
    assert found.tenant == "demo"
    assert found.name.partition("-")[2] == "____x__.xml"
    assert names(tmp_path / "No Tenant") == ["in"]
    assert list(rail.incoming(frozenset({found.place}))) == []


def test_what_cannot_be_read_holds_up_no_other(rail: FolderRail, tmp_path: Path) -> None:
    """A fault of ours at one file is logged; the next is read all the same."""
    put(tmp_path / "demo", "1.xml", "R")
    put(tmp_path / "demo", "2.xml", "S")
    read = FolderRail._read

    def fails_at_the_first(self: FolderRail, tenant: str, path: Path) -> Incoming | None:
        if path.name.endswith("1.xml"):
            raise RuntimeError("a fault")
        return read(self, tenant, path)

    with mock.patch.object(FolderRail, "_read", fails_at_the_first):
        assert [one.name[-5:] for one in came_in(rail)] == ["2.xml"]


def test_tenants_take_turns_and_one_whose_folder_is_none_holds_up_no_other(rail: FolderRail, tmp_path: Path) -> None:
    """Many files of one do not come before all of another; who made a file of their inbox is left out."""
    for name in ("1.xml", "2.xml"):
        put(tmp_path / "anna", name)
        put(tmp_path / "demo", name)
    (tmp_path / "aaa").mkdir()
    (tmp_path / "aaa" / "in").write_text("no folder")
    assert [one.tenant for one in came_in(rail)] == ["anna", "demo", "anna", "demo"]


@pytest.mark.parametrize("name", ["in", "claimed", "out"])
def test_no_folder_of_a_tenant_leads_into_anothers(rail: FolderRail, tmp_path: Path, name: str) -> None:
    """Who may write into one tenant's folder takes nothing of another's by a link, and puts nothing there."""
    theirs = put(tmp_path / "demo")
    other = tmp_path / "anna"
    other.mkdir()
    (other / name).symlink_to(theirs.parent)
    with pytest.raises(NotADirectoryError):
        rail.send("anna", "M", b"x")
    assert [one.tenant for one in came_in(rail)] == ["demo"]
    assert names(theirs.parent) == []


def test_a_broken_file_waits_for_its_writer_and_is_refused_when_it_grew_old(rail: FolderRail, tmp_path: Path) -> None:
    """By the time of its last change, also where the folder's clock is ahead."""
    path = put(tmp_path / "demo")
    path.write_bytes(path.read_bytes()[:100])
    assert came_in(rail) == []
    (claimed,) = (tmp_path / "demo" / "claimed").iterdir()
    os.utime(claimed, (2**33, 2**33))
    (refused,) = came_in(rail)
    assert (refused.content, bool(refused.refusal)) == (None, True)


def test_a_message_is_dated_by_the_banks_day(rail: FolderRail) -> None:
    """Half past eleven in the evening of UTC is the next day in Vienna."""
    payment = OutgoingPayment("a", "", "EUR", 1, "A", "", "a", "B", "DE89370400440532013000", "")
    assert b"<IntrBkSttlmDt>2026-03-03</IntrBkSttlmDt>" in rail.compose("m", MOMENT, [payment])
