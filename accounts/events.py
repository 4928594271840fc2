"""What happened, as the contract's event messages for the outbox; contents come from the rows, never from the clock."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message

from accounts import messages
from accounts.book import Book, Hold, Posted
from accounts.freezes import Freeze
from accounts.history import Head
from accounts.model import Account, Customer, HoldState, Tenant
from accounts.outcomes import customers, timestamp
from accounts.overdrafts import OverdraftChange, Threshold
from accounts.statements import Statement
from florin.accounts.v1 import events_pb2 as pb
from florin.common.v1 import money_pb2
from meshkit import clock
from meshkit.outbox import Event

LOG = "logs/journals"
"""The aggregate whose changes are signed heads: a tenant's log of journals."""


def tenant_created(tenant: Tenant) -> Event:
    """A tenant exists from now on."""
    name = f"tenants/{tenant.id}"
    message = pb.TenantCreated(tenant=name, time_zone=tenant.time_zone, create_time=timestamp(tenant.create_time))
    return Event(tenant.id, name, 1, message, tenant.create_time)


def customer_created(customer: Customer) -> Event:
    """A customer was recorded."""
    name = f"customers/{customer.id}"
    message = pb.CustomerCreated(customer=name, customers=[name], create_time=timestamp(customer.create_time))
    return Event(customer.tenant, name, customer.version, message, customer.create_time)


def customer_updated(customer: Customer) -> Event:
    """A customer's record or KYC state changed."""
    name = f"customers/{customer.id}"
    message = pb.CustomerUpdated(customer=name, customers=[name], update_time=timestamp(customer.update_time))
    return Event(customer.tenant, name, customer.version, message, customer.update_time)


def account_opened(account: Account) -> Event:
    """An account was opened."""
    name = f"accounts/{account.id}"
    message = pb.AccountOpened(
        account=name,
        customers=customers(account.owners),
        type=account.type.value,  # type: ignore[arg-type]
        state=account.state.value,  # type: ignore[arg-type]
        currency_code=account.currency,
        create_time=timestamp(account.create_time),
    )
    return Event(account.tenant, name, account.version, message, account.create_time)


def account_updated(account: Account) -> Event:
    """An account's state or terms changed."""
    name = f"accounts/{account.id}"
    message = pb.AccountUpdated(
        account=name,
        customers=customers(account.owners),
        state=account.state.value,  # type: ignore[arg-type]
        overdraft_limit_minor_units=account.balance.overdraft_limit,
        update_time=timestamp(account.update_time),
        minimum_balance=messages.minimum_balance(account.balance),
        debits_blocked=account.debit_block_reason != "",
        credits_blocked=account.credit_block_reason != "",
    )
    return Event(account.tenant, name, account.version, message, account.update_time)


def overdraft_change_requested(change: OverdraftChange) -> Event:
    """A limit waits for a second person."""
    message = pb.OverdraftChangeRequested(
        overdraft_change=change.name,
        account=f"accounts/{change.account}",
        previous_limit=messages.money(change.currency, change.previous_limit),
        limit=messages.money(change.currency, change.new_limit),
        create_time=timestamp(change.create_time),
        expire_time=timestamp(change.expire_time),
    )
    return Event(change.tenant, change.name, change.version, message, change.create_time)


def overdraft_change_ended(change: OverdraftChange) -> Event:
    """A limit waits no more; `change` has its `end_time`."""
    ended = change.end_time or change.create_time
    message = pb.OverdraftChangeEnded(
        overdraft_change=change.name,
        account=f"accounts/{change.account}",
        state=change.state.value,  # type: ignore[arg-type]
        limit=messages.money(change.currency, change.new_limit),
        end_time=timestamp(ended),
    )
    return Event(change.tenant, change.name, change.version, message, ended)


def overdraft_threshold_changed(threshold: Threshold) -> Event:
    """From now on, limits above it need a second person."""
    message = pb.OverdraftThresholdChanged(
        overdraft_threshold=threshold.name,
        threshold=messages.money(threshold.currency, threshold.amount),
        update_time=timestamp(threshold.update_time),
    )
    return Event(threshold.tenant, threshold.name, threshold.version, message, threshold.update_time)


