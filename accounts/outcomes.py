"""The ledger's outcomes as the contract's StepOutcome, which is also how they are stored; it decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp

from accounts.book import Held, Hold, Outcome, Posted, Refused, Stored
from florin.accounts.v1 import ledger_service_pb2 as pb
from florin.common.v1 import money_pb2
from meshkit import clock
from meshkit.errors import reason_name, reason_of, reason_of_error


def to_message(outcome: Outcome) -> pb.StepOutcome:
    """The answer for one step."""
    if isinstance(outcome, Posted):
        return pb.StepOutcome(key=outcome.key, journal=_journal(outcome))
    if isinstance(outcome, Held):
        return pb.StepOutcome(key=outcome.hold.key, hold=_hold(outcome.hold, outcome.owners))
    if isinstance(outcome, Refused):
        return pb.StepOutcome(key=outcome.key, refusal=outcome.refusal.to_status())
    stored = pb.StepOutcome.FromString(outcome.data)
    if outcome.hold is not None and stored.WhichOneof("result") == "hold":
        # A hold is answered as it is now, not as it was when it was placed.
        stored.hold.state = outcome.hold.state.value  # type: ignore[assignment]
    return stored


def refusal_reason(outcome: Outcome) -> str:
    """The reason's name of an outcome that is a refusal, stored ones too; empty for any other."""
    if isinstance(outcome, Refused):
        return reason_of_error(outcome.refusal)
    if isinstance(outcome, Stored):
        stored = pb.StepOutcome.FromString(outcome.data)
        return reason_name(reason_of(stored.refusal)) if stored.HasField("refusal") else ""
    return ""


@lru_cache(maxsize=256)
def timestamp(moment: datetime) -> Timestamp:
    """A moment as messages have it; to be put into messages, which copy it, never to be changed.

    Kept, since all of a batch share one moment.
    """
    return clock.timestamp(moment)


def customers(ids: Iterable[str]) -> list[str]:
    """Resource names of customers."""
    return [f"customers/{customer}" for customer in ids]


def _journal(posted: Posted) -> pb.StepOutcome.PostedJournal:
    return pb.StepOutcome.PostedJournal(
        journal=f"journals/{posted.journal}",
        accounts=[f"accounts/{leg.account}" for leg in posted.legs],
        debit_customers=customers(posted.debit_owners),
        create_time=timestamp(posted.create_time),
        effective_time=timestamp(posted.effective_time),
        balances_after=[
            money_pb2.Money(currency_code=leg.currency, minor_units=leg.balance_after) for leg in posted.legs
        ],
    )


def _hold(hold: Hold, owners: Iterable[str]) -> pb.StepOutcome.PlacedHold:
    return pb.StepOutcome.PlacedHold(
        hold=f"holds/{hold.key}",
        account=f"accounts/{hold.account}",
        debit_customers=customers(owners),
        state=hold.state.value,  # type: ignore[arg-type]
    )
