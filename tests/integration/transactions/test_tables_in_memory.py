"""The simulation's tables beside the real ones: the same random operations leave the same rows, and answer the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any
from unittest import mock

import psycopg
import pytest
from sqlalchemy.exc import IntegrityError

from florin.common.v1 import errors_pb2
from meshkit import clock
from meshkit.errors import DomainError
from tests.integration.transactions.conftest import Replica
from tests.simulation import transfer_tables
from tests.simulation.transfer_tables import Tables
from tests.support.seeds import SEED
from tests.unit.transactions.making import NOW, TELLER, transfer
from transactions import store
from transactions.model import CREATE_METHOD, Expected, Fee, State, Transfer, Verdict, request_key

OPERATIONS = 120
REFUSED = "refused by a constraint"
Work = Callable[[Any, Any, Any], Awaitable[Any]]
"""What is done with a store, or with its twin: module, connection, cipher."""


class _No(DomainError):
    """Why a transfer is declined."""

    reason = errors_pb2.REASON_PAYMENT_DECLINED


class Twins:
    """One database, and the tables that stand for it."""

    def __init__(self, replica: Replica, chance: Random) -> None:
        self.replica = replica
        self.chance = chance
        self.tables = Tables()

    async def do(self, work: Work) -> tuple[Any, Any]:
        """The same transaction here and there, at the same moment."""
        moments: list[datetime] = []

        async def run(conn: Any) -> Any:
            moments.append((await conn.exec_driver_sql("SELECT now()")).scalar_one())
            return await work(store, conn, self.replica.db.cipher)

        real: Any
        twin: Any
        try:
            real = _sorted(await self.replica.db.run("demo", run))
        except (IntegrityError, psycopg.IntegrityError):
            real = REFUSED
        with mock.patch.object(clock, "now", lambda: moments[-1]):
            try:
                twin = _sorted(self.tables.transact(lambda conn: work(transfer_tables, conn, None)))
            except AssertionError:
                twin = REFUSED
        return real, twin

    async def rows(self) -> tuple[list[Any], list[Any]]:
        """All that stands here, and there."""
        places = sorted(self.tables.rows)
        query = self.replica.query
        due = {row[0]: row[1:] for row in await query("SELECT id, due_time, attempts FROM transfers")}
        told = await query("SELECT aggregate, version, data FROM outbox ORDER BY aggregate, version")

        async def read(conn: Any) -> list[Transfer]:
            return await store.present(conn, self.replica.db.cipher, places)

        found = await self.replica.db.run("demo", read, read_only=True)
        assert len(due) == len(places)
        real = [*((t, *due[t.id]) for t in _sorted(found)), *((a, v, bytes(data)) for a, v, data in told)]
        events = sorted((event.aggregate, event.version, event.message) for event, _ in self.tables.outbox)
        twin = [
            *((row.transfer, row.due, row.attempts) for _, row in sorted(self.tables.rows.items())),
            *((aggregate, version, message.SerializeToString()) for aggregate, version, message in events),
        ]
        return real, twin

    def one(self) -> Transfer | None:
        """Any that is there."""
        rows = list(self.tables.rows.values())
        return self.chance.choice(rows).transfer if rows else None

    def new(self) -> Transfer:
        """An intent whose id or key may be taken, and that may belong to one that has such a one already."""
        chance = self.chance
        request_id, of = f"r{chance.randrange(40)}", f"t{chance.randrange(40)}"
        belongs = chance.choice(["", "", "", "reversal_of", "capture_of"])
        return transfer(
            request_id=request_id,
            id=f"t{chance.randrange(40)}",
            request_key=request_key(TELLER, CREATE_METHOD, request_id),
            amount=chance.randint(1, 50),
            expire_time=NOW + timedelta(days=1) if not belongs and chance.random() < 0.5 else None,
            fee=Fee(chance.randrange(3), "feeSchedules/payment-eur", 1, "accounts/fees")
            if chance.random() < 0.3
            else None,
            expected=Expected(chance.randrange(9), -1) if chance.random() < 0.3 else None,
            **({belongs: of} if belongs else {}),
        )

    def next(self, before: Transfer) -> Transfer:
        """What may become of it; seldom what must not, or what was derived from a version that is over."""
        chance = self.chance
        states = [State.SCREENED, State.IN_REVIEW, State.DECLINED, State.COMPLETED, State.REVERSED]
        if before.is_authorization:
            states[3:] = [State.AUTHORIZED, State.AUTHORIZED, State.CAPTURED, State.VOIDED, State.EXPIRED]
        state = chance.choice(states)
        moved = state in (State.COMPLETED, State.REVERSED)
        after: dict[str, Any] = {
            "state": state,
            "version": before.version + (1 if chance.random() < 0.9 else 2),
            "journal": f"journals/{before.id}" if moved else "",
            "reversed_by": "t0" if state is State.REVERSED else "",
            "refusal": _No("No.").to_status() if state is State.DECLINED else None,
            "captured": chance.randint(1, before.amount) if state is State.CAPTURED else 0,
            "reversed": chance.randint(0, before.amount),
            "case": chance.choice(["", "cases/c"]),
            "customers": ("customers/anna",),
            "update_time": NOW + timedelta(seconds=chance.randrange(99)),
        }
        if chance.random() < 0.1:
            after |= chance.choice([{"journal": "journals/x"}, {"refusal": None}, {"captured": before.amount + 1}])
        return before.changed(**after)


def _sorted(answer: Any) -> Any:
    if isinstance(answer, list):
        return sorted(answer, key=lambda one: one.id)
    return answer


def operation(twins: Twins) -> Work | None:
    """Any, with anything."""
    chance, one = twins.chance, twins.one()
    kind = chance.choice(["intents", "intents", "outcomes", "outcomes", "outcomes", "verdict", "due", "rest", "read"])
    if kind == "intents" or one is None:
        # One a request, as Orders has it.
        new = list({t.request_key: t for t in (twins.new() for _ in range(chance.randint(1, 4)))}.values())
        return lambda at, conn, cipher: at.insert_intents(conn, cipher, new, 2.5)
    match kind:
        case "outcomes":
            picked = {t.id: t for t in (twins.one() for _ in range(3)) if t is not None}
            after = [twins.next(t) for t in picked.values()]
            return lambda at, conn, _: at.record_outcomes(conn, after)
        case "verdict":
            verdicts = [("demo", one.id, chance.choice(list(Verdict))), ("demo", "none", Verdict.APPROVED)]
            return lambda at, conn, _: at.record_verdict(conn, verdicts)
        case "due":
            ahead = chance.choice([0.0, 2.0, 10.0])
            return lambda at, conn, cipher: at.take_due(conn, cipher, limit=99, lease_seconds=3.0, ahead_seconds=ahead)
        case "rest" if chance.random() < 0.5:
            return lambda at, conn, _: at.void(conn, "demo", one.id)
        case "rest":
            return lambda at, conn, _: at.postpone(conn, [one], 0.5, 4.0)
    return _reading(chance, one)


def _reading(chance: Random, one: Transfer) -> Work:
    place, of = one.place, one.reversal_of or one.capture_of or one.id
    readings: list[Work] = [
        lambda at, conn, cipher: at.get(conn, cipher, *place),
        lambda at, conn, cipher: at.live_captures(conn, cipher, [("demo", of), ("demo", "none")]),
        lambda at, conn, cipher: at.live_reversal(conn, cipher, "demo", of),
        lambda at, conn, cipher: at.present(conn, cipher, [place, ("demo", "none")]),
        lambda at, conn, cipher: at.find_by_request(conn, cipher, [("demo", one.request_key, "t1")]),
    ]
    return chance.choice(readings)


@pytest.mark.parametrize("run", range(3))
async def test_the_same_operations_leave_the_same_rows(replica: Replica, run: int) -> None:
    """Intents, outcomes, verdicts, leases and look-ups in any order; what a constraint refuses, its twin refuses."""
    twins = Twins(replica, Random(f"{SEED}/{run}"))
    refused = 0
    for number in range(OPERATIONS):
        work = operation(twins)
        real, twin = await twins.do(work) if work is not None else (None, None)
        assert real == twin, f"seed {SEED}, run {run}, operation {number}"
        refused += real == REFUSED
        real_rows, twin_rows = await twins.rows()
        assert real_rows == twin_rows, f"seed {SEED}, run {run}, operation {number}"
    assert len(twins.tables.rows) > 5
    assert refused < OPERATIONS / 2
