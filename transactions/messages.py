"""Between the contract's messages and the model; no decisions beside what a caller may see."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, timedelta

from google.rpc import status_pb2

from florin.common.v1 import errors_pb2, money_pb2
from florin.transactions.v1 import transfer_pb2, transfer_service_pb2
from meshkit import clock, idempotency, identity
from meshkit.errors import error_info, reason_of
from meshkit.identity import Call, Principal
from transactions import exchange_messages, fee_messages, state_tokens
from transactions.model import CREATE_METHOD, State, StateToken, Transfer, follower, request_key

_VALID_FOR = timedelta(days=7)
"""How long an authorization stands whose caller does not say."""

STATES = {state: transfer_pb2.TransferState.Value(f"TRANSFER_STATE_{state.value}") for state in State}


def order(
    request: transfer_service_pb2.CreateTransferRequest,
    principal: Principal,
    fingerprint: bytes,
    request_id: str,
    method: str = CREATE_METHOD,
) -> Transfer:
    """The transfer that a request asks for, with the id that every copy of the request gives it.

    `request_id` is the caller's key, or the edge's where the caller gave none; `method` what it is a key of.
    """
    key = request_key(principal, method, request_id) if request_id else idempotency.uuid7()
    moment = clock.now()
    return Transfer(
        id=request.transfer_id or str(key),
        principal=principal,
        request_key=key,
        request_id=request.request_id,
        fingerprint=fingerprint,
        debit_account=request.debit_account,
        credit_account=request.credit_account,
        currency=request.amount.currency_code,
        amount=request.amount.minor_units,
        creditor_name=request.creditor_name,
        end_to_end_id=request.end_to_end_id,
        remittance=request.remittance,
        create_time=moment,
        update_time=moment,
        expire_time=moment + _valid_for(request) if request.authorize_only else None,
        customers=(principal.customer,) if principal.customer is not None else (),
        quote=request.quote.removeprefix("quotes/"),
        state_token=StateToken(request.state_token, state_tokens.fingerprint(request)) if request.state_token else None,
        traceparent=identity.traceparent(),
    )


def _valid_for(request: transfer_service_pb2.CreateTransferRequest) -> timedelta:
    if not request.HasField("valid_for"):
        return _VALID_FOR
    return request.valid_for.ToTimedelta()


def capture(request: transfer_service_pb2.CaptureTransferRequest, call: Call, authorization: str) -> Transfer:
    """The transfer that captures an authorization; accounts come from it, and the amount where none is asked for."""
    return replace(
        _follower(call, request.request_id),
        capture_of=authorization,
        currency=request.amount.currency_code,
        amount=request.amount.minor_units,
        final_capture=request.final,
    )


def reversal(request: transfer_service_pb2.ReverseTransferRequest, call: Call, original: str) -> Transfer:
    """The transfer that moves another one's money back; amount and accounts come from that one."""
    return replace(
        _follower(call, request.request_id),
        remittance=request.reason,
        reversal_of=original,
        currency=request.amount.currency_code,
        amount=request.amount.minor_units,
        effective_time=(request.effective_time.ToDatetime(tzinfo=UTC) if request.HasField("effective_time") else None),
    )


def _follower(call: Call, request_id: str) -> Transfer:
    """A transfer that takes the rest from the one it belongs to."""
    key = request_key(call.who, call.method, request_id)
    return follower(
        id_=str(key),
        principal=call.who,
        request_key=key,
        request_id=request_id,
        fingerprint=call.fingerprint,
        moment=clock.now(),
        traceparent=call.traceparent,
    )


def transfer(model: Transfer, principal: Principal) -> transfer_pb2.Transfer:
    """The transfer as a caller sees it: the decision needs compliance:read."""
    message = transfer_pb2.Transfer(
        name=model.name,
        debit_account=model.debit_account,
        credit_account=model.credit_account,
        amount=money_pb2.Money(currency_code=model.currency, minor_units=model.amount),
        state=STATES[model.state],
        creditor_name=model.creditor_name,
        end_to_end_id=model.end_to_end_id,
        remittance=model.remittance,
        request_id=model.request_id,
        journal=model.journal,
        reversal_of=f"transfers/{model.reversal_of}" if model.reversal_of else "",
        reversed_by=f"transfers/{model.reversed_by}" if model.reversed_by else "",
        stand_in=model.stand_in,
        version=model.version,
        create_time=clock.timestamp(model.create_time),
        update_time=clock.timestamp(model.update_time),
        effective_time=clock.timestamp(model.effective_time) if model.effective_time is not None else None,
    )
    if model.expire_time is not None:
        message.authorize_only = True
        message.expire_time.CopyFrom(clock.timestamp(model.expire_time))
        message.captured_amount.currency_code = model.currency
        message.captured_amount.minor_units = model.captured
    if model.reversed_by:
        message.reversed_amount.currency_code = model.currency
        message.reversed_amount.minor_units = model.reversed
    if model.capture_of:
        message.capture_of = f"transfers/{model.capture_of}"
        message.final_capture = model.final_capture
    if model.fee is not None:
        fee = message.returned_fee if model.reversal_of else message.fee
        fee.CopyFrom(fee_messages.transfer_fee(model.fee, model.fee_currency))
    if model.exchange is not None:
        message.exchange.CopyFrom(exchange_messages.transfer_exchange(model.exchange, model.quote))
    if model.decision.startswith("decisions/") and "compliance:read" in principal.scopes:
        message.decision = model.decision
    if model.refusal is not None:
        message.refusal.CopyFrom(refusal(model.refusal))
    return message


def previewed(
    model: Transfer, principal: Principal, preview: transfer_service_pb2.TransferPreview
) -> transfer_pb2.Transfer:
    """The transfer that was not made: without what only one that is recorded has."""
    message = transfer(model, principal)
    message.state = preview.state
    for field in ("name", "version", "create_time", "update_time", "expire_time"):
        message.ClearField(field)
    return message


def refusal(status: status_pb2.Status) -> errors_pb2.Refusal:
    """Why something was refused, as it is kept with it."""
    info = error_info(status)
    return errors_pb2.Refusal(
        reason=reason_of(status),  # type: ignore[arg-type]
        message=status.message,
        metadata=info.metadata if info is not None else {},
    )
