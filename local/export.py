"""Exports a tenant's sealed journals into a file, through the edge as an auditor; what was begun is gone on with."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc

from accounts.history import Head
from checker.texts import printable
from florin.accounts.v1 import audit_service_pb2 as pb
from local import export_file
from local.client import Patience, Refused, Session, connect, is_transient, refusal
from local.export_file import ExportEnd
from local.state import MeshError, State

_TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass(slots=True)
class Exported:
    """What an export came to: the journals added to the file, and the size of the head at its end."""

    added: int = 0
    tree_size: int = 0


class _OtherLog(Exception):
    """The service's log is not the one that the file was exported from. Its head is evidence, and is told whole."""

    def __init__(self, head: Head | None, line: str) -> None:
        super().__init__()
        self._head = head
        self._line = line

    def told(self, path: Path, end: ExportEnd) -> MeshError:
        """What to say of it."""
        kept = f"{end.next_position} journals"
        if end.head is not None:
            kept += f" and a head of size {end.head.tree_size} with root {end.head.root_hash.hex()}"
        shown = "none"
        if self._head is not None:
            shown = f"one of size {self._head.tree_size} with root {self._head.root_hash.hex()}: {self._line.strip()}"
        return MeshError(
            f"{path}: the log is not the one of this file. The file has {kept}; the newest head of the service is"
            f" {printable(shown)}. Keep both."
        )


def journals(state: State, path: Path, tenant: str) -> Exported:
    """Brings a file up to the newest head. Raises MeshError."""
    port = int(state.read_description()["port"])
    try:
        return asyncio.run(_journals(state, port, path, tenant))
    except Refused as refused:
        raise MeshError(str(refused)) from None


async def _journals(state: State, port: int, path: Path, tenant: str) -> Exported:
    end, done = export_file.find_end(path, tenant), Exported()
    async with connect(state, f"localhost:{port}") as edge:
        auditor = edge.session("auditor", tenant=tenant)
        if end is None:
            # First of all: a tenant without anything sealed leaves no file behind.
            await auditor.call(auditor.audit.GetTreeHead, pb.GetTreeHeadRequest())
        with export_file.open_at(path, end) as file:
            if end is None:
                keys = await auditor.call(auditor.audit.ListSigningKeys, pb.ListSigningKeysRequest())
                file.write(export_file.header(tenant, [(key.key_id, key.public_key) for key in keys.keys]).encode())
                end = ExportEnd(0, None, 0)
            patience = Patience()
            while not done.tree_size:
                before = end.next_position
                try:
                    await _stream(auditor, file, end, done, tenant)
                except _OtherLog as other:
                    raise other.told(path, end) from None
                except grpc.aio.AioRpcError as error:
                    refused = refusal(error)
                    if refused.reason == "TREE_HEAD_NOT_FOUND" and end.next_position:
                        raise (await _smaller(auditor, tenant)).told(path, end) from None
                    if end.next_position > before:
                        patience = Patience()  # it went on, so it is worth to go on
                    again = error.code() in _TRANSIENT or is_transient(refused.reason)
                    # A token may end in the middle; the next one is made anew.
                    again = again or (refused.reason == "TOKEN_INVALID" and end.next_position > before)
                    if not again or not await patience.wait(refused.status):
                        raise _told(refused, path) from None
            file.flush()
            os.fsync(file.fileno())
    return done


async def _stream(auditor: Session, file: IO[bytes], end: ExportEnd, done: Exported, tenant: str) -> None:
    """Adds what comes after the file's end to it. Raises _OtherLog."""
    request = pb.ExportJournalsRequest(start_position=end.next_position)
    newest = 0
    async for answer in auditor.audit.ExportJournals(request, metadata=auditor.metadata()):
        if answer.WhichOneof("item") == "journal":
            file.write(export_file.journal_line(answer.journal).encode())
            end.next_position = answer.journal.position + 1
            done.added += 1
            continue
        line = export_file.head_line(answer.tree_head)
        head = export_file.head_of(answer.tree_head, tenant)
        newest = head.tree_size
        if newest < end.next_position:
            raise _OtherLog(head, line)
        if end.head is None or end.head.tree_size != newest:
            file.write(line.encode())
            end.head = head
        elif end.head.root_hash != head.root_hash:
            raise _OtherLog(head, line)
    done.tree_size = newest


async def _smaller(auditor: Session, tenant: str) -> _OtherLog:
    """The head of a log that has less than the file; none where nothing is left of it. Raises Refused."""
    try:
        answer = await auditor.call(auditor.audit.GetTreeHead, pb.GetTreeHeadRequest())
    except Refused as refused:
        if refused.reason != "TREE_HEAD_NOT_FOUND":
            raise
        return _OtherLog(None, "")
    line = export_file.head_line(answer.tree_head)
    return _OtherLog(export_file.head_of(answer.tree_head, tenant), line)


def _told(refused: Refused, path: Path) -> MeshError:
    return MeshError(f"{refused} What was exported so far is in {path}; the same command goes on with it.")
