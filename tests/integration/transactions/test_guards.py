"""What the database refuses whatever the code does, and what one bad item cannot do to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from meshkit.errors import RecordedRefusal, RequestInvalid
from tests.integration.transactions.conftest import Replica
from tests.unit.transactions.making import transfer
from transactions import store
from transactions.model import State, Transfer, Verdict
from transactions.ports import Outcome


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("journal = ''", "inv_6_completed_has_a_journal"),
        ("state = 'DECLINED', journal = ''", "inv_6_declined_has_a_refusal"),
        ("refusal = 'x'", "inv_6_declined_has_a_refusal"),
        ("state = 'REVERSED'", "transfers_reversed_names_its_reversal"),
        ("due_time = now()", "transfers_final_is_never_due"),
        ("amount = 0", "transfers_amount_positive"),
    ],
)
async def test_the_table_refuses_what_cannot_be(replica: Replica, change: str, constraint: str) -> None:
    """INV-6 stands in the schema, under names that say what was broken."""
    await replica.create(transfer())
    with pytest.raises((DBAPIError, psycopg.Error), match=constraint):
        await replica.query(f"UPDATE transfers SET {change} RETURNING 1")


async def test_transfers_cannot_be_deleted(replica: Replica) -> None:
    """The runtime role has no right to."""
    await replica.create(transfer())
    with pytest.raises((DBAPIError, psycopg.Error), match="permission denied"):
        await replica.query("DELETE FROM transfers RETURNING 1")


async def test_another_tenants_rows_are_not_there(replica: Replica) -> None:
    """Row-level security: a statement without a tenant in it sees the tenant's rows alone."""
    await replica.create(transfer())

    async def count(conn: Any) -> int:
        return int((await conn.exec_driver_sql("SELECT count(*) FROM transfers")).scalar_one())

    assert await replica.db.run("demo", count) == 1
    assert await replica.db.run("other", count) == 0


async def test_an_item_that_another_service_calls_invalid_does_not_hold_up_the_others(replica: Replica) -> None:
    """One of fifty breaks the contract of accounts: it stays open, the rest completes."""
    bad = transfer(amount=13)
    post = replica.ledger.post

    async def strict(transfers: Sequence[Transfer], *, validate_only: bool = False) -> list[Outcome]:
        if any(item.amount == 13 for item in transfers):
            raise RecordedRefusal(RequestInvalid([("steps", "no")]).to_status())
        return await post(transfers, validate_only=validate_only)

    replica.ledger.post = strict  # type: ignore[method-assign]
    orders = [transfer(amount=10) for _ in range(49)]
    answers = await asyncio.gather(*(replica.create(order) for order in [*orders, bad]))
    assert {answer.state for answer in answers[:-1]} == {State.COMPLETED}
    assert not answers[-1].is_final
    await replica.hurry()
    await replica.recovery.before_ready()
    assert not (await replica.row(bad)).is_final


async def test_replays_are_found_by_their_indexes(replica: Replica) -> None:
    """With 5,000 transfers in the table, neither a replay nor a recovery reads it whole."""
    order = await replica.create(transfer())
    names = await replica.query(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'transfers'"
        " AND column_name NOT IN ('id', 'request_key')"
    )
    columns = ", ".join(row[0] for row in names)
    await replica.query(
        f"INSERT INTO transfers (id, request_key, {columns}) SELECT 'n' || n, gen_random_uuid(), {columns}"
        " FROM transfers, generate_series(1, 5000) AS n RETURNING 1"
    )

    async def rows_scanned(conn: Any) -> int:
        counter = "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'transfers'"
        return int((await conn.exec_driver_sql(counter)).scalar_one())

    async def scans(conn: Any) -> int:
        # The counter has this connection's earlier transactions in it until the server collects them.
        before = await rows_scanned(conn)
        await store.find_by_request(conn, replica.db.cipher, [(order.tenant, order.request_key, order.id)])
        await store.record_verdict(conn, [(order.tenant, order.id, Verdict.APPROVED)])
        await store.take_due(conn, replica.db.cipher, limit=10, lease_seconds=1)
        return await rows_scanned(conn) - before

    assert await replica.db.run("demo", scans) == 0
