"""Statements on a real service: numbers, periods, boundaries while postings run, the same bytes always, refusals."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import random
import uuid
import zoneinfo
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from sqlalchemy import text

from accounts import documents, statement_store, store
from accounts.app import build
from accounts.model import AccountState, AccountType, Customer, KycState
from accounts.settings import Settings
from florin.accounts.v1 import statement_pb2
from florin.accounts.v1 import statement_service_pb2 as pb
from florin.accounts.v1.statement_service_pb2_grpc import StatementServiceStub
from local import issuer
from meshkit import clock, lifecycle
from meshkit.database import Database
from tests.integration.accounts.conftest import FUNDER, Ledger, channel, new_ledger, refusal
from tests.support import parts as real

MARCH = {"period_start": "2026-03-01", "period_end": "2026-03-31"}
MIDNIGHT = datetime(2026, 4, 1, tzinfo=UTC)
FORMATS = [number for number in statement_pb2.StatementFormat.values() if number]


class Clock:
    """The service's clock, set by the test. Each look at it can move it on, and see it some milliseconds before or
    after where it is: so differ the clocks of replicas."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = datetime(2026, 3, 10, 12, tzinfo=UTC)
        self.step = timedelta(0)
        self.apart_ms = 0
        self._chance = random.Random(3)
        monkeypatch.setattr(clock, "now", self)

    def __call__(self) -> datetime:
        self.time += self.step
        return self.time + timedelta(milliseconds=self._chance.randint(-self.apart_ms, self.apart_ms))


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock at a day in March."""
    return Clock(monkeypatch)


class Statements:
    """The service as the tenant of a ledger sees it."""

    def __init__(self, parts: real.Parts, stub: StatementServiceStub, tenant: str) -> None:
        self.parts, self.stub, self.tenant = parts, stub, tenant

    def metadata(self, role: str = "teller", **claims: Any) -> tuple[tuple[str, str], ...]:
        """A role's token."""
        token = issuer.mint(self.parts.state, role, tenant=self.tenant, **claims)
        return (("authorization", f"Bearer {token}"),)

    async def create(self, account: str, request_id: str = "", role: str = "teller", **values: Any) -> Any:
        """Has a statement issued."""
        claims = {key: values.pop(key) for key in ("customer", "subject") if key in values}
        request = pb.CreateStatementRequest(account=f"accounts/{account}", request_id=request_id, **{**MARCH, **values})
        answer = await self.stub.CreateStatement(request, metadata=self.metadata(role, **claims), timeout=5)
        return answer.statement

    async def document(self, name: str, form: int, role: str = "auditor", **claims: Any) -> bytes:
        """A document whole."""
        request = pb.GetStatementDocumentRequest(name=name, format=form)  # type: ignore[arg-type]
        parts = self.stub.GetStatementDocument(request, metadata=self.metadata(role, **claims), timeout=30)
        return b"".join([part.data async for part in parts])

    async def rows(self, name: str) -> list[dict[str, str]]:
        """The entries of a statement's CSV."""
        table = csv.DictReader(io.StringIO((await self.document(name, statement_pb2.STATEMENT_FORMAT_CSV)).decode()))
        return [row for row in table if row["record"] == "ENTRY"]


@asynccontextmanager
async def served(parts: real.Parts, settings: Settings, tenant: str) -> AsyncIterator[Statements]:
    """A process of the service of its own."""
    async with lifecycle.running(settings, build) as running, channel(parts, "edge", running.grpc_port) as edge:
        yield Statements(parts, StatementServiceStub(edge), tenant)


@pytest.fixture
async def statements(parts: real.Parts, running: lifecycle.Running, ledger: Ledger) -> AsyncIterator[Statements]:
    """The service with the ledger's tenant."""
    async with channel(parts, "edge", running.grpc_port) as edge:
        yield Statements(parts, StatementServiceStub(edge), ledger.tenant)


