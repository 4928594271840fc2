"""The checks of the archive that take it whole, for `florin verify`, as SQL on accounts' database; those of single rows
are among the checker's rules."""

from __future__ import annotations

from typing import Any

import psycopg


def hold(accounts: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Keeps every period as it is while the connection stands, attached or not: a snapshot shows the catalogue of the
    time it was taken, and the rows of the tables that are attached now. It begins a new snapshot."""
    accounts.execute("SELECT pg_advisory_lock_shared(hashtext('archive_attached'), 0)")
    accounts.rollback()


# (invariant, service, statement whose every row is a violation as text)
ARCHIVE: tuple[tuple[str, str, str], ...] = (
    # What the archive tells of an account's period without looking into it is what is in it.
    (
        "INV-2",
        "accounts",
        (
            "SELECT tenant || '/accounts/' || account || ': archived period ' || period || ' is told as '"
            " || coalesce(s.told, 'nothing') || ', and has ' || coalesce(e.told, 'nothing')"
            " FROM (SELECT tenant, account, period, concat_ws(' ', first_sequence, last_sequence, opening, closing,"
            " first_time, last_time, is_dated) AS told FROM archived_spans"
            " WHERE period IN (SELECT period FROM attached_periods)) AS s"
            " FULL JOIN (SELECT tenant, account, period, concat_ws(' ', min(sequence), max(sequence),"
            " (array_agg(balance_after - amount ORDER BY sequence))[1],"
            " (array_agg(balance_after ORDER BY sequence DESC))[1], min(create_time), max(create_time),"
            " bool_or(effective_time <> create_time)) AS told FROM archived_entries GROUP BY tenant, account, period)"
            " AS e USING (tenant, account, period) WHERE s.told IS DISTINCT FROM e.told"
        ),
    ),
    (
        "INV-9",
        "accounts",
        (
            "SELECT tenant || ': archived period ' || period || ' is told to have ' || coalesce(p.told, 'nothing')"
            " || ', and has ' || coalesce(e.told, 'nothing')"
            " FROM (SELECT tenant, period, journals || ' journals and ' || entries || ' entries' AS told"
            " FROM archived_periods WHERE period IN (SELECT period FROM attached_periods)) AS p"
            " FULL JOIN (SELECT tenant, period,"
            " count(DISTINCT journal) || ' journals and ' || count(*) || ' entries' AS told FROM archived_entries"
            " GROUP BY tenant, period) AS e USING (tenant, period) WHERE p.told IS DISTINCT FROM e.told"
        ),
    ),
    (
        "INV-9",
        "accounts",
        (
            "SELECT tenant || ': the periods that are not attached have ' || p.journals || ' journals, and '"
            " || coalesce(d.journals, 0) || ' sealed ones are not there'"
            " FROM (SELECT tenant, sum(journals) AS journals FROM archived_periods"
            " WHERE period NOT IN (SELECT period FROM attached_periods) GROUP BY tenant) AS p"
            " LEFT JOIN (SELECT tenant, count(*) AS journals FROM detached_journals GROUP BY tenant) AS d"
            " USING (tenant) WHERE p.journals <> coalesce(d.journals, 0)"
        ),
    ),
    (
        "INV-9",
        "accounts",
        (
            "SELECT j.tenant || '/journals/' || j.journal || ' is archived and not sealed' FROM archived_journals AS j"
            " WHERE NOT EXISTS (SELECT 1 FROM sealed_journals AS s WHERE s.tenant = j.tenant AND s.journal = j.journal)"
        ),
    ),
    # Beside the owner one role takes rows out of the ledger; none changes them, or takes them out of the archive. The
    # service's own role is looked at elsewhere, with all of its tables.
    (
        "INV-4",
        "accounts",
        (
            "SELECT coalesce(r.rolname, 'everybody') || ' may ' || g.privilege_type || ' ' || c.relname"
            " FROM pg_class AS c, aclexplode(c.relacl) AS g LEFT JOIN pg_roles AS r ON r.oid = g.grantee"
            " WHERE c.relkind IN ('r', 'p') AND g.grantee <> c.relowner"
            " AND r.rolname IS DISTINCT FROM 'accounts_runtime'"
            " AND ((c.relname IN ('journals', 'entries') AND g.privilege_type IN ('UPDATE', 'TRUNCATE'))"
            " OR (c.relname ~ '^archived_(journals|entries)'"
            " AND g.privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE')))"
        ),
    ),
)
