"""Between the contract's messages and the rail's model; no decisions beside what a caller may see."""

from __future__ import annotations

from google.rpc import status_pb2

from florin.common.v1 import errors_pb2, money_pb2
from florin.transactions.v1 import rail_pb2
from florin.transactions.v1 import rail_service_pb2 as pb
from meshkit import clock, idempotency
from meshkit.identity import Call, Principal
from transactions import messages
from transactions.model import Transfer, request_key
from transactions.rail_events import DEPOSIT_STATES, EXCEPTION_KINDS, EXCEPTION_STATES, WITHDRAWAL_STATES
from transactions.rail_model import Deposit, DepositState, Parties, RailException, Withdrawal

WITHDRAWALS_IN = {number: state for state, number in WITHDRAWAL_STATES.items()}
DEPOSITS_IN = {number: state for state, number in DEPOSIT_STATES.items()}
EXCEPTIONS_IN = {number: state for state, number in EXCEPTION_STATES.items()}


def wanted(request: pb.CreateWithdrawalRequest, call: Call) -> tuple[Withdrawal, Transfer]:
    """What a request asks for: a withdrawal, and the transfer that debits the payer, under one id. Where the money goes
    to is still to be said."""
    key = request_key(call.who, call.method, call.request_id) if call.request_id else idempotency.uuid7()
    moment = clock.now()
    customers = (call.who.customer,) if call.who.customer is not None else ()
    withdrawal = Withdrawal(
        id=str(key),
        principal=call.who,
        request_key=key,
        fingerprint=call.fingerprint,
        debit_account=request.debit_account,
        currency=request.amount.currency_code,
        amount=request.amount.minor_units,
        parties=Parties(
            creditor_name=request.creditor_name,
            creditor_iban=request.creditor_iban,
            remittance=request.remittance,
        ),
        end_to_end_id=request.end_to_end_id,
        customers=customers,
        create_time=moment,
        update_time=moment,
        traceparent=call.traceparent,
    )
    transfer = Transfer(
        id=str(key),
        principal=call.who,
        request_key=key,
        request_id=request.request_id,
        fingerprint=call.fingerprint,
        debit_account=request.debit_account,
        credit_account="",
        currency=withdrawal.currency,
        amount=withdrawal.amount,
        creditor_name=request.creditor_name,
        end_to_end_id=request.end_to_end_id,
        remittance=request.remittance,
        create_time=moment,
        update_time=moment,
        customers=customers,
        traceparent=call.traceparent,
    )
    return withdrawal, transfer


def withdrawal(model: Withdrawal, principal: Principal) -> rail_pb2.Withdrawal:
    """The withdrawal as a caller sees it: which deposit has what could not be given back is staff's."""
    return rail_pb2.Withdrawal(
        name=model.name,
        state=WITHDRAWAL_STATES[model.state],
        debit_account=model.debit_account,
        amount=money_pb2.Money(currency_code=model.currency, minor_units=model.amount),
        creditor_name=model.parties.creditor_name,
        creditor_iban=model.parties.creditor_iban,
        end_to_end_id=model.end_to_end_id,
        remittance=model.parties.remittance,
        transfer=f"transfers/{model.id}",
        message_id=model.message,
        rail_status=model.rail_status,
        rail_reason=model.rail_reason,
        reversal=f"transfers/{model.reversal}" if model.reversal else "",
        # The ids of its transfers follow from its own, and a customer may choose those of transfers.
        deposit=f"deposits/{model.deposit}" if model.deposit and principal.is_staff else "",
        refusal=_refusal(model.refusal),
        create_time=clock.timestamp(model.create_time),
        update_time=clock.timestamp(model.update_time),
        send_time=clock.timestamp(model.send_time) if model.send_time is not None else None,
        version=model.version,
    )


def deposit(model: Deposit, principal: Principal) -> rail_pb2.Deposit:
    """The deposit as a caller sees it: how it came to its account is staff's."""
    message = rail_pb2.Deposit(
        name=model.name,
        state=DEPOSIT_STATES[model.state],
        amount=money_pb2.Money(currency_code=model.currency, minor_units=model.amount),
        message_id=model.message_id,
        reference=model.entry,
        creditor_iban=model.parties.creditor_iban,
        debtor_name=model.parties.debtor_name,
        debtor_iban=model.parties.debtor_iban,
        end_to_end_id=model.end_to_end_id,
        remittance=model.parties.remittance,
        credit_account=model.credit_account,
        withdrawal=f"withdrawals/{model.withdrawal}" if model.withdrawal else "",
        create_time=clock.timestamp(model.create_time),
        update_time=clock.timestamp(model.update_time),
        version=model.version,
    )
    if principal.is_staff:
        asked = model.state in (DepositState.RECEIVED, DepositState.ASSIGNING)
        transfer = model.credit_transfer or (model.transfer if asked else "")
        message.transfer = f"transfers/{transfer}" if transfer else ""
        message.suspense_transfer = f"transfers/{model.suspense_transfer}" if model.suspense_transfer else ""
        if model.refusal is not None:
            message.refusal.CopyFrom(messages.refusal(model.refusal))
    return message


def rail_exception(model: RailException) -> rail_pb2.RailException:
    """The exception."""
    return rail_pb2.RailException(
        name=model.name,
        kind=EXCEPTION_KINDS[model.kind],
        state=EXCEPTION_STATES[model.state],
        resource=model.resource,
        message_id=model.message_id,
        reference=model.reference,
        detail=model.detail,
        proposed_account=model.proposed_account,
        proposed_reason=model.proposed_reason,
        proposed_by=model.proposed_by,
        decided_by=model.decided_by,
        create_time=clock.timestamp(model.create_time),
        update_time=clock.timestamp(model.update_time),
        version=model.version,
        etag=str(model.version),
    )


def _refusal(status: status_pb2.Status | None) -> errors_pb2.Refusal | None:
    return messages.refusal(status) if status is not None else None
