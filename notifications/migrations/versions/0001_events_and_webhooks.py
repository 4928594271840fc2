"""The tables of notifications: events as they came in, webhook endpoints, deliveries and their attempts."""

from alembic import op

from meshkit.migrations import kit_tables_v1, runtime_role, tenant_table

revision = "0001"
down_revision = None

EVENTS = [
    """
    CREATE TABLE events (
        tenant text NOT NULL,
        position bigint GENERATED ALWAYS AS IDENTITY,
        event_id uuid NOT NULL,
        type text NOT NULL,
        subject text NOT NULL,
        sequence bigint NOT NULL,
        time timestamptz NOT NULL,
        data bytea NOT NULL,
        customers text[] NOT NULL,
        create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT events_pk PRIMARY KEY (tenant, position),
        CONSTRAINT inv_1_an_event_is_kept_once UNIQUE (tenant, event_id),
        CONSTRAINT events_sequence_positive CHECK (sequence > 0)
    )
    """,
    # Rows come in by time and leave by time: both ends of this index stay in memory.
    "CREATE INDEX events_create_time ON events (create_time)",
    """
    CREATE TABLE event_horizons (
        tenant text NOT NULL,
        purged_position bigint NOT NULL,
        CONSTRAINT event_horizons_pk PRIMARY KEY (tenant)
    )
    """,
]

WEBHOOKS = [
    """
    CREATE TABLE webhook_endpoints (
        tenant text NOT NULL,
        endpoint text NOT NULL,
        url text NOT NULL,
        event_types text[] NOT NULL,
        enabled boolean NOT NULL,
        customer text NOT NULL,
        scopes text[] NOT NULL,
        description text NOT NULL,
        secret bytea NOT NULL,
        previous_secrets bytea[] NOT NULL DEFAULT '{}',
        previous_secret_end_times timestamptz[] NOT NULL DEFAULT '{}',
        create_time timestamptz NOT NULL,
        update_time timestamptz NOT NULL,
        etag text NOT NULL,
        CONSTRAINT webhook_endpoints_pk PRIMARY KEY (tenant, endpoint),
        CONSTRAINT webhook_endpoints_previous_secrets_end
            CHECK (cardinality(previous_secrets) = cardinality(previous_secret_end_times))
    )
    """,
    "CREATE INDEX webhook_endpoints_customer ON webhook_endpoints (tenant, customer)",
    """
    CREATE TABLE deliveries (
        tenant text NOT NULL,
        delivery uuid NOT NULL DEFAULT gen_random_uuid(),
        endpoint text NOT NULL,
        position bigint NOT NULL,
        event_id uuid NOT NULL,
        type text NOT NULL,
        state smallint NOT NULL DEFAULT 1,
        attempt_count integer NOT NULL DEFAULT 0,
        failure_count integer NOT NULL DEFAULT 0,
        due_time timestamptz,
        lease uuid,
        create_time timestamptz NOT NULL,
        update_time timestamptz NOT NULL,
        CONSTRAINT deliveries_pk PRIMARY KEY (tenant, delivery),
        CONSTRAINT inv_2_one_delivery_per_event_and_endpoint UNIQUE (tenant, endpoint, event_id),
        CONSTRAINT inv_3_pending_means_due CHECK ((state = 1) = (due_time IS NOT NULL)),
        CONSTRAINT deliveries_state_known CHECK (state IN (1, 2, 3)),
        CONSTRAINT deliveries_lease_only_while_pending CHECK (lease IS NULL OR state = 1),
        CONSTRAINT deliveries_endpoint_fk FOREIGN KEY (tenant, endpoint)
            REFERENCES webhook_endpoints (tenant, endpoint) ON DELETE CASCADE,
        CONSTRAINT deliveries_event_fk FOREIGN KEY (tenant, position)
            REFERENCES events (tenant, position) ON DELETE CASCADE
    ) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)
    """,
    "CREATE INDEX deliveries_due ON deliveries (tenant, endpoint, due_time) WHERE state = 1",
    "CREATE INDEX deliveries_by_endpoint ON deliveries (tenant, endpoint, create_time, position)",
    "CREATE INDEX deliveries_by_event ON deliveries (tenant, position)",
    """
    CREATE TABLE delivery_attempts (
        tenant text NOT NULL,
        delivery uuid NOT NULL,
        attempt uuid NOT NULL,
        create_time timestamptz NOT NULL,
        http_status integer NOT NULL,
        error text NOT NULL,
        duration_ms integer NOT NULL,
        CONSTRAINT inv_4_an_attempt_is_recorded_once PRIMARY KEY (tenant, delivery, attempt),
        CONSTRAINT delivery_attempts_delivery_fk FOREIGN KEY (tenant, delivery)
            REFERENCES deliveries (tenant, delivery) ON DELETE CASCADE
    )
    """,
]

# The service may add events and attempts, never change or delete one. What is old enough leaves through this function,
# which runs with the owner's rights, keeps at least an hour, and moves the tenant's horizon in the same transaction;
# deliveries and attempts go with their event.
PURGE = """
    CREATE FUNCTION purge_events(keep interval, at_most integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT
    BEGIN ATOMIC
        WITH old AS (
            SELECT tenant, position FROM events
            WHERE create_time < now() - greatest(keep, interval '1 hour')
            ORDER BY create_time LIMIT at_most
        ), gone AS (
            DELETE FROM events USING old
            WHERE events.tenant = old.tenant AND events.position = old.position
            RETURNING events.tenant, events.position
        ), moved AS (
            INSERT INTO event_horizons AS horizon (tenant, purged_position)
            SELECT tenant, max(position) FROM gone GROUP BY tenant ORDER BY tenant
            ON CONFLICT (tenant) DO UPDATE
            SET purged_position = greatest(horizon.purged_position, excluded.purged_position)
        )
        SELECT count(*) FROM gone;
    END
"""


def upgrade() -> None:
    role = runtime_role()
    for statement in (
        *kit_tables_v1(role),
        *EVENTS,
        *tenant_table("events", role, append_only=True),
        *tenant_table("event_horizons", role, append_only=True),
        *WEBHOOKS,
        *tenant_table("webhook_endpoints", role),
        *tenant_table("deliveries", role),
        *tenant_table("delivery_attempts", role, append_only=True),
        PURGE,
        "REVOKE ALL ON FUNCTION purge_events(interval, integer) FROM PUBLIC",
        f'GRANT EXECUTE ON FUNCTION purge_events(interval, integer) TO "{role}"',
    ):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
