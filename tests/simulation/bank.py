"""A mesh in one process: the real code of three services over tables in memory, two replicas of transactions, and the
oracle beside it, which is asked at every step.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from accounts import ledger_rpc, posting
from accounts.book import Expire
from accounts.model import AccountType
from accounts.posting import Item
from compliance import consumers as compliance_consumers
from compliance import operations as compliance_operations
from compliance import screening_operations, screening_rpc
from compliance.model import CaseState, Limit, LimitKind, Outcome, Rule
from compliance.screening_operations import Terms
from florin.transactions.v1 import events_pb2
from meshkit import identity, inbox, policy
from meshkit.envelopes import Incoming
from meshkit.errors import DomainError, RecordedRefusal, Unavailable
from meshkit.identity import Call, Principal
from meshkit.outbox import Event, subject_of
from tests.simulation import ledger_tables
from tests.simulation.comparison import Comparison
from tests.simulation.ledger_tables import Ledger
from tests.simulation.loop import at_once
from tests.simulation.oracle import FEES, POSITIONS, Offer, Oracle, Price, Wrong
from tests.simulation.screening_tables import Compliance
from tests.simulation.transfer_tables import Tables
from tests.simulation.world import Fate, Process, World
from transactions import consumers, exchange, fees
from transactions.clients import LedgerClient, ScreeningClient
from transactions.exchange import Quote
from transactions.fees import FeeSchedule, Kind, Rounding
from transactions.model import Transfer
from transactions.operations import Transfers
from transactions.passes import Passes
from transactions.recovery import Recovery
from transactions.settings import Settings
from transactions.waiters import Waiters

OWNERS = {"a": "anna", "b": "anna", "c": "carl", "d": "dora"}
FUNDS = {"a": 1000, "b": 300, "c": 0}
OVERDRAFTS = {"a": 0, "b": 0, "c": 100}
ABROAD = "d"
"""An account in US dollars, with nothing on it; the others are in euros."""
REVIEW_ABOVE = 400
STAND_IN_MAXIMUM = 200
LEASE_SECONDS = 5.0
CASE_TIME = timedelta(minutes=30)
TELLER = Principal("demo", "teller", None, frozenset({"transfers:write", "transfers:read"}))
OFFICER = Principal("demo", "officer", None, frozenset({"compliance:write"}))
_EVERYTHING = Terms(lease=timedelta(days=1), case_time=CASE_TIME)

_HEARD = frozenset(policy.load("compliance").consumes["transactions"])
"""What of transfers compliance is told."""
present: list[Bank] = []
"""The bank that is played with: the clock and the calls of the product's modules are its own."""


class _Wire:
    """Where a client's stubs find the methods of a service."""

    def unary_unary(self, path: str, **_options: Any) -> str:
        """A method is known by its name."""
        return path.rpartition("/")[2]


class _AtOnce:
    """A batcher and a database that do everything at once."""

    def __init__(self, conn: Any, process: Callable[[Any, Sequence[Any]], Awaitable[Sequence[Any]]]) -> None:
        self.cipher = None
        self._conn = conn
        self._process = process

    async def run(self, _tenants: Any, work: Callable[[Any], Awaitable[Any]], **_options: Any) -> Any:
        """As Database.run."""
        return await work(self._conn)

    async def submit_all(self, items: Sequence[Any], **_options: Any) -> Sequence[Any]:
        """As Batcher.submit_all."""
        return await self._process(self, items)


class _NoMatches:
    """There are no watchlists."""

    def known(self, _wanted: Any, _lists: Any) -> dict[Any, Any]:
        """As Watchlists.known."""
        return {}


