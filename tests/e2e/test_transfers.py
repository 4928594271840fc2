"""A payment through the whole mesh, as its users make it."""

from __future__ import annotations

from florin.transactions.v1 import transfer_pb2
from tests.support.mesh import Mesh


def test_a_payment_moves_its_amount_once(mesh: Mesh) -> None:
    """From one customer's account to another's, through the edge and all services; asked again, nothing moves again."""
    debit, credit = mesh.account(funds=100_00), mesh.account()
    request = mesh.transfer(debit, credit, 30_00)
    transfers = mesh.stubs().transfers
    made = transfers.CreateTransfer(request, metadata=mesh.metadata(), timeout=5).transfer
    assert made.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    again = transfers.CreateTransfer(request, metadata=mesh.metadata(), timeout=5).transfer
    assert again.name == made.name
    assert mesh.balance(debit).posted.minor_units == 70_00
    assert mesh.balance(credit).posted.minor_units == 30_00
