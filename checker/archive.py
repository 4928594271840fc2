"""The archive of old periods: what is told of each account's period, and what cannot be looked at; it only reads.

A period that is not attached is judged by what is told of it, and its journals by their leaves.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from checker.tables import ACCOUNTS, ARCHIVED_SPANS, STATEMENTS, Connection, Table

_CURRENCY = "coalesce((SELECT a.currency FROM accounts AS a WHERE a.tenant = s.tenant AND a.account = s.account), '')"
_SAYS = "SELECT s.tenant, " + _CURRENCY + ", 'accounts/' || s.account, ': archived period ' || s.period || "

_BEGINS = (
    f"{_SAYS}' begins with entry ' || s.first_sequence || ' at ' || s.opening || ', the one before ended with '"
    " || coalesce(b.last_sequence, 0) || ' at ' || coalesce(b.closing, 0)"
    " FROM {rows} AS s LEFT JOIN LATERAL (SELECT last_sequence, closing FROM archived_spans WHERE tenant = s.tenant"
    " AND account = s.account AND period < s.period ORDER BY period DESC LIMIT 1) AS b ON true"
    " WHERE s.first_sequence <> coalesce(b.last_sequence, 0) + 1 OR s.opening <> coalesce(b.closing, 0)"
)
_GOES_ON = (
    "SELECT a.tenant, a.currency, 'accounts/' || a.account, ': entry ' || e.sequence || ' is the first one in the"
    " ledger, and archived are those up to ' || coalesce(s.last_sequence, 0)"
    " FROM {rows} AS a CROSS JOIN LATERAL (SELECT sequence FROM entries WHERE tenant = a.tenant"
    " AND account = a.account ORDER BY sequence LIMIT 1) AS e LEFT JOIN LATERAL (SELECT last_sequence"
    " FROM archived_spans WHERE tenant = a.tenant AND account = a.account ORDER BY period DESC LIMIT 1) AS s"
    " ON true WHERE e.sequence <> coalesce(s.last_sequence, 0) + 1"
)
_ENDS = (
    f"{_SAYS}' is told as ' || concat_ws(' ', s.opening, s.closing, s.first_time, s.last_time, s.is_dated)"
    " || ', and has ' || concat_ws(' ', f.balance_after - f.amount, l.balance_after, f.create_time, l.create_time,"
    " x.is_dated)"
    " FROM {rows} AS s LEFT JOIN archived_entries AS f ON f.tenant = s.tenant AND f.account = s.account"
    " AND f.sequence = s.first_sequence AND f.period = s.period"
    " LEFT JOIN archived_entries AS l ON l.tenant = s.tenant AND l.account = s.account"
    " AND l.sequence = s.last_sequence AND l.period = s.period"
    " CROSS JOIN LATERAL (SELECT count(*) > 0 AS is_dated FROM (SELECT 1 FROM archived_entries AS e"
    " WHERE e.tenant = s.tenant AND e.account = s.account AND e.period = s.period"
    " AND e.effective_time <> e.create_time LIMIT 1) AS d) AS x"
    " WHERE EXISTS (SELECT 1 FROM attached_periods AS t WHERE t.period = s.period)"
    " AND (s.opening, s.closing, s.first_time, s.last_time, s.is_dated) IS DISTINCT FROM"
    " (f.balance_after - f.amount, l.balance_after, f.create_time, l.create_time, x.is_dated)"
)
_SAID = "CASE s.{1}_sequence WHEN 0 THEN 0 ELSE {0}.balance_after END"
_NOT_AWAY = (
    "(SELECT count(*) FROM detached_spans AS d WHERE d.tenant = s.tenant AND d.account = s.account"
    " AND s.{0}_sequence BETWEEN d.first_sequence AND d.last_sequence) = 0"
)
_STATED = (
    "SELECT s.tenant, s.currency, 'statements/' || s.statement, ': ' || s.opening || ' at ' || s.opening_sequence"
    " || ' and ' || s.closing || ' at ' || s.closing_sequence || ', entries say '"
    " || coalesce(o.balance_after::text, 'nothing') || ' and ' || coalesce(c.balance_after::text, 'nothing')"
    " FROM {rows} AS s"
    " LEFT JOIN all_entries AS o ON (o.tenant, o.account, o.sequence) = (s.tenant, s.account, s.opening_sequence)"
    " LEFT JOIN all_entries AS c ON (c.tenant, c.account, c.sequence) = (s.tenant, s.account, s.closing_sequence)"
    f" WHERE (s.opening IS DISTINCT FROM {_SAID.format('o', 'opening')}"
    f" AND (o.sequence IS NOT NULL OR {_NOT_AWAY.format('opening')}))"
    f" OR (s.closing IS DISTINCT FROM {_SAID.format('c', 'closing')}"
    f" AND (c.sequence IS NOT NULL OR {_NOT_AWAY.format('closing')}))"
)

RULES: tuple[tuple[Table, str], ...] = (
    # What is archived is a beginning of an account's entries, in periods that follow each other.
    (ARCHIVED_SPANS, _BEGINS),
    (ACCOUNTS, _GOES_ON),
    # What is told of a period that is attached are the ends of what is in it; each entry follows from the one before.
    (ARCHIVED_SPANS, _ENDS),
    (STATEMENTS, _STATED),
)
"""What is wrong with what is told and stated, by the table whose rows are judged; INV-2."""

_AWAY = (
    "SELECT d.tenant, 'journals/' || d.journal FROM unnest(%s::text[], %s::uuid[]) AS k(tenant, journal)"
    " CROSS JOIN LATERAL (SELECT tenant, journal FROM detached_journals WHERE tenant = k.tenant"
    " AND journal = k.journal) AS d"
)


def away(accounts: Connection, journals: Collection[tuple[str, Any]]) -> set[tuple[str, str]]:
    """Those of some journals, (tenant, id), that are in a period that is not attached, by their names."""
    if not journals:
        return set()
    columns = [tenant for tenant, _ in journals], [id_ for _, id_ in journals]
    return {(tenant, name) for tenant, name in accounts.execute(_AWAY, columns)}
