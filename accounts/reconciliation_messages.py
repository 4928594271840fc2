"""Reconciliation's model objects as the contract's resources; it decides nothing."""

from __future__ import annotations

from accounts import messages
from accounts.model import Account
from accounts.outcomes import timestamp
from accounts.reconciliation_import import DESCRIPTION
from accounts.reconciliation_matching import places_of
from accounts.reconciliation_model import BankStatement, Item, Match, item_name
from accounts.reconciliation_summary import Summary
from florin.accounts.v1 import reconciliation_pb2 as pb
from florin.common.v1 import money_pb2
from meshkit.cipher import Cipher


def bank_statement(model: BankStatement) -> pb.BankStatement:
    """A statement as staff sees it."""
    head = model.head
    return pb.BankStatement(
        name=model.name,
        account=f"accounts/{model.account}",
        state=model.state.value,  # type: ignore[arg-type]
        number=model.number,
        statement_id=head.statement_id,
        bank_number=head.bank_number,
        message_id=head.message_id,
        period_start=head.first.isoformat(),
        period_end=head.last.isoformat(),
        opening_balance=messages.money(head.currency, head.opening),
        closing_balance=messages.money(head.currency, head.closing),
        entry_count=model.entry_count,
        duplicate_count=model.duplicate_count,
        notices=[one.value for one in model.notices],  # type: ignore[misc]
        imported_by=model.imported_by,
        create_time=timestamp(model.create_time),
        match_time=None if model.match_time is None else timestamp(model.match_time),
    )


def item(model: Item, account: Account, cipher: Cipher, *, today: int) -> pb.ReconciliationItem:
    """An item as staff sees it; `today` is a day as an ordinal."""
    return pb.ReconciliationItem(
        name=item_name(account.id, model.side, model.number),
        side=model.side.value,  # type: ignore[arg-type]
        state=model.state.value,  # type: ignore[arg-type]
        amount=messages.money(account.currency, model.amount),
        value_date=model.value_day.isoformat(),
        age_days=today - model.value_day.toordinal(),
        references=model.references,
        journal="" if model.journal is None else f"journals/{model.journal}",
        bank_statement="" if model.statement is None else f"bankStatements/{model.statement}",
        entry_reference=model.entry_reference,
        description=cipher.decrypt(model.description, DESCRIPTION) if model.description else "",
        item_match="" if model.match is None else f"itemMatches/{model.match}",
        duplicate=model.duplicate,
        manual=model.manual,
    )


def item_match(model: Match, currency: str, *, with_items: bool = True) -> pb.ItemMatch:
    """A match as staff sees it."""
    return pb.ItemMatch(
        name=model.name,
        account=f"accounts/{model.account}",
        rule=model.rule.value,  # type: ignore[arg-type]
        state=model.state.value,  # type: ignore[arg-type]
        items=[item_name(model.account, *place) for place in places_of(model)] if with_items else [],
        amount=messages.money(currency, model.amount),
        proposed_by=model.proposed_by,
        decided_by=model.decided_by,
        note=model.note,
        reason=model.reason,
        create_time=timestamp(model.create_time),
        update_time=timestamp(model.update_time),
        undo_proposed_by=model.undo_proposed_by,
        undo_decided_by=model.undo_decided_by,
        undo_note=model.undo_note,
        undo_reason=model.undo_reason,
    )


def reconciliation(account: Account, model: Summary | None) -> pb.Reconciliation:
    """How an account and its bank differ; little more than the name before the first statement."""
    name = f"accounts/{account.id}/reconciliation"
    if model is None:
        return pb.Reconciliation(name=name)
    books = model.books

    def money(minor_units: int) -> money_pb2.Money:
        return messages.money(account.currency, minor_units)

    def items(counted: tuple[int, int]) -> pb.Reconciliation.Items:
        return pb.Reconciliation.Items(count=counted[0], amount=money(counted[1]))

    return pb.Reconciliation(
        name=name,
        bank_statement=f"bankStatements/{model.statement}",
        period_end=books.period_end.isoformat(),
        statement_count=books.statements,
        bank_opening_balance=money(books.bank_opening),
        ledger_opening_balance=money(books.ledger_opening),
        opening_difference=money(model.opening_difference),
        bank_balance=money(books.bank_closing),
        ledger_balance=money(model.ledger_balance),
        ledger_sequence=books.ledger_sequence,
        waiting_entries=model.sequence - books.ledger_sequence,
        difference=money(model.difference),
        open_bank=items(model.open_bank),
        open_ledger=items(model.open_ledger),
        resolved=items(model.resolved),
        unexplained=money(model.unexplained),
        matching=books.statements > books.matched_statements or model.sequence > books.matched_sequence,
    )
