"""Compliance's events: verdicts activate accounts, a case freezes one; and what this service tells in return."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from google.protobuf.message import Message

from accounts import consumers
from florin.accounts.v1 import account_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from florin.compliance.v1 import events_pb2 as compliance
from meshkit import clock
from meshkit.database import Database
from meshkit.envelopes import Incoming
from meshkit.outbox import subject_of
from tests.integration.accounts.conftest import Service, refusal


def incoming(tenant: str, aggregate: str, message: Message) -> Incoming:
    """An event of compliance as it arrives."""
    return Incoming(
        id=uuid.uuid4(),
        type=subject_of(message),
        source="//florin/compliance",
        tenant=tenant,
        aggregate=aggregate,
        version=1,
        time=clock.now(),
        traceparent="",
        data=message.SerializeToString(),
        again=False,
    )


async def consume(db: Database, tenant: str, *messages: Message) -> None:
    """Handles events in one transaction, as the kit's consumer does."""
    events = [incoming(tenant, "aggregates/x", message) for message in messages]
    handle = consumers.compliance_handler(db.cipher)
    await db.run(tenant, lambda conn: handle(conn, events))


async def state(service: Service, name: str) -> Any:
    """An account's state."""
    return (await service.call("GetAccount", pb.GetAccountRequest(name=f"accounts/{name}"))).account.state


async def subjects(db: Database, tenant: str, aggregate: str) -> list[str]:
    """The events that were told of an aggregate, in order."""

    async def work(conn: Any) -> list[str]:
        rows = await conn.exec_driver_sql(
            "SELECT subject FROM outbox WHERE aggregate = %s ORDER BY version", (aggregate,)
        )
        return [row[0].removeprefix("florin.accounts.") for row in rows]

    return await db.run(tenant, work)


async def test_a_verdict_activates_accounts_whose_owners_are_all_verified(service: Service, db: Database) -> None:
    """A joint account waits for the last owner; accounts of verified owners open active."""
    for name in ("anna", "bert"):
        await service.customer(name)
    await service.account("single", "anna")
    request = pb.CreateAccountRequest(
        account_id="joint", customers=["customers/anna", "customers/bert"], type=1, currency_code="EUR"
    )
    await service.call("CreateAccount", request, "teller")
    await consume(db, service.tenant, compliance.CustomerVerified(customer="customers/anna"))
    assert await state(service, "single") == account_pb2.ACCOUNT_STATE_ACTIVE
    assert await state(service, "joint") == account_pb2.ACCOUNT_STATE_PENDING
    await consume(db, service.tenant, compliance.CustomerVerified(customer="customers/bert"))
    assert await state(service, "joint") == account_pb2.ACCOUNT_STATE_ACTIVE
    assert (await service.account("next", "anna")).state == account_pb2.ACCOUNT_STATE_ACTIVE
    assert await subjects(db, service.tenant, "accounts/joint") == ["account_opened.v1", "account_updated.v1"]
    assert await subjects(db, service.tenant, "customers/anna") == ["customer_created.v1", "customer_updated.v1"]


async def test_a_verdict_and_an_opening_at_once_leave_no_account_waiting(service: Service, db: Database) -> None:
    """Whichever comes first, the account of a verified customer is active in the end."""
    for number in range(10):
        name = f"c{number}"
        await service.customer(name)
        await asyncio.gather(
            service.account(f"a{number}", name),
            consume(db, service.tenant, compliance.CustomerVerified(customer=f"customers/{name}")),
        )
        assert await state(service, f"a{number}") == account_pb2.ACCOUNT_STATE_ACTIVE


async def test_verdicts_on_both_owners_at_once_leave_no_account_waiting(service: Service, db: Database) -> None:
    """Two replicas each handle one owner's verdict: the later of them sees the earlier one's and activates."""
    for number in range(10):
        owners = [f"o{number}-{side}" for side in ("left", "right")]
        for name in owners:
            await service.customer(name)
        request = pb.CreateAccountRequest(
            account_id=f"joint{number}", customers=[f"customers/{name}" for name in owners], type=1, currency_code="EUR"
        )
        await service.call("CreateAccount", request, "teller")
        await asyncio.gather(
            *(consume(db, service.tenant, compliance.CustomerVerified(customer=f"customers/{name}")) for name in owners)
        )
        assert await state(service, f"joint{number}") == account_pb2.ACCOUNT_STATE_ACTIVE
        assert await subjects(db, service.tenant, f"accounts/joint{number}") == [
            "account_opened.v1",
            "account_updated.v1",
        ]


async def test_a_verdict_on_an_unknown_customer_is_not_lost(service: Service, db: Database) -> None:
    """It fails, so that it is tried again and finally kept among the dead letters."""
    with pytest.raises(consumers.CustomerUnknown):
        await consume(db, service.tenant, compliance.CustomerRejected(customer="customers/nobody"))


async def test_a_rejected_customer_gets_no_account(service: Service, db: Database) -> None:
    """The verdict counts from its event on."""
    await service.customer("acme")
    await consume(db, service.tenant, compliance.CustomerRejected(customer="customers/acme"))

    assert await refusal(service.account("main", "acme")) == "CUSTOMER_REJECTED"


async def test_a_case_freezes_the_account_it_names(service: Service, db: Database) -> None:
    """Once, with an audit row; a case without an account, or on an unknown one, changes nothing."""
    await service.account("main", type_=account_pb2.ACCOUNT_TYPE_INTERNAL)
    case = compliance.CaseResolved(case="cases/1", freeze_account="accounts/main")
    await consume(
        db,
        service.tenant,
        case,
        compliance.CaseResolved(case="cases/2"),
        compliance.CaseResolved(case="cases/3", freeze_account="accounts/nobody"),
    )
    await consume(db, service.tenant, case)
    assert await state(service, "main") == account_pb2.ACCOUNT_STATE_FROZEN

    async def audited(conn: Any) -> list[Any]:
        rows = await conn.exec_driver_sql(
            "SELECT action, caller, resource, why FROM audit WHERE action = 'freeze_account'"
        )
        return [tuple(row) for row in rows]

    assert await db.run(service.tenant, audited) == [
        ("freeze_account", "compliance", "accounts/main", "resolution of cases/1")
    ]
