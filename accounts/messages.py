"""Model objects as the contract's resources, and the other way; it decides nothing."""

from __future__ import annotations

from google.protobuf import timestamp_pb2

from accounts.freezes import Finding, Freeze
from accounts.history import Head, JournalContent
from accounts.model import Account, Balance, Customer, Entry, Identifier, Journal, Tenant
from accounts.moments import PastBalance
from accounts.outcomes import customers, timestamp
from accounts.overdrafts import OverdraftChange, Threshold
from accounts.statements import Statement
from florin.accounts.v1 import (
    account_pb2,
    customer_pb2,
    freeze_pb2,
    journal_pb2,
    overdraft_pb2,
    sealed_pb2,
    statement_pb2,
)
from florin.common.v1 import money_pb2
from meshkit.identity import Principal


def tenant(model: Tenant) -> customer_pb2.Tenant:
    """A tenant as users see it."""
    return customer_pb2.Tenant(
        name=f"tenants/{model.id}",
        display_name=model.display_name,
        time_zone=model.time_zone,
        create_time=timestamp(model.create_time),
    )


def customer(model: Customer) -> customer_pb2.Customer:
    """A customer as users see it."""
    return customer_pb2.Customer(
        name=f"customers/{model.id}",
        display_name=model.display_name,
        kyc_state=model.kyc_state.value,  # type: ignore[arg-type]
        create_time=timestamp(model.create_time),
        update_time=timestamp(model.update_time),
        etag=str(model.version),
    )


def account(model: Account, who: Principal) -> account_pb2.Account:
    """An account as a caller sees it: staff is told why it is frozen or blocked, since a case may be behind it."""
    return account_pb2.Account(
        name=f"accounts/{model.id}",
        customers=customers(model.owners),
        type=model.type.value,  # type: ignore[arg-type]
        state=model.state.value,  # type: ignore[arg-type]
        currency_code=model.currency,
        identifiers=[
            account_pb2.AccountIdentifier(iban=identifier.value)
            if identifier.kind == "iban"
            else account_pb2.AccountIdentifier(local_number=identifier.value)
            for identifier in model.identifiers
        ],
        overdraft_limit_minor_units=model.balance.overdraft_limit,
        display_name=model.display_name,
        balance=balance(model.balance),
        freeze_reason=model.freeze_reason if who.is_staff else "",
        create_time=timestamp(model.create_time),
        update_time=timestamp(model.update_time),
        etag=str(model.version),
        minimum_balance=minimum_balance(model.balance),
        debits_blocked=model.debit_block_reason != "",
        credits_blocked=model.credit_block_reason != "",
        debit_block_reason=model.debit_block_reason if who.is_staff else "",
        credit_block_reason=model.credit_block_reason if who.is_staff else "",
    )


def minimum_balance(model: Balance) -> money_pb2.Money | None:
    """What has to stay; None for nothing."""
    return money(model.currency, model.minimum) if model.minimum else None


def overdraft_change(model: OverdraftChange) -> overdraft_pb2.OverdraftChange:
    """A raise of an overdraft limit, as staff sees it."""
    return overdraft_pb2.OverdraftChange(
        name=model.name,
        account=f"accounts/{model.account}",
        state=model.state.value,  # type: ignore[arg-type]
        previous_limit=money(model.currency, model.previous_limit),
        limit=money(model.currency, model.new_limit),
        requested_by=model.requested_by,
        decided_by=model.decided_by,
        reason=model.reason,
        create_time=timestamp(model.create_time),
        expire_time=timestamp(model.expire_time),
        end_time=None if model.end_time is None else timestamp(model.end_time),
        etag=str(model.version),
    )


def overdraft_threshold(model: Threshold) -> overdraft_pb2.OverdraftThreshold:
    """The highest limit that one person may set."""
    return overdraft_pb2.OverdraftThreshold(
        name=model.name,
        threshold=money(model.currency, model.amount),
        set_by=model.set_by,
        update_time=timestamp(model.update_time),
        etag=str(model.version),
    )


def identifier(message: account_pb2.AccountIdentifier) -> Identifier:
    """An identifier as the model has it."""
    if message.WhichOneof("identifier") == "iban":
        return Identifier("iban", message.iban)
    return Identifier("local", message.local_number)


def balance(model: Balance) -> account_pb2.Balance:
    """What stands on an account."""
    return account_pb2.Balance(
        posted=money(model.currency, model.posted),
        held=money(model.currency, model.held),
        available=money(model.currency, model.available),
        sequence=model.sequence,
    )


def past_balance(model: PastBalance) -> account_pb2.Balance:
    """What stood on an account; what was held and available is not known of the past."""
    return account_pb2.Balance(posted=money(model.currency, model.posted), sequence=model.sequence)


