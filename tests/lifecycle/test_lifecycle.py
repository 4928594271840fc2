"""A mesh from its first start to its end, whoever ends it: nothing is lost, and nothing is left running."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from florin.transactions.v1 import transfer_service_pb2
from local.state import find_state
from tests.support.commands import foreground, processes_of, state_folder, wait_nothing_left
from tests.support.mesh import Mesh, florin
from tests.support.parts import wait_until

SERVICES = ("accounts", "transactions", "compliance", "notifications")


@pytest.fixture
def root() -> Iterator[Path]:
    """Where a new mesh may stand."""
    with state_folder() as folder:
        yield folder


def attached(root: Path) -> Mesh:
    """A mesh that somebody else started."""
    state = find_state(root)
    credentials = grpc.ssl_channel_credentials(state.ca.read_bytes())
    channel = grpc.secure_channel(f"localhost:{state.read_description()['port']}", credentials)
    return Mesh(state, None, channel)  # type: ignore[arg-type]


def answers(mesh: Mesh, account: str) -> bool:
    """Whether the edge has found the accounts service again."""
    try:
        return mesh.balance(account).posted.minor_units == 1_00
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        return False


def succeeds(*arguments: str) -> str:
    """What a command prints that ends well."""
    done = florin(*arguments, seconds=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(240)
def test_a_detached_mesh_survives_the_loss_of_its_supervisor(root: Path) -> None:
    """Started with two replicas, killed with SIGKILL, started again: no process stayed, no payment is lost; then it is
    stopped, a stop of what does not run is no error, and a damaged folder is named instead of started."""
    state = ("--state", str(root))
    said = succeeds("up", "--detach", "--port", "0", "--scale", "transactions=2", *state)
    assert said.startswith("ready at https://localhost:")
    found = json.loads(succeeds("status", "--json", *state))["processes"]
    assert set(found) == {"nats", "postgres", "envoy", "checker", *SERVICES, "transactions-2"}
    assert all(process["ready"] for process in found.values())
    mesh = attached(root)
    debit, credit, token = mesh.account(funds=10_00), mesh.account(), mesh.token()
    paid = mesh.call("TransferService.CreateTransfer", mesh.transfer(debit, credit, 1_00)).transfer
    mesh.channel.close()

    os.kill(mesh.description["supervisor"], signal.SIGKILL)
    wait_nothing_left(root)
    gone = florin("status", *state)
    assert (gone.returncode, gone.stderr.strip()) == (1, f"No mesh runs in {root}; start one with `florin up`.")
    assert succeeds("down", *state) == f"no mesh runs in {root}\n"

    succeeds("up", "--detach", "--port", "0", *state)
    mesh = attached(root)
    request = transfer_service_pb2.GetTransferRequest(name=paid.name)
    metadata = [("authorization", f"Bearer {token}")]  # made before: the issuer's key is the same
    # Its outcome does not wait for the disk: where it was lost with the server it is derived again, in the same words.
    transfers = mesh.stubs().transfers
    wait_until(lambda: transfers.GetTransfer(request, metadata=metadata, timeout=10).transfer == paid, 30)
    assert mesh.balance(debit).posted.minor_units == 9_00
    assert mesh.customer()
    mesh.channel.close()
    succeeds("verify", *state)
    assert succeeds("down", *state) == "stopped\n"
    wait_nothing_left(root, 5)
    assert succeeds("down", *state) == f"no mesh runs in {root}\n"

    (root / "postgres" / "data" / "PG_VERSION").unlink()
    damaged = florin("up", "--detach", "--port", "0", *state, seconds=60)
    assert (damaged.returncode, damaged.stdout) == (1, "")
    assert f"{root}/postgres/data" in damaged.stderr
    assert len(damaged.stderr.strip().splitlines()) == 1, damaged.stderr
    wait_nothing_left(root, 5)


@pytest.mark.timeout(240)
def test_two_meshes_stand_side_by_side_and_end_apart(mesh: Mesh, root: Path) -> None:
    """The second has its own processes, data and issuer, brings a killed child back, and ends at Ctrl-C in order; the
    first does not notice."""
    with foreground(root) as second:
        state = second.wait_ready()
        description = state.read_description()
        assert set(description["processes"].values()).isdisjoint(mesh.description["processes"].values())
        other = attached(root)
        account = other.account(funds=1_00)
        assert other.http("GET", f"/v1/{account}", token=other.token()).status == 200
        assert other.http("GET", f"/v1/{account}", token=mesh.token()).status == 401
        assert mesh.http("GET", f"/v1/{account}", token=mesh.token()).status == 404

        os.kill(description["processes"]["accounts"], signal.SIGKILL)
        wait_until(lambda: state.read_description()["restarts"]["accounts"] == 1, 20)
        wait_until(lambda: answers(other, account), 30)
        other.channel.close()

        # As a terminal does it: to the whole process group, in which the children are not.
        os.killpg(second.process.pid, signal.SIGINT)
        assert second.process.wait(30) == 0
        assert second.text.rstrip().endswith("stopped")
        assert "Traceback" not in second.text
        wait_nothing_left(root, 5)
    assert json.loads(succeeds("status", "--json", "--state", str(mesh.state.root)))
    assert mesh.http("GET", "/healthz").status == 200


@pytest.mark.timeout(120)
def test_a_mesh_that_is_stopped_while_it_starts_leaves_nothing(root: Path) -> None:
    """SIGTERM between PostgreSQL's first breath and the edge's: it ends, and the folder can be used again."""
    with foreground(root) as begun:
        wait_until(lambda: any("postgres" in command for command in processes_of(root).values()), 30)
        begun.process.terminate()
        assert begun.process.wait(30) == 0
        assert "Traceback" not in begun.text
    wait_nothing_left(root, 5)
