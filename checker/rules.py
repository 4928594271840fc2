"""The invariants that one database can be asked for, as SQL over the rows of a table; it asks nothing itself.

Each rule says what is wrong with rows of its table, whatever other rows there are: so it can be asked about all of them
at once, about a slice, or about those that were added. What a row is compared with is found by an index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from checker import archive
from checker.findings import Violation
from checker.tables import (
    ACCOUNTS,
    DEPOSITS,
    ENTRIES,
    JOURNAL_ACCOUNTS,
    JOURNAL_METADATA,
    JOURNALS,
    LIMIT_USAGE,
    OVERDRAFT_CHANGES,
    PAYMENT_FILE_ITEMS,
    PAYMENT_FILES,
    RAIL_EXCEPTIONS,
    SCHEDULE_RUNS,
    SCHEDULES,
    TRANSFERS,
    WITHDRAWALS,
    Connection,
    Rows,
    Table,
)
from meshkit import clock

# Of a transfer: what is wrong with an exchange may be wrong in both of its currencies.
_CURRENCY = "CASE WHEN t.rate IS NULL THEN t.currency ELSE '' END"
# The entry before one of the ledger may be archived, and its period not attached: what is told of that goes for it.
_BEFORE = (
    " LEFT JOIN all_entries AS p ON p.tenant = e.tenant AND p.account = e.account AND p.sequence = e.before"
    " LEFT JOIN archived_spans AS q ON q.tenant = e.tenant AND q.account = e.account AND q.last_sequence = e.before"
)
_BALANCE_BEFORE, _TIME_BEFORE = "coalesce(p.balance_after, q.closing)", "coalesce(p.create_time, q.last_time)"
# Asked last, of the few that are not as they should be.
_IS_AT_HAND = (
    "(SELECT count(*) FROM detached_journals AS d WHERE d.tenant = {0}.tenant AND d.journal = {0}.journal) = 0"
)
_CAPTURES = (
    "(SELECT sum(c.amount) AS total, sum(c.fee) AS fees FROM transfers AS c WHERE c.tenant = t.tenant"
    " AND c.capture_of = t.id AND c.capture_of <> '' AND c.state IN ('COMPLETED', 'REVERSED'))"
)

_LAST_ENTRY = (
    "LEFT JOIN LATERAL (SELECT balance_after, sequence FROM entries WHERE tenant = a.tenant AND account = a.account"
    " ORDER BY sequence DESC LIMIT 1) AS e ON true"
)
_LAST_SPAN = (
    "LEFT JOIN LATERAL (SELECT closing, last_sequence FROM archived_spans WHERE tenant = a.tenant"
    " AND account = a.account ORDER BY period DESC LIMIT 1) AS s ON true"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A statement whose every row is a violation: tenant, currency, object, sentence. `{rows}` are the rows of `table`
    that are judged; `{slice}` is what their key has to be."""

    invariant: str
    table: Table
    statement: str

    def violations(self, connection: Connection, rows: Rows, ahead: timedelta | None = None) -> list[Violation]:
        """What is wrong with some rows; `ahead` is how far the bank's time is ahead of the database's, unless it is as
        in this process."""
        return violations(connection, (self,), rows, ahead)


def violations(
    connection: Connection, rules: Sequence[Rule], rows: Rows, ahead: timedelta | None = None
) -> list[Violation]:
    """What is wrong with some rows by any of the rules, which are of their table: the rows are read once for all."""
    if not rules:
        return []
    text = " UNION ALL ".join(
        f"SELECT {number}, v.* FROM ({rule.statement}) AS v(tenant, currency, object, sentence)"
        for number, rule in enumerate(rules)
    )
    parameters = {**rows.parameters(), "ahead": clock.ahead() if ahead is None else ahead}
    found = connection.execute(rows.statement(text), parameters)
    return [Violation(rules[number].invariant, *row) for number, *row in found]


ON_JOURNALS = (
    Rule(
        "INV-1",
        JOURNALS,
        "SELECT j.tenant, e.currency, 'journals/' || j.journal, ': ' || e.currency || ' sums to ' || sum(e.amount)"
        " FROM {rows} AS j JOIN all_entries AS e USING (tenant, journal) GROUP BY j.tenant, j.journal, e.currency"
        " HAVING sum(e.amount) <> 0",
    ),
    Rule(
        "INV-1",
        JOURNALS,
        "SELECT j.tenant, coalesce(e.currency, ''), 'journals/' || j.journal, ' has fewer than two entries'"
        " FROM {rows} AS j LEFT JOIN LATERAL (SELECT min(currency) AS currency, count(*) AS number"
        " FROM all_entries WHERE tenant = j.tenant AND journal = j.journal) AS e ON true"
        f" WHERE e.number < 2 AND {_IS_AT_HAND.format('j')}",
    ),
)

