"""A backup taken while payments run is restored as docs/backup.md says, and every payment is made once all the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from florin.accounts.v1 import account_service_pb2
from florin.transactions.v1 import transfer_pb2, transfer_service_pb2
from local import client
from local.postgres import ADMIN
from local.processes import free_port
from local.state import SERVICES, State
from tests.production.conftest import Server
from tests.support import mesh as whole
from tests.support import programs
from tests.support.mesh import FLORIN, Mesh
from tests.support.pages import ROOT, blocks

pytestmark = pytest.mark.timeout(400)

PAYERS = 4
PAYMENTS_MAX = 2000
FUNDS = 1_000_000_00


@dataclass(slots=True)
class Payments:
    """Payments between a few accounts, each with a request_id of its own; they never lack funds."""

    accounts: list[str]
    requests: dict[str, transfer_service_pb2.CreateTransferRequest] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """request_id → the transfer that the mesh said it completed."""

    def new(self, mesh: Mesh, chance: random.Random) -> transfer_service_pb2.CreateTransferRequest:
        """One more payment."""
        debit, credit = chance.sample(self.accounts, 2)
        request = mesh.transfer(debit, credit, chance.randint(1, 100_00))
        self.requests[request.request_id] = request
        return request

    def expected(self) -> dict[str, int]:
        """What stands on each account when every payment was made once."""
        balances = dict.fromkeys(self.accounts, FUNDS)
        for request in self.requests.values():
            balances[request.debit_account] -= request.amount.minor_units
            balances[request.credit_account] += request.amount.minor_units
        return balances


@asynccontextmanager
async def paying(mesh: Mesh, payments: Payments) -> AsyncIterator[None]:
    """Payers pay while the block runs, bounded in count."""
    over = asyncio.Event()
    chance = random.Random(1)

    async def pay(session: client.Session) -> None:
        while not over.is_set() and len(payments.requests) < PAYMENTS_MAX:
            request = payments.new(mesh, chance)
            answer = await session.call(session.transfers.CreateTransfer, request)
            if answer.transfer.state == transfer_pb2.TRANSFER_STATE_COMPLETED:
                payments.names[request.request_id] = answer.transfer.name

    async with client.connect(mesh.state, f"localhost:{mesh.port}") as edge:
        tasks = [asyncio.create_task(pay(edge.session("teller"))) for _ in range(PAYERS)]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*tasks)


async def reached(payments: Payments, count: int) -> None:
    """Waits until so many payments were completed."""
    async with asyncio.timeout(60):
        while len(payments.names) < count:
            await asyncio.sleep(0.05)


async def shell(script: str, **variables: str) -> None:
    """Runs a block of the page. Raises AssertionError with what it printed when it fails."""
    environment = {**os.environ, **variables, "PATH": f"{FLORIN.parent}:{os.environ['PATH']}"}
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for backups and a restored state, that PostgreSQL's user can enter."""
    made = Path(tempfile.mkdtemp(prefix="florin-backup-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def check(state: State, payments: Payments, before: Mapping[str, str]) -> None:
    """On the restored mesh: what was completed before the backup is there; all payments, sent again, are made once."""
    port = int(state.read_description()["port"])
    async with client.connect(state, f"localhost:{port}") as edge:
        teller = edge.session("teller")
        for request_id, name in before.items():
            asked = transfer_service_pb2.GetTransferRequest(name=name)
            found = (await teller.call(teller.transfers.GetTransfer, asked)).transfer
            assert (found.state, found.request_id) == (transfer_pb2.TRANSFER_STATE_COMPLETED, request_id)
        for request_id, request in payments.requests.items():
            made = (await teller.call(teller.transfers.CreateTransfer, request)).transfer
            assert made.name == payments.names.get(request_id, made.name)
            waiting = transfer_service_pb2.WaitTransferRequest(name=made.name)
            made = (await teller.call(teller.transfers.WaitTransfer, waiting, seconds=30)).transfer
            assert made.state == transfer_pb2.TRANSFER_STATE_COMPLETED
        balances = {}
        for account in payments.accounts:
            balance = account_service_pb2.GetBalanceRequest(name=account)
            balances[account] = (await teller.call(teller.accounts.GetBalance, balance)).balance.posted.minor_units
        assert balances == payments.expected()
        customers = (
            await teller.call(teller.accounts.ListCustomers, account_service_pb2.ListCustomersRequest())
        ).customers
        assert {customer.display_name for customer in customers} == {"Ada Beispiel"}


def start_of_payments(mesh: Mesh) -> Payments:
    """Accounts with enough in them for all that is paid."""
    owner = mesh.customer()
    return Payments([mesh.account(owner, funds=FUNDS) for _ in range(4)])


async def test_a_base_backup_of_a_running_mesh_is_restored_into_a_new_folder(folder: Path) -> None:
    """Nothing that was completed before it is lost, what came after is made once when it is asked for again."""
    backup, restore = blocks("docs/backup.md", "sh", section="One instant for all four")
    new = State(folder / "new")
    with whole.running() as mesh:
        payments = start_of_payments(mesh)
        async with paying(mesh, payments):
            await reached(payments, 30)
            before = dict(payments.names)
            await shell(backup, STATE=str(mesh.state.root), BACKUP=str(folder / "backup"))
            await reached(payments, len(payments.names) + 30)
    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    try:
        await shell(restore, BACKUP=str(folder / "backup"), NEW=str(new.root), PORT=str(free_port()), SINCE=since)
        await check(new, payments, before)
        await shell('florin verify --state "$NEW"', NEW=str(new.root))
    finally:
        with contextlib.suppress(AssertionError):
            await shell('florin down --state "$NEW"', NEW=str(new.root))


async def test_dumps_of_a_running_mesh_are_restored_on_another_server(external_databases: Server, folder: Path) -> None:
    """Dumped one after the other while payments run, restored over there, with the same keys."""
    backup, restore = blocks("docs/backup.md", "sh", section="One dump a database")
    with whole.running() as mesh:
        payments = start_of_payments(mesh)
        async with paying(mesh, payments):
            await reached(payments, 30)
            before = dict(payments.names)
            await shell(backup, STATE=str(mesh.state.root), BACKUP=str(folder / "backup"))
            await reached(payments, len(payments.names) + 30)
    binaries = "BIN=\"$(python -c 'from local.binaries import find; print(find().postgres_bin)')\"\n"
    await shell(
        binaries + restore,
        BACKUP=str(folder / "backup"),
        PGHOST=str(external_databases.socket),
        PGPORT=str(external_databases.port),
        PGUSER=ADMIN,
        PGPASSWORD=(external_databases.secrets / "postgres-admin").read_text(),
    )
    keys = {
        f"{service.upper()}_ENCRYPTION_KEY_FILE": str(folder / "backup" / "secrets" / f"encryption-{service}")
        for service in SERVICES
    }
    keys["ACCOUNTS_SEALING_KEY_FILE"] = str(folder / "backup" / "secrets" / "sealing-accounts")
    told = {**external_databases.environment(), **keys}
    with whole.running(environment=told) as restored:
        since, until = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC)
        for service in SERVICES:
            replay = f"python -m {service} replay {since.isoformat()} {until.isoformat()}"
            await shell(replay, **restored_environment(restored, service, told))
        await check(restored.state, payments, before)
        await shell("florin verify", **told)


def restored_environment(mesh: Mesh, service: str, told: Mapping[str, str]) -> dict[str, str]:
    """What a service of the restored mesh is told."""
    return programs.environment(mesh, programs.replica(service), told)
