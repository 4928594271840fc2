"""One payment through the edge of any deployment, from nothing; it proves the whole way and changes only its tenant."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc

from florin.accounts.v1 import account_pb2, account_service_pb2
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2
from florin.transactions.v1 import transfer_pb2, transfer_service_pb2
from local import issuer
from local.client import Patience, Refused, Session
from local.state import MeshError, State

_ROLES = ("teller", "compliance", "operator")
_FUNDS, _PAID = 100_00, 25_00
_PATIENCE_SECONDS = 90.0

Tokens = Mapping[str, Callable[[], str]]


def tokens(issuer_folder: Path | None, folder: Path | None, tenant: str) -> Tokens:
    """How to come by a token of each role: signed by a development issuer, or read from a folder. Raises MeshError."""
    if (issuer_folder is None) == (folder is None):
        raise MeshError("Give exactly one of --issuer-folder and --tokens.")
    if issuer_folder is not None:
        state = State(issuer_folder)
        return {role: lambda role=role: issuer.mint(state, role, tenant=tenant) for role in _ROLES}  # type: ignore[misc]
    given = {}
    for role in _ROLES:
        path = (folder or Path()) / role
        try:
            given[role] = path.read_text().strip()
        except OSError as error:
            raise MeshError(f"The token of {role} cannot be read: {path}: {error.strerror}.") from None
    return {role: lambda token=token: token for role, token in given.items()}  # type: ignore[misc]


async def pay(edge: str, ca: bytes, who: Tokens, *, server_name: str = "") -> list[str]:
    """Makes the payment; gives what was done, a line each. Raises MeshError with what went wrong."""
    options = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    async with grpc.aio.secure_channel(edge, grpc.ssl_channel_credentials(ca), options=options) as channel:
        try:
            return await _pay(who, {role: Session(channel, mint) for role, mint in who.items()})
        except Refused as refused:
            raise MeshError(f"The edge at {edge} refused: {refused}") from None


async def _pay(who: Tokens, staff: Mapping[str, Session]) -> list[str]:
    mark = secrets.token_hex(4)
    teller, officer, operator = (staff[role] for role in _ROLES)
    patience = Patience(_PATIENCE_SECONDS)
    tenant = _tenant(who["operator"]())
    made = account_service_pb2.CreateTenantRequest(tenant_id=tenant, display_name=tenant, time_zone="UTC")
    try:
        await operator.call(operator.accounts.CreateTenant, made, patience=patience)
    except Refused as refused:
        if refused.reason != "TENANT_EXISTS":
            raise
    customer = f"check-{mark}"
    await teller.call(
        teller.accounts.CreateCustomer,
        account_service_pb2.CreateCustomerRequest(
            customer_id=customer, display_name="Deployment check", request_id=f"customer-{mark}"
        ),
        patience=patience,
    )
    await teller.call(
        teller.compliance.SubmitKyc,
        compliance_service_pb2.SubmitKycRequest(
            customer=f"customers/{customer}",
            legal_name="Deployment Check",
            country_code="AT",
            request_id=f"kyc-{mark}",
        ),
        patience=patience,
        until={"CUSTOMER_NOT_FOUND"},
    )
    await officer.call(
        officer.compliance.VerifyCustomer,
        compliance_service_pb2.VerifyCustomerRequest(name=f"kycProfiles/{customer}", request_id=f"verify-{mark}"),
        patience=patience,
    )
    for name in (f"from-{mark}", f"to-{mark}"):
        await _open(teller, name, account_pb2.ACCOUNT_TYPE_CUSTOMER, [f"customers/{customer}"])
    await _open(operator, f"settlement-{mark}", account_pb2.ACCOUNT_TYPE_SETTLEMENT, [])
    fund = account_service_pb2.FundAccountRequest(
        account=f"accounts/from-{mark}",
        settlement_account=f"accounts/settlement-{mark}",
        amount=money_pb2.Money(currency_code="EUR", minor_units=_FUNDS),
    )
    # An account becomes active by an event; a refusal belongs to its request_id, so each attempt has another.
    await _until_active(operator, fund, mark, patience)
    request = transfer_service_pb2.CreateTransferRequest(
        debit_account=f"accounts/from-{mark}",
        credit_account=f"accounts/to-{mark}",
        amount=money_pb2.Money(currency_code="EUR", minor_units=_PAID),
        request_id=f"transfer-{mark}",
    )
    answer = await teller.call(teller.transfers.CreateTransfer, request, patience=patience)
    transfer = answer.transfer
    while transfer.state == transfer_pb2.TRANSFER_STATE_ACCEPTED and await patience.wait():
        asked = transfer_service_pb2.GetTransferRequest(name=transfer.name)
        transfer = (await teller.call(teller.transfers.GetTransfer, asked, patience=patience)).transfer
    if transfer.state != transfer_pb2.TRANSFER_STATE_COMPLETED:
        raise MeshError(f"{transfer.name} ended as {transfer_pb2.TransferState.Name(transfer.state)}.")
    lines = [f"{transfer.name} completed in the tenant {tenant}"]
    for name, expected in ((f"from-{mark}", _FUNDS - _PAID), (f"to-{mark}", _PAID)):
        asked_balance = account_service_pb2.GetBalanceRequest(name=f"accounts/{name}")
        found = (await teller.call(teller.accounts.GetBalance, asked_balance, patience=patience)).balance.available
        if found.minor_units != expected:
            raise MeshError(f"accounts/{name} has {found.minor_units} minor units, not {expected}.")
        lines.append(f"accounts/{name} has {expected / 100:.2f} EUR")
    return lines


async def _open(session: Session, name: str, kind: account_pb2.AccountType.ValueType, customers: list[str]) -> None:
    request = account_service_pb2.CreateAccountRequest(
        account_id=name, customers=customers, type=kind, currency_code="EUR", request_id=f"open-{name}"
    )
    await session.call(session.accounts.CreateAccount, request, patience=Patience(_PATIENCE_SECONDS))


async def _until_active(
    operator: Session, fund: account_service_pb2.FundAccountRequest, mark: str, patience: Patience
) -> None:
    attempt = 0
    while True:
        attempt += 1
        fund.request_id = f"fund-{mark}-{attempt}"
        try:
            await operator.call(operator.accounts.FundAccount, fund, patience=patience)
            return
        except Refused as refused:
            if refused.reason != "ACCOUNT_PENDING" or not await patience.wait():
                raise


def _tenant(token: str) -> str:
    """The tenant that a token names; the services verify it, this only reads it. Raises MeshError."""
    try:
        payload = token.split(".")[1]
        return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["tenant"])
    except (IndexError, ValueError, KeyError):
        raise MeshError("The operator's token is no JWT with a tenant.") from None