class _Prices:
    """What transfers cost, which each replica knows at once."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def priced(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        """As Tariffs.priced."""
        return [fees.priced(t, self._tables.fees.get((t.tenant, fees.kind_of(t), t.currency), ())) for t in transfers]


class _Gated:
    """The transactions service's database as one replica sees it: each transaction stops at a gate."""

    def __init__(self, bank: Bank) -> None:
        self.cipher = None
        self._bank = bank
        self._running: set[asyncio.Task[Any]] = set()

    async def run(
        self, _tenants: Any, work: Callable[[Any], Any], *, durable: bool = True, read_only: bool = False, **_more: Any
    ) -> Any:
        """As Database.run: a caller that goes away does not stop it."""
        task = asyncio.ensure_future(self._run(work, durable=durable, read_only=read_only))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()

    async def _run(self, work: Callable[[Any], Any], **how: bool) -> Any:
        fate = await self._bank.world.arrive(work.__qualname__)
        if fate is Fate.LOST:
            raise Unavailable("the database")
        result = self._bank.tables.transact(work, **how)
        if fate is Fate.LATE:
            raise Unavailable("the database")
        if fate in (Fate.ANSWER_LOST, Fate.TWICE):
            return self._bank.tables.transact(work, **how)
        return result


class Replica:
    """A process of the transactions service, wired as app.py does."""

    def __init__(self, bank: Bank, name: str) -> None:
        self.process = Process(name)
        self._world = bank.world
        db: Any = _Gated(bank)
        wire: Any = _Wire()
        ledger, screening = LedgerClient(wire, 4.0), ScreeningClient(wire, 4.0)
        waiters = Waiters()
        self._passes = Passes(db, ledger, screening, bank.settings, on_change=waiters.changed)
        tariffs: Any = _Prices(bank.tables)
        self.transfers = Transfers(db, self._passes, ledger, waiters, tariffs, bank.settings)
        self._recovery = Recovery(db, self._passes, bank.settings)
        self._world.spawn(self.process, self.transfers.orders.run())

    def recover(self, *, at_start: bool = False) -> None:
        """One round of the worker, or what it does before the replica becomes ready."""
        self._world.spawn(self.process, self._recovery.before_ready() if at_start else self._round())

    async def _round(self) -> None:
        with contextlib.suppress(DomainError):  # the worker is started again
            await self._passes.advance(await self._recovery._take())


