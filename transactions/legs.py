"""The legs of a transfer's journal, of which each currency's sum is zero; pure."""

from __future__ import annotations

from typing import NamedTuple

from transactions.model import Transfer


class Leg(NamedTuple):
    """What a journal adds to an account, in minor units: positive is a credit, negative a debit."""

    account: str
    currency: str
    amount: int
    position: bool = False
    """Whether the account is the bank's own position."""


def of(transfer: Transfer) -> list[Leg]:
    """Payer and payee; the bank's positions where currencies differ; payer and fee account where a fee is paid, or fee
    account and who paid it where a reversal gives it back."""
    currency, amount, exchange, fee = transfer.currency, transfer.amount, transfer.exchange, transfer.fee
    if exchange is None:
        legs = [Leg(transfer.debit_account, currency, -amount), Leg(transfer.credit_account, currency, amount)]
    else:
        legs = [
            Leg(transfer.debit_account, currency, -amount),
            Leg(transfer.credit_account, exchange.currency, exchange.amount),
            Leg(exchange.debit_position, currency, amount, position=True),
            Leg(exchange.credit_position, exchange.currency, -exchange.amount, position=True),
        ]
    if fee is not None and fee.amount:
        payer, payee = (transfer.debit_account, fee.account)
        if transfer.reversal_of:
            payer, payee = fee.account, transfer.credit_account
        legs += [Leg(payer, transfer.fee_currency, -fee.amount), Leg(payee, transfer.fee_currency, fee.amount)]
    return legs
