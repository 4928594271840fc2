"""Takes the chunks of a watchlist import to disk, with a cap, and reads them when they are complete; stores nothing."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from compliance import sdn
from compliance.errors import WatchlistInvalid
from compliance.model import ListedName
from florin.compliance.v1 import compliance_service_pb2 as pb
from meshkit.errors import RequestInvalid

_FILES = {
    pb.ImportWatchlistRequest.FILE_SDN: "SDN.CSV",
    pb.ImportWatchlistRequest.FILE_ALT: "ALT.CSV",
    pb.ImportWatchlistRequest.FILE_ADD: "ADD.CSV",
}
_IN_MEMORY_BYTES = 1024 * 1024  # a file beyond this goes to disk


@dataclass(frozen=True, slots=True)
class Import:
    """A complete and readable import."""

    watchlist_id: str
    sha256: str
    entry_count: int
    names: tuple[ListedName, ...]


async def receive(requests: AsyncIterator[pb.ImportWatchlistRequest], *, bytes_max: int) -> Import:
    """Reads the stream of an import to its end: the id, then the chunks of each file in order.

    Raises RequestInvalid for a stream in the wrong order, WatchlistInvalid for files that cannot be read.
    """
    watchlist_id, received = "", 0
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        async for request in requests:
            if request.WhichOneof("part") == "watchlist_id":
                if watchlist_id:
                    raise RequestInvalid([("watchlist_id", "it comes once, before all chunks")])
                watchlist_id = request.watchlist_id
                continue
            if not watchlist_id:
                raise RequestInvalid([("watchlist_id", "it comes before the first chunk")])
            file = _FILES[request.chunk.file]
            received += len(request.chunk.data)
            if received > bytes_max:
                raise WatchlistInvalid(file, 0, f"an import has at most {bytes_max} bytes")
            if file not in files:
                files[file] = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES))
            await asyncio.to_thread(files[file].write, request.chunk.data)
        if not watchlist_id:
            raise RequestInvalid([("watchlist_id", "it comes before the first chunk")])
        if "SDN.CSV" not in files:
            raise WatchlistInvalid("SDN.CSV", 0, "the file is missing")
        return await asyncio.to_thread(_read, watchlist_id, files)


def _read(watchlist_id: str, files: dict[str, IO[bytes]]) -> Import:
    digest = hashlib.sha256()
    for name in sorted(files):
        files[name].seek(0)
        # The name and the file's own digest: the same bytes divided among the files otherwise are another list.
        digest.update(f"{name} {hashlib.file_digest(files[name], 'sha256').hexdigest()}\n".encode())  # type: ignore[arg-type]
    parsed = sdn.parse(files["SDN.CSV"], files.get("ALT.CSV"), files.get("ADD.CSV"))  # type: ignore[arg-type]
    return Import(watchlist_id, digest.hexdigest(), parsed.entry_count, parsed.names)
