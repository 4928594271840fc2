"""Accounts and compliance in memory, as their contracts say: idempotent by key, able to fail and to lose answers."""

from __future__ import annotations

import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import ClassVar

import grpc

from florin.common.v1 import errors_pb2
from florin.compliance.v1 import decision_pb2
from meshkit.errors import DomainError, Unavailable
from meshkit.idempotency import NAMESPACE
from transactions import legs
from transactions.errors import PaymentDeclined
from transactions.model import AccountType, Expected, Transfer
from transactions.ports import Account, Decision, Outcome

POSTED_AT = datetime(2026, 3, 2, 9, tzinfo=UTC)


class InsufficientFunds(DomainError):
    """The ledger's refusal."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.FAILED_PRECONDITION
    reason: ClassVar[int] = errors_pb2.REASON_INSUFFICIENT_FUNDS


class StepCancelled(DomainError):
    """The ledger's refusal of a step that was cancelled."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.FAILED_PRECONDITION
    reason: ClassVar[int] = errors_pb2.REASON_STEP_CANCELLED


class HoldNotActive(DomainError):
    """The ledger's refusal to release what a journal consumed."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.FAILED_PRECONDITION
    reason: ClassVar[int] = errors_pb2.REASON_HOLD_NOT_ACTIVE


class StateChanged(DomainError):
    """The ledger's refusal of a step that expects another account."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.ABORTED
    reason: ClassVar[int] = errors_pb2.REASON_STATE_CHANGED


class LedgerFrozen(DomainError):
    """The ledger's refusal while it is frozen."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.FAILED_PRECONDITION
    reason: ClassVar[int] = errors_pb2.REASON_LEDGER_FROZEN


@dataclass
class Faults:
    """What goes wrong: a service that is down refuses; one that loses an answer did what it was asked."""

    down: bool = False
    lose: deque[str] = field(default_factory=deque)
    """Names of calls whose next answer is lost."""
    before: Callable[[str], None] | None = None
    """Called with the call's name before it is done."""

    def enter(self, part: str, name: str) -> None:
        if self.down:
            raise Unavailable(part)
        if self.before is not None:
            self.before(name)

    def leave(self, part: str, name: str) -> None:
        if self.lose and self.lose[0] == name:
            self.lose.popleft()
            raise Unavailable(part)


