"""SQL of rates, position accounts and quotes; it decides nothing."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock
from meshkit.database import execute, fetch
from transactions.exchange import RATE_PLACES, ExchangeRate, PositionAccount, Quote, rate_text

_RATE = "tenant, base, counter, version, rate, spread, source, rate_time, create_time, created_by"
_POSITION = "tenant, currency, account, version, update_time, updated_by"
_QUOTE = (
    "tenant, id, customer, debit_currency, debit_amount, credit_currency, credit_amount, rate, rate_name, rate_version,"
    " rate_time, debit_position, credit_position, expire_time, create_time"
)
_LOCK_CLASS = 0x71756F74  # "quot": the class of the advisory locks that quotes share
_LOCKS = 256
"""So many at most: PostgreSQL has room for a few thousand locks at once, and a batch may have a thousand quotes."""


async def next_rate_version(conn: AsyncConnection, tenant: str, base: str, counter: str) -> int:
    """The version that comes next; locks the rate."""
    found = await conn.execute(
        text(
            "INSERT INTO exchange_rates (tenant, base, counter, version) VALUES (:tenant, :base, :counter, 1)"
            " ON CONFLICT (tenant, base, counter) DO UPDATE SET version = exchange_rates.version + 1 RETURNING version"
        ),
        {"tenant": tenant, "base": base, "counter": counter},
    )
    return int(found.scalar_one())


async def add_rate(conn: AsyncConnection, rate: ExchangeRate) -> None:
    """Writes a version; versions are never changed."""
    await conn.execute(
        text(
            f"INSERT INTO exchange_rate_versions ({_RATE}) VALUES (:tenant, :base, :counter, :version,"  # noqa: S608
            " CAST(:rate AS numeric), :spread, :source, :rate_time, :create_time, :created_by)"
        ),
        {
            "tenant": rate.tenant,
            "base": rate.base,
            "counter": rate.counter,
            "version": rate.version,
            "rate": rate_text(rate.rate),
            "spread": rate.spread,
            "source": rate.source,
            "rate_time": rate.rate_time,
            "create_time": rate.create_time,
            "created_by": rate.created_by,
        },
    )


async def read_rate(
    conn: AsyncConnection, tenant: str, base: str, counter: str, version: int = 0
) -> ExchangeRate | None:
    """A version of a rate, the newest for 0; None when there is none."""
    found = await conn.execute(
        text(
            f"SELECT {_RATE} FROM exchange_rate_versions WHERE tenant = :tenant AND base = :base"  # noqa: S608
            " AND counter = :counter AND (version = :version OR :version = 0) ORDER BY version DESC LIMIT 1"
        ),
        {"tenant": tenant, "base": base, "counter": counter, "version": version},
    )
    row = found.first()
    return None if row is None else _rate(row)


async def list_rates(conn: AsyncConnection, tenant: str, *, after: tuple[str, str], limit: int) -> list[ExchangeRate]:
    """The newest version of each rate, by its currencies, after one."""
    rows = await conn.execute(
        text(
            f"SELECT {_RATE} FROM exchange_rate_versions JOIN exchange_rates USING (tenant, base, counter, version)"  # noqa: S608
            ' WHERE tenant = :tenant AND (base COLLATE "C", counter COLLATE "C") > (:base, :counter)'
            ' ORDER BY base COLLATE "C", counter COLLATE "C" LIMIT :limit'
        ),
        {"tenant": tenant, "base": after[0], "counter": after[1], "limit": limit},
    )
    return [_rate(row) for row in rows]


async def save_position(conn: AsyncConnection, position: PositionAccount) -> PositionAccount:
    """Sets a currency's position account; gives it with its version."""
    found = await conn.execute(
        text(
            f"INSERT INTO position_accounts AS p ({_POSITION}) VALUES (:tenant, :currency, :account, 1, :update_time,"  # noqa: S608
            " :updated_by) ON CONFLICT (tenant, currency) DO UPDATE SET account = excluded.account,"
            " version = p.version + 1, update_time = excluded.update_time, updated_by = excluded.updated_by"
            f" RETURNING {_POSITION}"
        ),
        {
            "tenant": position.tenant,
            "currency": position.currency,
            "account": position.account,
            "update_time": position.update_time,
            "updated_by": position.updated_by,
        },
    )
    return PositionAccount(*found.one())


