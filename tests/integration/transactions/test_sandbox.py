"""Transfers, quotes and schedules while a sandbox's clock is moved: what is due comes, what is leased stays leased."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock
from tests.integration.transactions.conftest import Replica, states
from tests.integration.transactions.test_authorizations import order
from tests.integration.transactions.test_exchange import import_rates, of_now, quote, set_position, using
from tests.integration.transactions.test_schedules import create, present, runs, work
from tests.support.sandbox import sandbox_in
from tests.unit.transactions.making import transfer
from tests.unit.transactions.scheduling import schedule, timing
from transactions import store
from transactions.exchange_errors import QuoteExpired
from transactions.model import AccountType, State, Transfer
from transactions.recurrence import Skip
from transactions.schedule import RunState

DAY = timedelta(days=1)


async def test_an_authorization_ends_when_time_is_moved_past_its_end(replica: Replica, tmp_path: Path) -> None:
    """A hold of thirty days: nothing after twenty, given back after thirty-one."""
    with sandbox_in(tmp_path) as sandbox:
        made = await replica.create(order(1000, 30 * 86_400))
        sandbox.advance(20 * DAY)
        await replica.recovery.before_ready()
        assert (await replica.row(made)).state is State.AUTHORIZED
        sandbox.advance(11 * DAY)
        await replica.recovery.before_ready()
        assert (await replica.row(made)).state is State.EXPIRED
        assert replica.ledger.active_holds() == 0


async def test_a_lease_does_not_end_because_time_was_moved(replica: Replica, tmp_path: Path) -> None:
    """Leases are between machines, also of an authorization: nobody takes what another replica is at work on."""
    wanted = [transfer(create_time=clock.now()), order(1000, 3600)]

    async def record(conn: AsyncConnection) -> int:
        return len(await store.insert_intents(conn, replica.db.cipher, wanted, 60))

    async def take(conn: AsyncConnection) -> list[Transfer]:
        return await store.take_due(conn, replica.db.cipher, limit=10, lease_seconds=60)

    with sandbox_in(tmp_path) as sandbox:
        assert await replica.db.run("demo", record) == 2
        sandbox.advance(31 * DAY)
        assert await replica.db.run("*", take) == []
        await replica.hurry()
        assert len(await replica.db.run("*", take)) == 2
        assert await replica.db.run("*", take) == []


async def test_a_quote_is_over_when_time_is_moved(replica: Replica, tmp_path: Path) -> None:
    """By the moment that its use is judged by, which the database tells."""
    replica.ledger.open("dollars", currency="USD")
    with sandbox_in(tmp_path) as sandbox:
        for currency in ("EUR", "USD"):
            replica.ledger.open(f"position-{currency}", currency=currency, type_=AccountType.INTERNAL)
            await set_position(replica, currency, f"position-{currency}")
        await import_rates(replica, of_now("EUR", "USD", "1.1"))
        used, missed = await quote(replica), await quote(replica)
        assert (await replica.create(using(used))).state is State.COMPLETED
        sandbox.advance(timedelta(seconds=replica.settings.quote_valid_seconds))
        with pytest.raises(QuoteExpired):
            await replica.create(using(missed))


async def test_a_schedule_makes_up_for_what_was_passed_over_once(replica: Replica, tmp_path: Path) -> None:
    """Ten days at once: of the daily runs those of the last week are made, each once, older ones are skipped; and then
    the schedule waits for its next day."""
    with sandbox_in(tmp_path) as sandbox:
        tomorrow = clock.now().date() + DAY
        daily = timing(start_date=tomorrow, time_zone="UTC")
        made = await create(replica, schedule(when=daily))
        await work(replica)
        assert await runs(replica, made) == []
        sandbox.advance(10 * DAY)
        await work(replica)
        await work(replica)
        found = await runs(replica, made)
        assert [run.nominal_date for run in found] == [tomorrow + number * DAY for number in range(len(found))]
        assert len(found) in (9, 10)  # by the time of day at which this runs
        late = [run for run in found if run.run_time < clock.now() - 7 * DAY]
        assert {run.skip for run in late} == {Skip.TOO_LATE}
        assert states(found[len(late) :]) == ["COMPLETED"] * (len(found) - len(late))
        assert replica.ledger.balances["accounts/b"] == 1000 * (len(found) - len(late))
        assert (await present(replica, made)).next_run_time == found[-1].run_time + DAY
        assert {run.state for run in found} == {RunState.SKIPPED, RunState.COMPLETED}
