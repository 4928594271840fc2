"""The checker on real databases: what somebody with every right changes is found, named, and frozen for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from checker import tables
from checker.settings import SERVICES
from checker.sweeps import Sweeps, Turn
from tests.integration.accounts.conftest import Ledger
from tests.integration.checker.conftest import Bank, new_id, rounds
from tests.integration.local import test_verify as rows
from tests.support import parts as real


def violations(invariant: str) -> float:
    """What the metric says."""
    value = REGISTRY.get_sample_value("florin_invariant_violations", {"invariant": invariant})
    assert value is not None
    return value


async def all_hold() -> bool:
    """Whether no violation stands."""
    return all(violations(f"INV-{number}") == 0 for number in range(1, 10))


async def test_books_at_work_hold(bank: Bank) -> None:
    """Payments, holds and seals go on while everything is gone through several times: nothing is found."""
    first = await bank.ledger()
    second = await bank.ledger()
    async with bank.checked() as checker:
        stop = asyncio.Event()

        async def work(ledger: Ledger) -> int:
            number = 0
            while not stop.is_set():
                await ledger.apply(
                    ledger.place("a", 1), ledger.post(("a", -1), ("b", 1)), ledger.post(("b", -1), ("a", 1))
                )
                await bank.seal()
                number += 1
            return number

        working = [asyncio.create_task(work(ledger)) for ledger in (first, second)]
        await rounds(checker, 2)
        stop.set()
        assert min(await asyncio.gather(*working)) > 1
        await rounds(checker, 1)
        assert await all_hold()
    assert bank.freezer.asked == []
    for invariant in ("INV-1", "INV-2", "INV-3", "INV-4", "INV-7", "INV-9"):
        assert (REGISTRY.get_sample_value("florin_invariant_checked_total", {"invariant": invariant}) or 0) > 0


def balance(root: psycopg.Connection[Any], tenant: str) -> None:
    """Money from nowhere."""
    root.execute("UPDATE accounts SET posted = posted + 500 WHERE tenant = %s AND account = 'b'", (tenant,))


def held(root: psycopg.Connection[Any], tenant: str) -> None:
    """A hold that nobody placed."""
    root.execute("UPDATE accounts SET held = 2 WHERE tenant = %s AND account = 'b'", (tenant,))


def entry(root: psycopg.Connection[Any], tenant: str) -> None:
    """An entry says more than was posted."""
    root.execute(
        "UPDATE entries SET amount = amount + 500 WHERE tenant = %s AND account = 'b' AND sequence = 1", (tenant,)
    )


def gap(root: psycopg.Connection[Any], tenant: str) -> None:
    """An entry is gone."""
    root.execute("DELETE FROM entries WHERE tenant = %s AND account = 'b' AND sequence = 2", (tenant,))


def journal(root: psycopg.Connection[Any], tenant: str) -> None:
    """A journal is gone, and its entries are not."""
    root.execute(
        "DELETE FROM journals AS j USING entries AS e WHERE e.tenant = %s AND e.account = 'b' AND e.sequence = 1"
        " AND j.tenant = e.tenant AND j.journal = e.journal",
        (tenant,),
    )


CHANGES: list[tuple[Callable[[psycopg.Connection[Any], str], None], set[tuple[str, str]]]] = [
    (balance, {("INV-2", "accounts/b")}),
    (held, {("INV-3", "accounts/b")}),
    (entry, {("INV-2", "accounts/b")}),
    (gap, {("INV-2", "accounts/b")}),
    (journal, set()),
]


@pytest.mark.parametrize(("change", "wanted"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
async def test_a_change_is_found_named_and_freezes_its_currency_alone(
    bank: Bank, change: Callable[[psycopg.Connection[Any], str], None], wanted: set[tuple[str, str]]
) -> None:
    """Only the tenant whose rows were changed is frozen, in the currency that they are of."""
    hit, other = await bank.ledger(), await bank.ledger()
    async with bank.checked() as checker:
        await rounds(checker, 1)
        assert bank.freezer.asked == []
        with bank.superuser() as root:
            change(root, hit.tenant)
        found = await bank.freezes(hit.tenant)
        await rounds(checker, 1)
    assert bank.freezer.frozen() == {(hit.tenant, "EUR")}
    assert wanted <= found | bank.freezer.found(hit.tenant)
    assert bank.freezer.found(other.tenant) == set()


async def test_a_change_of_sealed_history_freezes_the_whole_ledger(bank: Bank) -> None:
    """Which currency it was of before cannot be told from what it is now."""
    ledger = await bank.ledger()
    await bank.seal()
    async with bank.checked() as checker:
        await rounds(checker, 1)
        with bank.superuser() as root:
            root.execute("UPDATE journals SET origin = 'transfers/other' WHERE tenant = %s", (ledger.tenant,))
        assert ("INV-9", "logs/journals") in await bank.freezes(ledger.tenant)
    assert bank.freezer.frozen() == {(ledger.tenant, "")}


async def test_what_was_put_right_stands_no_longer(bank: Bank) -> None:
    """The metric goes back once everything was gone through without it, and nothing more is asked of accounts."""
    ledger = await bank.ledger()
    async with bank.checked(settle_seconds=0.1) as checker:
        checker.worker.margin_seconds = 0.5
        with bank.superuser() as root:
            balance(root, ledger.tenant)
        await bank.freezes(ledger.tenant)
        assert violations("INV-2") == 1
        with bank.superuser() as root:
            root.execute(
                "UPDATE accounts SET posted = posted - 500 WHERE tenant = %s AND account = 'b'", (ledger.tenant,)
            )
        await real.eventually(all_hold, 20)
        asked = len(bank.freezer.asked)
        await rounds(checker, 2)
        assert len(bank.freezer.asked) == asked


async def test_a_freeze_is_asked_for_until_accounts_answers(bank: Bank) -> None:
    """Down when it is found: asked again, not in a hurry."""
    ledger = await bank.ledger()
    bank.freezer.is_down = True
    async with bank.checked():
        with bank.superuser() as root:
            balance(root, ledger.tenant)

        async def tried() -> bool:
            return bank.freezer.attempts >= 2

        await real.eventually(tried, 20)
        assert bank.freezer.asked == []
        bank.freezer.is_down = False
        await bank.freezes(ledger.tenant)


async def test_a_restarted_checker_finds_what_stands(bank: Bank) -> None:
    """It remembers nothing, and needs nothing that it would remember."""
    ledger = await bank.ledger()
    with bank.superuser() as root:
        balance(root, ledger.tenant)
    for _ in range(2):
        async with bank.checked():
            await bank.freezes(ledger.tenant)
        bank.freezer.asked.clear()


async def test_one_of_two_checkers_works(bank: Bank) -> None:
    """The other stands by, is ready, and goes on when the first one ends."""
    ledger = await bank.ledger()
    async with bank.checked() as second_to_end:
        await rounds(second_to_end, 1)
        async with bank.checked() as other:

            async def ready() -> bool:
                return other.readiness.ready

            await real.eventually(ready, 10)
            assert (second_to_end.worker.leading, other.worker.leading) == (True, False)
    async with bank.checked() as other:
        with bank.superuser() as root:
            balance(root, ledger.tenant)
        await bank.freezes(ledger.tenant)
        assert other.worker.leading


async def test_its_role_reads_what_it_is_said_to_read_and_writes_nothing(bank: Bank) -> None:
    """No personal data, no secret, no right to change anything: least privilege, column by column."""
    for service in SERVICES:
        url = bank.parts.url(bank.names[service], f"{bank.names[service]}_checker")
        with psycopg.connect(
            **dict(url.query), user=url.username, password=url.password, dbname=url.database, autocommit=True
        ) as reader:
            granted = reader.execute(
                "SELECT table_name, column_name FROM information_schema.column_privileges"
                " WHERE grantee = current_user AND privilege_type = 'SELECT'"
            ).fetchall()
            wanted = {(table, column) for table, columns in tables.read_columns(service).items() for column in columns}
            assert set(granted) == wanted
            rights = reader.execute(
                "SELECT DISTINCT privilege_type FROM information_schema.column_privileges WHERE grantee = current_user"
            ).fetchall()
            assert rights == [("SELECT",)]
            # Row-level security holds for it as for everybody: it sees what it names.
            table = next(iter(tables.read_columns(service)))
            assert reader.execute(f"SELECT count(tenant) FROM {table}").fetchone() == (0,)  # type: ignore[arg-type]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("SELECT data FROM outbox")
    with bank.superuser() as root:
        (may,) = root.execute(
            "SELECT has_table_privilege(%s, 'customers', 'SELECT')", (f"{bank.names['accounts']}_checker",)
        ).fetchone() or (True,)
    assert not may


async def test_a_right_too_many_is_told_and_freezes_nothing(bank: Bank) -> None:
    """It is no tenant's, and no number is wrong for it."""
    role = f"{bank.names['accounts']}_runtime"
    with bank.superuser() as root:
        root.execute(f'GRANT UPDATE ON entries TO "{role}"')  # type: ignore[arg-type]
    try:
        async with bank.checked():

            async def told() -> bool:
                return violations("INV-4") == 1

            await real.eventually(told, 20)
    finally:
        with bank.superuser() as root:
            root.execute(f'REVOKE UPDATE ON entries FROM "{role}"')  # type: ignore[arg-type]
    assert bank.freezer.asked == []


