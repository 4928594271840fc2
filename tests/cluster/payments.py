"""Payments through the edge for as long as the tests run: what was acknowledged, and each call that failed."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc

from florin.accounts.v1 import account_pb2, account_service_pb2
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2
from florin.transactions.v1 import transfer_pb2, transfer_service_pb2
from local.client import Edge, Patience, Refused, Session, connect, refusal
from local.state import State

PAYERS = 4
ACCOUNTS = 8
FUNDS = 1_000_000_00
_PAUSE_SECONDS = 0.15
_CALL_SECONDS = 5.0
_AGAIN_SECONDS = 0.1
_PATIENCE_SECONDS = 180.0
_PAGE = 1000


@dataclass(slots=True)
class Seen:
    """What happened in a while."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    """request_id → transfer."""
    failed: list[str] = field(default_factory=list)
    """Calls that were refused or broken off, each with its reason; the same payment was then sent again."""
    late: int = 0
    """Calls without an answer within their deadline, sent again too: a machine that is too busy has some by itself."""
    longest_seconds: float = 0.0
    """From the first call of a payment to its answer."""

    @property
    def is_whole(self) -> bool:
        """Whether no call failed, and at most one of fifty was late: of a pod that is lost more would be."""
        return not self.failed and self.late * 50 <= len(self.acknowledged)

    def __str__(self) -> str:
        why = ", ".join(f"{count} {reason}" for reason, count in Counter(self.failed).most_common())
        return (
            f"{len(self.acknowledged)} payments acknowledged, the slowest after {self.longest_seconds:.1f} s;"
            f" {len(self.failed)} calls failed{f' ({why})' if why else ''}, {self.late} were late"
        )


class Payments:
    """Payers in a thread of their own; a context that ends them."""

    def __init__(self, state: State, target: str) -> None:
        self.everything = Seen()
        self._state = state
        self._target = target
        self._tenant = f"cluster-{secrets.token_hex(4)}"
        self._accounts: list[str] = []
        self._watched: list[Seen] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._paying = threading.Event()
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="payments")

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._paying.wait(0.2):
            self._raise()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Lets the payers finish what they have begun."""
        self._over.set()
        self._thread.join()

    @contextmanager
    def watched(self) -> Iterator[Seen]:
        """What happens while the block runs; at its end payments are made still."""
        self._raise()
        seen = Seen()
        with self._lock:
            self._watched.append(seen)
        try:
            yield seen
            self.pass_by(1)
        finally:
            with self._lock:
                self._watched.remove(seen)

    def pass_by(self, seconds: float, *, at_least: int = 4) -> None:
        """Waits for a time, and until payments were acknowledged in it. Raises AssertionError when none are."""
        begun, before = time.monotonic(), len(self.everything.acknowledged)
        while time.monotonic() < begun + seconds or len(self.everything.acknowledged) < before + at_least:
            assert time.monotonic() < begun + seconds + _PATIENCE_SECONDS, "no payment is acknowledged any more"
            self._raise()
            time.sleep(0.05)

    def missing(self) -> list[str]:
        """Acknowledged payments that the mesh does not have as completed, once; and money that is not there."""
        return asyncio.run(self._missing())

    def _raise(self) -> None:
        if self._broken is not None:
            raise AssertionError(f"the payers cannot go on: {self._broken!r}") from self._broken

    def _work(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the tests' thread
            self._broken = error

    async def _run(self) -> None:
        async with connect(self._state, self._target) as edge:
            await self._open(edge)
            teller = edge.session("teller", tenant=self._tenant)
            await asyncio.gather(*(self._pay(teller, number) for number in range(PAYERS)))

    async def _pay(self, teller: Session, number: int) -> None:
        count = 0
        while not self._over.is_set():
            debit, credit = (self._accounts[(number + count + step) % ACCOUNTS] for step in (0, 3))
            request = transfer_service_pb2.CreateTransferRequest(
                debit_account=debit,
                credit_account=credit,
                amount=money_pb2.Money(currency_code="EUR", minor_units=1 + count % 100),
                request_id=f"pay-{number}-{count}",
            )
            await self._until_acknowledged(teller, request)
            self._paying.set()
            count += 1
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _until_acknowledged(self, teller: Session, request: transfer_service_pb2.CreateTransferRequest) -> None:
        """Sends one payment until it is answered; as callers do by default, it does not wait for a connection."""
        begun = time.monotonic()
        while True:
            try:
                made = await teller.transfers.CreateTransfer(request, timeout=_CALL_SECONDS, metadata=teller.metadata())
            except grpc.aio.AioRpcError as error:
                refused = refusal(error)
                late = refused.code == grpc.StatusCode.DEADLINE_EXCEEDED
                with self._lock:
                    for seen in (self.everything, *self._watched):
                        seen.late += late
                        seen.failed += [] if late else [refused.reason or f"{refused.code.name}, unexplained"]
                if time.monotonic() > begun + _PATIENCE_SECONDS:
                    raise refused from None
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                with self._lock:
                    for seen in (self.everything, *self._watched):
                        seen.acknowledged[request.request_id] = made.transfer.name
                        seen.longest_seconds = max(seen.longest_seconds, time.monotonic() - begun)
                return

    async def _open(self, edge: Edge) -> None:
        """A tenant with a verified customer, whose accounts have money."""
        patience = Patience(_PATIENCE_SECONDS)
        at_home = edge.session("operator")
        new = account_service_pb2.CreateTenantRequest(
            tenant_id=self._tenant, display_name="Cluster", time_zone="UTC", request_id=f"tenant-{self._tenant}"
        )
        await at_home.call(at_home.accounts.CreateTenant, new, patience=patience)
        teller, officer, operator = (
            edge.session(role, tenant=self._tenant) for role in ("teller", "compliance", "operator")
        )
        customer = account_service_pb2.CreateCustomerRequest(
            customer_id="ada", display_name="Ada Beispiel", request_id="customer"
        )
        await teller.call(teller.accounts.CreateCustomer, customer, patience=patience)
        submission = compliance_service_pb2.SubmitKycRequest(
            customer="customers/ada", legal_name="Ada Beispiel", country_code="AT", request_id="kyc"
        )
        await teller.call(teller.compliance.SubmitKyc, submission, patience=patience, until={"CUSTOMER_NOT_FOUND"})
        verification = compliance_service_pb2.VerifyCustomerRequest(name="kycProfiles/ada", request_id="verify")
        await officer.call(officer.compliance.VerifyCustomer, verification, patience=patience)
        names = [f"a-{number}" for number in range(ACCOUNTS)]
        for name in names:
            await _account(teller, name, account_pb2.ACCOUNT_TYPE_CUSTOMER, ["customers/ada"])
        await _account(operator, "settlement", account_pb2.ACCOUNT_TYPE_SETTLEMENT, [])
        for name in names:
            await _fund(operator, name, patience)
        self._accounts = [f"accounts/{name}" for name in names]

    async def _missing(self) -> list[str]:
        async with connect(self._state, self._target) as edge:
            teller = edge.session("teller", tenant=self._tenant)
            patience = Patience(_PATIENCE_SECONDS)
            while True:
                found = await _transfers(teller)
                faults = self._faults(found)
                if not faults or not await patience.wait():
                    break
            listed = account_service_pb2.ListAccountsRequest(page_size=_PAGE)
            page = await teller.call(teller.accounts.ListAccounts, listed)
            of_customers = [a for a in page.accounts if a.type == account_pb2.ACCOUNT_TYPE_CUSTOMER]
            total = sum(account.balance.posted.minor_units for account in of_customers)
            if total != FUNDS * ACCOUNTS:
                faults.append(f"the accounts have {total} minor units, not {FUNDS * ACCOUNTS}")
            return faults

    def _faults(self, found: list[transfer_pb2.Transfer]) -> list[str]:
        completed = {one.name for one in found if one.state == transfer_pb2.TRANSFER_STATE_COMPLETED}
        known = self.everything.acknowledged
        faults = [f"{id_}: {name} is not completed" for id_, name in known.items() if name not in completed]
        if len(set(known.values())) != len(known):
            faults.append("two payments have one transfer")
        if len(found) != len(known):
            faults.append(f"{len(found)} transfers for {len(known)} payments")
        return faults


async def _account(session: Session, name: str, kind: account_pb2.AccountType.ValueType, customers: list[str]) -> None:
    request = account_service_pb2.CreateAccountRequest(
        account_id=name, customers=customers, type=kind, currency_code="EUR", request_id=f"open-{name}"
    )
    await session.call(session.accounts.CreateAccount, request, patience=Patience(_PATIENCE_SECONDS))


async def _fund(operator: Session, name: str, patience: Patience) -> None:
    """An account becomes active by an event; a refusal belongs to its request_id, so each attempt has another."""
    attempt = 0
    while True:
        attempt += 1
        request = account_service_pb2.FundAccountRequest(
            account=f"accounts/{name}",
            settlement_account="accounts/settlement",
            amount=money_pb2.Money(currency_code="EUR", minor_units=FUNDS),
            request_id=f"fund-{name}-{attempt}",
        )
        try:
            await operator.call(operator.accounts.FundAccount, request, patience=patience)
        except Refused as refused:
            if refused.reason != "ACCOUNT_PENDING" or not await patience.wait():
                raise
        else:
            return


async def _transfers(teller: Session) -> list[transfer_pb2.Transfer]:
    found: list[transfer_pb2.Transfer] = []
    token = ""
    while True:
        asked = transfer_service_pb2.ListTransfersRequest(page_size=_PAGE, page_token=token)
        page = await teller.call(teller.transfers.ListTransfers, asked, patience=Patience(_PATIENCE_SECONDS))
        found += page.transfers
        token = page.next_page_token
        if not token:
            return found
