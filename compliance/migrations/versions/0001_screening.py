"""The tables of compliance: customers and their KYC, limits, rules, watchlists, decisions, reservations and cases."""

from alembic import op

from meshkit.migrations import kit_tables_v1, runtime_role, tenant_table

revision = "0001"
down_revision = None

# Projections of accounts' events: what is needed of them to decide without asking.
PROJECTIONS = [
    """
    CREATE TABLE tenants (
        tenant text NOT NULL,
        time_zone text NOT NULL,
        create_time timestamptz NOT NULL,
        CONSTRAINT tenants_pk PRIMARY KEY (tenant)
    )
    """,
    """
    CREATE TABLE customers (
        tenant text NOT NULL,
        customer text NOT NULL,
        create_time timestamptz NOT NULL,
        CONSTRAINT customers_pk PRIMARY KEY (tenant, customer)
    )
    """,
    """
    CREATE TABLE kyc_profiles (
        tenant text NOT NULL,
        customer text NOT NULL,
        legal_name bytea NOT NULL,
        country_code text NOT NULL,
        birth_date bytea NOT NULL,
        state smallint NOT NULL,
        watchlist_matches text[] NOT NULL,
        submitted_by text NOT NULL,
        decided_by text NOT NULL DEFAULT '',
        reason text NOT NULL DEFAULT '',
        version bigint NOT NULL,
        create_time timestamptz NOT NULL,
        update_time timestamptz NOT NULL,
        CONSTRAINT kyc_profiles_pk PRIMARY KEY (tenant, customer),
        CONSTRAINT kyc_profiles_customer_fk FOREIGN KEY (tenant, customer) REFERENCES customers (tenant, customer),
        CONSTRAINT kyc_profiles_state_known CHECK (state IN (1, 2, 3)),
        CONSTRAINT inv_c2_decided_by_another CHECK (state = 1 OR (decided_by <> '' AND decided_by <> submitted_by))
    )
    """,
]

POLICIES = [
    """
    CREATE TABLE limits (
        tenant text NOT NULL,
        kind smallint NOT NULL,
        currency text NOT NULL,
        customer text NOT NULL,
        limit_id text NOT NULL,
        maximum bigint NOT NULL,
        version bigint NOT NULL,
        update_time timestamptz NOT NULL,
        updated_by text NOT NULL,
        CONSTRAINT limits_pk PRIMARY KEY (tenant, kind, currency, customer),
        CONSTRAINT limits_id_unique UNIQUE (tenant, limit_id),
        CONSTRAINT limits_kind_known CHECK (kind IN (1, 2)),
        CONSTRAINT limits_maximum_not_negative CHECK (maximum >= 0)
    )
    """,
    """
    CREATE TABLE rules (
        tenant text NOT NULL,
        rule text NOT NULL,
        version bigint NOT NULL,
        CONSTRAINT rules_pk PRIMARY KEY (tenant, rule)
    )
    """,
    """
    CREATE TABLE rule_versions (
        tenant text NOT NULL,
        rule text NOT NULL,
        version bigint NOT NULL,
        expression text NOT NULL,
        outcome smallint NOT NULL,
        enabled boolean NOT NULL,
        description text NOT NULL,
        update_time timestamptz NOT NULL,
        updated_by text NOT NULL,
        CONSTRAINT rule_versions_pk PRIMARY KEY (tenant, rule, version),
        CONSTRAINT rule_versions_rule_fk FOREIGN KEY (tenant, rule) REFERENCES rules (tenant, rule),
        CONSTRAINT rule_versions_outcome_known CHECK (outcome IN (2, 3))
    )
    """,
    """
    CREATE TABLE watchlists (
        tenant text NOT NULL,
        watchlist text NOT NULL,
        version bigint NOT NULL,
        CONSTRAINT watchlists_pk PRIMARY KEY (tenant, watchlist)
    )
    """,
    """
    CREATE TABLE watchlist_versions (
        tenant text NOT NULL,
        watchlist text NOT NULL,
        version bigint NOT NULL,
        entry_count bigint NOT NULL,
        name_count bigint NOT NULL,
        sha256 text NOT NULL,
        import_time timestamptz NOT NULL,
        imported_by text NOT NULL,
        CONSTRAINT watchlist_versions_pk PRIMARY KEY (tenant, watchlist, version),
        CONSTRAINT watchlist_versions_watchlist_fk FOREIGN KEY (tenant, watchlist)
            REFERENCES watchlists (tenant, watchlist)
    )
    """,
    # Public lists, not personal data of customers. Versions that nothing matches with any more are removed.
    """
    CREATE TABLE watchlist_names (
        tenant text NOT NULL,
        watchlist text NOT NULL,
        version bigint NOT NULL,
        ordinal integer NOT NULL,
        entry text NOT NULL,
        name text NOT NULL,
        alias boolean NOT NULL,
        country text NOT NULL,
        CONSTRAINT watchlist_names_pk PRIMARY KEY (tenant, watchlist, version, ordinal),
        CONSTRAINT watchlist_names_version_fk FOREIGN KEY (tenant, watchlist, version)
            REFERENCES watchlist_versions (tenant, watchlist, version)
    )
    """,
]

