"""The story's beginning: customers and accounts, money, and what payments cost."""

from __future__ import annotations

from google.type import decimal_pb2

from florin.accounts.v1 import account_pb2
from florin.transactions.v1 import fee_pb2, fee_service_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from local import demo_bank
from local.demo_bank import settlement_id
from local.demo_report import sums
from local.treasury.story import IMPORTER, SUPPLIER, Story, euros, text

FEES = "accounts/fees-eur"
_WAIT_SECONDS = 60.0


async def open_books(story: Story) -> None:
    """Two customers whose identity a second person verified; one of them has money."""
    parties = (IMPORTER, SUPPLIER)
    await demo_bank.open_customers(story.bank, parties)
    await demo_bank.until_active(story.bank, parties, _WAIT_SECONDS)
    funds = await demo_bank.fund(story.bank, parties)
    story.moved(f"accounts/{settlement_id('EUR')}", IMPORTER.account, IMPORTER.funds_minor)
    story.screen.step(f"{IMPORTER.name} and {SUPPLIER.name} have accounts; the first one has {sums(funds)}")


async def set_fees(story: Story) -> None:
    """A payment in EUR costs something from now on; a teller sees in a preview how much."""
    await story.open_account("fees-eur", account_pb2.ACCOUNT_TYPE_FEE, "EUR")
    schedule = fee_pb2.FeeSchedule(
        kind=fee_pb2.FEE_KIND_PAYMENT,
        currency_code="EUR",
        fixed_amount=euros(1_00),
        percent=decimal_pb2.Decimal(value="0.1"),
        rounding=fee_pb2.FEE_ROUNDING_HALF_EVEN,
        fee_account=FEES,
        enabled=True,
    )
    operator, teller = story.bank.operator, story.bank.teller
    request = fee_service_pb2.SetFeeScheduleRequest(fee_schedule=schedule, request_id=story.request_id("fees"))
    await operator.call(operator.fees.SetFeeSchedule, request)
    asked = pb.CreateTransferRequest(
        debit_account=IMPORTER.account, credit_account=SUPPLIER.account, amount=euros(1_000_00), validate_only=True
    )
    costs = euros(0)

    async def is_known() -> bool:
        previewed = (await teller.call(teller.transfers.CreateTransfer, asked)).transfer
        costs.CopyFrom(previewed.fee.amount)
        return previewed.HasField("fee")

    await story.until(is_known, "the fee is not known")  # all replicas know a new one after some seconds
    story.expect(f"a payment of 1000.00 EUR costs {text(costs)} from now on", costs.minor_units, fee(1_000_00))


def fee(minor_units: int) -> int:
    """What a payment in EUR costs, in minor units; none of the story's is a case for rounding."""
    return 1_00 + minor_units // 1000
