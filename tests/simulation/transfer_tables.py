"""The transactions service's store in memory: the functions of transactions/store.py, over dictionaries.

It keeps the constraints of the schema, and what a commit may lose when the database is killed. What two transactions do
to each other while both run is not here: that is PostgreSQL's, and tested on it (tests/integration).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from meshkit import clock
from meshkit.errors import RequestIdReused
from meshkit.identity import Call
from meshkit.outbox import Event
from tests.simulation.loop import at_once
from transactions import events
from transactions.exchange import Quote
from transactions.fees import FeeSchedule, Kind
from transactions.model import FINAL, State, Transfer, Verdict

Place = tuple[str, str]
_LIVE = (State.ACCEPTED, State.SCREENED, State.IN_REVIEW)
_OPEN = (*_LIVE, State.AUTHORIZED)


@dataclass(frozen=True, slots=True)
class Row:
    """A transfer and when the recovery worker looks at it."""

    transfer: Transfer
    due: datetime | None
    attempts: int = 0


@dataclass
class Tables:
    """One database. All of it is copied for each transaction: there is little of it."""

    rows: dict[Place, Row] = field(default_factory=dict)
    outbox: list[tuple[Event, bool]] = field(default_factory=list)
    """Events and whether they were published."""
    requests: dict[tuple[str, str, str, str], tuple[bytes, str]] = field(default_factory=dict)
    fees: dict[tuple[str, Kind, str], list[FeeSchedule]] = field(default_factory=dict)
    """All versions of each schedule; nothing here changes them."""
    quotes: dict[Place, Quote] = field(default_factory=dict)
    """Nothing here changes them."""
    verdicts_seen: dict[str, int] = field(default_factory=dict)
    """The inbox: the last version of each case."""
    _unsafe: list[tuple[dict[Place, Row], list[tuple[Event, bool]], dict[Any, Any], dict[str, int]]] = field(
        default_factory=list
    )
    """What stood before each of the commits that are not on disk."""

    def transact[T](
        self, work: Callable[[Any], Coroutine[Any, Any, T]], *, durable: bool = True, read_only: bool = False
    ) -> T:
        """One transaction: all of it or nothing. What is durable takes with it what came before."""
        if read_only:
            return at_once(work(self))
        before = self._copy()
        try:
            result = at_once(work(self))
            _check(self.rows, before[0])
        except BaseException:
            self._restore(before)
            raise
        if durable:
            self._unsafe.clear()
        else:
            self._unsafe.append(before)
        return result

    def kill(self, kept: int) -> None:
        """The server is killed: of the commits that are not on disk yet the first `kept` are there afterwards."""
        if kept < len(self._unsafe):
            self._restore(self._unsafe[kept])
        self._unsafe.clear()

    def _copy(self) -> tuple[dict[Place, Row], list[tuple[Event, bool]], dict[Any, Any], dict[str, int]]:
        return copy(self.rows), copy(self.outbox), copy(self.requests), copy(self.verdicts_seen)

    def _restore(self, before: tuple[Any, ...]) -> None:
        self.rows, self.outbox, self.requests, self.verdicts_seen = (copy(part) for part in before)

    def change(self, transfer: Transfer, due: datetime | None, attempts: int = 0) -> None:
        """Writes a row."""
        self.rows[transfer.place] = Row(transfer, due, attempts)

    def tell(self, transfers: Sequence[Transfer]) -> None:
        """Writes their events."""
        self.outbox += [(events.of(transfer), False) for transfer in transfers]


def _check(rows: dict[Place, Row], before: dict[Place, Row]) -> None:
    """The constraints of the schema, on what is not as it was before. Raises AssertionError."""
    changed = [row for place, row in rows.items() if before.get(place) is not row]
    if not changed:
        return
    keys = [(t.tenant, t.request_key) for t in _transfers(rows)]
    assert len(keys) == len(set(keys)), "inv_5_one_request_one_transfer"
    quotes = [(t.tenant, t.quote) for t in _transfers(rows) if t.quote]
    assert len(quotes) == len(set(quotes)), "inv_5_one_transfer_a_quote"
    reversals = [t.reversal_of for t in _transfers(rows) if t.reversal_of and t.state is not State.DECLINED]
    assert len(reversals) == len(set(reversals)), "inv_6_one_live_reversal"
    captures = [t.capture_of for t in _transfers(rows) if t.capture_of and t.state in _LIVE]
    assert len(captures) == len(set(captures)), "inv_6_one_live_capture"
    for row in changed:
        t = row.transfer
        assert (t.state in (State.COMPLETED, State.REVERSED)) == bool(t.journal), "inv_6_completed_has_a_journal"
        assert (t.state is State.DECLINED) == (t.refusal is not None), "inv_6_declined_has_a_refusal"
        assert (t.state is State.REVERSED) == bool(t.reversed_by), "transfers_reversed_names_its_reversal"
        assert row.due is None or t.state not in FINAL, "transfers_final_is_never_due"
        assert 0 <= t.captured <= t.amount, "inv_6_captured_within_the_amount"
        assert 0 <= t.reversed <= t.amount, "inv_6_reversed_within_the_amount"
        assert t.state is not State.CAPTURED or t.captured > 0, "inv_6_captured_where_it_ended_so"
        assert t.state not in (State.VOIDED, State.EXPIRED) or not t.captured, "inv_6_nothing_captured_where_given_back"
        assert t.expire_time is None or not t.journal, "inv_6_an_authorization_has_no_journal"


def _transfers(rows: dict[Place, Row]) -> list[Transfer]:
    return [row.transfer for row in rows.values()]


def _conflicts(tables: Tables, new: Transfer) -> bool:
    for there in _transfers(tables.rows):
        if there.tenant != new.tenant:
            continue
        if there.id == new.id or there.request_key == new.request_key:
            return True
        if new.quote and there.quote == new.quote:
            return True
        if new.reversal_of and there.reversal_of == new.reversal_of and there.state is not State.DECLINED:
            return True
        if new.capture_of and there.capture_of == new.capture_of and there.state in _LIVE:
            return True
    return False


async def insert_intents(
    conn: Tables, cipher: Any, transfers: Sequence[Transfer], lease_seconds: float
) -> set[tuple[str, uuid.UUID]]:
    """See transactions/store.py, here and below."""
    inserted = []
    for new in sorted(transfers, key=lambda transfer: (transfer.tenant, transfer.request_key)):
        if not _conflicts(conn, new):
            conn.change(new.changed(traceparent=""), clock.now() + timedelta(seconds=lease_seconds))
            inserted.append(new)
    conn.tell(inserted)
    return {(t.tenant, t.request_key) for t in inserted}


async def find_by_request(conn: Tables, cipher: Any, wanted: Sequence[tuple[str, uuid.UUID, str]]) -> list[Transfer]:
    keys, places = {(tenant, key) for tenant, key, _ in wanted}, {(tenant, id_) for tenant, _, id_ in wanted}
    return [t for t in _transfers(conn.rows) if (t.tenant, t.request_key) in keys or t.place in places]


async def record_outcomes(conn: Tables, transfers: Sequence[Transfer]) -> set[Place]:
    written = []
    for new in sorted(transfers, key=lambda transfer: transfer.place):
        row = conn.rows.get(new.place)
        if row is None or row.transfer.version != new.version - 1:
            continue
        there = row.transfer
        # The columns of the statement; what else the caller believes of the row is not written.
        changed = there.changed(
            version=new.version,
            state=new.state,
            debit_account=new.debit_account,
            credit_account=new.credit_account,
            refusal=new.refusal,
            journal=new.journal,
            decision=new.decision,
            case=new.case,
            stand_in=new.stand_in,
            reversed_by=new.reversed_by,
            customers=new.customers,
            update_time=new.update_time,
            effective_time=new.effective_time,
            captured=new.captured,
            reversed=new.reversed,
        )
        due: datetime | None = clock.now()
        if new.state in FINAL:
            due = None
        elif (new.state is State.AUTHORIZED and not there.voided) or (
            new.state is State.IN_REVIEW and there.verdict is None
        ):
            due = there.expire_time
        conn.change(changed, due)
        written.append(new)
    conn.tell(written)
    return {t.place for t in written}


async def record_verdict(conn: Tables, verdicts: Sequence[tuple[str, str, Verdict]]) -> None:
    for tenant, id_, verdict in sorted(verdicts):
        row = conn.rows.get((tenant, id_))
        if row is None or row.transfer.verdict is not None or row.transfer.state not in _OPEN:
            continue
        authorized = row.transfer.state is State.AUTHORIZED
        approved = verdict is Verdict.APPROVED
        voided = row.transfer.voided or (authorized and not approved)
        due = row.due if authorized and approved else clock.now()
        conn.change(row.transfer.changed(verdict=verdict, voided=voided), due)


async def take_due(
    conn: Tables, cipher: Any, *, limit: int, lease_seconds: float, ahead_seconds: float = 0.0
) -> list[Transfer]:
    until = clock.now() + timedelta(seconds=ahead_seconds)
    due = sorted((row.due, place) for place, row in conn.rows.items() if row.due is not None and row.due <= until)
    taken = []
    for _, place in due[:limit]:
        row = conn.rows[place]
        lease = lease_seconds * min(1 + row.attempts * 0.25, 4)
        conn.change(row.transfer, clock.now() + timedelta(seconds=lease), row.attempts + 1)
        taken.append(row.transfer)
    return taken


async def postpone(conn: Tables, transfers: Sequence[Transfer], seconds: float, seconds_max: float) -> None:
    for place in sorted(transfer.place for transfer in transfers):
        row = conn.rows.get(place)
        if row is not None and row.transfer.state in _OPEN and row.due is not None:
            pause = min(seconds * 2 ** min(row.attempts, 10), seconds_max)
            conn.change(row.transfer, clock.now() + timedelta(seconds=pause), row.attempts)


async def get(conn: Tables, cipher: Any, tenant: str, id_: str, *, lock: bool = False) -> Transfer | None:
    row = conn.rows.get((tenant, id_))
    return row.transfer if row is not None else None


async def void(conn: Tables, tenant: str, id_: str) -> None:
    row = conn.rows.get((tenant, id_))
    if row is not None and row.transfer.state in _OPEN:
        conn.change(row.transfer.changed(voided=True), clock.now())


async def live_captures(conn: Tables, cipher: Any, keys: Sequence[Place]) -> list[Transfer]:
    wanted = set(keys)
    return [t for t in _transfers(conn.rows) if (t.tenant, t.capture_of) in wanted and t.state in _LIVE]


async def is_of_a_withdrawal(conn: Tables, tenant: str, id_: str) -> bool:
    return False  # nobody here pays other banks


async def live_reversal(conn: Tables, cipher: Any, tenant: str, id_: str) -> Transfer | None:
    for t in _transfers(conn.rows):
        if (t.tenant, t.reversal_of) == (tenant, id_) and t.state is not State.DECLINED:
            return t
    return None


async def present(conn: Tables, cipher: Any, keys: Sequence[Place], *, lock: bool = False) -> list[Transfer]:
    return [conn.rows[key].transfer for key in dict.fromkeys(keys) if key in conn.rows]


async def read_version(conn: Tables, tenant: str, kind: Kind, currency: str, version: int = 0) -> FeeSchedule | None:
    """See transactions/fee_store.py."""
    versions = conn.fees.get((tenant, kind, currency), [])
    return next((one for one in reversed(versions) if version in (0, one.version)), None)


async def lock_quotes(conn: Tables, wanted: Sequence[Place]) -> datetime:
    """See transactions/exchange_store.py, here and below."""
    return clock.now()


async def read_quotes(conn: Tables, wanted: Sequence[Place]) -> dict[Place, Quote]:
    return {place: conn.quotes[place] for place in wanted if place in conn.quotes}


async def claim(db: Any, call: Call, name: str) -> None:
    """See meshkit/idempotency.py."""
    if not call.request_id:
        return
    key = (call.tenant, call.who.subject, call.method, call.request_id)

    async def work(conn: Tables) -> None:
        fingerprint, bound = conn.requests.setdefault(key, (call.fingerprint, name))
        if fingerprint != call.fingerprint:
            raise RequestIdReused(bound)

    await db.run(call.tenant, work)