async def test_what_is_on_its_way_between_services_freezes_nothing(bank: Bank) -> None:
    """A reservation that counts although its transfer was declined: until compliance was told of that, it is late."""
    urls = bank.urls
    declined = rows.transfer(urls, "DECLINED", version=2, told=2)
    rows.reservation(urls, declined, 1)
    async with bank.checked() as checker:
        await rounds(checker, 3)
        await asyncio.sleep(2 * bank.settings.settle_seconds)
        assert bank.freezer.asked == []
        rows.execute(
            urls,
            "compliance",
            "INSERT INTO inbox (tenant, source, aggregate, version) VALUES ('demo', '//florin/transactions', %s, 2)",
            f"transfers/{declined}",
        )
        assert await bank.freezes("demo") == {("INV-8", f"transfers/{declined}")}
    assert bank.freezer.frozen() == {("demo", "EUR")}


async def test_money_that_accounts_knows_nothing_of_is_found_across_services(bank: Bank) -> None:
    """A completed transfer whose journal is not there, and a declined one that has one."""
    urls = bank.urls
    lost = rows.transfer(urls, "COMPLETED", "journals/lost")
    paid = rows.transfer(urls, "DECLINED")
    rows.legs(urls, rows.journal_of(urls, paid), ("a", -5), ("b", 5))
    async with bank.checked():

        async def both() -> bool:
            return {("INV-6", f"transfers/{lost}"), ("INV-6", f"transfers/{paid}")} <= bank.freezer.found("demo")

        await real.eventually(both, 20)


