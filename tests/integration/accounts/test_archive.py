"""Old periods in the archive: every answer is what it was, whatever dies, runs beside it, or is tampered with."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from accounts import (
    archive_store,
    archiving,
    entry_store,
    moments_store,
    operations,
    reconciliation_summary,
    seal_store,
    sealing,
    signing,
)
from accounts.app import build
from accounts.archive_command import open_database
from accounts.archive_errors import ArchivedPeriodNotAttached
from accounts.archiving import ArchiveRefused, Order, Totals
from accounts.moments import AsOf, Axis
from accounts.places import ALL, LEDGER
from accounts.sealing import Sealer
from accounts.settings import Settings
from accounts.signing import Signer
from checker import sealed_log
from checker.log_check import Report
from checker.rules import RULES
from checker.sealed_log import LogWalk
from checker.tables import all_of
from florin.accounts.v1 import account_service_pb2 as pb
from florin.accounts.v1 import audit_service_pb2 as audit_pb
from florin.accounts.v1 import audit_service_pb2_grpc, statement_pb2, statement_service_pb2
from florin.accounts.v1 import journal_service_pb2 as journal_pb
from florin.accounts.v1.account_service_pb2_grpc import AccountServiceStub
from florin.accounts.v1.journal_service_pb2_grpc import JournalServiceStub
from florin.accounts.v1.statement_service_pb2_grpc import StatementServiceStub
from florin.common.v1 import money_pb2
from local import export_file, issuer, verify, verify_archive, verify_export
from meshkit import clock, database, lifecycle
from meshkit.database import Database, fetch, flush
from meshkit.errors import Unavailable
from meshkit.identity import Call, Principal
from tests.integration.accounts.conftest import FUNDER, Ledger, channel, new_ledger, refusal
from tests.support import parts as real

BOUNDARY = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("a", "b", "c")
FORMATS = [number for number in statement_pb2.StatementFormat.values() if number]


@dataclass(slots=True)
class Bank:
    """A service on a database of its own, whose clock the test sets, with its archiver and its owner."""

    parts: real.Parts
    name: str
    db: Database
    archiver: Database
    owning: Database
    signer: Signer
    public_key: Path
    edge: Any

    async def archive(self, tenant: str, before: datetime = BOUNDARY) -> Totals:
        """Moves all that is older."""
        totals = Totals()
        order = Order(tenant, before, "archiver")
        await archiving.archive_all(self.archiver, order, totals, share=1, tell=lambda _: None)
        return totals

    async def seal(self) -> None:
        """Seals all there is."""
        while (await Sealer(self.db, self.signer, every_seconds=1).seal()).more:
            pass

    async def archive_all(self) -> None:
        """Moves what is older of every tenant."""
        for tenant in await archiving.tenants(self.archiver):
            await self.archive(tenant)

    def owner(self) -> psycopg.Connection[Any]:
        """The owner, for all tenants, as `florin verify` is."""
        connection = verify._connect(self.parts.url(self.name, f"{self.name}_owner"))
        verify_archive.hold(connection)
        return connection

    def superuser(self) -> psycopg.Connection[Any]:
        """Somebody whom neither rights nor constraints stop."""
        connection = psycopg.connect(self.parts.postgres.admin_dsn(self.name), autocommit=True)
        connection.execute("SET session_replication_role = replica")
        return connection

    def wrong(self, tenant: str) -> list[str]:
        """What `florin verify` says of a tenant's books."""
        with self.owner() as connection:
            return self.wrong_for(connection, tenant)

    def wrong_for(self, connection: psycopg.Connection[Any], tenant: str) -> list[str]:
        """The same, as a transaction sees them."""
        own = [rule for rule in RULES if rule.table.service == "accounts"]
        said = [one.line for rule in own for one in rule.violations(connection, all_of(rule.table), timedelta())]
        said += [str(row[0]) for _, _, sql in verify_archive.ARCHIVE for row in connection.execute(sql)]  # type: ignore[call-overload]
        report = Report()
        walk = LogWalk(tenant, signing.verifying_keys(self.public_key), report)
        while not walk.is_at_end:
            walk.page(connection, 50)
        said += report.sentences()
        said += [one.line for one in sealed_log.unsealed(connection)]
        return [one for one in said if one.startswith(tenant)]

    def places(self, tenant: str) -> dict[str, int]:
        """How many rows there are where."""
        tables = ("journals", "entries", "archived_journals", "archived_entries")
        with self.owner() as connection:
            return {
                table: connection.execute(f"SELECT count(*) FROM {table} WHERE tenant = %s", (tenant,)).fetchall()[0][0]  # type: ignore[arg-type]
                for table in tables
            }


@pytest.fixture(scope="module")
async def bank(parts: real.Parts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bank]:
    """One for this module: its archive is of all tenants' periods."""
    name = real.fresh_database(parts, "accounts")
    role = parts.postgres.create_archiver(name)
    folder = tmp_path_factory.mktemp("keys")
    key, public = folder / "key.pem", folder / "public.pem"
    key.write_text(signing.new_private_pem())
    signer = signing.signer(key)
    public.write_text(signer.known.pem())
    # How far an account is reconciled is what the tests say.
    settings: Settings = real.settings_for(parts, Settings, name, reconciliation_seconds=3600)
    async with (
        Database.open(settings) as db,
        open_database(settings, parts.url(name, role)) as archiver,
        open_database(settings, parts.url(name, f"{name}_owner")) as owning,
        lifecycle.running(settings, build) as running,
        channel(parts, "edge", running.grpc_port) as edge,
    ):
        yield Bank(parts, name, db, archiver, owning, signer, public, edge)


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[datetime]]:
    """The service's clock: the one moment in the list."""
    time = [datetime(2024, 2, 1, tzinfo=UTC)]
    monkeypatch.setattr(clock, "now", lambda: time[0])
    yield time


