"""Journals that stand or fall together: all are posted to a book, or it is as it was; no I/O, no messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from accounts import ledger
from accounts.book import Book, Outcome, Post, Refused
from accounts.journal_errors import JournalBatchAborted

Refusal = Callable[[Outcome], str]
"""The reason that an outcome was refused for; empty for one that was not."""


def apply_together(book: Book, steps: Sequence[Post], now: datetime, refusal: Refusal) -> list[Outcome]:
    """Posts all journals in their order, recorded in one moment; if one is refused, none is posted, and those that were
    not refused themselves are refused for it. A key that has an outcome keeps it (INV-5).

    The book is of these journals alone, and they consume no holds.
    """
    accounts = {place: replace(account) for place, account in book.accounts.items()}
    standing = set(book.outcomes)
    # No account's entry is recorded before its last one: from the latest of them on, all of it is one moment.
    moment = max([now, *(account.recorded_time for account in accounts.values())])
    outcomes = ledger.apply(book, steps, moment)
    reasons = [refusal(outcome) for outcome in outcomes]
    first = next((position for position, reason in enumerate(reasons) if reason), None)
    if first is None:
        return outcomes
    book.accounts = accounts
    book.fresh.clear()
    # Where a ledger is frozen, all of it can be done later: nothing of it is an outcome.
    is_over = all(outcome.refusal.definitive for outcome in outcomes if isinstance(outcome, Refused))
    for step, outcome in zip(steps, outcomes, strict=True):
        place = (step.tenant, step.key)
        if place in standing:
            continue
        standing.add(place)  # a key that comes twice has one outcome
        kept = outcome if isinstance(outcome, Refused) else Refused(*place, JournalBatchAborted(first, reasons[first]))
        book.outcomes[place] = kept
        if is_over:
            book.fresh.append(kept)
    return [book.outcomes[step.tenant, step.key] for step in steps]
