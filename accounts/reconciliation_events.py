"""What happened in reconciliation, as event messages for the outbox; their contents come from the rows alone."""

from __future__ import annotations

from accounts import messages
from accounts.outcomes import timestamp
from accounts.reconciliation_model import BankStatement, Match
from florin.accounts.v1 import events_pb2 as pb
from meshkit.outbox import Event


def bank_statement_imported(statement: BankStatement) -> Event:
    """A statement was taken."""
    message = pb.BankStatementImported(
        bank_statement=statement.name,
        account=f"accounts/{statement.account}",
        number=statement.number,
        period_end=statement.head.last.isoformat(),
        closing_balance=messages.money(statement.head.currency, statement.head.closing),
        entry_count=statement.entry_count,
        create_time=timestamp(statement.create_time),
    )
    return Event(statement.tenant, statement.name, 1, message, statement.create_time)


def bank_statement_matched(statement: BankStatement) -> Event:
    """The rules went over a statement; it has its `match_time`."""
    ended = statement.match_time or statement.create_time
    message = pb.BankStatementMatched(
        bank_statement=statement.name, account=f"accounts/{statement.account}", match_time=timestamp(ended)
    )
    return Event(statement.tenant, statement.name, 2, message, ended)


def item_match_changed(match: Match, currency: str) -> Event:
    """A match is what it is from now on."""
    message = pb.ItemMatchChanged(
        item_match=match.name,
        account=f"accounts/{match.account}",
        rule=match.rule.value,  # type: ignore[arg-type]
        state=match.state.value,  # type: ignore[arg-type]
        ledger_item_count=len(match.ledger),
        bank_item_count=len(match.bank),
        amount=messages.money(currency, match.amount),
        update_time=timestamp(match.update_time),
    )
    return Event(match.tenant, match.name, match.version, message, match.update_time)
