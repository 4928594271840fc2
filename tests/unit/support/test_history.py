"""The checker finds what it is there for: each test breaks one thing in a history in which all is well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support import history
from tests.support.history import Answer, Final, History, Operation, Payment, Reading, Settled, Told

A, B = "accounts/a", "accounts/b"


def told(name: str, *steps: str) -> list[Told]:
    """A transfer's events in order."""
    return [
        Told(f"{name}-{number}", f"florin.transactions.transfer_{step}.v1", name, number)
        for number, step in enumerate(steps, 1)
    ]


def story() -> tuple[History, Final]:
    """One payment completed, one declined, one reviewed and approved, one without an answer, one cancelled."""
    made = History(opening={A: 1000, B: 0})
    for tag, amount in (("paid", 100), ("poor", 5000), ("large", 300), ("silent", 50), ("cancelled", 20)):
        made.payments[tag] = Payment(tag, A, B, amount, tag)
    answers = {
        "paid": Answer("transfers/paid", "COMPLETED", "journals/1"),
        "poor": Answer("transfers/poor", "DECLINED", reason="INSUFFICIENT_FUNDS"),
        "large": Answer("transfers/large", "IN_REVIEW"),
        "silent": Answer(),
        "cancelled": Answer("transfers/cancelled", "ACCEPTED"),
    }
    made.operations = [Operation("pay", tag, 0, 1, answer) for tag, answer in answers.items()]
    made.operations.append(Operation("approve", "transfers/large", 1, 2, Answer("transfers/large")))
    made.operations.append(Operation("cancel", "transfers/cancelled", 1, 2, Answer("transfers/cancelled", "DECLINED")))
    made.readings = [Reading(0, 1, 1000, 0)]
    transfers = [
        Settled("transfers/paid", "paid", A, B, 100, "COMPLETED", journal="journals/1"),
        Settled("transfers/poor", "poor", A, B, 5000, "DECLINED", "INSUFFICIENT_FUNDS"),
        Settled("transfers/large", "large", A, B, 300, "COMPLETED", journal="journals/2"),
        Settled("transfers/cancelled", "cancelled", A, B, 20, "DECLINED", "TRANSFER_CANCELLED"),
    ]
    replays = {t.tag: Answer(t.name, t.state, t.journal, t.reason) for t in transfers}
    events = [
        *told("transfers/paid", "accepted", "completed"),
        *told("transfers/poor", "accepted", "declined"),
        *told("transfers/large", "accepted", "held", "completed"),
        *told("transfers/cancelled", "accepted", "declined"),
    ]
    return made, Final(transfers, {A: (600, 0), B: (400, 0)}, replays, events)


def with_transfer(final: Final, name: str, **changes: str) -> Final:
    """The same end with something else about one transfer; asked again, that is what is said."""
    transfers = [replace(t, **changes) if t.name == name else t for t in final.transfers]  # type: ignore[arg-type]
    return replace(final, transfers=transfers)


def only(made: History, final: Final) -> str:
    """The one problem that there is."""
    problems = history.check(made, final)
    assert len(problems) == 1, problems
    return problems[0]


def test_a_good_history_has_no_problem() -> None:
    """A payment without an answer may have become a transfer or not."""
    made, final = story()
    assert history.check(made, final) == []
    late = Settled("transfers/silent", "silent", A, B, 50, "COMPLETED", journal="journals/3")
    final.transfers = [*final.transfers, late]
    final.balances = {A: (550, 0), B: (450, 0)}
    final.events = [*final.events, *told("transfers/silent", "accepted", "completed")]
    assert history.check(made, final) == []


@pytest.mark.parametrize(("total", "lowest"), [(999, 0), (1001, 0), (1000, -1)])
def test_a_reading_that_does_not_add_up_is_found(total: int, lowest: int) -> None:
    """Money that is gone for a moment, that is there twice, that was never there."""
    made, final = story()
    made.readings.append(Reading(1, 2, total, lowest))
    assert "at 2.00 s" in only(made, final)


