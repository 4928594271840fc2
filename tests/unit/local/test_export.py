"""An export that was begun is gone on with from the same log only: what contradicts it is shown, not dropped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from accounts import messages
from accounts.history import Head
from florin.accounts.v1 import audit_service_pb2 as pb
from local import export, export_file
from local.client import Refused
from local.export import Exported
from local.state import MeshError

TENANT = "demo"


def head(size: int, root: bytes, time: int = 1) -> Head:
    """A head; nobody checks its signature here."""
    return Head(TENANT, size, root * 32, time, "key\x9b", b"s" * 64)


@dataclass(slots=True)
class Service:
    """An AuditService that has one head; an export from beyond it is refused."""

    newest: Head | None
    asked: list[int] = field(default_factory=list)

    @property
    def audit(self) -> Service:
        """The stub."""
        return self

    def metadata(self) -> tuple[()]:
        """None is looked at."""
        return ()

    async def call(self, method: Any, request: Any) -> Any:
        """As a session calls."""
        return method(request)

    def GetTreeHead(self, _: pb.GetTreeHeadRequest) -> pb.GetTreeHeadResponse:
        """The newest."""
        if self.newest is None:
            raise missing()
        return pb.GetTreeHeadResponse(tree_head=messages.tree_head(self.newest))

    async def ExportJournals(
        self, request: pb.ExportJournalsRequest, metadata: Any
    ) -> AsyncIterator[pb.ExportJournalsResponse]:
        """The newest head alone."""
        self.asked.append(request.start_position)
        if self.newest is None or request.start_position > self.newest.tree_size:
            raise _NotFound
        yield pb.ExportJournalsResponse(tree_head=messages.tree_head(self.newest))


class _NotFound(grpc.aio.AioRpcError):
    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata())


def missing() -> Refused:
    """TREE_HEAD_NOT_FOUND."""
    refused = Refused.__new__(Refused)
    Exception.__init__(refused, "there is no such head")
    refused.reason = "TREE_HEAD_NOT_FOUND"
    return refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An export with seven journals and their head."""
    path = tmp_path / "journals.jsonl"
    lines = [export_file.header(TENANT, [])]
    for position in range(7):
        journal = f"00000000-0000-0000-0000-{position:012}"
        lines.append(export_file.journal_line(messages.sealed_journal(position, journal, b"l" * 32, None)))
    lines.append(export_file.head_line(messages.tree_head(head(7, b"r"))))
    path.write_text("".join(lines))
    return path


async def go_on(path: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> Exported:
    """`florin export journals` with a file that was begun."""

    class Edge:
        def session(self, role: str, *, tenant: str) -> Service:
            assert (role, tenant) == ("auditor", TENANT)
            return service

    @asynccontextmanager
    async def connect(*_: Any) -> AsyncIterator[Edge]:
        yield Edge()

    monkeypatch.setattr(export, "connect", connect)
    monkeypatch.setattr(export, "refusal", lambda _: missing())
    return await export._journals(None, 0, path, TENANT)  # type: ignore[arg-type]


async def test_the_same_log_adds_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one size and root, whenever it was signed."""
    before, service = path.read_bytes(), Service(head(7, b"r", 2))
    assert await go_on(path, service, monkeypatch) == Exported(0, 7)
    assert path.read_bytes() == before
    assert service.asked == [7]


@pytest.mark.parametrize("other", [head(7, b"x"), head(5, b"y")], ids=["another root", "a smaller log"])
async def test_another_log_is_an_error_that_shows_its_head(
    path: Path, monkeypatch: pytest.MonkeyPatch, other: Head
) -> None:
    """Whole, with its signature: it is what the auditor has against the bank."""
    before = path.read_bytes()
    with pytest.raises(MeshError, match="the log is not the one of this file") as caught:
        await go_on(path, Service(other), monkeypatch)
    assert f"size {other.tree_size} with root {other.root_hash.hex()}" in str(caught.value)
    assert other.signature.hex() in str(caught.value)
    assert str(caught.value).isprintable()
    assert path.read_bytes() == before


async def test_a_log_that_is_gone_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no head to show then."""
    with pytest.raises(MeshError, match="the newest head of the service is none"):
        await go_on(path, Service(None), monkeypatch)


async def test_a_service_that_streams_a_smaller_head_is_not_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that answers what it should refuse."""

    class Lying(Service):
        async def ExportJournals(self, request: Any, metadata: Any) -> Any:
            yield pb.ExportJournalsResponse(tree_head=messages.tree_head(head(5, b"y")))

    with pytest.raises(MeshError, match="size 5 with root"):
        await go_on(path, Lying(head(5, b"y")), monkeypatch)
