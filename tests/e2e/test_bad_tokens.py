"""Callers without the right to what they ask for, over every protocol and before the real services."""

from __future__ import annotations

import pytest

from florin.accounts.v1 import account_service_pb2
from local import issuer
from tests.support import protocols
from tests.support.mesh import Mesh
from tests.support.protocols import PROTOCOLS, refused
from tests.support.tokens import WRONG, claims

CREATE = "TransferService.CreateTransfer"


@pytest.fixture(scope="module")
def pair(mesh: Mesh) -> tuple[str, str]:
    """Two accounts, 10.00 EUR in the first."""
    return mesh.account(funds=10_00), mesh.account()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["absent", "rubbish", "tampered with", "of another key", "alg none", "expired"])
def test_a_payment_with_a_wrong_token_is_not_made(mesh: Mesh, pair: tuple[str, str], kind: str, protocol: str) -> None:
    """UNAUTHENTICATED with TOKEN_INVALID in one form, over REST 401 with how to do better; no money moves."""
    token = None if kind == "absent" else WRONG[kind](mesh.state)
    asked = mesh.transfer(*pair, 1_00)
    refusal = refused(lambda: protocols.call(mesh, protocol, CREATE, asked, token=token))
    assert refusal.is_for("UNAUTHENTICATED", "TOKEN_INVALID")
    assert refusal.message == "A valid token is needed."
    if protocol == "REST":
        assert refusal.headers["www-authenticate"].startswith("Bearer")
    assert mesh.balance(pair[0]).posted.minor_units == 10_00


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_good_token_for_something_else_opens_nothing(mesh: Mesh, pair: tuple[str, str], protocol: str) -> None:
    """Too few scopes, another audience, a customer where staff are asked for: each is PERMISSION_DENIED."""
    pay = mesh.transfer(*pair, 1)
    reads = issuer.sign(mesh.state, claims(scope="transfers:read accounts:read"))
    missing = refused(lambda: protocols.call(mesh, protocol, CREATE, pay, token=reads))
    assert missing.is_for("PERMISSION_DENIED", "SCOPE_MISSING")
    elsewhere = issuer.sign(mesh.state, claims(aud="another-bank", scope="transfers:write"))
    audience = refused(lambda: protocols.call(mesh, protocol, CREATE, pay, token=elsewhere))
    assert audience.is_for("PERMISSION_DENIED", "AUDIENCE_WRONG")
    bound = issuer.sign(mesh.state, claims(customer=mesh.customer(), scope="accounts:write"))
    close = account_service_pb2.CloseAccountRequest(name=pair[1])
    staff = refused(lambda: protocols.call(mesh, protocol, "AccountService.CloseAccount", close, token=bound))
    assert staff.is_for("PERMISSION_DENIED", "STAFF_ONLY")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_token_of_a_tenant_that_is_none_makes_nothing(mesh: Mesh, protocol: str) -> None:
    """TENANT_NOT_FOUND: a customer is recorded in tenants that exist."""
    token = mesh.token(tenant="nowhere")
    asked = account_service_pb2.CreateCustomerRequest(display_name="Ada Beispiel")
    refusal = refused(lambda: protocols.call(mesh, protocol, "AccountService.CreateCustomer", asked, token=token))
    assert refusal.is_for("FAILED_PRECONDITION", "TENANT_NOT_FOUND")


@pytest.mark.parametrize("tenant", ["", "Demo", "demo'--", "demo\0", "*", "demo,other", "a" * 32])
def test_a_tenant_that_cannot_be_one_is_a_wrong_token(mesh: Mesh, tenant: str) -> None:
    """What would be a list or a wildcard to row-level security never reaches it, even in a well-signed token."""
    token = issuer.sign(mesh.state, claims(tenant=tenant))
    asked = account_service_pb2.ListAccountsRequest()
    refusal = refused(lambda: protocols.call(mesh, "gRPC", "AccountService.ListAccounts", asked, token=token))
    assert refusal.is_for("UNAUTHENTICATED", "TOKEN_INVALID")
