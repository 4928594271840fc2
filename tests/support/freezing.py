"""The checker of a mesh: what it says of itself, and a freeze that a test asks for in its name."""

from __future__ import annotations

import urllib.request

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from florin.accounts.v1 import ledger_service_pb2
from florin.accounts.v1.ledger_service_pb2_grpc import LedgerServiceStub
from tests.support.mesh import Mesh
from tests.support.parts import wait_until

NOBODYS_CURRENCY = "XTS"
"""ISO 4217's code for tests: no account is kept in it, so a freeze of it stops nobody."""
_WHOLE_SECONDS = 60.0


def freeze(mesh: Mesh, tenant: str) -> str:
    """Freezes a ledger in a currency that nobody has, as the checker would; gives the freeze's name."""
    certificate, key = mesh.state.certificate("checker")
    credentials = grpc.ssl_channel_credentials(mesh.state.ca.read_bytes(), key.read_bytes(), certificate.read_bytes())
    found = Timestamp()
    found.GetCurrentTime()
    finding = ledger_service_pb2.FreezeLedgerRequest.Finding(
        invariant="INV-2", object="accounts/none", sentence="made up by a test", found_time=found
    )
    request = ledger_service_pb2.FreezeLedgerRequest(tenant=tenant, currency_code=NOBODYS_CURRENCY, findings=[finding])
    address = f"localhost:{mesh.description['services']['accounts']['grpc']}"
    with grpc.secure_channel(address, credentials) as channel:
        return str(LedgerServiceStub(channel).FreezeLedger(request, timeout=10).ledger_freeze)


def metrics(mesh: Mesh) -> dict[str, float]:
    """What the checker tells: each metric with its labels."""
    address = f"http://127.0.0.1:{mesh.description['ports']['checker']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def found_nothing(mesh: Mesh, since: float) -> None:
    """Fails unless the checker went through everything since a moment of time.time() and found nothing, then or before.

    What it finds across services it looks at twice, so `since` is best some time ago.
    """

    def whole() -> bool:
        ends = [value for name, value in metrics(mesh).items() if name.startswith("florin_checker_sweep_last_end")]
        return len(ends) > 10 and min(ends) > since

    wait_until(whole, _WHOLE_SECONDS)
    told = metrics(mesh)
    violations = {name: value for name, value in told.items() if name.startswith("florin_invariant_violations")}
    log = (mesh.state.logs / "checker.log").read_text(errors="replace")
    said = [line for line in log.splitlines() if '"level": "error"' in line]
    assert (set(violations.values()), said) == ({0.0}, []), violations
