"""Files of payments and their items."""

from alembic import op

from meshkit.migrations import runtime_role, tenant_table

revision = "0006"
down_revision = "0005"

FILES = """
CREATE TABLE payment_files (
    tenant text NOT NULL,
    id text NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL,
    format text NOT NULL,
    subject text NOT NULL,
    customer text,
    scopes text NOT NULL,
    message_id text NOT NULL,
    message_key uuid NOT NULL,
    initiating_party bytea NOT NULL,
    sha256 text NOT NULL,
    size_bytes bigint NOT NULL,
    items integer NOT NULL,
    waiting integer NOT NULL,
    under_way integer NOT NULL DEFAULT 0,
    completed integer NOT NULL DEFAULT 0,
    declined integer NOT NULL DEFAULT 0,
    refused integer NOT NULL,
    cancelled integer NOT NULL DEFAULT 0,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    finish_time timestamptz,
    due_time timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    CONSTRAINT payment_files_pk PRIMARY KEY (tenant, id),
    CONSTRAINT inv_5_one_message_one_file UNIQUE (tenant, message_key),
    CONSTRAINT payment_files_state_known CHECK (state IN ('PROCESSING', 'CANCELLING', 'FINISHED')),
    CONSTRAINT payment_files_format_known CHECK (format IN ('PAIN_001', 'CSV')),
    CONSTRAINT payment_files_count_each_item_once
        CHECK (waiting + under_way + completed + declined + refused + cancelled = items),
    CONSTRAINT payment_files_counts_not_negative
        CHECK (least(waiting, under_way, completed, declined, refused, cancelled) >= 0),
    CONSTRAINT payment_files_finished_when_all_ended
        CHECK (state <> 'FINISHED' OR (waiting + under_way = 0 AND finish_time IS NOT NULL AND due_time IS NULL))
) WITH (fillfactor = 70)
"""
ITEMS = """
CREATE TABLE payment_file_items (
    tenant text NOT NULL,
    file text NOT NULL,
    number integer NOT NULL,
    line integer NOT NULL,
    state text NOT NULL,
    information_id text NOT NULL,
    instruction_id text NOT NULL,
    end_to_end_id text NOT NULL,
    amount text NOT NULL,
    currency text NOT NULL,
    request bytea,
    transfer text NOT NULL DEFAULT '',
    status bytea,
    CONSTRAINT payment_file_items_pk PRIMARY KEY (tenant, file, number),
    CONSTRAINT payment_file_items_file FOREIGN KEY (tenant, file) REFERENCES payment_files (tenant, id),
    CONSTRAINT payment_file_items_state_known
        CHECK (state IN ('WAITING', 'UNDER_WAY', 'COMPLETED', 'DECLINED', 'REFUSED', 'CANCELLED')),
    CONSTRAINT payment_file_items_moved_by_a_transfer
        CHECK (state NOT IN ('COMPLETED', 'DECLINED') OR transfer <> ''),
    CONSTRAINT payment_file_items_no_transfer_where_none_was_made
        CHECK (state NOT IN ('WAITING', 'REFUSED', 'CANCELLED') OR transfer = ''),
    CONSTRAINT payment_file_items_keep_what_is_to_be_asked
        CHECK ((request IS NOT NULL) = (state = 'WAITING' OR (state = 'UNDER_WAY' AND transfer = ''))),
    CONSTRAINT payment_file_items_say_why CHECK ((status IS NOT NULL) = (state IN ('DECLINED', 'REFUSED')))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)
"""


def upgrade() -> None:
    role = runtime_role()
    statements = [
        FILES,
        "CREATE INDEX payment_files_due ON payment_files (due_time) WHERE due_time IS NOT NULL",
        "CREATE INDEX payment_files_newest ON payment_files (tenant, create_time DESC, id DESC)",
        (
            "CREATE INDEX payment_files_customers ON payment_files (tenant, customer, create_time DESC, id DESC)"
            " WHERE customer IS NOT NULL"
        ),
        ITEMS,
        (
            "CREATE INDEX payment_file_items_open ON payment_file_items (tenant, file, state, number)"
            " WHERE state IN ('WAITING', 'UNDER_WAY')"
        ),
        *tenant_table("payment_files", role),
        *tenant_table("payment_file_items", role),
        f'REVOKE DELETE ON payment_files, payment_file_items FROM "{role}"',
    ]
    for statement in statements:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
