"""What transfers cost, and foreign exchange: fee schedules, rates, position accounts and quotes, and what each transfer
was priced at.

It runs beside a service at work: transfers are locked for moments, and not read while they are.
"""

import sqlalchemy as sa
from alembic import op

from meshkit.migrations import runtime_role, tenant_table

revision = "0005"
down_revision = "0004"

# The newest version of each schedule: what is locked while the next one is made.
_SCHEDULES = """
CREATE TABLE fee_schedules (
    tenant text NOT NULL,
    kind text NOT NULL,
    currency text NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT fee_schedules_pk PRIMARY KEY (tenant, kind, currency),
    CONSTRAINT fee_schedules_version_positive CHECK (version > 0)
)
"""
_VERSIONS = """
CREATE TABLE fee_schedule_versions (
    tenant text NOT NULL,
    kind text NOT NULL,
    currency text NOT NULL,
    version bigint NOT NULL,
    fixed bigint NOT NULL,
    millionths integer NOT NULL,
    rounding text NOT NULL,
    minimum bigint NOT NULL,
    maximum bigint,
    account text NOT NULL,
    enabled boolean NOT NULL,
    start_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL,
    created_by text NOT NULL,
    CONSTRAINT fee_schedule_versions_pk PRIMARY KEY (tenant, kind, currency, version),
    CONSTRAINT fee_schedule_versions_kind_known CHECK (kind IN ('PAYMENT', 'AUTHORIZATION', 'EXCHANGE')),
    CONSTRAINT fee_schedule_versions_rounding_known CHECK (rounding IN ('HALF_EVEN', 'HALF_UP', 'UP', 'DOWN')),
    CONSTRAINT fee_schedule_versions_not_negative CHECK (fixed >= 0 AND minimum >= 0),
    CONSTRAINT fee_schedule_versions_part_of_the_whole CHECK (millionths BETWEEN 0 AND 1000000),
    CONSTRAINT fee_schedule_versions_bounds CHECK (maximum IS NULL OR maximum >= minimum)
)
"""
_RATES = """
CREATE TABLE exchange_rates (
    tenant text NOT NULL,
    base text NOT NULL,
    counter text NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT exchange_rates_pk PRIMARY KEY (tenant, base, counter),
    CONSTRAINT exchange_rates_version_positive CHECK (version > 0)
)
"""
_RATE_VERSIONS = """
CREATE TABLE exchange_rate_versions (
    tenant text NOT NULL,
    base text NOT NULL,
    counter text NOT NULL,
    version bigint NOT NULL,
    rate numeric NOT NULL,
    spread integer NOT NULL,
    source text NOT NULL,
    rate_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL,
    created_by text NOT NULL,
    CONSTRAINT exchange_rate_versions_pk PRIMARY KEY (tenant, base, counter, version),
    CONSTRAINT exchange_rate_versions_positive CHECK (rate > 0),
    CONSTRAINT exchange_rate_versions_currencies_differ CHECK (base <> counter),
    CONSTRAINT exchange_rate_versions_spread CHECK (spread BETWEEN 0 AND 500000)
)
"""
_POSITIONS = """
CREATE TABLE position_accounts (
    tenant text NOT NULL,
    currency text NOT NULL,
    account text NOT NULL,
    version bigint NOT NULL,
    update_time timestamptz NOT NULL,
    updated_by text NOT NULL,
    CONSTRAINT position_accounts_pk PRIMARY KEY (tenant, currency),
    CONSTRAINT position_accounts_version_positive CHECK (version > 0)
)
"""
_QUOTES = """
CREATE TABLE quotes (
    tenant text NOT NULL,
    id text NOT NULL,
    customer text NOT NULL,
    debit_currency text NOT NULL,
    debit_amount bigint NOT NULL,
    credit_currency text NOT NULL,
    credit_amount bigint NOT NULL,
    rate numeric NOT NULL,
    rate_name text NOT NULL,
    rate_version bigint NOT NULL,
    rate_time timestamptz NOT NULL,
    debit_position text NOT NULL,
    credit_position text NOT NULL,
    expire_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT quotes_pk PRIMARY KEY (tenant, id),
    CONSTRAINT quotes_amounts_positive CHECK (debit_amount > 0 AND credit_amount > 0),
    CONSTRAINT quotes_currencies_differ CHECK (debit_currency <> credit_currency)
)
"""
# Empty where nothing was priced: the intents of such transfers do not name these columns.
_COLUMNS = """
ALTER TABLE transfers
    ADD COLUMN fee bigint,
    ADD COLUMN fee_schedule text,
    ADD COLUMN fee_version bigint,
    ADD COLUMN fee_account text,
    ADD COLUMN credit_currency text,
    ADD COLUMN credit_amount bigint,
    ADD COLUMN rate numeric,
    ADD COLUMN debit_position text,
    ADD COLUMN credit_position text
"""
# Not validated: rows of before have none of the columns, and need not be read while the table is locked.
_PRICED = """
ALTER TABLE transfers
    ADD CONSTRAINT transfers_fee_names_what_priced_it CHECK (num_nulls(fee, fee_schedule, fee_version, fee_account)
        IN (0, 4)) NOT VALID,
    ADD CONSTRAINT transfers_fee_not_negative CHECK (fee >= 0) NOT VALID,
    ADD CONSTRAINT transfers_exchange_is_whole CHECK (num_nulls(credit_currency, credit_amount, rate, debit_position,
        credit_position) IN (0, 5)) NOT VALID,
    ADD CONSTRAINT transfers_quote_makes_an_exchange CHECK (quote IS NULL OR rate IS NOT NULL) NOT VALID,
    ADD CONSTRAINT transfers_exchange_is_positive CHECK (credit_amount > 0 AND credit_currency <> currency) NOT VALID,
    ADD CONSTRAINT transfers_exchange_is_no_authorization CHECK (rate IS NULL OR expire_time IS NULL) NOT VALID
"""
# Also one that was declined: where it gave its quote back, a copy of a request that was refused for it could be made.
_ONE_TRANSFER_A_QUOTE = """
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS inv_5_one_transfer_a_quote ON transfers (tenant, quote)
    WHERE quote IS NOT NULL
"""


def upgrade() -> None:
    role = runtime_role()
    _index_quotes()
    for statement in (_SCHEDULES, _VERSIONS, _RATES, _RATE_VERSIONS, _POSITIONS, _QUOTES):
        op.execute(statement)
    for table in ("fee_schedules", "exchange_rates", "position_accounts"):
        for statement in (*tenant_table(table, role), f'REVOKE DELETE ON {table} FROM "{role}"'):
            op.execute(statement)
    for table in ("fee_schedule_versions", "exchange_rate_versions", "quotes"):
        for statement in tenant_table(table, role, append_only=True):
            op.execute(statement)
    op.execute(_COLUMNS)
    op.execute(_PRICED)


def _index_quotes() -> None:
    """Beside a service at work, which the table's size does not stop; again where that was interrupted."""
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE transfers ADD COLUMN IF NOT EXISTS quote text")
        invalid = op.get_bind().execute(
            sa.text(
                "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('inv_5_one_transfer_a_quote') AND NOT indisvalid"
            )
        )
        if invalid.first() is not None:
            op.execute("DROP INDEX CONCURRENTLY inv_5_one_transfer_a_quote")  # left behind by an interrupted run
        op.execute(_ONE_TRANSFER_A_QUOTE)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
