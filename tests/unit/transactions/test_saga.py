"""The saga's table: everything is handled, final is final, money moves once, no hold is left behind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.transactions.making import NOW, transfer
from transactions import originals, saga
from transactions.model import FINAL, State, Transfer, Verdict
from transactions.saga import Action, Answer, ImpossibleAnswer

_ANSWERS = {
    Action.SCREEN: {Answer.ALLOWED, Answer.HELD, Answer.POSTED, Answer.REFUSED},
    Action.POST: {Answer.POSTED, Answer.REFUSED},
    Action.POST_HELD: {Answer.POSTED, Answer.REFUSED},
    Action.RELEASE: {Answer.REFUSED},
    Action.AUTHORIZE: {Answer.AUTHORIZED, Answer.REFUSED},
    Action.END: {Answer.ENDED, Answer.VOIDED, Answer.EXPIRED},
}
"""What a pass can learn from each action."""


def _in_state(state: State, verdict: Verdict | None = None) -> Transfer:
    refusal = status_pb2.Status(code=9) if state is State.DECLINED else None
    return replace(transfer(), state=state, verdict=verdict, refusal=refusal)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("verdict", [None, *Verdict])
@pytest.mark.parametrize("expire_time", [None, NOW, NOW + timedelta(days=1)])
def test_every_answer_that_an_action_can_give_leads_to_a_state(
    state: State, verdict: Verdict | None, expire_time: datetime | None
) -> None:
    """No pass can learn something that the table has no row for."""
    subject = replace(_in_state(state, verdict), expire_time=expire_time)
    for answer in _ANSWERS.get(saga.next_action(subject, NOW), set()):
        assert saga.after(subject, answer) in State


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("answer", Answer)
def test_a_pair_is_in_the_table_or_is_refused_loudly(state: State, answer: Answer) -> None:
    """An answer that cannot be true raises; it is never taken for something else."""
    subject = _in_state(state)
    if (state, answer) in saga.TRANSITIONS:
        assert saga.after(subject, answer) is saga.TRANSITIONS[state, answer]
    else:
        with pytest.raises(ImpossibleAnswer):
            saga.after(subject, answer)


@pytest.mark.parametrize("state", sorted(FINAL))
@pytest.mark.parametrize("verdict", [None, *Verdict])
def test_final_states_ask_for_nothing(state: State, verdict: Verdict | None) -> None:
    """A final transfer gets no step, whatever is told about it later."""
    assert saga.next_action(_in_state(state, verdict), NOW) is Action.WAIT


def test_only_a_reversal_leads_out_of_a_final_state() -> None:
    """COMPLETED → REVERSED is the one way out; DECLINED and REVERSED have none."""
    out = {(state, answer, to) for (state, answer), to in saga.TRANSITIONS.items() if state in FINAL}
    assert out == {(State.COMPLETED, Answer.REVERSED, State.REVERSED)}


def test_every_state_is_reached_and_every_open_state_can_end() -> None:
    """The table has no island and no dead end."""
    reached, frontier = {State.ACCEPTED}, [State.ACCEPTED]
    while frontier:
        here = frontier.pop()
        for (state, _), to in saga.TRANSITIONS.items():
            if state is here and to not in reached:
                reached.add(to)
                frontier.append(to)
    assert reached == set(State)
    for state in set(State) - FINAL:
        ends = {to for (start, _), to in saga.TRANSITIONS.items() if start is state}
        if state is State.AUTHORIZED:
            assert ends & FINAL == {State.CAPTURED, State.VOIDED, State.EXPIRED}
        else:
            assert {State.COMPLETED, State.DECLINED, State.AUTHORIZED} <= ends


def test_a_review_is_posted_only_after_its_approval() -> None:
    """Without a verdict nothing is done; with a rejecting one the hold goes back."""
    assert saga.next_action(_in_state(State.IN_REVIEW), NOW) is Action.WAIT
    assert saga.next_action(_in_state(State.IN_REVIEW, Verdict.APPROVED), NOW) is Action.POST_HELD
    assert saga.next_action(_in_state(State.IN_REVIEW, Verdict.REJECTED), NOW) is Action.RELEASE
    assert saga.next_action(_in_state(State.IN_REVIEW, Verdict.EXPIRED), NOW) is Action.RELEASE


def test_a_reversal_is_not_screened() -> None:
    """Staff moves back what was screened when it went."""
    assert saga.next_action(transfer(reversal_of="x"), NOW) is Action.POST


def test_an_authorization_is_screened_held_and_waits_for_its_end() -> None:
    """Its amount is held where a transfer's is posted; then nothing is done until it is voided or its time is over."""
    authorization = transfer(expire_time=NOW + timedelta(seconds=1))
    assert saga.next_action(authorization, NOW) is Action.SCREEN
    assert saga.when_allowed(authorization) is Action.AUTHORIZE
    assert saga.next_action(replace(authorization, state=State.SCREENED), NOW) is Action.AUTHORIZE
    approved = replace(authorization, state=State.IN_REVIEW, verdict=Verdict.APPROVED)
    assert saga.next_action(approved, NOW) is Action.AUTHORIZE
    standing = replace(authorization, state=State.AUTHORIZED)
    assert saga.next_action(standing, NOW) is Action.WAIT
    assert saga.next_action(replace(standing, voided=True), NOW) is Action.END
    assert saga.next_action(standing, NOW + timedelta(seconds=1)) is Action.END
    assert saga.next_action(transfer(capture_of="x"), NOW) is Action.POST  # it was screened as a whole


