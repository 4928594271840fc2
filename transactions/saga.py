"""The life of a transfer as a table: which action is next, and which state an answer leads to; pure.

Every action is idempotent under a key derived from the transfer, so an action whose answer was lost is done again.
SCREENED is written for a stand-in decision alone, which has to be durable before money moves.
"""

from __future__ import annotations

from enum import StrEnum

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
}


class ImpossibleAnswer(Exception):
    """An answer that cannot be true of a transfer in this state: a broken invariant, never ignored."""


def next_action(transfer: Transfer) -> Action:
    """What the transfer needs next, from its durable state alone."""
    if transfer.state in FINAL:
        return Action.WAIT
    if transfer.state is State.IN_REVIEW:
        if transfer.verdict is None:
            return Action.WAIT
        return Action.POST_HELD if transfer.verdict is Verdict.APPROVED else Action.RELEASE
    # A reversal was decided by a person and moves back what was screened before.
    if transfer.state is State.SCREENED or transfer.reversal_of:
        return Action.POST
    return Action.SCREEN


def after(transfer: Transfer, answer: Answer) -> State:
    """The state that an answer leads to. Raises ImpossibleAnswer."""
    try:
        return TRANSITIONS[transfer.state, answer]
    except KeyError:
        raise ImpossibleAnswer(f"{transfer.name} is {transfer.state} and got the answer {answer}") from None
