"""The invariants of reconciliation that accounts' database can be asked for, as SQL; it asks nothing itself."""

from __future__ import annotations

# Of each reconciliation what its items come to, by what they explain: nothing, if they stand in a match.
_EXPLAINED = (
    "SELECT tenant, account, sum(amount) FILTER (WHERE state <> 3) AS explained,"
    " sum(amount) FILTER (WHERE side = 2) AS stated, count(*) FILTER (WHERE side = 2) AS entries"
    " FROM reconciliation_items GROUP BY tenant, account"
)

# (invariant, service, statement whose every row is a violation as text)
RECONCILIATION: tuple[tuple[str, str, str], ...] = (
    (
        "INV-2",
        "accounts",
        (
            "SELECT r.tenant || '/accounts/' || r.account || ' and its bank come to '"  # noqa: S608 - constants
            " || r.bank_closing + l.balance || ', what is open and resolved to '"
            " || r.bank_opening + r.ledger_opening + coalesce(x.explained, 0)"
            f" FROM reconciliations AS r LEFT JOIN ({_EXPLAINED}) AS x USING (tenant, account)"
            " CROSS JOIN LATERAL (SELECT CASE r.ledger_sequence WHEN 0 THEN 0 ELSE (SELECT e.balance_after"
            " FROM all_steps AS e WHERE e.tenant = r.tenant AND e.account = r.account"
            " AND e.sequence = r.ledger_sequence) END AS balance) AS l"
            " WHERE r.bank_closing + l.balance"
            " <> r.bank_opening + r.ledger_opening + coalesce(x.explained, 0)"
        ),
    ),
    (
        "INV-2",
        "accounts",
        (
            "SELECT r.tenant || '/accounts/' || r.account || ': the bank opened with ' || r.bank_opening"  # noqa: S608
            " || ', stated ' || coalesce(x.stated, 0) || ' in ' || coalesce(x.entries, 0)"
            " || ' entries, and closed with ' || r.bank_closing || ' after ' || r.bank_entries"
            f" FROM reconciliations AS r LEFT JOIN ({_EXPLAINED}) AS x USING (tenant, account)"
            " WHERE r.bank_closing <> r.bank_opening + coalesce(x.stated, 0)"
            " OR r.bank_entries <> coalesce(x.entries, 0)"
        ),
    ),
    (
        "INV-2",
        "accounts",
        (
            "SELECT s.tenant || '/bankStatements/' || s.statement || ' opens with ' || s.opening || ' and closes with '"
            " || s.closing || ', but follows ' || coalesce(s.before, r.bank_opening) || ' and has entries of '"
            " || coalesce(i.total, 0) FROM (SELECT *, lag(closing) OVER (PARTITION BY tenant, account ORDER BY number)"
            " AS before FROM bank_statements) AS s JOIN reconciliations AS r USING (tenant, account)"
            " LEFT JOIN (SELECT tenant, statement, sum(amount) AS total, count(*) AS number FROM reconciliation_items"
            " WHERE side = 2 GROUP BY tenant, statement) AS i USING (tenant, statement)"
            " WHERE s.opening <> coalesce(s.before, r.bank_opening)"
            " OR s.closing <> s.opening + coalesce(i.total, 0) OR s.entry_count <> coalesce(i.number, 0)"
        ),
    ),
    (
        "INV-2",
        "accounts",
        (
            "SELECT coalesce(e.tenant, i.tenant) || '/accounts/' || coalesce(e.account, i.account) || ': entry '"
            " || coalesce(e.sequence, i.number) || ' of ' || coalesce(e.amount::text, 'nothing') || ' is an item of '"
            " || coalesce(i.amount::text, 'nothing') FROM (SELECT e.* FROM all_entries AS e JOIN reconciliations AS r"
            " USING (tenant, account) WHERE e.sequence > r.opening_sequence AND e.sequence <= r.ledger_sequence) AS e"
            " FULL JOIN (SELECT * FROM reconciliation_items WHERE side = 1) AS i"
            " ON (i.tenant, i.account, i.number) = (e.tenant, e.account, e.sequence)"
            " WHERE (e.amount, e.journal) IS DISTINCT FROM (i.amount, i.journal) AND (e.tenant IS NOT NULL"
            " OR NOT EXISTS (SELECT 1 FROM detached_spans AS d WHERE (d.tenant, d.account) = (i.tenant, i.account)"
            " AND i.number BETWEEN d.first_sequence AND d.last_sequence))"
        ),
    ),
    (
        "INV-2",
        "accounts",
        (
            "SELECT m.tenant || '/itemMatches/' || m.match || ' is in state ' || m.state || ' and has '"
            " || cardinality(m.ledger) + cardinality(m.bank) || ' items, of which ' || coalesce(i.number, 0)"
            " || ' are in it and come to ' || coalesce(i.total, 0) FROM item_matches AS m LEFT JOIN"
            " (SELECT tenant, match, count(*) AS number, sum(amount) AS total, min(state) AS least, max(state) AS most"
            " FROM reconciliation_items WHERE match IS NOT NULL GROUP BY tenant, match) AS i USING (tenant, match)"
            " WHERE coalesce(i.number, 0) <> CASE WHEN m.state IN (3, 5) THEN 0"
            " ELSE cardinality(m.ledger) + cardinality(m.bank) END"
            " OR (i.number > 0 AND (i.least <> i.most OR i.least <>"
            " CASE WHEN m.state = 1 THEN 2 WHEN m.rule = 6 THEN 4 ELSE 3 END))"
            " OR (m.rule <> 6 AND coalesce(i.total, 0) <> 0)"
        ),
    ),
    (
        "INV-2",
        "accounts",
        (
            "SELECT coalesce(k.tenant, i.tenant) || '/accounts/' || coalesce(k.account, i.account) || ': item '"
            " || coalesce(k.number, i.number) || ' of side ' || coalesce(k.side, i.side) || ' is '"
            " || CASE WHEN k.tenant IS NULL THEN 'not ' ELSE '' END || 'found by [' || coalesce(k.key, i.key) || ']'"
            ' FROM reconciliation_keys AS k FULL JOIN (SELECT i.*, r.key COLLATE "C" AS key'
            " FROM reconciliation_items AS i CROSS JOIN LATERAL unnest(i.refs || ARRAY['']"
            " || CASE WHEN i.batch_size IS NULL THEN '{}' ELSE ARRAY['#' || i.value_day::text] END) AS r(key)"
            " WHERE i.state IN (1, 2) AND NOT i.duplicate) AS i"
            " ON (i.tenant, i.account, i.key, i.side, i.amount, i.value_day, i.number)"
            " = (k.tenant, k.account, k.key, k.side, k.amount, k.value_day, k.number)"
            " WHERE k.tenant IS NULL OR i.tenant IS NULL"
        ),
    ),
    (
        "INV-2",
        "accounts",
        (
            "SELECT coalesce(u.tenant, i.tenant) || '/accounts/' || coalesce(u.account, i.account) || ': item '"
            " || coalesce(u.number, i.number) || ' of side ' || coalesce(u.side, i.side) || ' is in state '"
            " || coalesce(i.state::text, 'none') || ' and '"
            " || CASE WHEN u.tenant IS NULL THEN 'explains nothing' ELSE 'explains ' || u.amount END"
            " FROM unmatched_items AS u FULL JOIN (SELECT * FROM reconciliation_items WHERE state <> 3) AS i"
            " USING (tenant, account, side, number)"
            " WHERE (u.amount, u.resolved) IS DISTINCT FROM (i.amount, i.state = 4)"
        ),
    ),
)
EVENTS = (
    "SELECT m.tenant || '/itemMatches/' || m.match || ' has version ' || m.version || ' and events up to '"
    " || coalesce(max(o.version), 0) FROM item_matches AS m LEFT JOIN outbox AS o"
    " ON o.tenant = m.tenant AND o.aggregate = 'itemMatches/' || m.match"
    " WHERE m.update_time > now() + %(ahead)s - interval '1 day'"
    " GROUP BY m.tenant, m.match, m.version HAVING m.version <> coalesce(max(o.version), 0)"
    " UNION ALL SELECT s.tenant || '/bankStatements/' || s.statement || ' is in state ' || s.state || ' and has events'"
    " || ' up to ' || coalesce(max(o.version), 0) FROM bank_statements AS s LEFT JOIN outbox AS o"
    " ON o.tenant = s.tenant AND o.aggregate = 'bankStatements/' || s.statement"
    " WHERE s.create_time > now() + %(ahead)s - interval '1 day'"
    " GROUP BY s.tenant, s.statement, s.state HAVING s.state <> coalesce(max(o.version), 0)"
)
"""INV-7: matches and statements whose last event is not that of their last change; of the last day, which ends `ahead`
of the database's clock."""
