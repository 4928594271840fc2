"""What a broker's answer to a published event comes to."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import nats.errors
import pytest
from nats.aio.msg import Msg
from nats.js import errors as js_errors

from meshkit import bus


def _failure(data: bytes, headers: dict[str, str] | None = None) -> Exception | None:
    async def answered() -> Exception | None:
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        answer.set_result(Mock(spec=Msg, data=data, headers=headers))
        return bus._publish_failure(answer)

    return asyncio.run(answered())


def test_an_event_is_kept_when_its_stream_says_so() -> None:
    """Once or, sent again, as a duplicate."""
    assert _failure(b'{"stream":"accounts","seq":7}') is None
    assert _failure(b'{"stream":"accounts","seq":7,"duplicate":true}') is None


@pytest.mark.parametrize(
    ("data", "headers", "expected"),
    [
        (b'{"error":{"code":503,"err_code":10077,"description":"maximum messages"}}', None, js_errors.APIError),
        (b'{"error":{"code":400,"err_code":10060,"description":"expected"}}', None, js_errors.BadRequestError),
        (b"", {"Status": "503"}, js_errors.NoStreamResponseError),
        (b"", None, nats.errors.ProtocolError),
        (b"null", None, nats.errors.ProtocolError),
        (b"[]", None, nats.errors.ProtocolError),
        (b"{}", None, nats.errors.ProtocolError),
        (b'{"error":{}}', None, nats.errors.ProtocolError),
        (b'{"error":"odd"}', None, nats.errors.ProtocolError),
    ],
)
def test_anything_else_is_that_events_failure(
    data: bytes, headers: dict[str, str] | None, expected: type[Exception]
) -> None:
    """It waits in the outbox; the others of its round are not concerned."""
    assert isinstance(_failure(data, headers), expected)
