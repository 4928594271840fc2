"""The checker where something goes wrong around it: it freezes no sound ledger, and goes on."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime

import psycopg
import pytest
from prometheus_client import REGISTRY

from checker import judgements
from checker.findings import Violation
from checker.judgements import Verdict
from checker.readings import Readings
from checker.settings import Settings
from checker.tables import ACCOUNTS, Rows
from checker.worker import Worker
from tests.integration.checker.conftest import Bank, Freezer, rounds
from tests.integration.checker.test_checker import balance
from tests.support import parts as real


def failures(cause: str) -> float:
    """How many readings failed so."""
    return REGISTRY.get_sample_value("florin_checker_failures_total", {"cause": cause}) or 0.0


def end_a_freeze(bank: Bank, tenant: str, currency: str = "EUR") -> None:
    """A freeze that a person ended."""
    with bank.superuser() as root:
        root.execute(
            "INSERT INTO ledger_freezes (tenant, freeze_id, currency, state, reason, finding_count, version,"
            " create_time, update_time, ended_by, note, end_time)"
            " VALUES (%s, %s, %s, 2, 'x', 1, 2, now(), now(), 'operator', 'put right', now())",
            (tenant, uuid.uuid4(), currency),
        )


def disconnect(bank: Bank) -> None:
    """Ends every connection of the checker's, as a server does that goes down."""
    with psycopg.connect(bank.parts.postgres.admin_dsn("postgres")) as root:
        root.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'florin-checker'"
            " AND datname = ANY (%s)",
            (list(bank.names.values()),),
        )


