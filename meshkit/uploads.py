"""Takes what is uploaded in messages to disk, and reads it in a thread that leaves half of the process to others."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import IO

from google.protobuf.message import Message

from meshkit import logs
from meshkit.errors import DeadlineExceeded, Overloaded

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


async def next_message[M: Message](requests: AsyncIterator[M]) -> M | None:
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
