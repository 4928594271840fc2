"""Withdrawals, deposits, what is sent and what came in, and what people have to decide about it."""

from alembic import op

from meshkit.migrations import runtime_role, tenant_table

revision = "0007"
down_revision = "0006"

WITHDRAWALS = """
CREATE TABLE withdrawals (
    tenant text NOT NULL,
    id text NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL,
    subject text NOT NULL,
    customer text,
    scopes text NOT NULL,
    request_key uuid NOT NULL,
    fingerprint bytea NOT NULL,
    debit_account text NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL,
    parties bytea NOT NULL,
    end_to_end_id text NOT NULL,
    message text NOT NULL DEFAULT '',
    rail_status text NOT NULL DEFAULT '',
    rail_reason text NOT NULL DEFAULT '',
    reversal text NOT NULL DEFAULT '',
    deposit text NOT NULL DEFAULT '',
    refusal bytea,
    customers text[] NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    send_time timestamptz,
    CONSTRAINT withdrawals_pk PRIMARY KEY (tenant, id),
    CONSTRAINT inv_5_one_request_one_withdrawal UNIQUE (tenant, request_key),
    CONSTRAINT withdrawals_state_known CHECK (state IN
        ('ACCEPTED', 'DECLINED', 'BOOKED', 'SENT', 'SETTLED', 'REJECTED', 'RETURNED', 'SUSPENDED')),
    CONSTRAINT withdrawals_declined_say_why CHECK ((refusal IS NOT NULL) = (state = 'DECLINED')),
    CONSTRAINT withdrawals_sent_in_a_message CHECK (
        (state IN ('ACCEPTED', 'DECLINED') AND message = '') OR state = 'BOOKED' OR message <> ''),
    CONSTRAINT withdrawals_sent_at_a_time
        CHECK ((send_time IS NOT NULL) = (state NOT IN ('ACCEPTED', 'DECLINED', 'BOOKED'))),
    CONSTRAINT withdrawals_rejected_are_reversed
        CHECK ((reversal <> '') = (state IN ('REJECTED', 'RETURNED', 'SUSPENDED'))),
    CONSTRAINT withdrawals_suspended_are_a_deposit CHECK ((deposit <> '') = (state = 'SUSPENDED'))
) WITH (fillfactor = 70)
"""
MESSAGES = """
CREATE TABLE rail_messages (
    tenant text NOT NULL,
    id text NOT NULL,
    currency text NOT NULL,
    payments integer NOT NULL,
    data bytea NOT NULL,
    create_time timestamptz NOT NULL,
    send_time timestamptz,
    due_time timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    CONSTRAINT rail_messages_pk PRIMARY KEY (tenant, id),
    CONSTRAINT rail_messages_due_until_sent CHECK ((due_time IS NULL) = (send_time IS NOT NULL))
)
"""
DEPOSITS = """
CREATE TABLE deposits (
    tenant text NOT NULL,
    id text NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL,
    message_id text NOT NULL,
    entry text NOT NULL,
    number integer NOT NULL,
    fingerprint bytea NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL,
    parties bytea NOT NULL,
    end_to_end_id text NOT NULL,
    concern text NOT NULL,
    withdrawal text NOT NULL,
    step integer NOT NULL DEFAULT 0,
    target text NOT NULL DEFAULT '',
    credit_account text NOT NULL DEFAULT '',
    credit_transfer text NOT NULL DEFAULT '',
    suspense_transfer text NOT NULL DEFAULT '',
    refusal bytea,
    customers text[] NOT NULL DEFAULT '{}',
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    due_time timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    CONSTRAINT deposits_pk PRIMARY KEY (tenant, id),
    CONSTRAINT inv_5_one_entry_one_deposit UNIQUE (tenant, message_id, entry, number),
    CONSTRAINT deposits_state_known
        CHECK (state IN ('RECEIVED', 'CREDITED', 'SUSPENDING', 'SUSPENDED', 'ASSIGNING')),
    CONSTRAINT deposits_due_while_something_is_to_be_done
        CHECK ((due_time IS NULL) = (state IN ('CREDITED', 'SUSPENDED'))),
    CONSTRAINT inv_6_credited_by_a_transfer
        CHECK ((credit_transfer <> '') = (state = 'CREDITED') AND (credit_account <> '') = (state = 'CREDITED')),
    CONSTRAINT inv_6_suspended_by_a_transfer
        CHECK (suspense_transfer <> '' OR state IN ('RECEIVED', 'SUSPENDING', 'CREDITED'))
) WITH (fillfactor = 70)
"""
EXCEPTIONS = """
CREATE TABLE rail_exceptions (
    tenant text NOT NULL,
    id text NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL,
    kind text NOT NULL,
    resource text NOT NULL,
    message_id text NOT NULL,
    reference text NOT NULL,
    detail text NOT NULL,
    proposed_account text NOT NULL DEFAULT '',
    proposed_reason text NOT NULL DEFAULT '',
    proposed_by text NOT NULL DEFAULT '',
    decided_by text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT rail_exceptions_pk PRIMARY KEY (tenant, id),
    CONSTRAINT rail_exceptions_state_known CHECK (state IN ('OPEN', 'PROPOSED', 'RESOLVING', 'RESOLVED')),
    CONSTRAINT rail_exceptions_kind_known CHECK (kind IN ('DEPOSIT_SUSPENDED', 'DEPOSIT_CHANGED', 'CREDIT_REVERSED',
        'ANSWER_UNKNOWN', 'ANSWER_CONTRADICTS', 'ANSWER_AMBIGUOUS', 'FILE_REJECTED')),
    CONSTRAINT rail_exceptions_by_two_people
        CHECK (state NOT IN ('RESOLVING', 'RESOLVED') OR (proposed_by <> '' AND decided_by <> proposed_by))
)
"""
FILES = """
CREATE TABLE rail_files (
    tenant text NOT NULL,
    digest text NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    message_id text NOT NULL,
    refusal text NOT NULL,
    claim_time timestamptz NOT NULL,
    done_time timestamptz,
    CONSTRAINT rail_files_pk PRIMARY KEY (tenant, digest)
)
"""
TABLES = ("withdrawals", "rail_messages", "deposits", "rail_exceptions", "rail_files")