async def test_a_statement_is_what_was_recorded_in_its_days(
    hands: Clock, ledger: Ledger, statements: Statements
) -> None:
    """The first moment of the first day is in it, that of the day after the last is not; what is dated into the period
    and recorded later is not in it, what is dated out of it and recorded in it is; balances and sequences meet."""
    await ledger.open("main")
    moments = [
        (datetime(2026, 2, 28, 23, 59, 59, 999999, tzinfo=UTC), None, 1),
        (datetime(2026, 3, 1, tzinfo=UTC), None, 10),
        (datetime(2026, 3, 31, 23, 59, 59, 999999, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC), 100),
        (MIDNIGHT, datetime(2026, 3, 5, tzinfo=UTC), 1000),
    ]
    for moment, effective, amount in moments:
        hands.time = moment
        step = ledger.post(("bank", -amount), ("main", amount), actor=FUNDER)
        await ledger.apply(replace(step, effective_time=effective))
    hands.time = MIDNIGHT + timedelta(days=1)
    made = await statements.create("main")
    assert (made.number, made.opening_balance.minor_units, made.closing_balance.minor_units) == (1, 1, 111)
    assert (made.opening_sequence, made.closing_sequence, made.entry_count) == (1, 3, 2)
    assert (made.period_start, made.period_end, made.time_zone) == ("2026-03-01", "2026-03-31", "UTC")
    rows = await statements.rows(made.name)
    assert [(row["sequence"], row["booking_date"], row["value_date"], row["amount"]) for row in rows] == [
        ("2", "2026-03-01", "2026-03-01", "0.10"),
        ("3", "2026-03-31", "2025-01-01", "1.00"),
    ]
    april = await statements.create("main", period_start="2026-04-01", period_end="2026-04-01")
    assert (april.number, april.opening_balance, april.entry_count) == (2, made.closing_balance, 1)
    request = pb.GetStatementRequest(name=made.name)
    assert (await statements.stub.GetStatement(request, metadata=statements.metadata("auditor"))).statement == made


async def test_documents_are_the_same_bytes_after_later_entries_and_a_restart(
    hands: Clock, ledger: Ledger, parts: real.Parts, settings: Settings, statements: Statements
) -> None:
    """Whatever is recorded and dated back later, and by whichever process: each format is what it was."""
    await ledger.open("main")
    steps = [ledger.post(("bank", -number), ("main", number), actor=FUNDER) for number in range(1, 700)]
    await ledger.apply(*steps)
    hands.time = MIDNIGHT
    made = await statements.create("main")
    first = {form: hashlib.sha256(await statements.document(made.name, form)).digest() for form in FORMATS}
    assert len(set(first.values())) == 4
    hands.time += timedelta(days=3)
    late = ledger.post(("bank", -5), ("main", 5), actor=FUNDER)
    late = replace(late, effective_time=MIDNIGHT - timedelta(days=9))
    await ledger.apply(late)
    async with served(parts, settings, ledger.tenant) as restarted:
        for form in FORMATS:
            assert hashlib.sha256(await restarted.document(made.name, form)).digest() == first[form]
        parsed = json.loads(await restarted.document(made.name, statement_pb2.STATEMENT_FORMAT_JSON))
        assert len(parsed["entries"]) == 699
        again = await restarted.create("main")
        assert (again.number, again.entry_count) == (2, 699)


async def test_no_entry_slips_into_a_statement_that_was_issued(
    hands: Clock, ledger: Ledger, statements: Statements
) -> None:
    """Postings run over midnight by clocks that differ while statements are issued: each entry is in the period that it
    was recorded in, none is added to a period that was stated, and numbers have no gap."""
    await ledger.open("main")
    hands.time, hands.step, hands.apart_ms = MIDNIGHT - timedelta(milliseconds=60), timedelta(milliseconds=1), 40

    async def writer() -> None:
        for _ in range(60):
            await ledger.apply(ledger.post(("bank", -1), ("main", 1), actor=FUNDER))

    async def reader() -> list[Any]:
        made = []
        while len(made) < 6:
            try:
                made.append(await statements.create("main"))
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        return made

    issued, *_ = await asyncio.wait_for(asyncio.gather(reader(), writer(), writer(), writer()), 60)
    hands.step, hands.apart_ms, hands.time = timedelta(0), 0, MIDNIGHT + timedelta(days=1)
    issued.append(await statements.create("main"))
    assert [one.number for one in issued] == list(range(1, 8))
    assert {(one.entry_count, one.closing_balance.minor_units) for one in issued} == {
        (issued[0].entry_count, issued[0].closing_balance.minor_units)
    }
    found = await ledger.rows("SELECT count(*) FROM entries WHERE account = 'main' AND create_time < '2026-04-01Z'")
    assert found == [(issued[0].entry_count,)]
    await ledger.check_books()


