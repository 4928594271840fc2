"""One request_id reverses one transfer, also when it is used for two at the same moment."""

from __future__ import annotations

import asyncio

from meshkit.errors import RequestIdReused
from tests.integration.transactions.conftest import Replica, call_of
from tests.integration.transactions.test_cancel_and_reverse import REVERSE, _reversal
from tests.unit.transactions.making import transfer
from transactions.model import State, Transfer


async def test_one_request_id_for_two_originals_at_once_reverses_one(replica: Replica) -> None:
    """INV-5: the second is told REQUEST_ID_REUSED, and its original neither moves back nor is called REVERSED."""
    for number in range(10):
        first, second = [await replica.create(transfer(amount=amount)) for amount in (700, 11)]
        request_id = f"twice-{number}"

        async def reverse(original: Transfer, fingerprint: bytes, request_id: str = request_id) -> bool:
            order = _reversal(original, request_id, fingerprint)
            try:
                await replica.transfers.reverse(original.id, order, call_of(request_id=request_id, method=REVERSE))
            except RequestIdReused:
                return False
            return True

        won = await asyncio.gather(reverse(first, b"1" * 32), reverse(second, b"2" * 32))
        assert sorted(won) == [False, True]
        states = [(await replica.row(original)).state for original in (first, second)]
        assert states == [State.REVERSED if done else State.COMPLETED for done in won]
