"""Statements of settlement banks, their entries and ours as items, and what of them belongs together.

Facts never change: the runtime role may change the columns that say how far something is, and delete nothing but what
is derived from them. Whatever is looked for has a narrow table with one index: of several with the same beginning, a
plan that was made while a table was empty takes any.
"""

from __future__ import annotations

from alembic import op

from meshkit.migrations import runtime_role, tenant_table

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# One row an account; whoever changes anything of its reconciliation locks it first.
_RECONCILIATIONS = """
CREATE TABLE reconciliations (
    tenant text NOT NULL,
    account text NOT NULL,
    bank_opening bigint NOT NULL,
    ledger_opening bigint NOT NULL,
    opening_sequence bigint NOT NULL,
    bank_closing bigint NOT NULL,
    period_end date NOT NULL,
    bank_number bigint NOT NULL,
    statements bigint NOT NULL,
    bank_entries bigint NOT NULL,
    ledger_sequence bigint NOT NULL,
    matched_statements bigint NOT NULL,
    matched_sequence bigint NOT NULL,
    CONSTRAINT reconciliations_pk PRIMARY KEY (tenant, account),
    CONSTRAINT reconciliations_account_fk FOREIGN KEY (tenant, account) REFERENCES accounts (tenant, account),
    CONSTRAINT reconciliations_sequences CHECK (opening_sequence BETWEEN 0 AND ledger_sequence
        AND matched_sequence BETWEEN opening_sequence AND ledger_sequence),
    CONSTRAINT reconciliations_statements CHECK (matched_statements BETWEEN 0 AND statements)
)
"""
_STATEMENTS = """
CREATE TABLE bank_statements (
    tenant text NOT NULL,
    statement uuid NOT NULL,
    account text NOT NULL,
    number bigint NOT NULL,
    message_id text NOT NULL,
    statement_id text NOT NULL,
    bank_number bigint NOT NULL,
    identifier text NOT NULL,
    currency text NOT NULL,
    period_start date NOT NULL,
    period_end date NOT NULL,
    opening bigint NOT NULL,
    closing bigint NOT NULL,
    content bytea NOT NULL,
    entry_count bigint NOT NULL,
    first_entry bigint NOT NULL,
    duplicate_count bigint NOT NULL,
    notices bigint[] NOT NULL,
    state smallint NOT NULL,
    imported_by text NOT NULL,
    create_time timestamptz NOT NULL,
    match_time timestamptz,
    CONSTRAINT bank_statements_pk PRIMARY KEY (tenant, statement),
    CONSTRAINT bank_statements_one_a_number UNIQUE (tenant, account, number),
    CONSTRAINT bank_statements_one_an_id UNIQUE (tenant, account, statement_id),
    CONSTRAINT bank_statements_account_fk FOREIGN KEY (tenant, account) REFERENCES accounts (tenant, account),
    CONSTRAINT bank_statements_number CHECK (number > 0),
    CONSTRAINT bank_statements_period CHECK (period_start <= period_end),
    CONSTRAINT bank_statements_state CHECK (state BETWEEN 1 AND 2),
    CONSTRAINT bank_statements_matched CHECK ((state = 2) = (match_time IS NOT NULL))
)
"""
# side: 1 ledger, 2 bank. state: 1 open, 2 proposed, 3 matched, 4 resolved.
_ITEMS = """
CREATE TABLE reconciliation_items (
    tenant text NOT NULL,
    account text NOT NULL,
    side smallint NOT NULL,
    number bigint NOT NULL,
    amount bigint NOT NULL,
    value_day date NOT NULL,
    refs text[] NOT NULL,
    state smallint NOT NULL DEFAULT 1,
    match uuid,
    manual boolean NOT NULL DEFAULT false,
    duplicate boolean NOT NULL DEFAULT false,
    batch_size integer,
    journal uuid,
    statement uuid,
    entry_reference text NOT NULL DEFAULT '',
    servicer_reference text NOT NULL DEFAULT '',
    description bytea NOT NULL DEFAULT '',
    CONSTRAINT reconciliation_items_pk PRIMARY KEY (tenant, account, side, number),
    CONSTRAINT reconciliation_items_books_fk FOREIGN KEY (tenant, account) REFERENCES reconciliations (tenant, account),
    CONSTRAINT reconciliation_items_amount CHECK (amount <> 0),
    CONSTRAINT reconciliation_items_side CHECK ((side = 1 AND journal IS NOT NULL AND statement IS NULL)
        OR (side = 2 AND journal IS NULL AND statement IS NOT NULL)),
    CONSTRAINT reconciliation_items_state CHECK (state BETWEEN 1 AND 4),
    CONSTRAINT reconciliation_items_match CHECK ((state = 1) = (match IS NULL))
)
"""
# What explains the difference: the items that are open, proposed or resolved.
_UNMATCHED = """
CREATE TABLE unmatched_items (
    tenant text NOT NULL,
    account text NOT NULL,
    side smallint NOT NULL,
    number bigint NOT NULL,
    amount bigint NOT NULL,
    resolved boolean NOT NULL,
    CONSTRAINT unmatched_items_pk PRIMARY KEY (tenant, account, side, number)
) WITH (autovacuum_vacuum_scale_factor = 0.05)
"""
# Of the items that are open or proposed, but for what was stated before: a key for each reference, the empty one for
# the amount, and "#YYYY-MM-DD" for a batch of the bank's.
_KEYS = """
CREATE TABLE reconciliation_keys (
    tenant text NOT NULL,
    account text NOT NULL,
    key text COLLATE "C" NOT NULL,
    side smallint NOT NULL,
    amount bigint NOT NULL,
    value_day date NOT NULL,
    number bigint NOT NULL,
    CONSTRAINT reconciliation_keys_pk PRIMARY KEY (tenant, account, key, side, amount, value_day, number)
) WITH (autovacuum_vacuum_scale_factor = 0.05)
"""
_STATED = """
CREATE TABLE stated_references (
    tenant text NOT NULL,
    account text NOT NULL,
    reference text NOT NULL,
    amount bigint NOT NULL,
    number bigint NOT NULL,
    CONSTRAINT stated_references_pk PRIMARY KEY (tenant, account, reference, amount, number)
)
"""
# state: 1 proposed, 2 active, 3 rejected, 4 undo proposed, 5 undone. Its items never change.
_MATCHES = """
CREATE TABLE item_matches (
    tenant text NOT NULL,
    match uuid NOT NULL,
    account text NOT NULL,
    rule smallint NOT NULL,
    state smallint NOT NULL,
    ledger bigint[] NOT NULL,
    bank bigint[] NOT NULL,
    amount bigint NOT NULL,
    proposed_by text NOT NULL,
    decided_by text NOT NULL DEFAULT '',
    note text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    undo_proposed_by text NOT NULL DEFAULT '',
    undo_decided_by text NOT NULL DEFAULT '',
    undo_note text NOT NULL DEFAULT '',
    undo_reason text NOT NULL DEFAULT '',
    version bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT item_matches_pk PRIMARY KEY (tenant, match),
    CONSTRAINT item_matches_books_fk FOREIGN KEY (tenant, account) REFERENCES reconciliations (tenant, account),
    CONSTRAINT item_matches_rule CHECK (rule BETWEEN 1 AND 6),
    CONSTRAINT item_matches_state CHECK (state BETWEEN 1 AND 5),
    CONSTRAINT item_matches_items CHECK (CASE rule WHEN 6 THEN cardinality(ledger) + cardinality(bank) = 1
        ELSE least(cardinality(ledger), cardinality(bank)) = 1 END),
    CONSTRAINT item_matches_four_eyes CHECK (rule <= 4 OR state IN (1, 3) OR decided_by NOT IN ('', proposed_by)),
    CONSTRAINT item_matches_undone_by_two CHECK (state <> 5 OR undo_decided_by NOT IN ('', undo_proposed_by)),
    CONSTRAINT item_matches_version CHECK (version > 0)
)
"""
_INDEXES = ("CREATE INDEX item_matches_of_account ON item_matches (tenant, account, match)",)
_CHANGEABLE = {
    "reconciliations": (
        "bank_closing, period_end, bank_number, statements, bank_entries, ledger_sequence, matched_statements,"
        " matched_sequence"
    ),
    "bank_statements": "state, match_time",
    "reconciliation_items": "state, match, manual",
    "item_matches": (
        "state, decided_by, reason, undo_proposed_by, undo_decided_by, undo_note, undo_reason, version, update_time"
    ),
}

_DERIVED = ("unmatched_items", "reconciliation_keys")


def upgrade() -> None:
    role = runtime_role()
    for statement in (_RECONCILIATIONS, _STATEMENTS, _ITEMS, _UNMATCHED, _KEYS, _STATED, _MATCHES, *_INDEXES):
        op.execute(statement)
    for table, columns in _CHANGEABLE.items():
        for statement in tenant_table(table, role, append_only=True):
            op.execute(statement)
        op.execute(f'GRANT UPDATE ({columns}) ON {table} TO "{role}"')
    for table in _DERIVED:
        for statement in tenant_table(table, role):
            op.execute(statement)
        op.execute(f'REVOKE UPDATE ON {table} FROM "{role}"')
    for statement in tenant_table("stated_references", role, append_only=True):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
