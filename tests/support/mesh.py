"""The whole mesh as its users have it: `florin up` in a process and a folder of its own, called through the edge."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.type import decimal_pb2

from florin.accounts.v1 import (
    account_pb2,
    account_service_pb2,
    account_service_pb2_grpc,
    overdraft_service_pb2,
)
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2, compliance_service_pb2_grpc
from florin.notifications.v1 import notification_service_pb2_grpc
from florin.transactions.v1 import (
    exchange_pb2,
    exchange_service_pb2,
    fee_pb2,
    fee_service_pb2,
    schedule_pb2,
    schedule_service_pb2,
    transfer_service_pb2,
    transfer_service_pb2_grpc,
)
from local import issuer, rest
from local.processes import tail
from local.state import SERVICES, State, open_state
from tests.support import protocols
from tests.support.edge import Answer
from tests.support.parts import wait_until

FLORIN = Path(sys.executable).with_name("florin")
START_SECONDS = 90.0


@dataclass(slots=True)
class Stubs:
    """The public services for one token."""

    accounts: account_service_pb2_grpc.AccountServiceStub
    transfers: transfer_service_pb2_grpc.TransferServiceStub
    compliance: compliance_service_pb2_grpc.ComplianceServiceStub
    notifications: notification_service_pb2_grpc.NotificationServiceStub


@dataclass(slots=True)
class Mesh:
    """A mesh that runs."""

    state: State
    supervisor: subprocess.Popen[bytes]
    channel: grpc.Channel

    @property
    def description(self) -> dict[str, Any]:
        """What runs where, as the supervisor tells it now: ports, process ids, restarts."""
        return self.state.read_description()

    @property
    def port(self) -> int:
        """The edge's port."""
        return int(self.description["port"])

    def token(self, role: str = "teller", **options: Any) -> str:
        """A good token of a role; options as `issuer.mint` takes them."""
        return issuer.mint(self.state, role, **options)

    def metadata(self, role: str = "teller", **options: Any) -> list[tuple[str, str]]:
        """The call metadata with a good token."""
        return [("authorization", f"Bearer {self.token(role, **options)}")]

    def stubs(self) -> Stubs:
        """Blocking stubs through the edge; give `metadata=` with each call."""
        return Stubs(
            account_service_pb2_grpc.AccountServiceStub(self.channel),
            transfer_service_pb2_grpc.TransferServiceStub(self.channel),
            compliance_service_pb2_grpc.ComplianceServiceStub(self.channel),
            notification_service_pb2_grpc.NotificationServiceStub(self.channel),
        )

    def call(self, name: str, request: Message, role: str = "teller", *, protocol: str = "gRPC", **options: Any) -> Any:
        """A call by its short name ("AccountService.GetAccount") with a good token of a role. Raises Refused."""
        return protocols.call(self, protocol, name, request, token=self.token(role, **options))

    def tenant(self) -> str:
        """A tenant of its own, for what holds for a whole tenant: limits, rules, lists."""
        name = f"t-{secrets.token_hex(6)}"
        rest.ensure_tenant(self.state, name)
        return name

    def http(
        self,
        method: str,
        path: str,
        *,
        body: bytes | str | Mapping[str, Any] | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One HTTP/1.1 call on a connection of its own; a mapping is sent as JSON."""
        context = ssl.create_default_context(cafile=str(self.state.ca))
        connection = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=15)
        sent = {**({"authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        if isinstance(body, Mapping):
            body = json.dumps(body)
            sent.setdefault("content-type", "application/json")
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                # Refused before it is all sent: the answer is there to be read all the same.
                connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            return Answer(
                response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def lines(self, path: str, *, token: str) -> Generator[bytes]:
        """The lines of an answer that does not end, as they come; closing it hangs up."""
        context = ssl.create_default_context(cafile=str(self.state.ca))
        connection = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=15)
        try:
            connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
            response = connection.getresponse()
            while line := response.readline():
                yield line
        finally:
            connection.close()

    def florin(self, *arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """The `florin` command on this mesh."""
        return florin(*arguments, "--state", str(self.state.root), seconds=seconds)

    def failures(self) -> list[str]:
        """What the services logged of calls that failed inside: the call and the last words of its traceback."""
        found = []
        for service in SERVICES:
            for line in (self.state.logs / f"{service}.log").read_text(errors="replace").splitlines():
                if '"event": "a call failed"' in line:
                    told = json.loads(line)
                    found.append(f"{told['call']}: {told.get('exception', '').strip()[-300:]}")
        return found

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        """Signals a process of the mesh by its name; gives its process id."""
        pid = int(self.description["processes"][name])
        os.kill(pid, how)
        return pid

    def wait_all_ready(self, seconds: float = 60.0) -> None:
        """Waits until `florin status` finds every process ready."""
        from local import live

        def ready() -> bool:
            return all(process["ready"] for process in live.status(self.state)["processes"].values())

        wait_until(ready, seconds)

    def customer(self, *, tenant: str = "demo", verified: bool = True) -> str:
        """A new customer, its identity verified unless told otherwise. Gives its name."""
        stubs, teller = self.stubs(), self.metadata(tenant=tenant)
        new = account_service_pb2.CreateCustomerRequest(
            customer_id=f"c-{secrets.token_hex(6)}", display_name="Ada Beispiel", request_id=secrets.token_hex(8)
        )
        name: str = stubs.accounts.CreateCustomer(new, metadata=teller, timeout=10).customer.name
        submission = compliance_service_pb2.SubmitKycRequest(
            customer=name, legal_name="Ada Beispiel", country_code="DE", request_id=secrets.token_hex(8)
        )
        if verified:
            # Compliance learns of a customer by an event.
            once_known(lambda: stubs.compliance.SubmitKyc(submission, metadata=teller, timeout=10))
            verification = compliance_service_pb2.VerifyCustomerRequest(
                name=f"kycProfiles/{name.removeprefix('customers/')}", request_id=secrets.token_hex(8)
            )
            officer = self.metadata("compliance", tenant=tenant)
            stubs.compliance.VerifyCustomer(verification, metadata=officer, timeout=10)
        return name

    def account(
        self,
        customer: str | None = None,
        *,
        currency: str = "EUR",
        funds: int = 0,
        tenant: str = "demo",
        iban: str = "",
    ) -> str:
        """A new active account with so many minor units in it, of a new customer if none is given. Gives its name."""
        stubs, teller = self.stubs(), self.metadata(tenant=tenant)
        new = account_service_pb2.CreateAccountRequest(
            account_id=f"a-{secrets.token_hex(6)}",
            customers=[customer or self.customer(tenant=tenant)],
            type=account_pb2.ACCOUNT_TYPE_CUSTOMER,
            currency_code=currency,
            identifiers=[account_pb2.AccountIdentifier(iban=iban)] if iban else [],
            request_id=secrets.token_hex(8),
        )
        name: str = stubs.accounts.CreateAccount(new, metadata=teller, timeout=10).account.name

        def active() -> bool:
            request = account_service_pb2.GetAccountRequest(name=name)
            state: int = stubs.accounts.GetAccount(request, metadata=teller, timeout=10).account.state
            return state == account_pb2.ACCOUNT_STATE_ACTIVE

        wait_until(active, 20)
        if funds:
            self.fund(name, funds, currency=currency, tenant=tenant)
        return name

    def fee_account(self, *, currency: str = "EUR", tenant: str = "demo") -> str:
        """A new account that fees can go to. Gives its name."""
        return self._banks_account(account_pb2.ACCOUNT_TYPE_FEE, currency, tenant)

    def position_account(self, *, currency: str = "EUR", tenant: str = "demo") -> str:
        """A new account through which a currency can be changed. Gives its name."""
        return self._banks_account(account_pb2.ACCOUNT_TYPE_INTERNAL, currency, tenant)

    def set_rate(self, rate: str = "1.1", *, pair: str = "EURUSD", tenant: str, **changes: Any) -> dict[str, str]:
        """A rate of now from one currency to another, and new position accounts in both; gives these by currency."""
        positions = {code: self.position_account(currency=code, tenant=tenant) for code in (pair[:3], pair[3:])}
        for code, account in positions.items():
            position = exchange_pb2.PositionAccount(currency_code=code, account=account)
            request = exchange_service_pb2.SetPositionAccountRequest(position_account=position)
            self.call("ExchangeService.SetPositionAccount", request, "operator", tenant=tenant)
        values = {"base_currency_code": pair[:3], "counter_currency_code": pair[3:], "source": "test", **changes}
        made = exchange_pb2.ExchangeRate(rate=decimal_pb2.Decimal(value=rate), **values)
        if not made.HasField("rate_time"):
            made.rate_time.GetCurrentTime()
        imported = exchange_service_pb2.ImportExchangeRatesRequest(exchange_rates=[made])
        self.call("ExchangeService.ImportExchangeRates", imported, "operator", tenant=tenant)
        return positions

    def _banks_account(self, type_: account_pb2.AccountType.ValueType, currency: str, tenant: str) -> str:
        new = account_service_pb2.CreateAccountRequest(
            account_id=f"bank-{secrets.token_hex(6)}",
            type=type_,
            currency_code=currency,
            request_id=secrets.token_hex(8),
        )
        operator = self.metadata("operator", tenant=tenant)
        name: str = self.stubs().accounts.CreateAccount(new, metadata=operator, timeout=10).account.name
        return name

    def set_fees(self, account: str, *, tenant: str, **changes: Any) -> fee_pb2.FeeSchedule:
        """What payments in EUR cost from now on, 1.00 EUR and 0.25 % unless told otherwise, as the operator sets it."""
        schedule = {
            "kind": fee_pb2.FEE_KIND_PAYMENT,
            "currency_code": "EUR",
            "fixed_amount": money_pb2.Money(currency_code="EUR", minor_units=100),
            "percent": decimal_pb2.Decimal(value="0.25"),
            "rounding": fee_pb2.FEE_ROUNDING_HALF_EVEN,
            "enabled": True,
            **changes,
        }
        request = fee_service_pb2.SetFeeScheduleRequest(
            fee_schedule=fee_pb2.FeeSchedule(fee_account=account, **schedule), request_id=secrets.token_hex(8)
        )
        made: fee_pb2.FeeSchedule = self.call(
            "FeeService.SetFeeSchedule", request, "operator", tenant=tenant
        ).fee_schedule
        return made

    def fund(self, account: str, minor_units: int, *, currency: str = "EUR", tenant: str = "demo") -> None:
        """Brings money into an account from the currency's settlement account, which is made at first use."""
        stubs, operator = self.stubs(), self.metadata("operator", tenant=tenant)
        settlement = f"settlement-{currency.lower()}"
        made = account_service_pb2.CreateAccountRequest(
            account_id=settlement,
            type=account_pb2.ACCOUNT_TYPE_SETTLEMENT,
            currency_code=currency,
            request_id=f"test-{settlement}",
        )
        stubs.accounts.CreateAccount(made, metadata=operator, timeout=10)
        funding = account_service_pb2.FundAccountRequest(
            account=account,
            settlement_account=f"accounts/{settlement}",
            amount=money_pb2.Money(currency_code=currency, minor_units=minor_units),
            request_id=secrets.token_hex(8),
        )
        stubs.accounts.FundAccount(funding, metadata=operator, timeout=10)

    def overdraft_change(self, account: str, *, tenant: str = "demo", limit: int = 500_00) -> str:
        """A limit that waits for another person than the teller, in a tenant whose threshold is below it."""
        threshold = overdraft_service_pb2.SetOverdraftThresholdRequest(
            threshold=money_pb2.Money(currency_code="EUR", minor_units=100_00)
        )
        self.call("OverdraftService.SetOverdraftThreshold", threshold, "compliance", tenant=tenant)
        wish = account_service_pb2.UpdateAccountRequest(
            account=account_pb2.Account(name=account, overdraft_limit_minor_units=limit),
            update_mask=FieldMask(paths=["overdraft_limit_minor_units"]),
        )
        name: str = self.call("AccountService.UpdateAccount", wish, tenant=tenant).overdraft_change.name
        return name

    def balance(self, account: str, *, tenant: str = "demo") -> account_pb2.Balance:
        """An account's balance as a teller sees it."""
        request = account_service_pb2.GetBalanceRequest(name=account)
        answer = self.stubs().accounts.GetBalance(request, metadata=self.metadata(tenant=tenant), timeout=10)
        return answer.balance

    def transfer(
        self, debit: str, credit: str, minor_units: int, *, currency: str = "EUR", request_id: str = "", **more: Any
    ) -> transfer_service_pb2.CreateTransferRequest:
        """A request for a transfer, with a request_id of its own unless one is given."""
        return transfer_service_pb2.CreateTransferRequest(
            debit_account=debit,
            credit_account=credit,
            amount=money_pb2.Money(currency_code=currency, minor_units=minor_units),
            request_id=request_id or secrets.token_hex(8),
            **more,
        )

    def schedule(
        self, debit: str, credit: str, minor_units: int, *, at: datetime | None = None, **more: Any
    ) -> schedule_service_pb2.CreateScheduleRequest:
        """A request for a schedule, tomorrow unless told otherwise, with a request_id of its own.

        In a time zone in which its day does not end soon: a run tries again while its day lasts.
        """
        at = at or datetime.now(UTC) + timedelta(days=1)
        time_zone = "UTC" if 1 <= at.hour < 23 else "Etc/GMT+6"
        at = at.astimezone(ZoneInfo(time_zone))
        return schedule_service_pb2.CreateScheduleRequest(
            schedule=schedule_pb2.Schedule(
                debit_account=debit,
                credit_account=credit,
                amount=money_pb2.Money(currency_code="EUR", minor_units=minor_units),
                start_date=at.date().isoformat(),
                local_time=at.time().isoformat("seconds"),
                time_zone=time_zone,
                **more,
            ),
            request_id=secrets.token_hex(8),
        )


def once_known(call: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Makes a call until what it names is known to the service, which learns of it by an event."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def florin(*arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """The `florin` command, run to its end."""
    return subprocess.run([FLORIN, *arguments], capture_output=True, text=True, timeout=seconds, check=False)


_IMPATIENT = {"CHECKER_BUSY_SHARE": "0.3"}
"""Tests wait until the checker has gone through everything."""


@contextmanager
def running(*options: str, environment: Mapping[str, str] | None = None) -> Iterator[Mesh]:
    """A mesh of its own on a free port, gone afterwards with its folder; options as `florin up` takes them."""
    folder = Path(tempfile.mkdtemp(prefix="florin-mesh-"))
    folder.chmod(0o755)
    state = open_state(folder / "state")
    log = folder / "supervisor.log"
    command = [FLORIN, "up", "--port", "0", "--state", str(state.root), *options]
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **_IMPATIENT, **(environment or {})},
        )
    try:

        def up() -> bool:
            if supervisor.poll() is not None:
                raise AssertionError(f"florin up ended:\n{tail(log, 30)}")
            return state.description.exists()

        wait_until(up, START_SECONDS)
        credentials = grpc.ssl_channel_credentials(state.ca.read_bytes())
        options_of_channel = [("grpc.max_receive_message_length", 16 * 1024 * 1024)]
        with grpc.secure_channel(
            f"localhost:{state.read_description()['port']}", credentials, options=options_of_channel
        ) as channel:
            yield Mesh(state, supervisor, channel)
    finally:
        supervisor.terminate()
        supervisor.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
