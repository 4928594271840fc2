"""A hold that is captured in part and ends by itself, and payments that are taken back, in part and whole."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from local.treasury.opening import FEES, fee
from local.treasury.story import IMPORTER, SUPPLIER, Story, euros, state_of, text

_HELD, _CAPTURED = 8_000_00, 3_000_00
_WEEK = timedelta(days=7)
_PART, _WHOLE = 1_000_00, 2_000_00
_RETURNED = 250_00


async def hold_and_capture(story: Story) -> None:
    """Goods are ordered: their price is held for a week, and what is delivered is captured."""
    teller = story.bank.teller
    before = await story.balance(IMPORTER.account)
    held = await story.pay(
        IMPORTER.account,
        SUPPLIER.account,
        euros(_HELD),
        authorize_only=True,
        valid_for=Duration(seconds=int(_WEEK.total_seconds())),
    )
    story.expect(f"{text(held.amount)} are held for {_WEEK.days} days", state_of(held), "AUTHORIZED")
    request = pb.CaptureTransferRequest(name=held.name, amount=euros(_CAPTURED), request_id=story.request_id("capture"))
    captured = (await teller.call(teller.transfers.CaptureTransfer, request)).capture
    story.moved(IMPORTER.account, SUPPLIER.account, _CAPTURED)
    after = await story.balance(IMPORTER.account)
    story.expect(
        f"{text(captured.amount)} of it are captured; {text(after.held)} stay held",
        (state_of(captured), after.held.minor_units, after.available.minor_units),
        ("COMPLETED", _HELD - _CAPTURED, before.available.minor_units - _HELD),
    )
    await story.advance(by=_WEEK)

    async def is_over() -> bool:
        return (await story.transfer(held.name)).state != transfer_pb2.TRANSFER_STATE_AUTHORIZED

    await story.until(is_over, "the hold has not ended")

    async def is_free() -> bool:
        return not (await story.balance(IMPORTER.account)).held.minor_units

    await story.until(is_free, "the rest is still held")
    ended, free = await story.transfer(held.name), await story.balance(IMPORTER.account)
    story.expect(
        f"a week later the rest is free again; of {text(ended.amount)} {text(ended.captured_amount)} were moved",
        (state_of(ended), ended.captured_amount.minor_units, free.available.minor_units),
        ("CAPTURED", _CAPTURED, before.available.minor_units - _CAPTURED),
    )


async def reverse(story: Story) -> None:
    """Two payments; of one a part is taken back, the other one whole, with its fee."""
    paid = [await _pay(story, minor_units) for minor_units in (_PART, _WHOLE)]
    part = await _reverse(story, paid[0], "Short delivery", amount=euros(_RETURNED))
    story.moved(SUPPLIER.account, IMPORTER.account, _RETURNED)
    first = await story.transfer(paid[0].name)
    story.expect(
        f"{text(part.amount)} of {text(first.amount)} are taken back",
        (state_of(part), state_of(first), first.reversed_amount.minor_units),
        ("COMPLETED", "REVERSED", _RETURNED),
    )
    with story.expect_refusal("a payment is taken back once", "TRANSFER_REVERSED"):
        await _reverse(story, paid[0], "The rest", amount=euros(_PART - _RETURNED))
    whole = await _reverse(story, paid[1], "Paid twice", return_fee=True)
    story.moved(SUPPLIER.account, IMPORTER.account, _WHOLE)
    story.moved(FEES, IMPORTER.account, fee(_WHOLE))
    second = await story.transfer(paid[1].name)
    story.expect(
        f"{text(second.amount)} are taken back whole, with the fee of {text(whole.returned_fee.amount)}",
        (state_of(second), second.reversed_by, whole.returned_fee.amount.minor_units),
        ("REVERSED", whole.name, fee(_WHOLE)),
    )


async def _pay(story: Story, minor_units: int) -> transfer_pb2.Transfer:
    made = await story.pay(IMPORTER.account, SUPPLIER.account, euros(minor_units), creditor_name=SUPPLIER.name)
    story.moved(IMPORTER.account, SUPPLIER.account, minor_units)
    story.moved(IMPORTER.account, FEES, fee(minor_units))
    story.expect(
        f"{IMPORTER.name} pays {text(made.amount)}, and {text(made.fee.amount)} for it",
        (state_of(made), made.fee.amount.minor_units),
        ("COMPLETED", fee(minor_units)),
    )
    return made


async def _reverse(
    story: Story,
    of: transfer_pb2.Transfer,
    reason: str,
    *,
    amount: money_pb2.Money | None = None,
    return_fee: bool = False,
) -> transfer_pb2.Transfer:
    teller = story.bank.teller
    request = pb.ReverseTransferRequest(
        name=of.name, reason=reason, amount=amount, return_fee=return_fee, request_id=story.request_id("reverse")
    )
    return (await teller.call(teller.transfers.ReverseTransfer, request)).reversal
