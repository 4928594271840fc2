"""A process that dies before or after a step, as kill -9 ends it; the product has no such points of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


class Killed(BaseException):
    """Stands for kill -9: nothing handles it, nothing runs after it."""


@contextmanager
def dying(owner: type, name: str, point: str, *, after: bool) -> Iterator[list[str]]:
    """Ends whatever reaches a method of a class, before it or after it; notes the point in what it gives."""
    hit: list[str] = []
    function = getattr(owner, name)

    async def dies(*arguments: Any, **options: Any) -> None:
        if after:
            await function(*arguments, **options)
        hit.append(point)
        raise Killed

    with mock.patch.object(owner, name, dies):
        yield hit
