"""Changes of withdrawals, deposits and exceptions as event messages for the outbox; no names and no IBANs."""

from __future__ import annotations

from florin.common.v1 import money_pb2
from florin.transactions.v1 import events_pb2, rail_pb2
from meshkit import clock
from meshkit.outbox import Event
from transactions.rail_model import (
    Deposit,
    DepositState,
    ExceptionKind,
    ExceptionState,
    RailException,
    Withdrawal,
    WithdrawalState,
)

WITHDRAWAL_STATES = {s: rail_pb2.WithdrawalState.Value(f"WITHDRAWAL_STATE_{s.value}") for s in WithdrawalState}
DEPOSIT_STATES = {s: rail_pb2.DepositState.Value(f"DEPOSIT_STATE_{s.value}") for s in DepositState}
EXCEPTION_KINDS = {k: rail_pb2.RailExceptionKind.Value(f"RAIL_EXCEPTION_KIND_{k.value}") for k in ExceptionKind}
EXCEPTION_STATES = {s: rail_pb2.RailExceptionState.Value(f"RAIL_EXCEPTION_STATE_{s.value}") for s in ExceptionState}


def of_withdrawal(withdrawal: Withdrawal) -> Event:
    """The event of the change that brought a withdrawal into its present version."""
    message = events_pb2.WithdrawalChanged(
        withdrawal=withdrawal.name,
        customers=withdrawal.customers,
        state=WITHDRAWAL_STATES[withdrawal.state],
        amount=money_pb2.Money(currency_code=withdrawal.currency, minor_units=withdrawal.amount),
        transfer=f"transfers/{withdrawal.id}",
        message_id=withdrawal.message,
        rail_status=withdrawal.rail_status,
        rail_reason=withdrawal.rail_reason,
        update_time=clock.timestamp(withdrawal.update_time),
    )
    return Event(
        tenant=withdrawal.tenant,
        aggregate=withdrawal.name,
        version=withdrawal.version,
        message=message,
        time=withdrawal.update_time,
        traceparent=withdrawal.traceparent,
    )


def of_deposit(deposit: Deposit) -> Event:
    """The event of the change that brought a deposit into its present version."""
    message = events_pb2.DepositChanged(
        deposit=deposit.name,
        customers=deposit.customers,
        state=DEPOSIT_STATES[deposit.state],
        amount=money_pb2.Money(currency_code=deposit.currency, minor_units=deposit.amount),
        credit_account=deposit.credit_account,
        update_time=clock.timestamp(deposit.update_time),
    )
    return Event(
        tenant=deposit.tenant,
        aggregate=deposit.name,
        version=deposit.version,
        message=message,
        time=deposit.update_time,
    )


def of_exception(exception: RailException) -> Event:
    """The event of the change that brought an exception into its present version."""
    message = events_pb2.RailExceptionChanged(
        rail_exception=exception.name,
        kind=EXCEPTION_KINDS[exception.kind],
        state=EXCEPTION_STATES[exception.state],
        resource=exception.resource,
        update_time=clock.timestamp(exception.update_time),
    )
    return Event(
        tenant=exception.tenant,
        aggregate=exception.name,
        version=exception.version,
        message=message,
        time=exception.update_time,
    )
