"""The ledger while a sandbox's clock is moved: holds end, days pass, and the database's clock goes with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from accounts.model import AccountType
from florin.accounts.v1.statement_service_pb2_grpc import StatementServiceStub
from meshkit import clock, lifecycle
from tests.integration.accounts.conftest import FUNDER, Ledger, channel
from tests.integration.accounts.test_statements import Statements
from tests.support import parts as real
from tests.support.parts import eventually
from tests.support.sandbox import Sandbox, sandbox_in

MONTH = timedelta(days=31)


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    """This process, with the service in it, is a sandbox."""
    with sandbox_in(tmp_path) as found:
        yield found


async def test_a_hold_ends_when_its_time_is_passed_over(
    ledger: Ledger, running: lifecycle.Running, sandbox: Sandbox
) -> None:
    """A month's hold: the money is free again once a month has passed, by the service's own worker."""
    await ledger.open("main", 100, type=AccountType.CUSTOMER)
    (placed,) = await ledger.apply(replace(ledger.place("main", 70), expire_time=clock.now() + MONTH))
    assert placed.HasField("hold"), placed
    assert (await ledger.balance("main")).held == 70
    sandbox.advance(MONTH)

    async def free() -> bool:
        return (await ledger.balance("main")).held == 0

    await eventually(free)
    assert "hold-expiry" in running.parts.workers
    assert running.parts.on_clock_move


async def test_what_is_posted_after_a_move_is_recorded_then(ledger: Ledger, sandbox: Sandbox) -> None:
    """It is not refused as of a clock that is ahead of the database's: both are moved."""
    await ledger.open("main")
    for _ in range(2):
        (posted,) = await ledger.apply(ledger.post(("bank", -1), ("main", 1), actor=FUNDER))
        assert posted.HasField("journal")
        sandbox.advance(MONTH)
    ((first, second),) = await ledger.rows("SELECT min(create_time), max(create_time) FROM entries WHERE leg = 1")
    assert MONTH <= second - first < MONTH + timedelta(minutes=1)


async def test_a_month_can_be_closed_once_it_has_passed(
    parts: real.Parts, running: lifecycle.Running, ledger: Ledger, sandbox: Sandbox
) -> None:
    """The statement of a period that was to come, with what was recorded in it."""
    await ledger.open("main")
    await ledger.apply(ledger.post(("bank", -5), ("main", 5), actor=FUNDER))
    today = clock.now().date()
    sandbox.advance(MONTH)
    async with channel(parts, "edge", running.grpc_port) as edge:
        statements = Statements(parts, StatementServiceStub(edge), ledger.tenant)
        period = {"period_start": today.isoformat(), "period_end": (today + MONTH / 31).isoformat()}
        made = await statements.create("main", **period)
    assert (made.closing_balance.minor_units, made.entry_count) == (5, 1)
    assert made.create_time.ToDatetime().date() >= today + MONTH
