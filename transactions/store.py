"""All SQL of the transactions service: set-based, keys sorted wherever rows are locked."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock, outbox
from meshkit.cipher import Cipher
from meshkit.database import execute, fetch
from meshkit.filters import Condition
from transactions import columns, events, listing
from transactions.model import Transfer, Verdict
from transactions.rows import (
    COLUMNS,
    expected_columns,
    intent_columns,
    outcome_columns,
    priced_columns,
    transfer_from,
)

_WAKE_MAX = 5000


def _insert(more: str = "", more_types: str = "") -> str:
    """The statement that records intents; `more` columns of `more_types` beside those that each transfer has."""
    columns = (
        "tenant, id, subject, customer, scopes, request_key, request_id, fingerprint, debit_account, credit_account,"
        " currency, amount, creditor_name, end_to_end_id, remittance, reversal_of, customers, create_time,"
        " effective_time, expire_time, capture_of, final_capture"
    )
    types = (
        "%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::uuid[], %s::text[], %s::bytea[],"
        " %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bytea[], %s::text[], %s::bytea[], %s::text[],"
        " %s::text[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::text[], %s::boolean[]"
    )
    values = columns.replace("customers", "string_to_array(customers, ',')")
    return (
        f"INSERT INTO transfers ({columns}{more}, version, state, update_time, due_time)"  # noqa: S608
        f" SELECT {values}{more}, 1, 'ACCEPTED', create_time, now() + make_interval(secs => %s)"
        f" FROM unnest({types}{more_types}) AS n({columns}{more})"
        " ON CONFLICT DO NOTHING RETURNING tenant, request_key"
    )


_INSERT = _insert()
_PRICED = (
    ", fee, fee_schedule, fee_version, fee_account, quote, credit_currency, credit_amount, rate, debit_position,"
    " credit_position"
)
_PRICED_TYPES = (
    ", %s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::numeric[],"
    " %s::text[], %s::text[]"
)
_INSERT_PRICED = _insert(_PRICED, _PRICED_TYPES)
_INSERT_EXPECTING = _insert(
    _PRICED + ", expected_version, expected_available", _PRICED_TYPES + ", %s::bigint[], %s::bigint[]"
)
_OUTCOME = (
    "UPDATE transfers AS t SET version = t.version + 1, state = o.state, debit_account = o.debit_account,"
    " credit_account = o.credit_account, refusal = o.refusal, journal = o.journal, decision = o.decision,"
    " case_name = o.case_name, stand_in = o.stand_in, reversed_by = o.reversed_by,"
    " customers = string_to_array(o.customers, ','), update_time = o.update_time, effective_time = o.effective_time,"
    " captured = o.captured, reversed = o.reversed, attempts = 0, due_time = CASE"
    "  WHEN o.state IN ('COMPLETED', 'DECLINED', 'REVERSED', 'CAPTURED', 'VOIDED', 'EXPIRED') THEN NULL"
    "  WHEN o.state = 'AUTHORIZED' AND NOT t.voided THEN t.expire_time"
    "  WHEN o.state = 'IN_REVIEW' AND t.verdict IS NULL THEN t.expire_time"
    "  ELSE now() END"
    " FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::bytea[], %s::text[],"
    " %s::text[], %s::text[], %s::boolean[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[],"
    " %s::bigint[], %s::bigint[])"
    " AS o(tenant, id, version, state, debit_account, credit_account, refusal, journal, decision, case_name, stand_in,"
    " reversed_by, customers, update_time, effective_time, captured, reversed)"
    " WHERE t.tenant = o.tenant AND t.id = o.id AND t.version = o.version RETURNING t.tenant, t.id"
)
_LOCK = (
    "SELECT 1 FROM transfers JOIN unnest(%s::text[], %s::text[]) AS k(tenant, id) USING (tenant, id)"
    " ORDER BY tenant, id FOR UPDATE OF transfers"
)


async def insert_intents(
    conn: AsyncConnection, cipher: Cipher, transfers: Sequence[Transfer], lease_seconds: float
) -> set[tuple[str, uuid.UUID]]:
    """Records new transfers with their events; gives (tenant, request_key) of those that were not there yet.

    Not their ids: two requests may have chosen the same, and one of them is recorded.
    """
    ordered = sorted(transfers, key=lambda transfer: (transfer.tenant, transfer.request_key))
    # Where nothing is priced or expected, nothing is paid for the columns.
    statement, more = _INSERT, tuple[list[Any], ...]()
    if any(transfer.expected is not None for transfer in ordered):
        statement, more = _INSERT_EXPECTING, (*priced_columns(ordered), *expected_columns(ordered))
    elif any(transfer.fee is not None or transfer.exchange is not None for transfer in ordered):
        statement, more = _INSERT_PRICED, priced_columns(ordered)
    rows = await fetch(conn, statement, (lease_seconds, *intent_columns(ordered, cipher), *more))
    inserted = {(row[0], row[1]) for row in rows}
    await outbox.append(conn, [events.of(t) for t in ordered if (t.tenant, t.request_key) in inserted])
    return inserted


async def find_by_request(
    conn: AsyncConnection, cipher: Cipher, wanted: Sequence[tuple[str, uuid.UUID, str]]
) -> list[Transfer]:
    """Transfers that stand under one of the request keys, or under one of the ids; asked by (tenant, key, id)."""
    tenants = [tenant for tenant, _, _ in wanted]
    rows = await fetch(
        conn,
        # Two joins, each by a unique index; an OR over both would read the whole table.
        f"SELECT {COLUMNS} FROM transfers"  # noqa: S608
        " JOIN unnest(%s::text[], %s::uuid[]) AS k(tenant, request_key) USING (tenant, request_key)"
        f" UNION SELECT {COLUMNS} FROM transfers"
        " JOIN unnest(%s::text[], %s::text[]) AS k(tenant, id) USING (tenant, id)",
        (tenants, [key for _, key, _ in wanted], tenants, [id_ for _, _, id_ in wanted]),
    )
    return [transfer_from(row, cipher) for row in rows]


async def record_outcomes(conn: AsyncConnection, transfers: Sequence[Transfer]) -> set[tuple[str, str]]:
    """Writes new states and their events where nobody was faster; gives (tenant, id) of what was written."""
    ordered = sorted(transfers, key=lambda transfer: (transfer.tenant, transfer.id))
    await execute(conn, _LOCK, ([t.tenant for t in ordered], [t.id for t in ordered]))
    rows = await fetch(conn, _OUTCOME, outcome_columns(ordered))
    written = {(row[0], row[1]) for row in rows}
    await outbox.append(conn, [events.of(t) for t in ordered if (t.tenant, t.id) in written])
    return written


async def record_verdict(conn: AsyncConnection, verdicts: Sequence[tuple[str, str, Verdict]]) -> None:
    """Notes what became of cases, (tenant, transfer id, verdict), and makes their transfers due. An authorization that
    a stand-in decision let stand meanwhile ends where the verdict is no."""
    ordered = sorted(verdicts)
    keys = ([item[0] for item in ordered], [item[1] for item in ordered])
    await execute(conn, _LOCK, keys)
    await execute(
        conn,
        "UPDATE transfers AS t SET verdict = v.verdict, attempts = 0,"
        " voided = t.voided OR (t.state = 'AUTHORIZED' AND v.verdict <> 'APPROVED'),"
        " due_time = CASE WHEN t.state = 'AUTHORIZED' AND v.verdict = 'APPROVED' THEN t.due_time ELSE now() END"
        " FROM unnest(%s::text[], %s::text[], %s::text[]) AS v(tenant, id, verdict)"
        " WHERE t.tenant = v.tenant AND t.id = v.id AND t.verdict IS NULL"
        " AND t.state IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW', 'AUTHORIZED')",
        (*keys, [item[2].value for item in ordered]),
    )


async def take_due(
    conn: AsyncConnection, cipher: Cipher, *, limit: int, lease_seconds: float, ahead_seconds: float = 0.0
) -> list[Transfer]:
    """Takes overdue transfers for this replica: nobody else takes them until the lease is over, a little longer
    with every attempt. Those that wait for their own time to be over wait by the bank's time, the others, who wait for
    a lease or a pause to end, by the machine's."""
    ahead = timedelta(seconds=ahead_seconds)
    rows = await fetch(
        conn,
        "WITH due AS (SELECT tenant, id FROM transfers WHERE due_time <= now() + %s::interval"  # noqa: S608
        " AND (due_time = expire_time OR due_time <= now() + %s::interval)"
        " ORDER BY due_time LIMIT %s FOR UPDATE SKIP LOCKED)"
        " UPDATE transfers AS t SET attempts = attempts + 1,"
        " due_time = now() + make_interval(secs => %s * least(1 + attempts * 0.25, 4))"
        " FROM due WHERE t.tenant = due.tenant AND t.id = due.id RETURNING " + columns.of("t", COLUMNS),
        (max(ahead, clock.ahead()), ahead, limit, lease_seconds),
    )
    return [transfer_from(row, cipher) for row in rows]


