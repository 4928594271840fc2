"""The invariants that one service's database can be asked for, as SQL; it asks nothing itself."""

from __future__ import annotations

import uuid

NAMESPACE = uuid.UUID("5f6c0c1e-8f0f-5b1e-9c53-0d6f2b0a7a11")  # meshkit.idempotency.NAMESPACE, without its imports
FEES_OF_CAPTURES = (
    "SELECT tenant, capture_of, sum(fee) AS fees FROM transfers WHERE capture_of <> ''"
    " AND state IN ('COMPLETED', 'REVERSED') GROUP BY tenant, capture_of"
)
"""What the captures of each authorization were charged."""

# (invariant, service, statement whose every row is a violation as text)
SINGLE: tuple[tuple[str, str, str], ...] = (
    (
        "INV-1",
        "accounts",
        (
            "SELECT tenant || '/journals/' || journal || ': ' || currency || ' sums to ' || sum(amount)"
            " FROM entries GROUP BY tenant, journal, currency HAVING sum(amount) <> 0"
        ),
    ),
    (
        "INV-1",
        "accounts",
        (
            "SELECT tenant || '/journals/' || journal || ' has fewer than two entries' FROM journals AS j"
            " WHERE (SELECT count(*) FROM entries AS e WHERE e.tenant = j.tenant AND e.journal = j.journal) < 2"
        ),
    ),
    (
        "INV-1",
        "accounts",
        (
            "SELECT DISTINCT e.tenant || '/journals/' || e.journal || ' has entries and does not exist'"
            " FROM entries AS e WHERE NOT EXISTS"
            " (SELECT 1 FROM journals AS j WHERE j.tenant = e.tenant AND j.journal = e.journal)"
        ),
    ),
    (
        "INV-2",
        "accounts",
        (
            "SELECT a.tenant || '/accounts/' || a.account || ': posted ' || a.posted || ' at ' || a.sequence"
            " || ', entries ' || coalesce(e.total, 0) || ' at ' || coalesce(e.last, 0)"
            " FROM accounts AS a LEFT JOIN (SELECT tenant, account, sum(amount) AS total, max(sequence) AS last,"
            " count(*) AS number FROM entries GROUP BY tenant, account) AS e USING (tenant, account)"
            " WHERE a.posted <> coalesce(e.total, 0) OR a.sequence <> coalesce(e.last, 0)"
            " OR coalesce(e.last, 0) <> coalesce(e.number, 0)"
        ),
    ),
    (
        "INV-2",
        "accounts",
        (
            "SELECT tenant || '/accounts/' || account || ': entry ' || sequence || ' says ' || balance_after"
            " || ', the sum is ' || running FROM (SELECT *, sum(amount) OVER"
            " (PARTITION BY tenant, account ORDER BY sequence) AS running FROM entries) AS e"
            " WHERE balance_after <> running"
        ),
    ),
    (
        "INV-2",
        "accounts",
        (
            "SELECT tenant || '/accounts/' || account || ': entry ' || sequence"
            " || ' was recorded before the one before it' FROM (SELECT *, create_time < lag(create_time)"
            " OVER (PARTITION BY tenant, account ORDER BY sequence) AS early FROM entries) AS e WHERE early"
        ),
    ),
    # An entry that a version without times of entries added can be recorded later than its journal: with the entry
    # before, or at the end of a period that was stated. That one was moved to just such a moment cannot be told.
    (
        "INV-2",
        "accounts",
        (
            "SELECT e.tenant || '/accounts/' || e.account || ': entry ' || e.sequence || ' has other times than its"
            " journal' FROM (SELECT *, lag(create_time) OVER (PARTITION BY tenant, account ORDER BY sequence) AS before"
            " FROM entries) AS e JOIN journals AS j USING (tenant, journal) WHERE e.effective_time <> j.effective_time"
            " OR e.create_time < j.create_time OR (e.create_time > j.create_time"
            " AND e.create_time IS DISTINCT FROM e.before AND NOT EXISTS (SELECT 1 FROM statements AS s"
            " WHERE s.tenant = e.tenant AND s.account = e.account AND s.end_time = e.create_time))"
        ),
    ),
    (
        "INV-2",
        "accounts",
        (
            "SELECT s.tenant || '/statements/' || s.statement || ': ' || s.opening || ' at ' || s.opening_sequence"
            " || ' and ' || s.closing || ' at ' || s.closing_sequence || ', entries say '"
            " || coalesce(o.balance_after::text, 'nothing') || ' and ' || coalesce(c.balance_after::text, 'nothing')"
            " FROM statements AS s"
            " LEFT JOIN entries AS o ON (o.tenant, o.account, o.sequence) = (s.tenant, s.account, s.opening_sequence)"
            " LEFT JOIN entries AS c ON (c.tenant, c.account, c.sequence) = (s.tenant, s.account, s.closing_sequence)"
            " WHERE s.opening IS DISTINCT FROM CASE s.opening_sequence WHEN 0 THEN 0 ELSE o.balance_after END"
            " OR s.closing IS DISTINCT FROM CASE s.closing_sequence WHEN 0 THEN 0 ELSE c.balance_after END"
        ),
    ),
    (
        "INV-3",
        "accounts",
        (
            "SELECT a.tenant || '/accounts/' || a.account || ': held ' || a.held || ', holds ' || coalesce(h.total, 0)"
            " FROM accounts AS a LEFT JOIN (SELECT tenant, account, sum(amount) AS total FROM holds"
            " WHERE state = 1 GROUP BY tenant, account) AS h USING (tenant, account)"
            " WHERE a.held <> coalesce(h.total, 0)"
        ),
    ),
    (
        "INV-3",
        "accounts",
        (
            "SELECT tenant || '/accounts/' || account || ': available '"
            " || posted - held + overdraft_limit - minimum_balance"
            " FROM accounts WHERE type = 1 AND posted - held + overdraft_limit - minimum_balance < 0"
        ),
    ),
    (
        "INV-3",
        "accounts",
        (
            "SELECT tenant || '/accounts/' || account || ': minimum balance ' || minimum_balance"
            " || ' and overdraft limit ' || overdraft_limit FROM accounts WHERE minimum_balance < 0"
            " OR (minimum_balance > 0 AND (overdraft_limit > 0 OR type <> 1))"
        ),
    ),
    # What waits must be what its account still has: whoever changes that ends it in the same transaction.
    (
        "INV-3",
        "accounts",
        (
            "SELECT c.tenant || '/overdraftChanges/' || c.change || ' waits to raise ' || c.previous_limit || ', '"
            " || 'accounts/' || c.account || ' has ' || a.overdraft_limit || ', a minimum of ' || a.minimum_balance"
            " || ' and state ' || a.state FROM overdraft_changes AS c JOIN accounts AS a USING (tenant, account)"
            " WHERE c.state = 1 AND (a.overdraft_limit <> c.previous_limit OR a.minimum_balance > 0 OR a.state = 4)"
        ),
    ),
    (
        "INV-5",
        "transactions",
        (
            "SELECT tenant || ': request ' || min(request_id) || ' made ' || count(*) || ' transfers' FROM transfers"
            " GROUP BY tenant, request_key HAVING count(*) > 1"
        ),
    ),
    (
        "INV-6",
        "transactions",
        (
            "SELECT tenant || '/transfers/' || id || ' is ' || state || ' with journal [' || journal || ']'"
            " FROM transfers WHERE (state IN ('COMPLETED', 'REVERSED')) <> (journal <> '')"
        ),
    ),
    (
        "INV-6",
        "transactions",
        (
            "SELECT a.tenant || '/transfers/' || a.id || ' is ' || a.state || ' and captured ' || a.captured"
            " || ', its captures moved ' || coalesce(c.total, 0) FROM transfers AS a LEFT JOIN"
            " (SELECT tenant, capture_of, sum(amount) AS total FROM transfers WHERE capture_of <> ''"
            " AND state IN ('COMPLETED', 'REVERSED') GROUP BY tenant, capture_of) AS c"
            " ON c.tenant = a.tenant AND c.capture_of = a.id WHERE a.captured <> coalesce(c.total, 0)"
        ),
    ),
    (
        "INV-6",
        "transactions",
        (
            "SELECT a.tenant || '/transfers/' || a.id || ' was priced at ' || coalesce(a.fee, 0)"  # noqa: S608
            " || ', its captures were charged ' || coalesce(c.fees, 0) FROM transfers AS a"
            f" JOIN ({FEES_OF_CAPTURES}) AS c ON c.tenant = a.tenant AND c.capture_of = a.id"
            " WHERE coalesce(c.fees, 0) > coalesce(a.fee, 0)"
            " OR (a.captured = a.amount AND coalesce(c.fees, 0) <> coalesce(a.fee, 0))"
        ),
    ),
    (
        "INV-6",
        "transactions",
        (
            "SELECT t.tenant || '/transfers/' || t.id || ' was priced by version ' || t.fee_version || ' of '"
            " || t.fee_schedule || ', which does not say so' FROM transfers AS t LEFT JOIN fee_schedule_versions AS v"
            " ON v.tenant = t.tenant AND v.version = t.fee_version AND v.account = t.fee_account"
            " AND 'feeSchedules/' || lower(v.kind) || '-' || lower(v.currency) = t.fee_schedule"
            " WHERE t.fee IS NOT NULL AND (v.tenant IS NULL OR t.fee > v.maximum)"
        ),
    ),
    (
        "INV-6",
        "transactions",
        (
            "SELECT t.tenant || '/transfers/' || t.id || ' changed ' || t.amount || ' ' || t.currency || ' into '"
            " || t.credit_amount || ' ' || t.credit_currency || ', which quotes/' || t.quote || ' does not say'"
            " FROM transfers AS t LEFT JOIN quotes AS q ON q.tenant = t.tenant AND q.id = t.quote"
            " AND (q.debit_amount, q.debit_currency, q.credit_amount, q.credit_currency, q.rate)"
            " = (t.amount, t.currency, t.credit_amount, t.credit_currency, t.rate)"
            " AND (q.debit_position, q.credit_position) = (t.debit_position, t.credit_position)"
            " WHERE t.quote IS NOT NULL AND q.id IS NULL"
        ),
    ),
    (
        "INV-6",
        "transactions",
        (
            "SELECT r.tenant || '/transfers/' || r.id || ' does not move back what ' || o.id || ' changed'"
            " FROM transfers AS r JOIN transfers AS o ON o.tenant = r.tenant AND o.id = r.reversal_of"
            " WHERE r.state = 'COMPLETED' AND o.rate IS NOT NULL"
            " AND (r.amount, r.currency, r.credit_amount, r.credit_currency, r.debit_position, r.credit_position)"
            " IS DISTINCT FROM (o.credit_amount, o.credit_currency, o.amount, o.currency, o.credit_position,"
            " o.debit_position)"
        ),
    ),
    (
        "INV-5",
        "transactions",
        (
            "SELECT f.tenant || '/paymentFiles/' || f.id || ': counts '"
            " || concat_ws(',', f.waiting, f.under_way, f.completed, f.declined, f.refused, f.cancelled) || ', items '"
            " || concat_ws(',', i.waiting, i.under_way, i.completed, i.declined, i.refused, i.cancelled)"
            " FROM payment_files AS f LEFT JOIN (SELECT tenant, file,"
            " count(*) FILTER (WHERE state = 'WAITING') AS waiting,"
            " count(*) FILTER (WHERE state = 'UNDER_WAY') AS under_way,"
            " count(*) FILTER (WHERE state = 'COMPLETED') AS completed,"
            " count(*) FILTER (WHERE state = 'DECLINED') AS declined,"
            " count(*) FILTER (WHERE state = 'REFUSED') AS refused,"
            " count(*) FILTER (WHERE state = 'CANCELLED') AS cancelled"
            " FROM payment_file_items GROUP BY tenant, file) AS i ON i.tenant = f.tenant AND i.file = f.id"
            " WHERE (f.waiting, f.under_way, f.completed, f.declined, f.refused, f.cancelled) IS DISTINCT FROM"
            " (i.waiting, i.under_way, i.completed, i.declined, i.refused, i.cancelled)"
        ),
    ),
    (
        "INV-5",
        "transactions",
        (
            "SELECT i.tenant || '/paymentFiles/' || i.file || '/' || i.number || ' is ' || i.state || ', its transfer '"
            " || coalesce(t.state, 'is not there') FROM payment_file_items AS i LEFT JOIN transfers AS t"
            " ON t.tenant = i.tenant AND t.id = i.transfer WHERE i.transfer <> '' AND (t.id IS NULL"
            " OR t.request_id <> 'paymentFiles/' || i.file || '/' || i.number"
            " OR (i.state = 'COMPLETED' AND t.state NOT IN ('COMPLETED', 'REVERSED'))"
            " OR (i.state = 'DECLINED' AND t.state <> 'DECLINED'))"
        ),
    ),
    # What the bank posts itself says so, is audited, and is found by its accounts and by what is written on it.
    (
        "INV-6",
        "accounts",
        (
            "SELECT j.tenant || '/journals/' || j.journal || ' of kind ' || j.kind || ' has the origin ' || j.origin"
            " FROM journals AS j WHERE (j.kind = 4) <> (j.origin = 'manual' OR j.origin LIKE 'manual/%')"
        ),
    ),
    (
        "INV-6",
        "accounts",
        (
            "SELECT j.tenant || '/journals/' || j.journal || ' was posted by the bank itself and is not audited'"
            " FROM journals AS j WHERE j.kind = 4 AND NOT EXISTS (SELECT 1 FROM audit AS a"
            " WHERE a.tenant = j.tenant AND a.action = 'post_journal' AND a.resource = 'journals/' || j.journal)"
        ),
    ),
    (
        "INV-6",
        "accounts",
        (
            "SELECT tenant || '/journals/' || journal || ' is not found by what it touches: accounts/' || account"
            " FROM (SELECT DISTINCT e.tenant, e.account, e.journal, j.create_time FROM journals AS j"
            " JOIN entries AS e USING (tenant, journal) WHERE j.kind = 4) AS touched"
            " FULL JOIN journal_accounts AS found USING (tenant, account, journal)"
            " WHERE touched.create_time IS DISTINCT FROM found.create_time"
        ),
    ),
    (
        "INV-6",
        "accounts",
        (
            "SELECT m.tenant || '/journals/' || m.journal || ' has metadata, and is none that may have some: ' || m.key"
            " FROM journal_metadata AS m LEFT JOIN journals AS j USING (tenant, journal)"
            " WHERE j.kind IS DISTINCT FROM 4 OR m.create_time <> j.create_time"
        ),
    ),
    (
        "INV-8",
        "compliance",
        (
            "SELECT coalesce(u.tenant, r.tenant) || '/' || coalesce(u.customer, r.customer) || ' '"
            " || coalesce(u.currency, r.currency) || ' on ' || coalesce(u.day, r.day) || ': used '"
            " || coalesce(u.used, 0) || ', reservations ' || coalesce(r.total, 0)"
            " FROM limit_usage AS u FULL JOIN (SELECT tenant, customer, currency, day, sum(amount) AS total"
            " FROM reservations, unnest(customers) AS customer WHERE state IN (1, 2)"
            " GROUP BY tenant, customer, currency, day) AS r USING (tenant, customer, currency, day)"
            " WHERE coalesce(u.used, 0) <> coalesce(r.total, 0)"
        ),
    ),
)

COUNTS: tuple[tuple[str, str, str], ...] = (
    ("INV-1", "accounts", "SELECT count(*) FROM journals"),
    ("INV-2", "accounts", "SELECT count(*) FROM entries"),
    ("INV-3", "accounts", "SELECT count(*) FROM accounts"),
    ("INV-6", "accounts", "SELECT count(*) FROM journals WHERE kind = 4"),
    ("INV-5", "transactions", "SELECT count(*) FROM transfers WHERE request_id <> ''"),
    ("INV-8", "compliance", "SELECT count(*) FROM reservations"),
)
