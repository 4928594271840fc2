"""What is true of a bank, simply: what was moved, what it cost, what is kept back, what of a limit is used.

It knows no batch, no saga, no retry and no event's version, and shares no code with the product. It is told of each
step in the order in which the services did them, and says what each has to come to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime
from fractions import Fraction

FEES = "accounts/fees"
POSITIONS = {"EUR": "accounts/position-eur", "USD": "accounts/position-usd"}
"""Through which accounts the bank changes a currency."""


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


@dataclass(frozen=True)
class Price:
    """What transfers of a kind cost that are made from a moment on."""

    kind: str
    since: datetime
    fixed: int
    millionths: int
    most: int | None

    def of(self, amount: int) -> int:
        """The fee for an amount; half a unit becomes the even one."""
        fee = self.fixed + round(Fraction(amount * self.millionths, 1_000_000))
        return fee if self.most is None else min(fee, self.most)


@dataclass(frozen=True)
class Offer:
    """What somebody was promised for an amount in euros, once and until a moment."""

    quote: str
    amount: int
    got: int
    """In cents of a dollar."""
    until: datetime


@dataclass(frozen=True)
class Move:
    """What a step has to do: who pays whom how much, and what for it."""

    debit: str
    credit: str
    amount: int
    fee: int
    """Paid by the debited to the bank; given back to the credited by a reversal."""
    of: str = ""
    """The transfer for which it was kept back."""
    keep: bool = False
    is_reversal: bool = False
    got: int | None = None
    """What the credited gets in the other currency, where the amount goes through the bank's positions."""
    is_back: bool = False
    """Whether dollars become euros again."""

    def legs(self) -> list[tuple[str, int]]:
        """Account and what is added to it."""
        legs = [(self.debit, -self.amount), (self.credit, self.credited)]
        if self.got is not None:
            bought, sold = ("USD", "EUR") if self.is_back else ("EUR", "USD")
            legs += [(POSITIONS[bought], self.amount), (POSITIONS[sold], -self.got)]
        if self.fee and self.is_reversal:
            return [*legs, (FEES, -self.fee), (self.credit, self.fee)]
        return [*legs, (self.debit, -self.fee), (FEES, self.fee)] if self.fee else legs

    @property
    def credited(self) -> int:
        """What the credited account gets."""
        return self.amount if self.got is None else self.got

    @property
    def taken(self) -> int:
        """What the debited account loses."""
        return self.amount if self.is_reversal else self.amount + self.fee


@dataclass
class Reserved:
    """What a payment takes of its payer's limit."""

    customer: str
    day: date
    amount: int


