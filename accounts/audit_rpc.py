"""AuditService over gRPC: heads, proofs and the export of a tenant's log; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import messages, seal_store, sealing
from accounts.history import Head, JournalContent
from accounts.signing import Signer
from florin.accounts.v1 import audit_service_pb2 as pb
from florin.accounts.v1 import audit_service_pb2_grpc as pb_grpc
from florin.accounts.v1 import sealed_pb2
from meshkit import identity
from meshkit.database import Database
from meshkit.errors import DeadlineExceeded, Overloaded

PAGE = 500
"""Positions of the log that are read at once; a slow reader holds no connection, and not more than this in memory."""
_EXPORTS_MAX = 8
"""Exports of a replica at once: each reads as fast as its client takes, and payments go first."""

Exported = tuple[int, str, bytes, JournalContent | None]


class AuditService(pb_grpc.AuditServiceServicer):
    """The public methods on the sealed history. `signer` is None where nothing is sealed."""

    def __init__(self, db: Database, signer: Signer | None) -> None:
        self._db = db
        self._signer = signer
        self._exports = 0

    async def GetTreeHead(self, request: pb.GetTreeHeadRequest, context: Any) -> pb.GetTreeHeadResponse:
        """Shows a signed head."""
        head = await self._head(identity.current().tenant, request.tree_size)
        return pb.GetTreeHeadResponse(tree_head=messages.tree_head(head))

    async def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, context: Any
    ) -> pb.GetInclusionProofResponse:
        """Proves that a journal is in the log."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> sealing.Inclusion:
            return await sealing.get_inclusion_proof(conn, call.tenant, request.journal, request.tree_size)

        found = await self._db.run(call.tenant, work, read_only=True)
        return pb.GetInclusionProofResponse(
            position=found.position,
            leaf_hash=found.leaf_hash,
            tree_size=found.tree_size,
            hashes=found.hashes,
            tree_head=None if found.head is None else messages.tree_head(found.head),
        )

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, context: Any
    ) -> pb.GetConsistencyProofResponse:
        """Proves that the log was only added to between two sizes."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> list[bytes]:
            return await sealing.get_consistency_proof(conn, call.tenant, request.first_size, request.second_size)

        return pb.GetConsistencyProofResponse(hashes=await self._db.run(call.tenant, work, read_only=True))

    async def ListSigningKeys(self, request: pb.ListSigningKeysRequest, context: Any) -> pb.ListSigningKeysResponse:
        """Lists the public keys, the signing one first."""
        response = pb.ListSigningKeysResponse()
        if self._signer is not None:
            for name, key in self._signer.known.raw():
                response.keys.add(key_id=name, public_key=key, current=name == self._signer.key_id)
        return response

    async def ExportJournals(
        self, request: pb.ExportJournalsRequest, context: Any
    ) -> AsyncIterator[pb.ExportJournalsResponse]:
        """Streams journals and heads in the order of the log, a page in a transaction."""
        if self._exports >= _EXPORTS_MAX:
            raise Overloaded
        self._exports += 1
        try:
            call = identity.current()
            tenant, start = call.tenant, request.start_position
            newest = await self._head(tenant, 0)
            if start > newest.tree_size:
                # Somebody has more than there is: a head of that size is what it has to be asked for.
                newest = await self._head(tenant, start)
            if start == newest.tree_size:
                yield pb.ExportJournalsResponse(tree_head=messages.tree_head(newest))
            while start < newest.tree_size:
                if time.monotonic() > call.deadline:
                    raise DeadlineExceeded
                end = min(start + PAGE, newest.tree_size)
                journals, heads = await self._page(tenant, start, end)
                for item in _merged(journals, heads):
                    yield item
                start = end
        finally:
            self._exports -= 1

    async def _head(self, tenant: str, tree_size: int) -> Head:
        async def work(conn: AsyncConnection) -> Head:
            return await sealing.get_tree_head(conn, tenant, tree_size)

        return await self._db.run(tenant, work, read_only=True)

    async def _page(self, tenant: str, start: int, end: int) -> tuple[list[Exported], list[Head]]:
        async def work(conn: AsyncConnection) -> tuple[list[Exported], list[Head]]:
            journals = await seal_store.export(conn, tenant, start=start, end=end)
            return journals, await seal_store.heads(conn, tenant, above=start, up_to=end)

        return await self._db.run(tenant, work, read_only=True)


def _merged(journals: list[Exported], heads: list[Head]) -> list[pb.ExportJournalsResponse]:
    """Each head after the last of its journals. Gaps are left as they are: whoever reads it is to see them."""
    items: list[tuple[int, int, sealed_pb2.SealedJournal | sealed_pb2.TreeHead]] = [
        (position + 1, 0, messages.sealed_journal(position, journal, leaf, content))
        for position, journal, leaf, content in journals
    ]
    items += [(head.tree_size, 1, messages.tree_head(head)) for head in heads]
    items.sort(key=lambda item: item[:2])
    return [
        pb.ExportJournalsResponse(tree_head=message)
        if isinstance(message, sealed_pb2.TreeHead)
        else pb.ExportJournalsResponse(journal=message)
        for _, _, message in items
    ]
