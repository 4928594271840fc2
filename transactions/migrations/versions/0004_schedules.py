"""Schedules with their runs, and the calendars that they go by."""

from alembic import op

from meshkit.migrations import runtime_role, tenant_table

revision = "0004"
down_revision = "0003"

_CALENDARS = """
CREATE TABLE holiday_calendars (
    tenant text NOT NULL,
    id text NOT NULL,
    version bigint NOT NULL,
    display_name text NOT NULL,
    weekend_days smallint[] NOT NULL,
    holidays date[] NOT NULL,
    holiday_names text[] NOT NULL,
    spreading boolean NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT holiday_calendars_pk PRIMARY KEY (tenant, id),
    CONSTRAINT holiday_calendars_version_positive CHECK (version > 0),
    CONSTRAINT holiday_calendars_have_business_days CHECK (cardinality(weekend_days) < 7),
    CONSTRAINT holiday_calendars_name_each_holiday CHECK (cardinality(holidays) = cardinality(holiday_names))
)
"""
_SCHEDULES = """
CREATE TABLE schedules (
    tenant text NOT NULL,
    id text NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL,
    subject text NOT NULL,
    customer text,
    scopes text NOT NULL,
    fingerprint bytea NOT NULL,
    customers text[] NOT NULL,
    debit_account text NOT NULL,
    credit_account text NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL,
    creditor_name bytea NOT NULL,
    end_to_end_id text NOT NULL,
    remittance bytea NOT NULL,
    start_date date NOT NULL,
    local_time time NOT NULL,
    time_zone text NOT NULL,
    unit text NOT NULL,
    every integer NOT NULL,
    weekdays smallint[] NOT NULL,
    month_day smallint NOT NULL,
    day_adjustment text NOT NULL,
    holiday_calendar text NOT NULL,
    calendar_version bigint NOT NULL,
    end_date date,
    run_count integer,
    retries smallint NOT NULL,
    retry_pause interval NOT NULL,
    refusal bytea,
    runs_begun integer NOT NULL DEFAULT 0,
    last_nominal_date date,
    last_run_date date,
    skip_before timestamptz,
    next_run_time timestamptz,
    due_time timestamptz,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT schedules_pk PRIMARY KEY (tenant, id),
    CONSTRAINT schedules_version_positive CHECK (version > 0),
    CONSTRAINT schedules_amount_positive CHECK (amount > 0),
    CONSTRAINT schedules_state_known CHECK (state IN ('ACTIVE', 'PAUSED', 'COMPLETED', 'CANCELLED', 'FAILED')),
    CONSTRAINT schedules_unit_known CHECK (unit IN ('ONCE', 'DAILY', 'WEEKLY', 'MONTHLY')),
    CONSTRAINT schedules_every_positive CHECK (every > 0),
    CONSTRAINT schedules_failed_has_a_refusal CHECK ((state = 'FAILED') = (refusal IS NOT NULL)),
    CONSTRAINT schedules_only_active_ones_are_due CHECK ((due_time IS NOT NULL) = (state = 'ACTIVE'))
) WITH (fillfactor = 80)
"""
_RUNS = """
CREATE TABLE schedule_runs (
    tenant text NOT NULL,
    schedule text NOT NULL,
    number integer NOT NULL,
    state text NOT NULL,
    nominal_date date NOT NULL,
    run_time timestamptz NOT NULL,
    skip text,
    amount bigint NOT NULL,
    creditor_name bytea NOT NULL,
    end_to_end_id text NOT NULL,
    remittance bytea NOT NULL,
    attempts integer NOT NULL,
    refusal bytea,
    due_time timestamptz,
    takings integer NOT NULL DEFAULT 0,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT schedule_runs_pk PRIMARY KEY (tenant, schedule, number),
    CONSTRAINT inv_5_one_run_per_date UNIQUE (tenant, schedule, nominal_date),
    CONSTRAINT schedule_runs_number_positive CHECK (number > 0),
    CONSTRAINT schedule_runs_state_known CHECK (state IN ('STARTED', 'WAITING', 'COMPLETED', 'DECLINED', 'SKIPPED')),
    CONSTRAINT schedule_runs_skip_known CHECK (skip IN ('NON_BUSINESS_DAY', 'SAME_DAY', 'PAUSED', 'TOO_LATE')),
    CONSTRAINT schedule_runs_skipped_has_a_reason CHECK ((state = 'SKIPPED') = (skip IS NOT NULL)),
    CONSTRAINT schedule_runs_skipped_tries_nothing CHECK ((state = 'SKIPPED') = (attempts = 0)),
    CONSTRAINT schedule_runs_declined_has_a_refusal
        CHECK ((state IN ('WAITING', 'DECLINED')) = (refusal IS NOT NULL)),
    CONSTRAINT schedule_runs_open_ones_are_due CHECK ((due_time IS NOT NULL) = (state IN ('STARTED', 'WAITING')))
) WITH (fillfactor = 80)
"""


def upgrade() -> None:
    role = runtime_role()
    for statement in (
        _CALENDARS,
        _SCHEDULES,
        _RUNS,
        "CREATE INDEX schedules_due ON schedules (due_time) WHERE due_time IS NOT NULL",
        "CREATE INDEX schedules_newest ON schedules (tenant, create_time DESC, id DESC)",
        "CREATE INDEX schedules_customers ON schedules USING gin (customers)",
        (
            "CREATE INDEX schedules_holiday_calendar ON schedules (tenant, holiday_calendar, calendar_version)"
            " WHERE holiday_calendar <> '' AND state = 'ACTIVE'"
        ),
        "CREATE INDEX holiday_calendars_spreading ON holiday_calendars (update_time) WHERE spreading",
        "CREATE INDEX schedule_runs_due ON schedule_runs (due_time) WHERE due_time IS NOT NULL",
        *(
            statement
            for table in ("holiday_calendars", "schedules", "schedule_runs")
            for statement in (*tenant_table(table, role), f'REVOKE DELETE ON {table} FROM "{role}"')
        ),
    ):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
