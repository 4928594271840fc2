"""Forward-only schema migrations, run by a command as the database's owner, never at a service's start.

A service's revisions stand in `<service>/migrations/versions/`; the tables that every service has come from
`kit_tables_v1` and what changed them later, `outbox_v2`, none of which changes any more.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import URL

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

_role: ContextVar[str] = ContextVar("florin_runtime_role")

# One migration at a time per database, whoever runs it.
_ADVISORY_LOCK = 0x666C6F72
_LOCK_AGAIN_SECONDS = 0.1

_TENANTS = "(SELECT string_to_array(current_setting('florin.tenants', true), ','))::text[]"
TENANT_POLICY = f"tenant = ANY ({_TENANTS}) OR (SELECT current_setting('florin.tenants', true)) = '*'"
"""Fails closed: without the setting the comparison is NULL. The subselects are evaluated once a statement."""


def runtime_role() -> str:
    """The role that the running migration grants to."""
    return _role.get()


def head(package: str) -> str:
    """The newest revision of a service's schema, which its code is written for.

    Read from the files' names, "0001_what_it_does.py": a service that serves does without the tools for migrating.
    """
    revisions = [path.name.split("_")[0] for path in _folder(package).glob("versions/[0-9]*_*.py")]
    if not revisions:
        raise RuntimeError(f"{package} has no migrations")
    return max(revisions)


def scripts(package: str) -> ScriptDirectory:
    """The revisions of a service."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_folder(package)))
    return ScriptDirectory.from_config(config)


def _folder(package: str) -> Path:
    return Path(str(resources.files(package))) / "migrations"


def upgrade(owner_url: URL, package: str, role: str) -> None:
    """Brings a service's database to its newest schema. Safe to run at any time and by several at once.

    A schema that is newer than this code, as after a way back to an earlier version, stays as it is.
    """
    # Imported here and in `scripts`: a quarter of a second of CPU and 10 MB that a service at work does not need.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext

    directory = scripts(package)
    engine = sa.create_engine(owner_url, connect_args={"options": "-c lock_timeout=10000"})
    token = _role.set(role)
    try:
        with engine.connect() as connection:
            # Asked for again and again: who waits in the statement holds a snapshot, and an index that is built
            # CONCURRENTLY by the one who has the lock waits for that.
            while not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK}):
                connection.commit()
                time.sleep(_LOCK_AGAIN_SECONDS)
            present = MigrationContext.configure(connection).get_current_revision()
            connection.commit()
            if present is not None and present > head(package):
                return
            environment = EnvironmentContext(
                Config(), directory, fn=lambda revision, _context: directory._upgrade_revs("head", revision)
            )
            with environment:
                environment.configure(connection=connection, transaction_per_migration=True)
                with environment.begin_transaction():
                    environment.run_migrations()
            connection.commit()
            connection.execute(sa.text(f'GRANT SELECT ON alembic_version TO "{role}"'))
            connection.commit()
    finally:
        _role.reset(token)
        engine.dispose()


def tenant_table(table: str, role: str, *, append_only: bool = False) -> list[str]:
    """Row-level security by tenant and the runtime role's rights on a table with a `tenant` column."""
    rights = "SELECT, INSERT" if append_only else "SELECT, INSERT, UPDATE, DELETE"
    return [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY {table}_tenant ON {table} USING ({TENANT_POLICY}) WITH CHECK ({TENANT_POLICY})",
        f'GRANT {rights} ON {table} TO "{role}"',
    ]


def kit_tables_v1(role: str) -> list[str]:
    """Statements that create what every service has: outbox, inbox, requests (idempotency) and audit."""
    return [*_event_tables_v1(role), *_request_tables_v1(role)]


def _event_tables_v1(role: str) -> list[str]:
    return [
        """
        CREATE TABLE outbox (
            tenant text NOT NULL,
            id bigint GENERATED ALWAYS AS IDENTITY,
            partition smallint NOT NULL,
            event_id uuid NOT NULL,
            subject text NOT NULL,
            aggregate text NOT NULL,
            version bigint NOT NULL,
            time timestamptz NOT NULL,
            traceparent text NOT NULL,
            data bytea NOT NULL,
            published_at timestamptz,
            CONSTRAINT outbox_pk PRIMARY KEY (tenant, id),
            CONSTRAINT inv_7_one_event_per_version UNIQUE (tenant, aggregate, version),
            CONSTRAINT outbox_version_positive CHECK (version > 0)
        ) WITH (autovacuum_vacuum_scale_factor = 0.02)
        """,
        "CREATE INDEX outbox_unpublished ON outbox (partition, id) WHERE published_at IS NULL",
        "CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at IS NOT NULL",
        *tenant_table("outbox", role),
        """
        CREATE TABLE inbox (
            tenant text NOT NULL,
            source text NOT NULL,
            aggregate text NOT NULL,
            version bigint NOT NULL,
            update_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT inbox_pk PRIMARY KEY (tenant, source, aggregate)
        ) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)
        """,
        "CREATE INDEX inbox_update_time ON inbox (update_time)",
        *tenant_table("inbox", role),
    ]