async def postpone(conn: AsyncConnection, transfers: Sequence[Transfer], seconds: float, seconds_max: float) -> None:
    """Makes transfers due again soon, and later with every attempt: a dependency was down, and it may be back in a
    moment."""
    ordered = sorted(transfers, key=lambda transfer: (transfer.tenant, transfer.id))
    keys = ([t.tenant for t in ordered], [t.id for t in ordered])
    await execute(conn, _LOCK, keys)
    await execute(
        conn,
        "UPDATE transfers AS t SET due_time = now() + make_interval(secs => least(%s * 2 ^ least(attempts, 10), %s))"
        " FROM unnest(%s::text[], %s::text[]) AS k(tenant, id) WHERE t.tenant = k.tenant AND t.id = k.id"
        " AND t.state IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW', 'AUTHORIZED') AND t.due_time IS NOT NULL",
        (seconds, seconds_max, *keys),
    )


async def wake_waiting(conn: AsyncConnection, tenants: Sequence[str]) -> None:
    """Makes the oldest transfers of tenants due that wait for the ledger; the rest are due by themselves, later."""
    await execute(
        conn,
        "UPDATE transfers AS t SET due_time = now(), attempts = 0 FROM (SELECT tenant, id FROM transfers"
        " WHERE state IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW') AND tenant = ANY (%s::text[])"
        " AND (state <> 'IN_REVIEW' OR verdict = 'APPROVED') AND due_time > now()"
        " ORDER BY create_time LIMIT %s FOR UPDATE SKIP LOCKED) AS w"
        " WHERE t.tenant = w.tenant AND t.id = w.id",
        (list(tenants), _WAKE_MAX),
    )