def entry(model: Entry) -> journal_pb2.Entry:
    """A leg as it stands on its account."""
    return journal_pb2.Entry(
        account=f"accounts/{model.account}",
        journal=f"journals/{model.journal}",
        amount=money(model.currency, model.amount),
        balance_after=None if model.balance_after is None else money(model.currency, model.balance_after),
        sequence=model.sequence,
        create_time=timestamp(model.create_time),
        effective_time=timestamp(model.effective_time),
        origin=model.origin,
        kind=model.kind.value,  # type: ignore[arg-type]
    )


def journal(model: Journal) -> journal_pb2.Journal:
    """A journal with its entries."""
    return journal_pb2.Journal(
        name=f"journals/{model.id}",
        kind=model.kind.value,  # type: ignore[arg-type]
        origin=model.origin,
        entries=[entry(one) for one in model.entries],
        create_time=timestamp(model.create_time),
        effective_time=timestamp(model.effective_time),
        metadata=dict(model.metadata),
    )


def tree_head(model: Head) -> sealed_pb2.TreeHead:
    """A signed head."""
    return sealed_pb2.TreeHead(
        tenant=f"tenants/{model.tenant}",
        tree_size=model.tree_size,
        root_hash=model.root_hash,
        create_time=_timestamp(model.time),
        key_id=model.key_id,
        signature=model.signature,
    )


def sealed_journal(position: int, id_: str, leaf: bytes, content: JournalContent | None) -> sealed_pb2.SealedJournal:
    """A sealed journal with what the ledger has under its name now; None for nothing that could be one."""
    sealed = sealed_pb2.SealedJournal(position=position, name=f"journals/{id_}", leaf_hash=leaf)
    if content is None or None in (content.create_time, content.effective_time):
        return sealed
    created, effective = _timestamp(content.create_time), _timestamp(content.effective_time)
    kind: journal_pb2.JournalKind.ValueType = content.kind  # type: ignore[assignment]
    sealed.journal.CopyFrom(
        journal_pb2.Journal(
            name=sealed.name,
            kind=kind,
            origin=content.origin,
            create_time=created,
            effective_time=effective,
            metadata=dict(content.metadata),
        )
    )
    for entry in content.entries:
        sealed.journal.entries.add(
            account=f"accounts/{entry.account}",
            journal=sealed.name,
            amount=money(entry.currency, entry.amount),
            balance_after=money(entry.currency, entry.balance_after),
            sequence=entry.sequence,
            create_time=created,
            effective_time=effective,
            origin=content.origin,
            kind=kind,
        )
    return sealed


def statement(model: Statement) -> statement_pb2.Statement:
    """A statement as users see it."""
    return statement_pb2.Statement(
        name=model.name,
        account=f"accounts/{model.account}",
        number=model.number,
        period_start=model.period.first.isoformat(),
        period_end=model.period.last.isoformat(),
        time_zone=model.period.time_zone,
        start_time=timestamp(model.period.start_time),
        end_time=timestamp(model.period.end_time),
        opening_balance=money(model.currency, model.opening),
        closing_balance=money(model.currency, model.closing),
        opening_sequence=model.opening_sequence,
        closing_sequence=model.closing_sequence,
        entry_count=model.entry_count,
        create_time=timestamp(model.create_time),
    )


def ledger_freeze(model: Freeze) -> freeze_pb2.LedgerFreeze:
    """A freeze as staff sees it."""
    return freeze_pb2.LedgerFreeze(
        name=model.name,
        currency_code=model.currency,
        state=model.state.value,  # type: ignore[arg-type]
        reason=model.reason,
        finding_count=model.finding_count,
        create_time=timestamp(model.create_time),
        ended_by=model.ended_by,
        note=model.note,
        findings_accepted=model.findings_accepted,
        end_time=None if model.end_time is None else timestamp(model.end_time),
        etag=str(model.version),
    )


def ledger_finding(freeze: Freeze, model: Finding) -> freeze_pb2.LedgerFinding:
    """A finding of a freeze."""
    return freeze_pb2.LedgerFinding(
        name=f"{freeze.name}/findings/{model.id}",
        invariant=model.invariant,
        object=model.object,
        sentence=model.sentence,
        found_time=timestamp(model.found_time),
    )


def money(currency: str, minor_units: int) -> money_pb2.Money:
    """An exact amount."""
    return money_pb2.Money(currency_code=currency, minor_units=minor_units)


def _timestamp(microseconds: int) -> timestamp_pb2.Timestamp:
    """A time since 1970, also one that no calendar of Python's has."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=rest * 1000)