@dataclass
class Oracle:
    """The whole bank. Accounts, customers and transfers are known by name; amounts are minor units of the account's
    currency."""

    balances: dict[str, int]
    owners: dict[str, str]
    overdrafts: dict[str, int]
    review_above: int
    frozen: set[str] = field(default_factory=set)
    blocked: dict[str, set[str]] = field(default_factory=lambda: {"DEBITS": set(), "CREDITS": set()})
    minimums: Counter[str] = field(default_factory=Counter)
    prices: list[Price] = field(default_factory=list)
    entries: Counter[str] = field(default_factory=Counter)
    """Account → how often something was added to it."""
    promised: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Transfer → the entries of the payer's account and what was available on it, without which it is not made."""
    offers: dict[str, Offer] = field(default_factory=dict)
    """Transfer → the offer that it is made by."""
    takers: dict[str, str] = field(default_factory=dict)
    """Quote → the transfer that moved money by it."""
    returning: set[str] = field(default_factory=set)
    """Reversals that give the fee back."""
    per_payment: int | None = None
    per_day: int | None = None
    moved: dict[str, int] = field(default_factory=dict)
    """Transfer → what it moved."""
    credited: dict[str, int] = field(default_factory=dict)
    """Transfer → what the payee got."""
    paid: dict[str, int] = field(default_factory=dict)
    """Transfer → the fee that was paid for it, or given back by it."""
    captured: Counter[str] = field(default_factory=Counter)
    """Authorization → what its captures moved."""
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
        return self.balances[account] - self.held(account) + self.overdrafts[account] - self.minimums[account]

    def price(self, kind: str, made: datetime) -> Price | None:
        """What a transfer of a kind costs that was made at a moment."""
        begun = [price for price in self.prices if price.kind == kind and price.since <= made]
        return begun[-1] if begun else None

    def fee(self, kind: str, amount: int, made: datetime) -> int:
        """The fee of a transfer; of an authorization, were all of it captured."""
        price = self.price(kind, made)
        return price.of(amount) if price is not None else 0

    def fee_of_capture(self, of: str, whole: int, amount: int, made: datetime) -> int:
        """What captures of an authorization cost by now, less what they cost before."""
        price, before = self.price("AUTHORIZATION", made), self.captured[of]
        if price is None:
            return 0
        most = price.of(whole)
        return min(price.of(before + amount), most) - (min(price.of(before), most) if before else 0)

    def used(self) -> dict[tuple[str, date], tuple[int, int]]:
        """(customer, day) → what is used of limits, and by how many payments."""
        amounts: Counter[tuple[str, date]] = Counter()
        payments: Counter[tuple[str, date]] = Counter()
        for transfer, one in self.reserved.items():
            if self.ended.get(transfer) != "RELEASED":
                amounts[one.customer, one.day] += one.amount
                payments[one.customer, one.day] += 1
        return {key: (amounts[key], payments[key]) for key in payments}

    def post(self, transfer: str, move: Move, now: datetime) -> str:
        """Moves money, out of what is kept back where it is; gives the reason of a refusal."""
        if transfer in self.moved:
            return ""
        if (transfer, "post") in self.refused:
            return self.refused[transfer, "post"]
        reason = self._reason_not_to(transfer, move, now)
        if reason:
            self.refused[transfer, "post"] = reason
            return reason
        if transfer in self.never:
            raise Wrong(f"{transfer} moved money after somebody was told that it would not")
        if transfer in self.offers and self.takers.setdefault(self.offers[transfer].quote, transfer) != transfer:
            raise Wrong(f"{transfer} moved money by the quote of {self.takers[self.offers[transfer].quote]}")
        if move.of:
            kept = self.kept[move.of]
            if move.keep and move.taken < kept.amount:
                kept.amount -= move.taken
            else:
                kept.state = "CONSUMED"
            if move.of != transfer:
                self.captured[move.of] += move.amount
        for account, amount in move.legs():
            self.balances[account] += amount
            self.entries[account] += 1
        self.moved[transfer], self.credited[transfer], self.paid[transfer] = move.amount, move.credited, move.fee
        return ""

    def allow(self, transfer: str) -> None:
        """Something is to move for a transfer. Raises Wrong where compliance, or the officer, did not allow it."""
        decision = self.decisions.get(transfer, "NONE")
        allowed = decision == "ALLOW" or (decision == "REVIEW" and transfer in self.approved)
        if self.waits_for_compliance and not allowed:
            raise Wrong(f"{transfer} moved money, and compliance decided {decision}")

    def _reason_not_to(self, transfer: str, move: Move, now: datetime) -> str:
        if move.debit in self.frozen or move.credit in self.frozen:
            return "ACCOUNT_FROZEN"
        if not move.of and self._changed(transfer, move.debit):
            return "STATE_CHANGED"
        spare = promised = 0
        if move.of:
            kept = self.kept.get(move.of)
            if kept is None:
                return "HOLD_NOT_FOUND"
            if not kept.stands(now):
                return "HOLD_NOT_ACTIVE"
            if move.keep and move.taken > kept.amount:
                return "HOLD_EXCEEDED"
            spare = move.taken if move.keep else kept.amount
            promised = kept.amount if move.of != transfer else 0
        if move.debit in self.blocked["DEBITS"] and move.taken > promised:
            return "ACCOUNT_DEBITS_BLOCKED"
        if move.credit in self.blocked["CREDITS"]:
            return "ACCOUNT_CREDITS_BLOCKED"
        return "INSUFFICIENT_FUNDS" if move.taken > self.available(move.debit) + spare else ""

    def _changed(self, transfer: str, account: str) -> bool:
        """Whether the payer was promised a payment from another account than there is now."""
        return self.promised.get(transfer, self.seen(account)) != self.seen(account)

    def seen(self, account: str) -> tuple[int, int]:
        """What a preview tells of an account."""
        return self.entries[account], self.available(account)

    def hold(self, transfer: str, account: str, amount: int, until: datetime | None) -> str:
        """Keeps an amount back; gives the reason of a refusal."""
        if transfer in self.kept:
            return ""
        if (transfer, "hold") in self.refused:
            return self.refused[transfer, "hold"]
        reason = ""
        if account in self.frozen:
            reason = "ACCOUNT_FROZEN"
        elif self._changed(transfer, account):
            reason = "STATE_CHANGED"
        elif account in self.blocked["DEBITS"]:
            reason = "ACCOUNT_DEBITS_BLOCKED"
        elif amount > self.available(account):
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
