"""What was previewed is made as it was shown, or not at all, through the edge and with the real ledger."""

from __future__ import annotations

import secrets
from typing import Any

from florin.accounts.v1 import account_service_pb2
from tests.support.mesh import Mesh
from tests.support.protocols import refused

CREATE = "TransferService.CreateTransfer"


def asked(debit: str, credit: str, **more: Any) -> dict[str, Any]:
    """A payment of 4.00 EUR as REST asks for it."""
    amount = {"currencyCode": "EUR", "minorUnits": "400"}
    return {"debitAccount": debit, "creditAccount": credit, "amount": amount, "requestId": secrets.token_hex(8), **more}


def test_a_payment_is_made_as_it_was_previewed_or_not_at_all(mesh: Mesh) -> None:
    """Credits of the payee and time change nothing; a credit, a hold and a freeze of the payer's account do."""
    me = mesh.customer()
    debit, credit = mesh.account(me, funds=20_00), mesh.account()
    token = mesh.token("customer", customer=me)

    def send(body: dict[str, Any]) -> Any:
        return mesh.http("POST", "/v1/transfers", body=body, token=token)

    def token_for(body: dict[str, Any]) -> dict[str, Any]:
        preview = send({**body, "validateOnly": True}).json["preview"]
        return {**body, "stateToken": preview["stateToken"]}

    first = token_for(asked(debit, credit))
    mesh.fund(credit, 1_00)
    made = send(first)
    assert (made.status, made.json["transfer"]["state"]) == (200, "TRANSFER_STATE_COMPLETED")
    assert send(first).json["transfer"] == made.json["transfer"]

    overtaken = token_for(asked(debit, credit))
    mesh.fund(debit, 1_00)
    problem = send(overtaken)
    assert (problem.status, problem.json["reason"]) == (409, "STATE_CHANGED")
    assert problem.json["metadata"]["changed"] == "BALANCE"
    assert problem.json["metadata"]["available_minor_units"] == str(17_00)

    held = token_for(asked(debit, credit))
    kept = mesh.transfer(debit, credit, 1_00, authorize_only=True)
    mesh.call(CREATE, kept, "customer", customer=me)
    assert send(held).json["metadata"]["changed"] == "AVAILABLE"

    frozen = token_for(asked(debit, credit))
    freeze = account_service_pb2.FreezeAccountRequest(name=credit, reason="looked into")
    mesh.call("AccountService.FreezeAccount", freeze)
    answer = send(frozen).json
    assert (answer["reason"], answer["metadata"]["changed"]) == ("STATE_CHANGED", "ACCOUNT_STATE")
    assert answer["metadata"]["cause"] == "ACCOUNT_FROZEN"
    assert mesh.balance(debit).posted.minor_units == 17_00


def test_a_token_is_of_no_use_to_anybody_else(mesh: Mesh) -> None:
    """Another caller, and another amount."""
    me = mesh.customer()
    debit, credit = mesh.account(me, funds=20_00), mesh.account()
    request = mesh.transfer(debit, credit, 4_00, validate_only=True)
    request.state_token = mesh.call(CREATE, request, "customer", customer=me).preview.state_token
    request.validate_only = False
    assert refused(lambda: mesh.call(CREATE, request)).is_for("INVALID_ARGUMENT", "STATE_TOKEN_INVALID")
    request.amount.minor_units += 1
    changed = refused(lambda: mesh.call(CREATE, request, "customer", customer=me))
    assert changed.is_for("INVALID_ARGUMENT", "STATE_TOKEN_INVALID")
    assert mesh.balance(debit).posted.minor_units == 20_00