async def test_a_journal_that_was_just_added_is_judged_at_once(bank: Bank) -> None:
    """It does not wait for its turn in a sweep, which comes in an hour here."""
    ledger = await bank.ledger()
    async with bank.checked(sweep_seconds=3600) as checker:
        await rounds(checker, 1)
        await asyncio.sleep(3 * bank.settings.tail_seconds)
        with bank.superuser() as root:
            root.execute(
                "INSERT INTO journals (tenant, journal, kind, origin, create_time, effective_time)"
                " VALUES (%s, %s, 1, 'x', now(), now())",
                (ledger.tenant, new_id()),
            )
        assert {invariant for invariant, _ in await bank.freezes(ledger.tenant)} == {"INV-1"}
    assert bank.freezer.frozen() == {(ledger.tenant, "")}


async def test_a_turn_that_fails_is_told_and_the_next_one_works(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of its own takes readiness away for a moment, not the checker for good."""
    ledger = await bank.ledger()
    failed = iter([RuntimeError("a mistake")])
    turn = Sweeps.turn

    def failing(self: Sweeps) -> Turn:
        for error in failed:
            raise error
        return turn(self)

    monkeypatch.setattr(Sweeps, "turn", failing)
    async with bank.checked():
        with bank.superuser() as root:
            balance(root, ledger.tenant)
        await bank.freezes(ledger.tenant)
    assert REGISTRY.get_sample_value("florin_checker_failures_total", {"cause": "RuntimeError"}) == 1
