"""What was asked of the mesh and what it said, and what has to be true of that whatever failed meanwhile.

The checker looks at the history and at readings made at the end, at nothing else (after Jepsen's test of a bank).
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

FINAL = ("COMPLETED", "DECLINED", "REVERSED")
MOVED = ("COMPLETED", "REVERSED")
LIVES = {
    "COMPLETED": ["transfer_accepted", "transfer_completed"],
    "DECLINED": ["transfer_accepted", "transfer_declined"],
    "REVERSED": ["transfer_accepted", "transfer_completed", "transfer_reversed"],
}
"""Final state → the public events of a transfer's life; one that was reviewed has transfer_held as its second."""
EXPECTED_REFUSALS = frozenset(
    {"INSUFFICIENT_FUNDS", "PAYMENT_DECLINED", "TRANSFER_CANCELLED", "TRANSFER_FINAL", "TRANSFER_NOT_COMPLETED"}
    | {"TRANSFER_REVERSED", "CASE_RESOLVED"}
)
"""What a caller of this load may be told; anything else is a defect, INTERNAL above all."""


@dataclass(frozen=True, slots=True)
class Payment:
    """What a payer asks for. `tag`, its end_to_end_id, is of this payment alone."""

    tag: str
    debit: str
    credit: str
    minor_units: int
    request_id: str = ""
    """Empty: asked once and never again, since nobody could tell whether it is the same."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the mesh said: a transfer as it was then, a refusal, both, or nothing."""

    transfer: str = ""
    state: str = ""
    journal: str = ""
    reason: str = ""

    @property
    def is_silence(self) -> bool:
        """Whether the caller cannot know what happened."""
        return not self.transfer and not self.reason


@dataclass(frozen=True, slots=True)
class Operation:
    """One call with all its attempts. `about` is a payment's tag or a transfer's name; times are seconds."""

    kind: str
    """pay, cancel, reverse, approve, reject."""
    about: str
    begun: float
    ended: float
    answer: Answer


@dataclass(frozen=True, slots=True)
class Reading:
    """All balances of customers, in one consistent reading."""

    begun: float
    ended: float
    total: int
    lowest: int


@dataclass(slots=True)
class History:
    """Everything that happened at the callers' side."""

    opening: dict[str, int]
    """Account → what it had before the first payment."""
    payments: dict[str, Payment] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    def of(self, *kinds: str) -> Iterator[Operation]:
        """The operations of some kinds."""
        return (operation for operation in self.operations if operation.kind in kinds)

    def write(self, path: Path) -> None:
        """Keeps it for a person who wants to know what went wrong, a line a record in the order of their ends."""
        timed: list[Operation | Reading] = sorted([*self.operations, *self.readings], key=lambda record: record.ended)
        records: list[Payment | Operation | Reading] = [*self.payments.values(), *timed]
        with path.open("w") as file:
            file.writelines(json.dumps(asdict(record)) + "\n" for record in records)


@dataclass(frozen=True, slots=True)
class Settled:
    """A transfer as it is in the end."""

    name: str
    tag: str
    debit: str
    credit: str
    minor_units: int
    state: str
    reason: str = ""
    journal: str = ""
    reversal_of: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """An event as a stream brought it."""

    id: str
    type: str
    subject: str
    sequence: int


@dataclass(slots=True)
class Final:
    """What stands in the end."""

    transfers: Sequence[Settled]
    balances: Mapping[str, tuple[int, int]]
    """Account → posted and held."""
    replays: Mapping[str, Answer]
    """Tag → what the same request is answered now."""
    events: Sequence[Told]
    """In the order in which they came."""


def check(history: History, final: Final) -> list[str]:
    """A sentence for everything that is not as it has to be."""
    by_name = {transfer.name: transfer for transfer in final.transfers}
    return [
        *_readings(history),
        *_refusals(history),
        *_once(history, final),
        *_kept(history, by_name),
        *_decisions(history, final, by_name),
        *_money(history, final),
        *_replays(final),
        *_events(final),
    ]


def _readings(history: History) -> Iterator[str]:
    """Money only moves: no reading shows more, less, or an overdrawn account."""
    expected = sum(history.opening.values())
    for reading in history.readings:
        if reading.total != expected:
            yield f"at {reading.ended:.2f} s all balances came to {reading.total}, not {expected}"
        if reading.lowest < 0:
            yield f"at {reading.ended:.2f} s an account was overdrawn: {reading.lowest}"


def _refusals(history: History) -> Iterator[str]:
    for operation in history.operations:
        if operation.answer.reason and operation.answer.reason not in EXPECTED_REFUSALS:
            yield f"{operation.kind} {operation.about} was refused with {operation.answer.reason}"