async def get(conn: AsyncConnection, cipher: Cipher, tenant: str, id_: str, *, lock: bool = False) -> Transfer | None:
    """One transfer, locked if asked for; None when there is none."""
    statement = f"SELECT {COLUMNS} FROM transfers WHERE tenant = :tenant AND id = :id"  # noqa: S608
    rows = await conn.execute(text(statement + (" FOR UPDATE" if lock else "")), {"tenant": tenant, "id": id_})
    row = rows.first()
    return transfer_from(row, cipher) if row is not None else None


async def void(conn: AsyncConnection, tenant: str, id_: str) -> None:
    """Notes that somebody wants an authorization to end, also before it stands, and makes it due."""
    await conn.execute(
        text(
            "UPDATE transfers SET voided = true, due_time = now(), attempts = 0"
            " WHERE tenant = :tenant AND id = :id AND state IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW', 'AUTHORIZED')"
        ),
        {"tenant": tenant, "id": id_},
    )


async def live_captures(conn: AsyncConnection, cipher: Cipher, keys: Sequence[tuple[str, str]]) -> list[Transfer]:
    """The captures of authorizations (tenant, id) that are under way; one each at most."""
    rows = await fetch(
        conn,
        f"SELECT {COLUMNS} FROM transfers"  # noqa: S608
        " JOIN unnest(%s::text[], %s::text[]) AS k(tenant, capture_of) USING (tenant, capture_of)"
        " WHERE capture_of <> '' AND state IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW')",
        ([key[0] for key in keys], [key[1] for key in keys]),
    )
    return [transfer_from(row, cipher) for row in rows]


