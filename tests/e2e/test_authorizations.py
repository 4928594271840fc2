"""Authorizations through the whole mesh: the held amount, its captures, its end, what limits and events say of it."""

from __future__ import annotations

import secrets

from google.protobuf.duration_pb2 import Duration

from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from tests.support.mesh import Mesh
from tests.support.parts import wait_until
from tests.support.protocols import refused

CREATE, CAPTURE = "TransferService.CreateTransfer", "TransferService.CaptureTransfer"
VOID, WAIT = "TransferService.VoidTransfer", "TransferService.WaitTransfer"


def authorize(mesh: Mesh, debit: str, credit: str, amount: int, **changes: object) -> transfer_pb2.Transfer:
    """An authorization, as a teller makes it."""
    request = mesh.transfer(debit, credit, amount)
    request.authorize_only = True
    for name, value in changes.items():
        getattr(request, name).CopyFrom(value)
    made: transfer_pb2.Transfer = mesh.call(CREATE, request).transfer
    return made


def euros(minor_units: int) -> money_pb2.Money:
    """An amount."""
    return money_pb2.Money(currency_code="EUR", minor_units=minor_units)


def balance(mesh: Mesh, account: str) -> tuple[int, int, int]:
    """Posted, held and available, in minor units."""
    found = mesh.balance(account)
    return found.posted.minor_units, found.held.minor_units, found.available.minor_units


def get(mesh: Mesh, name: str) -> transfer_pb2.Transfer:
    """A transfer as it is now."""
    found: transfer_pb2.Transfer = mesh.call("TransferService.GetTransfer", pb.GetTransferRequest(name=name)).transfer
    return found


def capture(mesh: Mesh, name: str, amount: int = 0, *, final: bool = False) -> transfer_pb2.Transfer:
    """A capture of a part, or of all that is left."""
    request = pb.CaptureTransferRequest(name=name, final=final, request_id=secrets.token_hex(8))
    if amount:
        request.amount.CopyFrom(euros(amount))
    made: transfer_pb2.Transfer = mesh.call(CAPTURE, request).capture
    return made


def test_an_amount_is_held_captured_in_parts_and_the_rest_given_back(mesh: Mesh) -> None:
    """Held it is neither available nor gone; a capture is a transfer of its own; the final one gives the rest back."""
    debit, credit = mesh.account(funds=100_00), mesh.account()
    made = authorize(mesh, debit, credit, 60_00)
    assert made.state == transfer_pb2.TRANSFER_STATE_AUTHORIZED
    assert balance(mesh, debit) == (100_00, 60_00, 40_00)
    first = capture(mesh, made.name, 25_00)
    assert (first.state, first.capture_of) == (transfer_pb2.TRANSFER_STATE_COMPLETED, made.name)
    assert balance(mesh, debit) == (75_00, 35_00, 40_00)
    second = capture(mesh, made.name, 5_00, final=True)
    assert second.final_capture
    assert balance(mesh, debit) == (70_00, 0, 70_00)
    assert balance(mesh, credit) == (30_00, 0, 30_00)
    ended = mesh.call(WAIT, pb.WaitTransferRequest(name=made.name)).transfer
    assert (ended.state, ended.captured_amount.minor_units) == (transfer_pb2.TRANSFER_STATE_CAPTURED, 30_00)
    late = refused(lambda: capture(mesh, made.name, 1))
    assert late.is_for("FAILED_PRECONDITION", "AUTHORIZATION_ENDED")
    back = pb.ReverseTransferRequest(name=first.name, reason="a mistake", request_id=secrets.token_hex(8))
    mesh.call("TransferService.ReverseTransfer", back)
    assert balance(mesh, credit) == (5_00, 0, 5_00)


def test_a_void_gives_all_of_it_back(mesh: Mesh) -> None:
    """And no capture moves anything afterwards; more than is held never moves either."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    made = authorize(mesh, debit, credit, 10_00)
    too_much = refused(lambda: capture(mesh, made.name, 10_01))
    assert too_much.is_for("FAILED_PRECONDITION", "CAPTURE_EXCEEDED")
    assert too_much.metadata["left_minor_units"] == "1000"
    request = pb.VoidTransferRequest(name=made.name, request_id=secrets.token_hex(8))
    assert mesh.call(VOID, request).transfer.state == transfer_pb2.TRANSFER_STATE_VOIDED
    assert mesh.call(VOID, request).transfer.state == transfer_pb2.TRANSFER_STATE_VOIDED
    assert balance(mesh, debit) == (10_00, 0, 10_00)
    assert refused(lambda: capture(mesh, made.name)).is_for("FAILED_PRECONDITION", "AUTHORIZATION_ENDED")


def test_an_authorization_whose_time_is_over_ends_by_itself(mesh: Mesh) -> None:
    """The hold and the transfer end, each in one state, without anybody asking."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    made = authorize(mesh, debit, credit, 10_00, valid_for=Duration(seconds=1))
    assert made.expire_time.ToDatetime() > made.create_time.ToDatetime()
    ended = mesh.call(WAIT, pb.WaitTransferRequest(name=made.name, timeout=Duration(seconds=1))).transfer
    assert ended.state == transfer_pb2.TRANSFER_STATE_AUTHORIZED  # it rests, so that nobody waits for its end
    wait_until(lambda: get(mesh, made.name).state == transfer_pb2.TRANSFER_STATE_EXPIRED)
    wait_until(lambda: balance(mesh, debit) == (10_00, 0, 10_00))
    assert refused(lambda: capture(mesh, made.name)).is_for("FAILED_PRECONDITION", "AUTHORIZATION_ENDED")


def test_what_is_no_authorization_is_neither_captured_nor_voided(mesh: Mesh) -> None:
    """Each wrong order has its reason; what says how long an authorization stands needs one."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    paid = mesh.call(CREATE, mesh.transfer(debit, credit, 1_00)).transfer
    assert refused(lambda: capture(mesh, paid.name)).is_for("FAILED_PRECONDITION", "TRANSFER_NOT_AUTHORIZED")
    voiding = pb.VoidTransferRequest(name=paid.name, request_id=secrets.token_hex(8))
    assert refused(lambda: mesh.call(VOID, voiding)).is_for("FAILED_PRECONDITION", "TRANSFER_NOT_AUTHORIZED")
    request = mesh.transfer(debit, credit, 1_00)
    request.valid_for.CopyFrom(Duration(seconds=60))
    assert refused(lambda: mesh.call(CREATE, request)).is_for("INVALID_ARGUMENT", "REQUEST_INVALID")
    unknown = refused(lambda: capture(mesh, "transfers/nothing"))
    assert unknown.is_for("NOT_FOUND", "TRANSFER_NOT_FOUND")


def test_a_preview_of_an_authorization_moves_and_holds_nothing(mesh: Mesh) -> None:
    """It would be AUTHORIZED; without funds it would be declined."""
    debit, credit = mesh.account(funds=10_00), mesh.account()
    request = mesh.transfer(debit, credit, 10_00)
    request.authorize_only = request.validate_only = True
    preview = mesh.call(CREATE, request).preview
    assert preview.state == transfer_pb2.TRANSFER_STATE_AUTHORIZED
    assert list(preview.events)[-1] == "florin.transactions.transfer_authorized.v1"
    request.amount.minor_units = 10_01
    assert mesh.call(CREATE, request).preview.state == transfer_pb2.TRANSFER_STATE_DECLINED
    assert balance(mesh, debit) == (10_00, 0, 10_00)
