"""A broker of three nodes, configured and filled as docs/production.md says; one of them is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from florin.transactions.v1 import transfer_pb2
from local import binaries
from local.processes import Child, free_port, tail
from local.state import SERVICES
from tests.support import mesh as whole
from tests.support.mesh import Mesh
from tests.support.pages import ROOT, blocks
from tests.support.parts import start, wait_until

pytestmark = pytest.mark.timeout(300)

NODES = 3


def page(number: int, **variables: str) -> str:
    """Runs one of the page's Python blocks; gives what it printed. Raises AssertionError when it fails."""
    text = blocks("docs/production.md", "python", section="NATS")[number]
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def cluster(mesh: Mesh, folder: Path, ports: list[int]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The nodes, with the mesh's certificates and the page's authorization."""
    (folder / "authorization.conf").write_text(page(0))
    certificate, key = mesh.state.certificate("nats")
    tls = {"cert_file": str(certificate), "key_file": str(key), "ca_file": str(mesh.state.ca)}
    routes = [free_port() for _ in ports]
    nodes = []
    for number, port in enumerate(ports):
        settings = {
            "server_name": f"node-{number}",
            "listen": f"127.0.0.1:{port}",
            "max_payload": 1048576,
            "tls": {**tls, "verify_and_map": True},
            "jetstream": {"store_dir": str(folder / f"node-{number}"), "sync_interval": "always"},
            "cluster": {
                "name": "florin",
                "listen": f"127.0.0.1:{routes[number]}",
                "routes": [f"tls://127.0.0.1:{route}" for route in routes],
                "tls": {**tls, "verify": True},
            },
        }
        configuration = folder / f"node-{number}.conf"
        # JSON without its braces, so that the include stands at the top.
        configuration.write_text(json.dumps(settings, indent=2).strip()[1:-1] + '\ninclude "./authorization.conf"\n')
        program = [str(binaries.find().nats), "--config", str(configuration)]
        nodes.append(start(Child(f"node-{number}", program, folder / f"node-{number}.log", probe=never)))
    try:
        yield nodes
    finally:
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                node.terminate()
            node.wait(20)


async def never() -> bool:
    """Nobody asks."""
    return False


def test_events_go_on_when_one_of_three_nodes_is_lost(tmp_path: Path) -> None:
    """Services start without the broker, find it when it comes, and its other nodes when theirs is killed."""
    ports = [free_port() for _ in range(NODES)]
    told = {f"{service.upper()}_NATS_URL": f"tls://127.0.0.1:{ports[0]}" for service in SERVICES}
    with whole.running(environment=told) as mesh, cluster(mesh, tmp_path, ports) as nodes:
        certificate, key = mesh.state.certificate("operator")
        variables = {
            "NATS_URL": f"tls://127.0.0.1:{ports[0]}",
            "CA_FILE": str(mesh.state.ca),
            "OPERATOR_CERT_FILE": str(certificate),
            "OPERATOR_KEY_FILE": str(key),
        }

        def declared() -> bool:
            """The nodes elect a leader first, and refuse until they have one."""
            assert nodes[0].poll() is None, tail(tmp_path / "node-0.log", 20)
            try:
                page(1, **variables)
            except AssertionError:
                return False
            return True

        wait_until(declared, 60)
        debit, credit = mesh.account(funds=100_00), mesh.account()
        nodes[0].send_signal(signal.SIGKILL)
        nodes[0].wait(10)
        request = mesh.transfer(debit, credit, 30_00)
        made = mesh.stubs().transfers.CreateTransfer(request, metadata=mesh.metadata(), timeout=5).transfer
        assert made.state == transfer_pb2.TRANSFER_STATE_COMPLETED
        # An account becomes active by an event of compliance about a customer that it knows by one of accounts.
        assert mesh.account(funds=1_00)