class Bank:
    """Everything there is, and what is asked of it."""

    def __init__(self, *, posture: str = "closed") -> None:
        self.world = World()
        present[:] = [self]
        self.tables, self.ledger, self.compliance = Tables(), Ledger(), Compliance()
        self.settings = Settings.model_construct(
            screening_posture=posture,
            stand_in_maximum={"EUR": STAND_IN_MAXIMUM},
            recovery_lease_ms=int(LEASE_SECONDS * 1000),
        )
        self.oracle = Oracle(
            {f"accounts/{name}": FUNDS.get(name, 0) for name in OWNERS} | dict.fromkeys([FEES, *POSITIONS.values()], 0),
            {f"accounts/{name}": customer for name, customer in OWNERS.items()},
            Counter({f"accounts/{name}": limit for name, limit in OVERDRAFTS.items()}),
            REVIEW_ABOVE,
            waits_for_compliance=posture == "closed",
        )
        for name, customer in OWNERS.items():
            posted, limit = FUNDS.get(name, 0), OVERDRAFTS.get(name, 0)
            currency = "USD" if name == ABROAD else "EUR"
            self.ledger.add(name, customer, currency=currency, posted=posted, overdraft_limit=limit)
            self.compliance.verify(customer, self.world.now())
        self.ledger.add("fees", type_=AccountType.FEE)
        for currency, name in POSITIONS.items():
            self.ledger.add(name.removeprefix("accounts/"), type_=AccountType.INTERNAL, currency=currency)
        expression = f"payment.amount_minor_units > {REVIEW_ABOVE}"
        now = self.world.now()
        self.compliance.rules.append(Rule("demo", "large", 1, expression, Outcome.REVIEW, True, "", now, "operator"))
        self._steps = _AtOnce(self.ledger, posting.apply_steps)
        self._ledger_service: Any = ledger_rpc.LedgerService(self._steps, self._steps)  # type: ignore[arg-type]
        screens = _AtOnce(self.compliance, self._screen)
        self._screening_service: Any = screening_rpc.ScreeningService(screens, _NoMatches(), _EVERYTHING, batch_max=100)  # type: ignore[arg-type]
        self._screening_service.batcher = screens
        self._compliance_db = screens
        self.compliance_away = False
        self.offers: list[Offer] = []
        self.stream: list[Event] = []
        """What transactions published and compliance did not finish; and the other way below."""
        self.cases_stream: list[Event] = []
        self.published: dict[Any, bytes] = {}
        self._told = 0
        self._names: dict[str, str] = {}
        self._named: set[tuple[str, str]] = set()
        self.is_agreed = False
        """Whether all was compared since something was done."""
        self.replicas = [Replica(self, "transactions"), Replica(self, "transactions-2")]

    async def _screen(self, db: Any, payments: Sequence[Any]) -> Sequence[Any]:
        return await screening_operations.screen_transfers(db, _NoMatches(), _EVERYTHING, payments)  # type: ignore[arg-type]

    async def call(self, name: str, request: Any) -> Any:
        """A call between services, through a gate. Raises Unavailable, or the callee's refusal."""
        service = "compliance" if name == "ScreenTransfers" else "accounts"
        fate = await self.world.arrive(name)
        if service == "compliance" and self.compliance_away:
            fate = Fate.LOST
        if fate in (Fate.LATE, Fate.TWICE):
            self.world.late.append(lambda: self.serve(name, request))
        if fate in (Fate.LATE, Fate.LOST):
            raise Unavailable(service)
        response = self.serve(name, request)
        if fate is Fate.ANSWER_LOST:
            raise Unavailable(service)
        return response

    def serve(self, name: str, request: Any) -> Any:
        """What a service does with a request, and whether that is right."""
        service = self._screening_service if name == "ScreenTransfers" else self._ledger_service
        self.is_agreed = False
        try:
            response = contextvars.copy_context().run(_served, getattr(service, name), request, self.world.loop.time())
        except DomainError as refusal:
            raise RecordedRefusal(refusal.to_status()) from None
        try:
            comparison = Comparison(self.oracle, self.world.now(), self.name_of, self.record_of)
            comparison.compare(name, request, response)
        except Wrong as wrong:  # noted, since it is raised into the product, which may take it for a failure and go on
            self.world.errors.append(str(wrong))
            raise
        return response

    def name_of(self, key: str) -> str:
        """The transfer whose step has a key. Intents come first: a step of none that is recorded is wrong."""
        if key not in self._names:
            for row in self.tables.rows.values():
                if row.transfer.place not in self._named:
                    self._named.add(row.transfer.place)
                    self._names.update({row.transfer.step_key(step): row.transfer.name for step in ("hold", "post")})
        if key not in self._names:
            raise Wrong(f"the step {key} belongs to no transfer that is recorded")
        return self._names[key]

    def record_of(self, name: str) -> Transfer:
        """What is recorded of a transfer."""
        return self.tables.rows["demo", name.removeprefix("transfers/")].transfer

    def expire_holds(self) -> None:
        """As the worker of accounts does."""
        self.is_agreed = False
        now = self.world.now()
        due = at_once(ledger_tables.expired_holds(self.ledger, now, 100))
        db: Any = self._steps
        at_once(posting.apply_steps(db, [Item(Expire(tenant, key)) for tenant, key in due]))
        for kept in self.oracle.kept.values():
            if kept.state == "ACTIVE" and not kept.stands(now):
                kept.state = "EXPIRED"

    def resolve_case(self, pick: int, *, approve: bool) -> None:
        """An officer decides one of the open cases."""
        open_ = [case for case in self.compliance.cases.values() if case.state is CaseState.OPEN]
        if open_:
            case, conn = open_[pick % len(open_)], self.compliance
            if approve:
                self.oracle.approved.add(case.transfer)
            at_once(
                compliance_operations.resolve_case(  # type: ignore[arg-type]
                    conn, call_of(OFFICER, self), None, case.name, approve=approve, why="seen", freeze_account=False
                )
            )
            self._gather_cases()

    def expire_cases(self) -> None:
        """As the worker of compliance does."""
        work = compliance_operations.expire_cases
        at_once(work(self.compliance, None, self.world.now(), limit=100))  # type: ignore[arg-type]
        self._gather_cases()

    def set_limit(self, kind: LimitKind, maximum: int) -> None:
        """As SetLimit does for all customers."""
        limit = Limit("demo", kind, "EUR", "", maximum, 1, self.world.now(), "operator")
        self.compliance.limits[kind, "EUR", ""] = limit
        if kind is LimitKind.PER_DAY:
            self.oracle.per_day = maximum
        else:
            self.oracle.per_payment = maximum

    def freeze(self, account: str, *, frozen: bool) -> None:
        """Freezes an account, or ends that."""
        self.ledger.freeze(account, frozen=frozen)
        (self.oracle.frozen.add if frozen else self.oracle.frozen.discard)(f"accounts/{account}")

    def block(self, account: str, side: str, *, blocked: bool) -> None:
        """As BlockAccount and UnblockAccount do; the side is "DEBITS" or "CREDITS"."""
        self.ledger.block(account, side, blocked=blocked)
        there = self.oracle.blocked[side]
        (there.add if blocked else there.discard)(f"accounts/{account}")

    def set_minimum(self, account: str, minimum: int) -> None:
        """As UpdateAccount does, which refuses what does not stand there, and one beside an overdraft limit."""
        self.is_agreed = False
        name, there = f"accounts/{account}", self.ledger.accounts["demo", account]
        if not OVERDRAFTS[account] and there.posted - there.held >= minimum:
            there.minimum_balance = self.oracle.minimums[name] = minimum

    def offer(self, amount: int, got: int, valid_for: float) -> None:
        """As CreateQuote does for staff; valid for so many seconds."""
        now = self.world.now()
        offer = Offer(f"quote-{len(self.offers)}", amount, got, now + timedelta(seconds=valid_for))
        self.offers.append(offer)
        self.tables.quotes["demo", offer.quote] = Quote(
            tenant="demo",
            id=offer.quote,
            customer="",
            debit_currency="EUR",
            debit_amount=amount,
            credit_currency="USD",
            credit_amount=got,
            rate=exchange.rate_from("1.1"),
            rate_name="exchangeRates/eur-usd",
            rate_version=1,
            rate_time=now,
            debit_position=POSITIONS["EUR"],
            credit_position=POSITIONS["USD"],
            expire_time=offer.until,
            create_time=now,
        )

    def set_price(self, kind: Kind, fixed: int, millionths: int, most: int | None) -> None:
        """As SetFeeSchedule does; it begins a moment later, so that what is made now costs what it did."""
        since = self.world.now() + timedelta(microseconds=1)
        versions = self.tables.fees.setdefault(("demo", kind, "EUR"), [])
        versions.append(
            FeeSchedule(
                tenant="demo",
                kind=kind,
                currency="EUR",
                version=len(versions) + 1,
                fixed=fixed,
                millionths=millionths,
                rounding=Rounding.HALF_EVEN,
                minimum=0,
                maximum=most,
                account=FEES,
                enabled=True,
                start_time=since,
                create_time=since,
                created_by="operator",
            )
        )
        self.oracle.prices.append(Price(kind.value, since, fixed, millionths, most))

    def relay(self, pick: int, *, noted: bool = True) -> None:
        """Publishes the first event of a transfer that waits; where that is not noted, it is published again."""
        first: dict[str, int] = {}
        for place, (event, done) in enumerate(self.tables.outbox):
            if not done:
                first.setdefault(event.aggregate, place)
        if not first:
            return
        place = list(first.values())[pick % len(first)]
        event, _ = self.tables.outbox[place]
        data = event.message.SerializeToString(deterministic=True)
        if self.published.setdefault(event.id, data) != data:
            raise Wrong(f"{event.aggregate} version {event.version} was told in other words")
        if subject_of(event.message) in _HEARD:
            self.stream.append(event)
        if noted:
            self.tables.outbox[place] = event, True

    def consume(self, pick: int, *, again: bool = False) -> None:
        """Brings compliance one of the events, in any order; one that comes `again` stays."""
        if self.stream:
            event = self.stream[pick % len(self.stream)]
            if not again:
                self.stream.remove(event)
            at_once(self._hear(event))
            self._gather_cases()

    async def _hear(self, event: Event) -> None:
        self.is_agreed = False
        handle = compliance_consumers.on_transactions(None)  # type: ignore[arg-type]
        key = (event.tenant, "transactions", event.aggregate)
        sorted_ = inbox.sort([_incoming(event)], {key: self.compliance.seen.get(key, 0)}, lambda _event: False)
        if sorted_.fresh:
            await handle(self.compliance, sorted_.fresh)  # type: ignore[arg-type]
            self._tell_oracle(event)
        self.compliance.seen.update(sorted_.versions)

    def _tell_oracle(self, event: Event) -> None:
        match event.message:
            case events_pb2.TransferCompleted() as told:
                self.oracle.end(told.transfer, "CAPTURED")
            case events_pb2.TransferCaptured() as told if told.ended:
                self.oracle.end(told.transfer, "CAPTURED", told.captured_amount.minor_units)
            case events_pb2.TransferDeclined() | events_pb2.TransferVoided() | events_pb2.TransferExpired() as told:
                self.oracle.end(told.transfer, "RELEASED")

    def hear_verdict(self, pick: int, *, again: bool = False) -> None:
        """Brings transactions one of the events of cases."""
        if self.cases_stream:
            event = self.cases_stream[pick % len(self.cases_stream)]
            if not again:
                self.cases_stream.remove(event)

            async def work(conn: Any) -> None:
                if conn.verdicts_seen.get(event.aggregate, 0) < event.version:
                    await consumers.handle(conn, [_incoming(event)])
                    conn.verdicts_seen[event.aggregate] = event.version

            self.tables.transact(work)

    def _gather_cases(self) -> None:
        new = self.compliance.told[self._told :]
        self._told = len(self.compliance.told)
        self.cases_stream += [e for e in new if subject_of(e.message) == "florin.compliance.case_resolved.v1"]

    def kill(self, number: int) -> None:
        """kill -9 of a replica, and a new one in its place, which recovers before it takes work."""
        place = number % len(self.replicas)
        died = self.replicas[place]
        self.world.kill(died.process)
        self.replicas[place] = Replica(self, died.process.name)
        self.replicas[place].recover(at_start=True)

    def close(self) -> None:
        """Ends all that still runs."""
        for replica in self.replicas:
            self.world.kill(replica.process)
        self.world.loop.close()


def _served(method: Any, request: Any, now: float) -> Any:
    identity.begin(Call("", "transactions", None, "", b"", now + 10))
    return at_once(method(request, None))


def _incoming(event: Event) -> Incoming:
    data = event.message.SerializeToString()
    subject = subject_of(event.message)
    source = subject.split(".")[1]
    return Incoming(
        event.id, subject, source, event.tenant, event.aggregate, event.version, event.time, "", data, again=False
    )


def call_of(who: Principal, bank: Bank, method: str = "", request_id: str = "", seconds: float = 5.0) -> Call:
    """A call as the interceptor makes it; its fingerprint is that of its request_id, which no other payload has."""
    return Call(method, "edge", who, request_id, request_id.encode(), bank.world.loop.time() + seconds)