async def is_of_a_withdrawal(conn: AsyncConnection, tenant: str, id_: str) -> bool:
    """Whether a transfer debits the payer of a withdrawal."""
    return bool(await fetch(conn, "SELECT 1 FROM withdrawals WHERE tenant = %s AND id = %s", (tenant, id_)))


async def live_reversal(conn: AsyncConnection, cipher: Cipher, tenant: str, id_: str) -> Transfer | None:
    """The reversal of a transfer that is under way or done; None when there is none."""
    rows = await conn.execute(
        text(
            f"SELECT {COLUMNS} FROM transfers"  # noqa: S608
            " WHERE tenant = :tenant AND reversal_of = :id AND state <> 'DECLINED'"
        ),
        {"tenant": tenant, "id": id_},
    )
    row = rows.first()
    return transfer_from(row, cipher) if row is not None else None


async def present(
    conn: AsyncConnection, cipher: Cipher, keys: Sequence[tuple[str, str]], *, lock: bool = False
) -> list[Transfer]:
    """The present rows of (tenant, id), locked if asked for."""
    if lock:
        ordered = sorted(keys)
        await execute(conn, _LOCK, ([key[0] for key in ordered], [key[1] for key in ordered]))
    rows = await fetch(
        conn,
        f"SELECT {COLUMNS} FROM transfers JOIN unnest(%s::text[], %s::text[]) AS k(tenant, id) USING (tenant, id)",  # noqa: S608
        ([key[0] for key in keys], [key[1] for key in keys]),
    )
    return [transfer_from(row, cipher) for row in rows]


async def settled(conn: AsyncConnection, cipher: Cipher, keys: Sequence[tuple[str, str]]) -> list[Transfer]:
    """Those of (tenant, id) that are final or rest; the others, of which many may be waited for, cost no decryption."""
    rows = await fetch(
        conn,
        f"SELECT {COLUMNS} FROM transfers JOIN unnest(%s::text[], %s::text[]) AS k(tenant, id) USING (tenant, id)"  # noqa: S608
        " WHERE state NOT IN ('ACCEPTED', 'SCREENED')",
        ([key[0] for key in keys], [key[1] for key in keys]),
    )
    return [transfer_from(row, cipher) for row in rows]


_FIELDS = {
    "state": "state",
    "debit_account": "debit_account",
    "credit_account": "credit_account",
    "request_id": "request_id",
    "end_to_end_id": "end_to_end_id",
    "amount.minor_units": "amount",
    "amount.currency_code": "currency",
    "create_time": "create_time",
}


async def list_page(
    conn: AsyncConnection,
    cipher: Cipher,
    *,
    tenant: str,
    customer: str | None,
    conditions: Sequence[Condition],
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Transfer]:
    """A page, the newest first, after a position; new transfers do not move what comes later."""
    rows = await listing.page(
        conn,
        table="transfers",
        columns=COLUMNS,
        fields=_FIELDS,
        tenant=tenant,
        customer=customer,
        conditions=conditions,
        after=after,
        limit=limit,
    )
    return [transfer_from(row, cipher) for row in rows]


async def open_ages(conn: AsyncConnection) -> dict[str, tuple[int, float]]:
    """State → (count, age of the oldest in seconds) of transfers that are under way. Authorizations are not: many stand
    for weeks."""
    rows = await conn.execute(
        text(
            "SELECT s.state, count(t.id), coalesce(extract(epoch FROM now() + CAST(:ahead AS interval)"
            " - min(t.create_time)), 0)"
            " FROM (VALUES ('ACCEPTED'), ('SCREENED'), ('IN_REVIEW')) AS s(state)"
            " LEFT JOIN transfers AS t ON t.state = s.state"
            " AND t.state IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW') GROUP BY s.state"
        ),
        {"ahead": clock.ahead()},
    )
    return {row[0]: (row[1], float(row[2])) for row in rows}
