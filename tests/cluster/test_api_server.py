"""A real API server takes every object of the charts as it is: known fields alone, restricted pods alone."""

from __future__ import annotations

import copy

import pytest

from tests.support.apiserver import ApiServer, Refused
from tests.support.charts import NAMESPACE, SINGLE, Charts, Manifest

OTHERS = ("cert-manager.io/", "monitoring.coreos.com/", "gateway.networking.k8s.io/", "postgresql.cnpg.io/")
"""Groups that operators bring; their own servers know them."""
VALUES = {
    "florin": ((), ("-f", "values-production.yaml"), ("--set", "nats.replicas=3,priorityClasses.create=true")),
    "service": (
        ("--set", "service=accounts,autoscaling.enabled=true,autoscaling.consumerLag.enabled=true", *SINGLE),
        ("--set", "service=notifications,migrations.hook=helm,serviceAccount.create=false", *SINGLE),
    ),
    "edge": (
        ("--set", "expose.type=LoadBalancer,expose.sourceRanges[0]=192.0.2.0/24", *SINGLE),
        ("--set", "expose.type=NodePort,expose.nodePort=30443,autoscaling.enabled=true", *SINGLE),
        ("--set", "tls.hosts[0]=pay.example,ingress.enabled=true,ingress.tlsSecret=public", *SINGLE),
    ),
}


def placed(manifest: Manifest) -> Manifest:
    """The object in the namespace that helm would put it into."""
    made = copy.deepcopy(manifest)
    made["metadata"].setdefault("namespace", NAMESPACE)
    return made


@pytest.mark.parametrize("chart", VALUES)
def test_every_object_is_taken(server: ApiServer, charts: Charts, chart: str) -> None:
    """A field that is misspelt, a name that is too long, a port that is none: the server would say so."""
    seen = 0
    for arguments in VALUES[chart]:
        for manifest in charts.render(chart, *arguments).every:
            if not manifest["apiVersion"].startswith(OTHERS):
                server.try_on(placed(manifest))
                seen += 1
    assert seen >= 12


def test_every_pod_passes_the_restricted_standard(server: ApiServer, charts: Charts) -> None:
    """A Deployment only makes the server warn of its pods, so each is tried by itself."""
    seen = 0
    for arguments in VALUES["florin"]:
        for label, pod in charts.render("florin", *arguments).pods():
            spec = copy.deepcopy(pod["spec"])
            name = label.lower().replace("/", "-")[:60].strip("-")
            # Volumes that a StatefulSet's controller would add.
            claimed = {"name": "data", "emptyDir": {}}
            if label.startswith("StatefulSet/"):
                spec["volumes"] = [*spec["volumes"], claimed]
            spec.pop("priorityClassName", None)
            server.try_on(
                {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
            )
            seen += 1
    assert seen > 30


def test_the_server_is_strict(server: ApiServer, charts: Charts) -> None:
    """These tests would see a mistake: a field that is not there, a pod that may be root."""
    deployment = placed(charts.render("florin").one("Deployment", "accounts"))
    deployment["spec"]["replicaz"] = 3
    with pytest.raises(Refused, match=r'unknown field "spec.replicaz"'):
        server.try_on(deployment)
    pod = placed(charts.render("florin").one("Pod", "payment-check"))
    pod["spec"]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(Refused, match="violates PodSecurity"):
        server.try_on(pod)
