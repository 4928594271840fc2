"""A tenant's rail on a mesh, and the bank at its other end."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from florin.accounts.v1 import account_pb2, account_service_pb2
from florin.common.v1 import money_pb2
from florin.transactions.v1 import rail_pb2
from florin.transactions.v1 import rail_service_pb2 as pb
from local import counterparty
from local.counterparty import Credit
from meshkit import iban
from tests.support.mesh import Mesh
from tests.support.parts import wait_until

OUTSIDE = "DE89370400440532013000"


def folder(mesh: Mesh, tenant: str) -> Path:
    """Where the tenant's files are."""
    return mesh.state.rail / tenant


def open_accounts(mesh: Mesh, tenant: str) -> None:
    """Opens what the rail books through in EUR."""
    for name, type_ in (
        ("rail-eur", account_pb2.ACCOUNT_TYPE_SETTLEMENT),
        ("rail-suspense-eur", account_pb2.ACCOUNT_TYPE_SUSPENSE),
    ):
        request = account_service_pb2.CreateAccountRequest(
            account_id=name, type=type_, currency_code="EUR", request_id=secrets.token_hex(8)
        )
        mesh.call("AccountService.CreateAccount", request, "operator", tenant=tenant)


def new_iban() -> str:
    """An IBAN that nothing else has."""
    return iban.with_check_digits("AT", f"{secrets.randbelow(10**16):016}")


def withdrawal(account: str, minor_units: int = 1000) -> pb.CreateWithdrawalRequest:
    """A request that pays an account elsewhere."""
    return pb.CreateWithdrawalRequest(
        debit_account=account,
        amount=money_pb2.Money(currency_code="EUR", minor_units=minor_units),
        creditor_name="Grace Beispiel",
        creditor_iban=OUTSIDE,
        end_to_end_id="E2E-1",
        remittance="Invoice 7",
        request_id=secrets.token_hex(8),
    )


def deposited(mesh: Mesh, tenant: str, to: str, amount: str = "12.50") -> rail_pb2.Deposit:
    """Has the other bank pay an IBAN; gives the deposit when it is credited or suspended."""
    reference = counterparty.pay(folder(mesh, tenant), Credit(to, amount, "EUR", "Otto Beispiel", OUTSIDE, "Salary"))
    ends = (rail_pb2.DEPOSIT_STATE_CREDITED, rail_pb2.DEPOSIT_STATE_SUSPENDED)

    def look() -> rail_pb2.Deposit | None:
        found = mesh.call("RailService.ListDeposits", pb.ListDepositsRequest(), tenant=tenant).deposits
        return next((one for one in found if one.reference == reference and one.state in ends), None)

    return once(look)


def exception_of(mesh: Mesh, tenant: str, resource: str) -> rail_pb2.RailException:
    """The exception about a resource."""

    def look() -> rail_pb2.RailException | None:
        request = pb.ListRailExceptionsRequest()
        found = mesh.call("RailService.ListRailExceptions", request, tenant=tenant).rail_exceptions
        return next((one for one in found if one.resource == resource), None)

    return once(look)


def belongings(mesh: Mesh, account: str, number: str, *, tenant: str, **who: str) -> dict[str, str]:
    """A withdrawal from an account and a deposit on it, by its IBAN, and the exception of a deposit on none."""
    made = mesh.call("RailService.CreateWithdrawal", withdrawal(account, 1), tenant=tenant, **who).withdrawal
    suspended = deposited(mesh, tenant, new_iban())
    return {
        "withdrawals": made.name,
        "deposits": deposited(mesh, tenant, number).name,
        "railExceptions": exception_of(mesh, tenant, suspended.name).name,
    }


def once(look: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What is looked for, when it is there."""
    found: list[Any] = []

    def there() -> bool:
        found[:] = [one for one in [look()] if one]
        return bool(found)

    wait_until(there, seconds)
    return found[0]
