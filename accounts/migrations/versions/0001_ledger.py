"""Tenants, customers, accounts and the ledger; what a service has in common with others comes from the kit."""

from __future__ import annotations

from alembic import op

from meshkit.migrations import kit_tables_v1, runtime_role, tenant_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ENTRY_PARTITIONS = 8

_PARTIES = """
CREATE TABLE tenants (
    tenant text NOT NULL,
    display_name text NOT NULL,
    time_zone text NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT tenants_pk PRIMARY KEY (tenant),
    CONSTRAINT tenants_id CHECK (tenant ~ '^[a-z][a-z0-9-]{0,30}$')
);
CREATE TABLE customers (
    tenant text NOT NULL,
    customer text NOT NULL,
    display_name bytea NOT NULL,
    kyc_state smallint NOT NULL,
    version bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT customers_pk PRIMARY KEY (tenant, customer),
    CONSTRAINT customers_tenant_fk FOREIGN KEY (tenant) REFERENCES tenants (tenant),
    CONSTRAINT customers_kyc_state CHECK (kyc_state BETWEEN 1 AND 3),
    CONSTRAINT customers_version CHECK (version > 0)
);
"""

# Balances change with every posting: no index has them, and pages keep room, so that updates stay within the page.
_ACCOUNTS = """
CREATE TABLE accounts (
    tenant text NOT NULL,
    account text NOT NULL,
    type smallint NOT NULL,
    state smallint NOT NULL,
    currency text NOT NULL,
    display_name text NOT NULL,
    posted bigint NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0,
    overdraft_limit bigint NOT NULL DEFAULT 0,
    sequence bigint NOT NULL DEFAULT 0,
    freeze_reason text NOT NULL DEFAULT '',
    version bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT accounts_pk PRIMARY KEY (tenant, account),
    CONSTRAINT accounts_tenant_fk FOREIGN KEY (tenant) REFERENCES tenants (tenant),
    CONSTRAINT accounts_type CHECK (type BETWEEN 1 AND 5),
    CONSTRAINT accounts_state CHECK (state BETWEEN 1 AND 4),
    CONSTRAINT accounts_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT accounts_version CHECK (version > 0),
    CONSTRAINT inv_2_sequence_not_negative CHECK (sequence >= 0),
    CONSTRAINT inv_3_held_not_negative CHECK (held >= 0),
    CONSTRAINT inv_3_available_not_negative CHECK (type <> 1 OR posted - held + overdraft_limit >= 0),
    CONSTRAINT accounts_overdraft CHECK (overdraft_limit BETWEEN 0 AND 1000000000000000
        AND (type = 1 OR overdraft_limit = 0)),
    CONSTRAINT accounts_closed_at_zero CHECK (state <> 4 OR (posted = 0 AND held = 0)),
    CONSTRAINT accounts_frozen_for_a_reason CHECK ((state = 3) = (freeze_reason <> ''))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE TABLE account_owners (
    tenant text NOT NULL,
    account text NOT NULL,
    customer text NOT NULL,
    CONSTRAINT account_owners_pk PRIMARY KEY (tenant, account, customer),
    CONSTRAINT account_owners_account_fk FOREIGN KEY (tenant, account) REFERENCES accounts (tenant, account),
    CONSTRAINT account_owners_customer_fk FOREIGN KEY (tenant, customer) REFERENCES customers (tenant, customer)
);
CREATE INDEX account_owners_customer ON account_owners (tenant, customer, account);
CREATE TABLE account_identifiers (
    tenant text NOT NULL,
    kind text NOT NULL,
    value text NOT NULL,
    account text NOT NULL,
    CONSTRAINT account_identifiers_pk PRIMARY KEY (tenant, kind, value),
    CONSTRAINT account_identifiers_account_fk FOREIGN KEY (tenant, account) REFERENCES accounts (tenant, account),
    CONSTRAINT account_identifiers_kind CHECK (kind IN ('iban', 'local'))
);
CREATE INDEX account_identifiers_account ON account_identifiers (tenant, account);
"""

