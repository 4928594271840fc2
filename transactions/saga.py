"""The life of a transfer as a table: which action is next, and which state an answer leads to; pure.

Every action is idempotent under a key derived from the transfer, so an action whose answer was lost is done again.
SCREENED is written for a stand-in decision alone, which has to be durable before money moves.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from transactions import rail_model
from transactions.model import FINAL, State, Transfer, Verdict


class Action(StrEnum):
    """What a transfer needs next."""

    SCREEN = "SCREEN"
    """Ask compliance; by its answer: post, hold, or end."""
    POST = "POST"
    """Post the journal."""
    POST_HELD = "POST_HELD"
    """Post the journal, consuming the hold; if refused, release the hold."""
    RELEASE = "RELEASE"
    """Release the hold and end."""
    AUTHORIZE = "AUTHORIZE"
    """Hold the amount for captures."""
    END = "END"
    """End an authorization: release what is left of its hold."""
    WAIT = "WAIT"
    """Nothing, until an event tells."""


class Answer(StrEnum):
    """What was learned; each leads to at most one new state."""

    ALLOWED = "ALLOWED"
    """A stand-in decision allowed it."""
    HELD = "HELD"
    """Compliance wants a review, and the amount is held."""
    POSTED = "POSTED"
    """The journal stands."""
    REFUSED = "REFUSED"
    """A step was refused for good, and nothing is held any more."""
    REVERSED = "REVERSED"
    """Another transfer moved the money back."""
    AUTHORIZED = "AUTHORIZED"
    """The amount is held for captures."""
    PART_CAPTURED = "PART_CAPTURED"
    """A capture moved part of it; the rest is still held."""
    ENDED = "ENDED"
    """Something was captured, and nothing is held any more."""
    VOIDED = "VOIDED"
    """Given back on request; nothing was captured."""
    EXPIRED = "EXPIRED"
    """Given back because its time was over; nothing was captured."""


TRANSITIONS: dict[tuple[State, Answer], State] = {
    (State.ACCEPTED, Answer.ALLOWED): State.SCREENED,
    (State.ACCEPTED, Answer.HELD): State.IN_REVIEW,
    (State.ACCEPTED, Answer.POSTED): State.COMPLETED,
    (State.ACCEPTED, Answer.REFUSED): State.DECLINED,
    (State.SCREENED, Answer.POSTED): State.COMPLETED,
    (State.SCREENED, Answer.REFUSED): State.DECLINED,
    (State.IN_REVIEW, Answer.POSTED): State.COMPLETED,
    (State.IN_REVIEW, Answer.REFUSED): State.DECLINED,
    (State.COMPLETED, Answer.REVERSED): State.REVERSED,
    (State.ACCEPTED, Answer.AUTHORIZED): State.AUTHORIZED,
    (State.SCREENED, Answer.AUTHORIZED): State.AUTHORIZED,
    (State.IN_REVIEW, Answer.AUTHORIZED): State.AUTHORIZED,
    (State.AUTHORIZED, Answer.PART_CAPTURED): State.AUTHORIZED,
    (State.AUTHORIZED, Answer.ENDED): State.CAPTURED,
    (State.AUTHORIZED, Answer.VOIDED): State.VOIDED,
    (State.AUTHORIZED, Answer.EXPIRED): State.EXPIRED,
}


class ImpossibleAnswer(Exception):
    """An answer that cannot be true of a transfer in this state: a broken invariant, never ignored."""


def next_action(transfer: Transfer, now: datetime) -> Action:
    """What the transfer needs next, from its durable state and the time."""
    if transfer.state in FINAL:
        return Action.WAIT
    if transfer.state is State.AUTHORIZED:
        return Action.END if transfer.voided or is_over(transfer, now) else Action.WAIT
    if transfer.state is State.IN_REVIEW:
        if is_over(transfer, now):
            return Action.RELEASE  # accounts ended its hold, and a verdict comes too late
        if transfer.verdict is None:
            return Action.WAIT
        if transfer.verdict is not Verdict.APPROVED:
            return Action.RELEASE
        return Action.AUTHORIZE if transfer.is_authorization else Action.POST_HELD
    # A reversal was decided by a person, or by another bank, and moves back what was screened before; a capture moves
    # what was.
    if transfer.state is State.SCREENED or transfer.reversal_of or transfer.capture_of or rail_model.is_kept(transfer):
        return when_allowed(transfer)
    return Action.SCREEN


def when_allowed(transfer: Transfer) -> Action:
    """What follows compliance's yes."""
    return Action.AUTHORIZE if transfer.is_authorization else Action.POST


def is_over(transfer: Transfer, now: datetime) -> bool:
    """Whether an authorization's time is over."""
    return transfer.expire_time is not None and transfer.expire_time <= now


def end_of(authorization: Transfer) -> Answer:
    """What is learned of an authorization once nothing is held for it and no capture is under way."""
    if authorization.captured:
        return Answer.ENDED
    return Answer.VOIDED if authorization.voided else Answer.EXPIRED


def capture_leads_to(authorization: Transfer, capture: Transfer) -> Answer:
    """What a completed capture means for its authorization."""
    return Answer.ENDED if capture.final_capture or capture.amount == authorization.left else Answer.PART_CAPTURED


def after(transfer: Transfer, answer: Answer) -> State:
    """The state that an answer leads to. Raises ImpossibleAnswer."""
    try:
        return TRANSITIONS[transfer.state, answer]
    except KeyError:
        raise ImpossibleAnswer(f"{transfer.name} is {transfer.state} and got the answer {answer}") from None
