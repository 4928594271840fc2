"""Events in: what compliance says of cases is noted, what waited for a frozen ledger is due, the worker is woken."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from florin.compliance.v1 import decision_pb2, events_pb2
from meshkit.envelopes import Incoming
from transactions import store
from transactions.model import Verdict

_VERDICTS = {
    decision_pb2.CASE_STATE_APPROVED: Verdict.APPROVED,
    decision_pb2.CASE_STATE_REJECTED: Verdict.REJECTED,
    decision_pb2.CASE_STATE_EXPIRED: Verdict.EXPIRED,
}
_CASE_RESOLVED = "florin.compliance.case_resolved.v1"
_LEDGER_UNFROZEN = "florin.accounts.ledger_unfrozen.v1"


async def handle(conn: AsyncConnection, events: Sequence[Incoming]) -> None:
    """Records verdicts. A moot case tells nothing: its transfer is final."""
    verdicts: list[tuple[str, str, Verdict]] = []
    for event in events:
        if event.type != _CASE_RESOLVED:
            continue
        message = event.message()
        if isinstance(message, events_pb2.CaseResolved) and message.state in _VERDICTS:
            verdicts.append((event.tenant, message.transfer.removeprefix("transfers/"), _VERDICTS[message.state]))
    if verdicts:
        await store.record_verdict(conn, verdicts)


async def handle_accounts(conn: AsyncConnection, events: Sequence[Incoming]) -> None:
    """Makes due what waited for a ledger that is unfrozen."""
    tenants = {event.tenant for event in events if event.type == _LEDGER_UNFROZEN}
    if tenants:
        await store.wake_waiting(conn, sorted(tenants))
