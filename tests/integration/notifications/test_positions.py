"""Events are found at any position, however far the count of all tenants' events has come."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from notifications import event_store
from notifications.model import EventPage
from tests.integration.notifications.conftest import Service


@pytest.mark.parametrize("after", [0, 12_767, 12_768, 20_000, 32_767, 32_768, 2**31 - 20_001, 2**31 - 1, 2**31, 2**40])
async def test_a_page_begins_at_any_position(service: Service, after: int) -> None:
    """A driver sends a number in the smallest type that holds it; the sum of two must not be held to that type."""

    async def work(conn: AsyncConnection) -> EventPage:
        return await event_store.page(conn, service.tenant, after=after, types=["t"], customer="", limit=10)

    page = await service.db.run(service.tenant, work, read_only=True)
    assert (page.events, page.caught_up) == ((), True)
