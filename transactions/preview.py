"""What a transfer would come to, were it created now (`validate_only`): asks everybody, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from google.rpc import status_pb2

from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_service_pb2
from meshkit import idempotency
from transactions import errors, events, legs
from transactions.answers import admit
from transactions.messages import STATES
from transactions.model import Expected, State, Transfer
from transactions.ports import Account, Decision, Ledger, Outcome, Screening


async def preview(
    transfer: Transfer, ledger: Ledger, screening: Screening
) -> tuple[transfer_service_pb2.TransferPreview, Expected | None]:
    """The state, the legs, the refusal, the events and, for who may see it, the decision's trace; and what the payer's
    account is like, where the transfer would be made.

    Raises Unavailable when somebody does not answer.
    """
    # Under an id of its own: the steps of one that was made under the same request_id would answer for it.
    transfer = replace(transfer, id=str(idempotency.uuid7()))
    keys = [(transfer.tenant, transfer.debit_account), (transfer.tenant, transfer.credit_account)]
    refusal, sides = admit(transfer, await ledger.resolve(keys))
    if refusal is not None or sides is None:
        return _declined(refusal or errors.PaymentDeclined().to_status()), None
    debit, credit = sides
    resolved = replace(transfer, debit_account=debit.name, credit_account=credit.name)
    decision = (await screening.screen([(resolved, debit, credit)], validate_only=True))[0]
    may_know = "compliance:read" in transfer.principal.scopes
    answer, expected = await _decided(resolved, sides, decision if may_know else _as_told(decision), ledger)
    if decision.trace is not None and may_know:
        answer.decision.CopyFrom(decision.trace)
    return answer, expected


def _as_told(decision: Outcome) -> Outcome:
    """What callers may know who do not see what compliance does: limits, which they have anyway. Whoever learned before
    paying that a payment would be looked at, or declined, could try until one would not be, and leave no trace."""
    if decision.limit_refusal is not None:
        return Outcome(decision=Decision.DECLINE, refusal=decision.limit_refusal)
    return Outcome(decision=Decision.ALLOW)


async def _decided(
    transfer: Transfer, sides: tuple[Account, Account], decision: Outcome, ledger: Ledger
) -> tuple[transfer_service_pb2.TransferPreview, Expected | None]:
    if decision.decision is Decision.DECLINE:
        return _declined(decision.refusal or errors.PaymentDeclined().to_status()), None
    posted = (await ledger.post([transfer], validate_only=True))[0]
    if posted.refusal is not None:
        return _declined(posted.refusal), None
    if decision.decision is Decision.REVIEW:
        return _would_reach(State.IN_REVIEW), posted.expected
    if transfer.is_authorization:
        return _would_reach(State.AUTHORIZED), posted.expected
    answer = _would_reach(State.COMPLETED)
    answer.legs.extend(_legs(transfer, {side.name: side for side in sides}, posted))
    return answer, posted.expected


def _legs(
    transfer: Transfer, sides: Mapping[str, Account], posted: Outcome
) -> list[transfer_service_pb2.TransferPreview.PreviewLeg]:
    shown = []
    for position, leg in enumerate(legs.of(transfer)):
        message = transfer_service_pb2.TransferPreview.PreviewLeg(
            account=leg.account, amount=money_pb2.Money(currency_code=leg.currency, minor_units=leg.amount)
        )
        # What is neither side's is the bank's.
        customers = sides[leg.account].customers if leg.account in sides else ()
        own = transfer.principal.is_staff or transfer.principal.customer in customers
        if own and position < len(posted.balances_after):
            message.balance_after.currency_code = leg.currency
            message.balance_after.minor_units = posted.balances_after[position]
        shown.append(message)
    return shown


def _declined(refusal: status_pb2.Status) -> transfer_service_pb2.TransferPreview:
    answer = _would_reach(State.DECLINED)
    answer.refusal.CopyFrom(refusal)
    return answer


def _would_reach(state: State) -> transfer_service_pb2.TransferPreview:
    return transfer_service_pb2.TransferPreview(
        state=STATES[state], events=[events.subject_after(State.ACCEPTED), events.subject_after(state)]
    )