def tree_head_signed(head: Head, number: int) -> Event:
    """Journals were sealed; `number` counts the tenant's heads."""
    return Event(
        head.tenant,
        LOG,
        number,
        pb.TreeHeadSigned(tree_head=messages.tree_head(head)),
        clock.from_microseconds(head.time),
    )


def statement_issued(statement: Statement, owners: Iterable[str]) -> Event:
    """A statement of an account was issued."""
    message = pb.StatementIssued(
        statement=statement.name,
        customers=customers(owners),
        account=f"accounts/{statement.account}",
        number=statement.number,
        period_start=statement.period.first.isoformat(),
        period_end=statement.period.last.isoformat(),
        create_time=timestamp(statement.create_time),
    )
    return Event(statement.tenant, statement.name, 1, message, statement.create_time)


def ledger_frozen(freeze: Freeze) -> Event:
    """Nothing is posted in a ledger from now on."""
    message = pb.LedgerFrozen(
        ledger_freeze=freeze.name,
        currency_code=freeze.currency,
        reason=freeze.reason,
        create_time=timestamp(freeze.create_time),
    )
    return Event(freeze.tenant, freeze.name, freeze.version, message, freeze.create_time)


def ledger_findings_added(freeze: Freeze) -> Event:
    """More was found in a frozen ledger."""
    message = pb.LedgerFindingsAdded(
        ledger_freeze=freeze.name,
        finding_count=freeze.finding_count,
        update_time=timestamp(freeze.update_time),
    )
    return Event(freeze.tenant, freeze.name, freeze.version, message, freeze.update_time)


def ledger_unfrozen(freeze: Freeze) -> Event:
    """A person ended a freeze."""
    message = pb.LedgerUnfrozen(
        ledger_freeze=freeze.name,
        currency_code=freeze.currency,
        findings_accepted=freeze.findings_accepted,
        end_time=timestamp(freeze.update_time),
    )
    return Event(freeze.tenant, freeze.name, freeze.version, message, freeze.update_time)


def of_batch(book: Book) -> list[Event]:
    """Everything that a ledger batch did: journals posted, holds placed, reduced and ended."""
    events = [_journal_posted(outcome) for outcome in book.fresh if isinstance(outcome, Posted)]
    events += [_hold_changed(book, hold) for hold in book.hold_changes]
    return events


def _journal_posted(posted: Posted) -> Event:
    name = f"journals/{posted.journal}"
    message = pb.JournalPosted(
        journal=name,
        customers=customers(posted.owners),
        kind=posted.kind.value,  # type: ignore[arg-type]
        origin=posted.origin,
        legs=[
            pb.JournalPosted.PostedLeg(
                account=f"accounts/{leg.account}",
                amount=money_pb2.Money(currency_code=leg.currency, minor_units=leg.amount),
                sequence=leg.sequence,
            )
            for leg in posted.legs
        ],
        create_time=timestamp(posted.create_time),
        effective_time=timestamp(posted.effective_time),
    )
    if posted.metadata:
        message.metadata.update(posted.metadata)
    return Event(posted.tenant, name, 1, message, posted.create_time)


def _hold_changed(book: Book, hold: Hold) -> Event:
    """What the change told that brought a hold into its present version."""
    name = f"holds/{hold.key}"
    seen_by = customers(book.accounts[hold.tenant, hold.account].owners)
    account = f"accounts/{hold.account}"
    amount = money_pb2.Money(currency_code=hold.currency, minor_units=hold.amount)
    message: Message
    if hold.version == 1:
        message = pb.HoldPlaced(
            hold=name,
            customers=seen_by,
            account=account,
            amount=amount,
            origin=hold.origin,
            create_time=timestamp(hold.create_time),
        )
    elif hold.state is HoldState.ACTIVE:
        message = pb.HoldReduced(
            hold=name,
            customers=seen_by,
            account=account,
            amount=amount,
            origin=hold.origin,
            update_time=timestamp(hold.update_time),
        )
    else:
        message = pb.HoldEnded(
            hold=name,
            customers=seen_by,
            account=account,
            state=hold.state.value,  # type: ignore[arg-type]
            origin=hold.origin,
            update_time=timestamp(hold.update_time),
        )
    return Event(hold.tenant, name, hold.version, message, hold.update_time)