async def test_a_clock_behind_adds_nothing_to_a_period_that_was_stated(
    hands: Clock, ledger: Ledger, statements: Statements
) -> None:
    """A replica whose clock still shows the last day posts after the statement: recorded at the end of the period,
    which is in the next one."""
    await ledger.open("main")
    await ledger.apply(ledger.post(("bank", -1), ("main", 1), actor=FUNDER))
    hands.time = MIDNIGHT
    made = await statements.create("main")
    hands.time = MIDNIGHT - timedelta(minutes=10)
    await ledger.apply(ledger.post(("bank", -2), ("main", 2), actor=FUNDER))
    assert await ledger.rows("SELECT create_time FROM entries WHERE amount = 2") == [(MIDNIGHT,)]
    hands.time = MIDNIGHT + timedelta(days=1)
    again = await statements.create("main")
    assert (again.closing_balance, again.closing_sequence) == (made.closing_balance, made.closing_sequence)
    april = await statements.create("main", period_start="2026-04-01", period_end="2026-04-01")
    assert (april.opening_sequence, april.entry_count) == (made.closing_sequence, 1)


async def test_a_clock_ahead_states_no_future(hands: Clock, ledger: Ledger, statements: Statements) -> None:
    """A replica whose clock shows another century issues nothing, so that no account's time goes there; the same
    request is answered by one whose clock is right."""
    await ledger.open("main")
    hands.time = datetime(2199, 1, 1, tzinfo=UTC)
    assert await refusal(statements.create("main", "r", period_end="2198-12-31")) == "UNAVAILABLE"
    assert await refusal(statements.create("main", "s")) == "UNAVAILABLE"
    assert await ledger.rows("SELECT count(*) FROM accounts WHERE recorded_time > '1970-01-01Z'") == [(0,)]
    hands.time = MIDNIGHT
    assert (await statements.create("main", "s")).number == 1


async def test_a_day_that_the_zone_left_out_has_an_empty_statement(
    hands: Clock, db: Database, statements: Statements
) -> None:
    """Samoa had no 30 December 2011: nothing was recorded on it."""
    ledger = await new_ledger(db, "Pacific/Apia")
    await ledger.open("main")
    hands.time = MIDNIGHT
    statements.tenant = ledger.tenant
    made = await statements.create("main", period_start="2011-12-30", period_end="2011-12-30")
    assert (made.number, made.entry_count, made.start_time) == (1, 0, made.end_time)


async def test_one_request_id_is_one_statement(hands: Clock, ledger: Ledger, statements: Statements) -> None:
    """INV-5: many copies at once, and copies after the record of the request was purged, are one statement; another
    payload is refused; other requests at once have numbers without a gap."""
    await ledger.open("main")
    hands.time = MIDNIGHT
    copies = await asyncio.gather(*(statements.create("main", "same", subject="a") for _ in range(20)))
    assert all(copy == copies[0] for copy in copies)
    others = await asyncio.gather(*(statements.create("main", f"other-{number}") for number in range(20)))
    assert sorted(one.number for one in others) == list(range(2, 22))
    told = await ledger.rows("SELECT aggregate FROM outbox WHERE subject = 'florin.accounts.statement_issued.v1'")
    assert sorted(name for (name,) in told) == sorted(one.name for one in [copies[0], *others])
    changed = {"period_start": "2026-03-02"}
    assert await refusal(statements.create("main", "same", subject="a", **changed)) == "REQUEST_ID_REUSED"

    async def purge(conn: Any) -> None:
        await conn.execute(text("DELETE FROM requests"))

    await ledger.db.run(ledger.tenant, purge)
    assert await statements.create("main", "same", subject="a") == copies[0]
    await ledger.db.run(ledger.tenant, purge)
    assert await refusal(statements.create("main", "same", subject="a", **changed)) == "REQUEST_ID_REUSED"
    assert (await statements.create("main")).number == 22


