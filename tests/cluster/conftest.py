"""The charts' rendering, an API server alone, and a cluster with Florin on it under payments; each once a session."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.state import State
from tests.cluster.images import Images
from tests.cluster.kubectl import Kubectl
from tests.cluster.mesh import RELEASE, VALUES, VERSION, Mesh
from tests.cluster.node import images, node
from tests.cluster.payments import Payments
from tests.support import apiserver
from tests.support.apiserver import ApiServer
from tests.support.charts import NAMESPACE, Charts, helm


@pytest.fixture(scope="session")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Charts:
    """The charts in a folder of their own."""
    made = Charts(helm(), tmp_path_factory.mktemp("charts"))
    made.build()
    return made


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with the namespace of the tests, where only restricted pods are taken."""
    with apiserver.running(apiserver.binary(), tmp_path_factory.mktemp("apiserver")) as started:
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
        started.call("POST", "/api/v1/namespaces", namespace)
        yield started


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, and the registry that it has Florin's images from."""

    kubectl: Kubectl
    images: Images
    registry: str
    """As the charts are told; empty where Docker Hub's names lead to it."""
    is_here: bool
    """Whether its processes are this machine's."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """That of KUBECONFIG, whose images are called as IMAGES says; a node of this machine where there is none."""
    kubernetes = apiserver.binary()
    given = os.environ.get("KUBECONFIG")
    if given:
        prefix = os.environ["FLORIN_IMAGES"]
        registry, _, last = prefix.rpartition("/")
        assert registry and last == "florin", f"IMAGES is {prefix}: name a registry of yours: registry.example/florin"
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder, "kubectl")
            program.symlink_to(kubernetes)
            theirs = Images(registry, os.environ, os.environ.get("IMAGE_ARGS", ""))
            yield Cluster(Kubectl(program, Path(given).resolve()), theirs, registry, is_here=False)
        return
    cache = Path(os.environ["FLORIN_NODE_CACHE"])
    begun = time.monotonic()
    sources = images.Sources(kubernetes.parent, Path(os.environ["FLORIN_PRODUCTION_TOOLS"]), cache)
    with node.running(sources) as started:
        tell("the node is ready", begun)
        yield Cluster(started.kubectl, started.builder.florin(), "", is_here=True)
        started.builder.tidy()


@pytest.fixture(scope="session")
def mesh(cluster: Cluster, charts: Charts) -> Iterator[Mesh]:
    """Florin, installed in a namespace where only restricted pods run, which goes away at the end."""
    kubectl = Kubectl(cluster.kubectl.program, cluster.kubectl.kubeconfig, RELEASE)
    # It is deleted at the end, with all that is in it.
    assert not kubectl("get", "namespace", RELEASE, "--ignore-not-found"), f"There is a namespace {RELEASE} already."
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": RELEASE, "labels": labels}}])
    folder = Path(tempfile.mkdtemp(prefix="florin-secrets-"))
    made = Mesh(kubectl, charts, State(folder))
    try:
        begun = time.monotonic()
        cluster.images.publish(VERSION)
        tell("the images are built and pushed", begun)
        begun = time.monotonic()
        made.secrets()
        registry = ("--set", f"global.image.registry={cluster.registry}") if cluster.registry else ()
        made.helm("install", RELEASE, "florin", "--wait", "--timeout", "10m", *VALUES, *registry)
        tell("helm install", begun)
        yield made
    except AssertionError:
        print(made.picture())
        raise
    finally:
        kubectl("delete", "namespace", RELEASE, f"--wait={str(not cluster.is_here).lower()}")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def payments(mesh: Mesh) -> Iterator[Payments]:
    """Payments from the first test to the last one."""
    with Payments(mesh.state, mesh.edge()) as running:
        yield running
    print(f"\nin all: {running.everything}")


def tell(what: str, begun: float) -> None:
    """How long something took, for whoever reads along."""
    print(f"\n{what}: {time.monotonic() - begun:.0f} s", flush=True)
