"""Florin's client: the generated stubs, with what every caller needs around them.

`Client` for blocking calls, `florin_client.aio.Client` for asyncio. The messages are in `florin.…_pb2`.
"""

from florin_client.client import Client
from florin_client.errors import InsufficientFunds, LimitExceeded, NotFound, Refused, RequestInvalid, Unanswered
from florin_client.money import format_money, money
from florin_client.pages import items

__all__ = [
    "Client",
    "InsufficientFunds",
    "LimitExceeded",
    "NotFound",
    "Refused",
    "RequestInvalid",
    "Unanswered",
    "format_money",
    "items",
    "money",
]