def test_a_lost_payment_is_found() -> None:
    """It was acknowledged, and nobody knows it any more."""
    made, final = story()
    final.transfers = [t for t in final.transfers if t.tag != "poor"]
    final.events = [e for e in final.events if e.subject != "transfers/poor"]
    final.replays = {tag: answer for tag, answer in final.replays.items() if tag != "poor"}
    assert "which is lost" in only(made, final)


def test_a_doubled_payment_is_found() -> None:
    """Two transfers of one payment, whether or not its caller was answered."""
    made, final = story()
    again = [Settled(f"transfers/s{number}", "silent", A, B, 50, "COMPLETED", journal="j") for number in (1, 2)]
    final.transfers = [*final.transfers, *again]
    final.balances = {A: (500, 0), B: (500, 0)}
    final.events = [*final.events, *(e for t in again for e in told(t.name, "accepted", "completed"))]
    assert only(made, final) == "silent became 2 transfers"


def test_money_that_moved_twice_for_one_transfer_is_found() -> None:
    """The transfers are in order, and the balances are not what they make."""
    made, final = story()
    final.balances = {A: (500, 0), B: (500, 0)}
    assert len(history.check(made, final)) == 2
    final.balances = {A: (600, 20), B: (400, 0)}
    assert only(made, final) == f"{A} still holds 20 back"


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("transfers/paid", {"journal": "journals/other"}, "was COMPLETED by journals/1"),
        ("transfers/poor", {"reason": "PAYMENT_DECLINED"}, "was declined for INSUFFICIENT_FUNDS"),
    ],
)
def test_an_answer_that_did_not_last_is_found(name: str, changes: dict[str, str], problem: str) -> None:
    """Another journal, another reason than the one that was told."""
    made, final = story()
    assert any(problem in sentence for sentence in history.check(made, with_transfer(final, name, **changes)))


@pytest.mark.parametrize(
    ("name", "state", "problem"),
    [
        ("transfers/large", "ACCEPTED", "is still ACCEPTED"),
        ("transfers/large", "DECLINED", "was approved and is DECLINED"),
        ("transfers/cancelled", "COMPLETED", "had a cancel and is COMPLETED"),
        ("transfers/paid", "DECLINED", "was COMPLETED by journals/1 and is DECLINED"),
    ],
)
def test_an_end_that_was_not_promised_is_found(name: str, state: str, problem: str) -> None:
    """Not final, approved and not paid, cancelled and paid, completed and taken back."""
    made, final = story()
    problems = history.check(made, with_transfer(final, name, state=state))
    assert any(problem in sentence for sentence in problems), problems


def test_an_internal_error_is_found() -> None:
    """Whatever fails, a caller of this load is never told INTERNAL."""
    made, final = story()
    made.operations.append(Operation("pay", "silent", 1, 2, Answer(reason="INTERNAL")))
    assert only(made, final) == "pay silent was refused with INTERNAL"


def test_another_answer_to_the_same_request_is_found() -> None:
    """INV-5 through every layer."""
    made, final = story()
    final.replays = {**final.replays, "paid": Answer("transfers/new", "COMPLETED", "journals/9")}
    assert "asked again" in only(made, final)


@pytest.mark.parametrize("how", ["missing", "twice", "reversed", "unknown", "other"])
def test_a_stream_that_does_not_tell_each_life_once_in_order_is_found(how: str) -> None:
    """Too little, too much, the wrong way round, of nothing that there is, of something else than happened."""
    made, final = story()
    events = list(final.events)
    final.events = {
        "missing": events[1:],
        "twice": [*events, events[0]],
        "reversed": [events[1], events[0], *events[2:]],
        "unknown": [*events, *told("transfers/none", "accepted")],
        "other": [*told("transfers/paid", "accepted", "completed", "completed"), *events[2:]],
    }[how]
    assert history.check(made, final)


def test_what_nobody_asked_for_is_found() -> None:
    """A transfer with a tag of nobody's, and one with other terms than were asked for."""
    made, final = story()
    assert any("nobody asked for" in p for p in history.check(made, with_transfer(final, "transfers/paid", tag="x")))
    changed = with_transfer(final, "transfers/poor", debit=B)
    assert any("is not what was asked for" in p for p in history.check(made, changed))
