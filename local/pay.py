"""Pays a planned file through the edge and says what became of every payment; it must not print or judge the outcome.

Whatever dies meanwhile, the result is the same: a batch that was not answered is sent again as it was, and a transfer
that was recorded but is not final yet is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from google.rpc import status_pb2

from florin.transactions.v1 import transfer_pb2, transfer_service_pb2
from local import client
from local.client import Patience, Session
from meshkit.errors import error_info, reason_name
from transactions.payments import plan
from transactions.payments.plan import PlannedPayment

BATCH = 50
_WAITERS = 16
"""Transfers that are awaited at once."""
_MOVED = (transfer_pb2.TRANSFER_STATE_COMPLETED, transfer_pb2.TRANSFER_STATE_REVERSED)
_PENDING = (transfer_pb2.TRANSFER_STATE_ACCEPTED, transfer_pb2.TRANSFER_STATE_SCREENED)


class Fate(StrEnum):
    """What became of a payment."""

    COMPLETED = "completed"
    DECLINED = "declined"
    IN_REVIEW = "in review"
    REPLAYED = "replayed"
    """The same payment again: it has the answer of the first, and nothing was done twice."""
    REFUSED = "refused"
    """No transfer was made of it."""
    OPEN = "open"
    """Recorded, but not final when the patience was over."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A payment and what became of it."""

    item: PlannedPayment
    fate: Fate
    reason: str = ""
    """Of a refusal or decline, as the contract names it."""
    message: str = ""
    transfer: transfer_pb2.Transfer | None = None

    @property
    def end_to_end_id(self) -> str:
        """The payer's reference."""
        return self.item.payment.end_to_end_id


async def pay(
    session: Session,
    planned: Sequence[PlannedPayment],
    *,
    batch: int = BATCH,
    patience_seconds: float = client.PATIENCE_SECONDS,
    on_batch: Callable[[Sequence[PlannedPayment], float], None] | None = None,
) -> tuple[Outcome, ...]:
    """Sends a plan in batches and waits until every transfer is final or in review; outcomes in the file's order.

    `on_batch` is told of each answered batch and the seconds it took. Raises Refused when a whole batch is refused,
    or when the mesh does not answer within `patience_seconds`.
    """
    outcomes = {item.number: _refused_here(item) for item in planned if item.request is None}
    clock = asyncio.get_running_loop().time
    for items in plan.batches(planned, batch):
        started = clock()
        outcomes.update({outcome.item.number: outcome for outcome in await _send(session, items, patience_seconds)})
        if on_batch is not None:
            on_batch(items, clock() - started)
    limit = asyncio.Semaphore(_WAITERS)

    async def settle(outcome: Outcome) -> Outcome:
        if outcome.fate is not Fate.OPEN or outcome.transfer is None:
            return outcome
        async with limit:
            return _outcome(outcome.item, await wait_final(session, outcome.transfer.name, patience_seconds), None)

    return tuple(await asyncio.gather(*[settle(outcomes[item.number]) for item in planned]))


async def wait_final(
    session: Session, name: str, seconds: float, *, through_review: bool = False
) -> transfer_pb2.Transfer:
    """The transfer once it is final or in review, or as it is when the time is over. Raises Refused."""
    patience = Patience(seconds)
    waiting = (*_PENDING, transfer_pb2.TRANSFER_STATE_IN_REVIEW) if through_review else _PENDING
    while True:
        request = transfer_service_pb2.WaitTransferRequest(name=name)
        if through_review:
            # Being in review answers a wait at once, so the present state is asked for now and then.
            request.timeout.FromMilliseconds(100)
        else:
            request.timeout.FromMilliseconds(int(min(max(patience.left(), 0.1), 5.0) * 1000))
        answer = await session.call(session.transfers.WaitTransfer, request, seconds=10, patience=patience)
        if answer.transfer.state not in waiting or not await patience.wait():
            return answer.transfer


async def _send(session: Session, items: Sequence[PlannedPayment], patience_seconds: float) -> list[Outcome]:
    """One batch; items that were not decided because a part was down are sent again, as they were."""
    patience = Patience(patience_seconds)
    outcomes: list[Outcome] = []
    left = list(items)
    while left:
        request = transfer_service_pb2.BatchCreateTransfersRequest(
            requests=[item.request for item in left if item.request]
        )
        answer = await session.call(session.transfers.BatchCreateTransfers, request, seconds=15, patience=patience)
        again: list[PlannedPayment] = []
        for item, result in zip(left, answer.results, strict=True):
            transfer = result.transfer if result.HasField("transfer") else None
            status = result.status if result.HasField("status") else None
            if transfer is None and status is not None and client.is_transient(_reason(status)):
                again.append(item)
            else:
                outcomes.append(_outcome(item, transfer, status))
        if again and not await patience.wait():
            outcomes += [Outcome(item, Fate.OPEN, "UNAVAILABLE", "it was not decided in time") for item in again]
            break
        left = again
    return outcomes


def _outcome(item: PlannedPayment, transfer: transfer_pb2.Transfer | None, status: status_pb2.Status | None) -> Outcome:
    """What an answer means for a payment."""
    if transfer is None:
        reason = _reason(status) if status is not None else "INTERNAL"
        return Outcome(item, Fate.REFUSED, reason, status.message if status is not None else "there was no answer")
    if transfer.state in _PENDING:
        return Outcome(item, Fate.OPEN, transfer=transfer)
    reason, message = "", ""
    if transfer.state == transfer_pb2.TRANSFER_STATE_DECLINED:
        reason = _reason(status) if status is not None else reason_name(transfer.refusal.reason)
        message = status.message if status is not None else transfer.refusal.message
    if item.repeats:
        return Outcome(item, Fate.REPLAYED, reason, message, transfer)
    if transfer.state in _MOVED:
        return Outcome(item, Fate.COMPLETED, transfer=transfer)
    if transfer.state == transfer_pb2.TRANSFER_STATE_IN_REVIEW:
        return Outcome(item, Fate.IN_REVIEW, transfer=transfer)
    return Outcome(item, Fate.DECLINED, reason, message, transfer)


def _refused_here(item: PlannedPayment) -> Outcome:
    return Outcome(item, Fate.REFUSED, "REQUEST_INVALID", item.refusal)


def _reason(status: status_pb2.Status) -> str:
    info = error_info(status)
    return info.reason if info is not None else ""
