"""The payment that a deployment is checked by, made through a real mesh."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from local import deploy_payment, issuer
from local.state import MeshError
from tests.support.mesh import Mesh


async def test_a_deployment_is_checked_by_a_payment_from_nothing(mesh: Mesh) -> None:
    """In a tenant that it makes itself, with tokens of the development issuer; and again in the same one."""
    tenant = f"check-{secrets.token_hex(4)}"
    for _ in range(2):
        who = deploy_payment.tokens(mesh.state.root, None, tenant)
        lines = await deploy_payment.pay(f"localhost:{mesh.port}", mesh.state.ca.read_bytes(), who)
        assert f"completed in the tenant {tenant}" in lines[0]
        assert [line.split(" has ")[1] for line in lines[1:]] == ["75.00 EUR", "25.00 EUR"]


async def test_given_tokens_do_as_well(mesh: Mesh, tmp_path: Path) -> None:
    """Of an issuer whose key nobody has: the tenant is the one that they name."""
    tenant = f"given-{secrets.token_hex(4)}"
    for role in ("teller", "compliance", "operator"):
        (tmp_path / role).write_text(issuer.mint(mesh.state, role, tenant=tenant) + "\n")
    who = deploy_payment.tokens(None, tmp_path, "unused")
    ca = mesh.state.ca.read_bytes()
    lines = await deploy_payment.pay(f"localhost:{mesh.port}", ca, who, server_name="edge")
    assert f"completed in the tenant {tenant}" in lines[0]


async def test_a_refusal_is_told_and_ends_the_check(mesh: Mesh, tmp_path: Path) -> None:
    """A token without the scopes is an answer, not something to wait for."""
    for role in ("teller", "compliance", "operator"):
        (tmp_path / role).write_text(issuer.mint(mesh.state, "auditor", tenant="demo"))
    who = deploy_payment.tokens(None, tmp_path, "unused")
    with pytest.raises(MeshError, match=r"^The edge at .* refused: SCOPE_MISSING"):
        await deploy_payment.pay(f"localhost:{mesh.port}", mesh.state.ca.read_bytes(), who)