@pytest.fixture
async def books(bank: Bank, hands: list[datetime]) -> Ledger:
    """A tenant with two years and some months of history, all sealed; one account has rested for a year."""
    ledger, chance = await new_ledger(bank.db), random.Random(5)
    for account in (*NAMES, "resting"):
        await ledger.open(account)
    while hands[0] < datetime(2026, 10, 1, tzinfo=UTC):
        steps = []
        for _ in range(chance.randint(1, 4)):
            debit, credit = chance.sample(NAMES, 2)
            if chance.random() < 0.2 and hands[0].year == 2024:
                debit = "resting"
            amount = chance.randint(1, 99)
            dated = chance.choice([None, None, hands[0] - timedelta(days=40), hands[0] + timedelta(days=40)])
            step = ledger.post((debit, -amount), (credit, amount), actor=FUNDER)
            steps.append(replace(step, effective_time=dated))
        await ledger.apply(*steps)
        if chance.random() < 0.4:
            await accrue(bank, ledger, hands[0])
        hands[0] += timedelta(days=chance.randint(10, 40))
    await bank.seal()
    hands[0] = datetime(2026, 11, 1, tzinfo=UTC)
    return ledger


def accrual(now: datetime) -> journal_pb.PostJournalRequest:
    """A journal that the bank posts itself, with metadata."""
    return journal_pb.PostJournalRequest(
        legs=[
            journal_pb.PostJournalRequest.Leg(
                account=f"accounts/{name}", amount=money_pb2.Money(currency_code="EUR", minor_units=amount)
            )
            for name, amount in (("b", -2), ("c", 2))
        ],
        reason="accrual",
        request_id=now.isoformat(),
        metadata={"month": f"{now:%m}", "run": f"{now:%Y-%m}"},
    )


async def accrue(bank: Bank, ledger: Ledger, now: datetime) -> journal_pb.PostJournalResponse:
    """Posts it."""
    token = issuer.mint(bank.parts.state, "operator", tenant=ledger.tenant)
    return await JournalServiceStub(bank.edge).PostJournal(
        accrual(now), metadata=(("authorization", f"Bearer {token}"),), timeout=5
    )


@dataclass(slots=True)
class Reader:
    """All that anybody can ask about a tenant's past."""

    bank: Bank
    ledger: Ledger
    statements: dict[str, str]
    """Names of statements, by account and period."""

    def metadata(self, role: str = "auditor") -> tuple[tuple[str, str], ...]:
        """A role's token; the issuer's clock is the real one."""
        token = issuer.mint(self.bank.parts.state, role, tenant=self.ledger.tenant)
        return (("authorization", f"Bearer {token}"),)

    async def state(self, account: str, first: str, last: str) -> None:
        """Has a statement issued."""
        request = statement_service_pb2.CreateStatementRequest(
            account=f"accounts/{account}", period_start=first, period_end=last, request_id=f"{account}{first}{last}"
        )
        stub = StatementServiceStub(self.bank.edge)
        answer = await stub.CreateStatement(request, metadata=self.metadata("teller"), timeout=5)
        self.statements[f"{account} {first}"] = answer.statement.name

    async def pages(self, account: str, size: int, most: int = 1000, **as_of: Any) -> list[bytes]:
        """The first pages of an account's entries, as bytes."""
        found, token = [], ""
        while True:
            request = pb.ListEntriesRequest(account=f"accounts/{account}", page_size=size, page_token=token, **as_of)
            answer = await AccountServiceStub(self.bank.edge).ListEntries(request, metadata=self.metadata(), timeout=5)
            found.append(b"".join(one.SerializeToString(deterministic=True) for one in answer.entries))
            token = answer.next_page_token
            if not token or len(found) == most:
                return found

    async def document(self, name: str, form: int) -> bytes:
        """A statement's document."""
        request = statement_service_pb2.GetStatementDocumentRequest(name=name, format=form)  # type: ignore[arg-type]
        stub = StatementServiceStub(self.bank.edge)
        return b"".join(
            [part.data async for part in stub.GetStatementDocument(request, metadata=self.metadata(), timeout=5)]
        )

    async def moments(self) -> list[object]:
        """Balances as of a moment in every twenty days, and of every fifth sequence, for all accounts."""
        start = datetime(2023, 12, 1, tzinfo=UTC)
        asked = [
            (self.ledger.tenant, account, None, AsOf(axis, start + timedelta(days=20 * number)))
            for account in (*NAMES, "resting", "bank")
            for axis in (Axis.RECORDED, Axis.EFFECTIVE)
            for number in range(50)
        ]
        asked += [
            (self.ledger.tenant, account, None, AsOf(Axis.SEQUENCE, sequence=sequence))
            for account in NAMES
            for sequence in range(0, 60, 5)
        ]

        async def work(conn: Any) -> list[object]:
            lots = [asked[start : start + 100] for start in range(0, len(asked), 100)]
            return [one for lot in lots for one in await moments_store.balances(conn, lot)]

        return await self.bank.db.run(self.ledger.tenant, work, read_only=True)

    async def manual(self, asked: str, size: int, most: int = 1000) -> list[bytes]:
        """The first pages of the bank's own journals that a filter finds, as bytes."""
        found, token = [], ""
        while True:
            request = journal_pb.ListJournalsRequest(filter=asked, page_size=size, page_token=token)
            stub = JournalServiceStub(self.bank.edge)
            answer = await stub.ListJournals(request, metadata=self.metadata("operator"), timeout=5)
            found.append(answer.SerializeToString(deterministic=True))
            token = answer.next_page_token
            if not token or len(found) == most:
                return found

    async def reconciled(self) -> int:
        """What stood on an account up to where it is reconciled, by the summary of that."""
        tenant = self.ledger.tenant
        found = await self.bank.db.run(tenant, lambda conn: reconciliation_summary.summary(conn, tenant, "a"))
        assert found is not None
        return found.ledger_balance

    async def journals(self) -> dict[str, object]:
        """Every journal, with its proof."""
        call = Call("/t", "edge", Principal(self.ledger.tenant, "s", None, frozenset()), "", b"", float("inf"))
        ids = [str(row[0]) for row in await self.ledger.rows("SELECT journal FROM sealed_journals ORDER BY position")]

        async def work(conn: Any) -> dict[str, object]:
            return {
                id_: (
                    await operations.get_journal(conn, call, f"journals/{id_}"),
                    await sealing.get_inclusion_proof(conn, self.ledger.tenant, f"journals/{id_}", 0),
                )
                for id_ in ids
            }

        return await self.bank.db.run(self.ledger.tenant, work, read_only=True)

    async def export(self) -> bytes:
        """An export's file, through the service."""
        stub = audit_service_pb2_grpc.AuditServiceStub(self.bank.edge)
        text = export_file.header(self.ledger.tenant, self.bank.signer.known.raw())
        async for answer in stub.ExportJournals(audit_pb.ExportJournalsRequest(), metadata=self.metadata(), timeout=9):
            if answer.WhichOneof("item") == "journal":
                text += export_file.journal_line(answer.journal)
            else:
                text += export_file.head_line(answer.tree_head)
        return text.encode()

    async def everything(self) -> dict[str, object]:
        """All of it."""
        found: dict[str, object] = {"moments": await self.moments(), "journals": await self.journals()}
        for account in (*NAMES, "resting"):
            for size in (5, 50):
                found[f"{account} by {size}"] = await self.pages(account, size)
            for time in (datetime(2024, 8, 1, tzinfo=UTC), BOUNDARY):
                recorded = {"as_of_recorded_time": clock.timestamp(time)}
                effective = {"as_of_effective_time": clock.timestamp(time)}
                found[f"{account} {time} recorded"] = await self.pages(account, 20, **recorded)
                found[f"{account} {time} effective"] = await self.pages(account, 20, **effective)
        for what, name in self.statements.items():
            for form in FORMATS:
                found[f"{what} {form}"] = await self.document(name, form)
        found["export"] = await self.export()
        for asked in ("", 'account = "accounts/b"', 'metadata.month = "05"'):
            found[f"manual {asked}"] = await self.manual(asked, 4)
        found["reconciled"] = await self.reconciled()
        return found


