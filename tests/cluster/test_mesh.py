"""Florin on a real cluster, under payments: what goes as planned fails no call, what breaks loses no payment."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from local.state import SERVICES
from tests.cluster.conftest import Cluster, tell
from tests.cluster.kubectl import Object, is_ready, restarts, until
from tests.cluster.mesh import RELEASE, VERSION, Mesh
from tests.cluster.payments import Payments, Seen

pytestmark = pytest.mark.timeout(1500)
NEXT = f"{VERSION}-next"
CALLED = ("accounts", "transactions", "compliance", "edge")
"""What a payment passes."""
GREEDY = """
import os, time
for _ in range(40):
    if os.fork() == 0:
        taken = bytearray(b"x") * (40 * 2**20)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
"""Many processes, each smaller than the service's own: that one is ended first, with which the container ends."""
CREATE = re.compile(r'^florin_calls_total\{[^}]*method="[^"]*CreateTransfer"[^}]*\} (\S+)', re.M)


@pytest.fixture(autouse=True)
def _picture(mesh: Mesh, request: pytest.FixtureRequest) -> Iterator[None]:
    """What the cluster looked like when a test failed."""
    before = request.session.testsfailed
    yield
    if request.session.testsfailed != before:
        print(mesh.picture())


@contextmanager
def happening(what: str, payments: Payments) -> Iterator[Seen]:
    """Something that happens while payments are made, and what callers saw of it."""
    begun = time.monotonic()
    with payments.watched() as seen:
        yield seen
    tell(f"{what}: {seen}", begun)


@contextmanager
def two_of_each(mesh: Mesh) -> Iterator[None]:
    """Two pods of all that a payment passes."""
    for name in CALLED:
        mesh.kubectl("scale", f"deployment/{name}", "--replicas=2")
    for name in CALLED:
        mesh.settled(name, 2)
    yield
    for name in CALLED:
        mesh.kubectl("scale", f"deployment/{name}", "--replicas=1")
    for name in CALLED:
        mesh.settled(name, 1)


def payments_of(mesh: Mesh, pod: Object) -> float:
    """How many payments a pod has taken, by its own count."""
    path = f"/api/v1/namespaces/{mesh.kubectl.namespace}/pods/{pod['metadata']['name']}:9001/proxy/metrics"
    return sum(float(count) for count in CREATE.findall(mesh.kubectl("get", f"--raw={path}")))


def kill(cluster: Cluster, mesh: Mesh, pod: Object) -> None:
    """kill -9 of a container's process; where the cluster's processes are out of reach, a deletion without any time."""
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    if not cluster.is_here:
        mesh.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
        return
    found = [path for path in Path("/proc").glob("[0-9]*/cgroup") if container in path.read_text()]
    assert found, f"no process of {container}"
    os.kill(min(int(path.parent.name) for path in found), signal.SIGKILL)


def test_a_payment_is_made_by_helm_test(mesh: Mesh) -> None:
    """As docs/deploy.md and the notes of the release say: authenticated, from nothing, through the edge."""
    begun = time.monotonic()
    said = mesh.helm("test", RELEASE, "--logs").stdout
    assert "completed in the tenant deploy-check" in said
    tell("helm test", begun)


def test_more_pods_and_fewer_fail_no_call(mesh: Mesh, payments: Payments) -> None:
    """1 → 3 → 1; each of the three takes payments within ten seconds of being ready."""
    with happening("transactions 1 → 3 → 1", payments) as seen:
        mesh.scale("transactions", 3)
        pods = mesh.kubectl.pods("transactions")

        def all_take_payments() -> bool:
            return all(payments_of(mesh, pod) > 0 for pod in pods)

        until("payments at each pod", all_take_payments, 15)
        mesh.scale("transactions", 1)
    assert seen.is_whole, seen


def test_a_pod_that_is_deleted_fails_no_call(mesh: Mesh, payments: Payments) -> None:
    """One of two goes in order: it is told so late enough, and says so early enough."""
    with two_of_each(mesh), happening("one pod of two deleted, of each service and the edge", payments) as seen:
        for name in CALLED:
            mesh.kubectl("delete", "pod", mesh.kubectl.pods(name)[0]["metadata"]["name"], "--wait=false")
            mesh.settled(name, 2)
    assert seen.is_whole, seen


def test_a_process_that_is_killed_loses_no_payment(cluster: Cluster, mesh: Mesh, payments: Payments) -> None:
    """Each service's only process, without warning: its container is started again in its pod, and payments go on."""
    with happening("kill -9 of each only process in turn", payments):
        for name in CALLED:
            pod = mesh.kubectl.pods(name)[0]
            kill(cluster, mesh, pod)
            if cluster.is_here:
                again = until(f"a new process of {name}", partial(_restarted, mesh, name, pod))
                assert again["metadata"]["name"] == pod["metadata"]["name"]
            mesh.settled(name, 1)
            payments.pass_by(0)


def _restarted(mesh: Mesh, name: str, before: Object) -> Object | None:
    pods = [pod for pod in mesh.kubectl.pods(name) if is_ready(pod) and restarts(pod) > restarts(before)]
    return pods[0] if pods else None


