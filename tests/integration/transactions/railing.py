"""A replica with a rail in a folder of the test's own, and the bank at its other end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from florin.common.v1 import money_pb2
from florin.transactions.v1 import rail_service_pb2 as pb
from local import counterparty
from local.counterparty import Credit
from meshkit.identity import Principal
from tests.integration.transactions.conftest import Replica, call_of
from tests.unit.transactions.making import TELLER
from transactions import deposit_store, rail_messages, rail_store, withdrawal_store
from transactions.model import AccountType
from transactions.rail_deposits import Deposits
from transactions.rail_model import WITHDRAWAL_METHOD, Deposit, RailException, Withdrawal
from transactions.rail_operations import Rails
from transactions.rail_worker import RailWorker
from transactions.rails.folder import FolderRail

INSIDE, OUTSIDE = "AT611904300234573201", "DE89370400440532013000"
MOMENT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


@dataclass
class RailOf:
    """The rail's parts of one replica, wired as app.py does."""

    replica: Replica
    root: Path

    def __post_init__(self) -> None:
        settings = self.replica.settings.model_copy(
            update={"rail_folder": self.root, "rail_bic": "FLORATWWXXX", "rail_settle_seconds": 0.05}
        )
        orders = self.replica.transfers.orders
        deposits = Deposits(self.replica.db, orders, self.replica.ledger, settings)
        self.adapter = FolderRail(self.root, settings.rail_bic, "UTC", settings.rail_settle_seconds)
        self.worker = RailWorker(self.replica.db, orders, deposits, self.adapter, settings)
        self.rails = Rails(self.replica.db, orders, self.replica.ledger, settings)

    @property
    def folder(self) -> Path:
        """The folder of the tests' tenant."""
        return self.root / "demo"

    def names(self, name: str) -> list[str]:
        """What lies in one of its folders."""
        return sorted(path.name for path in (self.folder / name).iterdir()) if (self.folder / name).exists() else []

    async def withdraw(self, amount: int = 1000, who: Principal = TELLER, **changes: Any) -> Withdrawal:
        """CreateWithdrawal from accounts/a."""
        values: dict[str, Any] = {
            "debit_account": "accounts/a",
            "amount": money_pb2.Money(currency_code="EUR", minor_units=amount),
            "creditor_name": "Brauerei Nord",
            "creditor_iban": OUTSIDE,
            "end_to_end_id": "E2E-1",
            "remittance": "Invoice 7",
            "request_id": uuid.uuid4().hex,
            **changes,
        }
        call = call_of(who, values["request_id"], WITHDRAWAL_METHOD)
        return await self.rails.create_withdrawal(
            call, *rail_messages.wanted(pb.CreateWithdrawalRequest(**values), call)
        )

    async def turns(self, until: Callable[[], Any], seconds: float = 10.0) -> Any:
        """Turns of the worker until something is so; gives it."""
        deadline = time.monotonic() + seconds
        while True:
            await self.worker.work_once()
            found = await until()
            if found:
                return found
            assert time.monotonic() < deadline
            await self.replica.query("UPDATE deposits SET due_time = now() WHERE due_time IS NOT NULL RETURNING 1")
            await asyncio.sleep(0.01)

    async def turn(self) -> None:
        """One turn of the worker."""
        await self.worker.work_once()

    def answered(self) -> int:
        """Has the other bank answer what was put out."""
        return counterparty.answers(self.folder)

    def credit(self, reference: str = "R-1", amount: str = "12.50", **changes: str) -> Path:
        """Has the other bank send money, in a file of the message N-{reference} unless it is named; gives the file."""
        message = changes.pop("message", f"N-{reference}")
        name = changes.pop("name", f"{message}.xml")
        given = Credit(
            **{"iban": INSIDE, "currency": "EUR", "debtor_name": "Otto Example", **_PAYER, **changes, "amount": amount}
        )
        data = counterparty.notification(given, message_id=message, reference=reference, moment=MOMENT)
        return self.put(name, data)

    def put(self, name: str, data: bytes) -> Path:
        """Puts a file into the inbox."""
        (self.folder / "in").mkdir(parents=True, exist_ok=True)
        path = self.folder / "in" / name
        path.write_bytes(data)
        return path

    async def row(self, withdrawal: Withdrawal) -> Withdrawal:
        """A withdrawal as it is stored."""
        db = self.replica.db
        found = await db.run(
            withdrawal.tenant, lambda conn: withdrawal_store.get(conn, db.cipher, withdrawal.tenant, withdrawal.id)
        )
        assert found is not None
        return found

    async def deposits(self) -> list[Deposit]:
        """All deposits, the oldest first."""
        db = self.replica.db

        async def work(conn: Any) -> list[Deposit]:
            return await deposit_store.list_page(
                conn, db.cipher, tenant="demo", customer=None, state=None, after=None, limit=1000
            )

        return list(reversed(await db.run("demo", work)))

    async def exceptions(self) -> list[RailException]:
        """All exceptions, the oldest first."""

        async def work(conn: Any) -> list[RailException]:
            return await rail_store.list_exceptions(conn, tenant="demo", state=None, after=None, limit=1000)

        return list(reversed(await self.replica.db.run("demo", work)))

    async def told(self, aggregate: str) -> int:
        """How many events there are of a resource."""
        rows = await self.replica.query(f"SELECT count(*) FROM outbox WHERE aggregate = '{aggregate}'")
        return int(rows[0][0])

    def balance(self, account: str) -> int:
        """What is on an account."""
        return self.replica.ledger.balances[f"accounts/{account}"]

    def restarted(self) -> RailOf:
        """The process that comes after, on the same database and folder."""
        return replace(self)


_PAYER = {"debtor_iban": OUTSIDE, "remittance": "Salary", "end_to_end_id": "PAY-1"}


def prepared(replica: Replica, root: Path) -> RailOf:
    """The rail of a replica whose ledger has what it books through, and a customer with an IBAN."""
    replica.ledger.open("rail-eur", type_=AccountType.SETTLEMENT)
    replica.ledger.open("rail-suspense-eur", type_=AccountType.SUSPENSE)
    replica.ledger.open("eva", customers=("customers/eva",), iban=INSIDE)
    return RailOf(replica, root)


@contextmanager
def nothing_is_let_go() -> Iterator[None]:
    """A process that is killed releases nothing: its claim has to be over first."""

    async def nothing(*_: Any) -> None:
        return None

    with mock.patch.object(rail_store, "release_file", nothing):
        yield
