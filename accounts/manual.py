"""The rules of journals that the bank posts itself, beyond those of all journals; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from accounts import errors
from accounts.book import CUSTOMERS_SCOPE, FUND_SCOPE, BookAccount, Post
from accounts.journal_errors import AccountVersionMismatch, EffectiveTimeOutOfRange, JournalCustomerAccount
from accounts.model import AccountType

BACK_DATING_MAX = timedelta(days=3660)
"""How long ago a journal may count from: ten years, as orders of payments."""
FORWARD_DATING_MAX = timedelta(days=31)
"""How far ahead it may: a month, for value dates. What is further ahead has not happened."""
LEGS_MAX = 10_000
"""Of one transaction, be it one atomic batch or what many callers asked for: others wait for its accounts meanwhile."""


def check_effective_time(effective_time: datetime, now: datetime) -> None:
    """Raises EffectiveTimeOutOfRange."""
    earliest, latest = now - BACK_DATING_MAX, now + FORWARD_DATING_MAX
    if not earliest <= effective_time <= latest:
        raise EffectiveTimeOutOfRange(effective_time, earliest=earliest, latest=latest)


def check_types(step: Post, accounts: Sequence[BookAccount]) -> None:
    """Who may post on what: the bank's own accounts are what these journals are for. Customers' are not, since
    compliance saw no payment, and by debiting a settlement account money enters.

    Raises JournalCustomerAccount, AccountTypeWrong.
    """
    for account in accounts:
        if account.type is AccountType.CUSTOMER and not step.actor.may_touch_customers:
            raise JournalCustomerAccount(account.id, CUSTOMERS_SCOPE)
    for account, leg in zip(accounts, step.legs, strict=True):
        if leg.amount < 0 and account.type is AccountType.SETTLEMENT and not step.actor.may_fund:
            raise errors.AccountTypeWrong(account.id, account.type, f"debiting it needs the scope {FUND_SCOPE}")


def check_versions(step: Post, accounts: Sequence[BookAccount]) -> None:
    """Whether the accounts are where the poster expects them, before this journal. Raises AccountVersionMismatch."""
    for account, expected in zip(accounts, step.expected_versions, strict=True):
        if expected is not None and expected != account.sequence:
            raise AccountVersionMismatch(account.id, expected=expected, actual=account.sequence)
