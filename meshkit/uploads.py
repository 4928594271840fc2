"""Takes what is uploaded in messages to disk, and reads it in a thread that leaves half of the process to others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from meshkit import logs
from meshkit.errors import DeadlineExceeded, DomainError, Overloaded, RequestInvalid
from meshkit.identity import Call

_WORK_SECONDS = 0.01
_MESSAGE_SECONDS = 10.0
"""Longest wait for the next message of an upload: who sends nothing is not to keep its place."""
_log = logs.get(__name__)


@contextmanager
def disk_file() -> Iterator[IO[bytes]]:
    """A file without a name, which is gone when the block ends, or this process. Raises Overloaded."""
    with disk_errors():
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed below, where a full disk is no error any more
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # what it could not write down is not wanted any more
            file.close()


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raises Overloaded for a disk that is full or broken: nothing is recorded; another replica may take the file."""
    try:
        yield
    except OSError as error:
        _log.error("an upload cannot be kept on disk", exc_info=error)
        raise Overloaded from error


class Places:
    """Those whose uploads a process receives at once: `most`, of one tenant `of_tenant_max`, of one subject one."""

    def __init__(self, most: int, of_tenant_max: int) -> None:
        self._most = most
        self._of_tenant_max = of_tenant_max
        self._taken: set[tuple[str, str]] = set()

    @contextmanager
    def place(self, call: Call) -> Iterator[None]:
        """A place among them while the block runs. Raises Overloaded."""
        who = (call.tenant, call.who.subject)
        of_tenant = sum(tenant == call.tenant for tenant, _ in self._taken)
        if who in self._taken or of_tenant >= self._of_tenant_max or len(self._taken) >= self._most:
            raise Overloaded
        self._taken.add(who)
        try:
            yield
        finally:
            self._taken.discard(who)


@dataclass(frozen=True, slots=True)
class Received:
    """What was uploaded, beside the bytes: the header's message, the SHA-256 of the bytes and their number."""

    header: Any
    digest: bytes
    size: int


async def receive(requests: AsyncIterator[Any], file: IO[bytes], *, bytes_max: int, too_large: DomainError) -> Received:
    """Takes an upload to a file. Its messages have a `part`: one `header` first, then each `chunk`.

    Raises RequestInvalid for messages in the wrong order, `too_large` for more than `bytes_max`, DeadlineExceeded when
    no message comes for long, Overloaded for a full disk.
    """
    header: Any = None
    digest, size = hashlib.sha256(), 0
    while (request := await _next_message(requests)) is not None:
        if request.WhichOneof("part") == "header":
            if header is not None:
                raise RequestInvalid([("header", "it comes once, before all chunks")])
            header = request.header
            continue
        if header is None:
            raise RequestInvalid([("header", "it comes before the first chunk")])
        if not request.chunk:
            raise RequestInvalid([("chunk", "it is empty; the file ends where the messages end")])
        size += len(request.chunk)
        if size > bytes_max:
            raise too_large
        digest.update(request.chunk)
        with disk_errors():
            await asyncio.to_thread(file.write, request.chunk)
    if header is None:
        raise RequestInvalid([("header", "it comes before the first chunk")])
    return Received(header, digest.digest(), size)


async def _next_message(requests: AsyncIterator[Any]) -> Any:
    """The next message; None after the last. Raises DeadlineExceeded for a sender that stands still."""
    try:
        async with asyncio.timeout(_MESSAGE_SECONDS):
            return await anext(requests, None)
    except TimeoutError:
        raise DeadlineExceeded from None


def pauses() -> Callable[[], None]:
    """What a thread calls now and then while it works: it sleeps as long as it worked."""
    began = time.perf_counter()

    def pause() -> None:
        nonlocal began
        worked = time.perf_counter() - began
        if worked >= _WORK_SECONDS:
            time.sleep(worked)
            began = time.perf_counter()

    return pause
