"""Compliance's events in: verdicts on customers, and cases that freeze an account; event → operation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import operations
from accounts.account_changes import last_part
from accounts.model import KycState
from florin.compliance.v1 import events_pb2 as compliance
from meshkit import logs
from meshkit.cipher import Cipher
from meshkit.envelopes import Incoming
from meshkit.identity import Call, Principal

_log = logs.get(__name__)


class CustomerUnknown(Exception):
    """A verdict on a customer that is not here.

    Customers are created here before compliance hears of them, so this is a fault: the event is tried again, and
    then kept among the dead letters.
    """


def compliance_handler(cipher: Cipher) -> Callable[[AsyncConnection, Sequence[Incoming]], Awaitable[None]]:
    """What is done with a batch of compliance's events, in one transaction."""

    async def handle(conn: AsyncConnection, events: Sequence[Incoming]) -> None:
        verdicts: dict[str, dict[str, KycState]] = {}
        freezes: list[tuple[str, str, Incoming, compliance.CaseResolved]] = []
        for event in events:
            message = event.message() if event.type in _HANDLED else None
            if isinstance(message, compliance.CustomerVerified | compliance.CustomerRejected):
                state = KycState.VERIFIED if isinstance(message, compliance.CustomerVerified) else KycState.REJECTED
                verdicts.setdefault(event.tenant, {})[last_part(message.customer)] = state
            elif isinstance(message, compliance.CaseResolved) and message.freeze_account:
                freezes.append((event.tenant, message.freeze_account, event, message))
        for tenant in sorted(verdicts):
            unknown = await operations.set_kyc_states(conn, cipher, tenant, verdicts[tenant])
            if unknown:
                raise CustomerUnknown(f"compliance decided on customers that are not here: {sorted(unknown)}")
        for tenant, account, event, message in sorted(freezes, key=lambda freeze: freeze[:2]):
            frozen = await operations.freeze_for_case(
                conn, _call(event), account=account, why=f"resolution of {message.case}"
            )
            if not frozen:
                _log.warning("a case's account was not frozen", tenant=tenant, account=account, case=message.case)

    return handle


_HANDLED = frozenset(
    {
        "florin.compliance.customer_verified.v1",
        "florin.compliance.customer_rejected.v1",
        "florin.compliance.case_resolved.v1",
    }
)
"""The stream holds more than this service handles."""


def _call(event: Incoming) -> Call:
    """Who the audit row names: the service that decided, by its event."""
    return Call(
        method=event.type,
        caller="compliance",
        principal=Principal(event.tenant, "service:compliance", None, frozenset()),
        request_id=str(event.id),
        fingerprint=b"",
        deadline=float("inf"),
        traceparent=event.traceparent,
    )
