"""When and how a call is sent again: the very same request, with the same request_id, so that it is done once.

A call is sent again where the answer asks for it, or where none came. That is safe for every method that is listed in
methods.txt, which the contracts declare idempotent: what changes something is known by its request_id.
"""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import grpc
from google.protobuf.message import Message

from florin_client.errors import Refused, Unanswered

PATIENCE_SECONDS = 30.0
ENDED_SECONDS = 0.1
"""How long to wait before a stream that ended without a refusal is opened again."""
_PAUSE_SECONDS = (0.1, 2.0)
_AGAIN = frozenset(
    {
        "UNAVAILABLE",
        "OVERLOADED",
        "RATE_LIMITED",
        "CONTENTION",
        "CAPTURE_UNDER_WAY",
        "DEADLINE_TOO_SHORT",
        "DEADLINE_EXCEEDED",
    }
)
_NO_ANSWER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL})


@cache
def deadlines() -> dict[str, float]:
    """Path of a method that may be sent again → seconds that one try may take."""
    lines = resources.files("florin_client").joinpath("methods.txt").read_text().splitlines()
    return {path: int(milliseconds) / 1000 for path, milliseconds in (line.split() for line in lines)}


def may_help(refused: Refused) -> bool:
    """Whether asking again may bring another answer."""
    if isinstance(refused, Unanswered):
        return refused.code() in _NO_ANSWER
    return refused.reason in _AGAIN


def may_go_on(refused: Refused) -> bool:
    """Whether a stream that broke may be opened again: also with another token, where the one before ended."""
    return may_help(refused) or refused.reason == "TOKEN_INVALID"


def with_keys[M: Message](request: M) -> M:
    """The request with a request_id, its own or one made up here; each item of a batch gets one too."""
    made: Any = type(request)()
    made.CopyFrom(request)
    for one in (made, *getattr(made, "requests", ())):
        if "request_id" in one.DESCRIPTOR.fields_by_name and not one.request_id:
            one.request_id = str(uuid.uuid4())
    return made  # type: ignore[no-any-return]


@dataclass(slots=True)
class Patience:
    """How long one call may be sent again, and how long to wait before the next time."""

    seconds: float
    _begun: float = field(default_factory=time.monotonic)
    _pause: float = _PAUSE_SECONDS[0]

    def pause(self, refused: Refused) -> float | None:
        """Seconds to wait before the next try, at random so that callers spread; None when it is over."""
        asked = refused.retry_after_seconds or 0.0
        seconds = max(asked, random.uniform(self._pause / 2, self._pause))  # noqa: S311 - no secret
        self._pause = min(self._pause * 2, _PAUSE_SECONDS[1])
        return seconds if time.monotonic() + seconds < self._begun + self.seconds else None