# What the bank posts itself says so, is audited, and is found by its accounts and by what is written on it.
ON_MANUAL_JOURNALS = (
    Rule(
        "INV-6",
        JOURNALS,
        "SELECT j.tenant, '', 'journals/' || j.journal, ' of kind ' || j.kind || ' has the origin ' || j.origin"
        " FROM {rows} AS j WHERE (j.kind = 4) <> (j.origin = 'manual' OR starts_with(j.origin, 'manual/'))",
    ),
    Rule(
        "INV-6",
        JOURNALS,
        "SELECT j.tenant, '', 'journals/' || j.journal, ' was posted by the bank itself and is not audited'"
        " FROM {rows} AS j WHERE j.kind = 4 AND (SELECT count(*) FROM audit WHERE tenant = j.tenant"
        " AND action = 'post_journal' AND resource = 'journals/' || j.journal) = 0",
    ),
    Rule(
        "INV-6",
        JOURNALS,
        "SELECT DISTINCT e.tenant, '', 'journals/' || e.journal, ' is not found by what it touches: accounts/'"
        " || e.account FROM {rows} AS j JOIN all_entries AS e USING (tenant, journal) WHERE j.kind = 4 AND NOT EXISTS"
        " (SELECT 1 FROM journal_accounts AS f WHERE f.tenant = j.tenant AND f.account = e.account"
        " AND f.create_time = j.create_time AND f.journal = j.journal)",
    ),
    Rule(
        "INV-6",
        JOURNAL_ACCOUNTS,
        "SELECT f.tenant, '', 'journals/' || f.journal, ' is not found by what it touches: accounts/' || f.account"
        " FROM {rows} AS f WHERE NOT EXISTS (SELECT 1 FROM journals AS j JOIN all_entries AS e USING (tenant, journal)"
        " WHERE j.tenant = f.tenant AND j.journal = f.journal AND j.kind = 4 AND j.create_time = f.create_time"
        f" AND e.account = f.account) AND {_IS_AT_HAND.format('f')}",
    ),
    Rule(
        "INV-6",
        JOURNAL_METADATA,
        "SELECT m.tenant, '', 'journals/' || m.journal, ' has metadata, and is none that may have some: ' || m.key"
        " FROM {rows} AS m LEFT JOIN journals AS j USING (tenant, journal)"
        " WHERE j.kind IS DISTINCT FROM 4 OR m.create_time <> j.create_time",
    ),
)

ON_ENTRIES = (
    Rule(
        "INV-1",
        ENTRIES,
        "SELECT DISTINCT e.tenant, e.currency, 'journals/' || e.journal, ' has entries and does not exist'"
        " FROM {rows} AS e WHERE NOT EXISTS"
        " (SELECT 1 FROM all_journals AS j WHERE j.tenant = e.tenant AND j.journal = e.journal)",
    ),
    Rule(
        "INV-2",
        ENTRIES,
        "SELECT e.tenant, '', 'accounts/' || e.account, ': entry ' || e.sequence || ' is in ' || e.currency"
        " || coalesce(', the account in ' || a.currency, ', and there is no such account')"
        " FROM {rows} AS e LEFT JOIN accounts AS a USING (tenant, account)"
        " WHERE a.currency IS DISTINCT FROM e.currency",
    ),
    # Each follows from the one before it, so the last is the sum of all of them.
    Rule(
        "INV-2",
        ENTRIES,
        "SELECT e.tenant, e.currency, 'accounts/' || e.account, ': entry ' || e.sequence || ' says ' || e.balance_after"
        " || CASE WHEN e.sequence < 1 THEN ', and comes before the first one'"
        f" WHEN e.sequence > 1 AND {_BALANCE_BEFORE} IS NULL THEN ', and the one before it is gone'"
        f" ELSE ', the sum is ' || coalesce({_BALANCE_BEFORE}, 0) + e.amount END"
        f" FROM {{rows}} AS e{_BEFORE} WHERE e.sequence < 1 OR (e.sequence > 1 AND {_BALANCE_BEFORE} IS NULL)"
        f" OR e.balance_after <> coalesce({_BALANCE_BEFORE}, 0) + e.amount",
    ),
    Rule(
        "INV-2",
        ENTRIES,
        "SELECT e.tenant, e.currency, 'accounts/' || e.account, ': entry ' || e.sequence"
        " || ' was recorded before the one before it'"
        f" FROM {{rows}} AS e{_BEFORE} WHERE e.create_time < {_TIME_BEFORE}",
    ),
    # An entry that a version without times of entries added can be recorded later than its journal: with the entry
    # before, or at the end of a period that was stated. That one was moved to just such a moment cannot be told.
    Rule(
        "INV-2",
        ENTRIES,
        "SELECT e.tenant, e.currency, 'accounts/' || e.account, ': entry ' || e.sequence"
        " || ' has other times than its journal'"
        f" FROM {{rows}} AS e JOIN all_journals AS j USING (tenant, journal){_BEFORE}"
        " WHERE e.effective_time <> j.effective_time"
        " OR e.create_time < j.create_time OR (e.create_time > j.create_time"
        f" AND e.create_time IS DISTINCT FROM {_TIME_BEFORE} AND NOT EXISTS (SELECT 1 FROM statements AS s"
        " WHERE s.tenant = e.tenant AND s.account = e.account AND s.end_time = e.create_time))",
    ),
)

