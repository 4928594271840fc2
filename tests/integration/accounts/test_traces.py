"""W3C trace context on its way through the service: into its events, and not if it is none."""

from __future__ import annotations

from typing import Any

import pytest

from accounts import operations
from florin.accounts.v1 import account_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from meshkit.database import Database
from tests.integration.accounts.conftest import Service, refusal

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def _call(service: Service, method: str, request: Any, traceparent: str, role: str = "operator") -> Any:
    metadata = (*service.token(role), ("traceparent", traceparent))
    return getattr(service.public, method)(request, metadata=metadata, timeout=5)


async def _traces(db: Database, tenant: str) -> dict[str, str]:
    async def work(conn: Any) -> dict[str, str]:
        rows = await conn.exec_driver_sql("SELECT subject, traceparent FROM outbox")
        return {row[0].split(".")[2]: row[1] for row in rows}

    return await db.run(tenant, work, read_only=True)


@pytest.mark.parametrize("traceparent", ["x", "00-" + "z" * 32 + "-00f067aa0ba902b7-01", "-" * 4000])
async def test_what_is_no_trace_context_is_dropped(
    service: Service, db: Database, monkeypatch: pytest.MonkeyPatch, traceparent: str
) -> None:
    """It reaches no event, and a failure that is logged meanwhile is still an INTERNAL without details."""
    await service.account("bank", type_=account_pb2.ACCOUNT_TYPE_SETTLEMENT)
    request = pb.FreezeAccountRequest(name="accounts/bank", reason="no trace")
    await _call(service, "FreezeAccount", request, traceparent, "teller")
    assert (await _traces(db, service.tenant))["account_updated"] == ""

    async def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(operations, "get_account", fails)
    call = _call(service, "GetAccount", pb.GetAccountRequest(name="accounts/bank"), traceparent)
    assert await refusal(call) == "INTERNAL"


async def test_an_event_carries_the_trace_of_the_call_that_made_it_also_through_a_batch(
    service: Service, db: Database
) -> None:
    """A change of an account, and money that a batch of the ledger moves."""
    await service.account("bank", type_=account_pb2.ACCOUNT_TYPE_SETTLEMENT)
    await service.account("main", type_=account_pb2.ACCOUNT_TYPE_INTERNAL)
    await _call(service, "FundAccount", service.fund("main", 100, "once"), TRACE)
    freeze = pb.FreezeAccountRequest(name="accounts/main", reason="traced")
    await _call(service, "FreezeAccount", freeze, TRACE, "teller")
    traces = await _traces(db, service.tenant)
    assert (traces["journal_posted"], traces["account_updated"]) == (TRACE, TRACE)