async def test_statements_are_refused_in_the_documented_order(
    hands: Clock, ledger: Ledger, parts: real.Parts, settings: Settings
) -> None:
    """Each request breaks one rule and one that stands after it; a period that was open is stated once it has passed,
    under the same request_id."""
    await ledger.open("main")
    await ledger.apply(*[ledger.post(("bank", -1), ("main", 1), actor=FUNDER) for _ in range(6)])
    small = settings.model_copy(update={"statement_entries_max": 5})
    async with served(parts, small, ledger.tenant) as statements:
        hands.time = MIDNIGHT - timedelta(microseconds=1)
        assert await refusal(statements.create("main", period_start="2026-04-02")) == "REQUEST_INVALID"
        assert await refusal(statements.create("main", period_start="2026-02-30")) == "REQUEST_INVALID"
        assert await refusal(statements.create("main", period_start="0001-01-01", period_end="9999-12-31")) == (
            "REQUEST_INVALID"
        )
        assert await refusal(statements.create("nobody")) == "ACCOUNT_NOT_FOUND"
        assert await refusal(statements.create("main", "later")) == "STATEMENT_PERIOD_OPEN"
        hands.time = MIDNIGHT
        assert await refusal(statements.create("main", "later")) == "STATEMENT_TOO_LARGE"
        empty = await statements.create("main", period_start="0002-01-01", period_end="0002-01-01")
        assert (empty.number, empty.entry_count, empty.closing_balance.minor_units) == (1, 0, 0)
        assert await refusal(statements.document("statements/x", 1)) == "STATEMENT_NOT_FOUND"
        assert await refusal(statements.document(empty.name.upper().replace("STATEMENTS", "statements"), 1)) in (
            "REQUEST_INVALID"
        )
        assert await refusal(statements.document(empty.name, 0)) == "REQUEST_INVALID"


async def test_a_customer_has_statements_of_own_accounts_alone(
    hands: Clock, ledger: Ledger, second_ledger: Ledger, db: Database, statements: Statements
) -> None:
    """A foreign account, its statements and documents look as if they did not exist; so does another tenant's."""

    async def add_customers(conn: Any) -> None:
        for name in ("me", "stranger"):
            await store.add_customer(
                conn, db.cipher, Customer(ledger.tenant, name, name, KycState.VERIFIED, 1, clock.now(), clock.now())
            )
        await conn.execute(text("INSERT INTO account_owners VALUES (:t, 'mine', 'me')"), {"t": ledger.tenant})

    await ledger.open("mine", type=AccountType.CUSTOMER, state=AccountState.ACTIVE)
    await ledger.db.run(ledger.tenant, add_customers)
    hands.time = MIDNIGHT
    me, stranger = {"customer": "customers/me"}, {"customer": "customers/stranger"}
    made = await statements.create("mine", role="customer", **me)
    assert b'"number":"1"' in await statements.document(made.name, 1, "customer", **me)
    assert await refusal(statements.create("mine", role="customer", **stranger)) == "ACCOUNT_NOT_FOUND"
    assert await refusal(statements.document(made.name, 1, "customer", **stranger)) == "STATEMENT_NOT_FOUND"
    for request, method, expected in (
        (pb.GetStatementRequest(name=made.name), "GetStatement", "STATEMENT_NOT_FOUND"),
        (pb.ListStatementsRequest(account="accounts/mine", page_token="x"), "ListStatements", "ACCOUNT_NOT_FOUND"),
    ):
        call = getattr(statements.stub, method)(request, metadata=statements.metadata("customer", **stranger))
        assert await refusal(call) == expected
    statements.tenant = second_ledger.tenant
    assert await refusal(statements.document(made.name, 1)) == "STATEMENT_NOT_FOUND"


