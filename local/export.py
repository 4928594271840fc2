"""Exports a tenant's sealed journals into a file, through the edge as an auditor; what was begun is gone on with."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc

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
                end = ExportEnd(0, 0, 0)
            patience = Patience()
            while not done.tree_size:
                before = end.next_position
                try:
                    await _stream(auditor, file, end, done)
                except grpc.aio.AioRpcError as error:
                    refused = refusal(error)
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


async def _stream(auditor: Session, file: IO[bytes], end: ExportEnd, done: Exported) -> None:
    request = pb.ExportJournalsRequest(start_position=end.next_position)
    newest = 0
    async for answer in auditor.audit.ExportJournals(request, metadata=auditor.metadata()):
        if answer.WhichOneof("item") == "journal":
            file.write(export_file.journal_line(answer.journal).encode())
            end.next_position = answer.journal.position + 1
            end.head_size = 0
            done.added += 1
            continue
        newest = answer.tree_head.tree_size
        if end.head_size != newest:
            file.write(export_file.head_line(answer.tree_head).encode())
            end.head_size = newest
    done.tree_size = newest


def _told(refused: Refused, path: Path) -> MeshError:
    return MeshError(f"{refused} What was exported so far is in {path}; the same command goes on with it.")
