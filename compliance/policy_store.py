"""SQL of limits, rules and watchlists; it decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from compliance.model import Limit, LimitKind, ListedName, Outcome, Rule, Watchlist
from compliance.screening import UNKNOWN_TENANT_ZONE, Policies
from meshkit.database import execute, flush

_LIMIT_COLUMNS = "tenant, kind, currency, customer, maximum, version, update_time, updated_by"
_RULES = (
    "SELECT v.tenant, v.rule, v.version, v.expression, v.outcome, v.enabled, v.description, v.update_time,"
    " v.updated_by FROM rules AS r JOIN rule_versions AS v USING (tenant, rule, version)"
)
_WATCHLISTS = (
    "SELECT v.tenant, v.watchlist, v.version, v.entry_count, v.name_count, v.sha256, v.import_time"
    " FROM watchlists AS w JOIN watchlist_versions AS v USING (tenant, watchlist, version)"
)
_NAMES_AT_ONCE = 5000  # some 500 KB a statement


async def read_policies(
    conn: AsyncConnection, tenants: Sequence[str], customers: Sequence[tuple[str, str]]
) -> dict[str, Policies]:
    """What the tenants' payments are held against now; of customers' own limits, those of `customers` alone."""
    names = sorted(set(tenants))
    zones = await execute(conn, "SELECT tenant, time_zone FROM tenants WHERE tenant = ANY(%s)", (names,))
    limits = await execute(
        conn,
        f"SELECT {_LIMIT_COLUMNS} FROM limits WHERE tenant = ANY(%s) AND customer = ''"  # noqa: S608
        f" UNION ALL SELECT {_LIMIT_COLUMNS} FROM limits"
        " WHERE customer <> '' AND (tenant, customer) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
        (names, [tenant for tenant, _ in customers], [customer for _, customer in customers]),
    )
    rules = await execute(conn, f"{_RULES} WHERE r.tenant = ANY(%s) AND v.enabled ORDER BY 1, 2", (names,))
    lists = await execute(conn, f"{_WATCHLISTS} WHERE w.tenant = ANY(%s) ORDER BY 1, 2", (names,))
    await flush(conn)
    time_zones = dict(await zones.fetchall())
    found_limits = [_limit(row) for row in await limits.fetchall()]
    found_rules = [_rule(row) for row in await rules.fetchall()]
    found_lists = [_watchlist(row) for row in await lists.fetchall()]
    return {
        tenant: Policies(
            time_zone=time_zones.get(tenant, UNKNOWN_TENANT_ZONE),
            limits={(one.kind, one.currency, one.customer): one for one in found_limits if one.tenant == tenant},
            rules=[one for one in found_rules if one.tenant == tenant],
            watchlists=[one for one in found_lists if one.tenant == tenant],
        )
        for tenant in names
    }


async def lock_limit(conn: AsyncConnection, tenant: str, kind: LimitKind, currency: str, customer: str) -> Limit | None:
    """A limit by what it is for, locked."""
    # Two who set a limit for the first time would both see none: they queue here.
    await conn.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 1))"),
        {"key": f"limits/{tenant}/{kind.value}/{currency}/{customer}"},
    )
    found = await conn.execute(
        text(
            f"SELECT {_LIMIT_COLUMNS} FROM limits WHERE tenant = :tenant AND kind = :kind"  # noqa: S608
            " AND currency = :currency AND customer = :customer FOR UPDATE"
        ),
        {"tenant": tenant, "kind": kind.value, "currency": currency, "customer": customer},
    )
    row = found.first()
    return None if row is None else _limit(row)


async def save_limit(conn: AsyncConnection, limit: Limit) -> None:
    """Writes a limit."""
    await conn.execute(
        text(
            f"INSERT INTO limits (limit_id, {_LIMIT_COLUMNS}) VALUES (:limit_id, :tenant, :kind,"  # noqa: S608
            " :currency, :customer, :maximum, :version, :update_time, :updated_by)"
            " ON CONFLICT (tenant, kind, currency, customer) DO UPDATE SET maximum = excluded.maximum,"
            " version = excluded.version, update_time = excluded.update_time, updated_by = excluded.updated_by"
        ),
        {
            "limit_id": limit.name.removeprefix("limits/"),
            "tenant": limit.tenant,
            "kind": limit.kind.value,
            "currency": limit.currency,
            "customer": limit.customer,
            "maximum": limit.maximum,
            "version": limit.version,
            "update_time": limit.update_time,
            "updated_by": limit.updated_by,
        },
    )


async def read_limit(conn: AsyncConnection, tenant: str, limit_id: str) -> Limit | None:
    """A limit by its id."""
    found = await conn.execute(
        text(f"SELECT {_LIMIT_COLUMNS} FROM limits WHERE tenant = :tenant AND limit_id = :id"),  # noqa: S608
        {"tenant": tenant, "id": limit_id},
    )
    row = found.first()
    return None if row is None else _limit(row)


async def list_limits(conn: AsyncConnection, tenant: str, *, after: str, limit: int) -> list[Limit]:
    """Limits by their ids, after one."""
    rows = await conn.execute(
        text(
            f"SELECT {_LIMIT_COLUMNS} FROM limits WHERE tenant = :tenant"  # noqa: S608
            ' AND limit_id COLLATE "C" > :after ORDER BY limit_id COLLATE "C" LIMIT :limit'
        ),
        {"tenant": tenant, "after": after, "limit": limit},
    )
    return [_limit(row) for row in rows]


async def next_rule_version(conn: AsyncConnection, tenant: str, rule: str) -> int:
    """The version that comes next; locks the rule."""
    found = await conn.execute(
        text(
            "INSERT INTO rules (tenant, rule, version) VALUES (:tenant, :rule, 1)"
            " ON CONFLICT (tenant, rule) DO UPDATE SET version = rules.version + 1 RETURNING version"
        ),
        {"tenant": tenant, "rule": rule},
    )
    return int(found.scalar_one())


async def add_rule_version(conn: AsyncConnection, rule: Rule) -> None:
    """Writes a version of a rule; versions are never changed."""
    await conn.execute(
        text(
            "INSERT INTO rule_versions (tenant, rule, version, expression, outcome, enabled, description,"
            " update_time, updated_by) VALUES (:tenant, :rule, :version, :expression, :outcome, :enabled,"
            " :description, :update_time, :updated_by)"
        ),
        {
            "tenant": rule.tenant,
            "rule": rule.id,
            "version": rule.version,
            "expression": rule.expression,
            "outcome": rule.outcome.value,
            "enabled": rule.enabled,
            "description": rule.description,
            "update_time": rule.update_time,
            "updated_by": rule.updated_by,
        },
    )


async def read_rule(conn: AsyncConnection, tenant: str, rule: str) -> Rule | None:
    """A rule in its present version."""
    found = await conn.execute(
        text(f"{_RULES} WHERE r.tenant = :tenant AND r.rule = :rule"), {"tenant": tenant, "rule": rule}
    )
    row = found.first()
    return None if row is None else _rule(row)


async def list_rules(conn: AsyncConnection, tenant: str, *, after: str, limit: int) -> list[Rule]:
    """Rules by their ids, after one."""
    rows = await conn.execute(
        text(
            f'{_RULES} WHERE r.tenant = :tenant AND r.rule COLLATE "C" > :after'
            ' ORDER BY r.rule COLLATE "C" LIMIT :limit'
        ),
        {"tenant": tenant, "after": after, "limit": limit},
    )
    return [_rule(row) for row in rows]


async def lock_watchlist(conn: AsyncConnection, tenant: str, watchlist: str) -> Watchlist | None:
    """A watchlist in its present version, locked; None when this import is its first."""
    await conn.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 1))"), {"key": f"watchlists/{tenant}/{watchlist}"}
    )
    found = await conn.execute(
        text(f"{_WATCHLISTS} WHERE w.tenant = :tenant AND w.watchlist = :watchlist"),
        {"tenant": tenant, "watchlist": watchlist},
    )
    row = found.first()
    return None if row is None else _watchlist(row)


async def add_watchlist_version(
    conn: AsyncConnection, watchlist: Watchlist, names: Sequence[ListedName], imported_by: str
) -> None:
    """Makes a version the present one, with its names, and removes names that nothing matches with any more."""
    key = {"tenant": watchlist.tenant, "watchlist": watchlist.id, "version": watchlist.version}
    await conn.execute(
        text(
            "INSERT INTO watchlists (tenant, watchlist, version) VALUES (:tenant, :watchlist, :version)"
            " ON CONFLICT (tenant, watchlist) DO UPDATE SET version = excluded.version"
        ),
        key,
    )
    await conn.execute(
        text(
            "INSERT INTO watchlist_versions (tenant, watchlist, version, entry_count, name_count, sha256,"
            " import_time, imported_by) VALUES (:tenant, :watchlist, :version, :entry_count, :name_count, :sha256,"
            " :import_time, :imported_by)"
        ),
        {
            **key,
            "entry_count": watchlist.entry_count,
            "name_count": watchlist.name_count,
            "sha256": watchlist.sha256,
            "import_time": watchlist.import_time,
            "imported_by": imported_by,
        },
    )
    for start in range(0, len(names), _NAMES_AT_ONCE):
        part = names[start : start + _NAMES_AT_ONCE]
        await conn.exec_driver_sql(
            "INSERT INTO watchlist_names (tenant, watchlist, version, ordinal, entry, name, alias, country)"
            " SELECT %s, %s, %s, n.* FROM unnest(%s::integer[], %s::text[], %s::text[], %s::boolean[], %s::text[])"
            " AS n(ordinal, entry, name, alias, country)",
            (
                watchlist.tenant,
                watchlist.id,
                watchlist.version,
                list(range(start, start + len(part))),
                [name.entry for name in part],
                [name.name for name in part],
                [name.alias for name in part],
                [name.country for name in part],
            ),
        )
    # The version before stays: a replica may be reading it into memory.
    await conn.execute(
        text(
            "DELETE FROM watchlist_names WHERE tenant = :tenant AND watchlist = :watchlist AND version < :version - 1"
        ),
        key,
    )


async def present_watchlists(conn: AsyncConnection) -> list[Watchlist]:
    """Every watchlist that the transaction may see, in its present version."""
    rows = await conn.exec_driver_sql(_WATCHLISTS)
    return [_watchlist(row) for row in rows]


async def list_watchlists(conn: AsyncConnection, tenant: str, *, after: str, limit: int) -> list[Watchlist]:
    """Watchlists by their ids, after one."""
    rows = await conn.execute(
        text(
            f'{_WATCHLISTS} WHERE w.tenant = :tenant AND w.watchlist COLLATE "C" > :after'
            ' ORDER BY w.watchlist COLLATE "C" LIMIT :limit'
        ),
        {"tenant": tenant, "after": after, "limit": limit},
    )
    return [_watchlist(row) for row in rows]


async def watchlist_names(conn: AsyncConnection, watchlist: Watchlist) -> list[ListedName]:
    """The names of one version; empty when a version after the next one replaced it meanwhile."""
    rows = await conn.execute(
        text(
            "SELECT entry, name, alias, country FROM watchlist_names"
            " WHERE tenant = :tenant AND watchlist = :watchlist AND version = :version ORDER BY ordinal"
        ),
        {"tenant": watchlist.tenant, "watchlist": watchlist.id, "version": watchlist.version},
    )
    return [ListedName(*row) for row in rows]


def _limit(row: Sequence[Any]) -> Limit:
    tenant, kind, *rest = row
    return Limit(tenant, LimitKind(kind), *rest)


def _rule(row: Sequence[Any]) -> Rule:
    tenant, rule, version, expression, outcome, *rest = row
    return Rule(tenant, rule, version, expression, Outcome(outcome), *rest)


def _watchlist(row: Sequence[Any]) -> Watchlist:
    return Watchlist(*row)