async def test_statements_are_listed_page_by_page(hands: Clock, ledger: Ledger, statements: Statements) -> None:
    """The newest first, each once; a token of another account is refused."""
    for name in ("main", "other"):
        await ledger.open(name)
    hands.time = MIDNIGHT
    for _ in range(5):
        await statements.create("main")
    request, numbers = pb.ListStatementsRequest(account="accounts/main", page_size=2), []
    while True:
        page = await statements.stub.ListStatements(request, metadata=statements.metadata("auditor"))
        numbers += [one.number for one in page.statements]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert numbers == [5, 4, 3, 2, 1]
    request.account = "accounts/other"
    call = statements.stub.ListStatements(request, metadata=statements.metadata("auditor"))
    assert await refusal(call) == "PAGE_TOKEN_INVALID"


async def test_a_figure_beyond_the_schema_is_refused_in_camt_alone(
    hands: Clock, ledger: Ledger, statements: Statements
) -> None:
    """19 digits: no camt.053, every other format."""
    await ledger.open("main")
    await ledger.apply(ledger.post(("bank", -(10**18)), ("main", 10**18), actor=FUNDER))
    hands.time = MIDNIGHT
    made = await statements.create("main")
    camt = statement_pb2.STATEMENT_FORMAT_CAMT_053
    assert await refusal(statements.document(made.name, camt)) == "STATEMENT_FORMAT_UNSUITABLE"
    for form in set(FORMATS) - {camt}:
        assert b"1000000000000000" in await statements.document(made.name, form)


async def test_documents_beyond_a_few_at_once_are_refused(
    hands: Clock, ledger: Ledger, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four subjects have one each while a lot takes long; a second one of a subject, and the fifth subject, are told
    that the service is overloaded, before the first byte. Once documents are made, or given up, there is room again."""
    await ledger.open("main")
    await ledger.apply(ledger.post(("bank", -1), ("main", 1), actor=FUNDER))
    hands.time = MIDNIGHT
    made = await statements.create("main")
    go_on, entries, make = asyncio.Event(), statement_store.entries, documents.make
    begun: list[int] = []

    async def slowly(*arguments: Any, **options: Any) -> Any:
        await go_on.wait()
        return await entries(*arguments, **options)

    def noted(form: int, *rest: Any) -> Any:
        begun.append(form)
        return make(form, *rest)

    async def start(subject: str) -> asyncio.Task[bytes] | None:
        """A document on its way; none when it is refused."""
        before = len(begun)
        task = asyncio.ensure_future(statements.document(made.name, 1, subject=subject))
        while len(begun) == before:
            if task.done():
                assert await refusal(task) == "OVERLOADED"
                return None
            await asyncio.sleep(0.01)
        return task

    monkeypatch.setattr(statement_store, "entries", slowly)
    monkeypatch.setattr(documents, "make", noted)
    running = {subject: await start(subject) for subject in ("a", "b", "c")}
    assert await start("a") is None
    running["d"] = await start("d")
    assert await start("e") is None
    given_up = running.pop("d")
    assert given_up is not None
    given_up.cancel()
    running["e"] = await real.eventually(lambda: start("e"))
    go_on.set()
    assert len({await task for task in running.values() if task is not None}) == 1
    assert await start("a") is not None


async def test_nobody_changes_a_statement_that_was_issued(hands: Clock, ledger: Ledger, statements: Statements) -> None:
    """The service's own role can neither change nor delete one."""
    await ledger.open("main")
    hands.time = MIDNIGHT
    await statements.create("main")
    for sql in ("UPDATE statements SET closing = 1", "DELETE FROM statements"):

        async def attempt(conn: Any, sql: str = sql) -> None:
            await conn.execute(text(sql))

        with pytest.raises(Exception, match="permission denied"):
            await ledger.db.run(ledger.tenant, attempt)
    assert uuid.UUID((await ledger.rows("SELECT statement::text FROM statements"))[0][0])


async def test_a_service_has_the_zones_of_its_package(running: lifecycle.Running) -> None:
    """Not those of the machine it runs on, which differ between replicas."""
    assert running.grpc_port
    assert zoneinfo.TZPATH == ()
