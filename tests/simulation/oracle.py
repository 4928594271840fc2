"""What is true of a bank, in the simplest words: what was moved, what is kept back, what of a limit is used.

It knows no batch, no saga, no retry and no event's version, and shares no code with the product. It is told of each
step in the order in which the services did them, and says what each has to come to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime


class Wrong(AssertionError):
    """The product and the oracle disagree."""


@dataclass
class Kept:
    """An amount that is kept back for a transfer."""

    account: str
    amount: int
    until: datetime | None
    state: str = "ACTIVE"

    def stands(self, now: datetime) -> bool:
        """Whether a journal may take from it."""
        return self.state == "ACTIVE" and (self.until is None or now < self.until)


@dataclass
class Reserved:
    """What a payment takes of its payer's limit."""

    customer: str
    day: date
    amount: int


@dataclass
class Oracle:
    """The whole bank. Accounts, customers and transfers are known by name; amounts are minor units of one currency."""

    balances: dict[str, int]
    owners: dict[str, str]
    overdrafts: dict[str, int]
    review_above: int
    frozen: set[str] = field(default_factory=set)
    per_payment: int | None = None
    per_day: int | None = None
    moved: dict[str, int] = field(default_factory=dict)
    """Transfer → what it moved."""
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    """(transfer, "post" or "hold") → why this was refused for good."""
    kept: dict[str, Kept] = field(default_factory=dict)
    """Transfer → what is kept back for it."""
    never: set[str] = field(default_factory=set)
    """Transfers of which somebody was promised that they move nothing more."""
    decisions: dict[str, str] = field(default_factory=dict)
    approved: set[str] = field(default_factory=set)
    """Transfers of which an officer said yes."""
    waits_for_compliance: bool = True
    """Whether nothing moves that compliance did not allow."""
    reserved: dict[str, Reserved] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    """Transfer → what compliance was told of its end first."""

    def held(self, account: str) -> int:
        """What is kept back on an account."""
        return sum(kept.amount for kept in self.kept.values() if kept.account == account and kept.state == "ACTIVE")

    def available(self, account: str) -> int:
        """What can be paid from an account."""
        return self.balances[account] - self.held(account) + self.overdrafts[account]

    def used(self) -> dict[tuple[str, date], tuple[int, int]]:
        """(customer, day) → what is used of limits, and by how many payments."""
        amounts: Counter[tuple[str, date]] = Counter()
        payments: Counter[tuple[str, date]] = Counter()
        for transfer, one in self.reserved.items():
            if self.ended.get(transfer) != "RELEASED":
                amounts[one.customer, one.day] += one.amount
                payments[one.customer, one.day] += 1
        return {key: (amounts[key], payments[key]) for key in payments}

    def post(
        self, transfer: str, debit: str, credit: str, amount: int, now: datetime, *, of: str = "", keep: bool = False
    ) -> str:
        """Moves money, out of what is kept back for `of` where that is given; gives the reason of a refusal."""
        if transfer in self.moved:
            return ""
        if (transfer, "post") in self.refused:
            return self.refused[transfer, "post"]
        reason = self._reason_not_to(debit, credit, amount, now, of, keep)
        if reason:
            self.refused[transfer, "post"] = reason
            return reason
        if transfer in self.never:
            raise Wrong(f"{transfer} moved money after somebody was told that it would not")
        if of:
            kept = self.kept[of]
            if keep and amount < kept.amount:
                kept.amount -= amount
            else:
                kept.state = "CONSUMED"
        self.balances[debit] -= amount
        self.balances[credit] += amount
        self.moved[transfer] = amount
        return ""

    def allow(self, transfer: str) -> None:
        """Something is to move for a transfer. Raises Wrong where compliance, or the officer, did not allow it."""
        decision = self.decisions.get(transfer, "NONE")
        allowed = decision == "ALLOW" or (decision == "REVIEW" and transfer in self.approved)
        if self.waits_for_compliance and not allowed:
            raise Wrong(f"{transfer} moved money, and compliance decided {decision}")

    def _reason_not_to(self, debit: str, credit: str, amount: int, now: datetime, of: str, keep: bool) -> str:
        if debit in self.frozen or credit in self.frozen:
            return "ACCOUNT_FROZEN"
        spare = 0
        if of:
            kept = self.kept.get(of)
            if kept is None:
                return "HOLD_NOT_FOUND"
            if not kept.stands(now):
                return "HOLD_NOT_ACTIVE"
            if keep and amount > kept.amount:
                return "HOLD_EXCEEDED"
            spare = amount if keep else kept.amount
        return "INSUFFICIENT_FUNDS" if amount > self.available(debit) + spare else ""

    def hold(self, transfer: str, account: str, amount: int, until: datetime | None) -> str:
        """Keeps an amount back; gives the reason of a refusal."""
        if transfer in self.kept:
            return ""
        if (transfer, "hold") in self.refused:
            return self.refused[transfer, "hold"]
        reason = "ACCOUNT_FROZEN" if account in self.frozen else ""
        if not reason and amount > self.available(account):
            reason = "INSUFFICIENT_FUNDS"
        if reason:
            self.refused[transfer, "hold"] = reason
        else:
            self.kept[transfer] = Kept(account, amount, until)
        return reason

    def release(self, transfer: str, now: datetime) -> str:
        """Gives back what is kept, and makes sure that nothing will be; gives the reason of a refusal."""
        kept = self.kept.get(transfer)
        if kept is None:
            return self.refused.setdefault((transfer, "hold"), "STEP_CANCELLED")
        if kept.state == "CONSUMED":
            return "HOLD_NOT_ACTIVE"
        if kept.state == "ACTIVE":
            kept.state = "RELEASED" if kept.stands(now) else "EXPIRED"
        return ""

    def cancel(self, transfer: str) -> str:
        """Makes sure that a transfer that moved nothing never will; gives "" where it did."""
        return "" if transfer in self.moved else self.refused.setdefault((transfer, "post"), "STEP_CANCELLED")

    def screen(self, transfer: str, debit: str, amount: int, now: datetime) -> str:
        """What compliance decides, which stays decided."""
        if transfer in self.decisions:
            return self.decisions[transfer]
        customer, day = self.owners[debit], now.date()
        used, _ = self.used().get((customer, day), (0, 0))
        declined = (
            transfer in self.ended
            or (self.per_payment is not None and amount > self.per_payment)
            or (self.per_day is not None and used + amount > self.per_day)
        )
        decision = "DECLINE" if declined else "REVIEW" if amount > self.review_above else "ALLOW"
        self.decisions[transfer] = decision
        if not declined:
            self.reserved[transfer] = Reserved(customer, day, amount)
        return decision

    def end(self, transfer: str, how: str, moved: int | None = None) -> None:
        """Compliance hears of a transfer's end; what it hears again changes nothing."""
        if transfer not in self.ended:
            self.ended[transfer] = how
            if moved is not None and transfer in self.reserved:
                self.reserved[transfer].amount = moved
