"""A machine that does anything to a bank, in any order, and lets anything go wrong; the oracle judges it.

Chance chooses its rules and what they are given (chance.py); schedules.py finds the shortest way to what was found.
"""

from __future__ import annotations

from collections.abc import Collection

from compliance.model import LimitKind
from tests.simulation import judge
from tests.simulation.bank import FUNDS, OWNERS, Bank, Replica
from tests.simulation.callers import Callers
from tests.simulation.chance import both, one_of, rule, several, two_of, up_to
from tests.simulation.world import Fate
from transactions.fees import Kind
from transactions.model import FINAL, State

POSTURES = ("closed", "stand-in")
"""What the deployment wants while compliance is away."""
PICK = up_to(11)
"""One of those that there are, counted round: what there is differs from step to step."""
AMOUNT = one_of([1, 60, 60, 150, 250, 420, 1100])
ACCOUNTS = two_of(sorted(FUNDS))
_ANYTHING_FROM = 10
UNFINISHED = frozenset(State) - FINAL
BAD = one_of(fate for fate in Fate if fate is not Fate.GO)
_GATES_MAX = 100
"""More than a schedule has at once; calls that are asked again and again must not go on for ever."""
SELDOM = one_of([False, False, False, True])
"""What makes much else impossible must not be most of the time."""
REPLICA = up_to(1)
EITHER = one_of([False, True])
FAR = up_to(8)
"""How far what somebody asks for gets at once; then something else happens."""