def outbox_v2(role: str) -> list[str]:
    """Statements that let events wait in a narrow table of their own, beside the outbox, whose rows then never change.

    To mark a row as published was to write it anew, with all of its indexes. The version before this one may go on
    meanwhile: a trigger notes what it writes, and what it marks as published is told a second time, which the broker
    and the inboxes take for what it is. It goes by `published_at`, which nothing here reads.
    """
    return [
        """
        CREATE TABLE outbox_waiting (
            tenant text NOT NULL,
            partition smallint NOT NULL,
            id bigint NOT NULL,
            CONSTRAINT outbox_waiting_pk PRIMARY KEY (partition, id)
        ) WITH (autovacuum_vacuum_scale_factor = 0.02)
        """,
        *tenant_table("outbox_waiting", role),
        """
        CREATE TABLE outbox_rounds (
            tenant text NOT NULL,
            id bigint GENERATED ALWAYS AS IDENTITY,
            published_at timestamptz NOT NULL DEFAULT now(),
            partitions smallint[] NOT NULL,
            ids bigint[] NOT NULL,
            CONSTRAINT outbox_rounds_pk PRIMARY KEY (tenant, id),
            CONSTRAINT outbox_rounds_pairs CHECK (cardinality(partitions) = cardinality(ids))
        )
        """,
        "CREATE INDEX outbox_rounds_published ON outbox_rounds (published_at)",
        *tenant_table("outbox_rounds", role),
        """
        CREATE FUNCTION outbox_rows_wait() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
        BEGIN
            INSERT INTO outbox_waiting (tenant, partition, id) SELECT tenant, partition, id FROM added;
            RETURN NULL;
        END
        $$
        """,
        "SELECT set_config('florin.tenants', '*', true)",  # the owner too is bound by the policies
        # What was published is many rows, and nobody has to wait while they are read; what was since then is few.
        _ROUNDS_OF_OLD.format("IS NOT NULL"),
        "LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE",
        (
            "CREATE TRIGGER outbox_rows_wait AFTER INSERT ON outbox"
            " REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION outbox_rows_wait()"
        ),
        _ROUNDS_OF_OLD.format("> coalesce((SELECT max(published_at) FROM outbox_rounds), '-infinity')"),
        (
            "INSERT INTO outbox_waiting (tenant, partition, id)"
            " SELECT tenant, partition, id FROM outbox WHERE published_at IS NULL"
        ),
        "DROP INDEX outbox_published",
        "DROP INDEX outbox_unpublished",
    ]


_ROUNDS_OF_OLD = (
    "INSERT INTO outbox_rounds (tenant, published_at, partitions, ids)"
    " SELECT tenant, published_at, array_agg(partition), array_agg(id) FROM outbox"
    " WHERE published_at {} GROUP BY tenant, published_at"
)


def _request_tables_v1(role: str) -> list[str]:
    return [
        """
        CREATE TABLE requests (
            tenant text NOT NULL,
            subject text NOT NULL,
            method text NOT NULL,
            request_id text NOT NULL,
            fingerprint bytea NOT NULL,
            name text NOT NULL DEFAULT '',
            response bytea,
            refusal bytea,
            create_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT requests_pk PRIMARY KEY (tenant, subject, method, request_id),
            CONSTRAINT inv_5_one_answer CHECK (response IS NULL OR refusal IS NULL)
        )
        """,
        "CREATE INDEX requests_create_time ON requests (create_time)",
        *tenant_table("requests", role),
        """
        CREATE TABLE audit (
            tenant text NOT NULL,
            id bigint GENERATED ALWAYS AS IDENTITY,
            time timestamptz NOT NULL DEFAULT now(),
            subject text NOT NULL,
            caller text NOT NULL,
            method text NOT NULL,
            request_id text NOT NULL,
            action text NOT NULL,
            resource text NOT NULL,
            before jsonb,
            after jsonb,
            why text NOT NULL,
            CONSTRAINT audit_pk PRIMARY KEY (tenant, id)
        )
        """,
        *tenant_table("audit", role, append_only=True),
    ]
