"""What has to be true at every moment of a bank, and what when all is settled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from accounts.model import HoldState
from compliance.model import CaseState, ReservationState
from meshkit.errors import reason_name, reason_of
from tests.simulation.bank import CASE_TIME, FUNDS, OVERDRAFTS, OWNERS, Bank
from tests.simulation.callers import Callers
from tests.simulation.oracle import Wrong
from transactions import events
from transactions.model import State, Transfer

_MOVED = (State.COMPLETED, State.REVERSED)
_ROUNDS = 60
_LONG_SECONDS = CASE_TIME.total_seconds()


def at_any_moment(bank: Bank) -> None:
    """The services hold what the oracle holds, and nothing went wrong that only a log tells. Raises Wrong."""
    problems = [*map(repr, bank.world.loop.failures), *bank.world.errors]
    if not bank.is_agreed:
        problems += [*_ledger(bank), *_limits(bank)]
    if problems:
        raise Wrong("; ".join(problems))
    bank.is_agreed = True


def _ledger(bank: Bank) -> Iterator[str]:
    oracle, entries = bank.oracle, Counter(FUNDS)
    for id_, amount in bank.ledger.entries:
        entries[id_] += amount
    sums: Counter[str] = Counter()
    for one in bank.ledger.accounts.values():
        sums[one.currency] += one.posted
    if sums != Counter({"EUR": sum(FUNDS.values()), "USD": 0}):
        yield f"money was made or lost: {sums}"
    for account in bank.ledger.accounts.values():
        name = f"accounts/{account.id}"
        if (account.posted, account.held) != (oracle.balances[name], oracle.held(name)):
            yield f"{account} should have {oracle.balances[name]} and hold {oracle.held(name)}"
        if account.posted != entries[account.id]:
            yield f"the entries of {account} come to {entries[account.id]}"
        if account.owners and account.posted - account.held + OVERDRAFTS.get(account.id, 0) < oracle.minimums[name]:
            yield f"{account} is overdrawn"
    for origin, count in bank.ledger.journals.items():
        if count > 1:
            yield f"{origin} has {count} journals"


def _limits(bank: Bank) -> Iterator[str]:
    used = {(key.customer, key.day): (one.used, one.payments) for key, one in bank.compliance.usage.items()}
    expected = bank.oracle.used()
    for key in used.keys() | expected.keys():
        if used.get(key, (0, 0)) != expected.get(key, (0, 0)):
            yield f"of the limits of {key} {used.get(key)} is used, it should be {expected.get(key)}"


def settle(bank: Bank) -> None:
    """Nothing goes wrong any more, and time passes until all is final. Raises Wrong when something never is."""
    bank.compliance_away = False
    for name in OWNERS:
        bank.freeze(name, frozen=False)
        for side in bank.oracle.blocked:
            bank.block(name, side, blocked=False)
    for round_ in range(_ROUNDS):
        _carry_on(bank)
        at_any_moment(bank)
        if _is_settled(bank):
            return
        # What waits for a person waits in vain: cases and authorizations run out.
        bank.world.loop.pass_time(10.0 if round_ % 4 else _LONG_SECONDS + 1)
    raise Wrong(f"not settled: {[t for t in transfers(bank) if not t.is_final]}, {bank.world.gates}")


def _carry_on(bank: Bank) -> None:
    for replica in bank.replicas:
        replica.recover()
    while bank.world.gates or bank.world.late:
        while bank.world.gates:
            bank.world.open(0)
        bank.world.deliver_late(0)
        bank.world.loop.pass_time(0.1)
    bank.expire_holds()
    bank.expire_cases()
    while any(not done for _, done in bank.tables.outbox):
        bank.relay(0)
    while bank.stream:
        bank.consume(0)
    while bank.cases_stream:
        bank.hear_verdict(0)


def _is_settled(bank: Bank) -> bool:
    waiting = bank.world.gates or bank.world.late or bank.stream or bank.cases_stream
    return not waiting and all(t.is_final for t in transfers(bank)) and all(done for _, done in bank.tables.outbox)


def transfers(bank: Bank) -> list[Transfer]:
    """All that are recorded."""
    return [row.transfer for row in bank.tables.rows.values()]


def in_the_end(bank: Bank, callers: Callers) -> None:
    """Every request has one effect at most, and every record says what happened. Raises Wrong."""
    by_name = {transfer.name: transfer for transfer in transfers(bank)}
    problems = [
        *(f"nobody asked for {name}" for name in by_name.keys() - set(callers.made)),
        *(problem for transfer in by_name.values() for problem in _transfer(bank, transfer, by_name)),
        *_promises(callers, by_name),
        *_reservations(bank, by_name),
        *_events(bank, by_name),
        *(f"{case.name} is open" for case in bank.compliance.cases.values() if case.state is CaseState.OPEN),
    ]
    if problems:
        raise Wrong("; ".join(problems))


def _transfer(bank: Bank, transfer: Transfer, by_name: dict[str, Transfer]) -> Iterator[str]:
    """INV-6: its state is what was moved and held."""
    oracle, name = bank.oracle, transfer.name
    if (transfer.state in _MOVED) != (name in oracle.moved):
        yield f"{name} is {transfer.state} and moved {oracle.moved.get(name)}"
    if name in oracle.moved and oracle.moved[name] != transfer.amount:
        yield f"{name} is of {transfer.amount} and moved {oracle.moved[name]}"
    if name in oracle.moved and oracle.paid[name] != transfer.fee_amount:
        yield f"{name} is recorded with a fee of {transfer.fee_amount}, and {oracle.paid[name]} was paid"
    kept = oracle.kept.get(name)
    if kept is not None and kept.state == "ACTIVE":
        yield f"{name} is {transfer.state} and {kept} is still held"
    offer = oracle.offers.get(name)
    if offer is not None and transfer.create_time >= offer.until:
        yield f"{name} is by a quote that was over when it was asked for"
    captures = [t for t in by_name.values() if t.capture_of == transfer.id and t.name in oracle.moved]
    captured = sum(oracle.moved[capture.name] for capture in captures)
    if transfer.captured != captured or (transfer.state is State.CAPTURED) != bool(captured):
        yield f"{name} is {transfer.state} with {transfer.captured} captured, and its captures moved {captured}"
    if captured and captured > transfer.amount:
        yield f"{name} is of {transfer.amount}, and its captures moved {captured}"
    reversals = [t for t in by_name.values() if t.reversal_of == transfer.id and t.name in oracle.moved]
    reversed_ = sum(oracle.credited[reversal.name] for reversal in reversals)
    if transfer.reversed != reversed_ or (transfer.state is State.REVERSED) != bool(reversals) or len(reversals) > 1:
        yield f"{name} is {transfer.state} with {transfer.reversed} moved back by {[r.name for r in reversals]}"


def _promises(callers: Callers, by_name: dict[str, Transfer]) -> Iterator[str]:
    for name, (state, reason) in callers.told.items():
        found = by_name.get(name)
        if found is None:
            yield f"{name} was told to be {state}, and is lost"
            continue
        now = reason_name(reason_of(found.refusal)) if found.refusal is not None else ""
        if found.state is not state and (state, found.state) != (State.COMPLETED, State.REVERSED):
            yield f"{name} was told to be {state}, and is {found.state}"
        if now != reason:
            yield f"{name} was told to be refused for {reason}, and is for {now}"


def _reservations(bank: Bank, by_name: dict[str, Transfer]) -> Iterator[str]:
    """INV-8 across services: what moved counts, what did not does not."""
    for (_, name), row in bank.compliance.reservations.items():
        transfer = by_name[name]
        nothing_moved = transfer.state in (State.DECLINED, State.VOIDED, State.EXPIRED)
        expected = ReservationState.RELEASED if nothing_moved else ReservationState.CAPTURED
        if row.state is not expected:
            yield f"{name} is {transfer.state} and its reservation is {row.state.name}"
        if row.of is not None and transfer.state is State.CAPTURED and row.of.amount != transfer.captured:
            yield f"{name} captured {transfer.captured} and its reservation counts {row.of.amount}"
    for hold in bank.ledger.holds.values():
        if hold.state is HoldState.ACTIVE:
            yield f"{hold.origin} still has a hold"


def _events(bank: Bank, by_name: dict[str, Transfer]) -> Iterator[str]:
    """INV-7: one event a version, and the last one tells what the row says."""
    for name, transfer in by_name.items():
        lives = [event for event, _ in bank.tables.outbox if event.aggregate == name]
        if [event.version for event in lives] != list(range(1, transfer.version + 1)):
            yield f"{name} has version {transfer.version} and the events {[event.version for event in lives]}"
        elif lives[-1].message != events.of(transfer).message:
            yield f"{name} is {transfer.state}, and what was told last is {lives[-1].message}"
    for events_of in (bank.ledger.outbox, bank.compliance.told):
        versions = Counter((event.aggregate, event.version) for event in events_of)
        yield from (f"{aggregate} version {n} was told twice" for (aggregate, n), c in versions.items() if c > 1)