@given(st.lists(st.integers(1, 60), max_size=6), st.booleans(), st.booleans())
def test_captures_sum_up_and_the_last_one_ends(amounts: list[int], last_is_final: bool, voided: bool) -> None:
    """INV-6: what is captured is the sum of the captures, never more than was authorized; nothing ends with something
    left but by a final capture, a void, or its time."""
    authorization = transfer(amount=100, state=State.AUTHORIZED, expire_time=NOW)
    moved = 0
    for number, amount in enumerate(amounts):
        if amount > authorization.left:
            break
        final = last_is_final and number == len(amounts) - 1
        changed = originals.after(authorization, transfer(amount=amount, capture_of="x", final_capture=final))
        assert changed is not None
        moved += amount
        assert (changed.captured, changed.version) == (moved, authorization.version + 1)
        assert changed.is_final == (final or moved == 100)
        authorization = changed
        if authorization.is_final:
            assert authorization.state is State.CAPTURED
            return
    end = saga.after(authorization, saga.end_of(replace(authorization, voided=voided)))
    assert end is (State.CAPTURED if moved else State.VOIDED if voided else State.EXPIRED)


@dataclass
class World:
    """What stands outside: journals and holds of one transfer, idempotent by key as the contract says."""

    posted: int = 0
    hold: str = "none"

    def act(self, action: Action, answer: Answer, lost: bool) -> None:
        """Does what an action's answer means over there; a repeat of what is done does nothing."""
        if action is Action.SCREEN and answer is Answer.HELD and self.hold == "none":
            self.hold = "active"
        if answer is Answer.POSTED and self.posted == 0:
            self.posted = 1
            self.hold = "consumed" if self.hold == "active" else self.hold
        if action in (Action.POST_HELD, Action.RELEASE) and answer is Answer.REFUSED and self.hold == "active":
            self.hold = "released"
        del lost


@given(st.data())
def test_any_run_moves_money_at_most_once_and_leaves_no_hold(data: st.DataObject) -> None:
    """INV-6: however answers fall, are lost and are asked for again, a final transfer has one journal or none, and no
    active hold."""
    subject, world = transfer(), World()
    settled: dict[Action, Answer] = {}  # the other side stores its first outcome under the step's key
    for _ in range(12):
        action = saga.next_action(subject, NOW)
        if action is Action.WAIT:
            if subject.state is State.IN_REVIEW:
                subject = replace(subject, verdict=data.draw(st.sampled_from(Verdict)))
                continue
            break
        key = Action.POST if action is Action.POST_HELD else action
        answer = settled.setdefault(key, data.draw(st.sampled_from(sorted(_ANSWERS[action]))))
        if action is Action.SCREEN and answer is Answer.POSTED:
            settled.setdefault(Action.POST, Answer.POSTED)
        lost = data.draw(st.booleans())
        world.act(action, answer, lost)
        if not lost:
            subject = replace(subject, state=saga.after(subject, answer))
    if subject.is_final:
        assert world.posted == (1 if subject.state is State.COMPLETED else 0)
        assert world.hold != "active"