ON_ACCOUNTS = (
    Rule(
        "INV-2",
        ACCOUNTS,
        "SELECT a.tenant, a.currency, 'accounts/' || a.account, ': posted ' || a.posted || ' at ' || a.sequence"
        " || ', entries ' || coalesce(e.balance_after, s.closing, 0) || ' at '"
        f" || coalesce(e.sequence, s.last_sequence, 0) FROM {{rows}} AS a {_LAST_ENTRY} {_LAST_SPAN}"
        " WHERE a.posted <> coalesce(e.balance_after, s.closing, 0)"
        " OR a.sequence <> coalesce(e.sequence, s.last_sequence, 0)",
    ),
    Rule(
        "INV-3",
        ACCOUNTS,
        "SELECT a.tenant, a.currency, 'accounts/' || a.account, ': held ' || a.held || ', holds '"
        " || coalesce(h.total, 0) FROM {rows} AS a LEFT JOIN LATERAL (SELECT sum(amount) AS total FROM holds"
        " WHERE tenant = a.tenant AND account = a.account AND state = 1) AS h ON true"
        " WHERE a.held <> coalesce(h.total, 0)",
    ),
    Rule(
        "INV-3",
        ACCOUNTS,
        "SELECT tenant, currency, 'accounts/' || account, ': available '"
        " || posted - held + overdraft_limit - minimum_balance"
        " FROM {rows} AS a WHERE type = 1 AND posted - held + overdraft_limit - minimum_balance < 0",
    ),
    Rule(
        "INV-3",
        ACCOUNTS,
        "SELECT tenant, currency, 'accounts/' || account, ': minimum balance ' || minimum_balance"
        " || ' and overdraft limit ' || overdraft_limit FROM {rows} AS a WHERE minimum_balance < 0"
        " OR (minimum_balance > 0 AND (overdraft_limit > 0 OR type <> 1))",
    ),
)

