"""Transfers on a frozen ledger: they wait as they are, without a hurry, and end when a person unfreezes it."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from meshkit import clock
from meshkit.database import ALL_TENANTS
from meshkit.envelopes import Incoming
from tests.integration.transactions.conftest import Replica
from tests.integration.transactions.test_authorizations import capture, capturing
from tests.unit.transactions.making import transfer
from transactions import consumers
from transactions.model import State, Transfer, Verdict
from transactions.ports import Outcome


def unfrozen(tenant: str) -> Incoming:
    """The event of accounts."""
    return Incoming(
        id=uuid.uuid4(),
        type="florin.accounts.ledger_unfrozen.v1",
        source="accounts",
        tenant=tenant,
        aggregate="ledgerFreezes/x",
        version=2,
        time=datetime(2026, 3, 1, tzinfo=UTC),
        traceparent="",
        data=b"",
        again=False,
    )


async def unfreeze(replica: Replica, tenant: str = "demo") -> None:
    """The ledger takes journals again, and tells so."""
    replica.ledger.is_frozen = False
    await replica.db.run(ALL_TENANTS, lambda conn: consumers.handle_accounts(conn, [unfrozen(tenant)]))


async def due_seconds(replica: Replica, order: Transfer) -> float:
    """In how many seconds a transfer is taken up again."""
    rows = await replica.query(f"SELECT extract(epoch FROM due_time - now()) FROM transfers WHERE id = '{order.id}'")
    return float(rows[0][0])


def authorization() -> Transfer:
    """A hold for an hour."""
    return transfer(expire_time=clock.now() + timedelta(hours=1))


async def test_a_payment_waits_until_its_ledger_is_unfrozen(replica: Replica) -> None:
    """It is answered as ACCEPTED at once, asked for ever more seldom, and completed by the event, once."""
    replica.ledger.is_frozen = True
    order = transfer()
    assert (await replica.create(order)).state is State.ACCEPTED
    first = await due_seconds(replica, order)
    await replica.hurry()
    await replica.recovery.before_ready()
    second = await due_seconds(replica, order)
    assert 5 < first <= 10 < second <= 20
    await replica.recovery.before_ready()
    assert replica.ledger.calls["post"] == 2  # what is not due is left alone
    await unfreeze(replica)
    await replica.recovery.before_ready()
    assert (await replica.row(order)).state is State.COMPLETED
    assert replica.ledger.journals == {order.name: 1}


@pytest.mark.parametrize("kind", ["held-for-review", "authorization"])
async def test_a_hold_that_a_frozen_ledger_does_not_take_is_placed_later(replica: Replica, kind: str) -> None:
    """Neither declines, and neither leaves a hold behind."""
    replica.ledger.is_frozen = True
    order = authorization() if kind == "authorization" else transfer(amount=replica.screening.REVIEW_FROM)
    assert (await replica.create(order)).state is State.ACCEPTED
    assert replica.ledger.active_holds() == 0
    await unfreeze(replica)
    await replica.recovery.before_ready()
    assert (await replica.row(order)).state is (State.AUTHORIZED if kind == "authorization" else State.IN_REVIEW)
    assert replica.ledger.active_holds() == 1


async def test_an_approved_payment_keeps_its_hold_while_its_ledger_is_frozen(replica: Replica) -> None:
    """To release it and decline would lose a payment that a person approved."""
    order = transfer(amount=replica.screening.REVIEW_FROM)
    held = await replica.create(order)
    replica.ledger.is_frozen = True
    await replica.verdict(held, Verdict.APPROVED)
    await replica.recovery.before_ready()
    assert (await replica.row(order)).state is State.IN_REVIEW
    assert replica.ledger.active_holds() == 1
    await unfreeze(replica)
    await replica.recovery.before_ready()
    assert (await replica.row(order)).state is State.COMPLETED
    assert replica.ledger.active_holds() == 0


async def test_a_capture_waits_and_its_authorization_stands(replica: Replica) -> None:
    """A capture is a transfer like any other."""
    made = await replica.create(authorization())
    replica.ledger.is_frozen = True
    part = capturing(made, 300)
    assert (await capture(replica, part)).state is State.ACCEPTED
    await unfreeze(replica)
    await replica.recovery.before_ready()
    assert (await replica.row(part)).state is State.COMPLETED
    assert (await replica.row(made)).captured == 300


async def test_a_payment_that_waits_for_its_ledger_can_be_cancelled(replica: Replica) -> None:
    """Whoever does not want to wait is not made to."""
    replica.ledger.is_frozen = True
    waiting = await replica.create(transfer())
    (outcome,) = await replica.ledger.cancel([waiting])
    assert outcome.refusal is not None
    assert (await replica.passes.decline_cancelled(waiting)).state is State.DECLINED
    await unfreeze(replica)
    assert sum(replica.ledger.journals.values()) == 0


async def test_an_unfrozen_ledger_wakes_its_own_payments_alone(replica: Replica) -> None:
    """Another tenant's go on waiting, and an authorization is not disturbed."""
    held = await replica.create(authorization())
    replica.ledger.is_frozen = True
    order = transfer()
    await replica.create(order)
    waiting = await due_seconds(replica, order)
    await unfreeze(replica, "another")
    assert await due_seconds(replica, order) > waiting - 5
    await unfreeze(replica)
    assert await due_seconds(replica, order) <= 0
    assert await due_seconds(replica, held) > 3000


async def test_a_batch_with_one_frozen_ledger_completes_the_others(replica: Replica) -> None:
    """A refusal is its item's alone."""
    frozen, free = transfer(), transfer()
    post = replica.ledger._post

    def partly(item: Transfer, validate_only: bool) -> Outcome:
        replica.ledger.is_frozen = item.id == frozen.id
        return post(item, validate_only)

    replica.ledger._post = partly  # type: ignore[method-assign]
    results = await replica.transfers.orders.create_batch([frozen, free], time.monotonic() + 5)
    assert [result.state for result in results if isinstance(result, Transfer)] == [State.ACCEPTED, State.COMPLETED]