@pytest.fixture
async def reader(bank: Bank, books: Ledger) -> Reader:
    """With a statement of each kind: of what is old, of what is not, and across the boundary."""
    made = Reader(bank, books, {})
    await made.state("a", "2024-03-01", "2024-12-31")
    await made.state("a", "2025-07-01", "2026-03-31")
    await made.state("b", "2024-01-01", "2026-08-31")
    await made.state("resting", "2026-01-01", "2026-03-31")
    with bank.superuser() as root:
        root.execute(
            "INSERT INTO reconciliations VALUES (%s, 'a', 0, 0, 0, 0, '2024-01-01', 0, 0, 0, 4, 0, 0)", (books.tenant,)
        )
    return made


async def test_every_answer_is_what_it_was(bank: Bank, reader: Reader, tmp_path: Path) -> None:
    """Pages, balances as of any time, journals, proofs, documents in all formats and the export are the same bytes
    after all that is old was moved; the export holds without a server, and so do the invariants."""
    tenant = reader.ledger.tenant
    before, places = await reader.everything(), bank.places(tenant)
    assert bank.wrong(tenant) == []
    done = await bank.archive(tenant)
    assert done.left == 0
    after = bank.places(tenant)
    ((own,),) = await reader.ledger.rows("SELECT count(*) FROM journals WHERE kind = 4")
    assert after["archived_journals"] < done.journals < after["archived_journals"] + own
    assert after["archived_journals"] > 30
    assert after["archived_entries"] == done.entries == 2 * done.journals
    assert after["journals"] == places["journals"] - after["archived_journals"] > 0
    assert after["entries"] == places["entries"] - done.entries
    now = await reader.everything()
    assert now.keys() == before.keys()
    assert [what for what in before if before[what] != now[what]] == []
    assert bank.wrong(tenant) == []
    path = tmp_path / "export"
    path.write_bytes(now["export"])  # type: ignore[arg-type]
    assert verify_export.verify(path, bank.public_key).violations == []
    again = await bank.archive(tenant)
    assert (again.journals, again.left) == (0, 0)


async def test_an_account_goes_on_after_its_past_was_moved(bank: Bank, reader: Reader, hands: list[datetime]) -> None:
    """The next entry of an account of which everything is archived has the next sequence and the right balance, and
    later runs move what has become old, without a gap."""
    tenant = reader.ledger.tenant
    await bank.archive(tenant)
    await reader.ledger.apply(reader.ledger.post(("resting", -7), ("a", 7), actor=FUNDER))
    await bank.seal()
    assert bank.wrong(tenant) == []
    hands[0] += timedelta(days=10)
    done = await bank.archive(tenant, hands[0])
    assert done.left == 0
    assert bank.places(tenant)["entries"] == 0
    assert await reader.ledger.rows("SELECT DISTINCT kind FROM journals") == [(4,)]
    assert bank.wrong(tenant) == []
    spans = await reader.ledger.rows(
        "SELECT account, period, first_sequence, last_sequence, opening, closing FROM archived_spans"
        " ORDER BY account, period"
    )
    ends: dict[str, tuple[int, int]] = {}
    for account, _, first, last, opening, closing in spans:
        assert (first - 1, opening) == ends.get(account, (0, 0))
        ends[account] = (last, closing)
    stands = await reader.ledger.rows("SELECT account, sequence, posted FROM accounts WHERE sequence > 0")
    assert {account: (sequence, posted) for account, sequence, posted in stands} == ends


