"""Journals that people and programs of the bank ask for by a call, as steps of the ledger, and what is audited of them.

No I/O. They are of two kinds: funding, and what the bank posts itself.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from accounts.book import CUSTOMERS_SCOPE, FUND_SCOPE, Actor, Leg, Post, Posted, Step
from accounts.model import JournalKind, Metadata
from meshkit.audit import Action
from meshkit.idempotency import NAMESPACE
from meshkit.identity import Call

_POST_JOURNAL = "JournalService/PostJournal"
"""The method whose request_ids these are, alone or in a batch."""


@dataclass(frozen=True, slots=True)
class Item:
    """A step on its way through a batch; `asked` is the call that wants it recognised again and audited, with `why`."""

    step: Step
    asked: Call | None = None
    why: str = ""


def weight(item: Item) -> int:
    """How large a step is for the transaction that it goes into: a payment has a few, a journal of the bank's many."""
    return len(item.step.legs) if isinstance(item.step, Post) else 1


def funding_step(
    call: Call, *, account: str, settlement_account: str, currency: str, amount: int, reference: str
) -> Post:
    """The step of FundAccount: a settlement account is debited, `account` credited, in minor units.

    Its key comes from the request, so that the same request_id is the same step (INV-5).
    """
    return Post(
        tenant=call.tenant,
        key=_key(call, call.method),
        actor=Actor(customer=None, may_fund=True),
        kind=JournalKind.FUNDING,
        origin=f"funding/{reference}" if reference else "funding",
        legs=(Leg(settlement_account, currency, -amount), Leg(account, currency, amount)),
    )


def manual_step(
    call: Call,
    legs: Sequence[Leg],
    *,
    expected_versions: Sequence[int | None],
    effective_time: datetime | None,
    reference: str,
    metadata: Metadata,
) -> Post:
    """The step of PostJournal, and of an item of BatchPostJournals: the same for the same request_id (INV-5).

    `expected_versions` has one for each leg, None where any will do.
    """
    scopes = call.who.scopes
    return Post(
        tenant=call.tenant,
        key=_key(call, _POST_JOURNAL),
        actor=Actor(customer=None, may_fund=FUND_SCOPE in scopes, may_touch_customers=CUSTOMERS_SCOPE in scopes),
        kind=JournalKind.MANUAL,
        origin=f"manual/{reference}" if reference else "manual",
        legs=tuple(legs),
        effective_time=effective_time,
        expected_versions=() if set(expected_versions) == {None} else tuple(expected_versions),
        metadata=metadata,
    )


def _key(call: Call, method: str) -> str:
    return str(uuid.uuid5(NAMESPACE, "\0".join([call.tenant, call.who.subject, method, call.request_id])))


def audited(item: Item, posted: Posted) -> Action:
    """What is written of a journal that was posted for a call."""
    if item.asked is None:
        raise ValueError("nobody asked for this step by a call")
    return _funded(item.asked, posted) if posted.kind is JournalKind.FUNDING else _posted(item.asked, item.why, posted)


def _funded(call: Call, posted: Posted) -> Action:
    debit, credit = posted.legs
    return Action(
        call,
        action="fund_account",
        resource=f"accounts/{credit.account}",
        before={"posted_minor_units": credit.balance_after - credit.amount},
        after={
            "posted_minor_units": credit.balance_after,
            "currency_code": credit.currency,
            "journal": f"journals/{posted.journal}",
            "settlement_account": f"accounts/{debit.account}",
        },
        why=posted.origin,
    )


def _posted(call: Call, why: str, posted: Posted) -> Action:
    before: dict[str, object] = {}
    after: dict[str, object] = {}
    for leg in posted.legs:
        before.setdefault(f"accounts/{leg.account}", leg.balance_after - leg.amount)
        after[f"accounts/{leg.account}"] = leg.balance_after
    return Action(
        call,
        action="post_journal",
        resource=f"journals/{posted.journal}",
        before={"posted_minor_units": before},
        after={
            "posted_minor_units": after,
            "origin": posted.origin,
            "effective_time": posted.effective_time.isoformat(),
            "metadata": dict(posted.metadata),
        },
        why=why,
    )
