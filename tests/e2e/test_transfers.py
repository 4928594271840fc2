"""Payments through the whole mesh, as its users make them: one, a thousand, previewed, found again, moved back."""

from __future__ import annotations

import secrets
from collections import Counter

import pytest

from florin.common.v1 import errors_pb2
from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from meshkit.errors import error_info
from tests.support.mesh import Mesh
from tests.support.protocols import refused

COMPLETED, DECLINED = transfer_pb2.TRANSFER_STATE_COMPLETED, transfer_pb2.TRANSFER_STATE_DECLINED
REVERSED = transfer_pb2.TRANSFER_STATE_REVERSED
CREATE = "TransferService.CreateTransfer"


def posted(mesh: Mesh, *accounts: str) -> list[int]:
    """The posted balances of accounts, in minor units."""
    return [mesh.balance(account).posted.minor_units for account in accounts]


def test_a_payment_moves_its_amount_once(mesh: Mesh) -> None:
    """From one customer's account to another's, through the edge and all services; asked again, nothing moves again."""
    debit, credit = mesh.account(funds=100_00), mesh.account()
    request = mesh.transfer(debit, credit, 30_00)
    made = mesh.call(CREATE, request).transfer
    assert made.state == COMPLETED
    again = mesh.call(CREATE, request).transfer
    assert again.name == made.name
    assert posted(mesh, debit, credit) == [70_00, 30_00]


def test_a_customer_pays_from_an_own_account_and_from_no_other(mesh: Mesh) -> None:
    """A customer's token debits what is theirs; a foreign account does not exist for it, and nothing moves."""
    me, other = mesh.customer(), mesh.customer()
    mine, theirs = mesh.account(me, funds=10_00), mesh.account(other, funds=10_00)
    paid = mesh.call(CREATE, mesh.transfer(mine, theirs, 3_00), "customer", customer=me).transfer
    assert paid.state == COMPLETED
    theft = mesh.transfer(theirs, mine, 3_00)
    refusal = refused(lambda: mesh.call(CREATE, theft, "customer", customer=me))
    assert refusal.is_for("NOT_FOUND", "ACCOUNT_NOT_FOUND")
    assert posted(mesh, mine, theirs) == [7_00, 13_00]
    seen_by_other = pb.GetTransferRequest(name=paid.name)
    unseen = refused(lambda: mesh.call("TransferService.GetTransfer", seen_by_other, "customer", customer=other))
    assert unseen.is_for("NOT_FOUND", "TRANSFER_NOT_FOUND")


def test_a_payment_without_funds_is_declined_for_good(mesh: Mesh) -> None:
    """The refusal has the figures and stays the answer to its request_id, also once there are funds."""
    debit, credit = mesh.account(funds=5_00), mesh.account()
    request = mesh.transfer(debit, credit, 5_01)
    for _ in range(2):
        refusal = refused(lambda: mesh.call(CREATE, request))
        assert refusal.is_for("FAILED_PRECONDITION", "INSUFFICIENT_FUNDS")
        figures = errors_pb2.InsufficientFunds()
        assert [detail for detail in refusal.details if detail.Unpack(figures)]
        assert (figures.available.minor_units, figures.requested.minor_units) == (5_00, 5_01)
        mesh.fund(debit, 1_00)
    assert posted(mesh, debit, credit) == [7_00, 0]
    filter_text = f'request_id = "{request.request_id}"'
    found = mesh.call("TransferService.ListTransfers", pb.ListTransfersRequest(filter=filter_text)).transfers
    assert [transfer.state for transfer in found] == [DECLINED]
    assert found[0].refusal.reason == errors_pb2.REASON_INSUFFICIENT_FUNDS


def test_a_thousand_payments_have_a_thousand_results(mesh: Mesh) -> None:
    """One batch, a status an item, in order; what is wrong with some of them does not touch the others."""
    debit, credit, poor = mesh.account(funds=1_000_00), mesh.account(), mesh.account()
    requests = [mesh.transfer(debit, credit, 1) for _ in range(1000)]
    requests[10] = mesh.transfer(debit, "accounts/nobody-has-this", 1)
    requests[20] = mesh.transfer(poor, credit, 1)
    requests[30] = mesh.transfer(debit, credit, 1, currency="QQQ")
    requests[40].ClearField("request_id")
    requests[50] = mesh.transfer(debit, credit, 1, currency="USD")
    requests[60].CopyFrom(requests[59])
    requests[70].request_id = requests[69].request_id
    requests[70].amount.minor_units = 2
    expected = {
        10: "ACCOUNT_NOT_FOUND",
        20: "INSUFFICIENT_FUNDS",
        30: "CURRENCY_UNKNOWN",
        40: "REQUEST_INVALID",
        50: "CURRENCY_MISMATCH",
        70: "REQUEST_ID_REUSED",
    }
    names = set()
    for _ in range(2):  # the second time everything is a replay
        batch = pb.BatchCreateTransfersRequest(requests=requests)
        results = mesh.call("TransferService.BatchCreateTransfers", batch).results
        reasons = {}
        for index, result in enumerate(results):
            info = error_info(result.status) if result.HasField("status") else None
            if info is not None:
                reasons[index] = info.reason
        assert reasons == expected
        states = Counter(result.transfer.state for result in results if result.HasField("transfer"))
        assert states == {COMPLETED: 994, DECLINED: 3}
        assert results[59].transfer.name == results[60].transfer.name
        names |= {result.transfer.name for result in results if result.HasField("transfer")}
    assert len(names) == 996
    assert posted(mesh, debit, credit, poor) == [1_000_00 - 993, 993, 0]