SCREENING = [
    """
    CREATE TABLE decisions (
        tenant text NOT NULL,
        key uuid NOT NULL,
        transfer text NOT NULL,
        outcome smallint NOT NULL,
        trace bytea NOT NULL,
        refusal bytea NOT NULL,
        has_case boolean NOT NULL,
        create_time timestamptz NOT NULL,
        CONSTRAINT inv_5_one_decision_per_key PRIMARY KEY (tenant, key),
        CONSTRAINT decisions_outcome_known CHECK (outcome IN (1, 2, 3)),
        CONSTRAINT decisions_decline_has_its_refusal CHECK ((outcome = 2) = (refusal <> '')),
        CONSTRAINT decisions_case_only_in_review CHECK (outcome = 3 OR NOT has_case)
    )
    """,
    # The row of a transfer is where a screening and the transfer's end meet, in whichever order they come.
    """
    CREATE TABLE reservations (
        tenant text NOT NULL,
        transfer text NOT NULL,
        key uuid,
        customers text[] NOT NULL,
        currency text NOT NULL,
        day date NOT NULL,
        amount bigint NOT NULL,
        state smallint NOT NULL,
        lease_time timestamptz NOT NULL,
        CONSTRAINT inv_c1_one_reservation_per_transfer PRIMARY KEY (tenant, transfer),
        CONSTRAINT reservations_state_known CHECK (state IN (1, 2, 3)),
        CONSTRAINT reservations_amount_not_negative CHECK (amount >= 0),
        CONSTRAINT reservations_live_was_screened CHECK (state <> 1 OR key IS NOT NULL)
    ) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05)
    """,
    "CREATE INDEX reservations_live ON reservations (lease_time) WHERE state = 1",
    "CREATE INDEX reservations_day ON reservations (day)",
    """
    CREATE TABLE limit_usage (
        tenant text NOT NULL,
        customer text NOT NULL,
        currency text NOT NULL,
        day date NOT NULL,
        used bigint NOT NULL DEFAULT 0,
        payments bigint NOT NULL DEFAULT 0,
        CONSTRAINT limit_usage_pk PRIMARY KEY (tenant, customer, currency, day),
        CONSTRAINT inv_8_used_not_negative CHECK (used >= 0 AND payments >= 0)
    ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)
    """,
    """
    CREATE TABLE cases (
        tenant text NOT NULL,
        case_id uuid NOT NULL,
        transfer text NOT NULL,
        debit_account text NOT NULL,
        customer text NOT NULL,
        currency text NOT NULL,
        amount bigint NOT NULL,
        creditor_name bytea NOT NULL,
        state smallint NOT NULL,
        requested_by text NOT NULL,
        resolved_by text NOT NULL DEFAULT '',
        reason text NOT NULL DEFAULT '',
        version bigint NOT NULL DEFAULT 1,
        create_time timestamptz NOT NULL,
        expire_time timestamptz NOT NULL,
        resolve_time timestamptz,
        CONSTRAINT cases_pk PRIMARY KEY (tenant, case_id),
        CONSTRAINT cases_one_per_transfer UNIQUE (tenant, transfer),
        CONSTRAINT cases_decision_fk FOREIGN KEY (tenant, case_id) REFERENCES decisions (tenant, key),
        CONSTRAINT cases_state_known CHECK (state IN (1, 2, 3, 4, 5)),
        CONSTRAINT cases_open_has_no_end CHECK ((state = 1) = (resolve_time IS NULL)),
        CONSTRAINT inv_c3_resolved_by_another CHECK (resolved_by <> requested_by OR resolved_by = ''),
        CONSTRAINT cases_people_resolve CHECK (state NOT IN (2, 3) OR resolved_by <> '')
    )
    """,
    "CREATE INDEX cases_open ON cases (expire_time) WHERE state = 1",
    "CREATE INDEX cases_by_time ON cases (tenant, create_time, case_id)",
]


def upgrade() -> None:
    role = runtime_role()
    plain = ("tenants", "customers", "kyc_profiles", "limits", "rules", "watchlists", "watchlist_names")
    append_only = ("rule_versions", "watchlist_versions", "decisions")
    for statement in (*kit_tables_v1(role), *PROJECTIONS, *POLICIES, *SCREENING):
        op.execute(statement)
    for table in (*plain, "reservations", "limit_usage", "cases"):
        for statement in tenant_table(table, role):
            op.execute(statement)
        if table != "watchlist_names":
            # All of them end by their state; only names of lists that nothing matches with any more are removed.
            op.execute(f'REVOKE DELETE ON {table} FROM "{role}"')
    for table in append_only:
        for statement in tenant_table(table, role, append_only=True):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
