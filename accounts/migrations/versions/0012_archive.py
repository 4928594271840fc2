"""The archive: tables that old journals and their entries are moved into, a period in each partition.

It touches no table that is there, so it runs beside a service at work.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from meshkit.migrations import TENANT_POLICY, runtime_role, tenant_table

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# The same columns as in the ledger, and the period: a journal and all of its entries are in one. No foreign keys: they
# would lock the rows of accounts at work. What they promise, `florin verify` checks.
_ARCHIVE = """
CREATE TABLE archived_journals (
    tenant text NOT NULL,
    period smallint NOT NULL,
    journal uuid NOT NULL,
    kind smallint NOT NULL,
    origin text NOT NULL,
    create_time timestamptz NOT NULL,
    effective_time timestamptz NOT NULL,
    xid xid8 NOT NULL,
    CONSTRAINT archived_journals_pk PRIMARY KEY (tenant, journal, period)
) PARTITION BY LIST (period);
CREATE TABLE archived_entries (
    tenant text NOT NULL,
    period smallint NOT NULL,
    account text NOT NULL,
    sequence bigint NOT NULL,
    journal uuid NOT NULL,
    leg smallint NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL,
    balance_after bigint NOT NULL,
    create_time timestamptz NOT NULL,
    effective_time timestamptz NOT NULL,
    CONSTRAINT archived_entries_pk PRIMARY KEY (tenant, account, sequence, period)
) PARTITION BY LIST (period);
CREATE INDEX archived_entries_journal ON archived_entries (tenant, journal);
CREATE INDEX archived_entries_dated ON archived_entries (tenant, account, effective_time)
    INCLUDE (create_time, amount) WHERE effective_time <> create_time;
CREATE TRIGGER inv_1_archived_journals_balance AFTER INSERT ON archived_entries
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION inv_1_journals_balance();
"""

# What is known of an account's period without its entries: whoever asks for the present, or for a moment before or
# after it, needs nothing of the period itself.
_ANCHORS = """
CREATE TABLE archived_spans (
    tenant text NOT NULL,
    account text NOT NULL,
    period smallint NOT NULL,
    first_sequence bigint NOT NULL,
    last_sequence bigint NOT NULL,
    opening bigint NOT NULL,
    closing bigint NOT NULL,
    first_time timestamptz NOT NULL,
    last_time timestamptz NOT NULL,
    is_dated boolean NOT NULL,
    CONSTRAINT archived_spans_pk PRIMARY KEY (tenant, account, period),
    CONSTRAINT archived_spans_sequences CHECK (first_sequence BETWEEN 1 AND last_sequence),
    CONSTRAINT archived_spans_times CHECK (first_time <= last_time)
);
CREATE TABLE archived_periods (
    tenant text NOT NULL,
    period smallint NOT NULL,
    journals bigint NOT NULL,
    entries bigint NOT NULL,
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    CONSTRAINT archived_periods_pk PRIMARY KEY (tenant, period),
    CONSTRAINT archived_periods_counts CHECK (journals > 0 AND entries >= 2 * journals),
    CONSTRAINT archived_periods_positions CHECK (first_position BETWEEN 0 AND last_position)
);
CREATE TABLE archive_progress (
    tenant text NOT NULL,
    position bigint NOT NULL,
    CONSTRAINT archive_progress_pk PRIMARY KEY (tenant),
    CONSTRAINT archive_progress_position CHECK (position >= 0)
);
"""

# The rows of journals that the bank posts itself (kind 4) stay in `journals`, with all that they are found by; their
# entries are moved. A row is in one of two places; who asks for both sees it once, since it is moved in one
# transaction. Whoever looks does so with own rights and sees own tenants.
_BOTH = """
CREATE VIEW all_journals WITH (security_invoker = true) AS
    SELECT tenant, journal, kind, origin, create_time, effective_time, xid FROM journals
    UNION ALL SELECT tenant, journal, kind, origin, create_time, effective_time, xid FROM archived_journals;
