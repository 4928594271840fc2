"""INV-4: the services' roles lack the right to change what is append-only by their policies; it only reads."""

from __future__ import annotations

from checker.findings import Violation
from checker.tables import Connection
from meshkit import policy

_RIGHTS = (
    "SELECT t, r FROM unnest(%s::text[]) WITH ORDINALITY AS n(t, number),"
    " unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) AS r WHERE has_table_privilege(%s, t, r) ORDER BY number"
)


def violations(connection: Connection, service: str, role: str) -> tuple[int, list[Violation]]:
    """How many tables of a service are append-only, and which of them its role may change all the same."""
    tables = policy.load(service).append_only
    found = connection.execute(_RIGHTS, (list(tables), role))
    wrong = [Violation("INV-4", "", "", role, f" may {right} {table}", is_exact=True) for table, right in found]
    return len(tables), wrong