_LEDGER = """
CREATE TABLE journals (
    tenant text NOT NULL,
    journal uuid NOT NULL,
    kind smallint NOT NULL,
    origin text NOT NULL,
    create_time timestamptz NOT NULL,
    effective_time timestamptz NOT NULL,
    CONSTRAINT journals_pk PRIMARY KEY (tenant, journal),
    CONSTRAINT journals_kind CHECK (kind BETWEEN 1 AND 3)
);
CREATE TABLE entries (
    tenant text NOT NULL,
    account text NOT NULL,
    sequence bigint NOT NULL,
    journal uuid NOT NULL,
    leg smallint NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL,
    balance_after bigint NOT NULL,
    CONSTRAINT inv_2_one_entry_per_sequence PRIMARY KEY (tenant, account, sequence),
    CONSTRAINT entries_account_fk FOREIGN KEY (tenant, account) REFERENCES accounts (tenant, account),
    CONSTRAINT entries_journal_fk FOREIGN KEY (tenant, journal) REFERENCES journals (tenant, journal),
    CONSTRAINT inv_2_sequence_positive CHECK (sequence > 0),
    CONSTRAINT inv_1_amount_not_zero CHECK (amount <> 0)
) PARTITION BY HASH (account);
CREATE INDEX entries_journal ON entries (tenant, journal);
CREATE TABLE holds (
    tenant text NOT NULL,
    hold uuid NOT NULL,
    account text NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL,
    state smallint NOT NULL,
    origin text NOT NULL,
    version bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT holds_pk PRIMARY KEY (tenant, hold),
    CONSTRAINT holds_account_fk FOREIGN KEY (tenant, account) REFERENCES accounts (tenant, account),
    CONSTRAINT inv_3_hold_positive CHECK (amount > 0),
    CONSTRAINT holds_state CHECK (state BETWEEN 1 AND 3)
);
CREATE INDEX holds_active ON holds (tenant, account) WHERE state = 1;
CREATE TABLE step_outcomes (
    tenant text NOT NULL,
    key uuid NOT NULL,
    outcome bytea NOT NULL,
    fingerprint bytea,
    create_time timestamptz NOT NULL,
    CONSTRAINT inv_5_one_outcome_per_key PRIMARY KEY (tenant, key)
);
"""

# Checked once a statement on all that it adds, since a trigger per row would cost a call per row: a statement that
# adds entries has to leave every journal it touches in balance, so all journals always are.
_BALANCE = """
CREATE FUNCTION inv_1_journals_balance() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    wrong record;
BEGIN
    SELECT tenant, journal, currency, sum(amount) AS total INTO wrong FROM added
    GROUP BY tenant, journal, currency HAVING sum(amount) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'inv_1: journal % of tenant % sums to % %', wrong.journal, wrong.tenant, wrong.total,
            wrong.currency USING ERRCODE = 'check_violation', CONSTRAINT = 'inv_1_journals_balance';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER inv_1_journals_balance AFTER INSERT ON entries
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION inv_1_journals_balance();
"""

_CHANGEABLE = ("customers", "accounts", "holds")
_APPEND_ONLY = ("tenants", "account_owners", "account_identifiers", "journals", "entries", "step_outcomes")


def upgrade() -> None:
    role = runtime_role()
    for block in (_PARTIES, _ACCOUNTS, _LEDGER):
        for statement in block.split(";"):
            if statement.strip():
                op.execute(statement)
    for number in range(ENTRY_PARTITIONS):
        op.execute(
            f"CREATE TABLE entries_{number} PARTITION OF entries"
            f" FOR VALUES WITH (MODULUS {ENTRY_PARTITIONS}, REMAINDER {number})"
        )
    for statement in _BALANCE.split("$$;"):
        op.execute(statement + ("$$" if "AS $$" in statement else ""))
    for table in _CHANGEABLE:
        for statement in tenant_table(table, role):
            op.execute(statement)
        # Customers, accounts and holds end by their state; their rows stay.
        op.execute(f'REVOKE DELETE ON {table} FROM "{role}"')
    for table in _APPEND_ONLY:
        for statement in tenant_table(table, role, append_only=True):
            op.execute(statement)
    for number in range(ENTRY_PARTITIONS):
        # A partition asked by its own name goes by its own policy: none, so nothing is seen.
        op.execute(f"ALTER TABLE entries_{number} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE entries_{number} FORCE ROW LEVEL SECURITY")
    for statement in kit_tables_v1(role):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
