"""Lists, item after item, however many pages they come in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from google.protobuf.message import Message


def items(method: Any, request: Message) -> Iterator[Any]:
    """All items of a list: items(florin.transfers.ListTransfers, ListTransfersRequest()). Raises Refused."""
    page: Any = _copy(request)
    while True:
        answer = method(page)
        yield from getattr(answer, listed(answer))
        if not answer.next_page_token:
            return
        page.page_token = answer.next_page_token


async def items_async(method: Any, request: Message) -> AsyncIterator[Any]:
    """The same for a method of `florin_client.aio`."""
    page: Any = _copy(request)
    while True:
        answer = await method(page)
        for item in getattr(answer, listed(answer)):
            yield item
        if not answer.next_page_token:
            return
        page.page_token = answer.next_page_token


def listed(answer: Message) -> str:
    """The name of the field that has a page's items."""
    for field in answer.DESCRIPTOR.fields:
        if field.is_repeated and field.message_type is not None:
            return str(field.name)
    raise TypeError(f"{answer.DESCRIPTOR.full_name} is not a page of a list")


def _copy(request: Message) -> Message:
    made = type(request)()
    made.CopyFrom(request)
    return made