CREATE VIEW all_entries WITH (security_invoker = true) AS
    SELECT tenant, account, sequence, journal, leg, currency, amount, balance_after, create_time, effective_time
    FROM entries
    UNION ALL SELECT tenant, account, sequence, journal, leg, currency, amount, balance_after, create_time,
    effective_time FROM archived_entries;
"""

# Whether a period's tables are there is what PostgreSQL says of them, and nothing that could say otherwise.
_ATTACHED = """
CREATE VIEW attached_periods AS
    SELECT substring(c.relname FROM '[0-9]+$')::smallint AS period
    FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent IN ('archived_journals'::regclass, 'archived_entries'::regclass)
    AND c.relname ~ '_[0-9]+$'
    GROUP BY 1 HAVING count(*) = 2;
CREATE FUNCTION archive_attached(wanted smallint) RETURNS boolean LANGUAGE sql STABLE
    RETURN EXISTS (SELECT 1 FROM attached_periods WHERE period = wanted);
"""
# A step is an entry, or all of an account's entries in a period that is not attached.
_DETACHED = """
CREATE VIEW detached_spans WITH (security_invoker = true) AS
    SELECT * FROM archived_spans AS s
    WHERE NOT EXISTS (SELECT 1 FROM attached_periods AS t WHERE t.period = s.period);
CREATE VIEW detached_journals WITH (security_invoker = true) AS
    SELECT s.tenant, s.journal, s.position, min(p.period) AS period FROM archived_periods AS p
    JOIN sealed_journals AS s ON s.tenant = p.tenant AND s.position BETWEEN p.first_position AND p.last_position
    WHERE NOT EXISTS (SELECT 1 FROM attached_periods AS t WHERE t.period = p.period)
    AND NOT EXISTS (SELECT 1 FROM all_entries AS e WHERE e.tenant = s.tenant AND e.journal = s.journal)
    GROUP BY s.tenant, s.journal, s.position;
CREATE VIEW all_steps WITH (security_invoker = true) AS
    SELECT tenant, account, sequence, sequence AS first_sequence, amount, balance_after, create_time FROM all_entries
    UNION ALL SELECT tenant, account, last_sequence, first_sequence, closing - opening, closing, last_time
    FROM detached_spans;
"""

# Made beside the table and attached: that blocks nobody who reads the archive. One that was detached is left alone,
# and none is detached before the end of the transaction that asked. The check of the period spares a later attachment
# a look at every row; the policy is for the owner, who reads a table that is detached by its own name.
_OPEN = """
CREATE FUNCTION archive_open(wanted smallint) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {schema}, pg_temp AS $$
DECLARE
    parent text;
    part text;
    asked_for text := current_setting('florin.tenants', true);
    was_used boolean;
BEGIN
    LOCK TABLE ONLY archived_journals, ONLY archived_entries IN ROW EXCLUSIVE MODE;
    IF archive_attached(wanted) THEN
        RETURN true;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('archive_open'), 0);
    IF archive_attached(wanted) THEN
        RETURN true;
    END IF;
    -- By any tenant; the caller may see one.
    PERFORM set_config('florin.tenants', '*', true);
    SELECT EXISTS (SELECT 1 FROM archived_periods WHERE period = wanted) INTO was_used;
    PERFORM set_config('florin.tenants', asked_for, true);
    IF was_used THEN
        RETURN false;
    END IF;
    FOREACH parent IN ARRAY ARRAY['archived_journals', 'archived_entries'] LOOP
        part := parent || '_' || wanted;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL, CHECK (period = %s))', part, parent, wanted);
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', part);
        EXECUTE format($f$CREATE POLICY %I ON %I USING ({policy})$f$, part || '_tenant', part);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES IN (%s)', parent, part, wanted);
    END LOOP;
    RETURN true;
END
$$
"""
# `florin verify` holds this lock, shared: its snapshot would show the catalogue of then, and the rows of now.
_ALONE = """
    IF NOT pg_try_advisory_xact_lock(hashtext('archive_attached'), 0) THEN
        RAISE EXCEPTION 'florin verify reads the archive, or another changes it; run this again when that has ended'
            USING ERRCODE = 'object_in_use';
    END IF;