def upgrade() -> None:
    role = runtime_role()
    statements = [
        WITHDRAWALS,
        (
            "CREATE INDEX withdrawals_open ON withdrawals (state, tenant, id)"
            " WHERE state IN ('ACCEPTED', 'BOOKED', 'SENT', 'REJECTED')"
        ),
        (
            "CREATE INDEX withdrawals_to_send ON withdrawals (tenant, currency, create_time, id)"
            " WHERE state = 'BOOKED' AND message = ''"
        ),
        "CREATE INDEX withdrawals_message ON withdrawals (tenant, message) WHERE message <> ''",
        "CREATE INDEX withdrawals_newest ON withdrawals (tenant, create_time DESC, id DESC)",
        "CREATE INDEX withdrawals_states ON withdrawals (tenant, state, create_time DESC, id DESC)",
        "CREATE INDEX withdrawals_customers ON withdrawals USING gin (customers)",
        MESSAGES,
        "CREATE INDEX rail_messages_due ON rail_messages (due_time) WHERE due_time IS NOT NULL",
        DEPOSITS,
        "CREATE INDEX deposits_due ON deposits (due_time) WHERE due_time IS NOT NULL",
        "CREATE INDEX deposits_newest ON deposits (tenant, create_time DESC, id DESC)",
        "CREATE INDEX deposits_states ON deposits (tenant, state, create_time DESC, id DESC)",
        "CREATE INDEX deposits_customers ON deposits USING gin (customers)",
        EXCEPTIONS,
        "CREATE INDEX rail_exceptions_newest ON rail_exceptions (tenant, create_time DESC, id DESC)",
        "CREATE INDEX rail_exceptions_states ON rail_exceptions (tenant, state, create_time DESC, id DESC)",
        FILES,
        *(statement for table in TABLES for statement in tenant_table(table, role)),
        f'REVOKE DELETE ON {", ".join(TABLES)} FROM "{role}"',
    ]
    for statement in statements:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
