"""Streams watchlist files to compliance; only gRPC can carry them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from local.state import MeshError, State

_CHUNK_BYTES = 60_000  # below the contract's 64 KiB
_NAMES = ("SDN", "ALT", "ADD")


def import_files(state: State, path: Path, watchlist_id: str, tenant: str) -> str:
    """Imports SDN.CSV and its companions; gives a sentence about the new version. Raises MeshError."""
    import asyncio

    return asyncio.run(_import(state, path, watchlist_id, tenant))


def files(path: Path) -> dict[str, Path]:
    """The files of a list: a folder's SDN.CSV, ALT.CSV and ADD.CSV, in any case. Raises MeshError without SDN.CSV."""
    if not path.exists():
        raise MeshError(f"{path} does not exist.")
    folder = path if path.is_dir() else path.parent
    by_name = {entry.name.upper(): entry for entry in folder.iterdir() if entry.is_file()}
    found = {name: by_name[f"{name}.CSV"] for name in _NAMES if f"{name}.CSV" in by_name}
    if path.is_file():
        found["SDN"] = path
    if "SDN" not in found:
        raise MeshError(f"{folder} has no SDN.CSV; a watchlist needs one.")
    return found


async def _import(state: State, path: Path, watchlist_id: str, tenant: str) -> str:
    import grpc

    from florin.compliance.v1 import compliance_service_pb2 as pb
    from florin.compliance.v1 import compliance_service_pb2_grpc
    from local import issuer

    parts = files(path)

    async def requests() -> AsyncIterator[pb.ImportWatchlistRequest]:
        yield pb.ImportWatchlistRequest(watchlist_id=watchlist_id)
        for name, file in parts.items():
            kind = pb.ImportWatchlistRequest.File.Value(f"FILE_{name}")
            with file.open("rb") as handle:
                while data := handle.read(_CHUNK_BYTES):
                    chunk = pb.ImportWatchlistRequest.Chunk(file=kind, data=data)
                    yield pb.ImportWatchlistRequest(chunk=chunk)

    description = state.read_description()
    credentials = grpc.ssl_channel_credentials(state.ca.read_bytes())
    metadata = (("authorization", f"Bearer {issuer.mint(state, 'operator', tenant=tenant)}"),)
    async with grpc.aio.secure_channel(f"localhost:{description['port']}", credentials) as channel:
        stub = compliance_service_pb2_grpc.ComplianceServiceStub(channel)
        try:
            response = await stub.ImportWatchlist(requests(), metadata=metadata, timeout=120)
        except grpc.aio.AioRpcError as error:
            raise MeshError(f"The list was not imported: {error.details()}") from None
    found = response.watchlist
    return f"{found.name} version {found.version}: {found.entry_count} entries, {found.name_count} names"
