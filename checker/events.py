"""INV-7 in an outbox: each kept event has the id that its aggregate and version give, and versions leave no gap."""

from __future__ import annotations

import uuid

from checker.findings import Violation
from checker.tables import Connection, Rows

NAMESPACE = uuid.UUID("5f6c0c1e-8f0f-5b1e-9c53-0d6f2b0a7a11")  # meshkit.idempotency.NAMESPACE, without its imports

# Events end by their age, the oldest first: nothing is said of what was before the first that is kept.
_EVENTS = (
    "SELECT e.tenant, e.aggregate, e.version, e.event_id, CASE WHEN e.version > 1 AND p.version IS NULL"
    " THEN (SELECT max(b.version) FROM outbox AS b WHERE b.tenant = e.tenant AND b.aggregate = e.aggregate"
    " AND b.version < e.version) END"
    " FROM {rows} AS e LEFT JOIN outbox AS p"
    " ON p.tenant = e.tenant AND p.aggregate = e.aggregate AND p.version = e.before"
)


def violations(connection: Connection, rows: Rows) -> list[Violation]:
    """What is wrong with some rows of an outbox."""
    found = []
    place = f"{rows.table.service}: "
    for tenant, aggregate, version, event_id, jumped_from in connection.execute(
        rows.statement(_EVENTS), rows.parameters()
    ):
        if event_id != uuid.uuid5(NAMESPACE, f"{tenant}/{aggregate}#{version}"):
            found.append(Violation("INV-7", tenant, "", aggregate, f" version {version} has another event id", place))
        if jumped_from is not None:
            sentence = f" jumps from version {jumped_from} to {version}"
            found.append(Violation("INV-7", tenant, "", aggregate, sentence, place))
    return found