RULES = (
    *ON_JOURNALS,
    *ON_MANUAL_JOURNALS,
    *ON_ENTRIES,
    *ON_ACCOUNTS,
    *(Rule("INV-2", *rule) for rule in archive.RULES),
    # What waits must be what its account still has: whoever changes that ends it in the same transaction.
    Rule(
        "INV-3",
        OVERDRAFT_CHANGES,
        "SELECT c.tenant, c.currency, 'overdraftChanges/' || c.change, ' waits to raise ' || c.previous_limit || ', '"
        " || 'accounts/' || c.account || ' has ' || a.overdraft_limit || ', a minimum of ' || a.minimum_balance"
        " || ' and state ' || a.state FROM {rows} AS c JOIN accounts AS a USING (tenant, account)"
        " WHERE c.state = 1 AND (a.overdraft_limit <> c.previous_limit OR a.minimum_balance > 0 OR a.state = 4)",
    ),
    Rule(
        "INV-5",
        TRANSFERS,
        f"SELECT t.tenant, {_CURRENCY}, 'transfers/' || t.id, ' was made by the request that made ' || o.id"
        " FROM {rows} AS t JOIN transfers AS o ON o.tenant = t.tenant AND o.request_key = t.request_key"
        " AND o.id < t.id",
    ),
    Rule(
        "INV-6",
        TRANSFERS,
        f"SELECT t.tenant, {_CURRENCY}, 'transfers/' || t.id, ' is ' || t.state || ' with journal [' || t.journal"
        " || ']'"
        " FROM {rows} AS t WHERE (t.state IN ('COMPLETED', 'REVERSED')) <> (t.journal <> '')",
    ),
    Rule(
        "INV-6",
        TRANSFERS,
        f"SELECT t.tenant, {_CURRENCY}, 'transfers/' || t.id, ' is ' || t.state || ' and captured ' || t.captured"
        f" || ', its captures moved ' || coalesce(c.total, 0) FROM {{rows}} AS t CROSS JOIN LATERAL {_CAPTURES} AS c"
        " WHERE t.captured <> coalesce(c.total, 0)",
    ),
    Rule(
        "INV-6",
        TRANSFERS,
        f"SELECT t.tenant, {_CURRENCY}, 'transfers/' || t.id, ' was priced at ' || coalesce(t.fee, 0)"
        f" || ', its captures were charged ' || coalesce(c.fees, 0) FROM {{rows}} AS t CROSS JOIN LATERAL {_CAPTURES}"
        " AS c WHERE c.total IS NOT NULL AND (coalesce(c.fees, 0) > coalesce(t.fee, 0)"
        " OR (t.captured = t.amount AND coalesce(c.fees, 0) <> coalesce(t.fee, 0)))",
    ),
    Rule(
        "INV-6",
        TRANSFERS,
        f"SELECT t.tenant, {_CURRENCY}, 'transfers/' || t.id, ' was priced by version ' || t.fee_version || ' of '"
        " || t.fee_schedule || ', which does not say so' FROM {rows} AS t LEFT JOIN fee_schedule_versions AS v"
        " ON v.tenant = t.tenant AND v.version = t.fee_version AND v.account = t.fee_account"
        " AND 'feeSchedules/' || lower(v.kind) || '-' || lower(v.currency) = t.fee_schedule"
        " WHERE t.fee IS NOT NULL AND (v.tenant IS NULL OR t.fee > v.maximum)",
    ),
    Rule(
        "INV-6",
        TRANSFERS,
        "SELECT t.tenant, '', 'transfers/' || t.id, ' changed ' || t.amount || ' ' || t.currency || ' into '"
        " || t.credit_amount || ' ' || t.credit_currency || ', which quotes/' || t.quote || ' does not say'"
        " FROM {rows} AS t LEFT JOIN quotes AS q ON q.tenant = t.tenant AND q.id = t.quote"
        " AND (q.debit_amount, q.debit_currency, q.credit_amount, q.credit_currency, q.rate)"
        " = (t.amount, t.currency, t.credit_amount, t.credit_currency, t.rate)"
        " AND (q.debit_position, q.credit_position) = (t.debit_position, t.credit_position)"
        " WHERE t.quote IS NOT NULL AND q.id IS NULL",
    ),
    Rule(
        "INV-6",
        TRANSFERS,
        "SELECT t.tenant, '', 'transfers/' || t.id, ' does not move back what ' || o.id || ' changed'"
        " FROM {rows} AS t JOIN transfers AS o ON o.tenant = t.tenant AND o.id = t.reversal_of"
        " WHERE t.state = 'COMPLETED' AND o.rate IS NOT NULL"
        " AND (t.amount, t.currency, t.credit_amount, t.credit_currency, t.debit_position, t.credit_position)"
        " IS DISTINCT FROM (o.credit_amount, o.credit_currency, o.amount, o.currency, o.credit_position,"
        " o.debit_position)",
    ),
    Rule(
        "INV-5",
        PAYMENT_FILES,
        "SELECT f.tenant, '', 'paymentFiles/' || f.id, ': counts '"
        " || concat_ws(',', f.waiting, f.under_way, f.completed, f.declined, f.refused, f.cancelled) || ', items '"
        " || concat_ws(',', i.waiting, i.under_way, i.completed, i.declined, i.refused, i.cancelled)"
        " FROM {rows} AS f LEFT JOIN LATERAL (SELECT"
        " count(*) FILTER (WHERE state = 'WAITING') AS waiting,"
        " count(*) FILTER (WHERE state = 'UNDER_WAY') AS under_way,"
        " count(*) FILTER (WHERE state = 'COMPLETED') AS completed,"
        " count(*) FILTER (WHERE state = 'DECLINED') AS declined,"
        " count(*) FILTER (WHERE state = 'REFUSED') AS refused,"
        " count(*) FILTER (WHERE state = 'CANCELLED') AS cancelled"
        " FROM payment_file_items WHERE tenant = f.tenant AND file = f.id) AS i ON true"
        " WHERE (f.waiting, f.under_way, f.completed, f.declined, f.refused, f.cancelled) IS DISTINCT FROM"
        " (i.waiting, i.under_way, i.completed, i.declined, i.refused, i.cancelled)",
    ),
    Rule(
        "INV-5",
        PAYMENT_FILE_ITEMS,
        "SELECT i.tenant, coalesce(t.currency, ''), 'paymentFiles/' || i.file || '/' || i.number, ' is ' || i.state"
        " || ', its transfer ' || coalesce(t.state, 'is not there') FROM {rows} AS i LEFT JOIN transfers AS t"
        " ON t.tenant = i.tenant AND t.id = i.transfer WHERE i.transfer <> '' AND (t.id IS NULL"
        " OR t.request_id <> 'paymentFiles/' || i.file || '/' || i.number"
        " OR (i.state = 'COMPLETED' AND t.state NOT IN ('COMPLETED', 'REVERSED'))"
        " OR (i.state = 'DECLINED' AND t.state <> 'DECLINED'))",
    ),
    Rule(
        "INV-6",
        WITHDRAWALS,
        "SELECT w.tenant, coalesce(t.currency, ''), 'withdrawals/' || w.id, ' is ' || w.state"
        " || ', and its transfer is ' || coalesce(t.state, 'missing')"
        " || coalesce(' by ' || nullif(t.reversed_by, ''), '')"
        " FROM {rows} AS w LEFT JOIN transfers AS t ON t.tenant = w.tenant AND t.id = w.id"
        " WHERE NOT coalesce(CASE w.state"
        "  WHEN 'ACCEPTED' THEN t.state <> 'REVERSED'"
        "  WHEN 'DECLINED' THEN t.state = 'DECLINED'"
        "  WHEN 'REJECTED' THEN t.state = 'COMPLETED' OR (t.state = 'REVERSED' AND t.reversed_by = w.reversal)"
        "  WHEN 'RETURNED' THEN t.state = 'REVERSED' AND t.reversed_by = w.reversal"
        "  ELSE t.state = 'COMPLETED' END, false)",
    ),
    Rule(
        "INV-8",
        LIMIT_USAGE,
        "SELECT coalesce(u.tenant, r.tenant), coalesce(u.currency, r.currency), coalesce(u.customer, r.customer),"
        " ' ' || coalesce(u.currency, r.currency) || ' on ' || coalesce(u.day, r.day) || ': used '"
        " || coalesce(u.used, 0) || ', reservations ' || coalesce(r.total, 0)"
        " FROM {rows} AS u FULL JOIN (SELECT tenant, customer, currency, day, sum(amount) AS total"
        " FROM reservations, unnest(customers) AS customer WHERE state IN (1, 2) AND {slice}"
        " GROUP BY tenant, customer, currency, day) AS r USING (tenant, customer, currency, day)"
        " WHERE coalesce(u.used, 0) <> coalesce(r.total, 0)",
    ),
)


