"""The answer to a COMMIT is lost: what was done is done once, and its caller is told that it was done."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from florin.accounts.v1 import account_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from meshkit.database import Database
from tests.integration.accounts.conftest import Service


@pytest.fixture
def lost(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tenants whose next transaction commits and then loses its connection, each once for each time it stands here."""
    tenants: list[str] = []
    once = Database._once

    async def lossy(self: Database, scope: str, work: Any, **options: Any) -> Any:
        result = await once(self, scope, work, **options)
        if scope in tenants and not options["read_only"]:
            tenants.remove(scope)
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return result

    monkeypatch.setattr(Database, "_once", lossy)
    return tenants


@pytest.mark.parametrize("request_id", ["", "once"])
async def test_what_was_committed_is_answered_and_not_done_again(
    service: Service, db: Database, lost: list[str], request_id: str
) -> None:
    """With a request_id or without: one customer, one account under the chosen id, one change of state."""
    lost.append(service.tenant)
    request = pb.CreateCustomerRequest(display_name="Acme", request_id=request_id)
    made = (await service.call("CreateCustomer", request, "teller")).customer
    listed = await service.call("ListCustomers", pb.ListCustomersRequest(), "teller")
    assert [customer.name for customer in listed.customers] == [made.name]
    lost.append(service.tenant)
    opened = await service.account("main", type_=account_pb2.ACCOUNT_TYPE_INTERNAL, request_id=request_id)
    assert opened.name == "accounts/main"
    assert lost == []
