"""The sealed history: a log of journals per tenant, its tree and its signed heads."""

from __future__ import annotations

from alembic import op

from meshkit.migrations import runtime_role, tenant_table

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# The default is not volatile, so no row is rewritten: all journals of before have the id of this transaction, and are
# sealed like a large batch of it. New ones come at the index's end. It is built while the table is locked, a second or
# so for a million journals: built beside them, it could be left half-made by a migration that dies.
_ORDER = """
ALTER TABLE journals ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX journals_order ON journals (xid, journal);
"""

# No foreign key to journals: it would lock each journal's row once more, and whoever may delete journals may delete
# this one's row too. `florin verify` is what finds that.
_LOG = """
CREATE TABLE sealed_journals (
    tenant text NOT NULL,
    position bigint NOT NULL,
    journal uuid NOT NULL,
    leaf_hash bytea NOT NULL,
    CONSTRAINT inv_9_one_journal_per_position PRIMARY KEY (tenant, position),
    CONSTRAINT inv_9_sealed_once UNIQUE (tenant, journal),
    CONSTRAINT sealed_journals_position CHECK (position >= 0),
    CONSTRAINT sealed_journals_leaf_hash CHECK (octet_length(leaf_hash) = 32)
);
CREATE TABLE tree_nodes (
    tenant text NOT NULL,
    level smallint NOT NULL,
    number bigint NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT inv_9_nodes_never_change PRIMARY KEY (tenant, level, number),
    CONSTRAINT tree_nodes_level CHECK (level BETWEEN 1 AND 62),
    CONSTRAINT tree_nodes_hash CHECK (octet_length(hash) = 32)
);
CREATE TABLE tree_heads (
    tenant text NOT NULL,
    tree_size bigint NOT NULL,
    number bigint NOT NULL,
    root_hash bytea NOT NULL,
    time timestamptz NOT NULL,
    key_id text NOT NULL,
    signature bytea NOT NULL,
    era smallint NOT NULL,
    server bigint NOT NULL,
    last_xid xid8 NOT NULL,
    last_journal uuid NOT NULL,
    CONSTRAINT inv_9_one_head_per_size PRIMARY KEY (tenant, tree_size),
    CONSTRAINT inv_9_heads_are_numbered UNIQUE (tenant, number),
    CONSTRAINT tree_heads_tree_size CHECK (tree_size > 0),
    CONSTRAINT tree_heads_number CHECK (number > 0),
    CONSTRAINT tree_heads_root_hash CHECK (octet_length(root_hash) = 32),
    CONSTRAINT tree_heads_signature CHECK (octet_length(signature) = 64)
);
CREATE INDEX tree_heads_cursor ON tree_heads (era, last_xid, last_journal);
"""

# By its number a journal is sealed; one of the future never would be. The service takes the default.
_NO_CHOICE = """
REVOKE INSERT ON journals FROM "{role}";
GRANT INSERT (tenant, journal, kind, origin, create_time, effective_time) ON journals TO "{role}";
"""


def upgrade() -> None:
    role = runtime_role()
    for block in (_ORDER, _LOG, _NO_CHOICE.format(role=role)):
        for statement in block.split(";"):
            if statement.strip():
                op.execute(statement)
    for table in ("sealed_journals", "tree_nodes", "tree_heads"):
        for statement in tenant_table(table, role, append_only=True):
            op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
