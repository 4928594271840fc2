"""The checker and old periods: what is moved, detached and brought back freezes nothing; what is changed there does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from accounts import archiving
from accounts.archive_command import open_database
from accounts.archiving import Order, Totals
from accounts.settings import Settings as AccountsSettings
from checker import archive
from checker.tables import Table
from meshkit import clock
from meshkit.database import Database
from tests.integration.accounts.conftest import Ledger
from tests.integration.checker.conftest import Bank
from tests.integration.checker.test_checker import rounds
from tests.integration.checker.test_plans import plan
from tests.support import parts as real


@pytest.fixture(scope="module")
async def archiver(parts: real.Parts, names: dict[str, str]) -> AsyncIterator[Database]:
    """The ledger's database, as the role sees it that archives."""
    role = parts.postgres.create_archiver(names["accounts"])
    settings = real.settings_for(parts, AccountsSettings, names["accounts"])
    async with open_database(settings, parts.url(names["accounts"], role)) as opened:
        yield opened


@pytest.fixture(scope="module")
async def owner(parts: real.Parts, names: dict[str, str]) -> AsyncIterator[Database]:
    """The same, as its owner sees it."""
    settings = real.settings_for(parts, AccountsSettings, names["accounts"])
    async with open_database(settings, parts.url(names["accounts"], f"{names['accounts']}_owner")) as opened:
        yield opened


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The ledger's clock, the one moment in the list: two years behind the checker's and the databases'."""
    time = [datetime(2024, 5, 1, tzinfo=UTC)]
    monkeypatch.setattr(clock, "now", lambda: time[0])
    return time


async def two_years(bank: Bank, hands: list[datetime]) -> Ledger:
    """A ledger of 2024 and 2025, sealed."""
    ledger = await bank.ledger(payments=20)
    hands[0] += timedelta(days=365)
    for _ in range(20):
        await bank.pay(ledger)
    await bank.seal()
    return ledger


async def move(archiver: Database, ledger: Ledger, before: datetime) -> Totals:
    """Archives what is older."""
    totals = Totals()
    await archiving.archive_all(archiver, Order(ledger.tenant, before, "r"), totals, share=1, tell=lambda _: None)
    return totals


async def test_a_ledger_that_is_archived_and_detached_stays_open(
    bank: Bank, archiver: Database, owner: Database, hands: list[datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While rows are moved in slices of two journals, while a year is detached, and when it is brought back, beside
    payments."""
    ledger = await two_years(bank, hands)
    monkeypatch.setattr(archiving, "_ENTRIES_MAX", 4)
    async with bank.checked() as checker:
        await rounds(checker, 1)
        moving = asyncio.create_task(move(archiver, ledger, datetime(2025, 1, 1, tzinfo=UTC)))
        while not moving.done():
            await bank.pay(ledger)
        assert moving.result().journals == 21
        await rounds(checker, 1)
        await archiving.detach(owner, 2024)
        await bank.pay(ledger)
        await rounds(checker, 2)
        await archiving.attach(owner, 2024)
        await rounds(checker, 1)
    assert bank.freezer.asked == []


CHANGES = {
    "an archived amount": "UPDATE archived_entries SET amount = amount + 5 WHERE tenant = %s AND account = 'b'"
    " AND sequence = 2",
    "what is told of a period": "UPDATE archived_spans SET closing = closing + 5 WHERE tenant = %s AND account = 'b'",
    "where a period ends": "UPDATE archived_spans SET last_sequence = 19 WHERE tenant = %s AND account = 'b'",
    "an archived entry": "DELETE FROM archived_entries WHERE tenant = %s AND account = 'b' AND sequence = 2",
    "an anchor": "DELETE FROM archived_spans WHERE tenant = %s AND account = 'b'",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_in_the_archive_is_found(
    bank: Bank, archiver: Database, hands: list[datetime], change: str
) -> None:
    """And the account is named whose it is."""
    ledger = await two_years(bank, hands)
    await move(archiver, ledger, datetime(2025, 1, 1, tzinfo=UTC))
    with bank.superuser() as root:
        assert root.execute(change, (ledger.tenant,)).rowcount == 1  # type: ignore[arg-type]
    async with bank.checked():
        found = await bank.freezes(ledger.tenant)
    assert found
    assert {name for invariant, name in found if invariant == "INV-2"} <= {"accounts/b"}


@pytest.mark.parametrize(("table", "text"), archive.RULES)
def test_what_is_told_is_compared_by_indexes(bank: Bank, table: Table, text: str) -> None:
    """Of an account with millions of entries the first and the last one are read."""
    lines = plan(bank, table, text)
    assert not any("Seq Scan" in line or "Workers" in line for line in lines if "judged" not in line), "\n".join(lines)
