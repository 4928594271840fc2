"""A tenant for each client, with the accounts that the clients' READMEs speak of, behind a proxy that loses answers."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients.stage import ROOT
from florin.accounts.v1 import account_pb2, account_service_pb2
from florin.transactions.v1 import transfer_service_pb2
from tests.support import lossy
from tests.support.lossy import Lossy
from tests.support.mesh import Mesh
from tests.support.parts import wait_until

FUNDS = 100_00


@dataclass(frozen=True, slots=True)
class Bank:
    """What a client is tried with."""

    mesh: Mesh
    tenant: str
    proxy: Lossy

    def environment(self, *, lossy: bool) -> dict[str, str]:
        """Where the edge is and who calls it, for a program of any language."""
        port = self.proxy.port if lossy else self.mesh.port
        return {
            **{name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}},
            "CGO_ENABLED": "0",  # there may be no C compiler
            "EDGE": f"localhost:{port}",
            "CONTROL": f"127.0.0.1:{self.proxy.control}",
            "CA": str(self.mesh.state.ca),
            "TOKEN": self.mesh.token("teller", tenant=self.tenant),
        }

    def run(self, *command: str | Path, cwd: Path, lossy: bool = False, more: Mapping[str, str] | None = None) -> str:
        """Runs a program to its end; gives what it said. Fails when it does not end well."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={**self.environment(lossy=lossy), **(more or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done.stdout

    def transfers(self, account: str = "") -> int:
        """How many transfers are completed, of all accounts or one."""
        term = f' AND debit_account = "{account}"' if account else ""
        request = transfer_service_pb2.ListTransfersRequest(filter=f"state = COMPLETED{term}", page_size=1000)
        return len(self.mesh.call("TransferService.ListTransfers", request, tenant=self.tenant).transfers)


@pytest.fixture
def bank(mesh: Mesh) -> Iterator[Bank]:
    """A bank of its own for a test, with 100.00 EUR on each account but Ada's savings."""
    tenant = mesh.tenant()
    customer = mesh.customer(tenant=tenant)
    for name in ("ada", "ada-savings", "lost", "watched"):
        new = account_service_pb2.CreateAccountRequest(
            account_id=name,
            customers=[customer],
            type=account_pb2.ACCOUNT_TYPE_CUSTOMER,
            currency_code="EUR",
            request_id=secrets.token_hex(8),
        )
        mesh.call("AccountService.CreateAccount", new, tenant=tenant)
        wanted = account_service_pb2.GetAccountRequest(name=f"accounts/{name}")
        wait_until(
            lambda wanted=wanted: (
                mesh.call("AccountService.GetAccount", wanted, tenant=tenant).account.state
                == account_pb2.ACCOUNT_STATE_ACTIVE
            ),
            20,
        )
        if name != "ada-savings":
            mesh.fund(f"accounts/{name}", FUNDS, tenant=tenant)
    counting = Bank(mesh, tenant, Lossy(0, int))
    with lossy.running(mesh.port, counting.transfers) as proxy:
        yield Bank(mesh, tenant, proxy)


def quickstart(language: str, fence: str) -> str:
    """The one program in a client's README."""
    found = re.findall(
        rf"^```{fence}\n(.*?)^```$", (ROOT / "clients" / language / "README.md").read_text(), re.M | re.S
    )
    assert len(found) == 1
    return str(found[0])


def judge_quickstart(said: str) -> None:
    """What the quickstart of every language prints."""
    lines = said.splitlines()
    told = [line for line in lines if re.match(r"(paid|available|listed|now)", line)]
    assert re.fullmatch(r"paid 12\.50 EUR by transfers/\S+", told[0])
    assert told[1] == "available: 87.50 EUR"
    assert [line.split()[0] for line in told[2:-1]] == ["listed", "listed"]  # the declined one is listed as well
    assert told[0].split()[-1] in [line.split()[-1] for line in told[2:-1]]
    assert told[-1] == "now 12.50 EUR"


def judge_losses(bank: Bank, lost: int) -> None:
    """So many answers were lost, of as many payments, each made once."""
    assert bank.proxy.cuts == lost
    assert bank.transfers("accounts/lost") == lost
    assert bank.mesh.balance("accounts/lost", tenant=bank.tenant).posted.minor_units == FUNDS - lost * 10_00
