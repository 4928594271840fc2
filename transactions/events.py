"""A transfer's changes as event messages for the outbox; ids only, no names."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from florin.common.v1 import money_pb2
from florin.transactions.v1 import events_pb2
from meshkit import clock, identity
from meshkit.errors import reason_of
from meshkit.outbox import Event
from transactions import exchange_messages, fee_messages
from transactions.exchange import ExchangeRate, PositionAccount, Quote
from transactions.fees import FeeSchedule
from transactions.model import State, Transfer


def of(transfer: Transfer) -> Event:
    """The event of the change that brought the transfer into its present version."""
    return Event(
        tenant=transfer.tenant,
        aggregate=transfer.name,
        version=transfer.version,
        message=_message(transfer),
        time=transfer.update_time,
        traceparent=transfer.traceparent,
    )


def subject_after(state: State) -> str:
    """The subject of the event that tells of a state."""
    return f"florin.transactions.transfer_{_WORD[state]}.v1"


def fee_schedule_changed(schedule: FeeSchedule) -> Event:
    """The event of a schedule's new version."""
    message = events_pb2.FeeScheduleChanged(
        fee_schedule=schedule.name,
        version=schedule.version,
        start_time=clock.timestamp(schedule.start_time),
        update_time=clock.timestamp(schedule.create_time),
    )
    return _event(schedule.tenant, schedule.name, schedule.version, message, schedule.create_time)


def exchange_rate_imported(rate: ExchangeRate) -> Event:
    """The event of a rate's new version."""
    message = events_pb2.ExchangeRateImported(
        exchange_rate=rate.name,
        version=rate.version,
        rate_time=clock.timestamp(rate.rate_time),
        update_time=clock.timestamp(rate.create_time),
    )
    return _event(rate.tenant, rate.name, rate.version, message, rate.create_time)


def position_account_changed(position: PositionAccount) -> Event:
    """The event of a currency's other position account."""
    message = events_pb2.PositionAccountChanged(
        position_account=position.name,
        version=position.version,
        account=position.account,
        update_time=clock.timestamp(position.update_time),
    )
    return _event(position.tenant, position.name, position.version, message, position.update_time)


def quote_created(quote: Quote) -> Event:
    """The only event of a quote."""
    message = events_pb2.QuoteCreated(
        quote=quote.name,
        customers=[quote.customer] if quote.customer else [],
        debit_amount=money_pb2.Money(currency_code=quote.debit_currency, minor_units=quote.debit_amount),
        credit_amount=money_pb2.Money(currency_code=quote.credit_currency, minor_units=quote.credit_amount),
        expire_time=clock.timestamp(quote.expire_time),
        create_time=clock.timestamp(quote.create_time),
    )
    return _event(quote.tenant, quote.name, 1, message, quote.create_time)


def _event(tenant: str, aggregate: str, version: int, message: Message, time: datetime) -> Event:
    return Event(
        tenant=tenant,
        aggregate=aggregate,
        version=version,
        message=message,
        time=time,
        traceparent=identity.traceparent(),
    )


_WORD = {
    State.ACCEPTED: "accepted",
    State.SCREENED: "screened",
    State.IN_REVIEW: "held",
    State.COMPLETED: "completed",
    State.DECLINED: "declined",
    State.REVERSED: "reversed",
    State.AUTHORIZED: "authorized",
    State.CAPTURED: "captured",
    State.VOIDED: "voided",
    State.EXPIRED: "expired",
}


def _message(transfer: Transfer) -> Message:
    amount = money_pb2.Money(currency_code=transfer.currency, minor_units=transfer.amount)
    customers = list(transfer.customers)
    updated = clock.timestamp(transfer.update_time)
    match transfer.state:
        case State.ACCEPTED:
            return events_pb2.TransferAccepted(
                transfer=transfer.name,
                customers=customers,
                amount=amount,
                end_to_end_id=transfer.end_to_end_id,
                create_time=clock.timestamp(transfer.create_time),
                **_priced(transfer),
            )
        case State.SCREENED:
            return events_pb2.TransferScreened(transfer=transfer.name, update_time=updated)
        case State.IN_REVIEW:
            return events_pb2.TransferHeld(
                transfer=transfer.name,
                customers=customers,
                amount=amount,
                end_to_end_id=transfer.end_to_end_id,
                update_time=updated,
            )
        case State.COMPLETED:
            return events_pb2.TransferCompleted(
                transfer=transfer.name,
                customers=customers,
                amount=amount,
                debit_account=transfer.debit_account,
                credit_account=transfer.credit_account,
                journal=transfer.journal,
                end_to_end_id=transfer.end_to_end_id,
                reversal_of=f"transfers/{transfer.reversal_of}" if transfer.reversal_of else "",
                capture_of=f"transfers/{transfer.capture_of}" if transfer.capture_of else "",
                update_time=updated,
                effective_time=clock.timestamp(transfer.effective_time or transfer.update_time),
                **_priced(transfer),
            )
        case State.DECLINED:
            return events_pb2.TransferDeclined(
                transfer=transfer.name,
                customers=customers,
                amount=amount,
                reason=reason_of(transfer.refusal) if transfer.refusal is not None else 0,  # type: ignore[arg-type]
                end_to_end_id=transfer.end_to_end_id,
                update_time=updated,
            )
        case State.REVERSED:
            return events_pb2.TransferReversed(
                transfer=transfer.name,
                customers=customers,
                reversed_by=f"transfers/{transfer.reversed_by}",
                amount=money_pb2.Money(currency_code=transfer.currency, minor_units=transfer.reversed),
                update_time=updated,
            )
        case State.AUTHORIZED | State.CAPTURED | State.VOIDED | State.EXPIRED:
            return _of_authorization(transfer, amount, updated)


def _priced(transfer: Transfer) -> dict[str, Any]:
    """The fields that tell of a transfer's fee and exchange, as arguments; none where there is neither."""
    fields: dict[str, Any] = {}
    if transfer.fee is not None:
        told = fee_messages.transfer_fee(transfer.fee, transfer.fee_currency)
        fields["returned_fee" if transfer.reversal_of else "fee"] = told
    if transfer.exchange is not None:
        fields["exchange"] = exchange_messages.transfer_exchange(transfer.exchange, transfer.quote)
    return fields


def _of_authorization(transfer: Transfer, amount: money_pb2.Money, updated: Timestamp) -> Message:
    customers = list(transfer.customers)
    if transfer.captured:
        return events_pb2.TransferCaptured(
            transfer=transfer.name,
            customers=customers,
            amount=amount,
            captured_amount=money_pb2.Money(currency_code=transfer.currency, minor_units=transfer.captured),
            ended=transfer.is_final,
            end_to_end_id=transfer.end_to_end_id,
            update_time=updated,
        )
    if transfer.state is State.AUTHORIZED:
        return events_pb2.TransferAuthorized(
            transfer=transfer.name,
            customers=customers,
            amount=amount,
            end_to_end_id=transfer.end_to_end_id,
            expire_time=clock.timestamp(transfer.expire_time or transfer.update_time),
            update_time=updated,
            **_priced(transfer),
        )
    given_back = events_pb2.TransferVoided if transfer.state is State.VOIDED else events_pb2.TransferExpired
    return given_back(
        transfer=transfer.name,
        customers=customers,
        amount=amount,
        end_to_end_id=transfer.end_to_end_id,
        update_time=updated,
    )
