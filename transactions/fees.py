"""What transfers cost: fee schedules and their arithmetic, in whole minor units; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from meshkit.money import INT64_MAX
from transactions.model import Fee, Transfer

_WHOLE = 1_000_000
"""A part of an amount is counted in millionths: a percentage has four decimal places."""
FREE_SCOPE = "ledger:fund"
"""Who may debit accounts that are no customer's keeps the bank's own books; these transfers cost nothing."""


class Kind(StrEnum):
    """Which transfers a schedule prices."""

    PAYMENT = "PAYMENT"
    AUTHORIZATION = "AUTHORIZATION"
    EXCHANGE = "EXCHANGE"


class Rounding(StrEnum):
    """How a part of an amount becomes a whole number of minor units."""

    HALF_EVEN = "HALF_EVEN"
    HALF_UP = "HALF_UP"
    UP = "UP"
    DOWN = "DOWN"


@dataclass(frozen=True, slots=True)
class FeeSchedule:
    """A version of a schedule; amounts are minor units of `currency`."""

    tenant: str
    kind: Kind
    currency: str
    version: int
    fixed: int
    millionths: int
    """The part of the amount that is added to what is fixed."""
    rounding: Rounding
    minimum: int
    maximum: int | None
    account: str
    """Where fees go to: "accounts/…"."""
    enabled: bool
    start_time: datetime
    create_time: datetime
    created_by: str
    """The subject who set it."""

    @property
    def name(self) -> str:
        """The resource name, of all versions."""
        return schedule_name(self.kind, self.currency)

    def fee_of(self, amount: int) -> int:
        """What moving `amount` costs; never less for more."""
        charged = max(self.fixed + rounded(amount * self.millionths, _WHOLE, self.rounding), self.minimum)
        return charged if self.maximum is None else min(charged, self.maximum)

    def fee(self, charged: int) -> Fee:
        """A fee that this version priced."""
        return Fee(charged, self.name, self.version, self.account)


def schedule_name(kind: Kind, currency: str) -> str:
    """The resource name of what prices transfers of a kind in a currency."""
    return f"feeSchedules/{kind.lower()}-{currency.lower()}"


def key_in(name: str) -> tuple[Kind, str] | None:
    """Kind and currency in a resource name; None where it can be no schedule's."""
    word, _, currency = name.removeprefix("feeSchedules/").partition("-")
    return (Kind(word.upper()), currency.upper()) if word.upper() in Kind.__members__ else None


def rounded(numerator: int, denominator: int, rounding: Rounding) -> int:
    """A fraction that is not negative as a whole number."""
    whole, rest = divmod(numerator, denominator)
    match rounding:
        case Rounding.DOWN:
            up = False
        case Rounding.UP:
            up = rest > 0
        case Rounding.HALF_UP:
            up = 2 * rest >= denominator
        case Rounding.HALF_EVEN:
            up = 2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1)
    return whole + up


def percent_to_millionths(text: str) -> int:
    """ "0.25" is 2500; the contract has bounded the text to four places."""
    return int(Decimal(text) * (_WHOLE // 100))


def millionths_to_percent(millionths: int) -> str:
    """2500 is "0.25"."""
    whole, rest = divmod(millionths, _WHOLE // 100)
    return f"{whole}.{rest:04}".rstrip("0").rstrip(".")


def kind_of(transfer: Transfer) -> Kind:
    """What a new transfer is priced as."""
    if transfer.quote:
        return Kind.EXCHANGE
    return Kind.AUTHORIZATION if transfer.is_authorization else Kind.PAYMENT


def in_force(versions: Sequence[FeeSchedule], moment: datetime) -> FeeSchedule | None:
    """The newest of a schedule's versions that has begun; None where nothing is charged then."""
    begun = [one for one in versions if one.start_time <= moment]
    newest = max(begun, key=lambda one: one.version, default=None)
    return newest if newest is not None and newest.enabled else None


def priced(transfer: Transfer, versions: Sequence[FeeSchedule]) -> Transfer:
    """A new transfer with the fee that is in force when it is made, if there is one."""
    schedule = in_force(versions, transfer.create_time)
    if schedule is None or FREE_SCOPE in transfer.principal.scopes:
        return transfer
    # Beside an amount at the end of what 64 bits hold there is little room; no account has as much.
    charged = min(schedule.fee_of(transfer.amount), INT64_MAX - transfer.amount)
    return transfer.changed(fee=schedule.fee(charged))


def of_capture(schedule: FeeSchedule, authorization: Transfer, amount: int) -> Fee:
    """What the next capture of an authorization is charged: what all of it costs by then, less what it cost before. So
    captures together cost what one of their sum would, and never more than is held for it."""
    held = authorization.fee_amount
    before = min(schedule.fee_of(authorization.captured), held) if authorization.captured else 0
    return schedule.fee(min(schedule.fee_of(authorization.captured + amount), held) - before)