""".strip()
# For the owner: what is detached is a pair of tables to be dumped, and restored to be attached again. Whoever waits for
# a lock here has those behind it wait who read the archive: not for long, and less than until a deadlock is looked for.
_DETACH = """
CREATE FUNCTION archive_detach(wanted smallint) RETURNS void LANGUAGE plpgsql
SET search_path = {schema}, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    parent text;
    part text;
BEGIN
    {alone}
    PERFORM set_config('florin.tenants', '*', true);
    IF NOT archive_attached(wanted) THEN
        RAISE EXCEPTION 'the archive has no period % that is attached', wanted USING ERRCODE = 'no_data_found';
    END IF;
    IF EXISTS (SELECT 1 FROM journals AS j WHERE create_time < make_timestamptz(wanted + 1, 1, 1, 0, 0, 0, 'UTC')
        AND (kind <> 4 OR EXISTS (SELECT 1 FROM entries AS e WHERE e.tenant = j.tenant AND e.journal = j.journal)))
    THEN
        RAISE EXCEPTION 'the ledger has journals of the period % or before; archive those before %-01-01 first, and,'
            ' where some stay, up to a later time', wanted, wanted + 1 USING ERRCODE = 'object_in_use';
    END IF;
    LOCK TABLE ONLY archived_journals, ONLY archived_entries IN ACCESS EXCLUSIVE MODE;
    FOREACH parent IN ARRAY ARRAY['archived_journals', 'archived_entries'] LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, parent || '_' || wanted);
    END LOOP;
END
$$
"""
# What is in the tables is proved before, by the command: a transaction that changes something has a number, and while
# it runs no journal of a later one is sealed.
_ATTACH = """
CREATE FUNCTION archive_attach(wanted smallint) RETURNS void LANGUAGE plpgsql
SET search_path = {schema}, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    parent text;
    part text;
BEGIN
    {alone}
    FOREACH parent IN ARRAY ARRAY['archived_journals', 'archived_entries'] LOOP
        part := parent || '_' || wanted;
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', part);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES IN (%s)', parent, part, wanted);
    END LOOP;
END
$$
"""
# The one role that takes rows out of the ledger: not the service's, not the owner's. It changes no row that is moved.
_GRANT = """
CREATE FUNCTION archive_grant(role text) RETURNS void LANGUAGE plpgsql SET search_path = {schema}, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT ON tenants, journals, entries, journal_metadata, sealed_journals, tree_heads,'
        ' archived_journals, archived_entries, archived_spans, archived_periods, archive_progress TO %I', role);
    EXECUTE format('GRANT DELETE ON journals, entries TO %I', role);
    EXECUTE format('GRANT INSERT ON archived_journals, archived_entries, audit TO %I', role);
    EXECUTE format('GRANT INSERT, UPDATE ON archived_spans, archived_periods, archive_progress TO %I', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION archive_open(smallint) TO %I', role);
END
$$
"""

_TABLES = ("archived_journals", "archived_entries", "archived_spans", "archived_periods", "archive_progress")
_VIEWS = ("all_journals", "all_entries", "all_steps", "attached_periods", "detached_spans", "detached_journals")
_OWNERS_ALONE = (
    "archive_open(smallint)",
    "archive_detach(smallint)",
    "archive_attach(smallint)",
    "archive_grant(text)",
)


def upgrade() -> None:
    role = runtime_role()
    _each(_ARCHIVE)
    _each(_ANCHORS)
    for table in _TABLES:
        for statement in tenant_table(table, role, append_only=True):
            op.execute(statement)
        op.execute(f'REVOKE INSERT ON {table} FROM "{role}"')
    _each(_BOTH)
    _each(_ATTACHED)
    _each(_DETACHED)
    for view in _VIEWS:
        op.execute(f'GRANT SELECT ON {view} TO "{role}"')
    # A function that acts with its owner's rights must find no table but the owner's under a name.
    schema = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    for function in (_OPEN, _DETACH, _ATTACH, _GRANT):
        op.execute(function.format(schema=schema, policy=TENANT_POLICY, alone=_ALONE))
    for signature in _OWNERS_ALONE:
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")


def _each(block: str) -> None:
    for statement in block.split(";"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
