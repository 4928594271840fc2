"""INV-5 for deposits: what a deposit says moved its money did, and nothing else; it only reads."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from checker.events import NAMESPACE
from checker.findings import Violation
from checker.tables import Connection, Rows

_STEPS_MAX = 1000
_BANK = ("florin/rail", "/florin.transactions.v1.RailService/-")
"""The subject and the method that transactions derives the bank's own requests by."""
_UNDER_WAY = {"RECEIVED": "/", "ASSIGNING": "/", "SUSPENDING": "/suspense/"}
"""States in which a transfer may have moved the money that is not recorded yet, and how its request is written."""

_DEPOSITS = "SELECT tenant, id, state, step, credit_transfer, suspense_transfer FROM {rows} AS d"
# By the keys, which nobody can choose; the bank's own transfers have them for ids.
_MOVED = (
    "SELECT tenant, request_key::text FROM transfers"
    " JOIN unnest(%s::text[], %s::uuid[]) AS k(tenant, request_key) USING (tenant, request_key)"
    " WHERE state IN ('COMPLETED', 'REVERSED')"
)


def violations(connection: Connection, rows: Rows) -> tuple[int, list[Violation]]:
    """How many deposits some rows are, and which of them were not credited as they say."""
    deposits = connection.execute(rows.statement(_DEPOSITS), rows.parameters()).fetchall()
    return len(deposits), _judged(connection, deposits) if deposits else []


def transfer_id(tenant: str, request_id: str) -> str:
    """The transfer of a request of the bank's own, as transactions derives it."""
    subject, method = _BANK
    return str(uuid.uuid5(NAMESPACE, "\0".join([tenant, subject, method, request_id])))


def _judged(connection: Connection, deposits: Sequence[tuple[Any, ...]]) -> list[Violation]:
    # One more than there were: a step that no deposit knows of.
    candidates = {
        (tenant, id_): {
            transfer_id(tenant, f"deposits/{id_}{form}{number}")
            for form in ("/", "/suspense/")
            for number in range(min(step, _STEPS_MAX) + 2)
        }
        for tenant, id_, _, step, _, _ in deposits
    }
    asked = [(tenant, one) for (tenant, _), ids in candidates.items() for one in ids]
    columns = [tenant for tenant, _ in asked], [one for _, one in asked]
    moved = {(tenant, id_) for tenant, id_ in connection.execute(_MOVED, columns)}
    found = []
    for tenant, id_, state, step, credited, suspended in deposits:
        named = {one for one in (credited, suspended) if one}
        did = {one for one in candidates[tenant, id_] if (tenant, one) in moved}
        form = _UNDER_WAY.get(state)
        allowed = named | ({transfer_id(tenant, f"deposits/{id_}{form}{step}")} if form else set())
        if not named <= did <= allowed:
            sentence = f" is {state}: {sorted(did)} moved its money, it names {sorted(named)}"
            found.append(Violation("INV-5", tenant, "", f"deposits/{id_}", sentence))
    return found