async def read_positions(
    conn: AsyncConnection, tenant: str, currencies: Sequence[str], *, lock: bool = False
) -> dict[str, PositionAccount]:
    """The position accounts of currencies, locked if asked for; those that have none are missing."""
    rows = await fetch(
        conn,
        f"SELECT {_POSITION} FROM position_accounts WHERE tenant = %s AND currency = ANY(%s)"  # noqa: S608
        + (" FOR UPDATE" if lock else ""),
        (tenant, list(currencies)),
    )
    return {row[1]: PositionAccount(*row) for row in rows}


async def list_positions(conn: AsyncConnection, tenant: str, *, after: str, limit: int) -> list[PositionAccount]:
    """Position accounts by currency, after one."""
    rows = await conn.execute(
        text(
            f"SELECT {_POSITION} FROM position_accounts WHERE tenant = :tenant"  # noqa: S608
            ' AND currency COLLATE "C" > :after ORDER BY currency COLLATE "C" LIMIT :limit'
        ),
        {"tenant": tenant, "after": after, "limit": limit},
    )
    return [PositionAccount(*row) for row in rows]


async def add_quote(conn: AsyncConnection, quote: Quote) -> None:
    """Writes a quote; quotes are never changed."""
    await conn.execute(
        text(
            f"INSERT INTO quotes ({_QUOTE}) VALUES (:tenant, :id, :customer, :debit_currency, :debit_amount,"  # noqa: S608
            " :credit_currency, :credit_amount, CAST(:rate AS numeric), :rate_name, :rate_version, :rate_time,"
            " :debit_position, :credit_position, :expire_time, :create_time)"
        ),
        {
            "tenant": quote.tenant,
            "id": quote.id,
            "customer": quote.customer,
            "debit_currency": quote.debit_currency,
            "debit_amount": quote.debit_amount,
            "credit_currency": quote.credit_currency,
            "credit_amount": quote.credit_amount,
            "rate": rate_text(quote.rate),
            "rate_name": quote.rate_name,
            "rate_version": quote.rate_version,
            "rate_time": quote.rate_time,
            "debit_position": quote.debit_position,
            "credit_position": quote.credit_position,
            "expire_time": quote.expire_time,
            "create_time": quote.create_time,
        },
    )


async def read_quotes(conn: AsyncConnection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Quote]:
    """Quotes by (tenant, id); those that do not exist are missing."""
    rows = await fetch(
        conn,
        f"SELECT {_QUOTE} FROM quotes JOIN unnest(%s::text[], %s::text[]) AS k(tenant, id) USING (tenant, id)",  # noqa: S608
        ([tenant for tenant, _ in wanted], [id_ for _, id_ in wanted]),
    )
    return {(row[0], row[1]): _quote(row) for row in rows}


async def lock_quotes(conn: AsyncConnection, wanted: Sequence[tuple[str, str]]) -> datetime:
    """Waits until nobody else uses the quotes, (tenant, id), and keeps others waiting until the transaction's end.
    Gives the time by then, which is the database's: all replicas have the same."""
    slots = sorted({zlib.crc32("\0".join(place).encode()) % _LOCKS for place in wanted})
    await execute(
        conn, "SELECT pg_advisory_xact_lock(%s, slot) FROM unnest(%s::integer[]) AS slot", (_LOCK_CLASS, slots)
    )
    ((moment,),) = await fetch(conn, "SELECT clock_timestamp()", ())
    return clock.of_machine(moment)


async def users_of(conn: AsyncConnection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The ids of the transfers that use quotes, by (tenant, quote)."""
    rows = await fetch(
        conn,
        "SELECT tenant, quote, id FROM transfers JOIN unnest(%s::text[], %s::text[]) AS k(tenant, quote)"
        " USING (tenant, quote) WHERE quote IS NOT NULL",
        ([tenant for tenant, _ in wanted], [id_ for _, id_ in wanted]),
    )
    return {(row[0], row[1]): row[2] for row in rows}


def _rate(row: Sequence[Any]) -> ExchangeRate:
    tenant, base, counter, version, rate, *rest = row
    return ExchangeRate(tenant, base, counter, version, int(rate.scaleb(RATE_PLACES)), *rest)


def _quote(row: Sequence[Any]) -> Quote:
    values = [*row[:7], int(row[7].scaleb(RATE_PLACES)), *row[8:]]
    return Quote(*values)