def _once(history: History, final: Final) -> Iterator[str]:
    """What was asked, also what timed out, became one transfer at most, on its own terms; nothing else became any."""
    made = Counter(transfer.tag for transfer in final.transfers if not transfer.reversal_of)
    yield from (f"{tag} became {count} transfers" for tag, count in made.items() if count > 1)
    back = Counter(transfer.reversal_of for transfer in final.transfers if transfer.reversal_of)
    completed = Counter(t.reversal_of for t in final.transfers if t.reversal_of and t.state in MOVED)
    yield from (f"{name} was reversed {count} times" for name, count in completed.items() if count > 1)
    asked = {operation.about for operation in history.of("reverse")}
    yield from (f"nobody asked for a reversal of {name}" for name in back if name not in asked)
    for transfer in final.transfers:
        if transfer.state not in FINAL:
            yield f"{transfer.name} is still {transfer.state}"
        payment = history.payments.get(transfer.tag)
        if payment is None:
            yield f"nobody asked for {transfer.name}"
        elif not transfer.reversal_of:
            terms = (payment.debit, payment.credit, payment.minor_units)
            if terms != (transfer.debit, transfer.credit, transfer.minor_units):
                yield f"{transfer.name} is not what was asked for: {transfer}, {payment}"


def _kept(history: History, by_name: Mapping[str, Settled]) -> Iterator[str]:
    """What the mesh said it keeps: accepted payments are there, completed ones moved money by the journal named."""
    for operation in history.of("pay", "reverse"):
        answer = operation.answer
        if not answer.transfer:
            continue
        found = by_name.get(answer.transfer)
        if found is None:
            yield f"{operation.about} was acknowledged as {answer.transfer}, which is lost"
            continue
        if operation.kind == "pay" and found.tag != operation.about:
            yield f"{operation.about} was acknowledged as {answer.transfer}, which is {found.tag}"
        if operation.kind == "reverse" and found.reversal_of != operation.about:
            yield f"the reversal of {operation.about} was acknowledged as {answer.transfer}, which is none"
        if answer.state in MOVED and (found.state not in MOVED or found.journal != answer.journal):
            yield f"{found.name} was {answer.state} by {answer.journal} and is {found.state} by {found.journal}"
        if answer.state == "DECLINED" and (found.state, found.reason) != ("DECLINED", answer.reason):
            yield f"{found.name} was declined for {answer.reason} and is {found.state} for {found.reason}"


def _decisions(history: History, final: Final, by_name: Mapping[str, Settled]) -> Iterator[str]:
    """A cancelled transfer moves nothing, a rejected one neither; one that was held and approved does, unless it was
    cancelled. (A case may be approved before the hold is tried, which may fail for want of funds.)"""
    held = {event.subject for event in final.events if event.type == "florin.transactions.transfer_held.v1"}
    for operation in history.of("cancel", "approve", "reject"):
        found = by_name.get(operation.about)
        if operation.answer.reason or operation.answer.is_silence or found is None:
            continue
        if operation.kind != "approve" and found.state != "DECLINED":
            yield f"{found.name} had a {operation.kind} and is {found.state}"
        excused = found.reason == "TRANSFER_CANCELLED" or found.name not in held
        if operation.kind == "approve" and found.state not in MOVED and not excused:
            yield f"{found.name} was approved and is {found.state} for {found.reason}"


def _money(history: History, final: Final) -> Iterator[str]:
    """Every balance is what the completed transfers make of it, and nothing is held any more."""
    expected = dict(history.opening)
    for transfer in final.transfers:
        if transfer.state in MOVED:
            expected[transfer.debit] -= transfer.minor_units
            expected[transfer.credit] += transfer.minor_units
    for account, minor_units in expected.items():
        posted, held = final.balances[account]
        if posted != minor_units:
            yield f"{account} has {posted}, its transfers make it {minor_units}"
        if held:
            yield f"{account} still holds {held} back"


def _replays(final: Final) -> Iterator[str]:
    """The same request has the same transfer and the same refusal, however often it is asked."""
    by_tag = {transfer.tag: transfer for transfer in final.transfers if not transfer.reversal_of}
    for tag, answer in final.replays.items():
        found = by_tag.get(tag)
        if found is None:
            yield f"{tag} was asked again after it was gone"
        elif (answer.transfer, answer.state, answer.reason) != (found.name, found.state, found.reason):
            yield f"{tag} is {found}, and asked again it is {answer}"


def _events(final: Final) -> Iterator[str]:
    """The stream told the life of every transfer, each step once and in order, and of no other."""
    lives: dict[str, list[Told]] = defaultdict(list)
    for event in final.events:
        lives[event.subject].append(event)
    yield from (f"event {id_} came {n} times" for id_, n in Counter(e.id for e in final.events).items() if n > 1)
    for transfer in final.transfers:
        told = lives.pop(transfer.name, [])
        steps = [event.type.split(".")[2] for event in told]
        expected = LIVES.get(transfer.state, [])
        if steps not in (expected, [*expected[:1], "transfer_held", *expected[1:]]):
            yield f"{transfer.name} is {transfer.state}, its events were {steps}"
        if any(after.sequence <= before.sequence for before, after in itertools.pairwise(told)):
            yield f"the events of {transfer.name} came out of order: {[event.sequence for event in told]}"
    yield from (f"events told of {name}, which is no transfer" for name in lives)
