"""What the steps of the story share: who is who, what time it is, what the books must come to; it makes no step."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from florin.accounts.v1 import account_pb2, account_service_pb2
from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from local import sandbox
from local.client import Patience, Refused
from local.demo_bank import Bank, Party
from local.demo_report import Screen
from local.state import State
from meshkit import money

IMPORTER = Party("importer", "Importhaus Donau", "AT611904300234573201", "EUR", 500_000_00)
SUPPLIER = Party("supplier", "Papierfabrik Elbe", "DE89370400440532013000", "EUR")
TIME_ZONE = "Europe/Vienna"
_WAIT_SECONDS = 60.0


@dataclass(slots=True)
class Story:
    """A story on its way. Each step adds to the books what it moves, and to the problems what came out otherwise."""

    screen: Screen
    state: State
    bank: Bank
    documents: Path
    begins: datetime
    """Its first moment, in the bank's time."""
    books: Counter[str] = field(default_factory=Counter)
    """Account → what must stand on it, in minor units of its currency."""
    at_months_end: Counter[str] = field(default_factory=Counter)
    """The same at the end of the first month."""
    problems: list[str] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)
    """How many requests of each kind were made."""

    def expect(self, sentence: str, found: object, wanted: object) -> None:
        """Tells what came out, or what did not come out as it had to."""
        if found == wanted:
            self.screen.step(sentence)
        else:
            self.wrong(f"{sentence}? It is {found}, and must be {wanted}")

    def wrong(self, sentence: str) -> None:
        """Something is not as it has to be."""
        self.problems.append(sentence)
        self.screen.problem(sentence)

    def request_id(self, kind: str) -> str:
        """The next one of a kind: a call that is sent again has the same."""
        self.names[kind] += 1
        return f"{kind}-{self.names[kind]}"

    def moved(self, debit: str, credit: str, minor_units: int) -> None:
        """Notes in the books that money went from one account to another."""
        self.books[debit] -= minor_units
        self.books[credit] += minor_units

    @contextmanager
    def expect_refusal(self, sentence: str, reason: str) -> Iterator[None]:
        """Runs the block, which must be refused for a reason."""
        try:
            yield
        except Refused as refused:
            self.expect(f"{sentence}: {refused}", refused.reason, reason)
        else:
            self.wrong(f"{sentence}? It was not refused")

    def now(self) -> datetime:
        """The bank's time."""
        return sandbox.now(self.state)

    async def advance(self, *, by: timedelta | None = None, to: datetime | None = None) -> None:
        """Moves the bank's time, as `florin clock advance` does."""
        shown = await asyncio.to_thread(sandbox.advance, self.state, by=by, to=to)
        self.screen.step(f"the clock is moved: it is {shown.now:%A, %d %B %Y, %H:%M:%S} UTC in all replicas")

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Waits until something has happened that nobody has to be asked for. Raises TimeoutError."""
        patience = Patience(_WAIT_SECONDS)
        while not await condition():
            if not await patience.wait():
                raise TimeoutError(f"{what} after {_WAIT_SECONDS:.0f} s")

    async def open_account(
        self, id_: str, type_: account_pb2.AccountType.ValueType, currency: str, *customers: str
    ) -> str:
        """An account, of the bank's own where it has no customer. Gives its name."""
        request = account_service_pb2.CreateAccountRequest(
            account_id=id_, type=type_, currency_code=currency, customers=customers, request_id=f"account-{id_}"
        )
        session = self.bank.teller if customers else self.bank.operator
        name: str = (await session.call(session.accounts.CreateAccount, request)).account.name
        return name

    async def balance(self, account: str) -> account_pb2.Balance:
        """What stands on an account."""
        request = account_service_pb2.GetBalanceRequest(name=account)
        return (await self.bank.teller.call(self.bank.teller.accounts.GetBalance, request)).balance

    async def pay(self, debit: str, credit: str, amount: money_pb2.Money, **more: Any) -> transfer_pb2.Transfer:
        """A transfer that a teller makes. Raises Refused."""
        request = pb.CreateTransferRequest(
            debit_account=debit, credit_account=credit, amount=amount, request_id=self.request_id("pay"), **more
        )
        return (await self.bank.teller.call(self.bank.teller.transfers.CreateTransfer, request)).transfer

    async def transfer(self, name: str) -> transfer_pb2.Transfer:
        """A transfer as it is."""
        request = pb.GetTransferRequest(name=name)
        return (await self.bank.teller.call(self.bank.teller.transfers.GetTransfer, request)).transfer


def euros(minor_units: int) -> money_pb2.Money:
    """An amount in EUR."""
    return money_pb2.Money(currency_code="EUR", minor_units=minor_units)


def text(amount: money_pb2.Money) -> str:
    """An amount as people write it."""
    return f"{money.format_minor(amount.minor_units, amount.currency_code)} {amount.currency_code}"


def state_of(transfer: transfer_pb2.Transfer) -> str:
    """A transfer's state in a word."""
    return transfer_pb2.TransferState.Name(transfer.state).removeprefix("TRANSFER_STATE_")


def first_moment(now: datetime) -> datetime:
    """The story begins in the morning of the twelfth of the month after this one."""
    later = now.replace(day=28) + timedelta(days=4)
    return datetime(later.year, later.month, 12, 8, tzinfo=UTC)


def next_month(day: date) -> date:
    """The first day of the month after a day's."""
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)