def test_a_service_gets_a_new_version_alone(cluster: Cluster, mesh: Mesh, payments: Payments) -> None:
    """A new image of one service; the others' pods are the same as before, and were not started again."""
    cluster.images.publish(NEXT, "transactions")
    before = mesh.started()
    with happening("a new version of transactions", payments) as seen:
        assert mesh.upgrade(f"transactions.image.tag={NEXT}")
        pods = mesh.settled("transactions", 1)
    assert seen.is_whole, seen
    assert pods[0]["spec"]["containers"][0]["image"].endswith(f"/transactions:{NEXT}")
    assert _without("transactions", mesh.started()) == _without("transactions", before)
    assert mesh.started() != before


def test_a_bad_version_goes_back_by_itself(mesh: Mesh, payments: Payments) -> None:
    """An image that cannot run as this service never takes a call; the release is the one before, without a person."""
    before = mesh.started()
    with happening("a version that does not start, and back", payments) as seen:
        assert not mesh.upgrade("transactions.image.repository=florin/accounts", seconds=30, check=False)
        mesh.settled("transactions", 1)
    assert seen.is_whole, seen
    assert mesh.started() == before
    history = json.loads(mesh.helm("history", RELEASE, "--output=json").stdout)
    assert [one["status"] for one in history[-2:]] == ["failed", "deployed"]


def test_a_canary_gets_its_share_and_is_taken_over_or_taken_back(mesh: Mesh, payments: Payments) -> None:
    """A tenth of the payments, by weight at the edge; by one command it goes, by another it is the version."""
    with happening("a canary that is taken back", payments) as seen:
        mesh.canary("start", "transactions", "--tag", VERSION)
        first, tried = _of_release(mesh, RELEASE), _of_release(mesh, "transactions-canary")
        assert len(tried) == 1
        counts = [payments_of(mesh, pod) for pod in (first[0], tried[0])]
        payments.pass_by(0, at_least=200)
        gained = [payments_of(mesh, pod) - before for pod, before in zip((first[0], tried[0]), counts, strict=True)]
        share = gained[1] / sum(gained)
        print(f"\nof {sum(gained):.0f} payments the canary got {share:.0%}")
        assert 0.03 < share < 0.2
        mesh.canary("back", "transactions")
        mesh.settled("transactions", 1)
    assert seen.is_whole, seen
    with happening("a canary that is taken over", payments) as seen:
        mesh.canary("start", "transactions", "--tag", VERSION, "--percent", "50")
        assert VERSION in mesh.canary("promote", "transactions")
        pods = mesh.settled("transactions", 1)
    assert seen.is_whole, seen
    assert pods[0]["spec"]["containers"][0]["image"].endswith(f"transactions:{VERSION}")


def test_a_pod_over_its_memory_is_started_again_alone(mesh: Mesh, payments: Payments) -> None:
    """The limit of a pod is its own: what takes too much is ended, and nothing beside it."""
    before, pod = mesh.started(), mesh.kubectl.pods("notifications")[0]
    with happening("a pod over its memory", payments) as seen:
        mesh.kubectl("exec", pod["metadata"]["name"], "--", "python", "-c", GREEDY, check=False)
        again = until("a new process of notifications", partial(_restarted, mesh, "notifications", pod))
    assert again["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert _without("notifications", mesh.started()) == _without("notifications", before)
    assert seen.is_whole, seen


def test_a_broker_that_starts_again_fails_no_call(mesh: Mesh, payments: Payments) -> None:
    """Payments need no broker to be acknowledged; their events wait for it."""
    with happening("NATS restarted", payments) as seen:
        mesh.kubectl("rollout", "restart", "statefulset/nats")
        mesh.kubectl("rollout", "status", "statefulset/nats", "--timeout=180s")
        mesh.settled("nats", 1)
    assert seen.is_whole, seen


def test_a_database_that_starts_again_loses_no_payment(mesh: Mesh, payments: Payments) -> None:
    """Nothing is acknowledged without it; all that asked gets its answer afterwards."""
    with happening("PostgreSQL restarted", payments):
        mesh.kubectl("rollout", "restart", "statefulset/postgres")
        mesh.kubectl("rollout", "status", "statefulset/postgres", "--timeout=180s")
        for name in (*SERVICES, "postgres"):
            mesh.settled(name, 1)


def test_no_acknowledged_payment_is_lost_and_the_invariants_hold(mesh: Mesh, payments: Payments) -> None:
    """At the end, and of all that went before."""
    payments.pass_by(1)
    payments.stop()
    assert payments.missing() == []
    begun = time.monotonic()
    said = mesh.verify()
    assert "INV-9" in said
    tell("florin verify", begun)


def _of_release(mesh: Mesh, release: str) -> list[Object]:
    return [
        pod
        for pod in mesh.kubectl.pods("transactions")
        if pod["metadata"]["labels"]["app.kubernetes.io/instance"] == release
    ]


def _without(name: str, started: dict[str, str]) -> dict[str, str]:
    return {pod: moment for pod, moment in started.items() if not pod.startswith(f"{name}-")}
