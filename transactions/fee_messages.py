"""Between the contract's messages of fees and the model; no decisions."""

from __future__ import annotations

from datetime import UTC

from google.type import decimal_pb2

from florin.common.v1 import money_pb2
from florin.transactions.v1 import fee_pb2
from meshkit import clock
from meshkit.identity import Call
from transactions import fees
from transactions.fees import FeeSchedule, Kind, Rounding
from transactions.model import Fee

_KINDS = {kind: fee_pb2.FeeKind.Value(f"FEE_KIND_{kind.value}") for kind in Kind}
_ROUNDINGS = {rounding: fee_pb2.FeeRounding.Value(f"FEE_ROUNDING_{rounding.value}") for rounding in Rounding}


def wanted(message: fee_pb2.FeeSchedule, call: Call) -> FeeSchedule:
    """The schedule that a request asks for; its version is given when it is written."""
    moment = clock.now()
    starts = message.start_time.ToDatetime(tzinfo=UTC) if message.HasField("start_time") else moment
    has_part = message.HasField("percent")
    return FeeSchedule(
        tenant=call.tenant,
        kind=Kind(fee_pb2.FeeKind.Name(message.kind).removeprefix("FEE_KIND_")),
        currency=message.currency_code,
        version=0,
        fixed=message.fixed_amount.minor_units,
        millionths=fees.percent_to_millionths(message.percent.value) if has_part else 0,
        rounding=Rounding(fee_pb2.FeeRounding.Name(message.rounding).removeprefix("FEE_ROUNDING_"))
        if has_part
        else Rounding.HALF_EVEN,
        minimum=message.minimum_amount.minor_units,
        maximum=message.maximum_amount.minor_units if message.HasField("maximum_amount") else None,
        account=message.fee_account,
        enabled=message.enabled,
        start_time=max(starts, moment),
        create_time=moment,
        created_by=call.who.subject,
    )


def schedule(model: FeeSchedule) -> fee_pb2.FeeSchedule:
    """A version as it is shown."""
    message = fee_pb2.FeeSchedule(
        name=model.name,
        kind=_KINDS[model.kind],
        currency_code=model.currency,
        fixed_amount=money_pb2.Money(currency_code=model.currency, minor_units=model.fixed),
        percent=decimal_pb2.Decimal(value=fees.millionths_to_percent(model.millionths)),
        rounding=_ROUNDINGS[model.rounding],
        minimum_amount=money_pb2.Money(currency_code=model.currency, minor_units=model.minimum),
        fee_account=model.account,
        enabled=model.enabled,
        start_time=clock.timestamp(model.start_time),
        version=model.version,
        create_time=clock.timestamp(model.create_time),
        etag=str(model.version),
    )
    if model.maximum is not None:
        message.maximum_amount.CopyFrom(money_pb2.Money(currency_code=model.currency, minor_units=model.maximum))
    return message


def transfer_fee(fee: Fee, currency: str) -> fee_pb2.TransferFee:
    """What a transfer cost, as it is shown."""
    return fee_pb2.TransferFee(
        amount=money_pb2.Money(currency_code=currency, minor_units=fee.amount),
        schedule=fee.schedule,
        schedule_version=fee.version,
        fee_account=fee.account,
    )