class Money:
    """One schedule."""

    def __init__(self, posture: str = "closed") -> None:
        self.bank = Bank(posture=posture)
        self.callers = Callers(self.bank)

    def _replica(self, number: int) -> Replica:
        return self.bank.replicas[number]

    def _go(self, far: int) -> None:
        for _ in range(far):
            self.bank.world.open(-1)

    def _one(self, pick: int, states: Collection[State]) -> str:
        """A transfer in one of these states, the latest first; now and then, or where there is none, any that was asked
        for."""
        likely = [transfer.name for transfer in judge.transfers(self.bank) if transfer.state in states]
        wanted = likely if likely and pick < _ANYTHING_FROM else self.callers.made
        return wanted[-1 - pick % len(wanted)] if wanted else "transfers/none"

    @rule(at=REPLICA, accounts=ACCOUNTS, amount=AMOUNT, far=FAR)
    def pay(self, at: int, accounts: list[str], amount: int, far: int) -> None:
        """Somebody pays."""
        self.callers.pay(self._replica(at), accounts[0], accounts[1], amount)
        self._go(far)

    @rule(at=REPLICA, accounts=ACCOUNTS, amount=AMOUNT, valid_for=one_of([0.0, 0.0, 60.0]), far=FAR)
    def pay_as_previewed(self, at: int, accounts: list[str], amount: int, valid_for: float, far: int) -> None:
        """Somebody pays, or has an amount held, from the account as it is now, or not at all."""
        self.callers.pay(self._replica(at), accounts[0], accounts[1], amount, valid_for=valid_for, promised=True)
        self._go(far)

    @rule(amount=AMOUNT, got=one_of([1, 66, 165, 500]), valid_for=one_of([0.2, 5.0, 60.0]))
    def offer(self, amount: int, got: int, valid_for: float) -> None:
        """The bank offers another currency for an amount."""
        self.bank.offer(amount, got, valid_for)

    @rule(at=REPLICA, debit=one_of(sorted(FUNDS)), pick=PICK, far=FAR)
    def exchange(self, at: int, debit: str, pick: int, far: int) -> None:
        """Somebody pays by one of the offers."""
        self.callers.exchange(self._replica(at), debit, pick)
        self._go(far)

    @rule(at=REPLICA, payments=several(both(ACCOUNTS, AMOUNT), 2, 4))
    def pay_many(self, at: int, payments: list[tuple[list[str], int]]) -> None:
        """Somebody pays a batch."""
        self.callers.pay_many(self._replica(at), [(debit, credit, amount) for (debit, credit), amount in payments])

    @rule(at=REPLICA, accounts=ACCOUNTS, amount=AMOUNT, valid_for=one_of([60.0, 60.0, 2.0]), far=FAR)
    def authorize(self, at: int, accounts: list[str], amount: int, valid_for: float, far: int) -> None:
        """Somebody has an amount held."""
        self.callers.pay(self._replica(at), accounts[0], accounts[1], amount, valid_for=valid_for)
        self._go(far)

    @rule(at=REPLICA, pick=PICK, amount=one_of([0, 1, 60, 150]), final=EITHER, far=FAR)
    def capture(self, at: int, pick: int, amount: int, final: bool, far: int) -> None:
        """Somebody captures, whatever it is."""
        self.callers.capture(self._replica(at), self._one(pick, {State.AUTHORIZED}), amount, final=final)
        self._go(far)

    @rule(at=REPLICA, pick=PICK, far=FAR)
    def void(self, at: int, pick: int, far: int) -> None:
        """Somebody voids."""
        self.callers.void(self._replica(at), self._one(pick, {State.AUTHORIZED}))
        self._go(far)

    @rule(at=REPLICA, pick=PICK, far=FAR)
    def cancel(self, at: int, pick: int, far: int) -> None:
        """Somebody cancels."""
        self.callers.cancel(self._replica(at), self._one(pick, UNFINISHED))
        self._go(far)

    @rule(at=REPLICA, pick=PICK, amount=one_of([0, 1, 60]), return_fee=EITHER, far=FAR)
    def reverse(self, at: int, pick: int, amount: int, return_fee: bool, far: int) -> None:
        """Somebody moves money back."""
        self.callers.reverse(self._replica(at), self._one(pick, {State.COMPLETED}), amount, return_fee=return_fee)
        self._go(far)

    @rule(at=REPLICA, pick=PICK, far=FAR)
    def ask_again(self, at: int, pick: int, far: int) -> None:
        """Somebody who heard nothing sends the same request again."""
        self.callers.again(self._replica(at), pick)
        self._go(far)

    @rule(picks=several(PICK, 1, 12))
    def go_on(self, picks: list[int]) -> None:
        """Calls and transactions are done, in any order."""
        for pick in picks:
            self.bank.world.open(pick)

    @rule()
    def all_goes_well(self) -> None:
        """Whatever is on its way comes to its end."""
        for _ in range(_GATES_MAX):
            if not self.bank.world.gates:
                return
            self.bank.world.open(0)

    @rule(seconds=one_of([0.02, 0.6, 3.0, 6.0, 61.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.bank.world.loop.pass_time(seconds)

    @rule(pick=PICK, fate=BAD)
    def go_wrong(self, pick: int, fate: Fate) -> None:
        """A call or a transaction does not end as it should."""
        self.bank.world.open(pick, fate)

    @rule(pick=PICK)
    def deliver_late(self, pick: int) -> None:
        """A message comes of which its sender knows nothing any more."""
        self.bank.world.deliver_late(pick)

    @rule(number=REPLICA)
    def kill(self, number: int) -> None:
        """kill -9."""
        self.bank.kill(number)

    @rule(kept=up_to(3))
    def kill_database(self, kept: int) -> None:
        """kill -9 of the database: what was not on disk is lost."""
        self.bank.tables.kill(kept)

    @rule(number=REPLICA)
    def recover(self, number: int) -> None:
        """A recovery worker looks for what is overdue."""
        self._replica(number).recover()

    @rule(picks=several(PICK, 1, 6), again=EITHER)
    def tell(self, picks: list[int], again: bool) -> None:
        """Events are published, perhaps twice, and arrive in any order, perhaps twice."""
        for pick in picks:
            self.bank.relay(pick, noted=not again)
            self.bank.consume(pick, again=again)
            self.bank.hear_verdict(pick, again=again)

    @rule(pick=PICK, approve=EITHER)
    def decide(self, pick: int, approve: bool) -> None:
        """An officer decides."""
        self.bank.resolve_case(pick, approve=approve)

    @rule(account=one_of(sorted(OWNERS)), frozen=SELDOM)
    def freeze(self, account: str, frozen: bool) -> None:
        """An account is frozen, or is no more."""
        self.bank.freeze(account, frozen=frozen)

    @rule(account=one_of(sorted(OWNERS)), side=one_of(["DEBITS", "CREDITS"]), blocked=SELDOM)
    def block(self, account: str, side: str, blocked: bool) -> None:
        """An account takes no debits or no credits, or does again."""
        self.bank.block(account, side, blocked=blocked)

    @rule(account=one_of(sorted(FUNDS)), minimum=one_of([0, 0, 100, 250]))
    def set_minimum(self, account: str, minimum: int) -> None:
        """Something has to stay on an account."""
        self.bank.set_minimum(account, minimum)

    @rule(
        kind=one_of([Kind.PAYMENT, Kind.AUTHORIZATION, Kind.EXCHANGE]),
        fixed=one_of([0, 1, 7]),
        millionths=one_of([0, 2_500, 150_000]),
        most=one_of([None, 20]),
    )
    def set_price(self, kind: Kind, fixed: int, millionths: int, most: int | None) -> None:
        """Transfers cost something else from now on."""
        self.bank.set_price(kind, fixed, millionths, most)

    @rule(kind=one_of(list(LimitKind)), maximum=one_of([5000, 1500, 700, 200]))
    def set_limit(self, kind: LimitKind, maximum: int) -> None:
        """A limit is set."""
        self.bank.set_limit(kind, maximum)

    @rule(away=SELDOM)
    def take_compliance_away(self, away: bool) -> None:
        """Compliance cannot be asked, or can be again."""
        self.bank.compliance_away = away

    @rule()
    def work_of_the_night(self) -> None:
        """Holds and cases whose time is over are ended."""
        self.bank.expire_holds()
        self.bank.expire_cases()

    def all_agree(self) -> None:
        """At every moment."""
        judge.at_any_moment(self.bank)

    def end(self) -> None:
        """Nothing goes wrong any more: all comes to an end, once."""
        judge.settle(self.bank)
        judge.in_the_end(self.bank, self.callers)

    def close(self) -> None:
        """Ends all that still runs."""
        self.bank.close()