def _versions(table: Table, name: str, currency: str, since: str) -> Rule:
    """Whether the last event of each resource is that of its version, where it changed since then."""
    return Rule(
        "INV-7",
        table,
        f"SELECT t.tenant, {currency}, '{name}/' || t.id, ' has version ' || t.version || ' and events up to '"
        " || coalesce(o.version, 0) FROM {rows} AS t LEFT JOIN LATERAL (SELECT max(version) AS version"
        f" FROM outbox WHERE tenant = t.tenant AND aggregate = '{name}/' || t.id) AS o ON true"
        f" WHERE t.update_time > {since} AND t.version <> coalesce(o.version, 0)",
    )


def told_of(days: float) -> tuple[Rule, ...]:
    """Whether what changed in the last `days` has the events of its version: fewer than the outboxes keep events."""
    since = f"now() + %(ahead)s::interval - interval '{days * 86400:.0f} seconds'"
    return (
        _versions(TRANSFERS, "transfers", _CURRENCY, since),
        _versions(SCHEDULES, "schedules", "''", since),
        _versions(WITHDRAWALS, "withdrawals", "''", since),
        _versions(DEPOSITS, "deposits", "''", since),
        _versions(RAIL_EXCEPTIONS, "railExceptions", "''", since),
        Rule(
            "INV-7",
            SCHEDULE_RUNS,
            "SELECT r.tenant, '', 'schedules/' || r.schedule || '/runs/' || r.number, ' is ' || r.state"
            " || ' and has ' || o.number || ' events' FROM {rows} AS r CROSS JOIN LATERAL (SELECT count(*) AS number"
            " FROM outbox WHERE tenant = r.tenant AND aggregate = 'schedules/' || r.schedule || '/runs/' || r.number)"
            f" AS o WHERE r.update_time > {since}"
            " AND o.number <> (r.state IN ('COMPLETED', 'DECLINED', 'SKIPPED'))::integer",
        ),
    )


def of_table(rules: Iterable[Rule], table: Table) -> list[Rule]:
    """The rules that judge a table's rows."""
    return [rule for rule in rules if rule.table is table]