class AccountFrozen(DomainError):
    """The ledger's refusal to move anything to or from such an account."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.FAILED_PRECONDITION
    reason: ClassVar[int] = errors_pb2.REASON_ACCOUNT_FROZEN


class FakeLedger:
    """Balances, journals and holds; every outcome is stored under the step's key."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.balances: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        """Account → how many entries it has."""
        self.outcomes: dict[str, Outcome] = {}
        self.journals: Counter[str] = Counter()
        """Origin → how many journals were posted for it."""
        self.holds: dict[str, tuple[str, int, str]] = {}
        """Hold key → account, amount, state."""
        self.frozen: set[str] = set()
        """Names of accounts that nothing moves to or from."""
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self.is_frozen = False

    def open(
        self,
        name: str,
        balance: int = 0,
        currency: str = "EUR",
        customers: tuple[str, ...] = (),
        type_: AccountType = AccountType.CUSTOMER,
        iban: str = "",
    ) -> None:
        self.accounts[name] = Account(f"accounts/{name}", currency, customers, type_)
        if iban:
            self.accounts[f"iban:{iban}"] = self.accounts[name]
        self.balances[f"accounts/{name}"] = balance

    def available(self, account: str) -> int:
        held = sum(amount for where, amount, state in self.holds.values() if where == account and state == "active")
        return self.balances[account] - held

    def state(self, account: str) -> Expected:
        """What a step could expect of an account."""
        return Expected(self.versions[account], self.available(account))

    def active_holds(self) -> int:
        return sum(1 for _, _, state in self.holds.values() if state == "active")

    async def resolve(self, references: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Account]:
        self._enter("resolve")
        found = {
            key: self.accounts[key[1].removeprefix("accounts/")]
            for key in references
            if key[1].removeprefix("accounts/") in self.accounts
        }
        self.faults.leave("accounts", "resolve")
        return found

    async def describe(self, tenant: str, account: str) -> tuple[str, Sequence[str]]:
        self._enter("describe")
        return "AT611904300234573201", ["Anna Example"]

    async def post(self, transfers: Sequence[Transfer], *, validate_only: bool = False) -> list[Outcome]:
        self._enter("post")
        answers = [self._post(transfer, validate_only) for transfer in transfers]
        self.faults.leave("accounts", "post")
        return answers

    async def hold(self, transfers: Sequence[Transfer]) -> list[Outcome]:
        self._enter("hold")
        answers = [self._hold(transfer) for transfer in transfers]
        self.faults.leave("accounts", "hold")
        return answers

    async def release(self, transfers: Sequence[Transfer]) -> list[Outcome]:
        self._enter("release")
        answers = [self._release(transfer) for transfer in transfers]
        self.faults.leave("accounts", "release")
        return answers

    async def cancel(self, transfers: Sequence[Transfer]) -> list[Outcome]:
        self._enter("cancel")
        answers = [
            self.outcomes.setdefault(transfer.step_key("post"), Outcome(refusal=StepCancelled("cancelled").to_status()))
            for transfer in transfers
        ]
        self.faults.leave("accounts", "cancel")
        return answers

    def _enter(self, name: str) -> None:
        self.calls[name] += 1
        self.faults.enter("accounts", name)

    def _post(self, transfer: Transfer, validate_only: bool) -> Outcome:
        key, hold_key = transfer.step_key("post"), transfer.hold_key
        if key in self.outcomes:
            return self.outcomes[key]
        if self.is_frozen:
            return Outcome(refusal=LedgerFrozen("frozen").to_status(), is_frozen=True)
        debit, moves = self._name(transfer.debit_account), legs.of(transfer)
        requested = -sum(leg.amount for leg in moves if self._name(leg.account) == debit and leg.amount < 0)
        hold = self.holds.get(hold_key)
        spare = hold[1] if hold is not None and hold[2] == "active" else 0
        before = self.state(debit)
        if transfer.capture_of and (hold is None or hold[2] != "active"):
            outcome = Outcome(refusal=HoldNotActive("ended").to_status())
        elif self.frozen & {self._name(leg.account) for leg in moves}:
            outcome = Outcome(refusal=AccountFrozen("frozen").to_status())
        elif not hold_key and transfer.expected not in (None, before):
            outcome = Outcome(refusal=StateChanged("changed", metadata={"changed": "BALANCE"}).to_status())
        elif self._has_a_rule(debit) and self.available(debit) + spare < requested:
            outcome = Outcome(refusal=InsufficientFunds("not enough").to_status())
        else:
            after = self.balances.copy()
            balances = []
            for leg in moves:
                after[self._name(leg.account)] += leg.amount
                balances.append(after[self._name(leg.account)])
            outcome = Outcome(
                journal=f"journals/{uuid.uuid5(NAMESPACE, key)}",
                accounts=tuple(self._name(leg.account) for leg in moves),
                customers=self.accounts[debit.removeprefix("accounts/")].customers,
                create_time=POSTED_AT,
                effective_time=transfer.effective_time or POSTED_AT,
                balances_after=tuple(balances),
                expected=before if validate_only else None,
            )
            if not validate_only:
                self.balances = after
                self.versions.update(self._name(leg.account) for leg in moves)
                self.journals[transfer.name] += 1
                if hold is not None:
                    rest = hold[1] - requested if transfer.capture_of and not transfer.final_capture else 0
                    self.holds[hold_key] = (hold[0], rest, "active") if rest else (*hold[:2], "consumed")
        if not validate_only:
            self.outcomes[key] = outcome
        return outcome

    def _hold(self, transfer: Transfer) -> Outcome:
        key = transfer.step_key("hold")
        if key in self.outcomes:
            standing = self.outcomes[key]
            if key in self.holds and self.holds[key][2] != "active":
                return Outcome(refusal=StepCancelled("released").to_status())
            return standing
        if self.is_frozen:
            return Outcome(refusal=LedgerFrozen("frozen").to_status(), is_frozen=True)
        account = self._name(transfer.debit_account)
        amount = transfer.amount + transfer.fee_amount
        if transfer.expected not in (None, self.state(account)):
            outcome = Outcome(refusal=StateChanged("changed", metadata={"changed": "AVAILABLE"}).to_status())
        elif self._has_a_rule(account) and self.available(account) < amount:
            outcome = Outcome(refusal=InsufficientFunds("not enough").to_status())
        else:
            self.holds[key] = (account, amount, "active")
            outcome = Outcome(hold=f"holds/{key}")
        self.outcomes[key] = outcome
        return outcome

    def _release(self, transfer: Transfer) -> Outcome:
        key = transfer.step_key("hold")
        if key in self.holds:
            account, amount, state = self.holds[key]
            if state == "consumed":
                return Outcome(refusal=HoldNotActive("consumed").to_status())
            self.holds[key] = (account, amount, "released")
            return Outcome(hold=f"holds/{key}")
        return self.outcomes.setdefault(key, Outcome(refusal=StepCancelled("cancelled").to_status()))

    def _has_a_rule(self, account: str) -> bool:
        """Whether it may not go below zero: the bank's own settlement and suspense accounts may."""
        type_ = self.accounts[account.removeprefix("accounts/")].type
        return type_ not in (AccountType.SETTLEMENT, AccountType.SUSPENSE)

    def _name(self, reference: str) -> str:
        return self.accounts[reference.removeprefix("accounts/")].name


TRACE = decision_pb2.DecisionTrace(
    checks=[decision_pb2.DecisionTrace.Check(check="kyc", outcome=decision_pb2.DECISION_OUTCOME_ALLOW)]
)
"""Of what is not decided for good."""


class FakeScreening:
    """Decisions by amount, each stored under the step's key."""

    REVIEW_FROM, DECLINE_FROM = 100_000, 1_000_000

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.faults = Faults()
        self.calls = 0

    async def screen(
        self, transfers: Sequence[tuple[Transfer, Account, Account]], *, validate_only: bool = False
    ) -> list[Outcome]:
        self.calls += 1
        self.faults.enter("compliance", "screen")
        answers = []
        for transfer, _, _ in transfers:
            key = transfer.step_key("screen")
            outcome = self.outcomes.get(key) or self._decide(transfer)
            if not validate_only:
                self.outcomes[key] = outcome
            answers.append(replace(outcome, trace=TRACE) if validate_only else outcome)
        self.faults.leave("compliance", "screen")
        return answers

    def _decide(self, transfer: Transfer) -> Outcome:
        name = f"decisions/{transfer.step_key('screen')}"
        if transfer.amount >= self.DECLINE_FROM:
            return Outcome(decision=Decision.DECLINE, decision_name=name, refusal=PaymentDeclined().to_status())
        if transfer.amount >= self.REVIEW_FROM:
            return Outcome(decision=Decision.REVIEW, decision_name=name, case=f"cases/{transfer.id}")
        return Outcome(decision=Decision.ALLOW, decision_name=name)