async def test_reads_and_payments_go_on_while_it_is_archived(
    bank: Bank, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In slices of seven journals, beside payments and readers: each page is whole and in order at every moment, each
    journal has its leaf, and each balance of the past is what it was."""
    tenant, ledger = reader.ledger.tenant, reader.ledger
    monkeypatch.setattr(archiving, "_ENTRIES_MAX", 14)
    entries = {name: await listed(ledger, name) for name in NAMES}
    past = [(tenant, name, None, AsOf(Axis.RECORDED, BOUNDARY - timedelta(days=90))) for name in NAMES]
    found = await bank.db.run(tenant, lambda conn: moments_store.balances(conn, past), read_only=True)
    stood = [(one.posted, one.sequence) for one in found if one]
    done, reads, paid = asyncio.Event(), 0, 0

    async def pay() -> None:
        nonlocal paid
        while not done.is_set():
            (outcome,) = await ledger.apply(ledger.post(("a", -1), ("b", 1), actor=FUNDER))
            assert outcome.HasField("journal")
            paid += 1

    async def read(name: str) -> None:
        nonlocal reads
        while not done.is_set():
            found = await listed(ledger, name)
            assert [one.sequence for one in found] == list(range(len(found), 0, -1))
            assert found[-len(entries[name]) :] == entries[name]
            reads += 1

    async def remember() -> None:
        nonlocal reads
        while not done.is_set():
            rows = await bank.db.run(tenant, lambda conn: seal_store.export(conn, tenant, start=0, end=30))
            assert all(content is not None and content.leaf() == leaf for _, _, leaf, content in rows)
            found = await bank.db.run(tenant, lambda conn: moments_store.balances(conn, past), read_only=True)
            assert [(one.posted, one.sequence) for one in found if one] == stood
            reads += 1

    tasks = [asyncio.create_task(one) for one in (pay(), *(read(name) for name in NAMES), remember())]
    moved = await bank.archive(tenant)
    done.set()
    await asyncio.gather(*tasks)
    assert moved.journals > 30
    assert min(reads, paid) > 5
    await bank.seal()
    assert bank.wrong(tenant) == []


async def test_what_is_of_the_present_asks_nothing_of_the_archive(bank: Bank, reader: Reader) -> None:
    """Payments, present balances, newest pages, balances of times after the archive and of a year's end are answered
    while nobody can read the archive's tables."""
    tenant, ledger = reader.ledger.tenant, reader.ledger
    lately = AsOf(Axis.RECORDED, BOUNDARY + timedelta(days=150))
    asked = [
        (tenant, "a", None, lately),
        (tenant, "a", None, AsOf(Axis.EFFECTIVE, BOUNDARY + timedelta(days=150))),
        (tenant, "a", None, AsOf(Axis.RECORDED, BOUNDARY)),
        (tenant, "resting", None, AsOf(Axis.RECORDED, BOUNDARY - timedelta(days=90))),
    ]
    before = await bank.db.run(tenant, lambda conn: moments_store.balances(conn, asked))
    page = await reader.pages("a", 5, most=1)
    await bank.archive(tenant)
    with psycopg.connect(bank.parts.postgres.admin_dsn(bank.name)) as root:
        root.execute("LOCK TABLE archived_journals, archived_entries IN ACCESS EXCLUSIVE MODE")
        # What waited for them would be refused as Contention, since the lock stays until the end.
        assert await bank.db.run(tenant, lambda conn: moments_store.balances(conn, asked)) == before
        assert await reader.pages("a", 5, most=1) == page
        (outcome,) = await ledger.apply(ledger.post(("a", -1), ("resting", 1), actor=FUNDER))
        assert outcome.HasField("journal")
        await ledger.balance("resting")


async def test_requests_of_before_have_their_answers(bank: Bank, reader: Reader, hands: list[datetime]) -> None:
    """What was posted under a key is not posted again when that is archived, and has the same answer; while its period
    is detached the ledger's step has it too, and of the bank's own journals the refusal stands for that one alone."""
    ledger, now = await new_ledger(bank.db), hands[0]
    reader.ledger = ledger
    for account in NAMES:
        await ledger.open(account)
    hands[0] = datetime(2024, 5, 1, tzinfo=UTC)
    step = ledger.post(("a", -5), ("b", 5), actor=FUNDER)
    posted, first = await ledger.apply(step), await accrue(bank, ledger, hands[0])
    hands[0] = now
    await bank.seal()
    await bank.archive_all()
    assert bank.places(ledger.tenant)["entries"] == 0
    assert await ledger.apply(step) == posted
    assert await accrue(bank, ledger, datetime(2024, 5, 1, tzinfo=UTC)) == first
    await archiving.detach(bank.owning, 2024)
    assert await ledger.apply(step) == posted
    assert await refusal(accrue(bank, ledger, datetime(2024, 5, 1, tzinfo=UTC))) == "ARCHIVED_PERIOD_NOT_ATTACHED"
    requests = [accrual(datetime(2024, 5, 1, tzinfo=UTC)), accrual(now)]
    answer = await JournalServiceStub(bank.edge).BatchPostJournals(
        journal_pb.BatchPostJournalsRequest(requests=requests), metadata=reader.metadata("operator"), timeout=5
    )
    assert [one.WhichOneof("result") for one in answer.results] == ["status", "journal"]
    info = next(iter(unpacked(answer.results[0].status)))
    assert (info.reason, info.metadata["resource"]) == ("ARCHIVED_PERIOD_NOT_ATTACHED", first.journal.name)
    await archiving.attach(bank.owning, 2024)
    assert await accrue(bank, ledger, datetime(2024, 5, 1, tzinfo=UTC)) == first
    await bank.seal()
    assert bank.wrong(ledger.tenant) == []


async def test_a_detached_period_in_which_nothing_counts_yet_is_not_needed(
    bank: Bank, reader: Reader, hands: list[datetime]
) -> None:
    """Entries that count by a time in 2024 are listed while 2025 is detached, of which none is dated back."""
    ledger, now = await new_ledger(bank.db), hands[0]
    for account in ("a", "b"):
        await ledger.open(account)
    for year in (2024, 2025):
        hands[0] = datetime(year, 5, 1, tzinfo=UTC)
        await ledger.apply(ledger.post(("a", -5), ("b", 5), actor=FUNDER))
    hands[0] = now
    await bank.seal()
    await bank.archive_all()
    await archiving.detach(bank.owning, 2025)
    reader.ledger = ledger
    as_of = {"as_of_effective_time": clock.timestamp(datetime(2024, 8, 1, tzinfo=UTC))}
    (page,) = await reader.pages("b", 20, **as_of)
    assert page
    later = {"as_of_effective_time": clock.timestamp(datetime(2025, 8, 1, tzinfo=UTC))}
    assert await refusal(reader.pages("b", 20, **later)) == "ARCHIVED_PERIOD_NOT_ATTACHED"
    await archiving.attach(bank.owning, 2025)


async def test_no_payment_waits_for_a_slice(bank: Bank, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a slice has moved all of its rows and is not committed, payments on its accounts and reads of its entries
    are answered: it holds no lock that they need."""
    ledger, paid = reader.ledger, 0
    before = {name: await listed(ledger, name) for name in NAMES}
    whole = archive_store.set_progress

    async def pausing(conn: Any, *args: Any) -> None:
        nonlocal paid
        await whole(conn, *args)
        await flush(conn)
        for debit, credit in (("a", "b"), ("b", "c"), ("resting", "a")):
            async with asyncio.timeout(2):
                (outcome,) = await ledger.apply(ledger.post((debit, -1), (credit, 1), actor=FUNDER))
            assert outcome.HasField("journal")
            paid += 1
            await fetch(conn, "SELECT 1")  # an idle transaction is ended
        for name in NAMES:
            async with asyncio.timeout(2):
                assert (await listed(ledger, name))[-len(before[name]) :] == before[name]

    monkeypatch.setattr(archive_store, "set_progress", pausing)
    assert (await bank.archive(ledger.tenant)).journals > 30
    assert paid >= 3


async def listed(ledger: Ledger, name: str) -> list[Any]:
    """All entries of an account in one page."""
    return await ledger.db.run(
        ledger.tenant,
        lambda conn: entry_store.list_entries(conn, ledger.tenant, name, before=2**63 - 1, limit=1000),
        read_only=True,
    )


@pytest.mark.parametrize(("step", "call"), [("open_period", 3), ("move", 3), ("set_progress", 1)])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_dies_within_a_slice_leaves_every_row_in_one_place(
    bank: Bank, reader: Reader, monkeypatch: pytest.MonkeyPatch, step: str, call: int, when: str
) -> None:
    """The archiver's connection is ended by the server around each of its steps: no row is lost or in two places, and
    the same command goes on to the end."""
    tenant, calls = reader.ledger.tenant, 0
    before, places = await reader.export(), bank.places(tenant)
    monkeypatch.setattr(archiving, "_ENTRIES_MAX", 14)
    whole = getattr(archive_store, step)

    async def dying(conn: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        # A connection that is lost is not all that dies here: nobody tries again.
        if calls >= call and when == "before":
            await kill(conn)
        answer = await whole(conn, *args)
        if calls >= call and when == "after":
            await kill(conn)
        return answer

    async def kill(conn: Any) -> None:
        ((pid,),) = await fetch(conn, "SELECT pg_backend_pid()")
        with psycopg.connect(bank.parts.postgres.admin_dsn("postgres"), autocommit=True) as root:
            root.execute("SELECT pg_terminate_backend(%s)", (pid,))
        raise Died

    with monkeypatch.context() as patch, pytest.raises((Died, Unavailable)):
        patch.setattr(archive_store, step, dying)
        await bank.archive(tenant)
    now = bank.places(tenant)
    assert now["journals"] + now["archived_journals"] == places["journals"]
    assert now["entries"] + now["archived_entries"] == places["entries"]
    assert now["archived_entries"] in (0, 14, 28)
    assert await reader.export() == before
    assert bank.wrong(tenant) == []
    done = await bank.archive(tenant)
    assert done.left == 0
    assert bank.places(tenant)["archived_entries"] == now["archived_entries"] + done.entries
    assert await reader.export() == before
    assert bank.wrong(tenant) == []


class Died(Exception):
    """The archiver ends here."""


async def test_a_second_archiver_is_refused(bank: Bank, reader: Reader) -> None:
    """While the first one's slice is under way, and not for another tenant."""
    tenant, other = reader.ledger.tenant, await new_ledger(bank.db)
    with psycopg.connect(bank.parts.postgres.admin_dsn(bank.name)) as first:
        first.execute(
            "SELECT pg_advisory_xact_lock(%s, hashtext(%s))",
            (archive_store._LOCK_CLASS, tenant),
        )
        with pytest.raises(ArchiveRefused, match="by somebody else"):
            await bank.archive(tenant)
        assert (await bank.archive(other.tenant)).journals == 0
    assert (await bank.archive(tenant)).journals > 0


async def test_what_is_not_sealed_or_not_what_was_sealed_stays(bank: Bank, reader: Reader) -> None:
    """Unsealed journals are left for later; one that somebody changed is named, and nothing of its slice is moved."""
    ledger = reader.ledger
    await ledger.apply(ledger.post(("a", -1), ("b", 1), actor=FUNDER))
    hands_off = await ledger.rows("SELECT journal::text FROM journals ORDER BY xid DESC LIMIT 1")
    changed = await ledger.rows("SELECT journal::text FROM journals WHERE kind = 1 ORDER BY xid, journal LIMIT 1")
    with bank.superuser() as root:
        root.execute("UPDATE journals SET origin = 'x' WHERE journal = %s", (changed[0][0],))
    with pytest.raises(ArchiveRefused, match=changed[0][0]):
        await bank.archive(ledger.tenant, clock.now())
    assert bank.places(ledger.tenant)["archived_entries"] == 0
    with bank.superuser() as root:
        root.execute("UPDATE journals SET origin = 'transfers/t' WHERE journal = %s", (changed[0][0],))
    await bank.archive(ledger.tenant, clock.now() + timedelta(days=1))
    assert await ledger.rows("SELECT DISTINCT journal::text FROM entries") == hands_off
    await bank.seal()
    assert bank.wrong(ledger.tenant) == []


TAMPERING = {
    "an amount": "UPDATE archived_entries SET amount = amount + 1 WHERE journal = '{0}' AND leg = 0",
    "a balance": "UPDATE archived_entries SET balance_after = balance_after + 1 WHERE journal = '{0}' AND leg = 0",
    "a time": "UPDATE archived_journals SET create_time = create_time - interval '1 s' WHERE journal = '{0}'",
    "an origin": "UPDATE archived_journals SET origin = 'transfers/x' WHERE journal = '{0}'",
    "an entry gone": "DELETE FROM archived_entries WHERE journal = '{0}' AND leg = 1",
    "a journal gone": "DELETE FROM archived_journals WHERE journal = '{0}'",
    "all of it gone": (
        "WITH e AS (DELETE FROM archived_entries WHERE journal = '{0}') DELETE FROM archived_journals"
        " WHERE journal = '{0}'"
    ),
    "an entry twice": (
        "INSERT INTO entries SELECT tenant, account, sequence, journal, leg, currency, amount, balance_after,"
        " create_time, effective_time FROM archived_entries WHERE journal = '{0}' AND leg = 0"
    ),
    "a journal more": (
        "INSERT INTO archived_journals SELECT tenant, period, gen_random_uuid(), kind, origin, create_time,"
        " effective_time, xid FROM archived_journals WHERE journal = '{0}'"
    ),
    "what is written on one": "UPDATE journal_metadata SET value = value || 'x' WHERE tenant = '{1}'",
    "an anchor": "UPDATE archived_spans SET closing = closing + 1 WHERE tenant = '{1}' AND account = 'a'",
    "an anchor gone": "DELETE FROM archived_spans WHERE tenant = '{1}' AND account = 'b' AND period = 2024",
    "a count": "UPDATE archived_periods SET journals = journals - 1 WHERE tenant = '{1}' AND period = 2024",
}


async def test_what_somebody_with_every_right_does_to_the_archive_is_found(bank: Bank, reader: Reader) -> None:
    """Each change of an archived row, of an anchor and of a count."""
    tenant = reader.ledger.tenant
    await bank.archive(tenant)
    ((journal,),) = await reader.ledger.rows("SELECT journal::text FROM archived_journals ORDER BY journal LIMIT 1")
    for what, statement in TAMPERING.items():
        with psycopg.connect(bank.parts.postgres.admin_dsn(bank.name)) as root:
            root.execute("SET session_replication_role = replica")
            assert root.execute(statement.format(journal, tenant)).rowcount > 0  # type: ignore[arg-type]
            found = bank.wrong_for(root, tenant)
            root.rollback()
        assert found, what
    assert bank.wrong(tenant) == []


async def test_the_archivers_role_can_move_and_nothing_else(bank: Bank, reader: Reader) -> None:
    """It cannot change a row, take one out of the archive, add to the ledger, detach, or see what it has no need of."""
    await bank.archive(reader.ledger.tenant)
    for statement in (
        "UPDATE entries SET amount = amount",
        "UPDATE journals SET origin = origin",
        "INSERT INTO journals SELECT * FROM journals",
        "UPDATE archived_entries SET amount = amount",
        "DELETE FROM archived_entries",
        "DELETE FROM archived_journals",
        "DELETE FROM archived_spans",
        "TRUNCATE entries",
        "SELECT 1 FROM customers",
        "SELECT 1 FROM audit",
        "DELETE FROM sealed_journals",
        "SELECT archive_detach(2024::smallint)",
        "SELECT archive_grant('public')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await bank.archiver.run(reader.ledger.tenant, lambda conn, sql=statement: fetch(conn, sql))
    for statement in (
        "DELETE FROM entries",
        "DELETE FROM journals",
        "INSERT INTO archived_spans SELECT * FROM archived_spans",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await bank.db.run(reader.ledger.tenant, lambda conn, sql=statement: fetch(conn, sql))
    assert [one for one in bank.wrong("") if "may" in one] == []


async def test_each_move_is_audited(bank: Bank, reader: Reader) -> None:
    """In its own transaction: by which role, how much, and where it stands in the log."""
    done = await bank.archive(reader.ledger.tenant)
    rows = await reader.ledger.rows(
        "SELECT subject, resource, after FROM audit WHERE action = 'archive_journals' ORDER BY id"
    )
    assert {row[:2] for row in rows} == {("archiver", "logs/journals")}
    assert sum(row[2]["journals"] for row in rows) == done.journals
    assert sum(row[2]["entries"] for row in rows) == done.entries


async def test_the_archive_has_every_column_of_the_ledger(bank: Bank) -> None:
    """Whoever adds a column to journals or entries, or a table that refers to them, has to say what becomes of it."""
    columns = (
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s"
        " AND column_name <> 'period' ORDER BY column_name"
    )
    with bank.owner() as connection:
        for table in ("journals", "entries"):
            ours = connection.execute(columns, (table,)).fetchall()
            assert ours
            assert connection.execute(columns, (f"archived_{table}",)).fetchall() == ours
            assert connection.execute(columns, (f"all_{table}",)).fetchall() == ours
        referring = connection.execute(
            "SELECT DISTINCT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND conparentid = 0"
            " AND confrelid IN ('journals'::regclass, 'entries'::regclass)"
        ).fetchall()
    # Those beside journals are of the bank's own alone, whose rows stay.
    assert sorted(referring) == [("entries",), ("journal_accounts",), ("journal_metadata",)]


def unpacked(status: status_pb2.Status) -> Iterator[error_details_pb2.ErrorInfo]:
    """The ErrorInfo of a refusal."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            yield info


async def test_a_detached_period_is_refused_by_name_and_the_rest_answers(bank: Bank, reader: Reader) -> None:
    """What needs nothing of it is the same: present pages, later moments, later statements, proofs, and all invariants.
    What does is refused with its name; attached again, everything is what it was."""
    tenant, ledger = reader.ledger.tenant, reader.ledger
    before = await reader.everything()
    await bank.archive_all()
    await bank.archive(tenant, BOUNDARY + timedelta(days=60))
    with pytest.raises(ArchiveRefused, match="archive those before 2027-01-01"):
        await archiving.detach(bank.owning, 2026)
    await archiving.detach(bank.owning, 2024)
    assert bank.wrong(tenant) == []
    assert await reader.pages("a", 5, most=2) == before["a by 5"][:2]  # type: ignore[index]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await reader.pages("a", 5)
    status = rpc_status.from_call(refused.value)
    assert status is not None
    info = next(iter(unpacked(status)))
    assert (info.reason, info.metadata["period"]) == ("ARCHIVED_PERIOD_NOT_ATTACHED", "2024")
    assert "accounts archive attach 2024" in status.message
    stands = await ledger.rows("SELECT posted, sequence FROM accounts WHERE account = 'resting'")
    past = [
        (tenant, "resting", None, AsOf(Axis.RECORDED, time)) for time in (BOUNDARY, datetime(2023, 1, 1, tzinfo=UTC))
    ]
    found = await bank.db.run(tenant, lambda conn: moments_store.balances(conn, past))
    assert [(one.posted, one.sequence) for one in found if one] == [stands[0], (0, 0)]
    within = [(tenant, "a", None, AsOf(Axis.RECORDED, datetime(2024, 8, 1, tzinfo=UTC))), past[0]]
    answers = await bank.db.run(tenant, lambda conn: moments_store.each_balance(conn, within))
    assert [type(one).__name__ for one in answers] == ["ArchivedPeriodNotAttached", "PastBalance"]
    for what, name in reader.statements.items():
        for form in FORMATS:
            if what.endswith(("2024-03-01", "2024-01-01")):
                assert await refusal(reader.document(name, form)) == "ARCHIVED_PERIOD_NOT_ATTACHED"
            else:
                assert await reader.document(name, form) == before[f"{what} {form}"]
    with pytest.raises(ArchivedPeriodNotAttached):
        await reader.reconciled()
    assert await reader.manual("", 4, most=1) == before["manual "][:1]  # type: ignore[index]
    assert await refusal(reader.manual("", 4)) == "ARCHIVED_PERIOD_NOT_ATTACHED"
    old = (await ledger.rows("SELECT journal::text FROM sealed_journals WHERE position = 3"))[0][0]
    request = pb.GetJournalRequest(name=f"journals/{old}")
    stub = AccountServiceStub(bank.edge)
    assert (
        await refusal(stub.GetJournal(request, metadata=reader.metadata(), timeout=5)) == "ARCHIVED_PERIOD_NOT_ATTACHED"
    )
    assert await refusal(reader.export()) == "ARCHIVED_PERIOD_NOT_ATTACHED"
    proof = await bank.db.run(tenant, lambda conn: sealing.get_inclusion_proof(conn, tenant, f"journals/{old}", 0))
    assert proof == before["journals"][old][1]  # type: ignore[index]
    assert (await bank.archive(tenant)).left == 0
    await archiving.attach(bank.owning, 2024)
    after = await reader.everything()
    assert [what for what in before if before[what] != after[what]] == []
    assert bank.wrong(tenant) == []


CHANGED = {
    "no entry of one": ("DELETE FROM archived_entries_2025 WHERE journal = '{0}'", "is not what was sealed"),
    "a journal gone": ("DELETE FROM archived_journals_2025 WHERE journal = '{0}'", "of which .* were put there"),
    "an amount": (
        "UPDATE archived_entries_2025 SET amount = -amount WHERE journal = '{0}'",
        "journals/{0} at position .* is not what was sealed",
    ),
    "a journal more": (
        (
            "INSERT INTO archived_journals_2025 SELECT tenant, period, gen_random_uuid(), kind, origin, create_time,"
            " effective_time, xid FROM archived_journals_2025 WHERE journal = '{0}'"
        ),
        "rows that were not put there",
    ),
    "another tenant's": (
        (
            "INSERT INTO archived_entries_2025 SELECT 'nobody', period, account, sequence, journal, leg, currency,"
            " amount, balance_after, create_time, effective_time FROM archived_entries_2025 WHERE journal = '{0}'"
        ),
        "rows that were not put there",
    ),
    "another file's": ("TRUNCATE archived_journals_2025, archived_entries_2025", "have 0 journals and 0 entries"),
    "a table gone": ("DROP TABLE archived_entries_2025", "no table archived_entries_2025; restore it"),
}


async def test_a_period_is_brought_back_as_it_was_or_not_at_all(bank: Bank, reader: Reader) -> None:
    """Whatever was changed in a detached period's tables, or in the dump that they were restored from, is named, and
    nothing is attached. A journal of another period that is taken away meanwhile is missed."""
    tenant = reader.ledger.tenant
    await bank.archive_all()
    await archiving.detach(bank.owning, 2025)
    ((journal,),) = await reader.ledger.rows(
        "SELECT j.journal::text FROM sealed_journals AS s JOIN archived_journals AS j USING (tenant, journal)"
        " WHERE j.period = 2024 ORDER BY s.position DESC LIMIT 1"
    )
    with bank.superuser() as root:
        root.execute("BEGIN")
        root.execute("DELETE FROM archived_entries WHERE journal = %s", (journal,))
        root.execute("DELETE FROM archived_journals WHERE journal = %s", (journal,))
        assert bank.wrong_for(root, tenant)
        root.execute("ROLLBACK")
        row = root.execute(
            "SELECT min(journal::text) FROM archived_journals_2025 WHERE tenant = %s", (tenant,)
        ).fetchone()
        assert row is not None
        for table in ("archived_journals_2025", "archived_entries_2025"):
            root.execute(f"CREATE TABLE kept_{table} (LIKE {table} INCLUDING ALL)")  # type: ignore[arg-type]
            root.execute(f"INSERT INTO kept_{table} TABLE {table}")  # type: ignore[arg-type]
        for what, (statement, said) in CHANGED.items():
            root.execute(statement.format(row[0]))  # type: ignore[arg-type]
            with pytest.raises(ArchiveRefused, match=said.format(row[0])):
                await archiving.attach(bank.owning, 2025)
                pytest.fail(what)
            for table in ("archived_journals_2025", "archived_entries_2025"):
                root.execute(f"CREATE TABLE IF NOT EXISTS {table} (LIKE kept_{table} INCLUDING ALL)")  # type: ignore[arg-type]
                root.execute(f"ALTER TABLE {table} OWNER TO {bank.name}_owner")  # type: ignore[arg-type]
                root.execute(f"TRUNCATE {table}")  # type: ignore[arg-type]
                root.execute(f"INSERT INTO {table} TABLE kept_{table}")  # type: ignore[arg-type]
        root.execute("DROP TABLE kept_archived_journals_2025, kept_archived_entries_2025")
    assert bank.wrong(tenant) == []
    await archiving.attach(bank.owning, 2025)
    await archiving.attach(bank.owning, 2025)
    assert bank.wrong(tenant) == []


async def test_no_period_goes_or_comes_while_somebody_checks_everything(bank: Bank, reader: Reader) -> None:
    """A snapshot's catalogue would say another thing than the tables that are read: `florin verify` keeps them as they
    are, and who would change that is told so."""
    tenant = reader.ledger.tenant
    await bank.archive_all()
    with bank.owner() as checking:
        assert checking.execute("SELECT count(*) > 0 FROM archived_spans").fetchone() == (True,)
        with pytest.raises(ArchiveRefused, match="florin verify reads the archive"):
            await archiving.detach(bank.owning, 2024)
        assert bank.wrong_for(checking, tenant) == []
    await archiving.detach(bank.owning, 2024)
    with bank.owner() as checking:
        assert checking.execute("SELECT count(*) > 0 FROM archived_spans").fetchone() == (True,)
        with pytest.raises(ArchiveRefused, match="florin verify reads the archive"):
            await archiving.attach(bank.owning, 2024)
        assert bank.wrong_for(checking, tenant) == []
    await archiving.attach(bank.owning, 2024)


async def test_who_waits_to_detach_has_nobody_wait_for_long(
    bank: Bank, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a reader that does not end, as a backup is one: it gives up soon, and who reads in another order than it
    locks is not ended for a deadlock."""
    monkeypatch.setattr(database, "_TRIES_MAX", 2)
    await bank.archive_all()
    page = reader.pages("resting", 50)
    with psycopg.connect(bank.parts.postgres.admin_dsn(bank.name)) as backup:
        backup.execute("LOCK TABLE archived_entries IN ACCESS SHARE MODE")
        detaching = asyncio.create_task(archiving.detach(bank.owning, 2024))
        assert await page
        await asyncio.to_thread(backup.execute, "LOCK TABLE archived_journals IN ACCESS SHARE MODE")
        with pytest.raises(ArchiveRefused, match="reads the archive for long"):
            await detaching
    assert bank.wrong(reader.ledger.tenant) == []


async def test_no_period_is_detached_while_a_slice_moves_into_it(
    bank: Bank, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slice that asked for the period is not left without a place for its rows."""
    tenant, refused = reader.ledger.tenant, 0
    await bank.archive_all()
    await reader.ledger.apply(reader.ledger.post(("resting", -7), ("a", 7), actor=FUNDER))
    await bank.seal()
    whole = archive_store.open_period

    async def detached_meanwhile(conn: Any, period: int) -> bool:
        nonlocal refused
        is_open = await whole(conn, period)
        if not refused:
            refused += 1
            with pytest.raises(ArchiveRefused, match="reads the archive for long"):
                await archiving.detach(bank.owning, 2024)
        return is_open

    with monkeypatch.context() as patch:
        patch.setattr(database, "_TRIES_MAX", 1)  # the slice must not be ended for waiting meanwhile
        patch.setattr(archive_store, "open_period", detached_meanwhile)
        done = await bank.archive(tenant, clock.now() + timedelta(days=1))
    assert (done.left, refused) == (0, 1)
    assert bank.wrong(tenant) == []


async def test_the_ledgers_pages_are_used_again(bank: Bank, reader: Reader) -> None:
    """What was moved leaves room: after a vacuum as many entries fit into the tables without their growing."""
    ledger = reader.ledger
    await ledger.apply(*[ledger.post(("a", -1), ("b", 1), actor=FUNDER) for _ in range(700)])
    await bank.seal()
    size = "SELECT sum(pg_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'entries'::regclass"
    with bank.superuser() as root:
        before = root.execute(size).fetchone()
        await bank.archive(ledger.tenant, clock.now() + timedelta(days=1))
        root.execute("VACUUM entries, journals")
        await ledger.apply(*[ledger.post(("a", -1), ("b", 1), actor=FUNDER) for _ in range(600)])
        after = root.execute(size).fetchone()
    assert before is not None
    assert after is not None
    assert after[0] <= before[0]


async def test_a_page_of_the_archive_reads_its_own_entries_alone(bank: Bank, reader: Reader) -> None:
    """Whatever there is of the account: by the keys of both places, in their order, with nothing sorted."""
    ledger = reader.ledger
    await ledger.apply(*[ledger.post(("a", -1), ("b", 1), actor=FUNDER) for _ in range(900)])
    await bank.seal()
    await bank.archive(ledger.tenant, clock.now() + timedelta(days=1))
    with bank.superuser() as root:
        root.execute("ANALYZE")
    statement = "EXPLAIN (ANALYZE, FORMAT JSON) " + ALL.named(entry_store._NEWEST)
    asked = (ledger.tenant, "a", 800, 20)
    ((plan,),) = await bank.db.run(ledger.tenant, lambda conn: fetch(conn, statement, asked), read_only=True)
    assert "Sort" not in node_types(plan[0]["Plan"])
    assert 20 <= rows_read(plan[0]["Plan"], "entries") <= 30


async def test_a_slice_looks_up_its_own_journals_alone(bank: Bank, reader: Reader) -> None:
    """However few there were when its statements were planned: not all of the tenant's for each position of the log."""
    tenant = reader.ledger.tenant
    asked = (tenant, 0, 1000, None, None, 1000)
    statement = "EXPLAIN (ANALYZE, FORMAT JSON) " + LEDGER.named(archive_store._WINDOW)
    ((plan,),) = await bank.archiver.run(tenant, lambda conn: fetch(conn, statement, asked), read_only=True)
    rows = await reader.ledger.rows("SELECT journal::text FROM journals")
    assert 50 < rows_read(plan[0]["Plan"], "journals") <= 2 * len(rows)  # in the log, and in the ledger
    keys = [tenant] * len(rows), [row[0] for row in rows]
    statement = "EXPLAIN (ANALYZE, FORMAT JSON) " + LEDGER.named(seal_store._ENTRIES)
    ((plan,),) = await bank.archiver.run(tenant, lambda conn: fetch(conn, statement, keys), read_only=True)
    assert 50 < rows_read(plan[0]["Plan"], "entries") <= 2 * len(rows) + 8  # plans tell averages, rounded


def node_types(plan: dict[str, Any]) -> set[str]:
    """What a plan is made of."""
    return {plan["Node Type"]}.union(*(node_types(one) for one in plan.get("Plans", ())))


def rows_read(plan: dict[str, Any], relation: str) -> int:
    """How many rows a plan took or threw away of tables that are named so, in the ledger and in the archive."""
    own = 0
    if relation in plan.get("Relation Name", ""):
        own = int((plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"])
    return own + sum(rows_read(one, relation) for one in plan.get("Plans", ()))