def test_transfers_are_listed_by_filter_and_page_by_page(mesh: Mesh) -> None:
    """The newest first, each once over all pages; a token goes with its filter alone."""
    debit, credit = mesh.account(funds=100_00), mesh.account()
    made = [mesh.call(CREATE, mesh.transfer(debit, credit, cents)).transfer.name for cents in range(1, 8)]
    list_transfers = "TransferService.ListTransfers"
    filter_text = f"debit_account = {debit} AND state = COMPLETED AND amount.minor_units > 2"
    found: list[str] = []
    request = pb.ListTransfersRequest(filter=filter_text, page_size=2)
    while True:
        page = mesh.call(list_transfers, request)
        found += [transfer.name for transfer in page.transfers]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == made[:1:-1]
    elsewhere = pb.ListTransfersRequest(filter="state = DECLINED", page_token=request.page_token)
    assert refused(lambda: mesh.call(list_transfers, elsewhere)).is_for("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    for wrong in (
        "state = FINISHED",
        "colour = red",
        "state = COMPLETED OR state = DECLINED",
        "amount.minor_units = x",
    ):
        request = pb.ListTransfersRequest(filter=wrong)
        refusal = refused(lambda request=request: mesh.call(list_transfers, request))
        assert refusal.is_for("INVALID_ARGUMENT", "FILTER_INVALID"), wrong


def test_a_preview_says_what_would_happen_and_nothing_does(mesh: Mesh) -> None:
    """validate_only: legs, balances and events of a payment that could be made, the refusal of one that could not."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    request = mesh.transfer(debit, credit, 4_00, validate_only=True)
    preview = mesh.call(CREATE, request).preview
    assert preview.state == COMPLETED
    assert [(leg.account, leg.amount.minor_units) for leg in preview.legs] == [(debit, -4_00), (credit, 4_00)]
    assert [leg.balance_after.minor_units for leg in preview.legs] == [6_00, 4_00]
    assert "florin.transactions.transfer_completed.v1" in preview.events
    unmade = mesh.call(CREATE, request).transfer
    assert (unmade.name, unmade.version, unmade.state) == ("", 0, COMPLETED)
    too_much = mesh.call(CREATE, mesh.transfer(debit, credit, 10_01, validate_only=True)).preview
    info = error_info(too_much.refusal)
    assert info is not None
    assert (too_much.state, info.reason, list(too_much.legs)) == (DECLINED, "INSUFFICIENT_FUNDS", [])
    assert posted(mesh, debit, credit) == [10_00, 0]
    listed = pb.ListTransfersRequest(filter=f"debit_account = {debit}")
    assert list(mesh.call("TransferService.ListTransfers", listed).transfers) == []
    # The key was not used up: the payment can be made under it.
    request.validate_only = False
    assert mesh.call(CREATE, request).transfer.state == COMPLETED


def test_a_payment_is_reversed_once_by_staff(mesh: Mesh) -> None:
    """The money comes back by a transfer of its own; both name each other, and a second reversal is refused."""
    me = mesh.customer()
    debit, credit = mesh.account(me, funds=10_00), mesh.account()
    made = mesh.call(CREATE, mesh.transfer(debit, credit, 4_00), "customer", customer=me).transfer
    reverse = "TransferService.ReverseTransfer"
    request = pb.ReverseTransferRequest(name=made.name, reason="paid twice", request_id=secrets.token_hex(8))
    own = refused(lambda: mesh.call(reverse, request, "customer", customer=me))
    assert own.is_for("PERMISSION_DENIED", "STAFF_ONLY")
    reversal = mesh.call(reverse, request).reversal
    assert mesh.call(reverse, request).reversal.name == reversal.name
    assert (reversal.state, reversal.reversal_of) == (COMPLETED, made.name)
    shown = mesh.call("TransferService.GetTransfer", pb.GetTransferRequest(name=made.name)).transfer
    assert (shown.state, shown.reversed_by) == (REVERSED, reversal.name)
    assert posted(mesh, debit, credit) == [10_00, 0]
    again = pb.ReverseTransferRequest(name=made.name, reason="once more", request_id=secrets.token_hex(8))
    refusal = refused(lambda: mesh.call(reverse, again))
    assert refusal.is_for("FAILED_PRECONDITION", "TRANSFER_REVERSED")
    assert reversal.name in refusal.metadata.values()
    of_reversal = pb.ReverseTransferRequest(name=made.name, reason="other", request_id=request.request_id)
    assert refused(lambda: mesh.call(reverse, of_reversal)).reason == "REQUEST_ID_REUSED"


def test_a_final_payment_cannot_be_cancelled_and_is_awaited_at_once(mesh: Mesh) -> None:
    """TRANSFER_FINAL for what is done; WaitTransfer answers a final one without waiting."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    made = mesh.call(CREATE, mesh.transfer(debit, credit, 4_00)).transfer
    waited = mesh.call("TransferService.WaitTransfer", pb.WaitTransferRequest(name=made.name)).transfer
    assert waited == made
    cancel = pb.CancelTransferRequest(name=made.name)
    refusal = refused(lambda: mesh.call("TransferService.CancelTransfer", cancel))
    assert refusal.is_for("FAILED_PRECONDITION", "TRANSFER_FINAL")


@pytest.mark.parametrize("currency", ["JPY", "KWD", "EUR"])
def test_an_amount_is_whole_minor_units_whatever_the_currencys_decimals(mesh: Mesh, currency: str) -> None:
    """1 is the smallest amount of yen, of a thousandth dinar and of a cent alike."""
    debit, credit = mesh.account(currency=currency, funds=3), mesh.account(currency=currency)
    mesh.call(CREATE, mesh.transfer(debit, credit, 1, currency=currency))
    assert posted(mesh, debit, credit) == [2, 1]