async def test_a_freeze_that_ends_during_the_second_look_makes_what_it_finds_old(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person puts a row right and ends the freeze while the checker reads: accounts can tell that it read before."""
    ledger = await bank.ledger()
    end_a_freeze(bank, ledger.tenant)
    looks = 0
    rows_of = judgements.rows_of

    def ending(readings: Readings, settings: Settings, rows: Rows) -> Verdict:
        nonlocal looks
        verdict = rows_of(readings, settings, rows)
        if rows.table is ACCOUNTS and verdict.wrong:
            looks += 1
            if looks == 2:
                end_a_freeze(bank, ledger.tenant)
        return verdict

    monkeypatch.setattr(judgements, "rows_of", ending)
    async with bank.checked():
        with bank.superuser() as root:
            balance(root, ledger.tenant)
        await bank.freezes(ledger.tenant)

        async def again() -> bool:
            return len(bank.freezer.ended) > 1

        await real.eventually(again, 20)
    assert bank.freezer.ended[:2] == [1, 2]


async def test_a_currency_that_is_none_freezes_all_of_them(bank: Bank) -> None:
    """Whoever changes a row may write anything into it, and is not to get out of a freeze by that."""
    ledger = await bank.ledger()
    async with bank.checked() as checker:
        await rounds(checker, 1)
        with bank.superuser() as root:
            root.execute("UPDATE entries SET currency = 'x' WHERE tenant = %s AND account = 'b'", (ledger.tenant,))
        await bank.freezes(ledger.tenant)
        await rounds(checker, 1)
    assert bank.freezer.frozen() <= {(ledger.tenant, ""), (ledger.tenant, "EUR")}
    assert (ledger.tenant, "") in bank.freezer.frozen()


class Patient(Freezer):
    """Accounts that answers for one tenant only when it is told to."""

    slow = ""
    answer = asyncio.Event()

    async def freeze(
        self, tenant: str, currency: str, violations: Sequence[Violation], found_time: datetime, ended_freezes: int
    ) -> tuple[str, int]:
        """Waits where it is to."""
        if tenant == self.slow:
            await self.answer.wait()
        return await super().freeze(tenant, currency, violations, found_time, ended_freezes)


async def test_one_ledger_that_cannot_be_frozen_does_not_keep_another_from_it(bank: Bank) -> None:
    """Each is asked for by itself."""
    first, second = await bank.ledger(), await bank.ledger()
    bank.freezer = freezer = Patient()
    freezer.slow, freezer.answer = min(first.tenant, second.tenant), asyncio.Event()
    with bank.superuser() as root:
        for ledger in (first, second):
            balance(root, ledger.tenant)
    async with bank.checked():
        await bank.freezes(max(first.tenant, second.tenant))
        assert bank.freezer.found(freezer.slow) == set()
        freezer.answer.set()
        await bank.freezes(freezer.slow)


async def test_a_slice_that_takes_too_long_is_left_out_and_told(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is gone through, the sweep is not called whole, and the next one looks at it again."""
    ledger = await bank.ledger()
    canceled = iter([psycopg.errors.QueryCanceled("canceling statement due to statement timeout")])
    rows_of = judgements.rows_of

    def slow(readings: Readings, settings: Settings, rows: Rows) -> Verdict:
        if rows.table is ACCOUNTS:
            for error in canceled:
                raise error
        return rows_of(readings, settings, rows)

    monkeypatch.setattr(judgements, "rows_of", slow)
    before = failures("QueryCanceled")
    async with bank.checked(sweep_seconds=1) as checker:

        async def failed() -> bool:
            return failures("QueryCanceled") > before

        await real.eventually(failed, 10)
        assert checker.worker.whole_since == 0
        await rounds(checker, 1)
        with bank.superuser() as root:
            balance(root, ledger.tenant)
        await bank.freezes(ledger.tenant)


async def test_a_lost_connection_is_told_and_all_begins_anew(bank: Bank) -> None:
    """Not ready for a moment, and then as if it had just been started."""
    ledger = await bank.ledger()
    before = failures("Lost")
    async with bank.checked() as checker:
        await rounds(checker, 1)
        disconnect(bank)

        async def lost() -> bool:
            return failures("Lost") > before

        await real.eventually(lost, 10)
        await rounds(checker, 1)
        with bank.superuser() as root:
            balance(root, ledger.tenant)
        await bank.freezes(ledger.tenant)


async def test_a_log_that_another_server_has_otherwise_is_read_from_its_beginning(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checker is half-way through a log when the database is restored, or a replica takes over that had not all.
    What was sealed since, in another order, is as sound as what was there before."""
    monkeypatch.setattr(judgements, "_LOG_PAGE", 2)
    ledger = await bank.ledger(payments=6)
    await bank.seal()
    worker = Worker(bank.settings, bank.freezer, None)
    while worker._sweeps._walk is None:
        await worker._turn()
    sealed = ("sealed_journals", "tree_nodes", "tree_heads")
    with bank.superuser() as root:
        for table in sealed:
            root.execute(f"DELETE FROM {table} WHERE tenant = %s", (ledger.tenant,))  # type: ignore[arg-type]
        root.execute("DELETE FROM outbox WHERE aggregate = 'logs/journals'")
        # Another order is what the same journals are sealed in whose transactions are others.
        backwards = "UPDATE journals SET xid = (100000 - xid::text::bigint)::text::xid8 WHERE tenant = %s"
        root.execute(backwards, (ledger.tenant,))
    await bank.seal()
    disconnect(bank)
    for _ in range(30):
        await worker._turn()
        await asyncio.sleep(0.02)
    worker._readings.close()
    assert bank.freezer.asked == []


async def test_what_is_found_while_accounts_is_away_adds_up(bank: Bank) -> None:
    """Everything that was found is asked for once accounts answers, not only the last of it."""
    ledger = await bank.ledger()
    bank.freezer.is_down = True
    async with bank.checked(sweep_seconds=30):
        with bank.superuser() as root:
            balance(root, ledger.tenant)

        async def tried() -> bool:
            return bank.freezer.attempts >= 1

        await real.eventually(tried, 20)
        await bank.pay(ledger)
        with bank.superuser() as root:
            root.execute(
                "INSERT INTO journals (tenant, journal, kind, origin, create_time, effective_time)"
                " VALUES (%s, %s, 1, 'x', now(), now())",
                (ledger.tenant, uuid.uuid4()),
            )
        await asyncio.sleep(0.5)
        bank.freezer.is_down = False

        async def all_of_it() -> bool:
            return {invariant for invariant, _ in bank.freezer.found(ledger.tenant)} >= {"INV-1", "INV-2"}

        await real.eventually(all_of_it, 20)
